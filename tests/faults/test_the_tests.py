"""Proof that the tests can fail: without the fence in the writes, the tests of the fence fail."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import finch_hub

FENCE = re.compile(r"jobs\.c\.\S+( == |\()sa\.bindparam\(\"owner_\w+\".*\),\n\s+")
ROOT = Path(__file__).parents[2]
ABOUT_THE_FENCE = [ROOT / "tests/faults/test_stale.py", ROOT / "tests/faults/test_processes.py"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_the_fence_at_least_three_tests_fail(tmp_path: Path) -> None:
    package = tmp_path / "finch_hub"
    shutil.copytree(Path(finch_hub.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    writes = package / "registry" / "attempts.py"
    unfenced, places = FENCE.subn("", writes.read_text())
    assert places == 3, "this test found the fence, with worker and token"
    writes.write_text(unfenced)
    files = map(str, ABOUT_THE_FENCE)
    paths = f"pythonpath={shlex.quote(str(ROOT / 'tests'))}"  # without the checkout's own package
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "-o", paths, *files]
    ran = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), "-k", "sqlite and (lost_attempt or stopped_for_longer)"],
        cwd=tmp_path,  # where `python -m` looks for imports, and its children as it does
        capture_output=True,
        text=True,
    )
    red = re.findall(r"^FAILED (\S+)", ran.stdout, re.MULTILINE)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert len(red) >= 3, ran.stdout
    assert "error" not in ran.stdout.splitlines()[-1], "the tests failed, not their fixtures"
