"""How much of each parent's gain a composition keeps: every strategy here, and PEFT's combination types.

Adapters of several domains (rank 16, all linear modules, from one initial A) are composed with equal weights over the
same sweep of scales on the same selection rows; the figures are of rows that no sweep looked at. `auto` chooses with a
budget of as many evaluations. The Spearman correlation of every conflict measure with the retention of pairs says
whether a forecast from the weights would deserve its name.

    python benchmarks/retention.py --base FOLDER --data FOLDER [--adapters FOLDER]

`--data` holds one JSONL file a domain, `<domain>-….jsonl`; its last rows are held out. `--adapters` holds a PEFT folder
a domain, trained on none of those; without it they are trained first. Prints tables, and a last line of JSON: `ours`
is the worst parent of `auto`, `peer` that of PEFT's best, `ratio` the one over the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import peft
from transformers import PreTrainedModel

from finch_hub.engine import bases
from finch_hub.engine.composition import admission, conflicts, core_space, interference, retention
from finch_hub.engine.composition.admission import ParentInput
from finch_hub.engine.composition.bench import Bench, rows_of
from finch_hub.engine.composition.compose import compose, mixed_seed
from finch_hub.engine.composition.factors import Adapter, Factors
from finch_hub.engine.composition.objective import Objective
from finch_hub.engine.composition.search import Composer
from finch_hub.engine.data.reading import read_examples
from finch_hub.engine.training.loop import train
from finch_hub.plugins import trials
from finch_hub.plugins.catalogue import load_catalogue
from finch_hub.specs.jobs import ComposeSpec
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TokenMetrics
from finch_hub.specs.training import TrainingConfig

OURS: tuple[tuple[str, dict[str, object], str], ...] = (
    ("linear", {}, "keep"),
    ("linear", {"norm": "parents"}, "calibrate"),
    ("ties", {"density": 0.5}, "keep"),
    ("dare", {"drop": 0.5, "elect": True}, "keep"),
    ("tsv", {"sides": "left"}, "keep"),
    ("tsv", {}, "keep"),
    ("regmean", {}, "keep"),
)
PEFT = ("svd", "cat", "linear", "ties_svd", "dare_ties_svd", "ties", "magnitude_prune")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One way to combine at its best scale: retention on the rows for the report, by parent."""

    name: str
    scale: float
    kept: tuple[float, ...]

    @property
    def worst(self) -> float:
        return min(self.kept)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.kept)


def certain(shares: Iterable[float | None]) -> tuple[float, ...]:
    """Return the shares; end where a parent gained nothing, for then there is nothing to keep."""
    found = tuple(shares)
    if None in found:
        raise SystemExit("a parent gains less than two standard errors on its own rows: train it longer")
    return tuple(share for share in found if share is not None)


class Ground:
    """The bench with the parents' own figures on both parts of the rows."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.base = {on: bench.measure(None, on_report=on) for on in (False, True)}
        self.own = {on: bench.measure_parents(on_report=on) for on in (False, True)}

    def kept(self, update: Mapping[str, Factors], *, on_report: bool) -> tuple[float, ...]:
        measured: Sequence[TokenMetrics | None] = self.bench.measure(update, on_report=on_report)
        shares = map(retention.kept, self.base[on_report], self.own[on_report], measured)
        return certain(shares)

    def best(self, name: str, scales: Sequence[float], make: Callable[[float], Mapping[str, Factors]]) -> Found:
        """Sweep the scales on the selection rows; return the best one's figures on the report rows."""
        points = [(scale, self.kept(make(scale), on_report=False)) for scale in scales]
        scale, _ = max(points, key=lambda point: min(point[1]))
        found = Found(name=name, scale=scale, kept=self.kept(make(scale), on_report=True))
        print(f"  {name:34}{scale:7.2f}{found.mean:8.3f}{found.worst:8.3f}", flush=True)
        return found

    def objective(self) -> Objective:
        """Return what strategies that need data are given."""
        return Objective(self.bench, base=self.base[False], own=self.own[False])


