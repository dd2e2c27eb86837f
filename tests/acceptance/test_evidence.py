"""Evidence after all jobs are pruned: what a composition lost and what to do, the curve, samples and comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finch_hub import Hub, errors
from finch_hub.cli import main
from finch_hub.display import tables
from finch_hub.registry.values import AdapterVersion
from finch_hub.settings import Settings
from finch_hub.specs.evidence import LossCurve

PAIRS = [(f"What does finch {n} eat at noon?", f"It eats {('seeds', 'buds', 'grain')[n % 3]}.") for n in range(24)]
OTHERS = [(f"Where does owl {n} sleep by day?", f"In a {('barn', 'tree', 'tower')[n % 3]}.") for n in range(24)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Hub() as made:
        yield made
        made.workers.stop_own()


def train(hub: Hub, data: Any, base: Path, name: str, **options: Any) -> AdapterVersion:
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "rank": 4, "alpha": 8.0, "threads": 1, **options}
    made = hub.train(data, adapter=name, base=base, **settings).result()
    assert isinstance(made, AdapterVersion)
    return made


@pytest.mark.slow
def test_evidence_answers_after_all_jobs_are_pruned(
    hub: Hub, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    birds = train(hub, PAIRS, tiny_folder, "birds", samples=2)
    train(hub, OTHERS, tiny_folder, "owls", validation=0.25)
    both = hub.compose(["birds", "owls"], adapter="both", strategy="linear", min_retention=0.99).result()
    assert isinstance(both, AdapterVersion)
    sharper = train(hub, PAIRS, tiny_folder, "birds", learning_rate=1e-2)
    smaller = hub.quantize("birds/1", scheme="int8").result()
    assert isinstance(smaller, AdapterVersion)
    hub.jobs.prune(days=0)
    assert hub.jobs.find() == []

    trained = hub.adapters.evidence("birds/1")
    assert trained.training is not None
    assert trained.data is not None
    assert (trained.data.examples, trained.data.problems) == (22, ())
    assert trained.training.environment == {}
    assert trained.environment["threads"] == 1
    assert isinstance(trained.curve, LossCurve)
    assert trained.curve.steps == tuple(range(1, trained.training.steps + 1))
    assert trained.curve.evaluated_steps[0] == 0
    assert trained.curve.evaluated_steps[-1] == trained.training.steps
    assert min(trained.curve.held_out_loss[1:]) == pytest.approx(birds.metrics["loss_after"], rel=1e-4)
    assert trained.samples == "stored"
    assert hub.adapters.evidence("owls").samples == "none"
    assert hub.adapters.evidence(smaller.reference).quantization is not None

    found = hub.adapters.evidence("both/1")
    assert [kept.parent for kept in found.retention] == ["birds/1", "owls/1"]
    assert found.composition is not None
    assert found.layers
    assert found.module_conflicts == len(found.composition.conflicts.modules)
    assert found.forgetting is not None

    tables.console.cache_clear()
    capsys.readouterr()
    for words in (["evidence", "both/1"], ["show", "both/1"]):
        assert main.main(["adapters", *words]) == 0
        shown = capsys.readouterr().out
        assert "birds/1" in shown
        assert "retention" in shown
        assert all(line in shown.replace("\n", " ") for line in found.composition.below_retention)
    assert main.main(["adapters", "evidence", "birds/1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["curve"]["steps"] == [*trained.curve.steps]
    assert "## Retention" in both.card
    assert "| `birds/1` |" in both.card

    samples = hub.adapters.samples("birds/1")
    assert len(samples.samples) == 2
    assert {sample.prompt for sample in samples.samples} <= {prompt for prompt, _ in PAIRS}
    with pytest.raises(errors.Conflict, match="has no sample answers: its training kept none"):
        hub.adapters.samples("owls")
    files = list(hub.adapters.folder("birds/1").iterdir())
    assert not any(samples.samples[0].prompt.encode() in file.read_bytes() for file in files)

    comparison = hub.adapters.compare("birds/1", sharper.reference, modules=True)
    changed = {value.name: value.values for value in comparison.values if value.section == "settings"}
    assert changed == {"training.learning_rate": (5e-3, 1e-2), "training.samples": (2, None)}
    assert comparison.modules[0].module == ""
    assert all(norm is not None and norm > 0 for norm in comparison.modules[0].norms)
    report = hub.reproduce("birds/1").report()
    assert report.model_dump()["identical"]

    hub.bundle(tmp_path / "all.bundle", ["birds", "owls", "both"])
    with Hub(Settings(home=tmp_path / "other")) as other:
        taken = other.unbundle(tmp_path / "all.bundle")
        assert {version.reference for version in taken.versions} == {
            "birds/1", "birds/2", smaller.reference, "owls/1", "both/1"
        }  # fmt: skip
        again = other.adapters.get("both/1")
        assert (again.lineage, again.metrics, again.identity) == (both.lineage, both.metrics, both.identity)
        assert other.adapters.evidence("both/1").retention == found.retention

    hub.datasets.purge(str(birds.lineage.train_digest))
    assert hub.adapters.evidence("birds/1").samples == "purged"
    with pytest.raises(errors.Conflict, match="they were purged"):
        hub.adapters.samples("birds/1")
