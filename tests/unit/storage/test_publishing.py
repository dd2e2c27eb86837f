from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import registry
from support.safetensors_files import PREFIX, adapter_folder, factors

from finch_hub import errors, settings
from finch_hub.artifacts.gate import adapter_identity
from finch_hub.registry import adapter_versions, audit, bases, evidence, values
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.value import JsonObject
from finch_hub.storage import publishing
from finch_hub.storage.stores import Stores, open_stores


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    opened = open_stores(settings.load(home=tmp_path / "home"))
    yield opened
    opened.database.close()


def publish(
    stores: Stores, folder: Path, environment: JsonObject | None = None, **fields: Any
) -> values.AdapterVersion:
    """Publish a folder as the next version of the adapter birds."""
    base = registry.add_base(stores.database)
    description = publishing.Description(name="birds", kind="import", base=base, **fields)
    create = publishing.publish(folder, stores, description, environment or {})
    with stores.database.write() as session:
        return create(session, base)


def left_behind(stores: Stores) -> list[Path]:
    """Return what publishing left in its folder for temporary files."""
    return list(stores.settings.home.glob(".*.part"))


def test_version_has_the_admitted_files_with_card_and_record(stores: Stores, tmp_path: Path) -> None:
    lineage = values.Lineage(seed=7)
    source = adapter_folder(tmp_path / "in", metadata={"author": "someone"})
    version = publish(stores, source, {"threads": 2}, lineage=lineage, metrics={"loss_after": 1.5}, spec={"kind": "x"})
    folder = stores.artifacts.fetch_tree(version.digest)
    names = {"adapter_config.json", "adapter_model.safetensors", "README.md", "finch.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert b"someone" not in (folder / "adapter_model.safetensors").read_bytes()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| loss_after | 1.5 |" in card
    assert "vllm serve" in card
    assert version.card.partition("\n## ")[0] in card
    assert "vllm" not in version.card
    record = json.loads((folder / "finch.json").read_text(encoding="utf-8"))
    assert (version.reference, version.state, version.lineage.seed) == ("birds/1", "ready", 7)
    assert record["lineage"] == version.lineage.model_dump(mode="json")
    assert version.lineage.environment == {"threads": 2}
    assert (record["identity"], record["metrics"]) == (version.identity, version.metrics)
    assert (version.metrics["rank"], version.metrics["loss_after"]) == (2, 1.5)
    assert version.metrics["bytes"] == sum((folder / name).stat().st_size for name in names if "adapter" in name)
    assert left_behind(stores) == []


def test_evidence_and_samples_are_stored_apart_from_the_files(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_KEY", secret := "correct-horse-battery")
    known, samples = Evidence(kind="import", notes=(f"refused {secret}",)), b'{"samples":[],"max_tokens":64}'
    version = publish(stores, adapter_folder(tmp_path / "in"), evidence=known, samples=samples)
    with stores.database.read() as session:
        found, digest = evidence.find(session, version.reference)
    assert digest is not None
    assert stores.artifacts.get(digest) == samples
    assert found.notes[0].startswith("refused ")
    assert secret not in found.model_dump_json()
    entries = stores.artifacts.tree(version.digest).values()
    assert digest not in {entry.digest for entry in entries}


def test_samples_that_were_collected_before_the_registration_are_stored_again(stores: Stores, tmp_path: Path) -> None:
    base, samples = registry.add_base(stores.database), b'{"samples":[],"max_tokens":64}'
    described = publishing.Description(
        name="birds", kind="import", base=base, evidence=Evidence(kind="import"), samples=samples
    )
    create = publishing.publish(adapter_folder(tmp_path / "in"), stores, described, {})
    stores.artifacts.remove(hashlib.sha256(samples).hexdigest())
    with stores.database.write() as session:
        version = create(session, base)
    with stores.database.read() as session:
        assert stores.artifacts.has(str(evidence.find(session, version.reference)[1]))


def test_secrets_among_metrics_and_environment_are_stored_nowhere(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_KEY", secret := "correct-horse-battery")
    metrics = {"loss_after": 1.5, "note": f"refused {secret}", "address": "https://u:pass1word@h", "password": "x1y2"}
    version = publish(stores, adapter_folder(tmp_path / "in"), {"command": f"serve {secret}"}, metrics=metrics)
    folder = stores.artifacts.fetch_tree(version.digest)
    texts = [version.model_dump_json(), *((folder / name).read_text() for name in ("README.md", "finch.json"))]
    assert not any(leaked in text for leaked in (secret, "pass1word", "x1y2") for text in texts)
    assert version.metrics["loss_after"] == 1.5


@pytest.mark.parametrize("state", ["ready", "below_retention"])
def test_version_with_a_huge_norm_is_quarantined_with_the_reason(
    stores: Stores, tmp_path: Path, state: values.VersionState
) -> None:
    loud = {name: tensor * np.float32(40) for name, tensor in factors().items()}
    version = publish(stores, adapter_folder(tmp_path / "in", loud), state=state)
    assert version.state == "quarantined"
    assert "layers.0.q: the update's norm may reach" in version.metrics["quarantine"][0]


def test_state_of_a_description_is_kept(stores: Stores, tmp_path: Path) -> None:
    assert publish(stores, adapter_folder(tmp_path / "in"), state="below_retention").state == "below_retention"


def test_refused_adapter_leaves_no_files(stores: Stores, tmp_path: Path) -> None:
    wrong = factors() | {f"{PREFIX}lm_head.weight": np.zeros((3, 3), np.float32)}
    with pytest.raises(errors.RefusedArtifact, match="is not a LoRA tensor"):
        publish(stores, adapter_folder(tmp_path / "in", wrong))
    assert left_behind(stores) == []
    assert list(Path(stores.settings.artifacts).rglob("*")) == []


def test_environment_gives_the_versions_of_the_lineage(stores: Stores, tmp_path: Path) -> None:
    version = publish(stores, adapter_folder(tmp_path / "in"), {"torch": "9.9", "threads": 3})
    assert version.lineage.environment == {"torch": "9.9", "threads": 3}
    assert version.lineage.versions["torch"] == "9.9", "of the process that made the bytes"
    assert version.lineage.versions["numpy"] == np.__version__


@pytest.mark.parametrize("public_id", [None, "birds/finch-1b"])
def test_files_have_the_name_and_the_id_that_users_gave_the_base(
    stores: Stores, tmp_path: Path, public_id: str | None
) -> None:
    """A job describes the base by its files: its name is the source, which may be a path."""
    fields = {"source": "/home/ana/models/tiny", "path": "/home/ana/models/tiny"}
    with stores.database.write() as session:
        base = bases.add(session, registry.describe_base("tiny", public_id=public_id, **fields), rename=True)
    described = registry.describe_base("/home/ana/models/tiny", fingerprint=base.fingerprint, **fields)
    spec: JsonObject = {"base": {"source": described.source, "revision": None}, "system": "Be brief."}
    description = publishing.Description(name="birds", kind="train", base=described, spec=spec)
    create = publishing.publish(adapter_folder(tmp_path / "in"), stores, description, {})
    with stores.database.write() as session:
        version = create(session, base)
    folder = stores.artifacts.fetch_tree(version.digest)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == (public_id or "tiny")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert (f'base_model: "{public_id}"' in card) == (public_id is not None)
    assert not [path.name for path in folder.iterdir() if b"/home/ana" in path.read_bytes()]
    record = json.loads((folder / "finch.json").read_text(encoding="utf-8"))
    assert (record["base"]["source"], record["base"]["public_id"]) == (public_id or "tiny", public_id)
    assert record["spec"] == {**spec, "base": {"source": public_id or "tiny", "revision": None}}
    assert version.spec == spec  # a replay needs the path
    assert adapter_identity(folder) == version.identity


def test_base_that_is_not_registered_yet_is_named_by_the_end_of_its_path(stores: Stores, tmp_path: Path) -> None:
    described = registry.describe_base("/home/ana/models/tiny", source="/home/ana/models/tiny", path="/nowhere")
    description = publishing.Description(name="birds", kind="train", base=described)
    create = publishing.publish(adapter_folder(tmp_path / "in"), stores, description, {})
    with stores.database.write() as session:
        version = create(session, bases.add(session, described))
    assert "A LoRA adapter for `tiny`" in version.card


def test_version_and_base_of_a_job_name_the_job_in_the_audit(stores: Stores, tmp_path: Path) -> None:
    stores.artifacts.check()  # marks the store before there is a row
    job = registry.submit(stores.database, owner="ana")
    described = registry.describe_base("other")
    description = publishing.Description(name="birds", kind="train", base=described, job_id=job.id)
    create = publishing.publish(adapter_folder(tmp_path / "in"), stores, description, {})
    for _ in range(2):
        with stores.database.write() as session:
            create(session, bases.add(session, described, job_id=job.id))
    with stores.database.write() as session:
        adapter_versions.quarantine(session, "birds/2", job_id=job.id)
    with stores.database.read() as session:
        entries = audit.find(session)
    assert [(entry.action, entry.on) for entry in entries] == [
        ("version.quarantine", "birds/2"),
        ("version.create", "birds/2"),
        ("version.create", "birds/1"),
        ("base.add", "other"),
    ]
    assert {(entry.who, entry.job_id) for entry in entries} == {("ana", job.id)}
    assert entries[1].details == {"kind": "train", "state": "ready"}


def test_version_of_a_user_has_the_entry_of_the_change(stores: Stores, tmp_path: Path) -> None:
    publish(stores, adapter_folder(tmp_path / "in"))
    with stores.database.read() as session:
        assert audit.find(session) == []


def test_secret_in_a_system_prompt_is_in_no_file(stores: Stores, tmp_path: Path) -> None:
    system = "password=SECRETpw1"
    version = publish(stores, adapter_folder(tmp_path / "in"), spec={"system": system})
    assert version.spec["system"] == system  # the model was trained with it
    assert "password=***" in version.card
    for file in stores.artifacts.fetch_tree(version.digest).iterdir():
        assert b"SECRETpw1" not in file.read_bytes()
