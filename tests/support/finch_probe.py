"""A plugin package with an export format whose jobs do nothing, or fail in a way that a test selects.

`install` makes it an installed distribution for processes that have the folder on their Python path.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from finch_hub.plugins.descriptors import ExportFormat
from finch_hub.plugins.hooks import hookimpl
from finch_hub.specs.value import Value


class Parameters(Value):
    """What to do.

    Attributes:
        action: done before the file `out` is written.
        seconds: seconds to sleep, in small steps.
        once: file that the first run creates. Later runs skip the action and succeed. The action "wait" waits until
            the file is removed.
        afterwards: seconds that later runs sleep.

    """

    action: Literal[
        "nothing",
        "sleep",
        "wait",
        "raise",
        "exit",
        "segfault",
        "hang",
        "eat",
        "orphan",
        "daemon",
        "stranger",
        "print",
        "leak",
        "close",
    ] = "nothing"
    seconds: float = 0.0
    once: str | None = None
    afterwards: float = 0.0


def write(adapter: Path, base: Path | None, out: Path, parameters: Parameters) -> dict[str, Any]:
    """Do the action of the parameters."""
    with _beside(out, "pids").open("a") as pids:
        pids.write(f"{os.getpid()} {time.time()}\n")
    if parameters.once is None or _create(Path(parameters.once)):
        _act(parameters, out)
    else:
        time.sleep(parameters.afterwards)
    out.write_text("done")
    return {"pid": os.getpid()}


def _beside(out: Path, suffix: str) -> Path:
    """Return a path beside the output. The output itself is first written in a temporary folder beside it."""
    folder = out.parent.parent if out.parent.suffix == ".part" else out.parent
    return folder / f"{out.name}.{suffix}"


def _create(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def start_daemon(out: Path, *, keeps_environment: bool = True) -> None:
    """Start a process that leaves its group and its parent, as daemons do, and write its process id."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            _beside(out, "daemon").write_text(str(os.getpid()))
            if not keeps_environment:
                os.execve("/bin/sleep", ["/bin/sleep", "3600"], {})
            time.sleep(3600)
        os._exit(0)
    os.wait()
    while not _beside(out, "daemon").exists():
        time.sleep(0.01)


def _act(parameters: Parameters, out: Path) -> None:
    match parameters.action:
        case "sleep":
            end = time.monotonic() + parameters.seconds
            while time.monotonic() < end:
                time.sleep(0.02)
        case "wait":
            while parameters.once is not None and Path(parameters.once).exists():
                time.sleep(0.02)
        case "raise":
            raise RuntimeError("the probe was told to raise")
        case "exit":
            sys.exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "hang":
            while True:
                ctypes.CDLL(None).sleep(60)
        case "close":
            os.closerange(3, 1024)  # as code does that makes a daemon of its process
            time.sleep(parameters.seconds)
        case "eat":
            eaten = []
            while True:
                eaten.append(bytearray(os.urandom(2**20) * 16))
                time.sleep(0.01)
        case "orphan":
            if os.fork() == 0:
                time.sleep(3600)
            os._exit(9)
        case "daemon":
            start_daemon(out)
            time.sleep(parameters.seconds)
        case "stranger":
            start_daemon(out, keeps_environment=False)
            time.sleep(parameters.seconds)
        case "leak":
            raise RuntimeError(f"cannot reach {os.environ['FINCH_BROKER_URL']} or {os.environ['FINCH_DATABASE_URL']}")
        case "print":
            print("the last words of the probe", flush=True)
            os._exit(4)


@hookimpl
def finch_export_formats() -> Sequence[ExportFormat]:
    return [
        ExportFormat(
            name="probe", summary="Does what a test selects.", target="finch_probe:write", parameters=Parameters
        )
    ]


def install(folder: Path) -> Path:
    """Install this package and `tampering` into a folder for the Python path."""
    information = folder / "finch_probe-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "finch_probe.py").write_bytes(Path(__file__).read_bytes())
    (folder / "sitecustomize.py").write_bytes(Path(__file__).with_name("tampering.py").read_bytes())
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: finch-probe\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[finch_hub]\nprobe = finch_probe\n")
    return folder
