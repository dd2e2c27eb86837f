"""Licenses that the files of a base declare: in the metadata of its `README.md`, or in the header of a GGUF file."""

from __future__ import annotations

import re
from pathlib import Path

from finch_hub import errors
from finch_hub.formats.gguf_header import read_gguf_texts
from finch_hub.formats.regular_files import open_regular_file
from finch_hub.specs.licenses import MAX_LINK, choose_license

_MAX_FRONT = 2**16  # bytes of metadata that are read
_FIELD = re.compile(r"(license|license_name|license_link)[ \t]*:[ \t]*(.*)")
_ITEM = re.compile(r"[ \t]*-[ \t]+(.*)")
_NOT_PLAIN = tuple("[{&*!|>#")
_GGUF = {"license": "general.license", "license_name": "general.license.name", "license_link": "general.license.link"}


def find_license(folder: Path, source: str) -> tuple[str | None, str | None]:
    """Return the license of a base and the address of its text, None for what its files do not tell.

    Args:
        folder: local folder of the base.
        source: where it came from, which may be a GGUF file.
    """
    fields: dict[str, str] = {}
    if source.lower().endswith(".gguf") and Path(source).is_file():
        texts = read_gguf_texts(Path(source), frozenset(_GGUF.values()))
        fields = {name: texts[field] for name, field in _GGUF.items() if field in texts}
    elif (folder / "README.md").is_file():
        fields = read_front_fields(folder / "README.md")
    link = fields.get("license_link", "").strip()
    is_link = 0 < len(link) <= MAX_LINK and link.isprintable()
    return choose_license(fields.get("license"), fields.get("license_name")), link if is_link else None


def read_front_fields(card: Path) -> dict[str, str]:
    """Return the fields of the license in the metadata of a card, none if it cannot be read."""
    try:
        with open_regular_file(card) as stream:
            return read_front_text(stream.read(_MAX_FRONT).decode(errors="replace"))
    except (errors.RefusedArtifact, OSError):
        return {}


def read_front_text(text: str) -> dict[str, str]:
    """Return the fields of the license in the metadata at the beginning of a text.

    They are texts on a line, or a list of one. A parser of YAML would follow the references of a hostile file.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}
    fields: dict[str, str] = {}
    waiting: str | None = None  # a field whose list follows
    for line in lines[1:]:
        if line.rstrip() in ("---", "..."):
            break
        if waiting is not None and (item := _ITEM.fullmatch(line)):
            fields[waiting] = "" if waiting in fields else _bare(item[1])  # of several licenses, none is chosen
            continue
        if waiting is not None and re.fullmatch(r"[ \t]*(#.*)?", line):
            continue
        field = _FIELD.fullmatch(line)
        waiting = field[1] if field and re.fullmatch(r"(#.*)?", field[2].strip()) else None
        if field and waiting is None:
            fields[field[1]] = _bare(field[2])
    return fields


def _bare(value: str) -> str:
    """Return a plain value of YAML, without quotes, brackets of a list of one, and a comment.

    It is empty for every other one: null, blocks, lists, objects, tags and references.
    """
    value = value.strip()
    if value.startswith("[") and value.endswith("]") and "," not in value:
        value = value[1:-1].strip()
    if quoted := re.match(r"\"([^\"]*)\"|'([^']*)'", value):
        return quoted[1] or quoted[2] or ""
    value = re.split(r"\s#", value)[0].strip()
    return "" if value[:1] in _NOT_PLAIN or value.lower() in ("null", "~", "none") else value
