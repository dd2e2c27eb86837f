"""`finch-hub adapters evidence`, `samples`, `report`, `compare` and `metric`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import registry

from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry.database import Database
from finch_hub.specs.evidence import Evidence, LossCurve, Sample, Samples

from .conftest import Run

CURVE = LossCurve.of_points([(1, 3.0, 1e-4), (2, 1.0, 1e-4)], [(0, 3.0, 0.1)])
EVIDENCE = Evidence(kind="train", curve=CURVE, notes=("measured here",)).to_document()


def test_evidence_is_shown_and_printed_as_json(run: Run, database: Database) -> None:
    registry.add_version(database, "birds", evidence=EVIDENCE)
    shown = run("adapters", "evidence", "birds")
    assert "train loss 3.000 █▁ 1.000, steps 1 to 2" in shown.out
    assert run("adapters", "evidence", "birds", "--json").json["curve"]["steps"] == [1, 2]
    assert run("adapters", "evidence", "owls").status == 3


def test_samples_are_shown_and_printed_as_json(run: Run, database: Database, home: Path) -> None:
    samples = Samples(samples=(Sample(prompt="Why?", expected="So.", before="Hm.", after="So."),), max_tokens=64)
    store = ArtifactStore(str(home / "artifacts"), cache=home / "cache" / "artifacts")
    digest = store.put(samples.model_dump_json().encode())
    registry.add_version(database, "birds", evidence=EVIDENCE, samples=digest)
    registry.add_version(database, "owls", evidence=EVIDENCE)
    assert "Why?" in run("adapters", "samples", "birds").out
    assert run("adapters", "samples", "birds", "--json").json == samples.model_dump(mode="json")
    refused = run("adapters", "samples", "owls")
    assert refused.status == 4
    assert "train with samples=4" in refused.err


def test_report_is_written_once_and_replaced_if_asked(run: Run, database: Database, tmp_path: Path) -> None:
    registry.add_version(database, "birds", evidence=EVIDENCE)
    out = tmp_path / "new" / "birds.html"
    assert run("adapters", "report", "birds", "--html", out).out == f"Wrote the report of birds to {out}\n"
    refused = run("adapters", "report", "birds", "--html", out)
    assert refused.status == 4
    assert refused.err == (
        f"error: the path {out} holds an earlier report (choose another path, or replace it: --replace)\n"
    )
    assert run("adapters", "report", "birds", "--html", out, "--replace").status == 0
    assert run("adapters", "report", "birds").status == 2
    assert run("adapters", "report", "owls", "--html", tmp_path / "o.html").status == 3
    assert [path.name for path in out.parent.iterdir()] == ["birds.html"]


def test_report_needs_its_extra(run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add_version(database, "birds", evidence=EVIDENCE)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    refused = run("adapters", "report", "birds", "--html", tmp_path / "o.html")
    assert (refused.status, refused.err) == (
        2, "error: a chart: needs vl-convert-python (pip install 'finch-hub[report]')\n",
    )  # fmt: skip
    assert not (tmp_path / "o.html").exists()


def test_versions_are_compared_and_a_metric_is_followed(run: Run, database: Database) -> None:
    for rank in (8, 16):
        registry.add_version(database, "birds", metrics={"rank": rank, "scheme": "x"}, evidence=EVIDENCE)
    shown = run("adapters", "compare", "birds/1", "birds/2").out
    assert "rank" in shown
    assert "scheme" not in shown
    assert "scheme" in run("adapters", "compare", "birds", "--show-equal").out
    (found,) = run("adapters", "compare", "birds", "--json").json["values"]
    assert (found["name"], found["values"]) == ("rank", [8, 16])
    assert run("adapters", "compare", "birds/1").status == 2
    assert [point["value"] for point in run("adapters", "metric", "birds", "rank", "--json").json] == [8, 16]
    assert "birds/2" in run("adapters", "metric", "birds", "rank").out
    assert run("adapters", "metric", "birds", "ranks").status == 3


@pytest.mark.slow
def test_comparison_loads_no_torch(run: Run, database: Database, home: Path) -> None:
    registry.add_version(database, "birds", evidence=EVIDENCE)
    code = (
        "import sys; from finch_hub import Hub\n"
        "with Hub() as hub: hub.adapters.compare('birds/1', 'birds/1', modules=True); hub.adapters.evidence('birds')\n"
        f"with Hub() as hub: hub.adapters.write_report('birds', {str(home.parent / 'birds.html')!r})\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
