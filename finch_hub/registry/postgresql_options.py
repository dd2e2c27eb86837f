"""Options of a PostgreSQL connection: those in its URL, and defaults that notice a lost server."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from finch_hub import errors

# Options of libpq. Without them, a connection to a machine that is gone waits for a quarter of an hour.
# All are seconds, except the last, which is milliseconds.
_LIBPQ_DEFAULTS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# Settings of the server. A client that is stopped within a transaction would keep its locks for ever.
_SERVER_DEFAULTS = {"statement_timeout": "30s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "30s"}
_UNITS = {"us": 1e-6, "": 1e-3, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(|us|ms|s|min|h|d)")
_OPTION = re.compile(r"(?:-c\s*|--)([\w-]+)=((?:\\.|[^\s\\])*)\s*")
_ANSWER_MARGIN_SECONDS = 5.0  # after the server should have ended a statement by itself


@dataclass(frozen=True, kw_only=True)
class PostgresOptions:
    """Options of a connection.

    Attributes:
        url: URL without the options.
        connect: arguments of `psycopg.connect`.
        server: settings of the server, set in each transaction. A pooler would give the session to other clients.
        answer_seconds: longest wait for the answer to a statement.
    """

    url: sa.URL
    connect: dict[str, Any]
    server: dict[str, str]
    answer_seconds: float


def read_options(url: sa.URL) -> PostgresOptions:
    """Return the options of a URL, in the spelling of libpq and psycopg, with defaults for the rest.

    Raises:
        InvalidSpec: an option is unknown, or has an invalid value.
        ModuleNotFoundError: psycopg is not installed.
    """
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {"prepare_threshold"}
    for name in sorted(set(url.query) - known):
        near = errors.near(name, known)
        fix = f"did you mean {' or '.join(near)}?" if near else "see the connection options of PostgreSQL's libpq"
        raise _refuse(f"unknown option {name}", fix)
    try:
        url.get_dialect()().create_connect_args(url)
    except (exc.ArgumentError, ValueError):
        raise _refuse("hosts and ports cannot be combined", "write host=HOST1,HOST2&port=PORT1,PORT2") from None
    given = dict(url.query)
    for name in sorted(_LIBPQ_DEFAULTS.keys() & given.keys()):
        if not str(given[name]).isdecimal():
            raise _refuse(f"{name}={given[name]} is not a number", "write a whole number, or 0 for no limit")
    connect: dict[str, Any] = {name: value for name, value in _LIBPQ_DEFAULTS.items() if name not in given}
    if "prepare_threshold" in given:
        connect["prepare_threshold"] = _read_threshold(str(given.pop("prepare_threshold")))
    server, rest = _split_options(str(given.pop("options", os.environ.get("PGOPTIONS", ""))))
    if rest or "PGOPTIONS" in os.environ:
        connect["options"] = rest
    limit = _read_seconds("statement_timeout", server["statement_timeout"])
    return PostgresOptions(
        url=url.set(query=given),
        connect=connect,
        server=server,
        answer_seconds=limit + _ANSWER_MARGIN_SECONDS if limit else math.inf,
    )


def _split_options(text: str) -> tuple[dict[str, str], str]:
    """Divide `-c name=value …` into the settings that transactions set, and the text that the server gets at once."""
    server = dict(_SERVER_DEFAULTS)

    def take(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_").lower()
        if name not in server:
            return option[0]
        server[name] = re.sub(r"\\(.)", r"\1", option[2])
        _read_seconds(name, server[name])
        return ""

    rest = _OPTION.sub(take, text).strip()
    return server, rest


def _read_seconds(name: str, value: str) -> float:
    match = _DURATION.fullmatch(value)
    if match is None:
        raise _refuse(f"{name}={value} is not a duration", "write 30s, 5min, or 0 for no limit")
    return float(match[1]) * _UNITS[match[2]]


def _read_threshold(value: str) -> int | None:
    if value.lower() in ("none", ""):
        return None
    if not value.isdecimal():
        raise _refuse(f"prepare_threshold={value} is not a number", "write a number, or none to prepare no statement")
    return int(value)


def _refuse(what: str, fix: str) -> errors.InvalidSpec:
    return errors.InvalidSpec(what, fix=fix, subject="database URL")
