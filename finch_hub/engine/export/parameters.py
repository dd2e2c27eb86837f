"""What can be asked of each export format; apart from the code that writes them, so that listing them stays light."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from finch_hub.specs.value import Value

Line = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class ExportParameters(Value):
    """What every format takes.

    Attributes:
        replace: replace an earlier export of the same kind at the same place.

    """

    replace: bool = False


class VLLMParameters(ExportParameters):
    """How to write an adapter for vLLM.

    Attributes:
        base_model: the name that the server serves the base under, which the adapter must name; None keeps what the
            adapter's configuration says.

    """

    base_model: Line | None = None


class GGUFParameters(ExportParameters):
    """How to write a GGUF adapter.

    Attributes:
        dtype: of its tensors.
        name: what llama.cpp shows; None takes the adapter's.

    """

    dtype: Literal["f32", "f16"] = "f32"
    name: Line | None = None


class OllamaParameters(GGUFParameters):
    """How to write a Modelfile and its GGUF adapter.

    Attributes:
        base_model: what Ollama builds from: a model's name there, or a path; None takes the base's folder.
        system: the system prompt that the adapter was trained with, if any.

    """

    base_model: Line | None = None
    system: str | None = None

    @pydantic.field_validator("system")
    @classmethod
    def _can_be_quoted(cls, value: str | None) -> str | None:
        if value is not None and '"""' in value:
            raise ValueError('holds """, which a Modelfile cannot quote')
        return value


class MergedParameters(ExportParameters):
    """How to write a merged model.

    Attributes:
        weight: how much of the adapter to add.
        base_model: the base's public name, for the model card.

    """

    weight: float = 1.0
    base_model: Line | None = None
