"""How much of each parent's gain a composition keeps: every strategy here, and PEFT's combination types.

Adapters of several domains (see `parents.py`) are composed with equal weights over the same sweep of scales on the same
selection rows; the figures are of rows that no sweep looked at. `auto` chooses with a budget of as many evaluations.
`--forecast` adds the Spearman correlation of the plan's forecast, and of every measure of conflict, with the retention
of pairs.

    python benchmarks/retention.py [--base FOLDER] [--data FOLDER] [--adapters FOLDER] [--foreign]

Prints tables, and a last line of JSON: `ours` is the worst parent of `auto`, `peer` that of PEFT's best, `ratio` the
one over the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import harness
import parents
import peft
from torch import Tensor
from transformers import PreTrainedModel

from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition import conflicts, core_space, forecast, interference, retention
from finch_hub.engine.composition.compose import compose
from finch_hub.engine.composition.composer import Composer
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.engine.composition.parents import ParentInput, mix_seed, read_parents
from finch_hub.engine.composition.validation_rows import tokenize_validation
from finch_hub.plugins import trials
from finch_hub.plugins.catalog import load_catalog
from finch_hub.specs.jobs import ComposeSpec
from finch_hub.specs.reports import TokenMetrics

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
    """Measurement with the parents' own figures on both parts of the rows."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        self.base = {on: measurement.measure(None, on_report=on) for on in (False, True)}
        self.own = {on: measurement.measure_parents(on_report=on) for on in (False, True)}

    def kept(self, update: Mapping[str, Factors], *, on_report: bool) -> tuple[float, ...]:
        measured: Sequence[TokenMetrics | None] = self.measurement.measure(update, on_report=on_report)
        shares = map(retention.compute, self.base[on_report], self.own[on_report], measured)
        return certain(shares)

    def best(self, name: str, scales: Sequence[float], make: Callable[[float], Mapping[str, Factors]]) -> Found:
        """Sweep the scales on the selection rows; return the best one's figures on the report rows."""
        points = [(scale, self.kept(make(scale), on_report=False)) for scale in scales]
        scale, _ = max(points, key=lambda point: min(point[1]))
        found = Found(name=name, scale=scale, kept=self.kept(make(scale), on_report=True))
        print(f"  {name:34}{scale:7.2f}{found.mean:8.3f}{found.worst:8.3f}", flush=True)
        return found

    def parent_data(self) -> ParentData:
        """Return what strategies that need data are given."""
        return ParentData(self.measurement, base=self.base[False], own=self.own[False])


