"""A model card in a folder: the text, and the picture to which it refers."""

from __future__ import annotations

import shutil
from pathlib import Path

CARD = "README.md"
PICTURE = "loss.svg"


def write_card_files(folder: Path, text: str, picture: str | None) -> None:
    """Write a card into a folder."""
    (folder / CARD).write_text(text, encoding="utf-8")
    if picture is not None:
        (folder / PICTURE).write_text(picture, encoding="utf-8")


def copy_card_files(source: Path, target: Path) -> None:
    """Copy the card of a folder, if it has one."""
    for name in (CARD, PICTURE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
