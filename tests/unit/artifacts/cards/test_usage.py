"""Code in model cards: it runs as it is, and names what our exports write."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from support.adapters import VARIANTS, save_adapter

from finch_hub.artifacts.cards.usage import write_usage
from finch_hub.cli import main
from finch_hub.engine.export import ollama, peft, vllm
from finch_hub.engine.export.parameters import OllamaParameters, PEFTParameters
from finch_hub.specs.cards import CardBase, CardFacts

SYSTEM = 'Be "kind".\nAnswer \\briefly, it\'s `short`.'


def write(base: str = "org/tiny", **fields: Any) -> str:
    known = {"name": "birds", "reference": "birds/1", "kind": "train", "metrics": {"rank": 4}, **fields}
    return "\n".join(write_usage(CardFacts(base=CardBase(label=base), **known)))


def find_block(text: str, language: str, containing: str = "") -> str:
    return next(block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if containing in block)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # of PEFT and transformers among themselves
@pytest.mark.parametrize("system", [None, SYSTEM])
def test_python_code_asks_the_exported_adapter(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    system: str | None,
) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    peft.export_peft(adapter, None, tmp_path / "birds-1", PEFTParameters())
    monkeypatch.chdir(tmp_path)
    code = find_block(write(str(tiny_folder), spec={"system": system}), "python").replace("=256", "=4")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["model"].peft_config["default"].r == 4
    asked = names["tokenizer"].decode(names["inputs"]["input_ids"][0])
    assert "Your question" in asked
    assert system is None or system in asked
    assert capsys.readouterr().out.endswith("\n")


def test_server_of_vllm_has_the_options_of_the_export(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **{**VARIANTS["plain"], "r": 20})
    report = vllm.export_vllm(adapter, None, tmp_path / "out", PEFTParameters())
    serve, ask = find_block(write(metrics={"rank": 20}, spec={"system": SYSTEM}), "sh", "vllm").splitlines()
    assert f"vllm serve org/tiny {report['serve']} --lora-modules birds=./birds-1" == serve
    words = shlex.split(ask)
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "birds"
    assert body["messages"][0] == {"role": "system", "content": SYSTEM}


def test_adapter_with_patterns_is_exported_for_vllm_first() -> None:
    export = find_block(write(config={"rank_pattern": {"q_proj": 8}}), "sh", "finch-hub export")
    assert export == "finch-hub export birds/1 --format vllm --out birds-1-vllm\n"
    assert "birds=birds-1-vllm" in write(config={"use_rslora": True})


def test_ollama_is_given_the_model_file_of_the_export(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "birds", **VARIANTS["plain"])
    report = ollama.export_ollama(adapter, tiny_folder, tmp_path / "birds-1-ollama", OllamaParameters())
    export, create, run = find_block(write(), "sh", "ollama create").splitlines()
    assert create == report["create"].replace(f"{tmp_path}/", "")
    assert run.startswith("ollama run birds ")
    command, context, words = main.cli, None, shlex.split(export)[1:]
    context = command.make_context("finch-hub", [words[0], "--help"], resilient_parsing=True)
    options = command.get_command(context, words[0])
    assert options is not None
    assert {"--format", "--out"} <= {name for option in options.params for name in option.opts}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"config": {"use_dora": True}}, "DoRA magnitudes"),
        ({"config": {"bias": "all"}}, "trained biases"),
        ({"config": {"modules_to_save": ["lm_head"]}}, "whole modules"),
        ({"metrics": {"rank": 600}}, "a rank above its largest"),
    ],
)
def test_adapter_that_vllm_refuses_has_no_command_for_it(fields: dict[str, Any], reason: str) -> None:
    text = write(**fields)
    assert f"vLLM cannot serve it, since it has {reason}" in text
    assert "vllm serve" not in text
