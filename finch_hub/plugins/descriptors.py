"""Descriptors of the things that plugins offer.

A descriptor has a name, a summary, a parameter schema and a target. The target is the code, which is imported only when
it runs. So a plugin that needs torch costs nothing while its descriptors are listed and its parameters are checked.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic

from finch_hub import errors
from finch_hub.plugins import foreign_code
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.references import check_name
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import Value
from finch_hub.texts.visible_text import to_line

Name = Annotated[str, pydantic.AfterValidator(lambda name: check_name(name, kind="plugin"))]
Target = Annotated[
    str,
    pydantic.StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"),
    pydantic.Field(description="module:attribute"),
]


Summary = Annotated[
    str, pydantic.Field(min_length=1), pydantic.AfterValidator(lambda text: to_line(" ".join(text.split())))
]


class NoParameters(Value):
    """Schema of a target without parameters."""


class Descriptor(Value):
    """Base of all descriptors: the name that users type, and a sentence that says what the offer does."""

    kind: ClassVar[str] = "offer"

    name: Name
    summary: Summary
    _plugin: str = pydantic.PrivateAttr(default="")  # a third-party one, with its version

    @classmethod
    def of_plugin(cls, plugin: str, offer: object) -> Self:
        """Return the offer of a third-party plugin, with all its fields validated.

        Raises:
            InvalidSpec: it is no such descriptor, or was made without validation and has invalid fields.
        """
        if not isinstance(offer, cls):
            raise errors.InvalidSpec(f"it is {type(offer).__name__}, not {cls.__name__}")
        fields = pydantic.BaseModel.model_dump(offer, include={*cls.model_fields}, exclude_unset=True, warnings=False)
        made = cls.of(fields, subject=f"{cls.kind} {fields.get('name')!r}")
        made._plugin = plugin
        return made

    @property
    def plugin(self) -> str:
        """Third-party plugin that offers it, with its version; empty for built-in offers."""
        return self._plugin

    @property
    def label(self) -> str:
        """Kind, name and third-party plugin, as errors name it."""
        return f"{self.kind} {self.name}" + (f" of {self._plugin}" if self._plugin else "")


class Runnable(Descriptor):
    """Descriptor of an offer with code, which is the target."""

    is_quick: ClassVar[bool] = False
    """Whether the target is called for each row."""

    target: Target

    def load(self) -> Any:
        """Import the target and return it. What a third-party target raises becomes a `PluginError` that names it.

        Raises:
            PluginError: it cannot be imported, or its module has no such function.
        """
        return load_target(self.target, offered_by=self.label, is_quick=self.is_quick)


class Configurable(Runnable):
    """Descriptor of an offer whose code takes parameters."""

    parameters: type[Value] = NoParameters

    def parse(self, parameters: object) -> Value:
        """Validate plain data against the schema.

        Raises:
            InvalidSpec: parameters are invalid; it names all of them.
            PluginError: the schema of a third-party plugin failed.
        """
        with foreign_code.blame(f"the parameter schema of {self.label}"):
            return self.parameters.of(parameters, subject=f"parameters of {self.name}")


class Preset(Descriptor):
    """Settings with which the adapters of one domain are trained and used.

    Attributes:
        reasons: reason for each value, by its dotted name (``lora.rank``); includes `system`.
        system: system prompt for training and for use.
        lora: shape of the adapter.
        training: training settings.
        generation: sampling settings for answers.
    """

    kind: ClassVar[str] = "preset"

    reasons: dict[str, str]
    system: str
    lora: LoRAConfig
    training: TrainingConfig
    generation: GenerationConfig = GenerationConfig()


class Strategy(Configurable):
    """Way to compose several adapters into one.

    The target is ``merge(core, weights, parameters, *, seed) -> {module: M}``, a pure function of a
    `finch_hub.engine.composition.core_space.CoreSpace`.

    Attributes:
        exact: whether the result is the weighted sum itself, which is never truncated.
        needs_data: whether the target also takes ``parent_data``, the parents' validation examples
            (`finch_hub.engine.composition.parent_data.ParentData`).
        scale_exponent: a search begins at the scale ``T ** -scale_exponent`` for T parents. Use 0.5 for a plain sum,
            because a sum of more parents needs a smaller scale.
        norm_preserving: parameter values for which the result has the parents' own norm. With them a search begins at
            the scale 1.
    """

    kind: ClassVar[str] = "strategy"

    scale_exponent: float = pydantic.Field(default=0.0, ge=0, le=1)
    norm_preserving: Mapping[str, object] = {}
    exact: bool = False
    needs_data: bool = False

    def initial_scale(self, parameters: Value, *, parents: int) -> float:
        """Return the scale at which a search begins, for a number of parents."""
        values = parameters.model_dump()
        preserves_norm = all(values.get(name) == value for name, value in self.norm_preserving.items())
        return 1.0 if self.norm_preserving and preserves_norm else round(parents**-self.scale_exponent, 4)

    @pydantic.field_validator("name")
    @classmethod
    def _refuse_auto(cls, name: str) -> str:
        if name == "auto":
            raise ValueError("'auto' means that the hub tries several strategies (choose another name)")
        return name


class Resolver(Configurable):
    """Way to settle conflicts between adapters before they are composed.

    The target is ``resolve(core, parameters) -> core``, a pure function. It can raise `errors.Incompatible`.
    """

    kind: ClassVar[str] = "resolver"


class DatasetFormat(Runnable):
    """Format of the rows of a data set.

    The target is ``convert(row) -> Example``. It raises `errors.InvalidSpec` for an invalid row, and returns None to
    leave out a row. Null columns are not in the row. Columns that it does not read are reported.

    Attributes:
        recognizes: names of fields. A row that has all of them is read in this format.
    """

    kind: ClassVar[str] = "dataset format"
    is_quick: ClassVar[bool] = True

    recognizes: frozenset[str] = pydantic.Field(min_length=1)


class BaseSource(Runnable):
    """Source of base models.

    The target is ``fetch(source, *, cache, progress) -> Path``. It takes a `BaseModelSource` and returns a local folder
    of safetensors, config and tokenizer.

    Attributes:
        matches: target of ``matches(source: str) -> bool``, which is called without network access.
    """

    kind: ClassVar[str] = "base source"

    matches: Target

    def accepts(self, source: str) -> bool:
        """Tell whether this source can fetch the named base model.

        Raises:
            PluginError: the function of a third-party plugin failed.
        """
        accepts = load_target(self.matches, offered_by=self.label)(source)
        if type(accepts) is not bool:
            raise errors.PluginError(f"{self.label}: {self.matches} returned {type(accepts).__name__}, not a bool")
        return accepts

    def load(self) -> Callable[..., Path]:
        """Import the target and return it, as :func:`load_fetch` does."""
        return load_fetch(self.target, offered_by=self.label)


class ExportFormat(Configurable):
    """Format in which other systems read adapters.

    The target is ``write(adapter_folder, base_folder, out, parameters) -> report``.

    Attributes:
        needs_base: whether the target needs the files of the base.
        base_model: what a parameter `base_model` without a value becomes in jobs: the `label` of the base in configs
            and cards, or its `hub_id` on the Hugging Face Hub, which it may not have. None leaves it alone.
        takes_system: whether a parameter `system` without a value becomes in jobs the system prompt that the adapter
            was trained with.
    """

    kind: ClassVar[str] = "export format"

    needs_base: bool = False
    base_model: Literal["label", "hub_id"] | None = None
    takes_system: bool = False

    @pydantic.model_validator(mode="after")
    def _has_fields(self) -> Self:
        if self.base_model is not None and "base_model" not in self.parameters.model_fields:
            raise ValueError("base_model is set, but the parameters have no field base_model")
        if self.takes_system and "system" not in self.parameters.model_fields:
            raise ValueError("takes_system is set, but the parameters have no field system")
        return self


class Evaluator(Configurable):
    """Measure of an adapter's quality.

    The target is ``evaluate(model, examples, parameters) -> {metric: value}``.
    """

    kind: ClassVar[str] = "evaluator"


class Listener(Runnable):
    """Receiver of every state change of a job; the target is ``listen(job) -> None``."""

    kind: ClassVar[str] = "listener"


def load_target(target: str, *, offered_by: str, is_quick: bool = False) -> Any:
    """Import ``module:attribute`` and return the function, whose errors name the owner if it is a third party's.

    Raises:
        PluginError: the import failed, or there is no such function; it names the owner of the target and the reason.
    """
    module, _, attribute = target.partition(":")
    is_foreign = _is_foreign(target)
    if is_foreign:
        foreign_code.begin()
    try:
        with foreign_code.keep_process() if is_foreign else contextlib.nullcontext():
            function = getattr(importlib.import_module(module), attribute)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        what = f"cannot load the target {target} of {offered_by}: {foreign_code.describe(error)}"
        raise errors.PluginError(what) from error
    if not callable(function):
        what = f"cannot load the target {target} of {offered_by}: it is {type(function).__name__}, not a function"
        raise errors.PluginError(what)
    return foreign_code.guard(function, offered_by, is_quick=is_quick) if is_foreign else function


def _is_foreign(target: str) -> bool:
    return not target.startswith("finch_hub.")


def load_fetch(target: str, *, offered_by: str) -> Callable[..., Path]:
    """Import the target of a base source, and return a function that checks what it returns.

    Raises:
        PluginError: see :func:`load_target`; the function also raises it if what it got is no folder.
    """
    fetch: Callable[..., Path] = load_target(target, offered_by=offered_by)
    if not _is_foreign(target):
        return fetch

    @functools.wraps(fetch)
    def checked(*args: Any, **options: Any) -> Path:
        folder = fetch(*args, **options)
        with foreign_code.blame(offered_by):
            is_path = issubclass(type(folder), str | Path)
            if not is_path or not Path(folder).is_dir():
                got = repr(str(folder)) if is_path else type(folder).__name__
                raise errors.PluginError(f"{offered_by} returned {got}, which is not a folder")
            return Path(folder)

    return checked
