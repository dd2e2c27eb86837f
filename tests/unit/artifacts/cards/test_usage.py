"""Code in model cards: it runs as it is, and names what our exports write."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from support.adapters import VARIANTS, save_adapter

from finch_hub.artifacts.cards import usage
from finch_hub.artifacts.cards.usage import write_usage
from finch_hub.cli import main
from finch_hub.engine.export import gguf, ollama, peft, vllm
from finch_hub.engine.export.parameters import OllamaParameters, PEFTParameters
from finch_hub.specs.cards import CardBase, CardFacts, CardFiles

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
    export = find_block(write(files=CardFiles(is_folded=False)), "sh", "finch-hub export")
    assert export == "finch-hub export birds/1 --format vllm --out ./birds-1-vllm\n"
    assert "birds=./birds-1-vllm" in write(files=CardFiles(is_folded=False))


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
        ({"files": CardFiles(parts=("DoRA magnitudes",))}, "DoRA magnitudes"),
        ({"metrics": {"rank": 600}}, "a rank above its largest"),
    ],
)
def test_adapter_that_vllm_refuses_has_no_command_for_it(fields: dict[str, Any], reason: str) -> None:
    text = write(**fields)
    assert f"vLLM cannot serve it, since it has {reason}" in text
    assert "vllm serve" not in text


def test_base_is_pinned_to_the_revision_that_is_known() -> None:
    base = CardBase(label="org/tiny", hub_id="org/tiny", revision="abc")
    text = "\n".join(write_usage(CardFacts(name="birds", kind="train", metrics={"rank": 4}, base=base)))
    assert text.count('from_pretrained(base, revision="abc"') == 2
    assert "vllm serve org/tiny --revision abc --enable-lora" in text
    local = base.evolve(label="models/tiny")
    text = "\n".join(write_usage(CardFacts(name="birds", kind="train", metrics={"rank": 4}, base=local)))
    assert "abc" not in text
    assert 'base = "models/tiny"  # the folder of the base model' in text


def test_server_serves_the_tag_of_a_repository() -> None:
    text = write(repository=("ana/birds", "v1"))
    download = find_block(text, "sh", "hf download").strip()
    serve = find_block(text, "sh", "vllm serve").splitlines()[0]
    assert download == "hf download ana/birds --revision v1 --local-dir ./birds-1"
    assert serve.endswith("--lora-modules birds=./birds-1")


def test_files_that_are_not_at_hand_have_no_commands() -> None:
    text = write(files=None)
    assert "Whether vLLM and Ollama load it is not known" in text
    assert "finch-hub export" not in text


@pytest.mark.parametrize(
    ("architecture", "is_known"), [("LlamaForCausalLM", True), ("GPT2LMHeadModel", False), (None, True)]
)
def test_ollama_has_commands_for_architectures_that_the_export_knows(architecture: str | None, is_known: bool) -> None:
    facts = CardFacts(name="birds", kind="train", base=CardBase(label="tiny", architecture=architecture))
    assert ("ollama create" in "\n".join(write_usage(facts))) == is_known


def test_architectures_of_ollama_are_those_of_the_export() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name] for name in gguf._ARCHITECTURES}
    assert set(usage._OLLAMA_CLASSES) == known


def test_head_has_a_remark_for_ollama() -> None:
    assert "only if its base does not tie the head" in write(files=CardFiles(has_head=True))


@pytest.mark.parametrize("text", ["\U000e0041x", "\u202ex", "\x9bx", "\ud800", "a\\\U000e0041", '"\\n\n'])
def test_python_code_has_the_very_text(text: str) -> None:
    (line,) = [line for line in write(spec={"system": text}).splitlines() if line.startswith("messages = ")]
    assert ast.literal_eval(line.removeprefix("messages = "))[0]["content"] == text
