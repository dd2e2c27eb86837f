"""Conflicts and compositions as tables."""

from __future__ import annotations

from typing import Any

from finch_hub.display import compositions
from finch_hub.specs.reports import Candidate, CompositionReport, ConflictReport, PairConflict, Retention, RowDivision

from .conftest import Drawn


def pair(module: str = "", **changes: Any) -> PairConflict:
    measures = {"output_overlap": 0.05, "input_overlap": 0.95, "cosine": 0.1, "sign_conflict": 0.4, "norm_ratio": 0.8}
    return PairConflict(module=module, first="law/1", second="style/2", **{**measures, **changes})


def test_conflicts_show_pairs_worst_modules_and_advice(drawn: Drawn) -> None:
    modules = tuple(pair(f"layers.{n}.q_proj", sign_conflict=n / 20) for n in range(20))
    report = ConflictReport(
        parents=("law/1", "style/2"), pairs=(pair(),), modules=modules, advice="compose", reasons=("they hardly meet",)
    )
    text = drawn(compositions.draw_conflicts(report))
    assert "law/1 + style/2" in text
    assert "layers.19.q_proj" in text
    assert "layers.0.q_proj" not in text
    assert "advice: compose" in text
    assert "they hardly meet" in text


def test_adapters_that_share_no_module_are_said_to_have_no_conflicts(drawn: Drawn) -> None:
    text = drawn(compositions.draw_conflicts(ConflictReport(parents=("law/1", "style/2"), advice="compose")))
    assert "No two adapters change the same module." in text


def test_adapters_that_cannot_be_composed_are_not_said_to_have_no_conflicts(drawn: Drawn) -> None:
    reason = "style/2 was made for another base"
    report = ConflictReport(
        parents=("law/1", "style/2"), structural=(reason,), advice="keep apart and switch", reasons=(reason,)
    )
    assert drawn(compositions.draw_conflicts(report)).split() == [
        "advice:",
        *report.advice.split(),
        "-",
        *reason.split(),
    ]


def test_composition_shows_retention_and_candidates(drawn: Drawn) -> None:
    report = CompositionReport(
        strategy="tsv",
        scale=0.8,
        rank=64,
        conflicts=ConflictReport(parents=("law/1", "style/2")),
        retention=(
            Retention(
                parent="law/1",
                status="measured",
                base=3.0,
                own=2.0,
                composed=2.1,
                linear=2.3,
                retention=0.9,
                examples=12,
            ),
            Retention(parent="style/2", status="unmeasured"),
        ),
        candidates=(
            Candidate(strategy="linear", scale=0.5, weights=(1.25, 0.8), losses=(2.3, None), worst=0.7, mean=0.7),
            Candidate(strategy="tsv", scale=0.8, losses=(2.1, None), worst=0.9, mean=0.9),
        ),
        below_retention=("law/1",),
        advice=("keep law/1 apart and switch",),
    )
    text = drawn(compositions.draw_composition(report))
    lines = [line.split() for line in text.splitlines()]
    assert ["law/1", "3.000", "2.000", "2.100", "2.300", "0.900", "12"] in lines
    assert any(line[:1] == ["style/2"] and "unmeasured" in line for line in lines)
    assert text.index("tsv") < text.index("linear ")
    assert ["linear", "-", "0.5", "1.25", "0.8", "0.700", "0.700"] in lines
    assert "below the requested retention: law/1" in text
    assert "advice: keep law/1 apart and switch" in text


def test_plans_and_compositions_show_the_rows_that_choose_and_report(drawn: Drawn) -> None:
    rows = (
        RowDivision(parent="law/1", selection=12, report=30, is_divided=True),
        RowDivision(parent="style/2", selection=7, report=7, is_divided=False),
    )
    conflicts = ConflictReport(parents=("law/1", "style/2"), rows=rows)
    report = CompositionReport(strategy="tsv", scale=0.8, rank=64, conflicts=conflicts)
    for text in (drawn(compositions.draw_conflicts(conflicts)), drawn(compositions.draw_composition(report))):
        lines = [line.split() for line in text.splitlines()]
        assert ["law/1", "12", "30", "other", "rows"] in lines
        assert ["style/2", "7", "7", "the", "same", "rows"] in lines
