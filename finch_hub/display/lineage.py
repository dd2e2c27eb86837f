"""Drawings of lineages: trees for a terminal, and Mermaid for documents (https://mermaid.js.org)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finch_hub.display.adapters import format_deletion, format_evidence, format_pulled
from finch_hub.texts.visible_text import to_line

if TYPE_CHECKING:
    from rich.console import Group
    from rich.tree import Tree

    from finch_hub.registry.values import AdapterVersion, LineageGraph


def draw_lineage(graph: LineageGraph) -> Group:
    """Draw a version with its ancestors as a tree, and with its descendants as another, if the graph has any.

    What a version was made from is drawn once.
    """
    from rich.console import Group

    root = graph.versions[0].reference
    parents: dict[str, list[tuple[str, str]]] = {}
    children: dict[str, list[tuple[str, str]]] = {}
    for link in graph.links:
        parents.setdefault(link.version, []).append((link.parent, f" x {link.weight:g}"))
        children.setdefault(link.parent, []).append((link.version, f" x {link.weight:g} of {link.parent}"))
    labels = {version.reference: _describe(version) for version in graph.versions}
    trees = [_draw_tree(root, parents, labels)] if parents.get(root) or not children.get(root) else []
    if children.get(root):
        trees.append(_draw_tree(root, children, labels, note=", from which were made:"))
    notes = [f"The registry lacks a parent of {', '.join(graph.incomplete)} (run `finch-hub fsck`)"]
    return Group(*trees, *(map(to_line, notes) if graph.incomplete else ()))


def format_mermaid(graph: LineageGraph) -> list[str]:
    """Format a lineage as a Mermaid flowchart, with an arrow from each parent to what was made from it."""
    names = {version.reference: f"v{number}" for number, version in enumerate(graph.versions)}
    lines = ["flowchart TD"]
    for version in graph.versions:
        text = to_line(f"{version.reference} {_describe(version)}").replace('"', "#quot;")
        lines.append(f'    {names[version.reference]}["{text}"]')
    for link in graph.links:
        weight = f"|{link.weight:g}|" if link.weight != 1 else ""
        lines.append(f"    {names[link.parent]} -->{weight} {names[link.version]}")
    return [*lines, f"    style {names[graph.versions[0].reference]} stroke-width:3px"]


def _describe(version: AdapterVersion) -> str:
    pulled = format_pulled(version)
    made = f"{version.kind} of {pulled}" if pulled else version.kind
    known = format_deletion(version) or format_evidence(version.metrics)
    return f"({made})" if known == "-" else f"({made}, {known})"


def _draw_tree(root: str, ahead: dict[str, list[tuple[str, str]]], labels: dict[str, str], *, note: str = "") -> Tree:
    from rich.tree import Tree

    tree = Tree(to_line(f"{root} {labels[root]}{note}"))
    drawn: set[str] = set()
    waiting = [(root, tree)]
    while waiting:
        reference, branch = waiting.pop()
        if reference in drawn:
            branch.label = f"{branch.label}, as above"
            continue
        drawn.add(reference)
        added = [(near, branch.add(to_line(f"{near}{how} {labels[near]}"))) for near, how in ahead.get(reference, ())]
        waiting += [(near, tree) for near, tree in reversed(added) if ahead.get(near)]
    return tree
