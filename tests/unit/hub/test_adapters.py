"""Adapters: deletion and import."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.adapters import save_adapter
from support.models import ARCHITECTURES, save_model

from finch_hub import Hub, errors
from finch_hub.artifacts.store import blob_path
from finch_hub.display.adapters import format_import
from finch_hub.registry import adapter_versions
from finch_hub.registry.database import Database
from finch_hub.workers.runs import inputs


@pytest.mark.usefixtures("versions")
def test_delete_of_what_an_alias_names_is_refused(hub: Hub) -> None:
    for reference in ("medical@best", "medical@latest"):
        with pytest.raises(errors.InvalidReference, match="name/3"):
            hub.adapters.delete(reference)
    assert hub.adapters.delete("medical/1").deleted_at is not None
    with pytest.raises(errors.NotFound):
        hub.adapters.get("medical")


def test_version_whose_files_are_damaged_is_not_restored(hub: Hub, base: Path, tmp_path: Path) -> None:
    hub.bases.add(base, name="tiny-base")
    made = save_adapter(base, tmp_path / "made", r=4, target_modules=["q_proj"])
    version = hub.import_adapter(made, name="guest", base="tiny-base")
    hub.import_adapter(made, name="twin", base="tiny-base")
    weights = hub._stores.artifacts.tree(version.digest)["adapter_model.safetensors"].digest
    file = hub.settings.home / "artifacts" / blob_path(weights)
    whole = file.read_bytes()
    for reference, fix in (("guest/1", "guest/1"), ("guest", "guest/1")):
        hub.adapters.delete(reference)
        file.chmod(0o600)
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        advice = (
            rf"are damaged: adapter_model.safetensors: blob {weights} now has(.|\n)*`finch-hub adapters purge {fix}`"
        )
        with pytest.raises(errors.Conflict, match=advice):
            hub.adapters.restore(reference)
        assert hub.adapters.find_deleted().deletions[0].reference == reference
        file.write_bytes(whole)
        assert hub.adapters.restore(reference) == ["guest/1"]
    other = save_adapter(base, tmp_path / "other", r=2, target_modules=["q_proj"])
    hub.import_adapter(other, name="guest", base="tiny-base")
    hub.adapters.delete("guest")
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.warns(errors.FinchWarning, match="not all of guest is restored: the files of guest/1 are damaged"):
        assert hub.adapters.restore("guest") == ["guest/2"]
    file.write_bytes(whole)
    assert hub.adapters.restore("guest/1") == ["guest/1"]
    hub.adapters.delete("guest/1")
    file.unlink()
    with pytest.raises(errors.Conflict, match="the files of guest/1 were removed since"):
        hub.adapters.restore("guest/1")


def test_deleted_adapter_gets_no_new_version(hub: Hub, versions: Database, tiny_folder: Path, data: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny-base")
    hub.adapters.delete("medical")
    makers: list[Callable[[], object]] = [
        lambda: hub.train(data, adapter="medical", base="tiny-base"),
        lambda: hub.compose(["legal"], adapter="medical"),
        lambda: hub.import_adapter("/nowhere", name="medical", base="tiny-base"),
    ]
    for make in makers:
        with pytest.raises(errors.Deleted, match=r"adapter medical was deleted .run `finch-hub adapters restore"):
            make()
    assert hub.jobs.find() == []
    assert [dataset.name for dataset in hub.datasets.find()] == []


def test_import_of_a_peft_adapter_makes_a_ready_version(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    version = hub.import_adapter(made, name="guest", base="tiny")
    assert (version.reference, version.kind, version.state) == ("guest/1", "import", "ready")
    assert (hub.adapters.folder("guest") / "adapter_model.safetensors").is_file()
    model = hub.generator(adapters=["guest"])
    assert model.adapters == ("guest",)
    assert model.active is None
    evidence = hub.adapters.evidence("guest")
    assert (evidence.kind, evidence.samples, evidence.notes) == ("import", "none", ("ignored files beside it: 1",))


SHAPE: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def put_away(folder: Path) -> Path:
    """Move a base's folder away, as if it were on another machine."""
    return Path(shutil.move(folder, folder.with_name("away")))


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base, which can be moved."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


