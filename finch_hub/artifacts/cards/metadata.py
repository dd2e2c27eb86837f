"""Metadata of model cards, which the Hugging Face Hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from finch_hub.specs.cards import CardFacts
from finch_hub.specs.licenses import make_metadata
from finch_hub.texts.visible_text import to_json

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_FRONT = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"[\w-]+[ \t]*:(?=\s|\Z)")
_LINE = re.compile(r"[\w-]+[ \t]*:(\s.*)?|[ \t]+\S.*|- .*|#.*")  # of metadata; a text has empty lines and sentences
_MAX_LOSS = 1e15  # the last power of ten that JSON has without an exponent
_ADDRESS = re.compile(r"https?://[\w.~:/?#@!$&'*+,;=%-]+", re.ASCII)


def make_front(facts: CardFacts) -> list[str]:
    """Return the metadata of an adapter, with the lines around them."""
    front: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    tags = ["lora", "transformers", "finch-hub"]
    base = facts.base.hub_id
    if base is not None and is_repository(base):
        front |= {"base_model": base, "base_model_relation": "adapter"}
        tags.insert(2, f"base_model:adapter:{base}")
    if facts.base.license is not None:
        front |= make_metadata(facts.base.license, find_license_address(facts))
    front["tags"] = tags
    loss = facts.metrics.get("loss_after")
    # YAML reads neither NaN nor the exponent of a large number as a number.
    if isinstance(loss, int | float) and not isinstance(loss, bool) and abs(loss) < _MAX_LOSS:
        measured = [{"type": "loss", "name": "held-out loss (nats per token)", "value": round(loss, 4)}]
        task = {"type": "text-generation"}
        dataset = {"name": "held-out examples", "type": (facts.validation_digest or "")[:16] or "held-out"}
        results = [{"task": task, "dataset": dataset, "metrics": measured}]
        front["model-index"] = [{"name": facts.name, "results": results}]
    return format_front(front)


def format_front(front: Mapping[str, Any]) -> list[str]:
    """Return metadata in YAML. Each value is visible JSON, which every parser of YAML reads."""
    fields = (f"{key}: {to_json(json.dumps(value, ensure_ascii=False))}" for key, value in front.items())
    return ["---", *fields, "---", ""]


def is_repository(text: str) -> bool:
    """Tell whether a text can be the id of a repository in metadata."""
    return bool(_REPOSITORY.fullmatch(text))


def find_license_address(facts: CardFacts) -> str | None:
    """Return the address of the license of the base, None if it is not known."""
    link, repository = facts.base.license_link, facts.base.hub_id
    if link is None:
        return None
    if _ADDRESS.fullmatch(link):
        return link
    is_file = re.fullmatch(r"[\w.-]+", link, re.ASCII) and repository is not None
    return f"https://huggingface.co/{repository}/blob/main/{link}" if is_file else None


def split_front(text: str) -> tuple[str | None, str]:
    """Return the metadata of a card, None if it has none, and the text that follows.

    A text between two rules is no metadata.
    """
    found = _FRONT.match(text)
    lines = [] if found is None else found[1].split("\n")
    if found is None or not _FIELD.match(lines[0]) or not all(map(_LINE.fullmatch, lines)):
        return None, text
    return found[1], text[found.end() :].lstrip("\n")
