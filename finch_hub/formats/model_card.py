"""Model cards of what Finch Hub made: adapters and merged models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from finch_hub.formats.markdown import format_code, format_code_block, format_text
from finch_hub.texts.visible_text import to_json

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def write_card(record: Mapping[str, Any], base: str, evidence: Mapping[str, Any] | None = None) -> str:
    """Return the text of a card: metadata for the Hugging Face Hub, then measurements and parents for people.

    Args:
        record: the hub's record of the version, with `name`, `kind`, `spec`, `lineage` and `metrics`.
        base: repository id of the base. Another name is shown, but is not put into the metadata.
        evidence: document of what was measured when the version was made.
    """
    lineage, metrics = record["lineage"], record["metrics"]
    front: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    tags = ["lora", "transformers", "finch-hub"]
    if "/" in base and _REPOSITORY.fullmatch(base):
        front |= {"base_model": base, "base_model_relation": "adapter"}
        tags.insert(2, f"base_model:adapter:{base}")
    front["tags"] = tags
    if "loss_after" in metrics:
        value = round(metrics["loss_after"], 4)
        measured = [{"type": "loss", "name": "held-out loss (nats per token)", "value": value}]
        task = {"type": "text-generation"}
        dataset = {"name": "held-out examples", "type": (lineage.get("validation_digest") or "")[:16]}
        results = [{"task": task, "dataset": dataset, "metrics": measured}]
        front["model-index"] = [{"name": record["name"], "results": results}]
    lines = [*_format_front(front), f"# {format_text(record['name'])}", ""]
    lines += [f"A LoRA adapter for {format_code(base)}, made by Finch Hub ({format_text(record['kind'])}).", ""]
    shown = {k: v for k, v in metrics.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}
    if shown:
        lines += ["| measured | value |", "|---|---|"]
        lines += [f"| {format_text(k)} | {_format_value(v)} |" for k, v in shown.items()]
        lines.append("")
    if record["kind"] == "train" and "loss_after" in metrics:
        lines += ["The rows of `loss_after` also chose the checkpoint, so the figure is a little too low.", ""]
    if evidence is not None:
        lines += _format_evidence(evidence)
    if system := record.get("spec", {}).get("system"):
        lines += ["## System prompt", "", "It was trained with this system prompt, and answers best with it:", ""]
        lines += [*format_code_block(system), ""]
    if lineage.get("parents"):
        lines += ["## Made from", ""]
        lines += [f"- {format_code(parent['reference'])}, weight {parent['weight']:g}" for parent in lineage["parents"]]
        lines.append("")
    lines += ["Lineage, hashes and versions are in `finch.json`.", ""]
    return "\n".join(lines)


def format_samples(samples: Mapping[str, Any]) -> str:
    """Return the document of sample answers as a section of a card."""
    lines = ["## Sample answers", "", f"Each answer has at most {samples['max_tokens']} tokens.", ""]
    before = f"Before, by {format_text(samples.get('start') or 'base')}"
    for sample in samples["samples"]:
        texts = {"Prompt": "prompt", "Expected": "expected", before: "before", "After": "after"}
        for title, name in texts.items():
            lines += [f"{title}:", "", *format_code_block(sample[name]), ""]
    return "\n".join(lines)


def _format_evidence(evidence: Mapping[str, Any]) -> list[str]:
    """Return the figures of the data, and what a composition kept of each parent."""
    lines = []
    if data := evidence.get("training", {}).get("data"):
        held_out = f", and {data['validation_examples']:,} were held out" if data.get("validation_examples") else ""
        lines += [f"It was trained on {data['examples']:,} examples with {data['tokens']:,} tokens{held_out}.", ""]
    if retention := evidence.get("composition", {}).get("retention"):
        columns = ("parent", "base", "own adapter", "composed", "retention")
        lines += ["## Retention", ""]
        lines += ["The held-out loss on the rows of each parent, and the share of its gain that is kept:", ""]
        lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [*map(_format_retention, retention), ""]
    return lines


def _format_retention(kept: Mapping[str, Any]) -> str:
    figures = ["-" if kept.get(name) is None else f"{kept[name]:.3f}" for name in ("base", "own", "composed")]
    share = kept["status"] if kept.get("retention") is None else f"{kept['retention']:.3f}"
    return f"| {' | '.join([format_code(kept['parent']), *figures, share])} |"


def write_merged_card(base: str, adapters: Sequence[Mapping[str, Any]], public: str | None) -> str:
    """Return the text of the card of a merged model.

    Args:
        base: name of the base.
        adapters: `name` and `weight` of each.
        public: repository id of the base, for the metadata, if it has one.
    """
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if public is not None and _REPOSITORY.fullmatch(public):
        front |= {"base_model": public, "base_model_relation": "merge"}
    front["tags"] = ["merge", "lora"]
    noun = "LoRA adapter" if len(adapters) == 1 else "LoRA adapters"
    lines = [*_format_front(front), f"# {format_text(base)} with {len(adapters)} {noun} merged", ""]
    lines.append(
        f"Written by Finch Hub: the weights of {format_code(base)} with these updates added, in the base's dtype."
    )
    lines += ["", *(f"- {format_code(part['name'])}, weight {part['weight']:g}" for part in adapters), ""]
    return "\n".join(lines)


def _format_front(front: Mapping[str, Any]) -> list[str]:
    """Return metadata in YAML. Each value is visible JSON, which every parser of YAML reads."""
    return [
        "---",
        *(f"{key}: {to_json(json.dumps(value, ensure_ascii=False))}" for key, value in front.items()),
        "---",
        "",
    ]


def _format_value(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_text(value)
