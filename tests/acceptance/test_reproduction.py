"""`finch-hub adapters reproduce`: a real worker does again what made a version, and the bytes are compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from support.adapters import save_adapter

from finch_hub import Hub, ReproductionReport, errors
from finch_hub.cli import main
from finch_hub.registry.values import AdapterVersion
from finch_hub.specs.reading import DataWarning
from finch_hub.storage import publishing

OTHER_MACHINE = "an instruction set that no processor reports"
PAIRS = [(f"What does finch {n} eat?", f"It eats {('seeds', 'buds', 'grain')[n % 3]}.") for n in range(24)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Hub() as made:
        yield made
        made.workers.stop_own()


def trained(hub: Hub, base: Path, name: str, **options: Any) -> AdapterVersion:
    job = hub.train(
        PAIRS, adapter=name, base=base, epochs=2, batch_size=4, learning_rate=5e-3, dropout=0.1, rank=4, alpha=8.0,
        threads=1, **options,
    )  # fmt: skip
    made = job.result()
    assert isinstance(made, AdapterVersion)
    return made


def trained_further(hub: Hub, start: str) -> AdapterVersion:
    """Train a version further on the same rows, whose held-out loss is thus known."""
    made = hub.train(PAIRS, adapter="birds", start=start, epochs=1, batch_size=4, threads=1).result()
    assert isinstance(made, AdapterVersion)
    return made


def altered(hub: Hub, version: AdapterVersion, folder: Path) -> AdapterVersion:
    """Register what was trained on another machine: one tensor is a little off, and so says its lineage."""
    shutil.copytree(hub.adapters.folder(version.reference), folder)
    folder.chmod(0o700)
    weights = folder / "adapter_model.safetensors"
    weights.chmod(0o600)
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name] = tensors[name] * 1.001
    save_file(tensors, weights)
    for beside in ("finch.json", "README.md"):
        (folder / beside).unlink()
    environment = {**version.lineage.environment, "instruction_set": OTHER_MACHINE, "numpy": "1.0"}
    description = publishing.Description(
        name="elsewhere", kind="train", base=version.base, spec=version.spec, lineage=version.lineage
    )
    register = publishing.publish(folder, hub._stores, description, environment)
    with hub._stores.database.write() as session:
        return register(session, version.base)


@pytest.mark.slow
def test_what_was_made_comes_out_again_or_is_told_apart(
    hub: Hub, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    birds = trained(hub, tiny_folder, "birds", batch_tokens=64)
    trained(hub, tiny_folder, "finches", seed=1)
    with pytest.warns(DataWarning, match="held-out rows of"):
        composed = hub.compose(["birds", "finches"], adapter="both", strategy="dare", scale=0.7)
    both = composed.result()
    smaller = hub.quantize("birds", scheme="int8").result()
    further = trained_further(hub, "birds/1")
    trained(hub, tiny_folder, "birds", seed=2)  # the bare name means another version from here on
    assert isinstance(both, AdapterVersion)
    assert isinstance(smaller, AdapterVersion)
    assert birds.lineage.environment["batch_tokens"] == [[0, 64]]
    assert [parent.reference for parent in further.lineage.parents] == ["birds/1"]
    assert further.metrics["loss_before"] == pytest.approx(birds.metrics["loss_after"], rel=1e-4)
    for version in (birds, both, smaller, further):
        report = hub.reproduce(version.reference).report()
        assert isinstance(report, ReproductionReport)
        assert report.identical, (report.config, report.tensors[:3], report.causes)
        assert (report.kind, report.tensors, report.causes) == (version.kind, (), ())
        assert report.reproduced_identity == version.identity
    assert [version.number for version in hub.adapters.versions("birds").versions] == [4, 3, 2, 1]

    altered(hub, birds, tmp_path / "elsewhere")
    capsys.readouterr()
    assert main.main(["adapters", "reproduce", "elsewhere", "--json", "--quiet"]) == 9
    found = json.loads(capsys.readouterr().out)["report"]
    (tensor,) = found["tensors"]
    assert tensor["relative"] == pytest.approx(0.001, rel=0.01)
    assert {change["name"]: change["original"] for change in found["causes"]} == {
        "instruction_set": OTHER_MACHINE,
        "numpy": "1.0",
    }


def test_what_nothing_can_be_said_of_is_refused_at_once(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    source = save_adapter(tiny_folder, tmp_path / "guest", r=4, lora_alpha=8, target_modules=["q_proj"])
    hub.import_adapter(source, name="guest", base="tiny")
    with pytest.raises(errors.Incompatible, match="imported"):
        hub.reproduce("guest")
    assert hub.jobs.find() == []


@pytest.mark.slow
def test_what_was_purged_cannot_be_made_again(hub: Hub, tiny_folder: Path) -> None:
    birds = trained(hub, tiny_folder, "birds")
    hub.datasets.purge(str(birds.lineage.train_digest))
    with pytest.raises(errors.Conflict, match="purged"):
        hub.reproduce("birds")
