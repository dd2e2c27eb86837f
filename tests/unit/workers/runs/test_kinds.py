"""The table of job kinds, and what a new kind takes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import finch_hub
from finch_hub import errors
from finch_hub.workers.runs import kinds

ECHO = '''
"""Repeat a text: the smallest kind of job."""

from __future__ import annotations

from pathlib import Path

from finch_hub.specs.jobs import JobSpec
from finch_hub.specs.value import Value
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.job_kind import JobKind, Outcome


class EchoSpec(JobSpec):
    kind: str = "echo"
    text: str


class EchoOrder(Value):
    text: str


class EchoReport(Value):
    text: str
    pid: int


def prepare(spec, job, stores, workdir: Path) -> EchoOrder:
    return EchoOrder(text=spec.text)


def execute(order: EchoOrder, channel: Channel) -> Outcome[EchoReport]:
    import os

    channel.phase("echoing")
    return Outcome[EchoReport](report=EchoReport(text=order.text, pid=os.getpid()))


KIND = JobKind(
    spec=EchoSpec,
    order=EchoOrder,
    outcome=Outcome[EchoReport],
    report=EchoReport,
    about=lambda spec: spec.text,
    prepare=prepare,
    execute=execute,
)
'''
SCRIPT = """
import os
from finch_hub import Hub
from finch_hub.cli.main import main
from finch_hub.workers.runs.echo import EchoSpec

if __name__ == "__main__":
    with Hub() as hub:
        try:
            handle = hub._submit(EchoSpec(text="hello"))
            report = handle.result(timeout=120)
            assert (report.text, report.pid != os.getpid()) == ("hello", True)
            assert [event.data["name"] for event in handle.events() if event.type == "phase"] == ["echoing"]
            assert handle.spec == EchoSpec(text="hello")
            assert main(["jobs", "list", "--kind", "echo"]) == 0
        finally:
            hub.workers.stop_own()
"""


@pytest.mark.parametrize("name", kinds.MODULES)
def test_module_of_every_kind_declares_that_kind(name: str) -> None:
    assert kinds.kind_of(name).name == name


def test_unknown_kind_is_refused_with_the_near_names() -> None:
    with pytest.raises(errors.NotFound, match="did you mean 'train'"):
        kinds.kind_of("trian")


def test_new_kind_is_one_module_and_one_line(tmp_path: Path) -> None:
    """A copy of the package with one more module and one more line runs a job of the new kind, child and all."""
    package = tmp_path / "copy" / "finch_hub"
    shutil.copytree(Path(finch_hub.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(finch_hub.__file__).parents[1] / "migrations", package / "migrations")
    (package / "workers" / "runs" / "echo.py").write_text(ECHO, encoding="utf-8")
    table = package / "workers" / "runs" / "kinds.py"
    lines = table.read_text(encoding="utf-8").replace(
        "MODULES = {\n", 'MODULES = {\n    "echo": "finch_hub.workers.runs.echo",\n'
    )
    table.write_text(lines, encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    home = {"FINCH_HOME": str(tmp_path / "home"), "PYTHONPATH": str(package.parent), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        [sys.executable, tmp_path / "script.py"], env=home, capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, ran.stderr
    assert "hello" in ran.stdout
