from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from finch_hub.engine.machine import container

GIB = 2**30


class Machine:
    """A machine with 16 GiB, and eight processors, of which two at a time share a core."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups, self.cpus, self.membership = root / "cgroup", root / "cpu", root / "membership"
        for name, path in (("_GROUPS", self.groups), ("_CPUS", self.cpus), ("_MEMBERSHIP", self.membership)):
            monkeypatch.setattr(container, name, path)
        for cpu in range(8):
            self.write(self.cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n")
        self._patch = monkeypatch
        self.allow(range(8))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 16 * GIB}))
        monkeypatch.setattr(psutil, "cpu_count", lambda *, logical: 4)

    def allow(self, cpus: range) -> None:
        self._patch.setattr(os, "sched_getaffinity", lambda pid: set(cpus), raising=False)

    def limit(self, group: str, **values: str) -> None:
        for name, value in values.items():
            self.write(self.groups / group / name.replace("__", "."), value + "\n")

    def write(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_machine_without_groups_has_all_its_cores_and_memory(machine: Machine) -> None:
    assert (container.count_physical_cores(), container.measure_main_memory()) == (4, 16 * GIB)


def test_cores_are_those_of_the_allowed_processors(machine: Machine) -> None:
    machine.allow(range(1))
    assert container.count_physical_cores() == 1
    machine.allow(range(0, 8, 4))
    assert container.count_physical_cores() == 1, "both share a core"
    machine.allow(range(2, 5))
    assert container.count_physical_cores() == 3


@pytest.mark.parametrize(("physical", "cores"), [(2, 2), (64, 3), (None, 3)])
def test_without_a_topology_there_are_no_more_cores_than_allowed_processors(
    machine: Machine, physical: int | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers may hide the topology, and psutil may count the cores of the host, or none."""
    monkeypatch.setattr(container, "_CPUS", machine.cpus / "hidden")
    monkeypatch.setattr(psutil, "cpu_count", lambda *, logical: physical)
    machine.allow(range(3))
    assert container.count_physical_cores() == cores


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("350000 100000", 3), ("50000 100000", 1), ("max 100000", 4)]
)
def test_quota_of_processor_time_limits_the_cores(machine: Machine, quota: str, cores: int) -> None:
    machine.write(machine.membership, "0::/\n")
    machine.limit("", cpu__max=quota)
    assert container.count_physical_cores() == cores


def test_limits_of_all_groups_above_the_own_one_hold(machine: Machine) -> None:
    machine.write(machine.membership, "0::/system.slice/finch.service\n")
    machine.limit("system.slice", memory__max=str(2 * GIB), cpu__max="max 100000")
    machine.limit("system.slice/finch.service", memory__max="max", cpu__max="300000 100000")
    machine.limit("other.slice", memory__max=str(GIB), cpu__max="100000 100000")
    assert (container.count_physical_cores(), container.measure_main_memory()) == (3, 2 * GIB)


def test_limits_of_the_first_version_of_groups_hold(machine: Machine) -> None:
    """The path is the host's. The container sees its own group as the root."""
    machine.write(
        machine.membership, "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n3:pids:/docker/1f\n0::/docker/1f\n"
    )
    machine.limit("memory", memory__limit_in_bytes=str(3 * GIB))
    machine.limit("cpu", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert (container.count_physical_cores(), container.measure_main_memory()) == (2, 3 * GIB)
    machine.limit("memory", memory__limit_in_bytes=str(2**63 - 4096))
    machine.limit("cpu", cpu__cfs_quota_us="-1")
    assert (container.count_physical_cores(), container.measure_main_memory()) == (4, 16 * GIB), "there is no limit"


def test_system_without_affinity_has_all_its_processors(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS, which has no control groups either."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert container.count_physical_cores() == 4