def peft_combination(model: PreTrainedModel, parents: Sequence[ParentInput], kind: str) -> dict[str, Factors]:
    """Return the factors of PEFT's `add_weighted_adapter` with every weight at 1.

    With equal weights every kind is homogeneous in them (trimming goes by rank, signs stay), so another scale is a
    factor of the result.
    """
    names = [parent.name for parent in parents]
    combined = peft.PeftModel.from_pretrained(model, parents[0].folder, adapter_name=names[0])
    for parent in parents[1:]:
        combined.load_adapter(parent.folder, adapter_name=parent.name)
    options = {} if kind in ("svd", "cat", "linear") else {"density": 0.5}
    combined.base_model.add_weighted_adapter(names, [1.0] * len(names), "sum", combination_type=kind, **options)
    found = {}
    for path, layer in combined.base_model.model.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            A, B = (getattr(layer, part)["sum"].weight.detach() for part in ("lora_A", "lora_B"))
            found[path] = Factors(B=B.float().clone() * layer.scaling["sum"], A=A.float().clone())
    combined.unload()
    return found


def scaled(update: Mapping[str, Factors], scale: float) -> dict[str, Factors]:
    return {path: factors.scaled(scale) for path, factors in update.items()}


def trained(base: bases.Base, options: argparse.Namespace, files: Mapping[str, Path], into: Path) -> None:
    """Train one adapter for each domain: as the presets do from the shared initial A, or each from one of its own."""
    config = LoRAConfig(
        rank=16, alpha=32.0, target_modules="all-linear", init="random" if options.foreign else "shared"
    )
    for seed, (name, file) in enumerate(files.items()):
        training = TrainingConfig(
            epochs=options.epochs, batch_size=4, validation=0, learning_rate=options.learning_rate, seed=seed
        )
        began = time.perf_counter()
        examples = read_examples(file)[: options.examples]
        made = train(base, config, training, examples)
        made.adapter.save(into / name)
        made.adapter.detach()
        print(f"trained {name} on {len(examples)} rows in {time.perf_counter() - began:.0f} s", flush=True)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the rank correlation; ties share the mean of their ranks."""

    def ranks(values: Sequence[float]) -> list[float]:
        ordered = sorted(values)
        return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]

    return statistics.correlation(ranks(first), ranks(second))


def forecasts(
    core: core_space.CoreSpace, adapters: Sequence[Adapter], ground: Ground, scales: Sequence[float]
) -> dict[str, float]:
    """Return the correlation of each conflict measure with the worst retention, over pairs, strategies and scales."""
    measured = interference.measure(core, adapters, ground.bench)
    report = conflicts.diagnose(core, *measured)
    shifts = {(shift.first, shift.second): shift.shift for shift in report.hidden_shifts}
    catalogue = load_catalogue(entry_points=False)
    columns: dict[str, list[float]] = {}
    for i, j in itertools.combinations(range(len(adapters)), 2):
        two = [adapters[i], adapters[j]]
        names = sorted(adapter.name for adapter in two)
        (pair,) = [p for p in report.pairs if [p.first, p.second] == names]
        spec = ComposeSpec.of({"adapter": "pair", "parents": [{"adapter": name} for name in names]})
        composer = Composer(core_space.build(two), rank=None, seed=0)
        # What fits data would need a bench of these two alone.
        for trial in (t for t in trials.trials(spec, catalogue) if not t.needs_data):
            for scale in scales:
                kept = ground.kept(composer(trial, scale, (1.0, 1.0)), on_report=True)
                columns.setdefault("retention", []).append(min(kept[i], kept[j]))
                for measure in (*conflicts.MEASURES, "interference"):
                    columns.setdefault(measure, []).append(getattr(pair, measure))
                worst = max(shifts[names[0], names[1]], shifts[names[1], names[0]])
                columns.setdefault("hidden_shift", []).append(worst)
    kept_column = columns.pop("retention")
    return {name: spearman(values, kept_column) for name, values in columns.items() if len(set(values)) > 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder, GGUF file or Hugging Face id of the base model")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--adapters", type=Path, help="folder with one PEFT folder a domain")
    parser.add_argument("--suffix", default="", help="of the adapters' folder names")
    parser.add_argument("--domains", nargs="+", default=["medical", "legal", "code", "style"])
    parser.add_argument("--examples", type=int, default=260, help="rows to train on, of each")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--foreign", action="store_true", help="train every adapter from an initial A of its own")
    parser.add_argument("--held-out", type=int, default=60, help="last rows of each file, to measure on")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.65, 0.8, 1.0])
    parser.add_argument("--rank", type=int, help="of all combinations; else what each gives")
    parser.add_argument("--evaluations", type=int, default=16, help="that auto may spend")
    parser.add_argument("--forecast", action="store_true", help="also correlate conflict measures with retention")
    parser.add_argument("--skip-peft", action="store_true", help="only ours")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    base = bases.load(options.base)
    files = {name: next(options.data.glob(f"{name}-*.jsonl")) for name in options.domains}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.adapters or Path(temporary)
        if options.adapters is None:
            trained(base, options, files, folder)
        parents = [
            ParentInput(
                name=name,
                folder=folder / f"{name}{options.suffix}",
                validation=read_examples(file)[-options.held_out :],
            )
            for name, file in files.items()
        ]
        compare(base, parents, options)


def compare(base: bases.Base, parents: Sequence[ParentInput], options: argparse.Namespace) -> None:
    """Print the tables and the line of JSON."""
    catalogue = load_catalogue(entry_points=False)
    adapters = admission.read(parents)
    weights = (1.0,) * len(parents)
    core = core_space.build(adapters)
    report = conflicts.diagnose(core)
    overlap = statistics.fmean(pair.input_overlap for pair in report.pairs)
    print(f"{len(parents)} parents, {len(core.modules)} modules; their A overlap by {overlap:.2f}")
    spec = ComposeSpec.of(
        {"adapter": "all", "parents": [{"adapter": p.name} for p in parents], "evaluations": options.evaluations}
        | ({"rank": options.rank} if options.rank else {})
    )
    composed = compose(parents, spec, trials.trials(spec, catalogue), base=base)
    auto = certain(line.retention for line in composed.report.retention)
    print(f"  {'':34}{'scale':>7}{'mean':>8}{'worst':>8}")
    print(
        f"  {'auto: ' + composed.report.strategy + ' ' + str(composed.report.parameters.get('sides', '')):34}"
        f"{composed.report.scale:7.2f}{statistics.fmean(auto):8.3f}{min(auto):8.3f}"
        f"  {composed.report.evaluations} evaluations, {composed.report.seconds:.0f} s",
        flush=True,
    )
    found: list[Found] = []
    theirs: list[Found] = []
    with Bench(base, adapters, rows_of(parents, base)) as bench:
        ground = Ground(bench)
        composer = Composer(core, rank=options.rank, seed=mixed_seed(0, adapters))
        composer.objective = ground.objective()
        for strategy, parameters, resolver in OURS:
            asked = spec.evolve(strategy=strategy, parameters=parameters, resolver=resolver, rank=None)
            trial = trials.trials(asked, catalogue)[-1]
            make = partial(composer, trial, weights=weights)
            found.append(ground.best(trial.label, options.scales, make))
        correlations = forecasts(core, adapters, ground, options.scales) if options.forecast else {}
    if not options.skip_peft:
        model = bases.load(options.base).model
        with Bench(base, adapters, rows_of(parents, base)) as bench:
            ground = Ground(bench)
            for kind in PEFT:
                combined = peft_combination(model, parents, kind)
                theirs.append(ground.best(f"PEFT {kind}", options.scales, partial(scaled, combined)))
    for name, value in correlations.items():
        print(f"  Spearman of {name} with the worst retention of pairs: {value:+.2f}")
    peer = max((f.worst for f in theirs), default=float("nan"))
    line = {
        "name": "retention",
        "ours": round(min(auto), 3),
        "peer": round(peer, 3),
        "ratio": round(min(auto) / peer, 3),
        "ours_mean": round(statistics.fmean(auto), 3),
        "peer_mean": round(max((f.mean for f in theirs), default=float("nan")), 3),
        "strategy": composed.report.strategy,
        "rank": composed.report.rank,
        "linear_worst": round(next(f.worst for f in found if f.name == "linear"), 3),
        "spearman": {name: round(value, 2) for name, value in correlations.items()},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
