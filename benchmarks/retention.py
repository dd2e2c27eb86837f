"""Share of each parent's gain that a composition keeps, for the strategies here and PEFT's combination types.

Adapters of several domains (see `parents.py`) are composed with equal weights over the same scales, which are chosen on
the same selection rows. The figures are measured on other rows. `auto` has its own budget of evaluations. `--forecast`
adds the Spearman correlation of the plan's forecast, and of every measure of conflict, with the retention of pairs.

    python benchmarks/retention.py [--base FOLDER] [--data FOLDER] [--adapters FOLDER] [--foreign]

Prints tables and a last line of JSON: `ours` is the worst parent of `auto`, `peer` is that of PEFT's best type, and
`ratio` is ours / peer.
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

from finch_hub.engine import Base, ParentInput, compose
from finch_hub.engine.composition import conflicts, core_space, forecast, interference, retention
from finch_hub.engine.composition.composer import Composer
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement, tokenize_validation
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.engine.composition.parents import mix_seed, read_parents
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
class SweepResult:
    """A combination at its best scale: each parent's retention on the report rows."""

    name: str
    scale: float
    kept: tuple[float, ...]

    @property
    def worst(self) -> float:
        return min(self.kept)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.kept)


def require_defined(shares: Iterable[float | None]) -> tuple[float, ...]:
    """Return the shares. Exit if a parent gained nothing, since there is nothing to keep then."""
    defined = tuple(shares)
    if None in defined:
        raise SystemExit("a parent gains less than two standard errors on its own rows: train it longer")
    return tuple(share for share in defined if share is not None)


class RetentionMeasurement:
    """Measurement of retention on the selection rows and on the report rows."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        self.base = {on: measurement.measure(None, on_report=on) for on in (False, True)}
        self.own = {on: measurement.measure_parents(on_report=on) for on in (False, True)}

    def kept(self, update: Mapping[str, Factors], *, on_report: bool) -> tuple[float, ...]:
        measured: Sequence[TokenMetrics | None] = self.measurement.measure(update, on_report=on_report)
        shares = map(retention.compute, self.base[on_report], self.own[on_report], measured)
        return require_defined(shares)

    def best(self, name: str, scales: Sequence[float], make: Callable[[float], Mapping[str, Factors]]) -> SweepResult:
        """Sweep the scales on the selection rows. Return the retention of the best scale on the report rows."""
        points = [(scale, self.kept(make(scale), on_report=False)) for scale in scales]
        scale, _ = max(points, key=lambda point: min(point[1]))
        result = SweepResult(name=name, scale=scale, kept=self.kept(make(scale), on_report=True))
        print(f"  {name:34}{scale:7.2f}{result.mean:8.3f}{result.worst:8.3f}", flush=True)
        return result

    def parent_data(self) -> ParentData:
        """Return the data for strategies that fit values to it."""
        return ParentData(self.measurement, base=self.base[False], own=self.own[False])


def peft_combination(model: PreTrainedModel, adapted: Sequence[ParentInput], kind: str) -> dict[str, Factors]:
    """Return the factors of PEFT's `add_weighted_adapter` with every weight at 1.

    With equal weights, every type is homogeneous in them: trimming goes by rank, and signs stay. So another scale is a
    factor of the result.
    """
    names = [parent.name for parent in adapted]
    combined = peft.PeftModel.from_pretrained(model, adapted[0].folder, adapter_name=names[0])
    for parent in adapted[1:]:
        combined.load_adapter(parent.folder, adapter_name=parent.name)
    options = {} if kind in ("svd", "cat", "linear") else {"density": 0.5}
    combined.base_model.add_weighted_adapter(names, [1.0] * len(names), "sum", combination_type=kind, **options)
    factors = {}
    for path, layer in combined.base_model.model.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            A, B = (getattr(layer, part)["sum"].weight.detach() for part in ("lora_A", "lora_B"))
            factors[path] = Factors(B=B.float().clone() * layer.scaling["sum"], A=A.float().clone())
    combined.unload()
    return factors


def scaled(update: Mapping[str, Factors], scale: float) -> dict[str, Factors]:
    return {path: factors.scaled(scale) for path, factors in update.items()}


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the rank correlation. Equal values share the mean of their ranks."""

    def ranks(values: Sequence[float]) -> list[float]:
        ordered = sorted(values)
        return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]

    return statistics.correlation(ranks(first), ranks(second))


