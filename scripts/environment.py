"""The environment `.venv`: what is wrong with it, and its replacement by a complete one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STATE_NAME = "finch-installed.json"


@dataclass(frozen=True)
class State:
    """What was installed, written when an installation is complete."""

    root: str
    python: str
    torch: str
    use: str
    development: str
    project: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder."""

    folder: Path

    @property
    def python(self) -> Path:
        """Return its interpreter."""
        return self.folder / "bin" / "python"

    def find_packages(self) -> Path:
        """Return the folder of its packages, or one that does not exist."""
        return next(self.folder.glob("lib/python3.*/site-packages"), self.folder / "lib")

    def list_packages(self) -> tuple[str, ...]:
        """Return the names of the folders that describe completely installed packages."""
        found = self.find_packages().glob("*.dist-info/RECORD")
        return tuple(sorted(path.parent.name for path in found))

    def escape_paths(self) -> None:
        """Write the paths to other folders with ASCII characters only.

        Before version 3.13, Python reads them in the encoding of the locale, and does not start if it cannot.
        """
        for file in self.find_packages().glob("*.pth"):
            lines = file.read_bytes().splitlines()
            for number, line in enumerate(lines):
                if not line.isascii():
                    lines[number] = f"import os, sys; sys.path.append(os.fsdecode({line!r}))".encode()
            file.write_bytes(b"\n".join([*lines, b""]))

    def read_version(self) -> str | None:
        """Return the version of its interpreter, or None if it does not run."""
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            # -S: without site-packages, which may be broken.
            done = subprocess.run([self.python, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    def read_state(self) -> State | None:
        """Return what was installed, or None if no installation was completed."""
        try:
            values = json.loads((self.folder / STATE_NAME).read_text(encoding="utf-8"))
            return State(**{**values, "packages": tuple(values["packages"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write_state(self, state: State) -> None:
        """Store what is installed, in one step."""
        path = self.folder / STATE_NAME
        path.with_suffix(".new").write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        path.with_suffix(".new").replace(path)

    def find_fault(self, root: Path) -> str | None:
        """Return why the environment cannot be used in a checkout, or None."""
        state = self.read_state()
        if state is None:
            return "its installation was not completed"
        if state.root != str(root):
            return f"it was made in {state.root}"
        version = self.read_version()
        if version is None:
            return "its Python does not run"
        if version != state.python:
            return f"its Python was {state.python} and is {version}"
        present = set(self.list_packages())
        if damaged := [name for name in state.packages if name not in present]:
            name = damaged[0].removesuffix(".dist-info").replace("-", " ")
            return f"{name} is not there as it was installed"
        return None

    def move(self, target: Path) -> None:
        """Correct the paths in its scripts for another folder, and move the environment there."""
        # The name alone, because some scripts quote the folders above it.
        old, new = os.fsencode(self.folder.name), os.fsencode(target.name)
        for path in [*(self.folder / "bin").iterdir(), self.folder / "pyvenv.cfg"]:
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                if old in content:
                    path.write_bytes(content.replace(old, new))
        aside = target.with_name(f"{target.name}-old")
        remove(aside)
        # A kill between these lines leaves no environment, and the next call continues here.
        if os.path.lexists(target):
            target.rename(aside)
        self.folder.rename(target)
        remove(aside)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def create(folder: Path) -> Environment:
    """Create an environment without packages.

    Raises:
        subprocess.CalledProcessError: Python could not create it.
    """
    remove(folder)
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)], check=True)
    return Environment(folder)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[int]:
    """Wait until no other installation runs in the checkout, and give the descriptor that holds the lock."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another make that installs packages in this folder", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
