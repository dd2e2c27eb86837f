"""Rows of tables in text files: CSV with any delimiter, and TSV."""

from __future__ import annotations

import collections
import csv
import io
import itertools
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from finch_hub import errors
from finch_hub.engine.data.row import MAX_LINE, Row, advise_encoding, read_lines
from finch_hub.specs.options import name_option

_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_SAMPLE = 2**16  # characters
_UNDECODED = "\udcff"  # stands for a line that could not be read, so that its row is still counted and reported


class Delimiter(NamedTuple):
    """The character between the columns, and the name to tell users; empty if there is one column."""

    character: str
    label: str = ""


def recognize_delimiter(stream: TextIO) -> Delimiter:
    """Return the character between the columns; the stream is at its beginning afterwards.

    It is the one with which the header has several fields, and most rows have as many.
    """
    sample = stream.read(_SAMPLE).lstrip("\ufeff")
    stream.seek(0)
    if sample[:4].lower() == "sep=" and sample[4:5].strip("\r\n"):
        return Delimiter(sample[4], _NAMES.get(sample[4], repr(sample[4])))  # from Excel's line before the header
    is_cut = len(sample) == _SAMPLE
    scores = {}
    for delimiter in _NAMES:
        widths = _measure_widths(sample, delimiter, is_cut=is_cut)
        share = widths.count(widths[0]) / len(widths) if widths else 0
        scores[delimiter] = (widths[0] > 1, round(share, 1), widths[0]) if widths else (False, 0, 0)
    best = max(scores, key=lambda delimiter: scores[delimiter])  # a comma, if nothing speaks for another one
    return Delimiter(best, _NAMES[best] if scores[best][0] else "")


def check_delimiter(stream: TextIO, delimiter: str) -> None:
    """Refuse a delimiter that the header does not have, if it has another; the stream is at its beginning afterwards.

    Raises:
        InvalidDataset: the columns are separated by another character.
    """
    header = next((line for line in iter(stream.readline, "") if line.strip()), "")
    stream.seek(0)
    found = recognize_delimiter(stream)
    if found.label and delimiter not in header and found.character in header:
        what = f"has no {_NAMES.get(delimiter, repr(delimiter))} in its first line"
        fix = f"leave out {name_option('delimiter')}: the columns are separated by the {found.label}"
        raise errors.InvalidDataset(what, fix=fix)


def read_csv(stream: TextIO, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a table. A cell is a text; an empty cell is null.

    Raises:
        InvalidDataset: the header cannot be used.
    """
    csv.field_size_limit(MAX_LINE)  # the default limit is lower than that of a line
    lines = _decoded_lines(stream)
    header_line = next(lines, "")
    # People write a blank after each delimiter. Then a quote after the blank begins a quoted text.
    is_spaced = 0 < header_line.count(delimiter) == header_line.count(f"{delimiter} ")
    all_lines = itertools.chain([header_line], lines)
    reader = csv.reader(all_lines, delimiter=delimiter, strict=True, skipinitialspace=is_spaced)
    header: list[str] | None = None
    is_after_damage = False
    while True:
        before = reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # An unclosed quote is noticed at the end of the file, but the row began earlier.
            first, last = before + 1, max(reader.line_num, before + 1)
            where = f"line {last}" if first == last else f"lines {first} to {last}"
            fix = 'close its quotes, and write " within them as ""'
            if header is None:
                raise errors.InvalidDataset(f"has a header that is not CSV: {error}", where=where, fix=fix) from None
            yield Row(where, None, f"is not CSV: {error}", fix, last - first + 1)
            is_after_damage = True
            continue
        if not any(cell.strip() for cell in cells):
            continue  # spreadsheets write rows without cells at the end
        where = f"line {before + 1}"  # a row can go over several lines
        if is_after_damage and "".join(cells).count('"') % 2:
            # Its quotes have no beginning, so it is the rest of a text that goes over several lines.
            fix = 'write " within a quoted text as ""'
            yield Row(where, None, "is not CSV: it is the rest of the row before", fix)
            continue
        is_after_damage = False
        if any(_UNDECODED in cell for cell in cells):
            what = f"is not {stream.encoding.upper()}, or longer than {MAX_LINE:,} characters"
            if header is None:
                raise errors.InvalidDataset(f"has a header that {what}", where=where, fix=advise_encoding())
            yield Row(where, None, what, advise_encoding())
        elif header is None:
            if before == 0 and cells[0].lower().startswith("sep="):
                continue
            header = _check_header(cells)
        elif any(cell.strip() for cell in cells[len(header) :]) or len(cells) < len(header):
            fix = f"quote texts that contain a {_NAMES.get(delimiter, repr(delimiter))} or a line break"
            if len(cells) < len(header):
                fix = "add the missing fields, or quote a text that goes over several lines"
            count = f"{len(cells)} field{'s' if len(cells) != 1 else ''}"
            yield Row(where, None, f"has {count}, but the header has {len(header)}", fix)
        else:
            yield Row(where, {name: cell or None for name, cell in zip(header, cells, strict=False)})


def _check_header(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    counts = collections.Counter(name for name in names if name)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise errors.InvalidDataset(f"has the column {twice[0]} twice", where="line 1", fix="rename one of them")
    while names and not names[-1]:
        names.pop()  # a delimiter at the end of each line makes a column without a name
    taken = set(names)
    for place, name in enumerate(names):  # columns without a name must not replace each other
        if not name:
            names[place] = next(new for new in _number_names(place + 1) if new not in taken)
            taken.add(names[place])
    return names


def _number_names(number: int) -> Iterator[str]:
    name = f"column {number}"
    while True:
        yield name
        name += "_"


def _decoded_lines(stream: TextIO) -> Iterator[str]:
    for _, text, _ in read_lines(stream):
        yield f"{_UNDECODED}\n" if text is None else text


def _measure_widths(sample: str, delimiter: str, *, is_cut: bool) -> list[int]:
    """Return the number of fields of each row of a sample, the header first."""
    widths = []
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            if row := next(reader):
                widths.append(len(row))
        except StopIteration:
            return widths[:-1] if is_cut and len(widths) > 1 else widths
        except csv.Error:
            widths.append(0)
