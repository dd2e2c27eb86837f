"""How many directions each module of an adapter needs: divided among them before training, cut to those after.

Before, EVA (arXiv 2410.07170, as PEFT has it) looks at the modules' inputs on a sample of the data: where more
directions carry variance, more are trained. After, one threshold over the singular values of all modules (as PARA,
arXiv 2604.27796) says which directions stay. How high it may be is measured: held-out loss is the judge.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora.eva import SVDHook, get_eva_state_dict
from torch import Tensor

from finch_hub import errors
from finch_hub.engine import targets
from finch_hub.engine.adapter import LoRAAdapter, attach, linear_modules
from finch_hub.engine.bases import Base
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.stored_adapter import PREFIX
from finch_hub.engine.weights import AdapterWeights
from finch_hub.specs.lora import LoRAConfig, UnusualValueWarning
from finch_hub.specs.reports import TokenMetrics

GENEROUS_RANK = 64
"""Average rank that is trained before anything is cut: the highest that is usual, since short trainings get further
with more directions, and what they don't need is cut afterwards."""

_REDISTRIBUTION = 2.0  # EVA's rho: a module may get so many times the average
_SAMPLE = 64  # examples that EVA looks at
_BATCHES = 4  # that they are divided into: small ones make the directions turn for long
_PASSES = 2  # of EVA over its sample; left to itself it goes on for dozens, see decision 0043
_SETTLED = 0.99  # cosine of a direction and itself a batch earlier, EVA's tau
_LEAST_RANK = 16  # that EVA leaves a module: what training would have made of it, nobody knows before
_EVALUATIONS = 8  # of the search for the threshold: it halves what is undecided each time
_LEAST_HELD_OUT = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """What EVA found.

    Attributes:
        rows: [rank, in] of each module, orthonormal, the most telling ones first; none where nothing is worth one.
        settled: inputs whose directions no longer turned in the last batch; modules may share an input.
        inputs: number of different ones.

    """

    rows: Mapping[str, Tensor]
    settled: int
    inputs: int

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each module; 0 where nothing is worth one."""
        return {path: len(rows) for path, rows in self.rows.items()}


def begin(
    base: Base, config: LoRAConfig, examples: Sequence[TokenizedExample], *, seed: int, say: Callable[[str], None]
) -> LoRAAdapter:
    """Put an adapter on the base as it is to be trained.

    Where the rank is automatic it is generous, and divided among the modules by what EVA finds in their inputs. With
    ``init="eva"`` A begins from EVA's directions as well; otherwise it begins as it always does.

    Args:
        base: to be adapted.
        config: as asked for.
        examples: of training.
        seed: of the initial A where that is random.
        say: told what EVA found, or why it cannot be had.

    Raises:
        InvalidSpec: the configuration names modules that the base does not have.

    """
    automatic = config.rank == "auto"
    if not automatic and config.init != "eva":
        return attach(base, config, seed=seed)
    generous = _generous(config) if automatic else config
    modules = linear_modules(base.model)
    paths = targets.match(generous, modules)
    rank = targets.rank_of(generous, "")
    redistribution = min(_REDISTRIBUTION if automatic else 1.0, min(modules[path][1] for path in paths) / (2 * rank))
    sample = examples[:_SAMPLE]
    tokens = sum(int(example.labels.sum()) for example in sample)
    # PEFT's decomposition works with twice as many directions as are wanted; the inputs must have as many.
    if redistribution < 1 or tokens < 2 * round(rank * redistribution):
        say("EVA was left out: the base is too narrow, or its sample of the data too small, for this rank")
        return attach(base, generous, seed=seed)
    found = directions(base, paths, sample, rank=rank, redistribution=redistribution)
    say(f"EVA: the directions of {found.settled} of {found.inputs} inputs settled in {_PASSES} passes over a sample")
    ranks = {path: max(found, _LEAST_RANK) if automatic else found for path, found in found.ranks.items()}
    pattern = {path: size for path, size in ranks.items() if size not in (0, rank)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)  # found by measuring, not by guessing
        divided = generous.evolve(
            target_modules=tuple(path for path, size in ranks.items() if size),
            exclude_modules=(),
            layers_to_transform=None,
            rank_pattern=pattern,
            # The scale stays what it is at the average rank.
            alpha_pattern={path: generous.alpha * size / rank for path, size in pattern.items()},
        )
    adapter = attach(base, divided, seed=seed)
    if config.init == "eva":
        parameters = adapter.parameters()
        with torch.no_grad():
            for path, rows in found.rows.items():
                if len(rows):
                    parameters[f"{PREFIX}{path}.lora_A.weight"][: len(rows)].copy_(rows)
    return adapter


def _generous(config: LoRAConfig) -> LoRAConfig:
    """Return the configuration with a generous rank, at the scale that its alpha gives the usual one."""
    usual = targets.rank_of(config, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)
        return config.evolve(rank=GENEROUS_RANK, alpha=config.alpha * GENEROUS_RANK / usual)


def check_data(train_set: Sequence[TokenizedExample], held_out: Sequence[TokenizedExample]) -> None:
    """Refuse to choose a rank from too little data.

    Raises:
        InvalidDataset: says what is missing.

    """
    problems = []
    needed = 2 * GENEROUS_RANK
    labels = sum(int(example.labels.sum()) for example in train_set)
    if labels < needed:
        what = f"the training data has {labels:,} tokens to learn; choosing a rank takes {needed:,}"
        problems.append(errors.Problem(what=what, fix='give a number for "rank"'))
    if len(held_out) < _LEAST_HELD_OUT:
        what = f"there are {len(held_out)} validation examples; choosing a rank takes {_LEAST_HELD_OUT}"
        problems.append(errors.Problem(what=what, fix='give more validation data, or a number for "rank"'))
    if problems:
        raise errors.InvalidDataset(problems, subject='rank="auto"')


def directions(
    base: Base, paths: Sequence[str], sample: Sequence[TokenizedExample], *, rank: int, redistribution: float = 1.0
) -> Directions:
    """Find the directions of the modules' inputs that explain most of their variance (EVA).

    PEFT passes over the data until no direction turns any more. On a sample the least ones go on turning for long, for
    they are those of its noise, so the passes are bounded, and the result says how many inputs had settled by then.

    Args:
        base: without adapters.
        paths: of the modules.
        sample: examples that are looked at, at their label tokens; these must be twice `rank` times `redistribution`.
        rank: on average over the modules.
        redistribution: how many times the average a module may get, by explained variance; 1 gives all the same.

    Raises:
        TrainingFailed: the inputs of a module are not finite.

    """
    tokens = max(2 * round(rank * redistribution), sum(int(one.labels.sum()) for one in sample) // _BATCHES)
    loader = _loader(sample, label_tokens=tokens, device=base.device)
    config = peft.LoraConfig(
        r=rank,
        target_modules=list(paths),
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=redistribution, tau=_SETTLED),
    )
    last = 1 + _PASSES * len(loader)  # the first forward pass only finds modules with the same input
    number, inputs, turning = 0, 0, 0

    def forward(model: Any, batch: dict[str, Tensor]) -> None:
        nonlocal number, inputs, turning
        number += 1
        hooks = [one for part in model.modules() for one in part._forward_hooks.values() if isinstance(one, SVDHook)]
        inputs = max(inputs, len(hooks))
        if number == last + 1:
            turning = len(hooks)
        if number > last:
            for hook in hooks:
                hook.sim_thresh = -1.0  # whatever it has after this pass counts
        model.get_decoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)

    try:
        with torch.no_grad():
            rows = get_eva_state_dict(base.model, loader, config, forward_fn=forward, show_progress_bar=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise errors.TrainingFailed(f"the base computes values that are not finite on this data: {error}") from error
    return Directions(rows={path: rows[path].float().cpu() for path in paths}, settled=inputs - turning, inputs=inputs)


def _loader(
    examples: Sequence[TokenizedExample], *, label_tokens: int, device: torch.device
) -> list[dict[str, Tensor]]:
    """Make padded batches of at least so many label tokens: PEFT waits forever for one that has fewer than it needs."""
    groups: list[list[TokenizedExample]] = [[]]
    for example in examples:
        if sum(int(one.labels.sum()) for one in groups[-1]) >= label_tokens:
            groups.append([])
        groups[-1].append(example)
    if len(groups) > 1 and sum(int(one.labels.sum()) for one in groups[-1]) < label_tokens:
        groups[-2] += groups.pop()
    return [_padded(group, device) for group in groups]


def _padded(examples: Sequence[TokenizedExample], device: torch.device) -> dict[str, Tensor]:
    longest = max(len(example) for example in examples)
    ids = torch.zeros((len(examples), longest), dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        tokens = torch.from_numpy(example.input_ids)
        ids[row, : len(example)] = tokens
        mask[row, : len(example)] = 1
        labels[row, : len(example)] = tokens.where(torch.from_numpy(example.labels), torch.tensor(-100))
    return {name: x.to(device) for name, x in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))}


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """An adapter's updates by singular values: ``ΔW = U diag(S) Vᵀ`` of each module, thin.

    Attributes:
        modules: path to (U [out, r], S [r], V [in, r]), float32.

    """

    modules: Mapping[str, tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, weights: AdapterWeights) -> Spectrum:
        """Decompose the updates from their factors, without ever making one of them dense."""
        found = {}
        for path, module in weights.modules.items():
            Q_left, R_left = torch.linalg.qr(module.B.float() * module.scale)
            Q_right, R_right = torch.linalg.qr(module.A.float().T)
            U, S, Vh = torch.linalg.svd(R_left @ R_right.T)
            found[path] = (Q_left @ U, S, Q_right @ Vh.T)
        return cls(modules=found)

    def costs(self) -> dict[str, int]:
        """Return the parameters that one direction of each module takes."""
        return {path: len(U) + len(V) for path, (U, _, V) in self.modules.items()}

    def ranks(self, threshold: float) -> dict[str, int]:
        """Return how many singular values of each module are at least the threshold."""
        return {path: int(torch.count_nonzero(S.ge(threshold))) for path, (_, S, _) in self.modules.items()}

    def parameters(self, threshold: float) -> int:
        """Return the parameters of an adapter cut at the threshold."""
        costs = self.costs()
        return sum(costs[path] * rank for path, rank in self.ranks(threshold).items())

    def thresholds(self) -> list[float]:
        """Return all singular values above zero, the largest first: each is where one more direction stays."""
        values = torch.cat([S for _, S, _ in self.modules.values()])
        return sorted({float(value) for value in values if value > 0}, reverse=True)

    def factors(self, ranks: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return evenly scaled A [r, in] and B [out, r] of each module cut to its rank; none where that is 0."""
        found = {}
        for path, (U, S, V) in self.modules.items():
            if rank := ranks.get(path, 0):
                root = S[:rank].sqrt()
                found[path] = ((V[:, :rank] * root).T.contiguous(), U[:, :rank] * root)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What one threshold costs: the adapter's parameters and held-out loss."""

    threshold: float
    parameters: int
    loss: float


