"""Composition of trained adapters of a tiny model: the winner, the report, refusals and unchanged inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import models, unusable
from support.adapters import VARIANTS, save_adapter
from support.updates import dense, peft_deltas, relative

from finch_hub import errors
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.engine.composition.compose import Composed, compose
from finch_hub.engine.composition.parents import ParentInput, mix_seed, read_parent
from finch_hub.engine.composition.planning import plan
from finch_hub.engine.composition.retention import find_below
from finch_hub.engine.training.adapter import LoRAAdapter
from finch_hub.plugins import catalog, trials
from finch_hub.specs.events import NewEvent
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import ComposeSpec
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import Retention, RowDivision
from finch_hub.specs.training import TrainingConfig

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
SUBJECTS = {
    "eats": lambda i: Example.of_pair(f"What does finch {i} eat?", f"It eats {NUMBERS[i % 8]} seeds in the morning."),
    "lives": lambda i: Example.of_pair(f"Where does finch {i} live?", f"In {NUMBERS[i % 8]} woods, hedges and parks."),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """One tiny model for all these tests; composing must not change it."""
    folder = models.save_model(models.DEFAULT, tmp_path_factory.mktemp("base"))
    return load_base(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def parents(base: Base, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ParentInput]:
    """Two trained adapters with one subject each, and rows that they were not trained on."""
    found = {}
    for name, make in SUBJECTS.items():
        adapter = LoRAAdapter(LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear"), base)
        examples = [make(i) for i in range(40)]
        adapter.train(
            examples, epochs=3, learning_rate=1e-2, training=TrainingConfig(batch_size=8, validation=0, seed=1)
        )
        folder = tmp_path_factory.mktemp("adapters") / name
        adapter.save(folder)
        adapter.detach()
        found[name] = ParentInput(name=name, folder=folder, validation=[make(i) for i in range(40, 60)])
    return found


def composed(parents: Mapping[str, ParentInput], base: Base | None = None, **fields: Any) -> Composed:
    spec = ComposeSpec.of(
        {"adapter": "both", "parents": [{"adapter": p.name, "weight": p.weight} for p in parents.values()], **fields}
    )
    return compose(list(parents.values()), spec, trials.make_trials(spec, catalog.load_catalog()), base=base)


def number(value: float | None) -> float:
    """Return a figure that was measured."""
    assert value is not None
    return value


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_auto_keeps_both_parents_and_reports_the_candidates(
    parents: dict[str, ParentInput], base: Base, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    result = composed(parents, base, evaluations=8)
    report = result.report
    assert [line.status for line in report.retention] == ["measured", "measured"]
    assert report.rows == "report"
    assert 4 <= report.evaluations == len(report.candidates) <= 8
    assert {c.strategy for c in report.candidates} == {"linear", "regmean", "tsv"}
    assert report.candidates[0].strategy == "linear"
    assert len({(c.strategy, str(c.parameters), c.resolver, c.scale, c.weights) for c in report.candidates}) == len(
        report.candidates
    )
    # The retention follows the formula, and is not below plain linear on the same rows.
    worst, baseline = [], []
    for line in report.retention:
        assert line.examples == 10
        base_loss, own, composed_loss, linear = map(number, (line.base, line.own, line.composed, line.linear))
        assert line.retention == pytest.approx((base_loss - composed_loss) / (base_loss - own))
        worst.append(number(line.retention))
        baseline.append((base_loss - linear) / (base_loss - own))
    assert report.won_by == pytest.approx(max(0.0, min(worst) - min(baseline)))
    assert report.worst_retention == min(worst) > 0.5
    # The base did not change.
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert list(base.model.state_dict()) == list(before)
    # The saved adapter is the measured one.
    result.save(tmp_path / "both")
    saved = read_parent(tmp_path / "both", "both")
    for module, update in result.factors.items():
        assert torch.equal(saved.factors[module].B, update.B)
        assert torch.equal(saved.factors[module].A, update.A)


def test_report_equals_the_measurement_of_the_saved_adapter(
    parents: dict[str, ParentInput], base: Base, tmp_path: Path
) -> None:
    result = composed(parents, base, strategy="linear", scale=0.7)
    result.save(tmp_path / "both")
    alone = composed({"both": dataclasses.replace(parents["eats"], name="both", folder=tmp_path / "both")}, base)
    assert alone.report.retention[0].own == pytest.approx(result.report.retention[0].composed, rel=1e-5)


def test_requested_scale_and_strategy_are_used(parents: dict[str, ParentInput], base: Base) -> None:
    result = composed(parents, base, strategy="ties", parameters={"density": 0.4}, scale=0.9, rank=3)
    assert (result.report.strategy, result.report.scale, result.report.rank) == ("ties", 0.9, 3)
    assert result.report.parameters == {"density": 0.4}
    assert result.report.evaluations == 2  # ties, and linear at the same scale
    assert {update.rank for update in result.factors.values()} == {3}


def test_one_evaluation_gives_plain_linear(parents: dict[str, ParentInput], base: Base) -> None:
    report = composed(parents, base, evaluations=1).report
    assert report.strategy == "linear"
    assert report.evaluations == 1
    assert report.won_by == 0


def test_learned_weights_beat_the_given_weights(parents: dict[str, ParentInput], base: Base) -> None:
    unequal = {name: dataclasses.replace(p, weight={"eats": 1.0, "lives": 0.1}[name]) for name, p in parents.items()}
    start = composed(unequal, base, strategy="linear", scale=1.0).report
    for options in ({}, {"per_module": True, "orthogonalize": "both"}):
        learned = composed(
            unequal, base, strategy="learned", parameters={"steps": 30, "learning_rate": 0.05, **options}, scale=1.0
        ).report
        assert learned.strategy == "learned"
        assert number(learned.worst_retention) > number(start.worst_retention) + 0.1


def test_learned_without_data_is_refused(parents: dict[str, ParentInput]) -> None:
    with pytest.raises(errors.InvalidSpec, match="needs validation examples of the parents, but there are none"):
        composed(parents, strategy="learned")


def test_composition_without_data_is_plain_linear_and_unmeasured(parents: dict[str, ParentInput]) -> None:
    report = composed(parents).report
    assert (report.strategy, report.rows, report.evaluations) == ("linear", "none", 0)
    assert report.scale == pytest.approx(2**-0.5, abs=1e-4)
    assert {line.status for line in report.retention} == {"unmeasured"}
    assert "nothing was measured" in report.advice[0]


def test_only_a_parent_without_rows_is_unmeasured(parents: dict[str, ParentInput], base: Base) -> None:
    mixed = {**parents, "lives": dataclasses.replace(parents["lives"], validation=())}
    report = composed(mixed, base, evaluations=3).report
    assert {line.parent: line.status for line in report.retention} == {"eats": "measured", "lives": "unmeasured"}


def test_few_rows_are_not_divided_and_the_report_warns(parents: dict[str, ParentInput], base: Base) -> None:
    few = {name: dataclasses.replace(p, validation=p.validation[:4]) for name, p in parents.items()}
    report = composed(few, base, evaluations=2).report
    assert report.rows == "selection"
    assert any("too few validation rows" in line for line in report.advice)


def test_parent_that_gains_nothing_has_undefined_retention(parents: dict[str, ParentInput], base: Base) -> None:
    # Rows of a subject that no parent was trained on.
    other = [Example.of_pair(f"def add{i}(a, b):", f"return a * {i} + b") for i in range(20)]
    odd = {**parents, "eats": dataclasses.replace(parents["eats"], validation=other)}
    report = composed(odd, base, strategy="linear", scale=1.0, min_retention=0.2).report
    line = report.retention[0]
    assert (line.status, line.retention) == ("undefined", None)
    assert line.composed is not None
    assert line.base is not None
    # Which branch applies depends on rounding; test_retention.py has both.
    assert ("eats" in report.below_retention) == (line.composed > line.base)


def test_single_adapter_is_copied_byte_for_byte(parents: dict[str, ParentInput], base: Base, tmp_path: Path) -> None:
    one = {"eats": parents["eats"]}
    for number, result in enumerate([composed(one), composed(one, base, strategy="ties"), composed(one, rank=4)]):
        result.save(tmp_path / str(number))
        assert bytes_of(tmp_path / str(number)) == bytes_of(parents["eats"].folder)
    assert composed(one, base).report.retention[0].retention == 1
    cut = composed(one, rank=2)
    cut.save(tmp_path / "cut")
    assert {update.rank for update in read_parent(tmp_path / "cut", "cut").factors.values()} == {2}
    half = composed({"eats": dataclasses.replace(parents["eats"], weight=0.5)})
    for module, update in read_parent(parents["eats"].folder, "x").factors.items():
        assert torch.equal(half.factors[module].B, update.B * 0.5)
    assert half.report.advice == ("the update is 0.5 times that of eats",)
    assert "copied unchanged" in str(composed(one).report.advice)
    assert "ties has no effect on a single adapter" in composed(one, strategy="ties").report.advice


def test_random_strategies_depend_on_seed_and_content_only(parents: dict[str, ParentInput]) -> None:
    def dare(adapters: Mapping[str, ParentInput], seed: int = 0) -> torch.Tensor:
        made = composed(adapters, strategy="dare", scale=1.0, seed=seed).factors
        update = next(iter(made.values()))
        return update.B @ update.A

    renamed = {f"{name}-2": dataclasses.replace(p, name=f"{name}-2") for name, p in reversed(parents.items())}
    assert torch.allclose(dare(parents), dare(renamed), atol=1e-5)
    assert not torch.allclose(dare(parents), dare(parents, seed=1), atol=1e-3)


def test_mixed_seed_ignores_the_order_of_parents(parents: dict[str, ParentInput]) -> None:
    adapters = [read_parent(p.folder, p.name) for p in parents.values()]
    assert mix_seed(3, adapters) == mix_seed(3, adapters[::-1]) != mix_seed(4, adapters)


def test_events_report_phases_conflicts_and_points(parents: dict[str, ParentInput], base: Base) -> None:
    events: list[NewEvent] = []
    spec = ComposeSpec.of({"adapter": "x", "parents": [{"adapter": n} for n in parents], "evaluations": 2})
    tried = trials.make_trials(spec, catalog.load_catalog())
    compose(list(parents.values()), spec, tried, base=base, report=events.append)
    phases = [e.data["name"] for e in events if e.type == "phase"]
    assert phases[-3:] == ["search", "measure the composition", "measuring forgetting"]
    assert [e.data["name"] for e in events if e.type == "report"] == ["conflicts"]
    assert sum(e.type == "message" for e in events) == 2


def test_interruption_removes_the_layers_from_the_base(parents: dict[str, ParentInput], base: Base) -> None:
    class Stop(Exception):
        pass

    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == 6:
            raise Stop

    names = [name for name, _ in base.model.named_modules()]
    spec = ComposeSpec.of({"adapter": "x", "parents": [{"adapter": n} for n in parents]})
    with pytest.raises(Stop):
        compose(list(parents.values()), spec, trials.make_trials(spec, catalog.load_catalog()), base=base, between=stop)
    assert [name for name, _ in base.model.named_modules()] == names


INVALID: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a weight that is NaN": ({"weight": float("nan")}, {}, "weight of eats: nan is not a finite number"),
    "rank above the sum": ({}, {"rank": 9}, "9 exceeds 8, the sum of the parents' ranks"),
    "a rank for cat": ({}, {"rank": 2, "strategy": "cat"}, "the strategy cat is exact"),
    "density 0": ({}, {"strategy": "ties", "parameters": {"density": 0}}, "density"),
    "the same name twice": ({"name": "lives"}, {}, "lives is given twice"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_request_is_refused(case: str, parents: dict[str, ParentInput]) -> None:
    changes, fields, words = INVALID[case]
    spec = ComposeSpec.of({"adapter": "x", "parents": [{"adapter": n} for n in parents], **fields})
    given = [dataclasses.replace(parents["eats"], **changes), parents["lives"]]
    with pytest.raises(errors.InvalidSpec) as refused:
        compose(given, spec, trials.make_trials(spec, catalog.load_catalog()))
    assert words in str(refused.value)


def test_zero_weights_are_refused(parents: dict[str, ParentInput]) -> None:
    with pytest.raises(errors.InvalidSpec, match="all weights are zero"):
        composed({name: dataclasses.replace(p, weight=0.0) for name, p in parents.items()})


def test_refusal_names_different_bases(parents: dict[str, ParentInput]) -> None:
    first = dataclasses.replace(parents["eats"], base_fingerprint="a" * 64)
    second = dataclasses.replace(parents["lives"], base_fingerprint="b" * 64)
    with pytest.raises(errors.Incompatible) as refused:
        composed({"eats": first, "lives": second})
    assert [problem.where for problem in refused.value.problems] == ["eats", "lives"]
    assert "aaaaaaaaaaaa" in str(refused.value)


def test_refusal_names_structural_problems_of_all_parents(
    parents: dict[str, ParentInput], tiny_folder: Path, tmp_path: Path
) -> None:
    for name in "xy":
        save_adapter(tiny_folder, tmp_path / name, **VARIANTS["dora"])
    dora = {name: ParentInput(name=name, folder=tmp_path / name) for name in "xy"}
    with pytest.raises(errors.Incompatible) as refused:
        composed({**dora, "eats": parents["eats"]})
    assert [problem.where.split()[0] for problem in refused.value.problems] == ["x", "y"]
    assert "DoRA" in str(refused.value)


def test_adapters_of_another_base_are_refused(
    parents: dict[str, ParentInput], tmp_path_factory: pytest.TempPathFactory
) -> None:
    wide = dataclasses.replace(models.ARCHITECTURES[1], name="wide", kv_heads=1)
    other = load_base(models.save_model(wide, tmp_path_factory.mktemp("other")), dtype="float32", device="cpu")
    with pytest.raises(errors.Incompatible, match="k_proj"):
        composed(parents, other)


def test_exception_in_a_kernel_becomes_a_plugin_error(parents: dict[str, ParentInput]) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("oops")

    spec = ComposeSpec.of({"adapter": "x", "parents": [{"adapter": n} for n in parents], "strategy": "ties"})
    tried = trials.make_trials(spec, catalog.load_catalog())
    with pytest.raises(errors.PluginError, match="ties failed: ZeroDivisionError: oops"):
        compose(list(parents.values()), spec, [tried[0], dataclasses.replace(tried[1], merge=broken)])
    with pytest.raises(errors.PluginError, match="ties failed: ZeroDivisionError: oops"):
        compose(list(parents.values()), spec, [tried[0], dataclasses.replace(tried[1], resolve=broken)])


def test_find_below_names_parents_below_the_minimum_and_worse_than_the_base() -> None:
    lines = [
        Retention(parent="good", status="measured", base=3, own=2, composed=2.1, retention=0.9),
        Retention(parent="poor", status="measured", base=3, own=2, composed=2.6, retention=0.4),
        Retention(parent="harmed", status="undefined", base=3, own=3, composed=3.1),
        Retention(parent="unharmed", status="undefined", base=3, own=3, composed=2.9),
        Retention(parent="unknown", status="unmeasured"),
    ]
    assert find_below(lines, 0.5) == ("poor", "harmed", "unknown")
    assert find_below(lines, None) == ()


def test_auto_without_data_runs_the_requested_resolver(parents: dict[str, ParentInput]) -> None:
    without_rows = {name: dataclasses.replace(parent, validation=()) for name, parent in parents.items()}
    report = composed(without_rows, resolver="orthogonalize").report
    assert (report.strategy, report.resolver) == ("linear", "orthogonalize")
    with pytest.raises(errors.Incompatible, match="refuse"):
        composed(without_rows, resolver="refuse", resolver_parameters={"threshold": 0.0})


def test_minimum_retention_is_not_met_without_measurement(parents: dict[str, ParentInput]) -> None:
    without_rows = {name: dataclasses.replace(parent, validation=()) for name, parent in parents.items()}
    report = composed(without_rows, min_retention=0.5).report
    assert report.below_retention == ("eats", "lives")
    assert "the minimum retention is not known to hold" in report.advice[1]


def test_learned_is_refused_if_no_parent_gains(parents: dict[str, ParentInput], base: Base) -> None:
    other = [Example.of_pair(f"def add{i}(a, b):", f"return a * {i} + b") for i in range(20)]
    without_gain = {name: dataclasses.replace(parent, validation=other) for name, parent in parents.items()}
    with pytest.raises(errors.Incompatible, match="no parent gains"):
        composed(without_gain, base, strategy="learned", scale=1.0)


def test_requested_strategy_is_swept_even_far_behind_linear(parents: dict[str, ParentInput], base: Base) -> None:
    report = composed(parents, base, strategy="dare", parameters={"drop": 0.97}, evaluations=12).report
    tried = [point for point in report.candidates if point.strategy == "dare"]
    best = max(number(point.worst) for point in report.candidates if point.strategy == "linear")
    assert number(tried[0].worst) < best - 0.08
    assert len(tried) > 2


def test_plan_forecasts_the_retention_of_strategies(parents: dict[str, ParentInput], base: Base) -> None:
    both = list(parents.values())
    spec = ComposeSpec.of({"adapter": "both", "parents": [{"adapter": parent.name} for parent in both]})
    tried = trials.make_trials(spec, catalog.load_catalog())
    found = {forecast.strategy: forecast for forecast in plan(both, tried, base=base).forecasts}
    assert set(found) == {trial.label for trial in tried if not trial.needs_data}
    worst = [min(kept for kept in forecast.kept if kept is not None) for forecast in found.values()]
    assert worst == sorted(worst, reverse=True)
    # Plain linear was measured at scale 1, so its forecast at a near scale is accurate.
    report = composed(parents, base, strategy="linear", scale=found["linear"].scale).report
    assert report.worst_retention == pytest.approx(min(k for k in found["linear"].kept if k is not None), abs=0.2)


@pytest.fixture(scope="module")
def apart(base: Base, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ParentInput]:
    """Two random adapters without a common module, with enough rows to divide."""
    folder = tmp_path_factory.mktemp("apart")
    found = {}
    for seed, (name, modules) in enumerate({"queries": ["q_proj"], "values": ["v_proj"]}.items()):
        save_adapter(base.folder, folder / name, seed=seed, r=4, lora_alpha=8, target_modules=modules)
        rows = [Example.of_pair(f"What does finch {i} eat?", f"{NUMBERS[i % 8]} seeds.") for i in range(20)]
        found[name] = ParentInput(name=name, folder=folder / name, validation=rows)
    return found


@pytest.mark.parametrize("fields", [{}, {"strategy": "ties"}, {"strategy": "dare", "scale": 0.3}, {"strategy": "cat"}])
@pytest.mark.parametrize("is_measured", [False, True])
def test_parents_without_a_common_module_are_both_kept_whole(
    apart: dict[str, ParentInput], base: Base, fields: dict[str, Any], is_measured: bool, tmp_path: Path
) -> None:
    result = composed(apart, base if is_measured else None, **fields)
    result.save(tmp_path / "both")
    deltas = peft_deltas(base.folder, tmp_path / "both")
    expected = {module: delta for p in apart.values() for module, delta in peft_deltas(base.folder, p.folder).items()}
    assert set(deltas) == set(expected)
    for module, delta in expected.items():
        assert relative(deltas[module], delta) < 1e-5
    assert result.report.scale == fields.get("scale", 1.0)
    # No scale and no strategy changes anything, so nothing is searched.
    assert result.report.evaluations <= (2 if is_measured else 0)
    assert not any("estimate" in line for line in result.report.advice)


@pytest.mark.parametrize("strategy", ["linear", "cat"])
def test_sum_of_parents_with_other_scales_ranks_and_dtypes_is_that_of_peft(
    strategy: str, tiny_folder: Path, tmp_path: Path
) -> None:
    # PEFT's own combination of such parents loses their scale (peft#3761) or cannot be loaded again (peft#3737).
    variants = {"rslora": {}, "patterns": {}, "plain": {"bf16": True}}
    mixed = {}
    for seed, (name, options) in enumerate(variants.items()):
        save_adapter(tiny_folder, tmp_path / name, seed=seed, **VARIANTS[name], **options)
        mixed[name] = ParentInput(name=name, folder=tmp_path / name, weight=1.0 + seed)
    composed(mixed, strategy=strategy, scale=1.0).save(tmp_path / "sum")
    own = {name: peft_deltas(tiny_folder, p.folder) for name, p in mixed.items()}
    found = peft_deltas(tiny_folder, tmp_path / "sum")
    assert set(found) == {module for deltas in own.values() for module in deltas}
    for module, delta in found.items():
        expected = sum(p.weight * own[name].get(module, np.zeros_like(delta)) for name, p in mixed.items())
        assert relative(delta, np.asarray(expected)) < 1e-5


@pytest.mark.parametrize("strategy", ["auto", "tsv", "ties", "cat"])
def test_parent_of_weight_0_takes_no_part(strategy: str, parents: dict[str, ParentInput]) -> None:
    weighted = {name: dataclasses.replace(p, weight={"eats": 0.0, "lives": 0.8}[name]) for name, p in parents.items()}
    made = composed(weighted, strategy=strategy).factors
    own = read_parent(parents["lives"].folder, "lives").factors
    assert set(made) == set(own)
    for module, update in own.items():
        assert relative(dense(made[module]), 0.8 * dense(update)) < 1e-5


def test_plain_linear_that_is_better_on_the_report_rows_is_chosen_and_the_advice_says_so(
    parents: dict[str, ParentInput], base: Base, tmp_path: Path
) -> None:
    # A parent of both subjects, whose rows ask of them in turns. So the search sees one subject, the report the other.
    composed(parents, strategy="linear", scale=1.0).save(tmp_path / "both")
    rows = [make(i) for i in range(40, 60) for make in SUBJECTS.values()]
    both = [
        ParentInput(name="both", folder=tmp_path / "both", validation=rows),
        dataclasses.replace(parents["lives"], validation=()),
    ]
    eats = read_parent(parents["eats"].folder, "eats").factors
    spec = ComposeSpec.of({"adapter": "x", "parents": [{"adapter": p.name} for p in both], "scale": 1.0})
    linear = trials.make_trials(spec, catalog.load_catalog())[0]
    flattering = dataclasses.replace(linear, strategy="flattering", merge=lambda *_, **__: eats)
    report = compose(both, spec, [linear, flattering], base=base).report
    searched = {point.strategy: number(point.worst) for point in report.candidates}
    assert searched["flattering"] > searched["linear"]
    assert (report.strategy, report.won_by) == ("linear", 0.0)
    assert any("flattering won the search, but plain linear is better" in line for line in report.advice)


def test_report_counts_the_rows_that_choose_and_the_rows_that_report(
    parents: dict[str, ParentInput], base: Base
) -> None:
    mixed = {
        "eats": dataclasses.replace(parents["eats"], validation=parents["eats"].validation[:5]),
        "lives": parents["lives"],
    }
    rows = composed(mixed, base, evaluations=1).report.conflicts.rows
    assert rows == (
        RowDivision(parent="eats", selection=5, report=5, is_divided=False),
        RowDivision(parent="lives", selection=10, report=10, is_divided=True),
    )
    assert plan(list(mixed.values()), base=base).rows == rows
    assert composed(mixed).report.conflicts.rows == plan(list(mixed.values())).rows == ()


def test_parent_with_which_the_base_computes_no_numbers_is_named(tmp_path: Path) -> None:
    base, folder = unusable.make(tmp_path)
    rows = [SUBJECTS["eats"](number) for number in range(6)]
    loud = ParentInput(name="loud/1", folder=folder, validation=rows)
    for parents in ({"loud/1": loud}, {"loud/1": loud, "loud/2": dataclasses.replace(loud, name="loud/2", weight=0.5)}):
        with pytest.raises(errors.UnusableAdapter, match=r"^loud/1 cannot be used with .*not finite") as raised:
            composed(parents, base)
        assert raised.value.adapter == "loud/1"
