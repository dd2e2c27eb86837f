"""Model cards of adapters that Finch Hub made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def write_card(record: Mapping[str, Any], base: str) -> str:
    """Return the text of a card: metadata for the Hugging Face Hub, then measurements and parents for people.

    Args:
        record: the hub's record of the version, with `name`, `kind`, `spec`, `lineage` and `metrics`.
        base: repository id of the base. Another name is shown, but is not put into the metadata.
    """
    lineage, metrics = record["lineage"], record["metrics"]
    front: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    tags = ["lora", "transformers", "finch-hub"]
    if "/" in base:
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
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [f"# {record['name']}", "", f"A LoRA adapter for `{base}`, made by Finch Hub ({record['kind']}).", ""]
    shown = {k: v for k, v in metrics.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}
    if shown:
        lines += ["| measured | value |", "|---|---|"]
        lines += [f"| {k} | {f'{v:.4g}' if isinstance(v, float) else v} |" for k, v in shown.items()]
        lines.append("")
    if record["kind"] == "train" and "loss_after" in metrics:
        lines += ["The rows of `loss_after` also chose the checkpoint, so the figure is a little too low.", ""]
    if system := record.get("spec", {}).get("system"):
        lines += ["## System prompt", "", "It was trained with this system prompt, and answers best with it:", ""]
        lines += [*(f"    {line}" for line in str(system).splitlines()), ""]
    if lineage.get("parents"):
        lines += ["## Made from", ""]
        lines += [f"- `{parent['reference']}`, weight {parent['weight']:g}" for parent in lineage["parents"]]
        lines.append("")
    lines += ["Lineage, hashes and versions are in `finch.json`.", ""]
    return "\n".join(lines)
