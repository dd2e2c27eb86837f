"""Generator: a base model with many adapters that are trained, switched and asked."""

from __future__ import annotations

import enum
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Literal, Self, TypedDict, TypeVar, Unpack, overload

from finch_hub import errors, settings
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.engine.data.chat import has_reasoning
from finch_hub.engine.inference.adapter_cache import AdapterCache
from finch_hub.engine.inference.decoding import TextStream, decode
from finch_hub.engine.inference.prompts import Prompt, check_system_and_seed, tokenize_prompts
from finch_hub.engine.inference.routing import AdapterRouter, Plan
from finch_hub.engine.training import loop
from finch_hub.engine.training.adapter import open_report, read_rows, replace_settings
from finch_hub.engine.training.interruption import ShouldStop
from finch_hub.engine.training.resume_state import BatchTokens
from finch_hub.formats.config_fields import shorten
from finch_hub.formats.output_paths import refuse_unnamed
from finch_hub.specs.events import Report
from finch_hub.specs.examples import Rows
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reading import ReadingConfig
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import Value
from finch_hub.texts.counts import format_count
from finch_hub.texts.summaries import Summarized

PromptT = TypeVar("PromptT", bound=Prompt)


class _Active(enum.Enum):
    ACTIVE = enum.auto()


ACTIVE: Final = _Active.ACTIVE
"""The active adapter: the one that was loaded, trained or switched to last."""

AdapterChoice = str | None | Literal[_Active.ACTIVE]
"""Name of an adapter, None for the base alone, or the active adapter."""


class _Options(TypedDict, total=False):
    system: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None


class PromptOptions(_Options, total=False):
    """Keyword arguments of :meth:`GeneratorModel.generate` for one prompt."""

    adapter: AdapterChoice


class BatchOptions(_Options, total=False):
    """Keyword arguments of :meth:`GeneratorModel.generate` for a list of prompts."""

    adapter: AdapterChoice | Sequence[str | None]


class LoopOptions(TypedDict, total=False):
    """Further keyword arguments of :func:`finch_hub.engine.train`."""

    workdir: Path | None
    should_stop: ShouldStop
    resume: bool
    batch_tokens: BatchTokens | None


def _check_options(options: Mapping[str, object]) -> None:
    """Refuse options that belong into one of the configurations, before any row is read."""
    places: dict[str, type[Value]] = {
        "training=TrainingConfig": TrainingConfig,
        "reading=ReadingConfig": ReadingConfig,
        "lora_config=LoRAConfig": LoRAConfig,
    }
    problems: list[errors.Problem] = []
    for name in options.keys() - LoopOptions.__annotations__.keys():
        place = next((place for place, config in places.items() if name in config.model_fields), None)
        fix = f"give {place}({name}=…)" if place else ""
        problems.append(errors.Problem(where=name, what="is not an option of fine_tune", fix=fix))
    if problems:
        raise errors.InvalidSpec(sorted(problems, key=str), subject="fine_tune")


