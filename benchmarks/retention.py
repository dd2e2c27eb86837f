"""Share of each parent's gain that a composition keeps, for the strategies here and PEFT's combination types.

Adapters of several domains (see `parents.py`) are composed with equal weights. All results have the same rank, by
default the sum of the parents' ranks. A strategy that takes no data gives one update from the adapters alone. Other
strategies also read the selection rows. Each strategy and each PEFT type is measured at the same scales, and `auto` has
as many evaluations. The selection rows choose the scale, and also the best type of each kind. The figures are measured
on other rows. `--forecast` adds the Spearman correlation of the plan's forecast, and of every measure of conflict, with
the retention of pairs.

    python benchmarks/retention.py [--base FOLDER] [--data FOLDER] [--adapters FOLDER] [--foreign]

Prints tables and a last line of JSON: `ours` is the worst parent of the best strategy without data, `peer` is that of
PEFT's best type, and `ratio` is ours / peer. `auto` is the worst parent of `auto`, which reads data.
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
from typing import Any

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
# The types with `_svd` can have any rank. The others have the parents' rank (`linear`) or the sum of the ranks (`cat`).
PEFT = ("svd", "cat", "linear", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """A combination at its best scale: each parent's retention on the report rows.

    Attributes:
        chosen_at: retention of the worst parent on the selection rows, which chose the scale.
        needs_data: whether the update itself depends on the selection rows.
    """

    name: str
    scale: float
    kept: tuple[float, ...]
    chosen_at: float
    needs_data: bool

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

    def best(
        self,
        name: str,
        scales: Sequence[float],
        make: Callable[[float], Mapping[str, Factors]],
        *,
        needs_data: bool = False,
    ) -> SweepResult:
        """Sweep the scales on the selection rows. Return the retention of the best scale on the report rows."""
        worst, scale = max((min(self.kept(make(scale), on_report=False)), scale) for scale in scales)
        update = make(scale)
        result = SweepResult(
            name=name, scale=scale, kept=self.kept(update, on_report=True), chosen_at=worst, needs_data=needs_data
        )
        print_row(name, needs_data, max(f.rank for f in update.values()), scale, result.kept, f"{worst:.3f} searched")
        return result

    def parent_data(self) -> ParentData:
        """Return the data for strategies that fit values to it."""
        return ParentData(self.measurement, base=self.base[False], own=self.own[False])


def print_row(name: str, needs_data: bool, rank: int, scale: float, kept: Sequence[float], note: str) -> None:
    kind = "yes" if needs_data else "no"
    print(f"  {name:34}{kind:>5}{rank:6}{scale:7.2f}{statistics.fmean(kept):8.3f}{min(kept):8.3f}  {note}", flush=True)


def peft_combination(
    model: PreTrainedModel, adapted: Sequence[ParentInput], kind: str, rank: int
) -> dict[str, Factors]:
    """Return the factors of PEFT's `add_weighted_adapter` with every weight at 1, cut to a rank if the type can be cut.

    With equal weights, every type is homogeneous in them: trimming goes by rank, and signs stay. So another scale is a
    factor of the result.
    """
    names = [parent.name for parent in adapted]
    combined = peft.PeftModel.from_pretrained(model, adapted[0].folder, adapter_name=names[0])
    for parent in adapted[1:]:
        combined.load_adapter(parent.folder, adapter_name=parent.name)
    options: dict[str, Any] = {} if kind in ("svd", "cat", "linear") else {"density": 0.5}
    if kind.endswith("svd"):
        options |= {"svd_rank": rank, "svd_full_matrices": False}  # the same update as with full matrices, but sooner
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
        composer = Composer(core=core, weights=(1.0, 1.0), rank=None, seed=0)
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
    parser.add_argument("--scales", type=float, nargs="+", default=[0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.4, 2.0])
    parser.add_argument("--rank", type=int, help="rank of all combinations (default: the sum of the parents' ranks)")
    parser.add_argument("--forecast", action="store_true", help="correlate forecasts with retention too")
    parser.add_argument("--peft", nargs="*", default=PEFT, help="types of PEFT to measure")
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
    rank = options.rank or sum(adapter.rank for adapter in adapters)
    spec = ComposeSpec.of(
        {
            "adapter": "all",
            "parents": [{"adapter": p.name} for p in adapted],
            "evaluations": len(options.scales),
            "rank": options.rank,
        }
    )
    composed = compose(adapted, spec, trials.make_trials(spec, catalog), base=base)
    auto = require_defined(line.retention for line in composed.report.retention)
    results: dict[str, list[SweepResult]] = {"ours": [], "peer": []}
    with Measurement(base, adapters, tokenize_validation(adapted, base)) as measurement:
        counts = ", ".join(
            f"{name} {len(rows.selection)} and {len(rows.report)}"
            for name, rows in zip(core.parents, measurement.rows, strict=True)
            if rows is not None
        )
        print(f"{len(adapted)} parents, {len(core.modules)} modules; their A overlap by {overlap:.2f}")
        print(f"rows that choose the scale and rows that are reported: {counts}")
        print(f"{len(options.scales)} evaluations of each line")
        print(f"  {'':34}{'data':>5}{'rank':>6}{'scale':>7}{'mean':>8}{'worst':>8}")
        name = f"auto: {composed.report.strategy} {composed.report.parameters.get('sides', '')}"
        note = f"{composed.report.evaluations} evaluations, {composed.report.seconds:.0f} s"
        print_row(name, True, composed.report.rank, composed.report.scale, auto, note)
        retentions = RetentionMeasurement(measurement)
        composer = Composer(core=core, weights=weights, rank=options.rank, seed=mix_seed(0, adapters))
        composer.parent_data = retentions.parent_data()
        for strategy, parameters, resolver in OURS:
            requested = spec.evolve(strategy=strategy, parameters=parameters, resolver=resolver)
            trial = trials.make_trials(requested, catalog)[-1]
            make = partial(composer.compose, trial, weights=weights)
            results["ours"].append(retentions.best(trial.label, options.scales, make, needs_data=trial.needs_data))
        for kind in options.peft:
            combined = peft_combination(harness.load_base(options).model, adapted, kind, rank)
            results["peer"].append(retentions.best(f"PEFT {kind}", options.scales, partial(scaled, combined)))
    correlations = forecasts(base, adapted, options.scales) if options.forecast else {}
    for name, value in correlations.items():
        print(f"  Spearman of {name} with the worst retention of pairs: {value:+.2f}", flush=True)
    # The selection rows choose the type, as they chose its scale.
    best = {
        side: max((f for f in found if not f.needs_data), key=lambda f: f.chosen_at, default=None)
        for side, found in results.items()
    }
    ours, peer = (float("nan") if f is None else f.worst for f in best.values())
    line = {
        "name": "retention",
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "ratio": round(ours / peer, 3),
        "best": {side: f.name for side, f in best.items() if f is not None},
        "auto": round(min(auto), 3),
        "auto_mean": round(statistics.fmean(auto), 3),
        "strategy": composed.report.strategy,
        "rank": rank,
        "linear_worst": round(next(f.worst for f in results["ours"] if f.name == "linear"), 3),
        "spearman": {name: round(value, 2) for name, value in correlations.items()},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
