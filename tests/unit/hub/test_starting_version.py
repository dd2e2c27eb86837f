"""Trainings that go on from a version: what they take from it, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.adapters import save_adapter
from support.families import named, save_family

from finch_hub import Hub, Requirements, errors
from finch_hub.registry import adapter_versions
from finch_hub.specs.jobs import TrainSpec

SHAPE: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def start(hub: Hub, tiny_folder: Path, tmp_path: Path) -> str:
    hub.bases.add(tiny_folder, name="tiny")
    return hub.import_adapter(
        save_adapter(tiny_folder, tmp_path / "guest", **SHAPE), name="legal", base="tiny"
    ).reference


def submit(hub: Hub, data: Path, **options: Any) -> TrainSpec:
    spec = hub.train(data, adapter="legal", **options).spec
    assert isinstance(spec, TrainSpec)
    return spec


def test_training_takes_base_and_shape_of_the_version_that_it_starts_from(
    hub: Hub, data: Path, start: str, tiny_folder: Path
) -> None:
    hub.adapters.set_alias(start, "best")
    spec = submit(hub, data, start="legal@best")
    assert (spec.start, spec.base.source) == (start, str(tiny_folder))
    assert (spec.lora.rank, spec.lora.alpha, set(spec.lora.target_modules)) == (4, 8.0, {"q_proj", "v_proj"})
    assert spec.group_key is None
    hub.adapters.delete_alias("legal", "best")
    with pytest.raises(errors.Conflict, match="needs it"):
        hub.adapters.delete(start)


def test_what_the_version_has_may_be_given_too(hub: Hub, data: Path, start: str, tiny_folder: Path) -> None:
    for base in ("tiny", tiny_folder):
        assert submit(hub, data, start=start, base=base, rank=4, alpha=8).start == start


def test_dropout_is_of_the_training_and_not_of_the_shape(hub: Hub, data: Path, start: str) -> None:
    assert submit(hub, data, start=start, dropout=0.2).lora.dropout == 0.2
    assert submit(hub, data, start=start).lora.dropout == 0.0


def test_earlier_versions_of_the_hub_cannot_read_such_a_job(hub: Hub, data: Path, start: str) -> None:
    """They would pass over the field `start`, and train a new adapter."""
    assert submit(hub, data, start=start).lora.init == "start"
    with pytest.raises(errors.InvalidInput, match="'start' is for a training with start"):
        submit(hub, data, base="tiny", init="start")


def test_submission_loads_neither_torch_nor_transformers(hub: Hub, data: Path, start: str, valkey_url: str) -> None:
    code = (
        "import pathlib, sys\n"
        "from finch_hub import Hub, settings\n"
        "home, url, data, start = sys.argv[1:]\n"
        "with Hub(settings.load(home=pathlib.Path(home), broker_url=url)) as hub:\n"
        "    hub.train(data, adapter='legal', start=start)\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(hub.settings.home), valkey_url, str(data), start]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_revision_without_a_base_is_refused(hub: Hub, data: Path, start: str) -> None:
    with pytest.raises(errors.InvalidInput, match="revision: is given without a base"):
        submit(hub, data, start=start, revision="main")


def test_prompts_are_those_of_the_version_unless_others_are_given(hub: Hub, data: Path, start: str) -> None:
    with hub._stores.database.write() as session:
        row = adapter_versions.get_row(session, start)
        row.spec = {**row.spec, "system": "Be brief.", "thinking": True}
    spec = submit(hub, data, start=start)
    assert (spec.system, spec.thinking) == ("Be brief.", True)
    assert submit(hub, data, start=start, system="Be long.").system == "Be long."


def test_other_base_and_shape_are_refused_with_everything_that_differs(
    hub: Hub, data: Path, start: str, tmp_path: Path
) -> None:
    other = save_family(named("gpt2"), tmp_path / "other")
    with pytest.raises(errors.InvalidInput) as caught:
        submit(hub, data, start=start, base=other, rank=8, target_modules="attention", use_dora=True, init="eva")
    text = str(caught.value)
    assert f"{other} is not the base of legal/1, which is tiny" in text
    for field in ("rank", "target_modules", "use_dora", "init"):
        assert f"leave {field} out" in text
    assert "alpha" not in text
    assert hub.jobs.find() == []


def test_training_together_and_one_without_base_and_start_are_refused(hub: Hub, data: Path, start: str) -> None:
    with pytest.raises(errors.InvalidInput, match="start cannot be combined with together"):
        submit(hub, data, start=start, requirements=Requirements(together=True))
    with pytest.raises(errors.InvalidInput, match="neither base nor start is given"):
        submit(hub, data)


def test_version_that_cannot_be_trained_is_refused(
    hub: Hub, data: Path, start: str, tiny_folder: Path, tmp_path: Path
) -> None:
    whole = save_adapter(tiny_folder, tmp_path / "whole", **SHAPE, modules_to_save=["lm_head"])
    whole_version = hub.import_adapter(whole, name="whole", base="tiny").reference
    with pytest.raises(errors.InvalidInput, match=r"cannot start from adapter whole/1: it has whole modules"):
        submit(hub, data, start=whole_version)
    with hub._stores.database.write() as session:
        adapter_versions.quarantine(session, start, job_id="none")
    with pytest.raises(errors.Conflict, match="cannot start from adapter legal/1: it is quarantined"):
        submit(hub, data, start=start)
    with pytest.raises(errors.NotFound, match="legal"):
        submit(hub, data, start="legol")