class GeneratorModel(Summarized):
    """One base with many adapters. Loading an adapter switches to it, and the base never changes.

    As a context manager it removes its adapters at the end.

    Args:
        base: a loaded base, or a source for :func:`finch_hub.engine.load_base`.
        cache_size: number of adapters to keep in memory. Beyond it, the least recently used adapter leaves memory and
            is read again from its files when it is used. Adapters that were trained here and not saved stay.

    Attributes:
        shows_progress: whether a training without `report` is shown; None does as the newest open hub.
    """

    def __init__(self, base: Base | str | Path, *, cache_size: int = 16) -> None:
        if cache_size < 1:
            raise errors.InvalidSpec("must be at least 1", where="cache_size")
        self.base = base if isinstance(base, Base) else load_base(base)
        self._router = AdapterRouter(self.base.model)
        self._cache = AdapterCache(self.base, self._router, size=cache_size)
        self._systems: dict[str, str | None] = {}
        self._thinking: set[str] = set()  # adapters that were trained on reasoning
        self._active: str | None = None
        self.shows_progress: bool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove all adapters, also those that were trained here and not saved. The base stays as it was."""
        for name in self.adapters:
            self.unload(name)

    def _list_fields(self) -> Mapping[str, object]:
        base = self.base
        where = {"device": str(base.device), "dtype": str(base.dtype).removeprefix("torch.")}
        return {"base": base.name, **where, "adapters": self.adapters, "active": self.active}

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters, in the order in which they were added."""
        return self._cache.names

    @property
    def active(self) -> str | None:
        """Name of the active adapter, None for the base alone."""
        return self._active

    def fine_tune(
        self,
        examples: str | Path | Rows,
        lora_config: LoRAConfig | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        *,
        name: str = "fine-tuned",
        validation: str | Path | Rows | None = None,
        training: TrainingConfig | None = None,
        system: str | None = None,
        reading: ReadingConfig | None = None,
        report: Report | None = None,
        **options: Unpack[LoopOptions],
    ) -> TrainingReport:
        """Train a new adapter on examples, and switch to it.

        The arguments that are not listed are those of :meth:`finch_hub.LoRAAdapter.train`.

        Args:
            lora_config: shape of the adapter.
            name: name of the adapter. It replaces an adapter of the same name.
            system: system prompt of the examples that have none, and later of prompts to the adapter.
            report: receiver of events; None shows a bar on a terminal and in a notebook, and nothing elsewhere.
            options: further options of :func:`finch_hub.engine.train`.

        Raises:
            InvalidSpec: the configuration cannot work on this base.
            InvalidDataset, TrainingFailed: as in :meth:`finch_hub.LoRAAdapter.train`.
        """
        _check_options(options)
        new_training = replace_settings(training, reading, epochs=epochs, learning_rate=learning_rate)
        rows = read_rows(examples, reading, new_training)
        held_out = None if validation is None else read_rows(validation, reading, new_training)
        config = lora_config or LoRAConfig()
        with open_report(report, shows=self.shows_progress) as receive:
            trained = loop.train(
                self.base, config, new_training, rows, held_out, system=system, report=receive, **options
            )
        trained.adapter.detach()
        self._cache.add(name, trained.adapter.weights())
        self._register(name, system=system, thinking=any(has_reasoning(m) for row in rows for m in row.messages))
        return trained.report

    def load_lora(
        self, path: str | Path, name: str | None = None, *, system: str | None = None, thinking: bool = False
    ) -> str:
        """Load an adapter from a PEFT folder or a `.safetensors` file, switch to it, and return its name.

        Args:
            path: folder or file of the adapter.
            name: name of the adapter; None takes the name of the folder or file. It replaces one of the same name.
            system: system prompt of its training, for prompts that have none.
            thinking: whether it was trained on reasoning, so that its prompts ask for reasoning.

        Raises:
            NotFound: the file does not exist.
            RefusedArtifact: the file is not a LoRA adapter that is safe to read.
            Incompatible: the adapter does not fit the base.
        """
        path = settings.expand_home(path).absolute()
        name = name or (path.stem if path.suffix == ".safetensors" else path.name)
        self._cache.add_file(name, path)
        self._register(name, system=system, thinking=thinking)
        return name

    def save_lora(self, path: str | Path, name: str | None = None) -> None:
        """Save an adapter, by default the active one, as a PEFT folder or one `.safetensors` file.

        Raises:
            NotFound: the adapter does not exist.
            InvalidSpec: no adapter is named and none is active, or the path is empty.
        """
        refuse_unnamed(path)
        name = name or self._active
        if name is None:
            raise errors.InvalidSpec("no adapter is active", fix="name one, or fine-tune first")
        self._cache.save(name, settings.expand_home(path).absolute())

    def switch(self, name: str | None) -> None:
        """Make an adapter active; None means the base alone."""
        if name is not None:
            self._cache.load([name])
        self._active = name

    def unload(self, name: str) -> None:
        """Remove an adapter. If it was active, the base alone is active."""
        self._cache.remove(name)
        del self._systems[name]
        self._thinking.discard(name)
        if self._active == name:
            self._active = None

    @contextmanager
    def using(self, adapter: AdapterChoice | Sequence[str | None] = ACTIVE) -> Iterator[None]:
        """Let `base.model` compute with an adapter, or with one for each row of the batch, in this context."""
        names = self._names_of(adapter, 1)
        self._load(names)
        with self._router.using(self._router.plan(names)):
            yield

    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[False] = ..., **options: Unpack[PromptOptions]) -> str: ...

    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[PromptOptions]) -> Iterator[str]: ...

    @overload
    def generate(
        self, prompt: list[PromptT], *, stream: Literal[False] = ..., **options: Unpack[BatchOptions]
    ) -> list[str]: ...

    def generate(
        self,
        prompt: Prompt | list[PromptT],
        *,
        adapter: AdapterChoice | Sequence[str | None] = ACTIVE,
        system: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stream: bool = False,
    ) -> str | list[str] | Iterator[str]:
        """Answer a prompt, or a list of prompts in one batch.

        Args:
            prompt: a user's turn, or a conversation as a tuple of messages, or a list of these.
            adapter: adapter that answers; None is the base alone. A list of prompts can have a list of adapters.
            system: system prompt of prompts that have none; None takes that of the prompt's adapter.
            max_new_tokens: most tokens of an answer.
            temperature: 0 always takes the most likely token.
            top_p: sampling takes the smallest set of tokens whose probabilities sum to it.
            seed: makes sampling repeatable. It works row by row, so an answer does not depend on the other prompts.
            stream: whether to return the answer of a single prompt in pieces, as they come.

        Returns:
            The answer, a list of answers for a list of prompts, or an iterator of pieces when streaming.

        Raises:
            NotFound: the adapter does not exist.
            InvalidSpec: no prompts, prompts of another type or that fill the model's context, different numbers of
                adapters and prompts, or values of a wrong type or out of range.
        """
        config = GenerationConfig(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        is_single = not isinstance(prompt, list)
        prompts: Sequence[Prompt] = prompt if isinstance(prompt, list) else [prompt]
        check_system_and_seed(system=system, seed=seed)
        if stream and not is_single:
            raise errors.InvalidSpec("only a single prompt can be streamed", where="stream")
        names = self._names_of(adapter, len(prompts))
        if len(names) != len(prompts):
            what = f"{format_count(len(names), 'adapter')} for {format_count(len(prompts), 'prompt')}"
            fix = "give one for each prompt, or one for all"
            raise errors.InvalidSpec(what, fix=fix)
        systems = [system or self._systems.get(name or "") for name in names]
        thinking = [name in self._thinking for name in names]
        tokens = tokenize_prompts(prompts, self.base, systems=systems, thinking=thinking)
        self._load(names)
        pieces = self._generate(tokens, names, config, secrets.randbits(63) if seed is None else seed)
        if stream:
            return (piece for _, piece in pieces)
        answers = [""] * len(prompts)
        for row, piece in pieces:
            answers[row] += piece
        return answers[0] if is_single else answers

    def _generate(
        self, prompts: Sequence[Sequence[int]], names: Sequence[str | None], config: GenerationConfig, seed: int
    ) -> Iterator[tuple[int, str]]:
        """Yield (index of the prompt, piece of text) as the pieces come."""
        # Rows of one adapter are neighbors, so that the pass over the prompts has one run for each adapter.
        order = sorted(range(len(prompts)), key=lambda row: (names[row] is not None, names[row] or "", row))
        plans: dict[tuple[int, ...], Plan] = {}

        def route(rows: Sequence[int]) -> AbstractContextManager[None]:
            key = tuple(rows)
            if key not in plans:
                plans.clear()  # rows leave a batch and do not come back
                plans[key] = self._router.plan([names[order[row]] for row in rows])
            return self._router.using(plans[key])

        if self.base.model.training:
            self.base.model.eval()
        self.base.fit_attention(max(map(len, prompts)) + config.max_new_tokens)
        texts = [TextStream(self.base.tokenizer) for _ in prompts]
        seeds = [(seed + row) % 2**63 for row in order]
        for row, token in decode(self.base, [prompts[row] for row in order], config, seeds=seeds, route=route):
            if piece := texts[order[row]].add(token):
                yield order[row], piece
        for row, text in enumerate(texts):
            if piece := text.end():
                yield row, piece

    def _register(self, name: str, *, system: str | None, thinking: bool) -> None:
        self._systems[name] = system
        self._thinking.discard(name)
        if thinking:
            self._thinking.add(name)
        self._active = name

    def _names_of(self, adapter: AdapterChoice | Sequence[str | None], rows: int) -> list[str | None]:
        if adapter is ACTIVE:
            return [self._active] * rows
        if isinstance(adapter, str | None):
            return [adapter] * rows
        if not isinstance(adapter, Sequence) or not all(isinstance(name, str | None) for name in adapter):
            what = f"is {shorten(adapter)}, not the name of an adapter or a list of names"
            raise errors.InvalidSpec(what, where="adapter")
        return list(adapter)

    def _load(self, names: Sequence[str | None]) -> None:
        self._cache.load([name for name in names if name is not None])
