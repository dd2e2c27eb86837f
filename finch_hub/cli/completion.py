"""Completion of names in a shell: adapters, versions, aliases, jobs, bases, data sets, presets and workers.

A shell waits for each answer, so it comes from the SQLite file of the home, which is read without SQLAlchemy or
pydantic, and without making a file. With a database server, its names are not completed.

Bundles of strangers bring names, and the script of a shell puts them on the command line, where quotes would be needed.
So a name is offered only if no shell gives its characters a meaning.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import click
from click.shell_completion import CompletionItem

_PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_][A-Za-z0-9@%+=:,./_-]*")  # needs no quotes in a shell, and is no option
BUILTIN_PRESETS = ("code", "legal", "medical", "style")
_MOST = 200  # names that are offered
_SECONDS = 0.2  # to wait for a database that is being recovered

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_ADAPTERS = "SELECT name FROM adapters WHERE deleted_at IS NULL AND name LIKE ? ESCAPE '\\' ORDER BY name LIMIT ?"
_VERSIONS = (
    "SELECT a.name || '/' || v.number, v.kind || ', ' || v.state FROM adapter_versions v"
    " JOIN adapters a ON a.id = v.adapter_id"
    " WHERE v.deleted_at IS NULL AND a.name || '/' || v.number LIKE ? ESCAPE '\\' ORDER BY v.number DESC LIMIT ?"
)
_ALIASES = (
    "SELECT a.name || '@' || l.name FROM aliases l JOIN adapters a ON a.id = l.adapter_id"
    " WHERE a.name || '@' || l.name LIKE ? ESCAPE '\\' ORDER BY 1 LIMIT ?"
)
_JOBS = (
    "SELECT id, kind || ' ' || state || coalesce(' of ' || json_extract(spec, '$.adapter'), '') FROM jobs"
    " WHERE id LIKE ? ESCAPE '\\' ORDER BY number DESC LIMIT ?"
)
_BASES = "SELECT name, architecture FROM bases WHERE name LIKE ? ESCAPE '\\' ORDER BY name LIMIT ?"
_DATASETS = (
    "SELECT name, examples || ' examples' FROM datasets"
    " WHERE name IS NOT NULL AND purged_at IS NULL AND name LIKE ? ESCAPE '\\' ORDER BY name LIMIT ?"
)
_PRESETS = "SELECT DISTINCT preset FROM adapter_versions WHERE preset IS NOT NULL AND preset LIKE ? ESCAPE '\\' LIMIT ?"
_WORKERS = "SELECT id, state FROM workers WHERE id LIKE ? ESCAPE '\\' ORDER BY id LIMIT ?"


def complete_adapters(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the name of an adapter."""
    return _read(begun, _ADAPTERS)


def complete_references(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete an adapter; after its / a version, and after its @ an alias."""
    if "/" in begun:
        return _read(begun, _VERSIONS) or _read(begun, _ADAPTERS)
    return _read(begun, _ALIASES) if "@" in begun else _read(begun, _ADAPTERS, _ALIASES)


def complete_jobs(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the id of a job, newest first."""
    last = [CompletionItem("last", help="the newest of yours")] if "last".startswith(begun) else []
    return [*last, *_read(begun, _JOBS)]


def complete_bases(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the name of a base, or a path."""
    return [*_read(begun, _BASES), CompletionItem(begun, type="file")]


def complete_data(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the name of a stored data set, or a path."""
    return [*_read(begun, _DATASETS), CompletionItem(begun, type="file")]


def complete_datasets(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the name of a stored data set."""
    return _read(begun, _DATASETS)


def complete_presets(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the name of a built-in preset, or of one that a version was made with."""
    own = [CompletionItem(name) for name in BUILTIN_PRESETS if name.startswith(begun)]
    return [*own, *(item for item in _read(begun, _PRESETS) if item.value not in BUILTIN_PRESETS)]


def complete_workers(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the name of a worker."""
    return _read(begun, _WORKERS)


def _read(begun: str, *queries: str) -> list[CompletionItem]:
    """Return what begins so. Without a readable database there is nothing: a shell must not show an error."""
    with contextlib.suppress(sqlite3.Error, OSError, ValueError), _open() as connection:
        escaped = begun.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        rows = [row for query in queries for row in connection.execute(query, (f"{escaped}%", _MOST))]
        return [
            CompletionItem(name, help=help_[0] if help_ else None)
            for name, *help_ in rows
            if _PLAIN.fullmatch(name) and all(text is None or str(text).isprintable() for text in help_)
        ]
    return []


@contextlib.contextmanager
def _open() -> Iterator[sqlite3.Connection]:
    path = _find_database()
    if path is None or not path.is_file():
        raise FileNotFoundError("there is no database in a file")
    # Without a log, nobody has the database open. To read it as one that can change would make a log.
    has_log = path.with_name(f"{path.name}-wal").exists()
    options = "mode=ro" if has_log else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.as_uri()}?{options}", uri=True, timeout=_SECONDS)
    try:
        yield connection
    finally:
        connection.close()


def _find_database() -> Path | None:
    """Return the file of the database, None if it is on a server."""
    home = Path(os.environ.get("FINCH_HOME") or "~/.finch").expanduser().absolute()
    url = os.environ.get("FINCH_DATABASE_URL")
    config = Path(os.environ.get("FINCH_CONFIG") or home / "finch.toml")
    if not url and config.is_file():
        url = tomllib.loads(config.read_text(encoding="utf-8")).get("database_url")
    if not url:
        return home / "finch.db"
    scheme, _, place = str(url).partition(":///")
    return Path(unquote(place.partition("?")[0])) if scheme.startswith("sqlite") and place else None