def peft_combination(model: PreTrainedModel, adapted: Sequence[ParentInput], kind: str) -> dict[str, Factors]:
    """Return the factors of PEFT's `add_weighted_adapter` with every weight at 1.

    With equal weights every kind is homogeneous in them (trimming goes by rank, signs stay), so another scale is a
    factor of the result.
    """
    names = [parent.name for parent in adapted]
    combined = peft.PeftModel.from_pretrained(model, adapted[0].folder, adapter_name=names[0])
    for parent in adapted[1:]:
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


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the rank correlation; ties share the mean of their ranks."""

    def ranks(values: Sequence[float]) -> list[float]:
        ordered = sorted(values)
        return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]

    return statistics.correlation(ranks(first), ranks(second))


def forecasts(base: Base, adapted: Sequence[ParentInput], scales: Sequence[float]) -> dict[str, float]:
    """Return the rank correlation with the worst retention, over pairs, strategies and scales.

    Of the forecast, and of each measure of conflict.
    """
    catalog = load_catalog(entry_points=False)
    columns: dict[str, list[float]] = defaultdict(list)
    for two in itertools.combinations(adapted, 2):
        adapters = read_parents(two)
        core = core_space.build(adapters)
        spec = ComposeSpec.of({"adapter": "pair", "parents": [{"adapter": parent.name} for parent in two]})
        composer = Composer(core=core, rank=None, seed=0)
        with Measurement(base, adapters, tokenize_validation(two, base)) as measurement:
            ground = Ground(measurement)
            probed = interference.measure(core, adapters, measurement)
            (pair,) = conflicts.diagnose(core, probed.ratios).pairs
            measures = {name: getattr(pair, name) for name in (*conflicts.MEASURES, "interference")}
            measures["hidden_shift"] = max(shift.shift for shift in probed.shifts)
            asked = [spec.evolve(strategy=s, parameters=p, resolver=r) for s, p, r in OURS]
            ways = [trial for one in asked if not (trial := trials.make_trials(one, catalog)[-1]).needs_data]
            matches = []
            for way in ways:
                _, merged = composer.merge(way, (1.0, 1.0))
                matrices = {module: update for module, update in merged.items() if isinstance(update, Tensor)}
                matches.append(forecast.match_outputs(core, matrices, probed.moments))
            # As the plan does: what plain linear keeps of each parent on the rows that may be looked at.
            penalties = forecast.fit_penalties(
                matches[0], ground.kept(composer.compose(ways[0], 1.0, (1.0, 1.0)), on_report=False)
            )
            for way, of_parents in zip(ways, matches, strict=True):
                for scale in scales:
                    kept = ground.kept(composer.compose(way, scale, (1.0, 1.0)), on_report=True)
                    columns["retention"].append(min(kept))
                    known = [
                        (a, h) for a, h in zip(of_parents, penalties, strict=True) if a is not None and h is not None
                    ]
                    columns["forecast"].append(
                        min(match.forecast_retention(scale, penalty) for match, penalty in known)
                    )
                    for name, value in measures.items():
                        columns[name].append(value)
    measured = columns.pop("retention")
    return {name: spearman(values, measured) for name, values in columns.items() if len(set(values)) > 1}


def main() -> None:
    parser = parents.parser(__doc__ or "")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.65, 0.8, 1.0])
    parser.add_argument("--rank", type=int, help="of all combinations; else what each gives")
    parser.add_argument("--evaluations", type=int, default=16, help="that auto may spend")
    parser.add_argument("--forecast", action="store_true", help="also correlate forecasts with retention")
    parser.add_argument("--skip-peft", action="store_true", help="only ours")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    base = harness.load_base(given)
    with parents.made(base, given) as adapters:
        compare(base, adapters, given)


def compare(base: Base, adapted: Sequence[ParentInput], options: argparse.Namespace) -> None:
    """Print the tables and the line of JSON."""
    catalog = load_catalog(entry_points=False)
    adapters = read_parents(adapted)
    weights = (1.0,) * len(adapted)
    core = core_space.build(adapters)
    report = conflicts.diagnose(core)
    overlap = statistics.fmean(pair.input_overlap for pair in report.pairs)
    print(f"{len(adapted)} parents, {len(core.modules)} modules; their A overlap by {overlap:.2f}")
    spec = ComposeSpec.of(
        {"adapter": "all", "parents": [{"adapter": p.name} for p in adapted], "evaluations": options.evaluations}
        | ({"rank": options.rank} if options.rank else {})
    )
    composed = compose(adapted, spec, trials.make_trials(spec, catalog), base=base)
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
    with Measurement(base, adapters, tokenize_validation(adapted, base)) as measurement:
        ground = Ground(measurement)
        composer = Composer(core=core, rank=options.rank, seed=mix_seed(0, adapters))
        composer.parent_data = ground.parent_data()
        for strategy, parameters, resolver in OURS:
            asked = spec.evolve(strategy=strategy, parameters=parameters, resolver=resolver, rank=None)
            trial = trials.make_trials(asked, catalog)[-1]
            make = partial(composer.compose, trial, weights=weights)
            found.append(ground.best(trial.label, options.scales, make))
        if not options.skip_peft:
            model = harness.load_base(options).model
            for kind in PEFT:
                combined = peft_combination(model, adapted, kind)
                theirs.append(ground.best(f"PEFT {kind}", options.scales, partial(scaled, combined)))
    correlations = forecasts(base, adapted, options.scales) if options.forecast else {}
    for name, value in correlations.items():
        print(f"  Spearman of {name} with the worst retention of pairs: {value:+.2f}", flush=True)
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
