"""Model cards of adapters that Finch Hub made."""

from __future__ import annotations

import json

from finch_hub.registry import values
from finch_hub.specs.value import JsonObject


def write(name: str, kind: values.VersionKind, base: str, lineage: values.Lineage, metrics: JsonObject) -> str:
    """Return the text of a card: metadata for the Hugging Face Hub, then measurements and parents for people."""
    front: JsonObject = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": base,
        "base_model_relation": "adapter",
        "tags": ["lora", "transformers", f"base_model:adapter:{base}", "finch-hub"],
    }
    if "loss_after" in metrics:
        value = round(metrics["loss_after"], 4)
        measured = [{"type": "loss", "name": "held-out loss (nats per token)", "value": value}]
        task = {"type": "text-generation"}
        dataset = {"name": "held-out examples", "type": (lineage.validation_digest or "")[:16]}
        front["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": measured}]}]
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [f"# {name}", "", f"A LoRA adapter for `{base}`, made by Finch Hub ({kind}).", ""]
    shown = {k: v for k, v in metrics.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}
    if shown:
        lines += ["| measured | value |", "|---|---|"]
        lines += [f"| {k} | {f'{v:.4g}' if isinstance(v, float) else v} |" for k, v in shown.items()]
        lines.append("")
    if lineage.parents:
        lines += ["## Made from", ""]
        lines += [f"- `{parent.reference}`, weight {parent.weight:g}" for parent in lineage.parents]
        lines.append("")
    lines += ["Lineage, hashes and versions are in `finch.json`.", ""]
    return "\n".join(lines)
