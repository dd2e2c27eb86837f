"""How to ask an adapter, as code in its model card: with PEFT, vLLM and Ollama."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from finch_hub.formats.vllm_limits import find_rank, name_options
from finch_hub.specs.cards import CardFacts
from finch_hub.texts.visible_text import to_json, to_line

# Of the models for which `engine.export.gguf` knows the names.
_OLLAMA_CLASSES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_QUESTION = "Your question"
_PEFT = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base}{base_remark}
adapter = {adapter}{adapter_remark}
tokenizer = AutoTokenizer.from_pretrained(base{base_revision})
model = AutoModelForCausalLM.from_pretrained(base{base_revision}, dtype="auto", device_map="auto")
model = PeftModel.from_pretrained(model, adapter{revision})

messages = {messages}
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, enable_thinking={thinking}, return_dict=True, return_tensors="pt"
).to(model.device)
output = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""


def write_usage(facts: CardFacts) -> list[str]:
    """Return the section on how to ask an adapter."""
    return ["## How to ask it", "", *_write_peft(facts), *_write_vllm(facts), *_write_ollama(facts)]


def _write_peft(facts: CardFacts) -> Iterator[str]:
    revision = _find_base_revision(facts)
    code = _PEFT.format(
        base=_literal(facts.base.label),
        base_revision="" if revision is None else f", revision={_literal(revision)}",
        base_remark="" if facts.base.label == facts.base.hub_id else "  # the folder of the base model",
        adapter=_literal(_find_place(facts)),
        adapter_remark="" if facts.repository is not None else "  # the folder of this card",
        revision="" if facts.repository is None else f", revision={_literal(facts.repository[1])}",
        messages=_literal(_make_messages(facts)),
        thinking=_is_thinking(facts),
    )
    yield from ("With PEFT and transformers, for a base with a chat template:", "", *code.split("\n"), "")


def _write_vllm(facts: CardFacts) -> Iterator[str]:
    rank = facts.metrics.get("rank")
    served = find_rank(rank) if isinstance(rank, int) and rank > 0 else None
    if facts.files is None:
        yield from ("Whether vLLM and Ollama load it is not known, since its files are not at hand.", "")
        return
    if facts.files.parts or served is None:
        reason = " and ".join(facts.files.parts) or "a rank above its largest"
        yield from (f"vLLM cannot serve it, since it has {reason}. Merge it into its base with `finch-hub merge`.", "")
        return
    name, place = _name_served(facts), f"./{_name_folder(facts)}"
    if not facts.files.is_folded:
        place = f"./{_name_folder(facts)}-vllm"
        yield from ("vLLM reads neither rsLoRA nor patterns of ranks. Export it first, from a hub that has it:", "")
        yield from _shell(["finch-hub", "export", _refer(facts), "--format", "vllm", "--out", place])
    else:
        yield from ("With vLLM:", "")
        if facts.repository is not None:
            repository, tag = facts.repository
            yield from _shell(["hf", "download", repository, "--revision", tag, "--local-dir", place])
    revision = _find_base_revision(facts)
    pinned = [] if revision is None else ["--revision", revision]
    serve = ["vllm", "serve", facts.base.label, *pinned, *name_options(served), "--lora-modules", f"{name}={place}"]
    body: dict[str, Any] = {"model": name, "messages": _make_messages(facts)}
    body["chat_template_kwargs"] = {"enable_thinking": _is_thinking(facts)}
    address = "http://localhost:8000/v1/chat/completions"
    ask = ["curl", address, "-H", "Content-Type: application/json", "-d", to_json(json.dumps(body, ensure_ascii=False))]
    yield from _shell(serve, ask)


def _write_ollama(facts: CardFacts) -> Iterator[str]:
    if facts.files is None:
        return
    if facts.files.parts:
        yield from (f"Ollama cannot load it, since it has {' and '.join(facts.files.parts)}.", "")
        return
    if facts.base.architecture not in (None, *_OLLAMA_CLASSES):
        yield from ("Ollama cannot load it, since there is no export for the architecture of its base.", "")
        return
    folder, name = f"{_name_folder(facts)}-ollama", _name_served(facts)
    if facts.files.has_head:
        yield from ("Ollama loads it only if its base does not tie the head to the embeddings.", "")
    yield from ("With Ollama, from a hub that has the adapter and its base:", "")
    yield from _shell(
        ["finch-hub", "export", _refer(facts), "--format", "ollama", "--out", folder],
        ["ollama", "create", name, "-f", f"{folder}/Modelfile"],
        ["ollama", "run", name, _QUESTION],
    )


def _shell(*commands: list[str]) -> list[str]:
    return ["```sh", *(to_line(shlex.join(map(to_line, words))) for words in commands), "```", ""]


def _literal(value: object) -> str:
    """Return a text, or messages, as Python writes them, on one line."""
    return to_line(json.dumps(value, ensure_ascii=False))


def _make_messages(facts: CardFacts) -> list[dict[str, str]]:
    system = facts.spec.get("system")
    messages = [{"role": "system", "content": str(system)}] if system else []
    return [*messages, {"role": "user", "content": _QUESTION}]


def _is_thinking(facts: CardFacts) -> bool:
    return facts.spec.get("thinking") is True


def _find_place(facts: CardFacts) -> str:
    return facts.repository[0] if facts.repository is not None else f"./{_name_folder(facts)}"


def _name_folder(facts: CardFacts) -> str:
    return to_line(facts.reference or facts.name).replace("/", "-")


def _name_served(facts: CardFacts) -> str:
    return to_line(facts.name).replace("/", "-")


def _refer(facts: CardFacts) -> str:
    return facts.reference or facts.name


def _find_base_revision(facts: CardFacts) -> str | None:
    return facts.base.revision if facts.base.label == facts.base.hub_id else None
