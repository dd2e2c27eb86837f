"""Evidence as tables, bars and lines."""

from __future__ import annotations

import pytest

from finch_hub.display import evidence
from finch_hub.specs.evidence import Evidence, LossCurve, Sample, Samples
from finch_hub.specs.reports import (
    CompositionReport,
    ConflictReport,
    DataReport,
    Forgetting,
    PairConflict,
    Retention,
    TrainingReport,
)

from .conftest import Drawn

MEASURES = {"output_overlap": 0.5, "input_overlap": 0.5, "cosine": 0.1, "norm_ratio": 0.9}
CONFLICTS = ConflictReport(
    parents=("a/1", "b/1"),
    modules=tuple(
        PairConflict(module=f"model.layers.{n}.q_proj", first="a/1", second="b/1", sign_conflict=n / 10, **MEASURES)
        for n in range(4)
    ),
)
COMPOSED = Evidence.of_composition(
    CompositionReport(
        strategy="linear",
        scale=1.0,
        rank=4,
        conflicts=CONFLICTS,
        retention=(
            Retention(parent="a/1", status="measured", base=3.0, own=2.0, composed=2.5, retention=0.5, examples=9),
            Retention(parent="b/1", status="unmeasured"),
        ),
        forgetting=Forgetting(before=0.1, after=0.2, tokens=99, prompts=1),
        below_retention=("a/1",),
        advice=("compose with a smaller weight of b/1",),
    )
).evolve(adapter="both/1", environment={"threads": 2, "pulled": {"repository": "ana/both"}})
DATA = DataReport(examples=1234, tokens=80, label_tokens=40, length_mean=10.0, length_max=12, length_p95=12, overlap=3)
TRAINED = Evidence.of_training(
    TrainingReport(
        steps=3, epochs=1.0, tokens=80, seconds=1.0, train_loss=2.0, data=DATA,
        trainable_parameters=1, total_parameters=2,
    ),
    LossCurve.of_points([(1, 3.0, 1e-4), (2, 2.0, 1e-4), (3, 1.0, 1e-4)], [(0, 3.0, 0.1), (3, 1.5, 0.5)]),
)  # fmt: skip


def test_composition_shows_what_was_lost_and_what_to_do(drawn: Drawn) -> None:
    text = drawn(evidence.draw_evidence(COMPOSED))
    for shown in (
        "Evidence of both/1 (compose)",
        "a/1",
        "0.500",
        "unmeasured",
        "0.200 nats per token",
        "threads 2, pulled repository",
    ):
        assert shown in text
    assert "below the requested retention: a/1" in text
    assert "advice: compose with a smaller weight of b/1" in text
    assert "Conflicts in the worst 4 of 4 layers" in text
    assert "conflicts by module were measured" not in text
    bounded = drawn(evidence.draw_evidence(COMPOSED.evolve(module_conflicts=1234)))
    assert "1,234 conflicts by module were measured, and the 4 worst are kept." in bounded


def test_training_shows_curve_and_data(drawn: Drawn) -> None:
    text = drawn(evidence.draw_evidence(TRAINED))
    assert "train loss 3.000 █▅▁ 1.000, steps 1 to 3" in text
    assert "held-out loss 3.000 █▁ 1.500, steps 0 to 3" in text
    assert "examples 1,234" in text
    assert "overlap 3" in text


def test_summary_names_retention_worst_layers_drift_and_advice() -> None:
    assert evidence.summarize_evidence(COMPOSED) == (
        "retention of a/1: 0.500 (loss of the base, its own and the composition: 3.000 -> 2.000 -> 2.500)",
        "retention of b/1: unmeasured (loss of the base, its own and the composition: - -> - -> -)",
        "conflict in layer 3: opposite signs in 30% of the energy, most in model.layers.3.q_proj",
        "conflict in layer 2: opposite signs in 20% of the energy, most in model.layers.2.q_proj",
        "conflict in layer 1: opposite signs in 10% of the energy, most in model.layers.1.q_proj",
        "drift: 0.100 -> 0.200 nats per token from the base on general prompts",
        "advice: compose with a smaller weight of b/1",
    )
    assert evidence.summarize_evidence(TRAINED)[2] == "trained on 1,234 examples, 0 held out"
    assert evidence.summarize_evidence(Evidence(kind="train")) == ()


def test_version_without_evidence_says_why(drawn: Drawn) -> None:
    for absence, text in {
        "pruned": "its job was pruned before evidence was kept",
        "unreadable": "it is damaged, or a newer Finch Hub wrote it (run `finch-hub fsck`)",
        "purged": "it was purged",
        "not recorded": "Nothing was recorded",
    }.items():
        known = Evidence.of({"adapter": "birds/1", "kind": "train", "absence": absence})
        shown = " ".join(drawn(evidence.draw_evidence(known)).split())
        assert text in shown
        assert ("pruned" in shown) == (absence == "pruned")
    assert "changed: a name" in drawn(evidence.draw_evidence(Evidence(kind="import", notes=("changed: a name",))))


@pytest.mark.parametrize(
    ("losses", "bars"), [([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0.0, 7.0], "▁█"), ([*map(float, range(8))], "▁▂▃▄▅▆▇█")]
)
def test_bars_reach_from_the_lowest_to_the_highest_value(losses: list[float], bars: str) -> None:
    assert evidence.make_bars(losses) == bars
    assert len(evidence.make_bars(losses * 100)) <= 48


def test_samples_show_prompts_and_answers_and_whether_they_were_cut(drawn: Drawn) -> None:
    sample = Sample(prompt="What does it\neat?", expected="Seeds.", before="\x1b[2JStones", after="Seeds", is_cut=True)
    text = drawn(evidence.draw_samples(Samples(samples=(sample,), max_tokens=64)))
    for shown in ("What does it", "eat?", "Seeds.", r"\x1b[2JStones", "cut after 64 tokens", "before, by the base"):
        assert shown in text
    further = drawn(evidence.draw_samples(Samples(samples=(sample,), max_tokens=64, start="birds/1")))
    assert "before, by birds/1" in further
    assert "base" not in further
    hiding = drawn(evidence.draw_samples(Samples(samples=(sample,), max_tokens=64, start="expected")))
    for shown in ("Seeds.", "Stones"):
        assert shown in hiding
