"""Recognition of the encoding of a text file."""

from __future__ import annotations

import codecs
from collections import Counter
from typing import BinaryIO, NamedTuple

from finch_hub import errors
from finch_hub.specs.options import name_option

_CHUNK = 2**20
_SAMPLE_BYTES = 2**16
_MAX_LINE = 2**22
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
# Characters of Windows-1252 that can stand before a letter. Others there show that the encoding is another one.
_BEFORE_LETTERS = frozenset("‘’“”„‚«»‹›¿¡–—´`·°ºª§€£¥\u00a0\u00ad©®×±µ…•")
_INSIDE_WORDS = frozenset("’‘´`·–—\u00ad\u00a0")
# Letters that stand for others of Turkish, Romanian and Baltic encodings, unless the text is Icelandic or Faroese.
_NORDIC, _OF_NORDIC, _NOT_NORDIC = frozenset("ðþýÐÞÝ"), frozenset("áíóúæÁÍÓÚÆ"), frozenset("èëûàâçãêïÈËÛÀÂÇÃÊÏ")
# Letters that stand for two of Hungarian, unless the text has others that Hungarian does not have.
_TILDES, _UMLAUTS, _ACUTES, _NOT_HUNGARIAN = map(frozenset, ("õûÕÛ", "öüÖÜ", "áíóúéÁÍÓÚÉ", "äßñçàèêâÄÑÇÀÈÊÂ"))
_ORDINALS = frozenset("ºª")
# A text in a Latin alphabet has fewer letters with accents than this.
_MAX_ACCENTED = 0.4
_MIN_LETTERS = 0.01  # share of the letters with accents; fewer are in names and quotations of other languages
_OTHERS = "cp1252, cp1250, cp1251, gb18030 or shift_jis"
_MAX_ZEROS = 0.05  # share of the bytes; a text in UTF-16 has more, and one in UTF-8 has a damaged row at most
_MAX_WRONG = 0.5  # share of the lines beyond ASCII that are not in the named encoding


class TextEncoding(NamedTuple):
    """An encoding by the name of its codec, and the name to tell users; empty for UTF-8, which needs no telling."""

    codec: str
    label: str = ""


def recognize(stream: BinaryIO, *, max_damaged: float) -> TextEncoding:
    """Return the encoding of the text in a seekable stream, which is at its beginning afterwards.

    A byte-order mark names its encoding. Zero bytes between letters mean UTF-16 or UTF-32. A text with letters beyond
    ASCII in UTF-8 is UTF-8, also if a few lines are damaged. Otherwise each character has one byte. Windows-1252, of
    which Latin-1 is a part, is taken if the result looks like a text. If it does not, a text that is ASCII but for a
    few lines is UTF-8, too.

    Args:
        max_damaged: largest share of the lines that are a few.

    Raises:
        InvalidDataset: the encoding cannot be recognized.
    """
    head = stream.read(_CHUNK)
    stream.seek(0)
    for mark, codec, label in _BOMS:
        if head.startswith(mark):
            return TextEncoding(codec, "" if codec == "utf-8-sig" else label)
    if head.count(0) > len(head) * _MAX_ZEROS:
        return _recognize_by_zeros(head)
    is_utf8 = _is_utf8(stream)
    stream.seek(0)
    if is_utf8:
        return TextEncoding("utf-8")
    num_lines, num_valid, num_invalid, sample = _sample_lines(stream)
    stream.seek(0)
    if num_valid > num_invalid // 20:
        return TextEncoding("utf-8")  # its damaged lines are reported one by one
    if not _looks_western(sample):
        if num_invalid <= max_damaged * num_lines:
            return TextEncoding("utf-8")
        what = "is not UTF-8, and its encoding cannot be recognized"
        raise errors.InvalidDataset(what, fix=f"name it with {name_option('encoding')}, such as {_OTHERS}")
    return TextEncoding("cp1252", "Windows-1252 (Latin-1)")


