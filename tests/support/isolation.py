"""A scratch folder and an environment for each test process: nothing comes in, and nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from support import machine

import finch_hub

ROOT = Path(__file__).parents[2]

# What users, their shells and their tools set. `FINCH_TEST_*` are for the tests.
_HIDDEN_PREFIXES = (
    "FINCH_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "XDG_", "PIP_", "PG", "AWS_",
    "MAKE", "MFLAGS", "GNUMAKEFLAGS",  # the options of a `make` reach every other one below it
)  # fmt: skip
_HIDDEN = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
_MARKER = "FINCH_TEST_SESSION"
_MAX_PARENT = 40  # bytes; the path of a unix socket below has at most 107
_END_SECONDS = 15.0
_SHARED_MEMORY = Path("/dev/shm")


class Isolation:
    """Scratch folder of one test process, and the environment that its tests and their children see.

    `HOME`, `TMPDIR` and `XDG_RUNTIME_DIR` are in the scratch folder. pytest's own temporary folders are not, so that
    those of failed tests can be read afterwards.
    """

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) > _MAX_PARENT:
            parent = "/tmp"
        self.folder = Path(tempfile.mkdtemp(prefix="finch-", dir=parent))
        self._temporary = self.folder / "t"
        for folder in (self.folder, self._temporary):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o711)  # PostgreSQL enters as another user if the tests run as root
        for name in ("run", "home"):
            (self.folder / name).mkdir(mode=0o700)
        self._marker = secrets.token_hex(8)
        self._shared_memory = _shared_memory()
        self._patch = pytest.MonkeyPatch()
        self._patch.setenv("PYTEST_DEBUG_TEMPROOT", os.environ.get("PYTEST_DEBUG_TEMPROOT") or parent)
        for name in list(os.environ):
            if is_hidden(name):
                self._patch.delenv(name)
        for name, value in self._own_variables().items():
            self._patch.setenv(name, value)
        self._patch.setattr(tempfile, "tempdir", None)  # it keeps the folder of the first call

    def limit_threads(self, processes: int) -> None:
        """Give the libraries of this process their share of the cores, unless the user has set it."""
        threads = machine.choose_threads(machine.count_cores(), processes)
        # Threads that wait in a loop would take the cores of the other processes.
        for name, value in (("OMP_NUM_THREADS", str(threads)), ("GOMP_SPINCOUNT", "20000")):
            if not os.environ.get(name):
                self._patch.setenv(name, value)

    def leftovers(self) -> list[str]:
        """Return what tests have left: processes (which are ended), temporary files, shared memory."""
        deadline = time.monotonic() + _END_SECONDS
        while (processes := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        found = [f"process {process.pid}: {_command(process)}" for process in processes]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        found += [f"{path} in the temporary folder" for path in self._temporary.iterdir() if not _is_of_sockets(path)]
        return found + [f"shared memory {name}" for name in self._orphaned_memory()]

    def leave(self) -> None:
        """Restore the environment and delete the scratch folder."""
        self._patch.undo()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _own_variables(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder / "home"),
            "FINCH_HOME": str(self.folder / "home" / ".finch"),
            "TMPDIR": str(self._temporary),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "home"),  # torch makes it in the temporary folder
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "PYTHONPATH": str(Path(finch_hub.__file__).parents[1]),  # children import what this process imports
            _MARKER: self._marker,
        }

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mine = process.environ().get(_MARKER) == self._marker
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _orphaned_memory(self) -> set[str]:
        """Return the names of new segments that no process uses. Other users of this machine make some too."""
        new = _shared_memory() - self._shared_memory
        for process in psutil.process_iter() if new else ():
            with contextlib.suppress(psutil.Error, OSError):
                maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
                new = {name for name in new if str(_SHARED_MEMORY / name) not in maps}
        return {name for name in new if (_SHARED_MEMORY / name).exists()}


def is_hidden(name: str) -> bool:
    """Return whether tests must not see a variable of the user's environment."""
    if name.startswith("FINCH_TEST_"):
        return False
    return name.startswith(_HIDDEN_PREFIXES) or name in _HIDDEN or name.lower() in _HIDDEN


def _is_of_sockets(folder: Path) -> bool:
    """Return whether this is the empty folder of a private broker that a signal ended, so that no client removed it."""
    return folder.name.startswith(f"finch-{os.getuid()}-") and not any(folder.iterdir())


def _shared_memory() -> set[str]:
    """Return the names of the segments whose processes this user can inspect."""
    names = set()
    for path in _SHARED_MEMORY.iterdir() if _SHARED_MEMORY.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and os.getuid() in (0, path.stat().st_uid):  # others put folders there
                names.add(path.name)
    return names


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:300]
    except psutil.Error:
        return "ended meanwhile"
