"""A home on a disk that is full: every command says so and what to do, and nothing is lost or left half."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.models import DEFAULT, save_model

from finch_hub.cli.output import exit_code
from finch_hub.engine.data.reading import dump_examples
from finch_hub.errors import Unavailable
from finch_hub.specs.examples import Example

# A file system of four megabytes that only these processes see. They end by being killed with the namespace.
SMALL = 'set -e; mount -t tmpfs -o size=$SIZE none "$FINCH_HOME"; . "$0"'
UNAVAILABLE = exit_code(Unavailable(""))
FINCH = f"{shlex.quote(sys.executable)} -m finch_hub"
FILL = 'dd if=/dev/zero of="$FINCH_HOME"/filler bs=4k 2>/dev/null || true'


def in_a_small_home(folder: Path, *commands: str, size: str = "4m") -> list[subprocess.CompletedProcess[str]]:
    """Run commands of the shell one after another in a home of its own; return what became of each."""
    home, script = folder / "home", folder / "script"
    home.mkdir()
    lines = []
    for number, command in enumerate(commands):
        kept = shlex.quote(str(folder / str(number)))
        lines.append(f"{command} >{kept}.out 2>{kept}.err && echo 0 >{kept}.status || echo $? >{kept}.status")
    script.write_text("\n".join(lines))
    environment = {**os.environ, "FINCH_HOME": str(home), "SIZE": size}
    inside = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]
    done = subprocess.run([*inside, SMALL, script], env=environment, capture_output=True)
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount a file system: {done.stderr.decode().strip()}")
    return [
        subprocess.CompletedProcess(
            command,
            int((folder / f"{number}.status").read_text()),
            (folder / f"{number}.out").read_text(),
            (folder / f"{number}.err").read_text(),
        )
        for number, command in enumerate(commands)
    ]


def rows(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def says_so(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == UNAVAILABLE
    assert "free some" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_full_home_refuses_with_advice_and_loses_nothing(tmp_path: Path) -> None:
    data = tmp_path / "finches.jsonl"
    data.write_bytes(dump_examples([Example.of_pair(f"What does finch {n} eat?", "Seeds. " * 200) for n in range(200)]))
    few = tmp_path / "few.jsonl"
    few.write_bytes(dump_examples([Example.of_pair(f"Who is finch {n}?", "A bird.") for n in range(20)]))
    listed = f"{FINCH} datasets list --json"
    _, before, _, *refused, _, added, after = in_a_small_home(
        tmp_path,
        f"{FINCH} datasets add {shlex.quote(str(few))}",
        listed,
        FILL,
        f"{FINCH} datasets add {shlex.quote(str(data))}",
        listed,
        'rm "$FINCH_HOME"/filler',
        f"{FINCH} datasets add {shlex.quote(str(data))}",
        listed,
    )
    assert len(refused) == 2
    for done in refused:  # reading too: SQLite keeps an index of its log beside the database
        says_so(done)
    assert added.returncode == 0, added.stderr
    assert len(rows(before)) == 1
    assert len(rows(after)) == 2


def test_a_home_that_is_full_from_the_beginning_says_so(tmp_path: Path) -> None:
    _, listed = in_a_small_home(tmp_path, FILL, f"{FINCH} adapters list")
    says_so(listed)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["datasets purge few --yes --json", "gc --unused-days 0 --yes --json"])
def test_what_deletes_works_in_a_home_that_is_completely_full(tmp_path: Path, command: str) -> None:
    few = tmp_path / "few.jsonl"
    few.write_bytes(dump_examples([Example.of_pair(f"Who is finch {n}?", "A bird. " * 99) for n in range(200)]))
    orphans = '"$FINCH_HOME"/artifacts/blobs/00'
    added, _, _, refused, deleted, left, *_, refilled = in_a_small_home(
        tmp_path,
        f"{FINCH} datasets add {shlex.quote(str(few))} --name few",
        f"mkdir -p {orphans}; dd if=/dev/urandom of={orphans}/{64 * '0'} bs=1k count=100",
        FILL,
        f"{FINCH} datasets list --json",
        f"{FINCH} {command}",
        'stat -f -c %a "$FINCH_HOME"',
        'rm "$FINCH_HOME"/filler',
        f"{FINCH} datasets list",
        'stat -c %s "$FINCH_HOME"/reserve',
        size="80m",
    )
    assert added.returncode == 0, added.stderr
    says_so(refused)
    assert deleted.returncode == 0, deleted.stderr
    assert int(left.stdout) > 256, "pages of the reserve, and of what was deleted"
    assert int(refilled.stdout) == 2**20


@pytest.mark.slow
def test_backup_to_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "finches.jsonl"
    data.write_bytes(dump_examples([Example.of_pair(f"Who is finch {n}?", "A bird. " * 100) for n in range(2000)]))
    elsewhere = f"FINCH_HOME={shlex.quote(str(tmp_path / 'elsewhere'))}"
    added, no_rows, refused, listed, fine = in_a_small_home(
        tmp_path,
        f"{elsewhere} {FINCH} datasets add {shlex.quote(str(data))}",
        f'dd if=/dev/zero of="$FINCH_HOME"/filler bs=1k count=3950; {elsewhere} {FINCH} backup "$FINCH_HOME"/nightly',
        f'dd if=/dev/zero of="$FINCH_HOME"/filler bs=1M count=3; {elsewhere} {FINCH} backup "$FINCH_HOME"/nightly',
        'ls -A "$FINCH_HOME"',
        f'rm "$FINCH_HOME"/filler && {elsewhere} {FINCH} backup "$FINCH_HOME"/nightly',
    )
    assert added.returncode == 0, added.stderr
    for done in (no_rows, refused):
        assert done.returncode == UNAVAILABLE, done.stderr
        advice = "free some space there, or choose another path; nothing was left behind"
        assert f"nightly: no space left ({advice})" in done.stderr
        assert "Traceback" not in done.stderr
    assert listed.stdout.split() == ["filler"]
    assert fine.returncode == 0, fine.stderr


@pytest.mark.slow
def test_restoration_into_a_full_home_says_so_and_can_be_repeated(tmp_path: Path) -> None:
    data = tmp_path / "finches.jsonl"
    data.write_bytes(dump_examples([Example.of_pair(f"Who is finch {n}?", "A bird. " * 100) for n in range(2000)]))
    elsewhere = f"FINCH_HOME={shlex.quote(str(tmp_path / 'elsewhere'))}"
    backup = shlex.quote(str(tmp_path / "nightly"))
    added, taken, refused, fine, listed = in_a_small_home(
        tmp_path,
        f"{elsewhere} {FINCH} datasets add {shlex.quote(str(data))}",
        f"{elsewhere} {FINCH} backup {backup}",
        f'dd if=/dev/zero of="$FINCH_HOME"/filler bs=1k count=2400; {FINCH} restore {backup}',
        f'rm "$FINCH_HOME"/filler && {FINCH} restore {backup}',
        f"{FINCH} datasets list --json",
    )
    assert added.returncode == taken.returncode == 0, taken.stderr
    says_so(refused)
    assert fine.returncode == 0, fine.stderr
    assert [row["examples"] for row in rows(listed)] == [2000]


@pytest.mark.slow
def test_worker_is_stopped_and_a_job_cancelled_in_a_home_that_is_completely_full(tmp_path: Path) -> None:
    base = save_model(DEFAULT, tmp_path / "base")
    data = tmp_path / "few.jsonl"
    data.write_bytes(dump_examples([Example.of_pair(f"Who is finch {n}?", "A bird.") for n in range(20)]))
    train = f"{FINCH} train {shlex.quote(str(data))} --adapter few --base {shlex.quote(str(base))}"
    submitted, _, cancelled, stopped = in_a_small_home(
        tmp_path,
        f"{train} --queue unserved --detach",
        FILL,
        f"{FINCH} jobs cancel $(cat {shlex.quote(str(tmp_path / '0.out'))})",
        f"{FINCH} worker stop",
        size="120m",
    )
    assert submitted.returncode == 0, submitted.stderr
    assert (cancelled.returncode, stopped.returncode) == (0, 0), cancelled.stderr + stopped.stderr
