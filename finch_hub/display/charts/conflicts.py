"""The conflicts of the parents of a composition, by layer and pair."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from finch_hub.display.charts.chart import Chart, format_figure, is_drawable, shorten
from finch_hub.display.charts.matrix import Cell, specify_matrix
from finch_hub.formats.picture_colors import ALARM_CELL
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.reports import PairConflict

_TITLE = "Conflicts by layer and pair"
_MAX_PAIRS = 24
_TABLE_ROWS = 12
_LABEL = 20  # characters of each name of a pair
_MAX_TEXTS = 16  # columns that have room for numbers
_MAX_LAYERS = 130  # of the deepest models; more numbers may be none of layers
_WIDTH = 560
_LAYER = re.compile(r"\.(\d+)(?:\.|$)")
_OTHER = "other"

_Place = tuple[tuple[str, str], str]


def chart_conflicts(evidence: Evidence) -> Chart | None:
    """Return the worst conflict of each pair in each layer, None without a conflict.

    It is the interference if the parents have rows to measure it on, and otherwise the share of opposite signs.
    """
    composition = evidence.composition
    modules = composition.conflicts.modules if composition is not None else ()
    worst = find_worst(conflict for conflict in modules if is_drawable(conflict.severity))
    if not worst:
        return None
    by_pair: dict[tuple[str, str], float] = {}
    for (pair, _), conflict in worst.items():
        by_pair[pair] = max(by_pair.get(pair, 0.0), conflict.severity)
    pairs = sorted(by_pair, key=lambda pair: by_pair[pair], reverse=True)
    shown = pairs[:_MAX_PAIRS]
    layers = _list_layers({layer for _, layer in worst})
    labels = _label_pairs(shown)
    is_measured = any(conflict.interference is not None for conflict in worst.values())
    most = max(1.0, *(conflict.severity for conflict in worst.values()))
    cells = [
        Cell(
            row=labels[pair], column=layer, strength=conflict.severity / most, text=format_figure(conflict.severity, 2)
        )
        for (pair, layer), conflict in worst.items()
        if pair in labels
    ]
    measure = "interference" if is_measured else "share of the energy with opposite signs"
    ranked = sorted(worst.items(), key=lambda item: item[1].severity, reverse=True)
    (first, second), layer = ranked[0][0]
    peak = f"the worst is {format_figure(ranked[0][1].severity, 2)} between {first} and {second} in layer {layer}"
    width = max(12, min(46, _WIDTH // len(layers)))
    shows_text = len(layers) <= _MAX_TEXTS and width >= 34
    specification = specify_matrix(
        cells,
        rows=list(labels.values()),
        columns=layers,
        high=ALARM_CELL,
        title=_TITLE,
        subtitle=f"worst {measure} in a layer, from 0 (light) to {format_figure(most, 2)} (dark)",
        description=f"{_TITLE}: {measure}; {peak}",
        axis="layer",
        width=width,
        height=26,
        shows_text=shows_text,
    )
    rows = tuple(
        (first, second, layer, format_figure(conflict.severity, 2), conflict.module)
        for ((first, second), layer), conflict in ranked[:_TABLE_ROWS]
    )
    return Chart(
        name="conflicts",
        title=_TITLE,
        description=f"{_TITLE}: {measure}; {peak}",
        specification=specification,
        columns=("adapter", "with", "layer", measure, "worst module"),
        rows=rows,
        note=" ".join(_list_notes(evidence, len(pairs), len(ranked))),
    )


def find_worst(modules: Iterable[PairConflict]) -> Mapping[_Place, PairConflict]:
    """Return the worst conflict of each pair in each layer."""
    worst: dict[_Place, PairConflict] = {}
    for conflict in modules:
        found = _LAYER.search(conflict.module)
        place = ((conflict.first, conflict.second), found[1] if found else _OTHER)
        if place not in worst or worst[place].severity < conflict.severity:
            worst[place] = conflict
    return worst


def _list_layers(known: Collection[str]) -> list[str]:
    """Return all layers up to the last with a conflict, and a column for modules outside of layers if there are any."""
    numbers = sorted(int(layer) for layer in known if layer != _OTHER)
    if numbers and numbers[-1] < _MAX_LAYERS:
        numbers = list(range(numbers[-1] + 1))
    return [*map(str, numbers), *([_OTHER] if _OTHER in known else [])]


def _list_notes(evidence: Evidence, pairs: int, cells: int) -> Iterable[str]:
    composition = evidence.composition
    kept = composition.conflicts.modules if composition is not None else ()
    if pairs > _MAX_PAIRS:
        yield f"The picture has the worst {_MAX_PAIRS} of {pairs:,} pairs."
    if evidence.module_conflicts > len(kept):
        least = format_figure(min(conflict.severity for conflict in kept), 2)
        yield f"Places without a color have {least} at most: only the worst {len(kept):,} conflicts are kept."
    if cells > _TABLE_ROWS:
        yield f"The table has the worst {_TABLE_ROWS} of {cells:,} cells."


def _label_pairs(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    labels: dict[tuple[str, str], str] = {}
    for first, second in pairs:
        label, number = f"{shorten(first, _LABEL)} + {shorten(second, _LABEL)}", 1
        while label in labels.values():
            number += 1
            label = f"{shorten(first, _LABEL)} + {shorten(second, _LABEL)} ({number})"
        labels[(first, second)] = label
    return labels
