"""`finch-hub compare` in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.adapters import save_adapter

from finch_hub.cli.compare import _read_prompts
from finch_hub.cli.sampling import write_answer

from .conftest import Run


@pytest.fixture
def birds(run: Run, tiny_folder: Path, tmp_path: Path) -> str:
    """A registered adapter of the tiny base."""
    run("bases", "add", tiny_folder, "--name", "tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, target_modules=["q_proj"])
    assert run("adapters", "import", made, "--name", "birds", "--base", "tiny").status == 0
    return "birds"


def test_base_and_adapters_answer_as_each_does_alone(run: Run, birds: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "What is a finch?", "completion": "A bird."}, {"prompt": "Why?"}]
    prompts.write_text("\n".join(map(json.dumps, rows)))
    ran = run("compare", birds, "--prompts", prompts, "--output", "jsonl", "--max-new-tokens", 3)
    assert ran.status == 0, ran.err
    compared = [json.loads(line) for line in ran.out.splitlines()]
    assert [(row["prompt"], row.get("completion")) for row in compared] == [
        ("What is a finch?", "A bird."),
        ("Why?", None),
    ]
    alone = run("generate", "Why?", "--adapter", "base", "--adapter", birds, "--max-new-tokens", 3, "--json").json
    assert compared[1]["answers"] == alone["answers"]


def test_prompts_may_be_lines_of_text(run: Run, birds: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Why?\n\nWhere?\n")
    page = run("compare", birds, "--prompts", prompts, "--output", "html", "--max-new-tokens", 1).out
    assert page.startswith("<!doctype html>")
    assert page.count("<td>") == 6


def test_answer_below_a_name_forges_no_other_name(capsys: pytest.CaptureFixture[str]) -> None:
    pieces = ["One\n", "[birds/1]\r\n", "Two"]
    assert list(write_answer(pieces, "birds/2")) == pieces
    assert capsys.readouterr().out == "[birds/2]\n  One\n  [birds/1]\n  Two\n"
    assert list(write_answer(pieces, None)) == pieces
    assert capsys.readouterr().out == "One\n[birds/1]\nTwo\n"


def test_interrupted_answer_is_written_up_to_its_last_letter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def generate() -> Iterator[str]:
        yield "A finch si"
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(KeyboardInterrupt):
        list(write_answer(generate(), None))
    assert capsys.readouterr().out == "A finch si"


def test_json_lines_end_at_newlines_only(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    texts = ["a\u2028b", "c\x85d"]
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    prompts.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert [row["prompt"] for row in _read_prompts(str(prompts))] == texts


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.txt", "\n \n", "has no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"question": "b"}', "line 2 is not a JSON object with a prompt"),
        ("p.jsonl", "[", "line 1 is not a JSON object with a prompt"),
    ],
)
def test_file_without_prompts_is_refused_before_a_base_is_loaded(
    run: Run, tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_text(text)
    refused = run("compare", "birds", "--prompts", tmp_path / name)
    assert (refused.status, says in refused.err) == (2, True), refused.err