def choose(
    spectrum: Spectrum,
    loss_at: Callable[[float], float],
    *,
    full_loss: float,
    tolerance: float,
    budget: int | None,
) -> tuple[float, list[Choice]]:
    """Find the highest threshold whose held-out loss is at most `tolerance` above the uncut adapter's.

    Fewer directions rarely do better, so the thresholds are halved by what is measured.

    Args:
        spectrum: of the trained adapter.
        loss_at: measures the adapter cut at a threshold.
        full_loss: of the uncut adapter.
        tolerance: relative, such as 0.005.
        budget: upper bound of parameters; where it asks for a higher threshold than the tolerance allows, it wins.

    Returns:
        The threshold, and everything that was measured on the way.

    """
    thresholds = spectrum.thresholds()
    if not thresholds:
        raise errors.TrainingFailed("the trained adapter is zero: there is no rank to choose")
    most = len(thresholds) - 1
    if budget is not None:
        affordable = [place for place, value in enumerate(thresholds) if spectrum.parameters(value) <= budget]
        if not affordable:
            least = spectrum.parameters(thresholds[0])
            what = f"{budget:,} parameters are fewer than one direction of a module takes ({least:,})"
            raise errors.InvalidSpec(errors.Problem(where="rank_budget", what=what, fix="raise it"))
        most = affordable[-1]
    measured: dict[int, Choice] = {}

    def good(place: int) -> bool:
        if place not in measured:
            value = thresholds[place]
            measured[place] = Choice(threshold=value, parameters=spectrum.parameters(value), loss=loss_at(value))
        return measured[place].loss <= full_loss * (1 + tolerance)

    low, high = 0, most
    # The last one is good without measuring where nothing is cut; within a budget it is the best there is.
    while low < high and len(measured) < _EVALUATIONS:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle + 1
    good(high)
    return thresholds[high], sorted(measured.values(), key=lambda choice: choice.parameters)


