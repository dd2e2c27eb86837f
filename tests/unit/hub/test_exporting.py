"""Merges and exports: what is refused before a job exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.adapters import save_adapter

from finch_hub import Hub, errors
from finch_hub.registry import adapter_versions
from finch_hub.specs.jobs import ExportSpec, MergeSpec
from finch_hub.workers.runs import export


@pytest.mark.usefixtures("versions")
def test_merge_to_an_existing_folder_or_of_two_bases_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec) as raised:
        hub.merge(["medical", "poetry"], tmp_path)
    assert "exists already (choose another folder, or replace the earlier result" in str(raised.value)
    assert "was made for other" in str(raised.value)
    earlier, other = tmp_path / "earlier", tmp_path / "other"
    for folder, text in ((earlier, '{"made": "merged model"}'), (other, "{}")):
        folder.mkdir()
        (folder / "finch.json").write_text(text)
    with pytest.raises(errors.Conflict, match="holds no earlier result"):
        hub.merge(["medical"], other, replace=True)
    replacing = hub.merge(["medical"], earlier, replace=True).spec
    assert isinstance(replacing, MergeSpec)
    assert replacing.replace
    relative = hub.merge(["medical"], Path("relative")).spec
    assert isinstance(relative, MergeSpec)
    assert Path(relative.out).is_absolute()


@pytest.mark.usefixtures("versions")
def test_parameter_that_looks_like_a_secret_is_refused_before_a_job_exists(hub: Hub, tmp_path: Path) -> None:
    parameters = {"base_model": "https://user:correct-horse@models.example/birds"}
    with pytest.raises(errors.InvalidSpec, match=r"^parameters\.base_model: looks like a secret") as raised:
        hub.export("medical", tmp_path / "out", parameters=parameters)
    assert "correct-horse" not in str(raised.value.problems)
    assert hub.jobs.find() == []
    named = hub.export("medical", tmp_path / "out", parameters={"base_model": "https://models.example/birds@v1"}).spec
    assert isinstance(named, ExportSpec)
    assert named.parameters == {"base_model": "https://models.example/birds@v1"}


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize("replace", [False, True])
def test_file_is_no_place_for_a_result(hub: Hub, tmp_path: Path, replace: bool) -> None:
    (tmp_path / "birds.jsonl").touch()
    for submit in (
        lambda: hub.merge(["medical"], tmp_path / "birds.jsonl", replace=replace),
        lambda: hub.export("medical", tmp_path / "birds.jsonl", parameters={"replace": replace}),
    ):
        with pytest.raises(errors.Conflict, match="is a file"):
            submit()


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize("out", ["", ".", "/", "~"])
def test_path_that_is_no_new_folder_is_refused_before_a_job_exists(hub: Hub, out: str) -> None:
    for submit in (
        lambda: hub.merge(["medical"], out, replace=True),
        lambda: hub.export("medical", out, parameters={"replace": True}),
        lambda: hub.back_up(out, replace=True),
    ):
        with pytest.raises(errors.InvalidSpec, match=r"no folder is named|name a new folder"):
            submit()
    assert not any(hub.jobs.counts().values())


@pytest.mark.usefixtures("versions")
def test_export_reports_adapter_and_format_together(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec) as raised:
        hub.export("medicla", tmp_path / "out", format="vlm")
    assert "did you mean 'medical'" in str(raised.value)
    assert "did you mean 'vllm'" in str(raised.value)
    with pytest.raises(errors.Conflict, match="exists already"):
        hub.export("medical", tmp_path)
    spec = hub.export("medical", tmp_path, parameters={"replace": True}).spec
    assert isinstance(spec, ExportSpec)
    assert spec.out == str(tmp_path)


def publish_with_system(hub: Hub, tiny_folder: Path, tmp_path: Path, system: str) -> None:
    """Make a version "birds" that was trained with a system prompt."""
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, use_rslora=True, target_modules=["q_proj"])
    guest = hub.import_adapter(made, name="guest", base="tiny")
    fields: dict[str, Any] = {"digest": guest.digest, "identity": guest.identity, "kind": "train"}
    fields["metrics"] = guest.metrics
    with hub._stores.database.write() as session:
        adapter_versions.create(session, name="birds", base=guest.base, spec={"system": system}, **fields)


@pytest.mark.parametrize(
    ("parameters", "expected"), [({}, "Answer briefly."), ({"system": "Sing."}, "Sing."), ({"system": ""}, "")]
)
def test_export_to_ollama_has_the_system_prompt_of_the_training(
    hub: Hub, tiny_folder: Path, tmp_path: Path, parameters: dict[str, str], expected: str
) -> None:
    publish_with_system(hub, tiny_folder, tmp_path, "Answer briefly.")
    handle = hub.export("birds", tmp_path / "out", format="ollama", parameters=parameters)
    spec = handle.spec
    assert isinstance(spec, ExportSpec)
    order = export.prepare(spec, handle.refresh(), hub._stores, tmp_path)
    assert order.spec.parameters["system"] == expected


@pytest.mark.parametrize("form", ["peft", "vllm"])
@pytest.mark.parametrize("base_model", [None, "birds/finch-1b"])
def test_export_has_the_card_of_now(
    hub: Hub, tiny_folder: Path, tmp_path: Path, form: str, base_model: str | None
) -> None:
    publish_with_system(hub, tiny_folder, tmp_path, "Answer briefly.")
    parameters = {} if base_model is None else {"base_model": base_model}
    handle = hub.export("birds", tmp_path / "out", format=form, parameters=parameters)
    hub.adapters.describe("birds", "Names birds.")
    for number, text in enumerate((None, "# By hand\n")):
        if text is not None:
            hub.adapters.edit_card("birds", text)
        (tmp_path / f"work-{number}").mkdir()
        spec = handle.spec
        assert isinstance(spec, ExportSpec)
        order = export.prepare(spec, handle.refresh(), hub._stores, tmp_path / f"work-{number}")
        format_ = hub._stores.catalog.export_formats[form]
        out = tmp_path / f"out-{number}"
        format_.load()(order.adapter, None, out, format_.parse(order.spec.parameters))
        front, body = (out / "README.md").read_text().removeprefix("---\n").split("---\n\n")
        assert "base_model" not in front, "the base has no id, whatever its name in the export"
        assert text is not None or (base_model or "llama") in body
        assert ("Export it first" in body) == (form == "peft" and text is None)
        assert text is None or body == text
        assert text is not None or "## What it is for\n\nNames birds.\n" in body


def test_system_prompt_that_a_modelfile_cannot_quote_is_refused_at_submission(
    hub: Hub, tiny_folder: Path, tmp_path: Path
) -> None:
    publish_with_system(hub, tiny_folder, tmp_path, 'Write """docstrings""".')
    with pytest.raises(errors.InvalidSpec, match=r"system: holds .*, which a Modelfile cannot quote \(give another"):
        hub.export("birds", tmp_path / "out", format="ollama")
    assert not any(hub.jobs.counts().values())
    for format_name, parameters in (("ollama", {"system": ""}), ("ollama", {"system": "Be brief."}), ("peft", {})):
        hub.export("birds", tmp_path / "out", format=format_name, parameters=parameters)
