"""Examples that differ from others in few words."""

from __future__ import annotations

import collections
import re
import unicodedata
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from finch_hub.engine.data import splitting
from finch_hub.progress import track
from finch_hub.specs.examples import Example

# A shingle is a run of words. Texts are compared by the share of shingles that they have in common.
_SHINGLE_WORDS = 3
_MIN_SHARE = 0.8
# Each example has a few bands of smallest hashes; similar texts have a band in common. Of texts that share 0.8 of their
# shingles, 4 of 5 are found, and of texts that share 0.9, nearly all.
_BANDS, _BAND_SIZE = 3, 4
_BINS = _BANDS * _BAND_SIZE
_MAX_WORDS = 512  # the first and last ones of a longer text
_MAX_CANDIDATES = 20  # of a validation example; many rows can have one long instruction in common
_WORD = re.compile(r"\w+")

Words: TypeAlias = "array[int]"  # hashes of the words of a text


def count_near_duplicates(train: Sequence[Example], validation: Sequence[Example]) -> int:
    """Count the validation examples of which a training example has nearly the same words, but is not equal.

    Equal are rows that differ in whitespace only. Of near ones, case and punctuation do not matter, and system prompts
    are not compared. Each example is hashed once, and compared a
    limited number of times, so the time is linear.
    """
    texts = [_hash_words(example) for example in track(validation, "comparing held-out rows")]
    index = _Index(texts)
    compared: collections.Counter[int] = collections.Counter()
    keys = [splitting.row_key(example) for example in validation]
    exact: set[int] = set()
    near: set[int] = set()
    for example in track(train, "comparing rows with held-out ones"):
        if not index:
            break
        words = _hash_words(example)
        for number in index.find(words):
            if words == texts[number] and splitting.row_key(example) == keys[number]:
                exact.add(number)
            elif words == texts[number] or _share(words, texts[number]) >= _MIN_SHARE:
                near.add(number)
            compared[number] += 1
            if number in exact or number in near or compared[number] == _MAX_CANDIDATES:
                index.remove(number)
    return len(near - exact)


class _Index:
    """Numbers of texts by their bands. Texts that are settled are removed, so that no later text finds them."""

    def __init__(self, texts: Sequence[Words]) -> None:
        self._bands = [array("q", _make_bands(words)) for words in texts]
        self._numbers: dict[int, int | dict[int, None]] = {}  # most bands are those of one text
        for number, bands in enumerate(self._bands):
            for band in bands:
                known = self._numbers.setdefault(band, number)
                if isinstance(known, dict):
                    known[number] = None
                elif known != number:
                    self._numbers[band] = {known: None, number: None}

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def find(self, words: Words) -> list[int]:
        """Return the numbers of the texts that have a band in common with a text."""
        found: dict[int, None] = {}
        for band in _make_bands(words):
            known = self._numbers.get(band)
            if known is not None:
                found |= known if isinstance(known, dict) else {known: None}
        return list(found)

    def remove(self, number: int) -> None:
        for band in self._bands[number]:
            known = self._numbers[band]
            if isinstance(known, dict):
                del known[number]
            if not isinstance(known, dict) or not known:
                del self._numbers[band]


def _hash_words(example: Example) -> Words:
    """Return hashes of the words that are compared. A text without blanks is compared by its characters."""
    turns = [message.content for message in example.messages if message.role != "system"]
    text = unicodedata.normalize("NFKC", " ".join(turns) or example.text or "").casefold()
    words = _WORD.findall(text)
    if sum(map(len, words)) > 20 * len(words):
        words = list("".join(words))
    if len(words) > _MAX_WORDS:
        words = words[: _MAX_WORDS // 2] + words[-_MAX_WORDS // 2 :]
    return array("I", (zlib.crc32(word.encode(errors="surrogatepass")) for word in words))


def _shingle_hashes(words: Words) -> Iterator[int]:
    hashes = words.tolist() + [0] * (_SHINGLE_WORDS - len(words))  # a shorter text is one shingle
    for first, second, third in zip(hashes, hashes[1:], hashes[2:], strict=False):
        yield ((first * 0x9E3779B1 ^ second) * 0x85EBCA77 ^ third) & 0xFFFFFFFF


def _make_bands(words: Words) -> list[int]:
    """Return hashes of the smallest hashes of the shingles in each bin, a few bins a band (one permutation hashing)."""
    smallest = [-1] * _BINS
    for value in _shingle_hashes(words):
        position = value % _BINS
        if smallest[position] < 0 or value < smallest[position]:
            smallest[position] = value
    bands = [(band, *smallest[band * _BAND_SIZE : (band + 1) * _BAND_SIZE]) for band in range(_BANDS)]
    return [hash(band) for band in bands if max(band[1:]) >= 0]


def _share(first: Words, second: Words) -> float:
    """Return the Jaccard index of the shingles of two texts."""
    a, b = set(_shingle_hashes(first)), set(_shingle_hashes(second))
    return len(a & b) / len(a | b)
