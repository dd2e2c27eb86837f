"""Subjects of an evaluation: the base sees the same tokens as each adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support import unusable
from support.training import lessons

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.data.reading import dump_examples
from finch_hub.plugins import catalog
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import BaseModelSource, EvaluateSpec
from finch_hub.specs.lora import LoRAConfig
from finch_hub.workers.runs import evaluate
from finch_hub.workers.runs.channel import Stopped
from finch_hub.workers.runs.evaluate import BASE, EvaluateOrder, Subject
from finch_hub.workers.runs.model_cache import BaseOrder

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base


def names_of(*systems: str | None, own: str | None = None) -> dict[str, str | None]:
    adapters = [Subject(name=f"birds/{number}", system=system) for number, system in enumerate(systems, start=1)]
    return {subject.name: subject.system for subject in evaluate._bases_of(adapters, own)}


def test_the_base_is_measured_once_for_each_system_prompt() -> None:
    assert names_of(own="Be brief.") == {BASE: "Be brief."}
    assert names_of("Be brief.", "Be brief.") == {BASE: "Be brief."}
    assert names_of(None, None) == {BASE: None}
    first, none = f"{BASE} with the system prompt of birds/1", f"{BASE} without system prompt"
    assert names_of("Be brief.", None, "Be brief.") == {first: "Be brief.", none: None}
    assert names_of(None, "Be brief.") == {none: None, f"{BASE} with the system prompt of birds/2": "Be brief."}


@pytest.mark.parametrize("evaluator", ["held_out_loss", "exact_answer"])
def test_an_adapter_that_changes_nothing_has_the_figures_of_the_base(
    evaluator: str, tiny_base: Base, tmp_path: Path
) -> None:
    untrained = AttachableAdapter(LoRAConfig(rank=4, target_modules=("q_proj",)), tiny_base)
    untrained.detach()
    untrained.save(tmp_path / "untrained")
    (tmp_path / "rows.jsonl").write_bytes(dump_examples(lessons(6)))
    adapters = [
        Subject(name=f"birds/{number}", system=system, folder=tmp_path / "untrained")
        for number, system in enumerate((None, "You are a helpful assistant who knows birds."), start=1)
    ]
    source = BaseModelSource(source=tiny_base.name)
    order = EvaluateOrder(
        spec=EvaluateSpec(base=source, adapters=("birds/1", "birds/2"), dataset="0" * 64, evaluator=evaluator),
        base=BaseOrder(source=source, fetch="finch_hub.engine.bases.sources:fetch_base", cache=tmp_path),
        subjects=(*evaluate._bases_of(adapters, None), *adapters),
        examples=tmp_path / "rows.jsonl",
    )
    channel: Any = SimpleNamespace(
        phase=lambda text: None,
        report=lambda event: None,
        catalog=catalog.load_catalog(entry_points=False),
        bases=SimpleNamespace(load=lambda order, say: tiny_base),
        checkpoints=tmp_path / "checkpoints",
    )
    results = evaluate.execute(order, channel).report.results
    first, second, *measured = results.values()
    assert measured == [pytest.approx(first, rel=1e-5), pytest.approx(second, rel=1e-5)]
    if evaluator == "held_out_loss":
        assert first["loss"] != second["loss"]


@pytest.mark.parametrize("damaged", ["", '{"loss": ', "[]", "\xff"])
def test_figures_that_are_damaged_are_measured_again(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "0.json").write_text(damaged, encoding="latin-1")
    assert evaluate._read_kept(tmp_path / "0.json") is None


def test_the_next_attempt_measures_only_what_is_missing(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))  # rows are not copied
    (tmp_path / "rows.jsonl").write_bytes(dump_examples(lessons(3)))
    source = BaseModelSource(source=tiny_base.name)
    order = EvaluateOrder(
        spec=EvaluateSpec(base=source, dataset="0" * 64, evaluator="held_out_loss"),
        base=BaseOrder(source=source, fetch="finch_hub.engine.bases.sources:fetch_base", cache=tmp_path),
        subjects=tuple(Subject(name=name, system=None) for name in ("one", "two")),
        examples=tmp_path / "rows.jsonl",
    )
    phases: list[str] = []
    base = tiny_base

    def begin(phase: str) -> None:
        phases.append(phase)
        if fails and phase == "measuring two":
            raise Stopped("hand_back")

    channel: Any = SimpleNamespace(
        phase=begin,
        report=lambda event: None,
        catalog=catalog.load_catalog(entry_points=False),
        bases=SimpleNamespace(load=lambda order, say: base),
        checkpoints=tmp_path / "checkpoints",
    )
    fails = True
    with pytest.raises(Stopped):
        evaluate.execute(order, channel)
    fails, phases[:] = False, []
    results = evaluate.execute(order, channel).report.results
    assert [phase for phase in phases if "measuring" in phase] == ["measuring two"]
    assert list(results) == ["one", "two"]
    assert results["one"] == results["two"]
    # A branch that moved on between the attempts makes the figures those of another base.
    base, phases[:] = replace(tiny_base, fingerprint="2:" + "0" * 64), []
    evaluate.execute(order, channel)
    assert [phase for phase in phases if "measuring" in phase] == ["measuring one", "measuring two"]


@pytest.mark.parametrize("figures", [None, "text", 0.5, [0.5], {7: 0.5}])
def test_figures_that_are_none_are_named(figures: Any, tiny_base: Base, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(dump_examples(lessons(3)))
    source = BaseModelSource(source=tiny_base.name)
    order = EvaluateOrder(
        spec=EvaluateSpec(base=source, dataset="0" * 64, evaluator="odd"),
        base=BaseOrder(source=source, fetch="finch_hub.engine.bases.sources:fetch_base", cache=tmp_path),
        subjects=(Subject(name="base", system=None),),
        examples=tmp_path / "rows.jsonl",
    )
    odd = SimpleNamespace(label="evaluator odd", parse=lambda given: None, load=lambda: lambda *given: figures)
    channel: Any = SimpleNamespace(
        phase=lambda text: None,
        report=lambda event: None,
        catalog=SimpleNamespace(evaluators={"odd": odd}),
        bases=SimpleNamespace(load=lambda order, say: tiny_base),
        checkpoints=tmp_path / "checkpoints",
    )
    with pytest.raises(errors.PluginError, match=f"evaluator odd returned {type(figures).__name__}, not figures"):
        evaluate.execute(order, channel)


def test_adapter_with_which_the_base_computes_no_numbers_is_unusable(tmp_path: Path) -> None:
    base, folder = unusable.make(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(dump_examples(lessons(3)))
    source = BaseModelSource(source=base.name)
    events: list[NewEvent] = []
    channel: Any = SimpleNamespace(
        phase=lambda text: None,
        report=events.append,
        catalog=catalog.load_catalog(entry_points=False),
        bases=SimpleNamespace(load=lambda order, say: base),
        checkpoints=tmp_path / "checkpoints",
    )
    for evaluator in ("held_out_loss", "exact_answer"):
        order = EvaluateOrder(
            spec=EvaluateSpec(base=source, adapters=("birds/1",), dataset="0" * 64, evaluator=evaluator),
            base=BaseOrder(source=source, fetch="finch_hub.engine.bases.sources:fetch_base", cache=tmp_path),
            subjects=(Subject(name=BASE, system=None), Subject(name="birds/1", system=None, folder=folder)),
            examples=tmp_path / "rows.jsonl",
        )
        report = evaluate.execute(order, channel).report
        assert list(report.results) == [BASE]
        assert "not finite" in report.unusable["birds/1"]
        assert events.pop().level == "error"
