"""The number of test processes follows the cores and the memory that they may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import machine

GIB = 2**30


@pytest.mark.parametrize(
    ("cores", "memory", "processes"),
    [
        (1, 64 * GIB, 1),
        (2, 8 * GIB, 2),
        (2, 2 * GIB, 1),
        (0.5, 8 * GIB, 1),
        (3.5, 64 * GIB, 3),
        (8, 6 * GIB, 4),
        (128, 512 * GIB, machine.MAX_PROCESSES),
        (2, 0, 1),
    ],
)
def test_processes_fit_the_cores_and_the_memory(cores: float, memory: int, processes: int) -> None:
    assert machine.choose_processes(cores, memory) == processes


@pytest.mark.parametrize(("cores", "processes", "threads"), [(2, 2, 1), (2, 1, 2), (8, 3, 2), (0.5, 1, 1), (1, 2, 1)])
def test_threads_of_all_processes_fit_the_cores(cores: float, processes: int, threads: int) -> None:
    assert machine.choose_threads(cores, processes) == threads


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "75000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.75),
    ],
)
def test_a_quota_of_the_container_lowers_the_cores(tmp_path: Path, files: dict[str, str], share: float) -> None:
    write(tmp_path, files)
    assert machine.count_cores(tmp_path) == share


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000\n"},
        {"cpu.max": "99999999 1\n"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_without_a_quota_the_affinity_counts(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert machine.count_cores(tmp_path) == allowed


@pytest.mark.parametrize(
    ("folder", "limit", "used"),
    [(".", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")],
)
def test_memory_ends_at_the_limit_of_the_container(tmp_path: Path, folder: str, limit: str, used: str) -> None:
    write(tmp_path / folder, {limit: "1000000\n", used: "400000\n"})
    assert machine.free_memory(tmp_path) == 600_000
    write(tmp_path / folder, {"memory.stat": "anon 100\ninactive_file 50000\n"})
    assert machine.free_memory(tmp_path) == 650_000, "cached files give way"
    write(tmp_path / folder, {limit: "max\n"})
    assert machine.free_memory(tmp_path) > 650_000


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text, encoding="ascii")