def cut(base: Base, adapter: LoRAAdapter, ranks: Mapping[str, int]) -> LoRAAdapter:
    """Put the adapter, cut to a rank for each module, on the base in its stead.

    The factors carry the whole scale: alpha equals the rank everywhere, so that every reader of PEFT's format gives
    the same update.
    """
    factors = Spectrum.of(adapter.weights()).factors(ranks)
    name = adapter.name
    usual = max({A.shape[0] for A, _ in factors.values()}, key=[A.shape[0] for A, _ in factors.values()].count)
    pattern = {path: A.shape[0] for path, (A, _) in factors.items() if A.shape[0] != usual}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)  # found by measuring, not by guessing
        config = adapter.config.evolve(
            rank=usual,
            alpha=float(usual),
            target_modules=tuple(factors),
            exclude_modules=(),
            layers_to_transform=None,
            rank_pattern=pattern,
            alpha_pattern={path: float(rank) for path, rank in pattern.items()},
            use_rslora=False,
        )
    adapter.detach()
    smaller = attach(base, config, name=name)
    parameters = smaller.parameters()
    with torch.no_grad():
        for path, (A, B) in factors.items():
            parameters[f"{PREFIX}{path}.lora_A.weight"].copy_(A)
            parameters[f"{PREFIX}{path}.lora_B.weight"].copy_(B)
    return smaller


