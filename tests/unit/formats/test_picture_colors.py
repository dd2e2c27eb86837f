"""Colors that can be told apart, on light and on dark pages."""

from __future__ import annotations

import pytest

from finch_hub.formats import picture_colors
from finch_hub.formats.picture_colors import DARK, choose_ink, measure_contrast, mix


@pytest.mark.parametrize("dark", [False, True])
def test_texts_and_lines_differ_from_their_page(dark: bool) -> None:
    def see(color: str) -> str:
        return DARK[color] if dark else color

    page = see(picture_colors.PAGE)
    for ink in (picture_colors.INK, picture_colors.MUTED):
        assert measure_contrast(see(ink), page) >= 4.5
    for line in (picture_colors.TRAIN, picture_colors.HELD_OUT, picture_colors.GREEN):
        assert measure_contrast(see(line), page) >= 3


@pytest.mark.parametrize("high", [picture_colors.HIGH_CELL, picture_colors.ALARM_CELL])
def test_cells_get_darker_and_their_texts_stay_readable(high: str) -> None:
    cells = [mix(picture_colors.LOW_CELL, high, share / 20) for share in range(21)]
    assert cells[0] == picture_colors.LOW_CELL
    assert cells[-1] == high
    darkness = [measure_contrast(cell, "#ffffff") for cell in cells]
    assert darkness == sorted(darkness)
    assert all(measure_contrast(cell, choose_ink(cell)) >= 4 for cell in cells)


def test_contrast_is_that_of_the_standard() -> None:
    assert measure_contrast("#000000", "#ffffff") == pytest.approx(21)
    assert measure_contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
