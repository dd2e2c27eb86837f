"""Plans: the conflicts that they report."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import registry
from support.adapters import save_adapter

from finch_hub import Hub, errors
from finch_hub.registry import adapter_versions, values
from finch_hub.registry.database import Database


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
                base_id=base.id,
                kind="train",
                lineage=values.Lineage(validation_digest=held_out),
            )
    (light,) = hub.plan(["first", "second"]).pairs
    (probed,) = hub.plan(["first", "second"], probe=True).pairs
    assert light.interference is None
    assert probed.interference is not None
    assert probed.sign_conflict == pytest.approx(light.sign_conflict)
