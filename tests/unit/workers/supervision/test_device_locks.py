"""Workers of one home that want the same devices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.settings import Settings
from finch_hub.workers.supervision import device_locks
from finch_hub.workers.supervision.device_locks import DeviceLocks
from finch_hub.workers.supervision.devices import Device

_HOLD = """
import sys, time
from finch_hub import settings
from finch_hub.workers.supervision import devices
from finch_hub.workers.supervision.device_locks import DeviceLocks

DeviceLocks(settings.load(home=sys.argv[1]), worker="killed", is_on_demand=False).take(devices.find_devices())
print(flush=True)
time.sleep(3600)
"""


def make_device(index: int, *parts: str) -> Device:
    return Device(kind="cuda", index=index, name="a card", memory_bytes=1, free_bytes=1, parts=parts)


FIRST, SECOND = make_device(0, "card-a"), make_device(1, "card-b")


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    return settings.load(home=tmp_path / "home")


class Workers:
    """Makes locks of workers, and closes them."""

    def __init__(self, loaded: Settings) -> None:
        self._loaded, self._made = loaded, list[DeviceLocks]()

    def __call__(self, worker: str, *, is_on_demand: bool = False) -> DeviceLocks:
        self._made.append(DeviceLocks(self._loaded, worker=worker, is_on_demand=is_on_demand))
        return self._made[-1]

    def close(self) -> None:
        for locks in self._made:
            locks.close()


@pytest.fixture
def workers(loaded: Settings) -> Iterator[Workers]:
    made = Workers(loaded)
    yield made
    made.close()


@pytest.mark.parametrize("is_on_demand", [True, False])
def test_device_of_another_worker_is_refused_with_its_name(
    workers: Workers, is_on_demand: bool, loaded: Settings
) -> None:
    first = workers("first")
    assert first.take([FIRST]) == (FIRST,)
    with pytest.raises(
        errors.Conflict, match=r"device cuda:0 belongs to worker first \(process \d+\) of the same home"
    ):
        workers("second", is_on_demand=is_on_demand).take([FIRST])
    owner = device_locks.find_owner(loaded)
    assert owner is not None
    assert owner.worker == "first"
    first.close()
    assert workers("second").take([FIRST]) == (FIRST,)


def test_worker_takes_the_devices_that_others_leave(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    workers("first").take([FIRST])
    assert workers("second").take([FIRST, SECOND]) == (SECOND,)
    assert {
        "action": "skip_device",
        "device": "cuda:0",
        "error": f"device cuda:0 belongs to worker first (process {os.getpid()})",
    } in list_said(caplog)


def test_cpu_belongs_to_several_workers_if_each_has_its_own_cores(workers: Workers) -> None:
    half, other, both = make_device(0, "core-0"), make_device(0, "core-1"), make_device(0, "core-0", "core-1")
    assert workers("first").take([half]) == (half,)
    with pytest.raises(errors.Conflict):
        workers("second").take([both])
    assert workers("third").take([other]) == (other,), "the refused worker has left it"


def test_worker_on_demand_is_asked_for_its_devices_and_waited_for(workers: Workers, loaded: Settings) -> None:
    on_demand, foreground = workers("on-demand", is_on_demand=True), workers("foreground")
    on_demand.take([FIRST, SECOND])
    assert not on_demand.are_wanted()
    assert device_locks.find_owner(loaded) is None, "it is the one that clients start"
    taken: list[Device] = []
    waiting = threading.Thread(target=lambda: taken.extend(foreground.take([FIRST, SECOND])))
    waiting.start()
    wait_until(on_demand.are_wanted, "the other worker to ask")
    assert not taken
    on_demand.close()
    waiting.join()
    assert taken == [FIRST, SECOND]
    assert not foreground.are_wanted()


def test_who_waits_longest_gets_the_devices_and_whoever_comes_later_is_refused_at_once(workers: Workers) -> None:
    on_demand, first = workers("on-demand", is_on_demand=True), workers("first")
    on_demand.take([FIRST, SECOND])
    taken: list[Device] = []
    waiting = threading.Thread(target=lambda: taken.extend(first.take([FIRST])))
    waiting.start()
    wait_until(on_demand.are_wanted, "the first worker to ask")
    with pytest.raises(errors.Conflict, match=r"device cuda:0 goes to worker first \(process \d+\) of the same home"):
        workers("second").take([FIRST])
    on_demand.close()
    assert workers("third").take([FIRST, SECOND]) == (SECOND,)
    waiting.join()
    assert taken == [FIRST]


def test_worker_that_waits_for_some_cores_is_next_for_all_of_them(workers: Workers) -> None:
    both, half = make_device(0, "core-0", "core-1"), make_device(0, "core-1")
    on_demand, first = workers("on-demand", is_on_demand=True), workers("first")
    on_demand.take([both])
    taken: list[Device] = []
    waiting = threading.Thread(target=lambda: taken.extend(first.take([both])))
    waiting.start()
    wait_until(on_demand.are_wanted, "the first worker to ask")
    with pytest.raises(errors.Conflict, match="goes to worker first"):
        workers("second").take([half])
    on_demand.close()
    waiting.join()
    assert taken == [both]


def test_worker_that_was_refused_is_next_for_nothing(workers: Workers) -> None:
    first = workers("first")
    first.take([FIRST])
    refused = workers("refused")
    with pytest.raises(errors.Conflict):
        refused.take([FIRST])
    first.close()
    assert workers("second").take([FIRST]) == (FIRST,)


def test_nobody_wants_the_devices_of_a_home_that_was_removed(workers: Workers, loaded: Settings) -> None:
    on_demand = workers("on-demand", is_on_demand=True)
    on_demand.take([FIRST])
    shutil.rmtree(loaded.home)
    assert not on_demand.are_wanted()


def test_devices_of_a_killed_worker_are_free(loaded: Settings, workers: Workers) -> None:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(loaded.home)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    owner = device_locks.find_owner(loaded)
    assert owner is not None
    assert (owner.worker, owner.pid) == ("killed", process.pid)
    process.kill()
    process.wait()
    process.stdout.close()
    assert device_locks.find_owner(loaded) is None
    assert workers("next", is_on_demand=True).take([make_device(0, "core-0")])


_INHERIT = """
import os, sys, time
from pathlib import Path
from finch_hub import settings
from finch_hub.workers.supervision.device_locks import DeviceLocks
from finch_hub.workers.supervision.devices import Device

