"""Adapter versions as tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finch_hub import AdapterVersion
from finch_hub.display import adapters
from finch_hub.registry import values
from finch_hub.specs.evidence import Evidence

from .conftest import Drawn

NOTHING = Evidence(kind="train")


def make_version(name: str, **fields: Any) -> AdapterVersion:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    base = values.Base(
        id=1,
        name="tiny",
        source="/models/tiny",
        revision=None,
        fingerprint="f" * 64,
        architecture="LlamaForCausalLM",
        parameters=1000,
        path=None,
        created_at=now,
    )
    required = {"number": 1, "digest": "d" * 64, "identity": "1" * 64, "kind": "train", "state": "ready"}
    return AdapterVersion(name=name, base=base, created_at=now, updated_at=now, **{**required, **fields})


@pytest.mark.parametrize(
    ("metrics", "evidence"),
    [
        ({"loss_before": 3.0, "loss_after": 2.0}, "loss 3.000 -> 2.000"),
        ({"mean_retention": 0.9, "worst_retention": 0.8}, "retention 0.900, worst 0.800"),
        ({"scheme": "int8", "relative_error": 0.01}, "int8, error 1.00%"),
        ({}, "-"),
    ],
)
def test_evidence_is_that_of_the_kind(metrics: dict[str, Any], evidence: str) -> None:
    assert adapters.format_evidence(metrics) == evidence


def test_version_shows_lineage_metrics_and_evaluations(drawn: Drawn) -> None:
    lineage = values.Lineage(train_digest="a" * 64, seed=7)
    text = drawn(
        adapters.draw_version(make_version("birds", lineage=lineage, metrics={"rank": 16}), "/folder", [], {}, NOTHING)
    )
    for shown in ("birds/1", "LlamaForCausalLM", "aaaaaaaaaaaa, held out -", "rank 16", "/folder"):
        assert shown in text
    assert "evaluations" not in text
    version = make_version("birds", lineage=lineage)
    assert "seeds: aaaaaaaaaaaa, held out -" in drawn(
        adapters.draw_version(version, "/folder", [], {}, NOTHING, ["seeds"])
    )


def test_version_shows_the_description_of_its_adapter(drawn: Drawn) -> None:
    version = make_version("birds", description="Answers about birds.\nNot about bees.")
    text = drawn(adapters.draw_version(version, "/folder", [], {}, NOTHING))
    assert "Answers about birds." in text
    assert "Not about bees." in text


def test_version_shows_its_prompts_and_settings(drawn: Drawn) -> None:
    spec = {
        "kind": "train", "adapter": "birds", "train": "a" * 64, "validation": "b" * 64, "preset": "medical",
        "system": "Answer as a doctor.\nBe brief.", "thinking": True,
        "lora": {"rank": 16, "alpha": 32.0, "target_modules": ["q_proj", "v_proj"], "use_dora": False},
        "training": {"epochs": 3, "learning_rate": 0.0002, "max_steps": None, "validation": 0.1, "seed": 3,
                     "warmup_steps": 0, "max_bad_rows": 0.0, "strict": False},
    }  # fmt: skip
    text = " ".join(drawn(adapters.draw_version(make_version("birds", spec=spec), "/folder", [], {}, NOTHING)).split())
    assert "system prompt Answer as a doctor. Be brief." in text
    assert "reasoning prompts ask for it" in text
    settings = "preset medical, rank 16, alpha 32, target_modules q_proj, v_proj, epochs 3, learning_rate 0.0002"
    assert f"settings {settings}, validation 0.1, warmup_steps 0, max_bad_rows 0" in text
    assert "strict" not in text


def test_version_without_prompts_and_settings_shows_neither(drawn: Drawn) -> None:
    version = make_version("guest", kind="import", spec={"system": None, "thinking": False, "import": {"notes": []}})
    text = drawn(adapters.draw_version(version, "/folder", [], {}, NOTHING))
    assert not any(name in text for name in ("system prompt", "reasoning", "settings"))
