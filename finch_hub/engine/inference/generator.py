"""A base with many adapters, fine-tuned, switched and answering."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import torch

from finch_hub import errors
from finch_hub.engine.adapters.adapter_files import read_adapter, write_adapter
from finch_hub.engine.adapters.module_shapes import check_fit
from finch_hub.engine.adapters.weights import AdapterWeights
from finch_hub.engine.bases.loading import Base, load_base
from finch_hub.engine.data import chat
from finch_hub.engine.inference import decoding
from finch_hub.engine.inference.routing import AdapterRouter, Plan, check_rows
from finch_hub.formats.adapter_folder import CONFIG, WEIGHTS
from finch_hub.specs.examples import Message, Pairs, examples_of
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

if TYPE_CHECKING:
    from finch_hub.specs.reports import TrainingReport

Prompt = str | tuple[Message, ...]
"""A user's turn, or a conversation; a list of prompts is a batch."""


class _Active(enum.Enum):
    ACTIVE = enum.auto()


ACTIVE: Final = _Active.ACTIVE
"""The adapter that was switched to last."""

Adapter = str | None | Literal[_Active.ACTIVE]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Where an adapter that was dropped from memory is read again, and the state its files were in."""

    path: Path
    state: tuple[tuple[int, int], ...]


class GeneratorModel:
    """One base and many adapters: loading a second one switches to it, and the base is never changed.

    Args:
        base: a loaded base, or what :func:`finch_hub.engine.bases.loading.load_base` takes.
        cache_size: adapters kept in memory; beyond it the least recently used one is dropped, and read again from its
            file when it is asked for. Those that were trained here and not saved stay.

    """

    def __init__(self, base: Base | str | Path, *, cache_size: int = 16) -> None:
        if cache_size < 1:
            raise errors.InvalidSpec(errors.Problem(what="must be at least 1", where="cache_size"))
        self.base = base if isinstance(base, Base) else load_base(base)
        self._router = AdapterRouter(self.base.model)
        self._cache_size = cache_size
        self._sources: dict[str, _Source | None] = {}
        self._systems: dict[str, str | None] = {}
        self._weights: dict[str, AdapterWeights] = {}  # in memory, the least recently used first
        self._active: str | None = None

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that can be switched to, in the order they were loaded."""
        return tuple(self._sources)

    @property
    def active(self) -> str | None:
        """The adapter that answers, None being the base alone."""
        return self._active

    def fine_tune(
        self,
        examples: Pairs,
        lora_config: LoRAConfig | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        *,
        name: str = "fine-tuned",
        validation: Pairs | None = None,
        training: TrainingConfig | None = None,
        system: str | None = None,
        **options: Any,
    ) -> TrainingReport:
        """Train a new adapter on examples, and switch to it.

        Args:
            examples: (prompt, completion) pairs, mappings with these keys or with `messages`, or examples.
            lora_config: shape of the adapter.
            epochs: passes over the examples; None takes it from `training`.
            learning_rate: its peak; None takes it from `training`.
            name: of the adapter; one of that name is replaced.
            validation: examples to measure on; None holds out the share that `training` says.
            training: everything else.
            system: system prompt of the examples that have none, and later of what the adapter is asked.
            options: further ones of :func:`finch_hub.engine.training.loop.train`.

        Raises:
            InvalidSpec: the configuration cannot work on this base.
            InvalidDataset: examples that cannot be used, all of them by their position.
            TrainingFailed: training started and could not go on.

        """
        from finch_hub.engine.training import loop

        changes = {"epochs": epochs, "learning_rate": learning_rate}
        settings = (training or TrainingConfig()).evolve(**{k: v for k, v in changes.items() if v is not None})
        held_out = None if validation is None else examples_of(validation)
        trained = loop.train(
            self.base, lora_config or LoRAConfig(), settings, examples_of(examples), held_out, system=system, **options
        )
        trained.adapter.detach()
        self._keep(name, trained.adapter.weights(), source=None, system=system)
        self._active = name
        return trained.report

    def load_lora(self, path: str | Path, name: str | None = None, *, system: str | None = None) -> str:
        """Load an adapter from a PEFT folder or a `.safetensors` file, switch to it, and return its name.

        Args:
            path: of the adapter.
            name: to switch by; None takes that of the folder or file. An adapter of that name is replaced.
            system: system prompt that it was trained with, for the prompts it is given that have none.

        Raises:
            NotFound: there is no such file.
            RefusedArtifact: it is no adapter that can be trusted.
            Incompatible: it does not fit the base.

        """
        path = Path(path).expanduser().absolute()
        name = name or (path.stem if path.suffix == ".safetensors" else path.name)
        source = _Source(path=path, state=_state(path))
        self._keep(name, read_adapter(path), source=source, system=system)
        self._active = name
        return name

    def save_lora(self, path: str | Path, name: str | None = None) -> None:
        """Save an adapter, None being the active one, as a PEFT folder or one `.safetensors` file.

        Raises:
            NotFound: there is no adapter of that name.
            InvalidSpec: none is named and none is active.

        """
        name = name or self._active
        if name is None:
            raise errors.InvalidSpec(errors.Problem(what="no adapter is active", fix="name one, or fine-tune first"))
        path = Path(path).expanduser().absolute()
        self._bring([name])
        write_adapter(self._weights[name], path)
        self._sources[name] = _Source(path=path, state=_state(path))

    def switch(self, name: str | None) -> None:
        """Let this adapter answer from now on, None being the base alone.

        Raises:
            NotFound: there is no adapter of that name.

        """
        if name is not None:
            self._bring([name])
        self._active = name

    def unload(self, name: str) -> None:
        """Forget an adapter; if it was active, the base alone is.

        Raises:
            NotFound: there is no adapter of that name.

        """
        self._known([name])
        self._router.unload(name)
        self._weights.pop(name, None)
        del self._sources[name], self._systems[name]
        if self._active == name:
            self._active = None

    @contextmanager
    def using(self, adapter: Adapter | Sequence[str | None] = ACTIVE) -> Iterator[None]:
        """Let `base.model` compute with an adapter, or with one for each row of the batch, in this context.

        Raises:
            NotFound: there is no adapter of that name.

        """
        names = [self._name(adapter)] if adapter is ACTIVE or isinstance(adapter, str | None) else list(adapter)
        self._bring([name for name in names if name is not None])
        with self._router.using(self._router.plan(names)):
            yield

    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        adapter: Adapter = ...,
        system: str | None = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int | None = ...,
        stream: Literal[False] = ...,
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        adapter: Adapter = ...,
        system: str | None = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int | None = ...,
        stream: Literal[True],
    ) -> Iterator[str]: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[Prompt],
        *,
        adapter: Adapter | Sequence[str | None] = ...,
        system: str | None = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int | None = ...,
        stream: Literal[False] = ...,
    ) -> list[str]: ...

    def generate(
        self,
        prompt: Prompt | list[str] | list[Prompt],
        *,
        adapter: Adapter | Sequence[str | None] = ACTIVE,
        system: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stream: bool = False,
    ) -> str | list[str] | Iterator[str]:
        """Answer a prompt, or a list of prompts in one batch, each with its own adapter if they are listed too.

        Args:
            prompt: a user's turn, or a conversation as a tuple of messages; or a list of these.
            adapter: whose answer; None is the base alone. For a list of prompts one for all, or a list.
            system: system prompt of those that have none; None takes the one that came with each prompt's adapter.
            max_new_tokens: length of an answer at most.
            temperature: 0 always takes the likeliest token.
            top_p: sample from the smallest set of tokens whose probabilities sum to it.
            seed: makes sampling repeatable; row by row, so an answer does not depend on its neighbours.
            stream: give the pieces of a single prompt's answer as they come.

        Returns:
            The answer; a list of them for a list of prompts; an iterator of pieces when streaming.

        Raises:
            NotFound: there is no adapter of that name.
            InvalidSpec: no prompts, prompts that fill the model's context, not as many adapters as prompts, or sampling
                values out of range.

        """
        config = GenerationConfig(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        single = not isinstance(prompt, list)
        prompts: Sequence[Prompt] = prompt if isinstance(prompt, list) else [prompt]
        if stream and not single:
            raise errors.InvalidSpec(errors.Problem(what="only a single prompt can be streamed", where="stream"))
        if adapter is ACTIVE or isinstance(adapter, str | None):
            names: list[str | None] = [self._name(adapter)] * len(prompts)
        else:
            names = list(adapter)
        check_rows(names, len(prompts))
        tokens = self._tokenize(prompts, [system or self._systems.get(name or "") for name in names])
        self._bring([name for name in names if name is not None])
        pieces = self._run(tokens, names, config, torch.seed() if seed is None else seed)
        if stream:
            return (piece for _, piece in pieces)
        answers = [""] * len(prompts)
        for row, piece in pieces:
            answers[row] += piece
        return answers[0] if single else answers

    def _run(
        self, prompts: Sequence[Sequence[int]], names: Sequence[str | None], config: GenerationConfig, seed: int
    ) -> Iterator[tuple[int, str]]:
        """Yield (prompt's number, piece of text) as they come."""
        # Rows of one adapter stand together, so that a prompt's pass has one run for each adapter.
        order = sorted(range(len(prompts)), key=lambda row: (names[row] is not None, names[row] or "", row))
        plans: dict[tuple[int, ...], Plan] = {}

        def routed(rows: Sequence[int]) -> Any:
            key = tuple(rows)
            if key not in plans:
                plans.clear()  # rows only ever leave a batch
                plans[key] = self._router.plan([names[order[row]] for row in rows])
            return self._router.using(plans[key])

        if self.base.model.training:
            self.base.model.eval()
        self.base.fit_attention(max(map(len, prompts)) + config.max_new_tokens)
        texts = [decoding.TextStream(self.base.tokenizer) for _ in prompts]
        seeds = [(seed + row) % 2**63 for row in order]
        for row, token in decoding.decode(
            self.base, [prompts[row] for row in order], config, seeds=seeds, routed=routed
        ):
            piece = texts[order[row]].add(token)
            if piece:
                yield order[row], piece
        for row, text in enumerate(texts):
            piece = text.end()
            if piece:
                yield row, piece

    def _tokenize(self, prompts: Sequence[Prompt], systems: Sequence[str | None]) -> list[list[int]]:
        if not prompts:
            raise errors.InvalidSpec(errors.Problem(what="there are no prompts", fix="give at least one"))
        found, problems = [], []
        for number, (prompt, system) in enumerate(zip(prompts, systems, strict=True), start=1):
            turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
            if system and turns and turns[0].role != "system":
                turns.insert(0, Message(role="system", content=system))
            if not any(turn.content.strip() for turn in turns):
                problems.append(errors.Problem(where=f"prompt {number}", what="is empty"))
                continue
            text = chat.render(self.base.tokenizer, turns, generation=True)
            # The template has written the special tokens already; without one the tokenizer's own are wanted.
            special = self.base.tokenizer.chat_template is None
            tokens = self.base.tokenizer(text, add_special_tokens=special)["input_ids"]
            if len(tokens) >= self.base.context:
                what = f"has {len(tokens)} tokens, the model's context is {self.base.context}"
                problems.append(errors.Problem(where=f"prompt {number}", what=what, fix="shorten it"))
            found.append(list(tokens))
        if problems:
            raise errors.InvalidSpec(problems, subject="prompts")
        return found

    def _name(self, adapter: Adapter) -> str | None:
        return self._active if adapter is ACTIVE else adapter

    def _known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._sources:
                raise errors.NotFound("adapter", name, self._sources)

    def _keep(self, name: str, weights: AdapterWeights, *, source: _Source | None, system: str | None) -> None:
        check_fit(weights, self.base)
        self._router.load(name, weights)
        self._sources[name] = source
        self._systems[name] = system
        self._weights.pop(name, None)
        self._weights[name] = weights
        self._evict({name})

    def _bring(self, names: Sequence[str]) -> None:
        """Have these adapters in memory, as the most recently used ones."""
        self._known(names)
        for name in dict.fromkeys(names):
            weights = self._weights.pop(name, None)
            if weights is None:
                weights = self._read_again(name)
                self._router.load(name, weights)
            self._weights[name] = weights
        self._evict(set(names))

    def _read_again(self, name: str) -> AdapterWeights:
        source = self._sources[name]
        if source is None:
            raise errors.NotFound("adapter", name, self._sources)
        if _state(source.path) != source.state:
            raise errors.Conflict(f"adapter {name!r} has changed in {source.path} since it was loaded: load it again")
        return read_adapter(source.path)

    def _evict(self, wanted: set[str]) -> None:
        droppable = [name for name in self._weights if self._sources[name] is not None and name not in wanted]
        for name in droppable[: max(0, len(self._weights) - self._cache_size)]:
            self._router.unload(name)
            del self._weights[name]


def _state(path: Path) -> tuple[tuple[int, int], ...]:
    """Size and time of change of an adapter's files; empty where they are missing, which reading reports better."""
    files = [path / WEIGHTS, path / CONFIG] if path.is_dir() else [path]
    try:
        found: list[os.stat_result] = [file.stat() for file in files]
    except OSError:
        return ()
    return tuple((status.st_size, status.st_mtime_ns) for status in found)
