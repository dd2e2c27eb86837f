"""Cache of a generator's adapters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from finch_hub import errors
from finch_hub.engine.adapters.adapter_files import read_adapter, write_adapter
from finch_hub.engine.adapters.weights import AdapterWeights, check_fit
from finch_hub.engine.bases.base import Base
from finch_hub.engine.inference.routing import AdapterRouter
from finch_hub.formats.peft_names import CONFIG, WEIGHTS


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Files of an adapter, and size and time of change of each when it was read."""

    path: Path
    state: tuple[tuple[int, int], ...]


class AdapterCache:
    """Adapters by name, of which the router holds the `size` most recently used ones in memory.

    An adapter that left memory is read again from its files when it is used. An adapter without files stays.
    """

    def __init__(self, base: Base, router: AdapterRouter, *, size: int) -> None:
        self._base, self._router, self._size = base, router, size
        self._sources: dict[str, _Source | None] = {}
        self._weights: dict[str, AdapterWeights] = {}  # in memory, the least recently used first

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all adapters, in the order of their addition."""
        return tuple(self._sources)

    def add(self, name: str, weights: AdapterWeights) -> None:
        """Add an adapter without files. It replaces one of the same name."""
        self._add(name, weights, None)

    def add_file(self, name: str, path: Path) -> None:
        """Read and add an adapter. It replaces one of the same name."""
        source = _Source(path=path, state=_read_state(path))
        self._add(name, read_adapter(path), source)

    def save(self, name: str, path: Path) -> None:
        """Write an adapter to files, from which it can be read again."""
        self.load([name])
        write_adapter(self._weights[name], path)
        self._sources[name] = _Source(path=path, state=_read_state(path))

    def load(self, names: Collection[str]) -> None:
        """Bring these adapters into memory, as the most recently used ones.

        Raises:
            NotFound: an adapter or its files do not exist.
            Conflict: the files of an adapter have changed.
        """
        for name in names:
            self._check_exists(name)
        for name in dict.fromkeys(names):
            weights = self._weights.pop(name, None)
            if weights is None:
                weights = self._read_again(name)
                self._router.load(name, weights)
            self._weights[name] = weights
        self._evict(names)

    def remove(self, name: str) -> None:
        """Remove an adapter."""
        self._check_exists(name)
        self._router.unload(name)
        self._weights.pop(name, None)
        del self._sources[name]

    def _add(self, name: str, weights: AdapterWeights, source: _Source | None) -> None:
        check_fit(weights, self._base)
        self._router.load(name, weights)
        self._sources[name] = source
        self._weights.pop(name, None)
        self._weights[name] = weights
        self._evict([name])

    def _check_exists(self, name: str) -> None:
        if name not in self._sources:
            raise errors.NotFound("loaded adapter", name, self._sources, lists_known=True)

    def _read_again(self, name: str) -> AdapterWeights:
        source = self._sources[name]
        if source is None:
            raise AssertionError("an adapter without files stays in memory")
        if _read_state(source.path) != source.state:
            raise errors.Conflict(f"adapter {name!r} has changed in {source.path} since it was loaded (load it again)")
        return read_adapter(source.path)

    def _evict(self, used: Collection[str]) -> None:
        removable = [name for name in self._weights if self._sources[name] is not None and name not in used]
        for name in removable[: max(0, len(self._weights) - self._size)]:
            self._router.unload(name)
            del self._weights[name]


def _read_state(path: Path) -> tuple[tuple[int, int], ...]:
    files = [path / WEIGHTS, path / CONFIG] if path.is_dir() else [path]
    try:
        return tuple((status.st_size, status.st_mtime_ns) for status in (file.stat() for file in files))
    except OSError:
        return ()  # reading the files reports the error