device = Device(kind="cuda", index=0, name="a card", memory_bytes=1, free_bytes=1, parts=("card-a",))
locks = DeviceLocks(settings.load(home=sys.argv[1]), worker="dead", is_on_demand=sys.argv[2] == "on_demand")
locks.take([device])
if sys.argv[3] == "unreadable":
    for file in Path(sys.argv[1]).rglob("*.lock"):
        file.write_text("")
if pid := os.fork():
    print(pid, flush=True)
    os._exit(0)
time.sleep(3600)
"""


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="only Linux tells who keeps a lock")
@pytest.mark.parametrize("is_on_demand", [False, True])
@pytest.mark.parametrize("how", ["on_demand", "foreground"])
@pytest.mark.parametrize("record", ["readable", "unreadable"])
def test_lock_that_a_descendant_of_a_dead_worker_keeps_is_replaced(
    loaded: Settings, workers: Workers, caplog: pytest.LogCaptureFixture, how: str, record: str, is_on_demand: bool
) -> None:
    command = [sys.executable, "-c", _INHERIT, str(loaded.home), how, record]
    dead = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert dead.stdout is not None
    descendant = int(dead.stdout.readline())
    dead.stdout.close()
    dead.wait()
    try:
        assert workers("new", is_on_demand=is_on_demand).take([FIRST]) == (FIRST,)
    finally:
        os.kill(descendant, signal.SIGKILL)
    assert [said["action"] for said in list_said(caplog)] == ["recover_device"]
    with pytest.raises(errors.Conflict, match="belongs to worker new"):
        workers("other", is_on_demand=True).take([FIRST])


def test_search_for_who_keeps_a_lock_asks_no_disk_of_other_files(
    loaded: Settings, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that a process has open may be on a disk that hangs."""
    workers("first").take([FIRST])
    asked: list[str] = []
    ask = Path.stat

    def note(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        asked.append(str(path))
        return ask(path, follow_symlinks=follow_symlinks)

    with (tmp_path / "other").open("w") as other:
        monkeypatch.setattr(Path, "stat", note)
        with pytest.raises(errors.Conflict, match="worker first"):
            workers("second").take([FIRST])
        assert f"/proc/{os.getpid()}/fd/{other.fileno()}" not in asked


def test_wait_for_a_process_that_does_not_say_who_it_is_is_told_again_and_again(
    loaded: Settings, workers: Workers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_locks, "_TELL_SECONDS", 0.0)
    first = workers("first")
    first.take([FIRST])
    (file,) = loaded.home.rglob("*.lock")
    file.write_text("not JSON")
    taken: list[Device] = []
    second = workers("second")
    thread = threading.Thread(target=lambda: taken.extend(second.take([FIRST])))
    thread.start()
    wait_until(lambda: len(list_said(caplog)) > 1, "the wait to be told twice")
    first.close()
    thread.join()
    assert taken == [FIRST]
    assert {(said["action"], said["path"]) for said in list_said(caplog)} == {("wait", str(file))}


def test_owner_of_another_version_is_read(loaded: Settings, workers: Workers) -> None:
    workers("next").take([FIRST])
    (file,) = loaded.home.rglob("*.lock")
    file.write_text(json.dumps({**json.loads(file.read_text()), "color": "green"}))
    with pytest.raises(errors.Conflict, match="belongs to worker next"):
        workers("old").take([FIRST])


def test_owner_is_not_taken_for_a_process_with_its_id(loaded: Settings, workers: Workers) -> None:
    workers("first").take([FIRST])
    (file,) = loaded.home.glob("devices/*/*.lock")
    assert device_locks.find_owner(loaded) is not None
    file.write_text(file.read_text().replace('"started": 1', '"started": 2'))
    assert device_locks.find_owner(loaded) is None
    file.write_text("")
    assert device_locks.find_owner(loaded) is None


def test_folder_that_cannot_be_written_is_named(loaded: Settings, workers: Workers) -> None:
    loaded.home.mkdir()
    (loaded.home / "devices").write_text("")
    with pytest.raises(errors.Unavailable, match="could not lock devices in"):
        workers("first").take([FIRST])
