"""Installed plugins: the entry points that announce them, and the files of their code."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finch_hub import errors
from finch_hub.formats.installed_metadata import CheckedDistribution, is_entry
from finch_hub.texts.visible_text import to_line

GROUP = "finch_hub"
"""Group of the entry points that announce plugins."""
_CODE = (".py", ".so", ".pyd")
_MOST_FILES = 20_000  # of one plugin
_MAX_SHOWN = 100  # characters of a line


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledPlugin:
    """An installed distribution with entry points for this package.

    Attributes:
        name: name of the distribution.
        version: version of the distribution, None if its metadata have none.
        points: its entry points, by name.
        files: files that the installer recorded.
        source: text of `direct_url.json`, empty if there is none.
    """

    name: str
    version: str | None
    points: tuple[importlib.metadata.EntryPoint, ...]
    distribution: importlib.metadata.Distribution
    files: tuple[importlib.metadata.PackagePath, ...]
    source: str = ""

    def hash_code(self) -> str:
        """Return a hash of the plugin's announcement, and of the paths, sizes and times of its files.

        The files are those that the installer recorded, those of the announced package, and for an editable
        installation the Python files of the project.
        """
        points = " ".join(f"{point.name} {point.value}" for point in self.points)
        digest = hashlib.sha256(f"{self.name} {self.version} {points}\n".encode())
        for number, path in enumerate(sorted({*self._recorded(), *self._of_packages(), *self._of_project()})):
            if number == _MOST_FILES:
                break
            try:
                status = path.stat()
            except (OSError, ValueError):  # the record may name anything
                continue
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _recorded(self) -> Iterator[Path]:
        for file in self.files:
            if file.suffix != ".pyc":  # written by the first import
                yield Path(str(self.distribution.locate_file(file)))

    def _of_packages(self) -> Iterator[Path]:
        """Yield the files of the announced modules' packages, which are found without importing them."""
        for top in {point.value.partition(":")[0].partition(".")[0].strip() for point in self.points}:
            spec = None
            with contextlib.suppress(Exception):  # of finders of other packages
                spec = importlib.util.find_spec(top)
            if spec is None:
                continue
            for folder in spec.submodule_search_locations or ():
                yield from _find_code(Path(folder))
            if spec.origin is not None and spec.has_location:
                yield Path(spec.origin)

    def _of_project(self) -> Iterator[Path]:
        """Yield the Python files of the folder that an editable installation runs from."""
        try:
            source = json.loads(self.source or "{}")
            is_editable = bool(source.get("dir_info", {}).get("editable"))
            address = urllib.parse.urlsplit(str(source.get("url", "")))
        except (ValueError, AttributeError, RecursionError):
            return
        if is_editable and address.scheme == "file":
            yield from _find_code(Path(urllib.request.url2pathname(address.path)))


def find_installed() -> tuple[list[InstalledPlugin], list[errors.Problem]]:
    """Return the installed plugins by name, and the problems of distributions whose announcement cannot be read."""
    found: dict[str, InstalledPlugin] = {}
    seen: set[Path] = set()
    parents: set[tuple[str, Path]] = set()
    problems: list[errors.Problem] = []
    for distribution in importlib.metadata.distributions():
        folder, name = getattr(distribution, "_path", None), ""
        place = Path(os.path.realpath(str(folder)))
        if folder is not None and place in seen:  # the import path may name a folder twice
            continue
        seen.add(place)
        if type(distribution) is importlib.metadata.PathDistribution and isinstance(folder, Path):
            distribution = CheckedDistribution(folder)
        try:
            read_metadata = distribution.read_text  # as UTF-8
            announcement = read_metadata("entry_points.txt") or ""
            if f"[{GROUP}]" not in announcement:
                continue
            name = to_line(_read_field(distribution, "Name") or Path(str(folder)).stem)
            if wrong := next((line for line in announcement.splitlines() if not is_entry(line)), None):
                raise ValueError(f"{wrong[:_MAX_SHOWN]!r} is not an entry point")
            plugin = _read_plugin(distribution, name)
        except Exception as error:  # files that anybody may have written
            where = f"plugin {name}" if name else f"distribution {folder}"
            what = f"its metadata cannot be read: {type(error).__name__}: {error}"
            problems.append(errors.Problem(where=where, what=what, fix="reinstall it"))
            continue
        key = name.lower().replace("_", "-")
        if (key, place.parent) in parents:
            what = f"is installed twice in {place.parent}, and one of the two is used"
            problems.append(
                errors.Problem(where=f"plugin {name}", what=what, fix="uninstall both and install it again")
            )
        parents.add((key, place.parent))
        found.setdefault(key, plugin)  # of two with one name, Python imports the first one
    return [plugin for _, plugin in sorted(found.items())], problems


def _read_field(distribution: importlib.metadata.Distribution, name: str) -> str | None:
    values = distribution.metadata.get_all(name)
    return str(values[0]) if values else None


def _read_plugin(distribution: importlib.metadata.Distribution, name: str) -> InstalledPlugin:
    read_metadata = distribution.read_text  # as UTF-8
    version = _read_field(distribution, "Version")
    points = {(point.name, point.value): point for point in distribution.entry_points if point.group == GROUP}
    if any("\0" in f"{name}{value}" for name, value in points):
        raise ValueError("an entry point has a zero byte")
    return InstalledPlugin(
        name=name,
        version=to_line(version) if version else None,
        points=tuple(point for _, point in sorted(points.items())),
        distribution=distribution,
        files=tuple(distribution.files or ()),
        source=read_metadata("direct_url.json") or "",
    )


def hash_environment() -> str:
    """Return a hash of the Python environment.

    The name of the executable has no part in it: python, python3 and python3.11 of one environment run the same code.
    Links to the environment are followed.
    """
    return hashlib.sha256(f"{Path(sys.prefix).resolve()} {sys.version}".encode()).hexdigest()


def _find_code(folder: Path) -> Iterator[Path]:
    """Yield the files of code below a folder, without hidden folders and other environments."""
    for parent, folders, names in os.walk(folder):
        if "pyvenv.cfg" in names:
            folders.clear()
            continue
        folders[:] = [
            name for name in folders if not name.startswith(".") and name not in ("__pycache__", "node_modules")
        ]
        yield from (Path(parent, name) for name in names if name.endswith(_CODE))
