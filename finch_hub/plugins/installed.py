"""Installed plugins: the entry points that announce them, and the files of their code."""

from __future__ import annotations

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
from finch_hub.visible_text import to_line

GROUP = "finch_hub"
"""Group of the entry points that announce plugins."""
_CODE = (".py", ".so", ".pyd")
_MOST_FILES = 20_000  # of one plugin


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledPlugin:
    """An entry point of an installed distribution.

    Attributes:
        name: name of the distribution.
        version: version of the distribution, None if its metadata have none.
        files: files that the installer recorded.
    """

    name: str
    version: str | None
    point: importlib.metadata.EntryPoint
    distribution: importlib.metadata.Distribution
    files: tuple[importlib.metadata.PackagePath, ...]

    def hash_code(self) -> str:
        """Return a hash of the plugin's announcement, and of the paths, sizes and times of its files.

        The files are those that the installer recorded, those of the announced package, and for an editable
        installation the Python files of the project.
        """
        digest = hashlib.sha256(f"{self.name} {self.version} {self.point.name} {self.point.value}\n".encode())
        for number, path in enumerate(sorted({*self._recorded(), *self._of_package(), *self._of_project()})):
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

    def _of_package(self) -> Iterator[Path]:
        """Yield the files of the announced module's package, which is found without importing it."""
        top = self.point.value.partition(":")[0].partition(".")[0].strip()
        try:
            spec = importlib.util.find_spec(top)
        except Exception:  # finders of other packages
            return
        if spec is None:
            return
        for folder in spec.submodule_search_locations or ():
            yield from _find_code(Path(folder))
        if spec.origin is not None and spec.has_location:
            yield Path(spec.origin)

    def _of_project(self) -> Iterator[Path]:
        """Yield the Python files of the folder that an editable installation runs from."""
        read_metadata = self.distribution.read_text  # as UTF-8
        try:
            source = json.loads(read_metadata("direct_url.json") or "{}")
            is_editable = bool(source.get("dir_info", {}).get("editable"))
            address = urllib.parse.urlsplit(str(source.get("url", "")))
        except (ValueError, AttributeError, RecursionError):
            return
        if is_editable and address.scheme == "file":
            yield from _find_code(Path(urllib.request.url2pathname(address.path)))


def find_installed() -> tuple[list[InstalledPlugin], list[errors.Problem]]:
    """Return the installed plugins by name, and the problems of distributions whose announcement cannot be read."""
    found: dict[str, list[InstalledPlugin]] = {}
    problems: list[errors.Problem] = []
    for distribution in importlib.metadata.distributions():
        name = ""
        try:
            read_metadata = distribution.read_text  # as UTF-8
            if f"[{GROUP}]" not in (read_metadata("entry_points.txt") or ""):
                continue
            name = to_line(distribution.metadata["Name"] or "without a name")
            version = distribution.metadata["Version"]
            points = [point for point in distribution.entry_points if point.group == GROUP]
            files = tuple(distribution.files or ())
            if any("\0" in f"{point.name}{point.value}" for point in points):
                raise ValueError("an entry point has a zero byte")
        except Exception as error:  # files that anybody may have written
            where = f"plugin {name}" if name else f"distribution {getattr(distribution, '_path', '')}"
            what = f"its metadata cannot be read: {type(error).__name__}: {error}"
            problems.append(errors.Problem(where=where, what=what, fix="reinstall it"))
            continue
        # Of two with one name, Python imports the first one.
        found.setdefault(
            name.lower().replace("_", "-"),
            [
                InstalledPlugin(
                    name=name,
                    version=to_line(version) if version else None,
                    point=point,
                    distribution=distribution,
                    files=files,
                )
                for point in sorted(points, key=lambda point: (point.name, point.value))
            ],
        )
    return [plugin for _, plugins in sorted(found.items()) for plugin in plugins], problems


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
