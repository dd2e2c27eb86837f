"""Exports of the hub, imported again: the same identity, a lineage that names the version, and a base with its id."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
from safetensors.torch import load_file, save_file
from support.adapters import VARIANTS, save_adapter
from support.families import named, save_family

from finch_hub import Hub, settings
from finch_hub.engine.export import quantization
from finch_hub.plugins.descriptors import ExportFormat
from finch_hub.registry.values import AdapterVersion, Lineage, ParentVersion
from finch_hub.specs.jobs import ExportSpec, QuantizeSpec
from finch_hub.specs.value import Value
from finch_hub.storage import publishing
from finch_hub.workers.runs import export as export_job
from finch_hub.workers.runs import quantize as quantize_job

HELD_OUT = "a" * 64


@pytest.fixture
def hub(tmp_path: Path, valkey_url: str, layout_cache: Path) -> Iterator[Hub]:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "bases").symlink_to(layout_cache)
    with Hub(settings.load(home=tmp_path / "home", broker_url=valkey_url)) as made:
        yield made


def publish(hub: Hub, folder: Path, name: str = "birds") -> AdapterVersion:
    """Store a folder as a training does."""
    base = hub.bases.get("tiny")
    description = publishing.Description(
        name=name,
        kind="train",
        base=base,
        lineage=Lineage(validation_digest=HELD_OUT, seed=7),
        spec={"system": "Sing.", "thinking": True},
    )
    register = publishing.publish(folder, hub._stores, description, {})
    with hub._stores.database.write() as session:
        return register(session, base)


def export(hub: Hub, reference: str, format_name: str, out: Path, **parameters: Any) -> Path:
    """Export as a job does, without the queue."""
    spec = ExportSpec(adapter=reference, format=format_name, out=str(out), parameters=parameters)
    job: Any = SimpleNamespace(fence=1)
    order = export_job.prepare(spec, job, hub._stores, out.parent)
    format_ = hub.catalog.export_formats[format_name]
    base = Path(hub.bases.get("tiny").path or "") if order.base else None
    format_.load()(order.adapter, base, out, format_.parse(order.spec.parameters))
    return out


def assert_is(imported: AdapterVersion, original: AdapterVersion) -> None:
    assert imported.identity == original.identity
    assert imported.lineage.parents == (ParentVersion(reference=original.reference),)
    assert imported.lineage.validation_digest == original.lineage.validation_digest
    assert imported.prompting == original.prompting == {"system": "Sing.", "thinking": True}
    assert imported.state == "ready"


@pytest.mark.parametrize("variant", VARIANTS)
def test_export_is_imported_as_the_version_that_it_is(
    hub: Hub, tiny_folders: Path, tmp_path: Path, variant: str
) -> None:
    hub.bases.add(tiny_folders, name="tiny")
    version = publish(hub, save_adapter(tiny_folders, tmp_path / "made", **VARIANTS[variant]))
    assert_is(hub.import_adapter(hub.adapters.folder("birds"), name="copy", base="tiny"), version)
    formats = ["peft"] if variant == "dora" else ["peft", "vllm"]
    for format_name in formats:
        folder = export(hub, "birds/1", format_name, tmp_path / format_name)
        assert_is(hub.import_adapter(folder, name=format_name, base="tiny"), version)
        packed = shutil.make_archive(str(tmp_path / f"{format_name}-sent"), "zip", folder.parent, folder.name)
        assert_is(hub.import_adapter(packed, name=format_name, base="tiny"), version)


def test_export_of_a_quantized_version_is_imported_as_that_version(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", **VARIANTS["patterns"])
    quantization.quantize(made, tmp_path / "small", scheme="int8")
    original, small = publish(hub, made), publish(hub, tmp_path / "small", "small")
    assert original.identity != small.identity
    for format_name in ("peft", "vllm"):
        folder = export(hub, "small/1", format_name, tmp_path / format_name)
        assert_is(hub.import_adapter(folder, name=format_name, base="tiny"), small)


def test_quantized_version_is_prompted_as_its_parent(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    parent = publish(hub, save_adapter(tiny_folder, tmp_path / "made", **VARIANTS["plain"]))
    report = quantization.quantize(hub.adapters.folder("birds"), tmp_path / "small", scheme="int8")
    outcome = quantize_job.QuantizeOutcome(
        adapter=tmp_path / "small", environment={}, parent=parent.reference, report=report
    )
    job: Any = SimpleNamespace(id=None, owner="")
    record = quantize_job.finish(QuantizeSpec(adapter="birds/1", scheme="int8"), job, outcome, hub._stores)
    with hub._stores.database.write() as session:
        record(session)
    assert hub.adapters.get("birds/2").prompting == parent.prompting


def test_changed_export_is_an_adapter_of_its_own(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    """A record names any version. Only the weights confirm it."""
    hub.bases.add(tiny_folder, name="tiny")
    version = publish(hub, save_adapter(tiny_folder, tmp_path / "made", **VARIANTS["plain"]))
    folder = export(hub, "birds/1", "vllm", tmp_path / "out")
    file = folder / "adapter_model.safetensors"
    save_file({name: 1.01 * tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    imported = hub.import_adapter(folder, name="changed", base="tiny")
    assert imported.identity != version.identity
    assert imported.lineage.parents == ()


def test_tied_checkpoint_without_the_prefix_takes_its_exports_back(hub: Hub, tmp_path: Path) -> None:
    base = save_family(named("llama"), tmp_path / "base", tie_word_embeddings=True)
    file = base / "model.safetensors"
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    hub.bases.add(base, name="tiny")
    version = publish(hub, save_adapter(base, tmp_path / "made", **VARIANTS["patterns"]))
    for format_name in ("peft", "vllm"):
        folder = export(hub, "birds/1", format_name, tmp_path / format_name)
        assert_is(hub.import_adapter(folder, name=format_name, base="tiny"), version)


def base_named_by(folder: Path) -> str:
    return str(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])


def test_files_name_the_base_by_its_id_and_never_by_a_path(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder)
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", **VARIANTS["plain"])
    version = publish(hub, made)
    stored = hub.adapters.folder("birds")
    for folder in (
        stored,
        export(hub, "birds/1", "peft", tmp_path / "0"),
        export(hub, "birds/1", "vllm", tmp_path / "1"),
    ):
        assert base_named_by(folder) == "tiny"
        card = folder / "README.md"
        if card.exists():
            assert str(tiny_folder) not in card.read_text(encoding="utf-8")
            assert "base_model:" not in card.read_text(encoding="utf-8")
    for public_id in ("birds/tiny", "birds/finch-1b"):  # given later, and changed
        hub.bases.add(tiny_folder, public_id=public_id)
        out = tmp_path / public_id.replace("/", "-")
        folder = export(hub, "birds/1", "peft", out)
        assert base_named_by(folder) == base_named_by(export(hub, "birds/1", "vllm", out / "v")) == public_id
        assert f'base_model: "{public_id}"' in (folder / "README.md").read_text(encoding="utf-8")
        assert_is(hub.import_adapter(folder, name="back", base="tiny"), version)
    again = hub.import_adapter(made, name="later", base="tiny")
    assert again.identity == version.identity, "the name of the base is no part of an adapter"
    assert base_named_by(hub.adapters.folder("later")) == "birds/finch-1b"
    assert base_named_by(export(hub, "birds/1", "vllm", tmp_path / "mine", base_model="mine")) == "mine"
    merged = export(hub, "birds/1", "merged", tmp_path / "merged")
    assert 'base_model: "birds/finch-1b"' in (merged / "README.md").read_text(encoding="utf-8")


class Named(Value):
    """Parameters of a plugin's format."""

    base_model: str | None = None
    system: str | None = None


