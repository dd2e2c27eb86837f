"""The adapter that users create and train."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.display import sessions, tables
from finch_hub.display.progress import PlainView
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training.adapter import LoRAAdapter, read_rows, replace_settings
from finch_hub.specs.events import NewEvent
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reading import DataWarning, ReadingConfig
from finch_hub.specs.training import TrainingConfig


def test_second_training_continues_from_the_first(tiny_base: Base) -> None:
    pairs = [("What does a finch eat?", "It eats seeds."), ("Where does it live?", "In woods and gardens.")]
    one_thread = TrainingConfig(threads=1)
    adapter = LoRAAdapter(LoRAConfig(target_modules="all-linear"), tiny_base)
    first = adapter.train(pairs, epochs=4, learning_rate=1e-2, validation=pairs, training=one_thread)
    second = adapter.train(pairs, epochs=4, learning_rate=1e-2, validation=pairs, training=one_thread)
    assert adapter.is_enabled
    assert first.before is not None
    assert second.before is not None
    assert first.after is not None
    assert second.after is not None
    assert first.after.loss < first.before.loss
    assert second.before.loss == pytest.approx(first.after.loss, rel=1e-5)
    assert second.after.loss < first.after.loss


def test_train_without_a_base_says_how_to_get_one() -> None:
    adapter = LoRAAdapter(LoRAConfig())
    with pytest.raises(errors.InvalidSpec, match=r"cannot train: it has no base.*LoRAAdapter\(config, base=\.\.\.\)"):
        adapter.train([("a", "b")], epochs=1, learning_rate=1e-3)


def test_rows_are_read_as_the_training_and_the_user_say(tmp_path: Path) -> None:
    rows = [{"q": "a", "r": "b", "id": 1}] * 9 + [{"q": "a", "r": ""}]
    columns = ReadingConfig(prompt_column="q", completion_column="r", max_bad_rows=0.1)
    with pytest.warns(DataWarning, match="id"), pytest.warns(DataWarning, match="left out 1 of 10 rows"):
        examples = read_rows(rows, columns, replace_settings(None, columns))
    assert examples == (Example.of_pair("a", "b"),) * 9
    pairs = [(row["q"], row["r"]) for row in rows]
    with pytest.raises(errors.InvalidDataset, match=r"more than max_bad_rows=0\.05 allows"):
        read_rows(pairs, None, TrainingConfig())
    with pytest.warns(DataWarning, match="left out 1 of 10 rows"):
        assert read_rows(pairs, None, TrainingConfig(max_bad_rows=0.1)) == examples
    with pytest.raises(errors.InvalidDataset, match="which strict=True refuses"):
        read_rows(pairs, None, TrainingConfig(max_bad_rows=0.1, strict=True))
    named = ReadingConfig(prompt_column="q", completion_column="r")
    with pytest.raises(errors.InvalidDataset, match="read strictly: id: is not used"):
        read_rows(rows[:9], named, replace_settings(TrainingConfig(strict=True), named))
    assert replace_settings(TrainingConfig(max_bad_rows=0.2), columns).max_bad_rows == 0.1
    (tmp_path / "a.csv").write_text("prompt;completion\na;b\n", encoding="utf-8")
    with pytest.warns(DataWarning, match="semicolon"):
        assert read_rows(tmp_path / "a.csv", None, TrainingConfig()) == examples[:1]


def test_adapter_is_a_short_text_and_detaches_itself_at_the_end_of_its_block(tiny_base: Base) -> None:
    with LoRAAdapter(LoRAConfig(rank=4), tiny_base) as adapter:
        shown = repr(adapter)
        assert "LoRAConfig(rank=4)" in shown
        assert "is_enabled            True" in shown
        assert len(shown.splitlines()) == 6
        assert "<table " in adapter._repr_html_()
    assert adapter.base is None
    assert repr(adapter.config) == "LoRAConfig(rank=4)"


def test_training_is_shown_to_the_user_or_told_to_a_receiver(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[NewEvent] = []
    one_step = TrainingConfig(threads=1, max_steps=1)
    with LoRAAdapter(LoRAConfig(), tiny_base) as adapter:
        adapter.train([("a", "b")], training=one_step, report=told.append)
        assert "training" in {event.message for event in told if event.type == "phase"}
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(sessions, "open_client_view", lambda shows: PlainView())
        tables.console.cache_clear()
        adapter.train([("a", "b")], training=one_step)
    assert "training" in capsys.readouterr().err
