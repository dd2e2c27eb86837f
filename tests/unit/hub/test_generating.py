"""Generators: the adapters that they accept."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.adapters import save_adapter
from support.models import ARCHITECTURES, save_model

from finch_hub import Hub, errors
from finch_hub.display import tables


def test_adapter_on_another_base_that_it_fits_is_refused(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    twin = save_model(ARCHITECTURES[0], tmp_path / "twin", seed=1)
    for folder, name in ((tiny_folder, "tiny"), (twin, "twin")):
        hub.bases.add(folder, name=name)
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj"])
    hub.import_adapter(made, name="guest", base="tiny")
    with pytest.raises(errors.InvalidSpec, match="guest/1: was made for tiny, not for twin"):
        hub.generator("twin", ["guest"])
    with pytest.raises(errors.InvalidSpec, match="was made for tiny"):
        hub.evaluate([("a", "b")], ["guest"], base="twin")


def test_model_shows_trainings_as_its_hub_does_although_others_are_open(
    hub: Hub, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.console.cache_clear()
    for shows in (True, False):
        model = Hub(hub.settings, progress=shows).generator(tiny_folder)
        with Hub(hub.settings, progress=not shows):
            model.fine_tune([("Who?", "Ana."), ("Who else?", "Bo.")], epochs=1)
        assert ("step 1/" in capsys.readouterr().err) is shows
