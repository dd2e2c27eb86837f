"""Comparisons of versions of any adapters and bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import registry
from support.safetensors_files import adapter_folder, factors

from finch_hub import Hub, errors
from finch_hub.registry import values
from finch_hub.registry.database import Database
from finch_hub.specs.comparisons import Comparison
from finch_hub.specs.evidence import Evidence
from finch_hub.storage import publishing

SPEC = {"kind": "train", "adapter": "birds", "train": "0" * 64, "lora": {"rank": 8}, "training": {"epochs": 3}}


def add(hub: Hub, folder: Path, name: str, scale: float = 1.0, base: str = "tiny", **fields: Any) -> str:
    """Add a version with real files, whose update is `scale` times that of others."""
    registered = registry.add_base(hub._stores.database, base)
    tensors = {key: tensor * np.float32(scale if "lora_B" in key else 1) for key, tensor in factors().items()}
    description = publishing.Description(name=name, kind="train", base=registered, **fields)
    source = adapter_folder(folder / f"{name} {scale}", tensors)
    create = publishing.publish(source, hub._stores, description, fields.pop("environment", {}))
    with hub._stores.database.write() as session:
        return create(session, registered).reference


def table(comparison: Comparison) -> dict[str, tuple[Any, ...]]:
    return {f"{value.section} {value.name}": value.values for value in comparison.values}


def test_only_what_differs_is_compared_unless_all_is_requested(hub: Hub, tmp_path: Path) -> None:
    lineage = values.Lineage(train_digest="a" * 64)
    add(hub, tmp_path, "birds", spec=SPEC, metrics={"loss_after": 2.0}, lineage=lineage)
    changed = {**SPEC, "lora": {"rank": 16}, "system": "Be brief."}
    add(hub, tmp_path, "birds", 2.0, spec=changed, metrics={"loss_after": 1.5}, lineage=lineage)
    found = hub.adapters.compare("birds/1", "birds/2")
    shown = table(found)
    assert shown.pop("version identity")
    assert shown == {
        "settings lora.rank": (8, 16),
        "settings system": (None, "Be brief."),
        "metrics loss_after": (2.0, 1.5),
    }
    every = hub.adapters.compare("birds/1", "birds/2", show_equal=True)
    assert every.equal == 0
    assert len(every.values) == len(found.values) + found.equal
    assert table(every)["settings training.epochs"] == (3, 3)
    assert table(every)["data training"] == ("a" * 12, "a" * 12)
    assert found.modules == ()
    assert found.remarks == ("birds/1 has no evidence of its making", "birds/2 has no evidence of its making")


def test_all_versions_of_an_adapter_are_compared_by_its_name(hub: Hub, tmp_path: Path) -> None:
    for rank in (4, 8, 16):
        add(hub, tmp_path, "birds", float(rank), spec={"lora": {"rank": rank}}, evidence=Evidence(kind="train"))
    found = hub.adapters.compare("birds")
    assert found.versions == ("birds/1", "birds/2", "birds/3")
    assert table(found)["settings lora.rank"] == (4, 8, 16)


def test_modules_are_compared_by_norm_and_direction(hub: Hub, tmp_path: Path) -> None:
    for scale in (1.0, 2.0, -0.5):
        add(hub, tmp_path, "birds", scale)
    total, *modules = hub.adapters.compare("birds", modules=True).modules
    assert modules
    for module in (total, *modules):
        first = module.norms[0]
        assert first is not None
        assert module.norms == pytest.approx((first, 2 * first, first / 2), rel=1e-3)
        assert module.cosines == (None, pytest.approx(1.0), pytest.approx(-1.0))
    assert modules[0].output_overlaps == (None, pytest.approx(1.0), pytest.approx(1.0))
    assert total.norms[0] == pytest.approx(np.sqrt(sum(module.norms[0] ** 2 for module in modules if module.norms[0])))


def test_what_cannot_be_compared_is_said(hub: Hub, tmp_path: Path, database: Database) -> None:
    add(hub, tmp_path, "birds")
    add(hub, tmp_path, "owls", base="other")
    registry.add_version(database, "gone")
    registry.delete_version(database, "gone", 1)
    found = hub.adapters.compare("birds/1", "owls/1", "gone/1", modules=True, show_equal=True)
    assert table(found)["version state"] == ("ready", "ready", "deleted")
    assert found.modules[0].norms[2] == 0
    assert found.modules[1].norms[2] is None
    assert found.modules[1].cosines[1] == pytest.approx(1.0)
    assert any("different bases" in remark for remark in found.remarks)
    assert any(remark.startswith("the modules of gone/1 are not compared: ") for remark in found.remarks)


def test_modules_of_other_shapes_have_norms_only(hub: Hub, tmp_path: Path) -> None:
    add(hub, tmp_path, "birds")
    wider = {key: np.concatenate([tensor, tensor]) if "lora_B" in key else tensor for key, tensor in factors().items()}
    registered = registry.add_base(hub._stores.database, "other")
    description = publishing.Description(name="owls", kind="import", base=registered)
    create = publishing.publish(adapter_folder(tmp_path / "wider", wider), hub._stores, description, {})
    with hub._stores.database.write() as session:
        create(session, registered)
    found = hub.adapters.compare("birds", "owls", modules=True)
    assert all(module.cosines == (None, None) for module in found.modules)
    assert all(norm for module in found.modules for norm in module.norms)
    assert any("have different shapes" in remark for remark in found.remarks)


def test_too_few_and_too_many_versions_are_refused(hub: Hub, database: Database) -> None:
    for _ in range(51):
        registry.add_version(database, "many")
    registry.add_version(database, "birds")
    with pytest.raises(errors.InvalidSpec, match="birds/1 is the only version"):
        hub.adapters.compare("birds")
    for references in ((), ("birds/1",)):
        with pytest.raises(errors.InvalidSpec, match="a comparison needs two versions"):
            hub.adapters.compare(*references)
    with pytest.raises(errors.InvalidSpec, match="51 versions cannot be compared at once: 50 are the most"):
        hub.adapters.compare("many")
    with pytest.raises(errors.NotFound, match="birds/7"):
        hub.adapters.compare("birds/1", "birds/7")
