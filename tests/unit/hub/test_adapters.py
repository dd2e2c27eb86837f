"""Adapters: deletion and import."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.adapters import save_adapter
from support.models import ARCHITECTURES, save_model

from finch_hub import Hub, errors


@pytest.mark.usefixtures("versions")
def test_delete_without_a_version_number_is_refused(hub: Hub) -> None:
    with pytest.raises(errors.InvalidReference, match="name/3"):
        hub.adapters.delete("medical")
    assert hub.adapters.delete("medical/1").deleted_at is not None
    with pytest.raises(errors.NotFound):
        hub.adapters.get("medical")


def test_import_of_a_peft_adapter_makes_a_ready_version(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    version = hub.import_adapter(made, name="guest", base="tiny")
    assert (version.reference, version.kind, version.state) == ("guest/1", "import", "ready")
    assert (hub.adapters.folder("guest") / "adapter_model.safetensors").is_file()
    model = hub.generator(adapters=["guest"])
    assert model.adapters == ("guest",)
    assert model.active is None


def test_import_for_another_base_is_refused(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    other = save_model(ARCHITECTURES[3], tmp_path / "other", layers=3)
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(other, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    with pytest.raises(errors.Incompatible, match="tiny"):
        hub.import_adapter(made, name="guest", base="tiny")
    assert hub.adapters.find() == []


def test_import_of_a_pickle_is_refused_and_leaves_nothing(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj"])
    shutil.move(made / "adapter_model.safetensors", made / "adapter_model.bin")
    with pytest.raises(errors.RefusedArtifact):
        hub.import_adapter(made, name="guest", base="tiny")
    assert hub.adapters.find() == []
    assert not list(hub.settings.home.glob("import-*"))
