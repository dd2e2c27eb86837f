"""Texts of a data set's rows, found again wherever they were copied to."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

WINDOW = 12
"""Bytes at the beginning of a text by which it is found. Shorter texts are too common to be found."""
PIECE = 2 * WINDOW
"""Bytes of the pieces by which the inner part of a text is found, also where its beginning was cut off."""

_SYSTEM = b'"role":"system"'
_PLAIN = re.compile(r"[ !#-&(-\[\]-~]*")  # characters that JSON and Python write as they are
_UNNAMED = frozenset({"role", "type"})  # fields whose values are words of the format
_BATCH = 2**16  # beginnings that are hashed at once
_FACTORS = np.random.default_rng(0x66696E6368).integers(0, 2**64, WINDOW, dtype=np.uint64) | np.uint64(1)
_CHUNK = 2**13
_SHIFT = np.uint64(64 - 20)
_PIECE_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_PIECE_SHIFT = np.uint64(64 - 24)
_MAX_PIECES = 2**24  # which take 128 MiB


class RowTexts:
    """Hashes of rows, and of the beginnings and pieces of the texts in them: eight bytes for each.

    A row that got a system prompt, or another one, counts as the same row.

    Args:
        lines: rows in canonical form.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        rows, beginnings, pieces = array("Q"), bytearray(), bytearray()
        hashes: tuple[list[NDArray[np.uint64]], list[NDArray[np.uint64]]] = ([], [])
        num_pieces = 0
        for line in lines:
            rows.append(_hash_row(line))
            for text in _read_texts(line):
                beginnings += text[:WINDOW]
                if num_pieces < _MAX_PIECES:
                    pieces += _cut(text)
            if len(beginnings) + len(pieces) >= _BATCH * WINDOW:
                hashes[0].append(_hash_rows(beginnings))
                hashes[1].append(_hash_pieces(pieces))
                num_pieces += len(hashes[1][-1])
                beginnings, pieces = bytearray(), bytearray()
        self._rows: NDArray[np.uint64] = np.unique(np.asarray(rows, dtype=np.uint64))
        self._beginnings = _Hashes([*hashes[0], _hash_rows(beginnings)], _SHIFT)
        self._pieces = _Hashes([*hashes[1], _hash_pieces(pieces)], _PIECE_SHIFT)

    def __len__(self) -> int:
        return len(self._rows)

    def count_in(self, lines: Iterable[bytes]) -> int:
        """Return how many lines of another data set are rows of this one."""
        return sum(self._count(batch) for batch in _batches(map(_hash_row, lines)))

    def _count(self, hashes: Sequence[int]) -> int:
        return int(np.isin(np.asarray(hashes, dtype=np.uint64), self._rows).sum())

    def find_in(self, data: bytes | bytearray) -> NDArray[np.int64]:
        """Return where in some bytes texts of the rows, or pieces of them, begin."""
        hashes = _hash_windows(data)
        pieces = _join(hashes[:-WINDOW], hashes[WINDOW:])
        return np.union1d(self._beginnings.find_in(hashes), self._pieces.find_in(pieces))

    def are_in(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it contains a text of the rows."""
        encoded = [text.encode(errors="surrogatepass") for text in texts]
        ends = np.cumsum([len(text) + 1 for text in encoded], dtype=np.int64)
        found = np.zeros(len(texts), dtype=np.bool_)
        found[np.searchsorted(ends, self.find_in(b"\0".join(encoded)), side="right")] = True
        return [bool(is_found) for is_found in found]

    @classmethod
    def none(cls) -> Self:
        """Return those of no rows."""
        return cls(())


class _Hashes:
    """A set of hashes.

    Args:
        shift: number of bits after those by which a hash is looked up first.
    """

    def __init__(self, parts: Sequence[NDArray[np.uint64]], shift: np.uint64) -> None:
        self._hashes: NDArray[np.uint64] = np.unique(np.concatenate(parts))
        self._shift = shift
        self._is_likely = np.zeros(2 ** (64 - int(shift)), dtype=np.bool_)
        self._is_likely[self._hashes >> shift] = True

    def find_in(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the places of those hashes that are in the set."""
        if not len(self._hashes):
            return np.empty(0, np.int64)
        (likely,) = np.nonzero(self._is_likely[hashes >> self._shift])
        places = np.searchsorted(self._hashes, hashes[likely]).clip(max=len(self._hashes) - 1)
        found: NDArray[np.int64] = likely[self._hashes[places] == hashes[likely]]
        return found


def _hash_row(line: bytes) -> int:
    """Return a hash of a row without its system prompts."""
    if _SYSTEM in line:
        line = _without_system(line)
    return int.from_bytes(hashlib.blake2b(line.rstrip(b"\n"), digest_size=8).digest(), "little")


def _without_system(line: bytes) -> bytes:
    try:
        row = json.loads(line)
        row["messages"] = [message for message in row["messages"] if message["role"] != "system"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return line
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def _read_texts(line: bytes) -> Iterator[bytes]:
    """Yield the texts of a row as they are, and as JSON and Python write them."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return
    for text in _walk(row):
        forms = {text}
        if not _PLAIN.fullmatch(text):
            forms.update(form[1:-1] for form in (json.dumps(text), json.dumps(text, ensure_ascii=False), repr(text)))
        for form in forms:
            encoded = form.encode(errors="surrogatepass")
            if len(encoded) >= WINDOW:
                yield encoded


def _walk(value: Any) -> Iterator[str]:
    """Yield the texts of a JSON value, without system prompts, which are options of the user more often than data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)
    elif isinstance(value, dict) and value.get("role") != "system":
        for name, item in value.items():
            if name not in _UNNAMED:
                yield from _walk(item)


def _cut(text: bytes) -> bytes:
    """Return the pieces of a text one after another: all whole ones, and the one at its end."""
    return text[: len(text) - len(text) % PIECE] + (text[-PIECE:] if len(text) >= PIECE else b"")


def _hash_pieces(data: bytes | bytearray) -> NDArray[np.uint64]:
    """Return the hashes of pieces. Those without a space or a letter beyond ASCII are left out: they may be names."""
    pieces = np.frombuffer(data, dtype=np.uint8).reshape(-1, PIECE)
    kept = pieces[((pieces == ord(" ")) | (pieces >= 0x80)).any(axis=1)].tobytes()
    halves = _hash_rows(kept)
    return _join(halves[::2], halves[1::2])


def _join(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the hashes of pieces by those of their halves."""
    return first * _PIECE_FACTOR + second


def _hash_rows(data: bytes | bytearray) -> NDArray[np.uint64]:
    """Return the hash of each window of bytes that follows another one, as :func:`_hash_windows` does."""
    windows = np.frombuffer(data, dtype=np.uint8).reshape(-1, WINDOW)
    hashes = np.zeros(len(windows), dtype=np.uint64)
    for place in range(WINDOW):
        hashes += (windows[:, place].astype(np.uint64) + np.uint64(1)) * _FACTORS[place]
    hashes ^= hashes << np.uint64(29)
    return hashes


def _hash_windows(data: bytes | bytearray) -> NDArray[np.uint64]:
    """Return the hash of each window of bytes, by its first byte: a sum of products modulo 2^64."""
    if len(data) < WINDOW:
        return np.empty(0, np.uint64)
    hashes = np.empty(len(data) - WINDOW + 1, dtype=np.uint64)
    for begin in range(0, len(hashes), _CHUNK):  # what the cache of a processor holds
        part = hashes[begin : begin + _CHUNK]
        values = np.frombuffer(data, dtype=np.uint8, count=len(part) + WINDOW - 1, offset=begin).astype(np.uint64)
        values += np.uint64(1)
        np.multiply(values[: len(part)], _FACTORS[0], out=part)
        for place in range(1, WINDOW):
            part += values[place : place + len(part)] * _FACTORS[place]
        part ^= part << np.uint64(29)
    return hashes


def _batches(hashes: Iterable[int]) -> Iterator[Sequence[int]]:
    batch = array("Q")
    for item in hashes:
        batch.append(item)
        if len(batch) >= _BATCH:
            yield batch
            batch = array("Q")
    yield batch
