from __future__ import annotations

from finch_hub.artifacts.cards.samples import format_samples
from finch_hub.specs.evidence import Sample, Samples


def test_answers_are_shown_as_they_are_under_who_gave_them() -> None:
    sample = Sample(prompt="What eats it?", expected="```\n# Seeds", before="<b>Stones</b>", after="Seeds")
    lines = format_samples(Samples(samples=(sample,), max_tokens=64, start="team/birds_of_prey/1")).split("\n")
    assert lines[0] == "## Sample answers"
    assert "Each answer has at most 64 tokens." in lines
    assert "    # Seeds" in lines
    assert "    <b>Stones</b>" in lines
    assert any("team/birds" in line and "prey/1" in line and line.startswith("Before, by ") for line in lines)
    assert "Before, by base:" in format_samples(Samples(samples=(sample,), max_tokens=64)).split("\n")
