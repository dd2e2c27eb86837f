"""What a report tells of versions and jobs of each kind."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from support.evidence import DATA, HOSTILE, make_composition, make_curve, make_training

from finch_hub.display.page import Page, Section, write_page
from finch_hub.display.report_page import ReportFacts, add_summary, make_page
from finch_hub.specs.evidence import Evidence, Sample, Samples
from finch_hub.specs.reports import EvaluationReport, MergeReport, QuantizationReport

TRAINED = make_training(make_curve(100, 5)).evolve(adapter="legal/3", environment={"threads": 2, "versions": {"a": 1}})
COMPOSED = make_composition(["legal/3", "medical/1", "code/2"], layers=4).evolve(adapter="all/1")
SAMPLES = Samples(
    max_tokens=64,
    samples=(Sample(prompt="Who?", expected="Ana.", before="No.", after="Ana", is_cut=True),),
    start="a/1",
)


def show(**facts: object) -> Page:
    return make_page(ReportFacts(title="T", summary={}, **facts))  # type: ignore[arg-type]


def find(page: Page, heading: str) -> Section:
    (section,) = [section for section in page.sections if section.heading == heading]
    return section


def test_training_has_its_curve_data_drift_settings_and_command() -> None:
    page = show(evidence=TRAINED, spec={"lora": {"rank": 8, "init": None}, "system": ""}, command="finch-hub train d")
    assert [section.heading for section in page.sections] == [
        "Summary", "Training", "Data", "Drift", "Settings", "Repeat it", "Environment",
    ]  # fmt: skip
    assert find(page, "Summary").texts == (
        "Held-out loss: 2.900 -> 1.600 (-44.8%, 120 examples, the best of 9 evaluations).",
    )
    assert [chart.name for section in page.sections for chart in section.charts] == [
        "loss", "lengths", "left-out", "drift",
    ]  # fmt: skip
    assert find(page, "Settings").fields == (("lora rank", "8"),)
    assert find(page, "Repeat it").code == "finch-hub train d"
    assert find(page, "Environment").fields == (("threads", "2"), ("versions a", "1"))


def test_composition_has_retention_and_conflicts_and_says_what_was_lost() -> None:
    page = show(evidence=COMPOSED)
    assert [section.heading for section in page.sections] == [
        "Summary", "Retention", "Conflicts", "Drift", "Repeat it",
    ]  # fmt: skip
    texts = " ".join(find(page, "Summary").texts)
    assert "It keeps least of legal/3: 100% of its gain over the base." in texts
    assert "On general prompts the model moved by 0.9 nats per token" in texts
    assert "Advice: train the parents with a shared initialization" in texts
    assert [chart.name for section in page.sections for chart in section.charts] == ["retention", "conflicts", "drift"]


def test_nothing_known_says_why() -> None:
    page = show(evidence=Evidence(kind="train", absence="pruned"), has_job=False)
    (summary,) = page.sections
    assert "its job was pruned" in summary.texts[0]


def test_data_without_losses_says_that_nothing_was_left_out() -> None:
    names = ("truncated", "left_out", "duplicates", "overlap", "shared_prompts", "near_duplicates")
    clean = DATA.model_dump(exclude_defaults=True) | dict.fromkeys(names, 0)
    training = TRAINED.training
    assert training is not None
    page = show(evidence=TRAINED.evolve(training=training.evolve(data={**clean, "reading": None}), curve=None))
    assert find(page, "Data").texts == ("No row was left out, cut or repeated.",)
    assert find(page, "Training").charts == ()


def test_samples_are_quoted_with_who_answered() -> None:
    section = find(show(samples=SAMPLES), "Sample answers")
    assert section.quotes == ((("prompt", "Who?"), ("expected", "Ana."), ("before, by a/1", "No."), ("after", "Ana")),)
    assert "64 tokens" in section.texts[0]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (MergeReport(out="/models/x", modules=4, bytes_written=10**9, seconds=2.5), ("out", "/models/x")),
        (EvaluationReport(evaluator="e", dataset="0" * 64, results={}), ("evaluator", "e")),
    ],
)
def test_reports_without_evidence_are_names_and_values(report: MergeReport, expected: tuple[str, str]) -> None:
    assert expected in find(show(report=report), "Report").fields


def test_evaluation_has_a_table_of_models() -> None:
    results = {"base": {"loss": 2.5, "example_losses": [1.0]}, "legal/3": {"loss": 1.5, "accuracy": 0.5}}
    report = EvaluationReport(evaluator="held_out_loss", dataset="0" * 64, results=results)
    (table,) = find(show(report=report), "Report").tables
    assert table.columns == ("model", "loss", "accuracy")
    assert table.rows == (("base", "2.5", "-"), ("legal/3", "1.5", "0.5"))


def test_quantization_has_its_size() -> None:
    report = QuantizationReport(scheme="int8", group=64, bytes_before=4000, bytes_after=1000, relative_error=0.01)
    fields = dict(find(show(evidence=Evidence(kind="quantize", quantization=report)), "Quantization").fields)
    assert fields["size"] == "4.0 kB -> 1.0 kB"


def test_summary_can_get_more() -> None:
    facts = add_summary(ReportFacts(title="T", summary={"a": 1}), {"created": datetime(2026, 1, 2, tzinfo=UTC)})
    assert [name for name, _ in make_page(facts).sections[0].fields] == ["a", "created"]


def test_hostile_text_in_each_field_is_text() -> None:
    training = TRAINED.training
    assert training is not None
    hostile = TRAINED.evolve(notes=(HOSTILE,), adapter=HOSTILE, environment={HOSTILE: HOSTILE})
    composition = make_composition([HOSTILE, f"{HOSTILE}2", f"{HOSTILE}3"], layers=2)
    report = composition.composition
    assert report is not None
    conflicts = report.conflicts.evolve(advice=HOSTILE, reasons=(HOSTILE,))
    mixed = hostile.evolve(composition=report.evolve(conflicts=conflicts, strategy=HOSTILE, advice=(HOSTILE,)))
    samples = Samples(max_tokens=3, samples=(Sample(prompt=HOSTILE, expected=HOSTILE, before=HOSTILE, after=HOSTILE),))
    results = {HOSTILE: {HOSTILE: HOSTILE}}
    evaluation = EvaluationReport(evaluator=HOSTILE, dataset=HOSTILE, results=results, unusable={HOSTILE: HOSTILE})
    facts = ReportFacts(
        title=HOSTILE,
        summary={HOSTILE: HOSTILE},
        evidence=mixed,
        report=evaluation,
        samples=samples,
        spec={HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]},
        command=HOSTILE,
    )
    written = write_page(make_page(facts))
    assert "<script" not in written
    assert "<img" not in written
    assert "\u202e" not in written
    assert "\x1b" not in written
    assert written.count("&lt;script&gt;alert(1)") > 30
