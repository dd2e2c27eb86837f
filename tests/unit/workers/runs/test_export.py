"""Files that are left of an export whose format fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub import errors
from finch_hub.formats.atomic_writes import write_for
from finch_hub.formats.finch_record import read_record, sign_record, write_record
from finch_hub.specs.jobs import ExportSpec
from finch_hub.specs.reports import ExportReport
from finch_hub.specs.value import Value
from finch_hub.workers.runs import export
from finch_hub.workers.runs.job_kind import Outcome

Write = Callable[[Path, Path | None, Path, Value], dict[str, Any] | None]


def exported(out: Path, write: Write, **parameters: object) -> Outcome[ExportReport]:
    format_ = SimpleNamespace(name="odd", load=lambda: write, parse=lambda parameters: Value())
    channel: Any = SimpleNamespace(catalog=SimpleNamespace(export_formats={"odd": format_}), phase=lambda text: None)
    spec = ExportSpec(adapter="birds", format="odd", out=str(out), parameters=parameters)
    order = export.ExportOrder(spec=spec, adapter=Path("/nowhere"), base=None)
    return export.execute(order, channel)


def half(adapter: Path, base: Path | None, out: Path, parameters: Value) -> None:
    out.mkdir(exist_ok=True)
    (out / "half").write_text("way")
    raise RuntimeError("half way")


def test_failing_format_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.PluginError, match="export format odd failed: RuntimeError: half way"):
        exported(tmp_path / "out", half)
    assert not (tmp_path / "out").exists()


def test_full_disk_while_exporting_is_not_a_plugin_error(tmp_path: Path) -> None:
    def full(adapter: Path, base: Path | None, out: Path, parameters: Value) -> None:
        out.mkdir()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        exported(tmp_path / "out", full)
    assert not (tmp_path / "out").exists()


def test_failing_format_keeps_what_existed_before(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(errors.PluginError):
        exported(tmp_path / "out", half)
    assert (tmp_path / "out" / "mine").exists()


def test_conflict_while_exporting_keeps_the_files_of_another(tmp_path: Path) -> None:
    def overtaken(adapter: Path, base: Path | None, out: Path, parameters: Value) -> None:
        out.mkdir()
        raise errors.Conflict(f"{out} holds an earlier one")

    with pytest.raises(errors.Conflict):
        exported(tmp_path / "out", overtaken, replace=False)
    assert (tmp_path / "out").exists()


def write_file(adapter: Path, base: Path | None, out: Path, parameters: Value) -> dict[str, Any]:
    with out.open("x") as file:
        file.write("one line")
    return {"file": str(out)}


def write_folder(adapter: Path, base: Path | None, out: Path, parameters: Value) -> dict[str, Any]:
    out.mkdir()
    (out / "deep").mkdir()
    (out / "deep" / "file").write_text("one line")
    return {"file": str(out / "deep" / "file")}


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_second_attempt_finds_what_the_first_one_published(tmp_path: Path, write: Write) -> None:
    out = tmp_path / "out"
    first = exported(out, write)
    assert exported(out, write) == first
    file = out / "deep" / "file" if out.is_dir() else out
    assert (file.read_text(), first.report.model_dump()["file"]) == ("one line", str(file))
    assert list(tmp_path.iterdir()) == [out]
    file.write_text("of somebody else")
    with pytest.raises(errors.Conflict, match="exists and is not an output of this job"):
        exported(out, write)
    assert file.read_text() == "of somebody else"


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_output_takes_the_place_of_an_empty_folder(tmp_path: Path, write: Write) -> None:
    (tmp_path / "out").mkdir()
    exported(tmp_path / "out", write)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_folder_that_an_earlier_attempt_signed_is_replaced(tmp_path: Path) -> None:
    def write(adapter: Path, base: Path | None, out: Path, parameters: Value) -> None:
        out.mkdir()
        write_record(out, "listing", {"number": len(written)})
        sign_record(out, "job1")
        written.append(out)

    written: list[Path] = []
    with write_for("job1"):
        for _ in range(2):
            exported(tmp_path / "out", write)
    assert read_record(tmp_path / "out")["number"] == 1
    with write_for("job2"), pytest.raises(errors.Conflict):
        exported(tmp_path / "out", write)


def test_format_that_writes_nothing_fails(tmp_path: Path) -> None:
    with pytest.raises(errors.PluginError, match="wrote nothing"):
        exported(tmp_path / "out", lambda adapter, base, out, parameters: None)
