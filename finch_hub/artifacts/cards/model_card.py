"""Model cards of what Finch Hub made: adapters and merged models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finch_hub.artifacts.cards.limits import list_limits
from finch_hub.artifacts.cards.loss_chart import describe_curve, draw_loss_chart
from finch_hub.artifacts.cards.metadata import find_license_address, format_front, is_repository, make_front
from finch_hub.artifacts.cards.retention_matrix import describe_retention, draw_retention_matrix
from finch_hub.artifacts.cards.usage import write_usage
from finch_hub.formats.card_files import LOSS, RETENTION
from finch_hub.formats.markdown import format_code, format_code_block, format_prose, format_text
from finch_hub.specs.cards import CardFacts
from finch_hub.specs.reports import Retention


def write_card(facts: CardFacts) -> str:
    """Return the text of a card: metadata for the Hugging Face Hub, then what is known, for people."""
    return "\n".join([*make_front(facts), write_body(facts)])


def write_body(facts: CardFacts) -> str:
    """Return the text of a card without its metadata."""
    lines = [
        *_write_head(facts),
        *write_usage(facts),
        *_write_system(facts),
        *_write_data(facts),
        *_write_figures(facts),
        *_write_retention(facts),
        *_write_parents(facts),
        *_write_licenses(facts),
        *_write_limits(facts),
        "Lineage, hashes and versions are in `finch.json`.",
        "",
    ]
    return "\n".join(lines)


def write_searched_text(facts: CardFacts) -> str:
    """Return the card without the parts that all cards have, so that a search finds what is of this version.

    The description is not in it: searches look at that of the adapter, and a purge would not know the escaped text.
    """
    own = [_write_head, _write_system, _write_data, _write_figures, _write_retention, _write_parents, _write_licenses]
    facts = facts.evolve(description="")
    return "\n".join(line for write in own for line in write(facts))


def draw_pictures(facts: CardFacts) -> dict[str, str]:
    """Return the pictures to which the card refers, by their names."""
    evidence = facts.evidence
    if evidence is None:
        return {}
    curve = None if evidence.curve is None else draw_loss_chart(evidence.curve)
    drawn = {LOSS: curve, RETENTION: draw_retention_matrix(evidence.retention)}
    return {name: picture for name, picture in drawn.items() if picture is not None}


def _write_head(facts: CardFacts) -> Iterator[str]:
    yield from (f"# {format_text(facts.name)}", "")
    version = "" if facts.reference is None else f" This is version {format_code(facts.reference)}."
    preset = facts.spec.get("preset")
    settings = f", with the preset {format_code(preset)}" if isinstance(preset, str) else ""
    base = format_code(facts.base.label)
    yield from (f"A LoRA adapter for {base}, made by Finch Hub ({format_text(facts.kind)}{settings}).{version}", "")
    if facts.description:
        yield from ("## What it is for", "", *format_prose(facts.description), "")


def _write_system(facts: CardFacts) -> Iterator[str]:
    if system := facts.spec.get("system"):
        yield from ("## System prompt", "", "It was trained with this system prompt, and answers best with it:", "")
        yield from (*format_code_block(system), "")


def _write_data(facts: CardFacts) -> Iterator[str]:
    data = facts.evidence.data if facts.evidence is not None else None
    if data is None:
        return
    held_out = f", and {data.validation_examples:,} were held out" if data.validation_examples else ""
    yield from ("## Data", "")
    yield from (f"It was trained on {data.examples:,} examples with {data.tokens:,} tokens{held_out}.", "")
    yield f"An example has {data.length_mean:,.0f} tokens on average, and {data.length_max:,} at most."
    yield from (f"{data.label_tokens:,} of the tokens are of answers, which it learned.", "")


def _write_figures(facts: CardFacts) -> Iterator[str]:
    shown = {k: v for k, v in facts.metrics.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}
    if not shown:
        return
    yield from ("## Metrics", "", "| measured | value |", "|---|---|")
    yield from (f"| {format_text(k)} | {_format_value(v)} |" for k, v in shown.items())
    yield ""
    if "loss_before" in shown and "loss_after" in shown:
        start = ", ".join(format_code(parent.reference) for parent in facts.parents) or "the base alone"
        yield from (f"`loss_before` is of {start}, and `loss_after` of the adapter, on the same held-out rows.", "")
    curve = facts.evidence.curve if facts.evidence is not None else None
    if curve is not None and draw_loss_chart(curve) is not None:
        yield from (f"![Loss by step: {describe_curve(curve)}]({LOSS})", "")


def _write_retention(facts: CardFacts) -> Iterator[str]:
    retention = facts.evidence.retention if facts.evidence is not None else ()
    if not retention:
        return
    columns = ("parent", "base", "own adapter", "composed", "retention")
    yield from ("## Retention", "")
    if draw_retention_matrix(retention) is not None:
        yield from (f"![{_describe(retention)}]({RETENTION})", "")
    yield from ("The held-out loss on the rows of each parent, and the share of its gain that is kept:", "")
    yield from (f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}")
    yield from (*map(_format_retention, retention), "")


def _describe(retention: Sequence[Retention]) -> str:
    """Return the description of the matrix, in which nothing of a name counts as Markdown."""
    return " ".join(format_prose(describe_retention(retention)))


def _format_retention(kept: Retention) -> str:
    figures = ["-" if figure is None else f"{figure:.3f}" for figure in (kept.base, kept.own, kept.composed)]
    share = kept.status if kept.retention is None else f"{kept.retention:.3f}"
    return f"| {' | '.join([format_code(kept.parent), *figures, share])} |"


def _write_parents(facts: CardFacts) -> Iterator[str]:
    if facts.parents:
        yield from ("## Made from", "")
        yield from (f"- {format_code(parent.reference)}, weight {parent.weight:g}" for parent in facts.parents)
        yield ""


def _write_licenses(facts: CardFacts) -> Iterator[str]:
    known, address = facts.base.license, find_license_address(facts)
    link = f" ([text]({address}))" if address is not None and known is not None else ""
    base = f"{format_code(known)}{link}" if known is not None else "unknown"
    data = format_code(facts.data_license) if facts.data_license is not None else "unknown"
    yield from ("## License", "", f"- Base: {base}", f"- Training data: {data}", "")
    if known is not None:
        yield from ("The metadata name the license of the base, whose terms hold for what is made of it.", "")


def _write_limits(facts: CardFacts) -> Iterator[str]:
    yield from ("## Limits", "", *(f"- {limit}" for limit in list_limits(facts)), "")


def write_merged_card(base: str, adapters: Sequence[Mapping[str, Any]], public: str | None) -> str:
    """Return the text of the card of a merged model.

    Args:
        base: name of the base.
        adapters: `name` and `weight` of each.
        public: repository id of the base, for the metadata, if it has one.
    """
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if public is not None and is_repository(public):
        front |= {"base_model": public, "base_model_relation": "merge"}
    front["tags"] = ["merge", "lora"]
    noun = "LoRA adapter" if len(adapters) == 1 else "LoRA adapters"
    lines = [*format_front(front), f"# {format_text(base)} with {len(adapters)} {noun} merged", ""]
    lines.append(
        f"Written by Finch Hub: the weights of {format_code(base)} with these updates added, in the base's dtype."
    )
    lines += ["", *(f"- {format_code(part['name'])}, weight {part['weight']:g}" for part in adapters), ""]
    return "\n".join(lines)


def _format_value(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_text(value)
