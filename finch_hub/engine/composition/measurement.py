"""Measurement of updates on a base, with the parents' validation rows: losses, gradients and module inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters import attachable_adapter, weights
from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition import parents as parent_adapters
from finch_hub.engine.composition import peft_output
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter, ParentInput
from finch_hub.engine.composition.second_moment import SecondMoment
from finch_hub.engine.data import batches, tokenizing
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.decoder import evaluation, loss
from finch_hub.engine.decoder.decoder import choose_decoder, make_head
from finch_hub.engine.decoder.padded import PaddedDecoder
from finch_hub.engine.forgetting.divergence import GeneralDivergence
from finch_hub.progress import track
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import Forgetting, RowDivision, TokenMetrics

_NAME = "measured-composition"
# Fewer rows are not divided, because both halves would be too small to measure anything.
_MIN_ROWS_TO_DIVIDE = 16
_MAX_SELECTION_ROWS = 24
_MAX_REPORT_ROWS = 96
_MAX_LENGTH = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationRows:
    """Validation rows of one parent, divided between a search and its report.

    Attributes:
        selection: rows that a search measures.
        report: rows that only the report measures.
        is_divided: whether the two parts have no row in common. Otherwise both hold all rows.
        left_out: number of rows that cannot be measured.
    """

    selection: tuple[TokenizedExample, ...]
    report: tuple[TokenizedExample, ...]
    is_divided: bool
    left_out: int = 0


def divide(examples: Sequence[TokenizedExample]) -> ValidationRows:
    """Divide rows between a search and its report; every second prompt goes to the search.

    Rows with one prompt, and copies, stay together. If there are few prompts, only copies do.
    """
    groups = _number(_prompt_bytes(row) for row in examples)
    if len(set(groups)) < _MIN_ROWS_TO_DIVIDE:
        groups = _number(row.input_ids.tobytes() for row in examples)
    if len(set(groups)) < _MIN_ROWS_TO_DIVIDE:
        rows = tuple(examples)
        return ValidationRows(selection=rows, report=rows, is_divided=False)
    is_searched = [group % 2 == 0 and group < 2 * _MAX_SELECTION_ROWS for group in groups]
    selection = [place for place, is_taken in enumerate(is_searched) if is_taken][:_MAX_SELECTION_ROWS]
    report = [place for place, is_taken in enumerate(is_searched) if not is_taken][:_MAX_REPORT_ROWS]
    return ValidationRows(
        selection=tuple(examples[place] for place in selection),
        report=tuple(examples[place] for place in report),
        is_divided=True,
    )


def _number(keys: Iterable[bytes]) -> list[int]:
    """Return the same number for equal keys, counted in their order."""
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(hashlib.sha256(key).digest(), len(numbers)) for key in keys]


def _prompt_bytes(row: TokenizedExample) -> bytes:
    """Return the tokens before the first one that is learned. A row that is learned whole is its own prompt."""
    length = int(row.labels.argmax())
    return row.input_ids[: length if length > 1 else None].tobytes()


def tokenize_validation(parents: Sequence[ParentInput], base: Base) -> list[ValidationRows | None]:
    """Tokenize and divide the validation rows of each parent, as its training did; None for a parent without rows.

    Raises:
        InvalidDataset: too many rows of a parent leave nothing to predict; contains all of them.
    """
    return [_tokenize_rows(parent, base) if parent.validation else None for parent in parents]


def _tokenize_rows(parent: ParentInput, base: Base) -> ValidationRows:
    data = tokenizing.tokenize_data(
        parent.validation,
        base.tokenizer,
        system=parent.system,
        max_length=min(base.context, _MAX_LENGTH),
        subject=f"validation rows of {parent.name}",
        num_embeddings=base.num_embeddings,
    )
    return replace(divide(data.examples), left_out=data.lost)


def count_rows(names: Sequence[str], rows: Sequence[ValidationRows | None]) -> tuple[RowDivision, ...]:
    """Return the numbers of rows of each parent that has any."""
    return tuple(
        RowDivision(
            parent=name, selection=len(r.selection), report=len(r.report), is_divided=r.is_divided, left_out=r.left_out
        )
        for name, r in zip(names, rows, strict=True)
        if r is not None
    )


class Measurement:
    """LoRA layers on a base that hold one update at a time.

    It is a context manager that removes the layers at its end. The base's weights do not change.

    Args:
        base: loaded base without enabled adapters.
        parents: updates to measure or combine; the modules that they adapt get a layer.
        rows: validation rows of each parent; None for a parent without rows.
        between: called between batches; an exception from it ends the evaluation.

    Raises:
        Incompatible: the base lacks modules of a parent or has them in another shape; it names all of them.
    """

    def __init__(
        self,
        base: Base,
        parents: Sequence[ParentAdapter],
        rows: Sequence[ValidationRows | None],
        *,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        _check_fit(base, parents)
        self.base = base
        self.rows = tuple(rows)
        self.parents = tuple(parents)
        self._between = between
        longest = max((len(e) for r in rows if r for e in (*r.selection, *r.report)), default=1)
        base.fit_attention(longest)
        modules = sorted({path for parent in parents for path in parent.factors})
        config = LoRAConfig(rank=8, alpha=8.0, target_modules=tuple(modules))
        self._layers = attachable_adapter.AttachableAdapter(config, base, name=_NAME)
        self._decoder = choose_decoder(base)
        self._padded_decoder = PaddedDecoder(base.model)  # runs the model's own forward, so that hooks see all inputs
        self._head = make_head(base)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._layers.detach()

    def measure(
        self, update: Mapping[str, Factors] | None, *, on_report: bool = False, only: int | None = None
    ) -> tuple[TokenMetrics | None, ...]:
        """Return the metrics of an update (None: of the bare base) on each parent's rows, or on those of `only`."""
        self.activate(update)
        return tuple(
            self._evaluate(rows.report if on_report else rows.selection)
            if rows is not None and only in (None, t)
            else None
            for t, rows in enumerate(self.rows)
        )

    def measure_parents(self, *, on_report: bool = False) -> tuple[TokenMetrics | None, ...]:
        """Return each parent's metrics on its own rows.

        Raises:
            UnusableAdapter: with a parent, the base computes a loss that is not finite.
        """
        return tuple(self._measure_parent(t, on_report=on_report) for t in range(len(self.parents)))

    def _measure_parent(self, number: int, *, on_report: bool) -> TokenMetrics | None:
        parent = self.parents[number]
        try:
            return self.measure(parent.factors, on_report=on_report, only=number)[number]
        except errors.Diverged as error:
            raise errors.UnusableAdapter(parent.name, str(error)) from error

    def measure_forgetting(self, update: Mapping[str, Factors]) -> Forgetting | None:
        """Compare an update with the parents on general prompts; None if there are no figures."""
        self.activate(None)
        figures: list[float] = []
        try:
            general = GeneralDivergence(self.base, self._decoder)
            for factors in (*(parent.factors for parent in self.parents), update):
                self._between()
                self.activate(factors)
                figures.append(general.measure(self._decoder))
        except (errors.InvalidDataset, errors.Diverged):
            return None
        return general.report(max(figures[:-1]), figures[-1])

    def activate(self, update: Mapping[str, Factors] | None) -> None:
        """Replace the active update; None leaves the bare base."""
        if update is None:
            self._layers.disable()
            return
        self._layers.enable()
        for path, layer in self._layers.layers.items():
            A, B = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
            new = update.get(path)
            if new is None:
                A.data, B.data = A.data.new_zeros(1, A.shape[1]), B.data.new_zeros(B.shape[0], 1)
            else:
                A.data, B.data = new.A.to(A.device, torch.float32), new.B.to(B.device, torch.float32)

    def backward(self, examples: Sequence[TokenizedExample], *, scale: float) -> float:
        """Add the gradients of ``scale * mean token loss`` to those of the active update; return the scaled loss."""
        batch = batches.pack(examples, share_prefix=self._decoder.can_share_prefix).to(self.base.device)
        scales = torch.full(batch.targets.shape, scale / len(batch.targets), device=self.base.device)
        value = loss.head_losses(self._decoder.hidden_states(batch), self._head, batch.targets, scales).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    def take_gradients(self) -> dict[str, Factors]:
        """Return the gradients since the last activation by module, and reset them."""
        taken: dict[str, Factors] = {}
        for path, layer in self._layers.layers.items():
            A, B = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
            taken[path] = Factors(B=B.grad.cpu(), A=A.grad.cpu())
            A.grad = B.grad = None
        return taken

    @torch.no_grad()
    def run_forward(
        self,
        update: Mapping[str, Factors] | None,
        examples: Sequence[TokenizedExample],
        modules: Iterable[str] = (),
        on_input: Callable[[str, Tensor], None] = lambda module, x: None,
        *,
        parent: str,
    ) -> Tensor:
        """Return the hidden states [L, d] that predict the completions.

        `on_input` is called with a module path and the input [1, tokens, in] of the module. Modules that share an input
        are called one after another with the same tensor.

        Args:
            parent: name of the parent whose examples these are, for the progress.
        """

        def make_hook(path: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
            return lambda module, inputs, output: on_input(path, inputs[0])

        self.activate(update)
        model = self.base.model
        handles = [model.get_submodule(path).register_forward_hook(make_hook(path)) for path in modules]
        try:
            # One example at a time, so that no module sees a padding token.
            states = [
                self._padded_decoder.hidden_states(batches.pack([example], share_prefix=False).to(self.base.device))
                for example in track(examples, f"running examples of {parent}")
            ]
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat(states).float().cpu()

    def collect_projected_moments(
        self,
        update: Mapping[str, Factors] | None,
        examples: Sequence[TokenizedExample],
        right: Mapping[str, Tensor],
        *,
        parent: str,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the hidden states, and the second moments ``Vᵀ X Xᵀ V [q, q]`` of module inputs in bases V [in, q]."""
        moments: dict[str, Tensor] = {}

        def add_input(path: str, x: Tensor) -> None:
            z = (x.flatten(0, -2).float() @ right[path].to(x.device)).double().cpu()
            moments[path] = moments[path] + z.mT @ z if path in moments else z.mT @ z

        return self.run_forward(update, examples, right, add_input, parent=parent), moments

    def collect_moments(
        self,
        update: Mapping[str, Factors] | None,
        examples: Sequence[TokenizedExample],
        modules: Iterable[str],
        *,
        parent: str,
    ) -> dict[str, SecondMoment]:
        """Return the second moment of each module's inputs; modules that share an input share it."""
        moments: dict[str, SecondMoment] = {}
        last_input: Tensor | None = None
        last_path = ""

        def add_input(path: str, x: Tensor) -> None:
            nonlocal last_input, last_path
            if x is last_input:
                moments[path] = moments[last_path]
                return
            last_input, last_path = x, path
            if path not in moments:
                moments[path] = SecondMoment(x.shape[-1], x.device)
            moments[path].add(x.flatten(0, -2).float())

        self.run_forward(update, examples, modules, add_input, parent=parent)
        for moment in moments.values():
            moment.move_to_cpu()
        return moments

    def _evaluate(self, examples: Sequence[TokenizedExample]) -> TokenMetrics:
        return evaluation.evaluate(
            self._decoder, self._head, examples, device=self.base.device, before_batch=self._between
        )


def _check_fit(base: Base, parents: Sequence[ParentAdapter]) -> None:
    problems: list[errors.Problem] = []
    for parent in parents:
        try:
            weights.check_fit(peft_output.to_weights(parent.factors, {}), base)
        except errors.Incompatible as error:
            problems += parent_adapters.problems_of_parent(parent.name, error)
    if problems:
        raise errors.Incompatible(problems, subject=f"the adapters do not fit the base {base.name}")
