"""Compositions: what is refused before a job exists, and the conflicts that plans report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import registry
from support.adapters import save_adapter
from support.models import ARCHITECTURES, save_model

from finch_hub import Hub, JobState, errors
from finch_hub.hub import composing
from finch_hub.registry import adapter_versions, values
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import ComposeSpec, TrainSpec
from finch_hub.specs.reading import DataWarning


@pytest.mark.usefixtures("versions")
def test_compose_passes_weights_and_options_to_the_job(hub: Hub) -> None:
    spec = hub.compose(["medical", "legal/1"], adapter="both", weights=[1, 0.5], strategy="tsv", rank=12).spec
    assert isinstance(spec, ComposeSpec)
    assert [(p.adapter, p.weight) for p in spec.parents] == [("medical", 1.0), ("legal/1", 0.5)]
    assert (spec.strategy, spec.rank, spec.resolver) == ("tsv", 12, "keep")


@pytest.mark.parametrize(
    ("first", "second", "system", "thinking"),
    [
        ({"system": "Be brief.", "thinking": True}, {"system": "Be brief.", "thinking": True}, "Be brief.", True),
        ({"system": "Be brief.", "thinking": True}, {"system": "Be kind."}, None, False),
        ({}, {}, None, False),
    ],
)
def test_a_composition_has_the_prompt_that_all_parents_have(
    first: dict[str, Any], second: dict[str, Any], system: str | None, thinking: bool
) -> None:
    versions: Any = [SimpleNamespace(spec=first), SimpleNamespace(spec=second)]
    assert composing._common(versions, "system") == system
    assert bool(composing._common(versions, "thinking")) == thinking


@pytest.mark.usefixtures("versions")
def test_compose_of_different_bases_names_each_adapter(hub: Hub) -> None:
    with pytest.raises(errors.Incompatible) as raised:
        hub.compose(["medical", "poetry"], adapter="both")
    assert "medical/1: was made for tiny" in str(raised.value)
    assert "poetry/1: was made for other" in str(raised.value)
    assert hub.jobs.find() == []


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, "1 given for 2 adapters"),
        ({"weights": [1, float("nan")]}, "finite"),
        ({"strategy": "tvs"}, "did you mean 'tsv'"),
        ({"resolver": "kepe"}, "did you mean 'keep'"),
        ({"strategy": "ties", "parameters": {"density": 0}}, "density"),
        ({"rank": 13}, "use 12 or less"),
        ({"scale": 0}, "scale"),
        ({"strenght": 1}, "strenght"),
    ],
)
def test_compose_refuses_options_that_cannot_work(hub: Hub, options: dict[str, Any], message: str) -> None:
    with pytest.raises((errors.InvalidInput, errors.NotFound), match=message):
        hub.compose(["medical", "legal"], adapter="both", **options)
    assert hub.jobs.find() == []


@pytest.mark.usefixtures("versions")
def test_compose_of_a_missing_adapter_offers_similar_names(hub: Hub) -> None:
    with pytest.raises(errors.NotFound, match="did you mean 'medical'"):
        hub.compose(["medicla", "legal"], adapter="both")


@pytest.mark.usefixtures("versions")
def test_compose_of_one_version_under_two_names_is_refused(hub: Hub) -> None:
    with pytest.raises(errors.InvalidSpec, match="medical/1 is given twice"):
        hub.compose(["medical", "medical/1"], adapter="both")


@pytest.mark.usefixtures("versions")
def test_compose_reports_all_problems_at_once(hub: Hub) -> None:
    with pytest.raises(errors.InvalidSpec) as raised:
        hub.compose(["medicla", "lgeal"], adapter="../x", rank=0)
    text = str(raised.value)
    assert all(part in text for part in ("'medicla'", "'lgeal'", "'../x'", "rank"))


@pytest.mark.usefixtures("versions")
def test_compose_waits_for_adapters_of_unfinished_jobs(hub: Hub, tiny_folder: Path) -> None:
    training = hub.train([("a", "b"), ("c", "d")], adapter="fresh", base=tiny_folder)
    with pytest.raises(errors.NotFound, match="fresh"):
        hub.compose(["medical", "fresh"], adapter="both")
    waiting = hub.compose(["medical", "fresh"], adapter="both", depends_on=[training.id])
    assert waiting.state is JobState.WAITING


def test_compose_of_dora_and_biases_is_refused(hub: Hub, tmp_path: Path) -> None:
    base = save_model(ARCHITECTURES[2], tmp_path / "base")  # Qwen2, whose q has a bias
    hub.bases.add(base, name="tiny")
    for name, more in (("plain", {}), ("dora", {"use_dora": True}), ("biased", {"bias": "lora_only"})):
        made = save_adapter(base, tmp_path / name, r=4, lora_alpha=8, target_modules=["q_proj"], **more)
        hub.import_adapter(made, name=name, base="tiny")
    with pytest.raises(errors.Incompatible) as raised:
        hub.compose(["plain", "dora", "biased"], adapter="all")
    text = str(raised.value)
    assert "dora/1: has DoRA magnitudes" in text
    assert "biased/1: trained biases" in text
    assert "plain" not in text
    assert hub.jobs.find() == []


def test_announced_biases_of_a_base_without_biases_do_not_prevent_a_composition(
    hub: Hub, tiny_folder: Path, tmp_path: Path
) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, target_modules=["q_proj"], bias="all")
    hub.import_adapter(made, name="biased", base="tiny")
    assert hub.compose(["biased"], adapter="all").spec.model_dump()["adapter"] == "all"


def test_plan_compares_every_pair_without_a_job(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    for seed, name in enumerate(("first", "second", "third")):
        made = save_adapter(tiny_folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"])
        hub.import_adapter(made, name=name, base="tiny")
    report = hub.plan(["first", "second", "third"])
    assert {(pair.first, pair.second) for pair in report.pairs} == {
        ("first/1", "second/1"),
        ("first/1", "third/1"),
        ("second/1", "third/1"),
    }
    assert len(report.modules) == 3 * 2
    assert hub.jobs.find() == []


def test_plan_names_adapters_that_cannot_be_composed(
    hub: Hub, database: Database, tiny_folder: Path, tmp_path: Path
) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj"])
    ours = hub.import_adapter(made, name="ours", base="tiny")
    registry.add_version(database, "theirs", base="other", digest=ours.digest)
    report = hub.plan(["ours", "theirs"])
    assert len(report.structural) == 2
    assert report.pairs == ()
    assert "apart" in report.advice
    with pytest.raises(errors.NotFound, match="did you mean 'ours'"):
        hub.plan(["ours", "our"])


def test_plan_with_probe_measures_interference_on_held_out_examples(
    hub: Hub, database: Database, tiny_folder: Path, tmp_path: Path
) -> None:
    base = hub.bases.add(tiny_folder, name="tiny")
    for seed, name in enumerate(("first", "second")):
        made = save_adapter(tiny_folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"])
        digest = hub.import_adapter(made, name=f"{name}-files", base="tiny").digest
        held_out = hub.datasets.add([(f"Who sings {n}?", f"The {name} finch.") for n in range(4)]).digest
        with database.write() as session:
            adapter_versions.create(
                session,
                name=name,
                digest=digest,
                identity=registry.digest(name),
                base=base,
                kind="train",
                lineage=values.Lineage(validation_digest=held_out),
            )
    (light,) = hub.plan(["first", "second"]).pairs
    (probed,) = hub.plan(["first", "second"], probe=True).pairs
    assert light.interference is None
    assert probed.interference is not None
    assert probed.sign_conflict == pytest.approx(light.sign_conflict)
    for file in hub.settings.home.rglob(held_out):
        file.chmod(0o600)
        file.write_bytes(b"{")
    with pytest.raises(errors.RefusedArtifact):
        hub.plan(["first", "second"], probe=True)
    assert hub.plan(["first", "second"]).pairs == (light,), "a plan that measures nothing reads no rows"


def test_compose_warns_of_rows_that_another_parent_was_trained_on(
    hub: Hub, database: Database, tiny_folder: Path, data: Path
) -> None:
    for name, seed in (("birds", 1), ("bees", 2)):
        spec = hub.train(data, adapter=name, base=tiny_folder, validation=0.3, seed=seed).spec
        assert isinstance(spec, TrainSpec)
        lineage = values.Lineage(train_digest=spec.train, validation_digest=spec.validation)
        registry.add_version(database, name, lineage=lineage, metrics={"rank": 4})
    with pytest.warns(DataWarning) as warned:
        hub.compose(["birds", "bees"], adapter="both")
    texts = [str(warning.message) for warning in warned]
    assert len(texts) == 2
    assert "of 6 held-out rows of birds/1 are in the training data of bees/1" in texts[1]
