"""What plugins offer: a name, a summary, a parameter schema and a target that is imported only when it is run.

Listing and validating descriptors imports none of the targets, so a plugin that needs torch costs nothing until its
kernel is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from finch_hub import errors
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.references import check_name
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import Value

Name = Annotated[str, pydantic.AfterValidator(lambda name: check_name(name, kind="plugin"))]
Target = Annotated[
    str,
    pydantic.StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"),
    pydantic.Field(description="module:attribute"),
]


class NoParameters(Value):
    """The schema of what takes no parameters."""


class Descriptor(Value):
    """What every offer has: the name users type, and one sentence that says what it does."""

    name: Name
    summary: str = pydantic.Field(min_length=1)


class Runnable(Descriptor):
    """An offer with code behind it."""

    target: Target

    def load(self) -> Any:
        """Import the target and return it.

        Raises:
            PluginError: it cannot be imported, or its module has no such attribute.

        """
        return load_target(self.target, offered_by=f"{type(self).__name__} {self.name!r}")


class Configurable(Runnable):
    """An offer whose code takes parameters."""

    parameters: type[Value] = NoParameters

    def parse(self, parameters: object) -> Value:
        """Validate plain data against the schema.

        Raises:
            InvalidSpec: with one problem for each parameter that is wrong.

        """
        return self.parameters.of(parameters, subject=f"parameters of {self.name}")


class Preset(Descriptor):
    """Everything that one domain's adapters are trained and used with.

    Attributes:
        reasons: why each value is what it is, by its dotted name (``lora.rank``); `system` included.
        system: the system prompt that the examples are trained with and the adapter is used with.
        lora: the adapter's shape.
        training: how it is trained.
        generation: how its answers are sampled.

    """

    reasons: dict[str, str]
    system: str
    lora: LoRAConfig
    training: TrainingConfig
    generation: GenerationConfig = GenerationConfig()


class Strategy(Configurable):
    """A way to compose several adapters into one.

    The target is ``merge(core, weights, parameters, *, seed) -> {module: M}``, a pure function of a
    `finch_hub.engine.composition.core_space.CoreSpace`.

    Attributes:
        exact: the result is the weighted sum itself and is never truncated.
        needs_data: the target fits something to the parents' validation examples and takes an ``objective`` besides.
        overshoot: a sweep over the scale begins at ``T ** -overshoot`` for T parents: 0.5 for a plain sum, which goes
            too far in every parent's direction, the more so the more parents there are.
        normed: values of parameters that keep the result at the parents' own norm; a sweep then begins at 1.

    """

    overshoot: float = pydantic.Field(default=0.0, ge=0, le=1)
    normed: Mapping[str, object] = {}
    exact: bool = False
    needs_data: bool = False

    def first_scale(self, parameters: Value, *, parents: int) -> float:
        """Return the scale with which a sweep begins."""
        asked = parameters.model_dump()
        normed = bool(self.normed) and all(asked.get(name) == value for name, value in self.normed.items())
        return 1.0 if normed else round(parents**-self.overshoot, 4)

    @pydantic.field_validator("name")
    @classmethod
    def _not_auto(cls, name: str) -> str:
        if name == "auto":
            raise ValueError("'auto' means that the hub tries the strategies itself; choose another name")
        return name


class Resolver(Configurable):
    """A way to settle conflicts between adapters before they are composed.

    The target is ``resolve(core, parameters) -> core``, a pure function; it may raise `errors.Incompatible`.
    """


class DatasetFormat(Runnable):
    """A way to read rows of a data set; the target is ``convert(row) -> Example`` and raises `errors.InvalidSpec`.

    Attributes:
        recognizes: fields by which a row of this format is known; a row that has them all is taken to be of it.

    """

    recognizes: frozenset[str] = pydantic.Field(min_length=1)


class BaseSource(Runnable):
    """A place that base models come from.

    The target is ``fetch(source, *, cache, progress) -> Path``: a `BaseModelSource` in, a local folder of safetensors,
    config and tokenizer out.

    Attributes:
        matches: target of ``matches(source: str) -> bool``, asked without touching the network.

    """

    matches: Target

    def accepts(self, source: str) -> bool:
        """Tell whether this source knows how to fetch what the text names."""
        return bool(load_target(self.matches, offered_by=f"{type(self).__name__} {self.name!r}")(source))


class ExportFormat(Configurable):
    """A form in which other systems read adapters.

    The target is ``write(adapter_folder, base_folder, out, parameters) -> report``.

    Attributes:
        needs_base: the base's files are needed, not only the adapter's.

    """

    needs_base: bool = False


class Evaluator(Configurable):
    """A measure of an adapter's quality; the target is ``evaluate(model, examples, parameters) -> {metric: value}``."""


class Listener(Runnable):
    """Something to be told of every change of a job's state; the target is ``listen(job) -> None``."""


def load_target(target: str, *, offered_by: str) -> Any:
    """Import ``module:attribute`` and return the attribute.

    Raises:
        PluginError: naming whose target it is and why it cannot be had.

    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        what = f"{offered_by}: its target {target} cannot be loaded: {type(error).__name__}: {error}"
        raise errors.PluginError(what) from error
