"""A model card in a folder: the text, and the pictures to which it refers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

CARD = "README.md"
LOSS, RETENTION = "loss.svg", "retention.svg"
PICTURES = (LOSS, RETENTION)


def write_card_files(folder: Path, text: str, pictures: Mapping[str, str]) -> None:
    """Write a card into a folder."""
    (folder / CARD).write_text(text, encoding="utf-8")
    for name, picture in pictures.items():
        (folder / name).write_text(picture, encoding="utf-8")


def copy_card_files(source: Path, target: Path) -> None:
    """Copy the card of a folder, if it has one."""
    for name in (CARD, *PICTURES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
