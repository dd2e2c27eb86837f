"""The adapter that users create and train."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training.adapter import LoRAAdapter, read_rows, replace_settings
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