@pytest.mark.parametrize(("field", "expected"), [("label", "birds/tiny"), ("hub_id", "birds/tiny"), (None, None)])
@pytest.mark.parametrize("takes_system", [False, True])
def test_format_of_a_plugin_gets_the_name_of_the_base_and_the_system_prompt_if_it_declares_them(
    field: Any, expected: str | None, hub: Hub, tiny_folder: Path, tmp_path: Path, *, takes_system: bool
) -> None:
    hub.bases.add(tiny_folder, name="tiny", public_id="birds/tiny")
    publish(hub, save_adapter(tiny_folder, tmp_path / "made", **VARIANTS["plain"]))
    odd = ExportFormat(
        name="odd", summary="Odd.", target="odd:write", parameters=Named, base_model=field, takes_system=takes_system
    )
    own = hub._stores
    catalog = SimpleNamespace(export_formats={"odd": odd})
    parts = {"database": own.database, "artifacts": own.artifacts, "redactor": own.redactor}
    stores: Any = SimpleNamespace(**parts, catalog=catalog)
    job: Any = SimpleNamespace(fence=1)
    trained = "Sing." if takes_system else None
    for given, becomes in (
        ({}, {"base_model": expected, "system": trained}),
        ({"base_model": "mine"}, {"base_model": "mine", "system": trained}),
        ({"system": "Be brief."}, {"base_model": expected, "system": "Be brief."}),
        ({"system": ""}, {"base_model": expected, "system": ""}),
    ):
        spec = ExportSpec(adapter="birds/1", format="odd", out="out", parameters=given)
        assert export_job.prepare(spec, job, stores, tmp_path).spec.parameters == becomes


def test_auto_class_of_peft_loads_an_export_by_the_id_of_its_base(
    hub: Hub, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is a folder here, relative to the working directory, as no test reaches the Hugging Face Hub."""
    shutil.copytree(tiny_folder, tmp_path / "birds/tiny")
    hub.bases.add(tiny_folder, name="tiny", public_id="birds/tiny")
    publish(hub, save_adapter(tiny_folder, tmp_path / "made", **VARIANTS["plain"]))
    folder = export(hub, "birds/1", "peft", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = peft.AutoPeftModelForCausalLM.from_pretrained(str(folder))
    assert model.peft_config["default"].base_model_name_or_path == "birds/tiny"
