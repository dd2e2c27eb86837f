"""Reports of jobs as tables."""

from __future__ import annotations

from finch_hub.display import reports
from finch_hub.specs.reports import (
    Change,
    EvaluationReport,
    ExportReport,
    Forgetting,
    MergeReport,
    ReproductionReport,
    TensorDifference,
    TokenMetrics,
)

from .conftest import Drawn


def test_merge_evaluation_and_unknown_reports_are_drawn(drawn: Drawn) -> None:
    merged = MergeReport(
        out="/m", modules=210, bytes_written=270_000_000, seconds=1.5, max_logit_difference=0.01, argmax_agreement=1.0
    )
    assert "270.0 MB in 1.5 s" in drawn(reports.draw_report(merged))
    evaluated = EvaluationReport(
        evaluator="held_out_loss", dataset="a" * 64, results={"base": {"loss": 3.2}, "law/1": {"loss": 2.5}}
    )
    text = drawn(reports.draw_report(evaluated))
    assert text.index("base") < text.index("law/1")
    assert "3.2" in text
    before, after = (TokenMetrics(loss=loss, accuracy=0.5, tokens=10, examples=5) for loss in (2.0, 1.5))
    assert reports.format_loss_change(before, after) == "2.000 -> 1.500 (-25.0%, 5 examples)"
    assert "the best of 4 evaluations" in (reports.format_loss_change(before, after, evaluations=4) or "")
    assert "out" in drawn(reports.draw_report(ExportReport(format="vllm", out="/x")))


def test_forgetting_is_drawn_as_a_distance_from_the_base() -> None:
    new = Forgetting(before=0.0, after=0.05, tokens=400, prompts=1)
    assert reports.format_forgetting(new) == "0.050 nats per token from the base on general prompts"
    assert (reports.format_forgetting(new.evolve(before=0.01)) or "").startswith("0.010 -> 0.050 nats")
    assert reports.format_forgetting(None) is None


def test_reproduction_shows_identity_or_differences_and_causes(drawn: Drawn) -> None:
    same = ReproductionReport(
        adapter="a/1", kind="train", identical=True, identity="1" * 64, reproduced_identity="1" * 64, compared=2,
        seconds=3.0,
    )  # fmt: skip
    assert "byte for byte" in drawn(reports.draw_report(same))
    tensors = (TensorDifference(name="q.lora_B.weight", relative=1e-3, largest=0.5),)
    causes = (Change(name="threads", original=2, reproduced=1),)
    other = same.evolve(identical=False, reproduced_identity="2" * 64, tensors=tensors, causes=causes)
    text = drawn(reports.draw_report(other))
    for shown in ("1 of 2 tensors differ", "q.lora_B.weight", "1.00e-03", "threads"):
        assert shown in text
    assert "nothing that the lineage records" in drawn(reports.draw_report(other.evolve(causes=())))