def test_import_without_the_bases_files_is_unchecked_and_refused_until_it_is_checked(
    hub: Hub, base: Path, tmp_path: Path
) -> None:
    hub.bases.add(base, name="tiny", public_id="birds/tiny")
    made = save_adapter(base, tmp_path / "made", **SHAPE)
    away = put_away(base)
    version = hub.import_adapter(made, name="guest", base="tiny")
    assert version.state == "unchecked"
    operations: list[Callable[[str], object]] = [
        lambda name: hub.generator(adapters=[name]),
        lambda name: hub.evaluate([("a", "b")], [name]),
        lambda name: hub.compose([name], adapter="both"),
        lambda name: hub.plan([name]),
        lambda name: hub.merge([name], tmp_path / "merged"),
        lambda name: hub.quantize(name),
        lambda name: hub.export(name, tmp_path / "out"),
        lambda name: hub.adapters.set_alias(name, "best"),
    ]
    for operation in operations:
        with pytest.raises(errors.Conflict, match=r"guest/1 is unchecked|guest@best"):
            operation("guest/1")
    with pytest.raises(errors.Conflict, match="adapters check guest/1"):
        hub.export("guest", tmp_path / "out")
    with pytest.raises(errors.Unavailable, match="not on this machine"):
        hub.adapters.check("guest/1")
    shutil.move(away, base)
    checked = hub.adapters.check("guest/1")
    assert (checked.state, checked.identity, checked.digest) == ("ready", version.identity, version.digest)
    assert hub.adapters.check("guest").state == "ready", "once more changes nothing"
    assert hub.generator(adapters=["guest"]).adapters == ("guest",)


def test_worker_refuses_an_unchecked_version(hub: Hub, base: Path, tmp_path: Path) -> None:
    """A job that was submitted earlier may find another version under the name."""
    hub.bases.add(base, name="tiny")
    made = save_adapter(base, tmp_path / "made", **SHAPE)
    put_away(base)
    reference = hub.import_adapter(made, name="guest", base="tiny").reference
    with pytest.raises(errors.Conflict, match="unchecked"):
        inputs.fetch_version(reference, hub._stores)
    with pytest.raises(errors.Conflict, match="unchecked"):
        inputs.fetch_files([reference], hub._stores)


def test_unchecked_version_that_does_not_fit_stays_unchecked(hub: Hub, base: Path, tmp_path: Path) -> None:
    other = save_model(ARCHITECTURES[3], tmp_path / "other", layers=3)
    made = save_adapter(other, tmp_path / "made", **SHAPE)
    hub.bases.add(base, name="tiny")
    away = put_away(base)
    hub.import_adapter(made, name="guest", base="tiny")
    shutil.move(away, base)
    with pytest.raises(errors.Incompatible, match="base tiny"):
        hub.adapters.check("guest/1")
    assert hub.adapters.get("guest/1").state == "unchecked"


