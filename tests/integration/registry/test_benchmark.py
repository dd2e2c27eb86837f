"""`benchmarks/registry.py` with few versions, so that a change of the registry does not break it unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[3] / "benchmarks" / "registry.py"


@pytest.mark.slow
def test_benchmark_of_the_registry_reports_all_that_it_measures() -> None:
    options = ["--versions", "600", "--times", "2", "--seconds", "0.05", "--beside", "0"]
    done = subprocess.run([sys.executable, str(FILE), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for engine in ("sqlite", "postgresql"):
        found = report[engine]
        assert found["reference"]["p95_ms"] > 0
        assert len(found["searches"]["queries"]) == 10
        assert found["searches"]["queries"][" | -created"]["rows"] == 50
        assert any(query["rows"] for query in found["words"]["queries"].values())
        assert found["registering"]["registrations_per_s"] > 0
