"""Parameters of each export format, apart from the writers, so that listing is fast."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from finch_hub.specs.value import Value
from finch_hub.texts.visible_text import to_line


def _check_visible(text: str) -> str:
    if (shown := to_line(text)) != text:
        raise ValueError(f"has characters that cannot be seen: {shown}")
    return text


Line = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=500), pydantic.AfterValidator(_check_visible)]


class ExportParameters(Value):
    """Parameters of every format.

    Attributes:
        replace: replace an earlier export of the same kind at the same path.
    """

    replace: bool = False


class PEFTParameters(ExportParameters):
    """Parameters of a PEFT folder, also of one for vLLM.

    Attributes:
        base_model: the base's name in the config and on the server of vLLM; None keeps the name in the adapter's
            config. Jobs take the base's repository id, and name it in the card too.
    """

    base_model: Line | None = None


class GGUFParameters(ExportParameters):
    """Parameters of a GGUF adapter.

    Attributes:
        dtype: of its tensors.
        name: shown by llama.cpp; None takes the adapter's.
    """

    dtype: Literal["f32", "f16"] = "f32"
    name: Line | None = None


class OllamaParameters(GGUFParameters):
    """Parameters of a Modelfile and its GGUF adapter.

    Attributes:
        base_model: a model's name in Ollama or a path; None takes the base's folder.
        system: system prompt. Jobs take that of the adapter's training if it is None. An empty text is none.
    """

    base_model: Line | None = None
    system: str | None = None

    @pydantic.field_validator("system")
    @classmethod
    def _can_be_quoted(cls, value: str | None) -> str | None:
        if value is None:
            return None
        # Ollama reads no others. Written, they would steer the terminal of whoever looks at the file.
        lines = value.replace("\r\n", "\n").replace("\r", "\n")
        value = "".join(character for character in lines if character.isprintable() or character in "\n\t")
        if '"""' in value:
            raise ValueError('holds """, which a Modelfile cannot quote (give another system prompt)')
        return value


class MergedParameters(ExportParameters):
    """Parameters of a merged model.

    Attributes:
        weight: factor of the adapter's update.
        base_model: the base's public name, for the model card.
    """

    weight: float = 1.0
    base_model: Line | None = None