def forecasts(base: Base, adapted: Sequence[ParentInput], scales: Sequence[float]) -> dict[str, float]:
    """Return rank correlations with the worst retention, over pairs, strategies and scales.

    One is of the forecast, the others of the measures of conflict.
    """
    catalog = load_catalog(entry_points=False)
    columns: dict[str, list[float]] = defaultdict(list)
    for two in itertools.combinations(adapted, 2):
        adapters = read_parents(two)
        core = core_space.build(adapters)
        spec = ComposeSpec.of({"adapter": "pair", "parents": [{"adapter": parent.name} for parent in two]})
        composer = Composer(core=core, rank=None, seed=0)
        with Measurement(base, adapters, tokenize_validation(two, base)) as measurement:
            retentions = RetentionMeasurement(measurement)
            probed = interference.measure(core, adapters, measurement)
            (pair,) = conflicts.diagnose(core, probed.ratios).pairs
            measures = {name: getattr(pair, name) for name in (*conflicts.MEASURES, "interference")}
            measures["hidden_shift"] = max(shift.shift for shift in probed.shifts)
            requested = [spec.evolve(strategy=s, parameters=p, resolver=r) for s, p, r in OURS]
            ways = [trial for spec in requested if not (trial := trials.make_trials(spec, catalog)[-1]).needs_data]
            matches = []
            for way in ways:
                _, merged = composer.merge(way, (1.0, 1.0))
                matrices = {module: update for module, update in merged.items() if isinstance(update, Tensor)}
                matches.append(forecast.match_outputs(core, matrices, probed.moments))
            # As in the plan: the retention of each parent under plain linear, on the selection rows.
            penalties = forecast.fit_penalties(
                matches[0], retentions.kept(composer.compose(ways[0], 1.0, (1.0, 1.0)), on_report=False)
            )
            for way, of_parents in zip(ways, matches, strict=True):
                for scale in scales:
                    kept = retentions.kept(composer.compose(way, scale, (1.0, 1.0)), on_report=True)
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
    parser = parents.make_parser(__doc__ or "")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.65, 0.8, 1.0])
    parser.add_argument("--rank", type=int, help="rank of all combinations (default: what each strategy gives)")
    parser.add_argument("--evaluations", type=int, default=16, help="evaluations of auto")
    parser.add_argument("--forecast", action="store_true", help="correlate forecasts with retention too")
    parser.add_argument("--skip-peft", action="store_true", help="measure no PEFT types")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    base = harness.load_base(args)
    with parents.provide_adapters(base, args) as adapters:
        compare(base, adapters, args)


def compare(base: Base, adapted: Sequence[ParentInput], options: argparse.Namespace) -> None:
    """Print the tables and the last line of JSON."""
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
    auto = require_defined(line.retention for line in composed.report.retention)
    print(f"  {'':34}{'scale':>7}{'mean':>8}{'worst':>8}")
    print(
        f"  {'auto: ' + composed.report.strategy + ' ' + str(composed.report.parameters.get('sides', '')):34}"
        f"{composed.report.scale:7.2f}{statistics.fmean(auto):8.3f}{min(auto):8.3f}"
        f"  {composed.report.evaluations} evaluations, {composed.report.seconds:.0f} s",
        flush=True,
    )
    own_results: list[SweepResult] = []
    peer_results: list[SweepResult] = []
    with Measurement(base, adapters, tokenize_validation(adapted, base)) as measurement:
        retentions = RetentionMeasurement(measurement)
        composer = Composer(core=core, rank=options.rank, seed=mix_seed(0, adapters))
        composer.parent_data = retentions.parent_data()
        for strategy, parameters, resolver in OURS:
            requested = spec.evolve(strategy=strategy, parameters=parameters, resolver=resolver, rank=None)
            trial = trials.make_trials(requested, catalog)[-1]
            make = partial(composer.compose, trial, weights=weights)
            own_results.append(retentions.best(trial.label, options.scales, make))
        if not options.skip_peft:
            model = harness.load_base(options).model
            for kind in PEFT:
                combined = peft_combination(model, adapted, kind)
                peer_results.append(retentions.best(f"PEFT {kind}", options.scales, partial(scaled, combined)))
    correlations = forecasts(base, adapted, options.scales) if options.forecast else {}
    for name, value in correlations.items():
        print(f"  Spearman of {name} with the worst retention of pairs: {value:+.2f}", flush=True)
    peer = max((f.worst for f in peer_results), default=float("nan"))
    line = {
        "name": "retention",
        "ours": round(min(auto), 3),
        "peer": round(peer, 3),
        "ratio": round(min(auto) / peer, 3),
        "ours_mean": round(statistics.fmean(auto), 3),
        "peer_mean": round(max((f.mean for f in peer_results), default=float("nan")), 3),
        "strategy": composed.report.strategy,
        "rank": composed.report.rank,
        "linear_worst": round(next(f.worst for f in own_results if f.name == "linear"), 3),
        "spearman": {name: round(value, 2) for name, value in correlations.items()},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
