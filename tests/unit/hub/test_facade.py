"""`Hub`: what submitting a job does and loads."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from support import registry

from finch_hub import Hub, LoRAAdapter, LoRAConfig, errors, progress
from finch_hub.display import tables
from finch_hub.engine.bases.base import Base
from finch_hub.registry import bases
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import QuantizeSpec

DELETIONS: dict[str, Callable[[Hub], object]] = {
    "adapters": lambda hub: hub.adapters.delete("medical/1"),
    "whole adapters": lambda hub: hub.adapters.delete("medical"),
    "purged adapters": lambda hub: hub.adapters.purge("medical"),
    "bases": lambda hub: hub.bases.remove("unused"),
    "jobs": lambda hub: hub.jobs.prune(keep=0),
    "datasets": lambda hub: hub.datasets.purge("birds"),
}


@pytest.mark.parametrize("deletion", DELETIONS)
@pytest.mark.usefixtures("versions")
def test_deletions_write_while_the_reserve_is_free_and_fill_it_again(
    hub: Hub, deletion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota may be full although the disk has room, so a hub that was opened has its reserve."""
    with hub._stores.database.write() as session:
        bases.add(session, registry.describe_base("unused"))
    hub.datasets.add([("Which?", "A bird.")], name="birds")
    reserve, write = hub.settings.home / "reserve", Database.write
    was_reserved: list[bool] = []

    def record(database: Database) -> object:
        was_reserved.append(reserve.exists())
        return write(database)

    assert reserve.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", record)
        DELETIONS[deletion](hub)
    assert set(was_reserved) == {False}
    assert reserve.exists()


@pytest.mark.usefixtures("versions")
def test_quantize_resolves_the_version_at_submit(hub: Hub) -> None:
    spec = hub.quantize("medical", scheme="int8").spec
    assert isinstance(spec, QuantizeSpec)
    assert spec.adapter == "medical/1"
    with pytest.raises(errors.InvalidSpec, match="scheme"):
        hub.quantize("medical", scheme="int3")  # type: ignore[arg-type]


def test_second_submission_with_a_key_returns_the_first_job(hub: Hub, data: Path, tiny_folder: Path) -> None:
    first = hub.train(data, adapter="birds", base=tiny_folder, idempotency_key="monday")
    again = hub.train(data, adapter="birds", base=tiny_folder, idempotency_key="monday")
    assert first.id == again.id
    with pytest.raises(errors.Conflict, match="monday"):
        hub.train(data, adapter="other", base=tiny_folder, idempotency_key="monday")


def test_submitting_loads_neither_torch_nor_transformers(tmp_path: Path, tiny_folder: Path, valkey_url: str) -> None:
    code = (
        "import pathlib, sys\n"
        "from finch_hub import Hub, settings\n"
        "home, url, base = sys.argv[1:]\n"
        "with Hub(settings.load(home=pathlib.Path(home), broker_url=url)) as hub:\n"
        "    hub.train([('a', 'b'), ('c', 'd')], adapter='birds', base=base, preset='style')\n"
        "    hub.compose(['birds'], adapter='all', depends_on=[hub.jobs.find()[0].id])\n"
        "print(sorted({'torch', 'transformers', 'peft', 'rich'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "home"), valkey_url, str(tiny_folder)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_jobs_have_the_owner_of_the_settings_and_are_found_by_it(hub: Hub, data: Path, tiny_folder: Path) -> None:
    login = hub.evaluate(data, base=tiny_folder)
    with Hub(hub.settings.model_copy(update={"owner": "ada"})) as other:
        named = other.evaluate(data, base=tiny_folder)
    assert login.refresh().owner == hub.settings.owner_name
    assert named.refresh().owner == "ada"
    assert [job.id for job in hub.jobs.find(owner="ada")] == [named.id]


def test_submission_beyond_the_limit_of_an_owner_stores_nothing(hub: Hub, data: Path, tiny_folder: Path) -> None:
    with Hub(hub.settings.model_copy(update={"owner": "ada", "owner_unfinished": 1})) as limited:
        first = limited.train(data, adapter="birds", base=tiny_folder, idempotency_key="monday")
        datasets = limited.datasets.find()
        stored = sorted(path for path in Path(hub.settings.artifacts).rglob("*") if path.is_file())
        first.cancel()
        limited.train(data, adapter="birds", base=tiny_folder)
        submissions: list[Callable[[], object]] = [
            lambda: limited.train([("new", "row")], adapter="birds", base=tiny_folder, validation=[("other", "row")]),
            lambda: limited.evaluate([("new", "row")], base=tiny_folder),
            first.retry,
        ]
        for submit in submissions:
            with pytest.raises(
                errors.Conflict, match=r"owner 'ada' would have more .* than 1 .*FINCH_OWNER_UNFINISHED"
            ):
                submit()
        assert limited.datasets.find() == datasets
        assert sorted(path for path in Path(hub.settings.artifacts).rglob("*") if path.is_file()) == stored
        assert limited.train(data, adapter="birds", base=tiny_folder, idempotency_key="monday").id == first.id
    hub.train([("new", "row")], adapter="birds", base=tiny_folder)


@pytest.mark.parametrize(("shows", "is_terminal", "is_shown"), [(None, False, 0), (None, True, 1), (False, True, 0)])
def test_hub_shows_its_long_work_on_a_terminal(
    shows: bool | None,
    is_terminal: bool,
    is_shown: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.console.cache_clear()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr(progress, "_wishes", weakref.WeakKeyDictionary())
    for limit in ("_LEAST_SECONDS", "_SHARE"):
        monkeypatch.setattr(progress, limit, 0.0)
    with Hub(progress=shows):
        list(progress.track(range(1), "checking adapters"))
    assert capsys.readouterr().err.count("checking adapters") == is_shown
    list(progress.track(range(1), "checking adapters"))
    assert capsys.readouterr().err == "", "the hub is closed"


def test_trainings_of_this_process_show_what_the_open_hub_wishes(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.console.cache_clear()
    monkeypatch.setattr(progress, "_wishes", weakref.WeakKeyDictionary())
    adapter = LoRAAdapter(LoRAConfig(rank=4), base=tiny_base)

    def train() -> str:
        adapter.train([("Who?", "Ana."), ("Who else?", "Bo.")], epochs=1)
        return capsys.readouterr().err

    with Hub(progress=True), Hub(progress=True) as silent:
        assert "step 1/" in train()
        silent.close()
        with Hub(progress=False):
            assert train() == ""
        assert "step 1/" in train()
    assert train() == ""