def shrink(
    base: Base,
    adapter: LoRAAdapter,
    measure: Callable[[], TokenMetrics],
    *,
    tolerance: float,
    budget: int | None,
) -> tuple[LoRAAdapter, TokenMetrics, dict[str, Any]]:
    """Cut a trained adapter to as few directions as keep its held-out loss, and report what each choice would cost.

    Args:
        base: with the adapter on it.
        adapter: plain LoRA, trained at a generous rank; it leaves the base.
        measure: the held-out metrics of the base with whatever is enabled on it.
        tolerance: relative held-out loss that may be lost.
        budget: upper bound of parameters, None for none.

    Returns:
        The smaller adapter on the base, its metrics, and a report: `rank_pattern`, `parameters`, `spectrum` (singular
        values by module), `choices` (parameters and held-out loss of every threshold measured).

    """
    full = adapter.weights()
    spectrum = Spectrum.of(full)
    parameters = adapter.parameters()
    uncut = measure()

    def loss_at(threshold: float) -> float:
        _mask(parameters, spectrum, full, spectrum.ranks(threshold))
        return measure().loss

    threshold, choices = choose(spectrum, loss_at, full_loss=uncut.loss, tolerance=tolerance, budget=budget)
    adapter.load_weights(full)
    ranks = spectrum.ranks(threshold)
    smaller = cut(base, adapter, ranks)
    report = {
        "threshold": threshold,
        "rank_pattern": ranks,
        "parameters": spectrum.parameters(threshold),
        "trained_parameters": full.parameters,
        "uncut_loss": uncut.loss,
        "tolerance": tolerance,
        "budget": budget,
        "spectrum": {path: [round(float(value), 6) for value in S] for path, (_, S, _) in spectrum.modules.items()},
        "choices": [{"threshold": one.threshold, "parameters": one.parameters, "loss": one.loss} for one in choices],
    }
    return smaller, measure(), report


def _mask(parameters: Mapping[str, Tensor], spectrum: Spectrum, full: AdapterWeights, ranks: Mapping[str, int]) -> None:
    """Set the adapter's factors to the cut ones, padded with zeros to the rank they have."""
    factors = spectrum.factors(ranks)
    with torch.no_grad():
        for path, module in full.modules.items():
            A = parameters[f"{PREFIX}{path}.lora_A.weight"].zero_()
            B = parameters[f"{PREFIX}{path}.lora_B.weight"].zero_()
            if path in factors:
                some_A, some_B = factors[path]
                A[: len(some_A)] = some_A
                B[:, : len(some_A)] = some_B / module.scale
