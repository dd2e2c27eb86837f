"""docs/training.md: its snippets run, one after the other, with a tiny base and a file of examples at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import lessons

from finch_hub.specs.examples import Example

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
SNIPPETS = re.findall(r"^```python run\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def pair(example: Example) -> tuple[str, str]:
    return example.messages[0].content, example.messages[1].content


def test_the_snippets_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(SNIPPETS) == PAGE.count("```python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    torch.set_num_threads(1)
    pairs = [pair(example) for example in lessons(48)]
    lines = "".join(f'{{"prompt": "{prompt}", "completion": "{completion}"}}\n' for prompt, completion in pairs)
    (tmp_path / "finches.jsonl").write_text(lines)
    names: dict[str, Any] = {"base": tiny_folder, "pairs": pairs}
    for snippet in SNIPPETS:
        exec(compile(snippet, "docs/training.md", "exec"), names)
    assert names["report"].after.loss < names["report"].before.loss
    assert "hand_back ['step-" in capsys.readouterr().out
    assert (tmp_path / "finch-adapter" / "adapter_model.safetensors").is_file()
    assert len(list((tmp_path / "work").glob("step-*"))) <= 2
    assert names["chosen"].report.trainable_parameters < names["chosen"].report.rank["trained_parameters"]


def test_the_first_snippet_takes_five_lines() -> None:
    assert len([line for line in SNIPPETS[0].splitlines() if line]) <= 5
