"""MLflow as a peer, in an environment of its own, since it needs other versions of what this project requires."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from finch_hub import settings


def install() -> Path:
    """Return the folder of MLflow's commands. It is installed into FINCH_HOME once.

    Raises:
        RuntimeError: it could not be installed; gives the end of what pip says.
    """
    folder = settings.load().home / "benchmarks" / "mlflow"
    programs = folder / "bin"
    if not (programs / "mlflow").exists():
        venv.create(folder, with_pip=True)
        command = [str(programs / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "mlflow"]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            raise RuntimeError(f"MLflow could not be installed: {installed.stderr.strip()[-300:]}")
    return programs
