"""The commands of docs/importing.md, run in order, first without the files of the base."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from support import hugging_face
from support.adapters import save_adapter

from finch_hub.cli import main
from finch_hub.display import tables

PAGE = Path(__file__).parents[2] / "docs" / "importing.md"


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for line in "".join(blocks).splitlines()]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_commands_import_check_name_the_base_push_and_pull(
    tiny_folder: Path,
    tmp_path: Path,
    valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FINCH_BROKER_URL", valkey_url)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "models/smollm2")
    save_adapter(tiny_folder, tmp_path / "peft-folder", r=4, lora_alpha=8, target_modules=["q_proj"], use_dora=True)

    def run(words: list[str]) -> str:
        tables.console.cache_clear()  # it keeps the stream of the previous command
        assert main.main(words) == 0, words
        return capsys.readouterr().out

    import_, add, check, add_id, push, pull, bundle, try_, unbundle = commands()
    run(add)
    shutil.move("models/smollm2", "away")
    shown = run(import_)
    assert "Imported guest/1 (unchecked)" in shown
    assert "Ignored files beside it: README.md" in shown
    assert "It has DoRA magnitudes, so it cannot be used by: compose, export vllm" in shown
    shutil.move("away", "models/smollm2")
    run(add)
    assert "Checked guest/1 (ready)" in run(check)
    run(add_id)
    assert "HuggingFaceTB/SmolLM2-135M" in run(["bases", "list"])
    shown = run(["adapters", "show", "guest"])
    assert "Ignored files" in shown
    assert "DoRA magnitudes" in shown
    with hugging_face.serve() as server:
        hugging_face.use(server, tmp_path / "cache", monkeypatch)
        assert "Pushed guest/1 to birds-org/guest as v1" in run(push)
        assert "Pulled friend/1 (ready) from birds-org/guest@v1" in run(pull)
    run(bundle)
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "other"))
    assert "Would take 1 version" in run(try_)
    assert "guest/1: added (unchecked)" in run(unbundle)
