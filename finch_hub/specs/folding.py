"""How texts are folded for searches: which marks do not count, and what stands between words.

SQLite gets the letters as rows of a table, since triggers fold the texts and SQLite cannot decompose a letter.
PostgreSQL decomposes letters itself and gets the classes of characters. `finch_hub.registry.search_index` uses both.
"""

from __future__ import annotations

import re
import unicodedata

# Accents, points of Hebrew, vowels and hamzas of Arabic, and selectors of variants. The vowels of Indic scripts count.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\ufe00-\ufe0f"
)
# Soft hyphens, joiners and marks of direction, which nobody sees.
_INVISIBLE = "\u00ad\u061c\u180e\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
IGNORED = _MARKS + _INVISIBLE
_DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉"
CHANGED = f"{_DIGITS}ς"
CHANGED_TO = "01234567890123456789σ"
# PostgreSQL's parser knows them too, unless its locale is C. There, all that is not ASCII is a letter.
SEPARATORS = (
    "\u0001-/:-@[-`{-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u055a-\u055f\u0589\u05be\u05c0\u05c3\u05c6"
    "\u05f3\u05f4\u060c\u061b\u061f\u066a-\u066d\u06d4\u0964\u0965\u0970\u0e3f\u0e4f\u0e5a\u0e5b\u10fb\u1360-\u1368\u2000-\u206f"
    "\u207a-\u207e\u208a-\u208e\u20a0-\u20cf\u2150-\u215f\u2189-\u249b\u24ea-\u2bff\u2e00-\u2e2e\u2e30-\u2e7f"
    "\u3000-\u3004\u3008-\u3020\u3030\u303d-\u303f\u30a0\u30fb\u3200-\u33ff\ufd3e\ufd3f\ufe10-\ufe1f\ufe30-\ufe6b"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffee\ufff9-\uffff\U0001f000-\U0001faff"
)
# Blocks whose letters FTS5 does not fold, and what is changed, as GLOB has it.
_BLOCKS = "\u01c0-\u024f\u0300-\u1cff\u1e00-\u1fff\ua640-\ua69f\ufb1d-\ufb4f"
_CAPITALS = "\u13a0-\u13f5\u1c90-\u1cba\u1cbd-\u1cbf\U0001e900-\U0001e921"  # of Cherokee, Georgian and Adlam
PATTERN = f"*[{IGNORED}{CHANGED}{_BLOCKS}{_CAPITALS}]*"


def list_letters() -> dict[str, str]:
    """Return the characters that FTS5 does not fold itself, each with what it is replaced by."""
    letters = dict.fromkeys(_list_characters(IGNORED), "")
    letters |= dict(zip(_DIGITS, CHANGED_TO, strict=False))
    letters |= {letter: letter.lower() for letter in _list_characters(_CAPITALS)}
    for letter in _list_characters(_BLOCKS):
        parts = unicodedata.normalize("NFD", letter)
        if letter not in letters and len(parts) > 1:
            plain = unicodedata.normalize("NFC", _IGNORED.sub("", parts).lower())
            if plain != letter and not plain.isascii():
                letters[letter] = plain
    return letters


def has_word(text: str) -> bool:
    """Return whether a text has a letter or a digit, without which nothing of it can be found."""
    return any(
        character in _DIGITS or (unicodedata.category(character) in _WORD and not _IGNORED.match(character))
        for character in text
    )


def split_words(text: str) -> list[str]:
    """Return what a text has between separators, with the marks that do not count."""
    return _BETWEEN.sub(" ", text).split()


_WORD = ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl")
_IGNORED = re.compile(f"[{IGNORED}]")
_BETWEEN = re.compile(f"(?![{IGNORED}{CHANGED}])[{SEPARATORS}]")  # PostgreSQL changes those others before it looks


def _list_characters(ranges: str) -> list[str]:
    """Return the characters of a class such as `a-fx`."""
    found = re.findall("(.)(?:-(.))?", ranges, re.DOTALL)
    return [chr(code) for first, last in found for code in range(ord(first), ord(last or first) + 1)]