def check(stream: BinaryIO, encoding: str, *, max_damaged: float) -> str:
    """Check that a text can be in the encoding that a user names, and return what to tell about it.

    The stream is at its beginning afterwards. A few lines that are damaged are reported one by one later.

    Args:
        max_damaged: largest share of the lines that are a few.

    Raises:
        InvalidDataset: more lines are not in the encoding, and they are most of the lines beyond ASCII.
    """
    sample = stream.read(_CHUNK)
    stream.seek(0)
    name = codecs.lookup(encoding).name
    fix = f"leave out {name_option('encoding')}, or name another one"
    is_wide = name.startswith(("utf-16", "utf-32"))
    marks = [label for mark, _, label in _BOMS if sample.startswith(mark)]
    if marks and not name.startswith(marks[0].lower()):
        raise errors.InvalidDataset(f"is not {encoding.upper()}: it begins with the mark of {marks[0]}", fix=fix)
    if is_wide and len(sample) > len(codecs.BOM_UTF32_LE) and b"\0" not in sample:
        raise errors.InvalidDataset(f"is not {encoding.upper()}: it has no zero bytes", fix=fix)
    if not is_wide and sample.count(0) > len(sample) // 8:
        raise errors.InvalidDataset(f"is not {encoding.upper()}: it has zero bytes, as UTF-16 has", fix=fix)
    if is_wide:
        return ""
    lines = sample.splitlines() if len(sample) < _CHUNK else sample.splitlines()[:-1]
    wrong = sum(not _is_in(line, encoding) for line in lines)
    if wrong > max_damaged * len(lines) and wrong > _MAX_WRONG * sum(not line.isascii() for line in lines):
        what = f"is not {encoding.upper()}: {wrong:,} of its first {len(lines):,} lines have other bytes"
        raise errors.InvalidDataset(what, fix=fix)
    if not name.startswith("utf-8") and not sample.isascii() and all(_is_in(line, "utf-8") for line in lines):
        what = f"read as {encoding}, but its bytes are also UTF-8"
        return f"{what} (leave out {name_option('encoding')} if letters are wrong)"
    return ""


def _is_in(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except (UnicodeError, ValueError):
        return False
    return True


def _recognize_by_zeros(head: bytes) -> TextEncoding:
    """Return the encoding of a text without a mark by the places of its zero bytes."""
    size = len(head) - len(head) % 4
    zeros = [head[place:size:4].count(0) for place in range(4)]
    most = size // 4 * 0.6
    if min(zeros[1:]) > most:
        return TextEncoding("utf-32-le", "UTF-32")
    if min(zeros[:3]) > most:
        return TextEncoding("utf-32-be", "UTF-32")
    if min(zeros[1], zeros[3]) > most:
        return TextEncoding("utf-16-le", "UTF-16")
    if min(zeros[0], zeros[2]) > most:
        return TextEncoding("utf-16-be", "UTF-16")
    fix = f"name its encoding with {name_option('encoding')}, or its format with {name_option('file_format')}"
    raise errors.InvalidDataset("has zero bytes, so it is not a text file", fix=fix)


def _is_utf8(stream: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := stream.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _sample_lines(stream: BinaryIO) -> tuple[int, int, int, bytes]:
    """Count all lines, those in UTF-8 beyond ASCII and those not in UTF-8, and return a sample of the last ones."""
    lines = valid = invalid = 0
    sample = bytearray()
    while line := stream.readline(_MAX_LINE):
        lines += 1
        if line.isascii():
            continue
        try:
            line.decode()
            valid += 1
        except UnicodeDecodeError:
            invalid += 1
            if len(sample) < _SAMPLE_BYTES:
                sample += line[:_SAMPLE_BYTES]
    return lines, valid, invalid, bytes(sample)


def _looks_western(sample: bytes) -> bool:
    """Tell whether bytes are a text in Windows-1252, with typographic marks at their usual places."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    letters = sum(character.isalpha() for character in text)
    accents = Counter(character for character in text if character.isalpha() and not character.isascii())
    accented = accents.total()
    common = frozenset(character for character, count in accents.items() if count > _MIN_LETTERS * accented)
    marks = odd = 0
    for before, character, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if character.isascii():
            continue
        marks += 1
        if (not character.isalpha() or character in _ORDINALS) and after.isalpha():
            odd += character not in (_INSIDE_WORDS if before.isalpha() else _BEFORE_LETTERS)
    return accented <= _MAX_ACCENTED * letters and odd <= 0.05 * marks and not _is_of_other_letters(common)


def _is_of_other_letters(found: frozenset[str]) -> bool:
    """Tell by the common letters with accents of a text in Windows-1252 whether it is rather in another encoding."""
    is_nordic = not found.isdisjoint(_OF_NORDIC) and found.isdisjoint(_NOT_NORDIC)
    is_hungarian = not any(map(found.isdisjoint, (_TILDES, _UMLAUTS, _ACUTES))) and found.isdisjoint(_NOT_HUNGARIAN)
    return (not found.isdisjoint(_NORDIC) and not is_nordic) or is_hungarian
