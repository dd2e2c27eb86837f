"""The wheel contains the migrations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from finch_hub.registry.database import Database

ROOT = Path(__file__).parents[3]


def test_installed_wheel_creates_its_database(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT, cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site, home = tmp_path / "site", tmp_path / "home"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    installed = {"PYTHONPATH": str(site), "FINCH_HOME": str(home)}  # before this checkout, which has the requirements
    run(site / "bin" / "finch-hub", "db", "upgrade", cwd=tmp_path, **installed)
    database = Database(f"sqlite:///{home / 'finch.db'}")
    database.check()
    database.close()
    where = "from finch_hub.registry import schema_revisions; print(schema_revisions.scripts())"
    assert Path(run(sys.executable, "-c", where, cwd=tmp_path, **installed).strip()).is_relative_to(site)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