def test_unchecked_version_with_other_names_is_to_be_imported_again(hub: Hub, base: Path, tmp_path: Path) -> None:
    made = save_adapter(base, tmp_path / "made", **SHAPE)
    file = made / "adapter_model.safetensors"
    tensors = {name.replace("model.model.", "model.language_model.model."): t for name, t in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    hub.bases.add(base, name="tiny")
    away = put_away(base)
    hub.import_adapter(made, name="guest", base="tiny")
    shutil.move(away, base)
    with pytest.raises(errors.Incompatible, match="import its files again"):
        hub.adapters.check("guest/1")
    assert hub.import_adapter(made, name="guest", base="tiny").state == "ready"


def test_import_says_what_it_ignored_and_changed(hub: Hub, base: Path, tmp_path: Path) -> None:
    hub.bases.add(base, name="tiny")
    made = save_adapter(base, tmp_path / "made", **SHAPE)
    config = json.loads((made / "adapter_config.json").read_text())
    mapping = {"base_model_class": "Evil", "parent_library": "evil\x00"}
    notes = {"a": ["\x00", "https://user:correct-horse@h"], "api_key": "correct-horse"}
    changed = {**config, "target_modules": None, "auto_mapping": mapping, "notes": notes}
    (made / "adapter_config.json").write_text(json.dumps(changed)[:-1] + ', "learning_rate": 1e999}')
    (made / "optimizer.pt").write_bytes(b"x")
    (made / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    found = hub.import_adapter(made, name="guest", base="tiny").spec["import"]
    assert list(found["ignored_fields"]) == ["auto_mapping", "learning_rate", "notes"]
    json.dumps(found, allow_nan=False)
    assert "\\u0000" not in json.dumps(found)
    assert "correct-horse" not in json.dumps(found), "a stranger's secrets are not shown either"
    assert found["ignored_files"] == ["README.md", "caf\\udce9", "optimizer.pt"]
    assert "target_modules has the modules of the file" in found["notes"][0]


def test_limits_name_the_operations_that_cannot_use_a_version(hub: Hub, base: Path, tmp_path: Path) -> None:
    hub.bases.add(base, name="tiny")
    for name, saved in (("plain", None), ("head", ["lm_head"])):
        made = save_adapter(base, tmp_path / name, **{**SHAPE, "modules_to_save": saved})
        assert hub.import_adapter(made, name=name, base="tiny").state == "ready"
    assert hub.adapters.limits("plain") == {}
    (operations,) = hub.adapters.limits("head").values()
    assert "generate" in operations
    assert "merge" not in operations


def test_limits_of_an_adapter_that_an_earlier_hub_stored(hub: Hub, base: Path, tmp_path: Path) -> None:
    """A later gate would refuse it."""
    registered = hub.bases.add(base, name="tiny")
    made = save_adapter(base, tmp_path / "made", **SHAPE)
    config = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
    digest = hub._stores.artifacts.put_tree(made)
    with hub._stores.database.write() as session:
        version = adapter_versions.create(
            session, name="old", digest=digest, identity=digest, base=registered, kind="import"
        )
    assert format_import(version, hub.adapters.limits("old"))[0].startswith(
        "It has a problem with init_lora_weights: it is 'pissa', which changes the base's weights,"
        " so it cannot be used by: generate"
    )


def test_import_for_another_base_is_refused(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    other = save_model(ARCHITECTURES[3], tmp_path / "other", layers=3)
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(other, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    with pytest.raises(errors.Incompatible, match="tiny"):
        hub.import_adapter(made, name="guest", base="tiny")
    assert hub.adapters.overview().adapters == ()


def test_import_whose_base_is_removed_meanwhile_is_refused(
    hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finch_hub.storage import publishing

    hub.bases.add(base, name="tiny")
    publish = publishing.publish

    def remove_first(*arguments: Any, **options: Any) -> publishing.CreateVersion:
        hub.bases.remove("tiny")
        return publish(*arguments, **options)

    monkeypatch.setattr(publishing, "publish", remove_first)
    saved = save_adapter(base, tmp_path / "saved", r=4, target_modules=["q_proj"])
    with pytest.raises(errors.Conflict, match=r"base tiny was removed meanwhile \(add it again with `finch-hub bases"):
        hub.import_adapter(saved, name="guest", base="tiny")


def test_import_of_a_pickle_is_refused_and_leaves_nothing(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj"])
    shutil.move(made / "adapter_model.safetensors", made / "adapter_model.bin")
    with pytest.raises(errors.RefusedArtifact):
        hub.import_adapter(made, name="guest", base="tiny")
    assert hub.adapters.overview().adapters == ()
    assert not list(hub.settings.home.glob(".*.part"))


def test_import_of_an_address_is_refused_with_what_to_do(hub: Hub, base: Path) -> None:
    hub.bases.add(base, name="tiny")
    for address in ("https://huggingface.co/birds/finch", "hf://birds/finch", "s3://birds/finch.zip"):
        with pytest.raises(errors.InvalidInput, match=f"{address} is an address.*download the adapter's folder"):
            hub.import_adapter(address, name="guest", base="tiny")


@pytest.mark.usefixtures("versions")
def test_secrets_in_texts_of_users_are_masked_with_a_warning(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_KEY", "known-by-its-variable")
    text = "see https://ana:SECRETpw1@h/ with ghp_abcdefghijklmnopqrstuvwxyz0123456789, known-by-its-variable"
    clean = "see https://***@h/ with ***, ***"
    adapters = hub.adapters
    for place, change in {
        "the notes": lambda: adapters.note("medical/1", text),
        "the description": lambda: adapters.describe("medical", text),
        "the card": lambda: adapters.edit_card("medical/1", text),
        "a tag": lambda: adapters.tag("medical/1", "password=SECRETpw1"),
        "the reason": lambda: adapters.set_alias("medical/1", "live", why=text),
    }.items():
        with pytest.warns(errors.FinchWarning, match=f"^masked a secret in {place}$"):
            change()
    version = adapters.get("medical/1")
    assert (version.notes, version.card) == (clean, f"{clean}\n")
    assert "password=***" in version.tags
    assert adapters.alias_history("medical@live")[0].why == clean
    described = next(adapter for adapter in adapters.overview().adapters if adapter.name == "medical")
    assert described.description == clean
    assert "SECRETpw1" not in "".join(entry.model_dump_json() for entry in hub.audit.find())
    assert "password=***" not in adapters.untag("medical/1", "password=SECRETpw1").tags
