"""`finch-hub adapters push` and `pull`, against a stand-in for the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import hugging_face
from support.adapters import save_adapter
from support.hugging_face import WRITER, HuggingFace

from .conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFace]:
    with hugging_face.serve() as server:
        hugging_face.use(server, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture
def birds(run: Run, tiny_folder: Path, tmp_path: Path) -> str:
    """Reference of a version on a base with an id."""
    saved = save_adapter(tiny_folder, tmp_path / "saved", r=4, target_modules=["q_proj"])
    assert run("bases", "add", tiny_folder, "--name", "tiny", "--public-id", "org/tiny").status == 0
    assert run("adapters", "import", saved, "--name", "birds", "--base", "tiny").status == 0
    return "birds/1"


def test_pushed_version_is_pulled_shown_and_in_the_lineage(
    run: Run, birds: str, remote: HuggingFace, tiny_folder: Path
) -> None:
    pushed = run("adapters", "push", birds, "ana/birds")
    commit = remote.repositories["ana/birds"].tags["v1"]
    assert pushed.out.splitlines() == [
        f"Pushed birds/1 to ana/birds as v1, commit {commit}",
        f"{remote.url}/ana/birds/tree/v1",
    ]
    assert "finch-hub adapters pull ana/birds@v1 --name birds" in pushed.err
    again = run("adapters", "push", birds, "ana/birds")
    assert again.out.startswith(f"birds/1 is already in ana/birds as v1, commit {commit}\n")
    assert run("adapters", "push", birds, "ana/birds", "--json").json["is_new"] is False

    pulled = run("adapters", "pull", "ana/birds@v1", "--name", "guest")
    assert pulled.out.splitlines()[:2] == [
        f"Pulled guest/1 (ready) from ana/birds@v1, commit {commit}",
        "Its identity is the one in its finch.json.",
    ]
    again = run("adapters", "pull", "ana/birds@v1", "--name", "guest")
    assert again.out.startswith(f"guest/1 was already pulled from ana/birds@v1, commit {commit}\n")
    run("bases", "add", tiny_folder, "--name", "tiny", "--public-id", "org/other")
    assert "These files differ there: README.md, adapter_config.json" in run("adapters", "push", birds, "ana/birds").out
    assert run("adapters", "pull", "ana/birds", "--name", "guest", "--json").json["commit"] == commit
    assert commit in run("adapters", "show", "guest").out
    assert commit in run("adapters", "lineage", "guest", "--mermaid").out


def test_refusals_have_exit_codes_and_no_token(run: Run, birds: str, remote: HuggingFace) -> None:
    assert run("adapters", "pull", "birds", "--name", "guest").status == 2
    missing = run("adapters", "pull", "ana/no", "--name", "guest")
    assert (missing.status, WRITER in missing.err) == (3, False)
    remote.fault = 500
    assert run("adapters", "push", birds, "ana/birds").status == 7


@pytest.mark.slow
def test_variables_of_huggingface_hub_apply(
    run: Run, birds: str, remote: HuggingFace, home: Path, tmp_path: Path
) -> None:
    """They are read when huggingface_hub is imported, so the command has a process of its own."""
    variables = {
        "FINCH_HOME": str(home),
        "HF_ENDPOINT": remote.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": WRITER,
    }

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "finch_hub", "adapters", *words]
        return subprocess.run(command, env={**os.environ, **variables, **more}, capture_output=True, text=True)

    pushed = call("push", birds, "ana/birds", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["address"] == f"{remote.url}/ana/birds/tree/v1"
    assert call("pull", "ana/birds@v1", "--name", "guest").returncode == 0
    offline = call("push", birds, "ana/birds", HF_HUB_OFFLINE="1")
    assert (offline.returncode, "HF_HUB_OFFLINE forbids the network" in offline.stderr) == (7, True)
    assert WRITER not in pushed.stderr + offline.stderr
