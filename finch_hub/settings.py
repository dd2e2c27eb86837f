"""Settings from ``FINCH_*`` environment variables, then ``finch.toml``, then the embedded defaults."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import tomllib
import urllib.parse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pydantic
import pydantic_core
import pydantic_settings
from pydantic_settings import PydanticBaseSettingsSource as Source

from finch_hub import errors, url_passwords
from finch_hub.texts.secret_shapes import redact
from finch_hub.texts.visible_text import to_line

LogFormat = Literal["logfmt", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_PREFIX = "FINCH_"
MAX_LEASE_SECONDS = 86_400.0
_MAX_SECONDS = 3.2e8  # ten years, which all clocks and databases can add to a time
_MAX_NUMBER = 10**9
_MAX_BYTES = 2**62
_MAX_OWNER = 96  # characters, as in the database
# Variables that are not settings. Variables of tests and plugins resemble none of these names.
_OTHER_VARIABLES = frozenset({"CONFIG", "DEBUG", "FAULT"})


_LIMITS = ("gt", "ge", "min_length", "le", "max_length")
_URL_FIELDS = tuple(f"{name}_{field}" for name in ("database", "broker") for field in url_passwords.FIELDS)


class UnknownVariableWarning(errors.FinchWarning):
    """An environment variable that looks like a misspelled setting and has no effect."""


class Settings(pydantic_settings.BaseSettings):
    """Places and limits of a hub; the variable ``FINCH_<FIELD>`` sets a field.

    Attributes:
        home: folder of the database, artifacts, converted bases, locks and logs, unless set elsewhere.
        database_url: SQLAlchemy URL; if it is not set, SQLite in the home.
        database_password: password for a database URL that has none, with any characters.
        database_password_file: file with that password, such as a secret of Docker or Kubernetes.
        database_connections: largest number of connections of one worker or client to a PostgreSQL server.
        broker_url: Redis URL; if it is not set, a private Valkey that is started on demand.
        broker_password: password for a broker URL that has none, with any characters.
        broker_password_file: file with that password.
        artifacts_url: fsspec URL or folder; if it is not set, a folder in the home.
        lease_seconds: duration of a claim that is not renewed.
        heartbeat_seconds: interval at which the supervisor renews a claim and checks for a cancellation.
        sweep_seconds: interval at which a worker looks for expired leases; for due wake-ups it looks every second.
        idle_seconds: time without work after which the worker started on demand stops.
        max_attempts: lost attempts after which a job fails.
        retry_seconds: wait before the second attempt of a job; doubled before each further attempt.
        stall_seconds: time without a report after which a child process is stopped.
        grace_seconds: time for a child process to write a checkpoint and exit when its worker stops.
        checkpoint_seconds: interval at which a job's newest checkpoint is copied to the artifact store.
        warm_seconds: time for which a child process without work keeps its base loaded.
        max_bad_rows: largest share of a data set's rows that may be left out, unless a command says otherwise.
        memory_bytes: main memory for one child process; if it is not set, nine tenths of the machine or container.
        gang_size: maximum number of jobs that are trained in one step; 1 trains each job alone.
        user: name of whoever changes the registry, for the audit; if it is not set, the login name.
        owner: name under which jobs take turns with those of other owners; if it is not set, the name of the user.
        owner_running: maximum number of jobs of one owner that run at a time; if it is not set, there is no limit.
        owner_unfinished: maximum number of jobs of one owner that have not ended; if it is not set, there is no limit.
        history_days: age in days after which ended jobs and their events are deleted; if it is not set, all are kept.
        history_jobs: maximum number of ended jobs that are kept; if it is not set, all are kept.
        audit_days: age in days after which entries of the audit are deleted; if it is not set, all are kept.
        unused_days: age in days from which on workers remove files that nobody refers to, once a day.
        log_format: format of log lines, `logfmt` or `json`.
        log_level: least level of what is logged: `debug`, `info`, `warning` or `error`.
        metrics_port: port on which a worker serves its metrics to Prometheus; if it is not set, on none.
        metrics_address: address of that port.
        metrics_folder: folder in which a worker keeps a file of its metrics; if it is not set, in none.
        health_folder: folder of files whose ages tell probes how a worker is; if it is not set, there are none.
        allow_insecure: allow a broker or database on another machine without authentication.
        disabled_plugins: names of installed plugins that are not loaded, separated by commas.

    Raises:
        InvalidSpec: from :func:`load`, with the variable or the line of ``finch.toml``.
    """

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    home: Path = Path("~/.finch")
    database_url: pydantic.SecretStr | None = None
    database_password: pydantic.SecretStr | None = None
    database_password_file: Path | None = None
    database_connections: int = pydantic.Field(default=3, ge=1, le=1000)
    broker_url: pydantic.SecretStr | None = None
    broker_password: pydantic.SecretStr | None = None
    broker_password_file: Path | None = None
    artifacts_url: pydantic.SecretStr | None = None
    lease_seconds: float = pydantic.Field(default=60.0, gt=0, le=MAX_LEASE_SECONDS)
    heartbeat_seconds: float = pydantic.Field(default=5.0, gt=0, le=20)
    sweep_seconds: float = pydantic.Field(default=15.0, gt=0, le=_MAX_SECONDS)
    idle_seconds: float = pydantic.Field(default=600.0, gt=0, le=_MAX_SECONDS)
    max_attempts: int = pydantic.Field(default=3, ge=1, le=_MAX_NUMBER)
    retry_seconds: float = pydantic.Field(default=10.0, ge=0, le=_MAX_SECONDS)
    stall_seconds: float = pydantic.Field(default=900.0, gt=0, le=_MAX_SECONDS)
    grace_seconds: float = pydantic.Field(default=20.0, gt=0, le=_MAX_SECONDS)
    checkpoint_seconds: float = pydantic.Field(default=120.0, gt=0, le=_MAX_SECONDS)
    warm_seconds: float = pydantic.Field(default=120.0, ge=0, le=_MAX_SECONDS)
    max_bad_rows: float = pydantic.Field(default=0.05, ge=0, le=1)
    memory_bytes: int | None = pydantic.Field(default=None, ge=1, le=_MAX_BYTES)
    gang_size: int = pydantic.Field(default=8, ge=1, le=_MAX_NUMBER)
    user: str | None = pydantic.Field(default=None, min_length=1, max_length=_MAX_OWNER)
    owner: str | None = pydantic.Field(default=None, min_length=1, max_length=_MAX_OWNER)
    owner_running: int | None = pydantic.Field(default=None, ge=1, le=_MAX_NUMBER)
    owner_unfinished: int | None = pydantic.Field(default=None, ge=1, le=_MAX_NUMBER)
    history_days: float | None = pydantic.Field(default=None, gt=0, le=3650)
    audit_days: float | None = pydantic.Field(default=None, gt=0, le=3650)
    history_jobs: int | None = pydantic.Field(default=None, ge=0, le=_MAX_NUMBER)
    unused_days: float = pydantic.Field(default=7.0, ge=0, le=_MAX_SECONDS / 86_400)
    log_format: LogFormat = "logfmt"
    log_level: LogLevel = "info"
    metrics_port: int | None = pydantic.Field(default=None, ge=1, le=65_535)
    metrics_address: str = "127.0.0.1"
    metrics_folder: Path | None = None
    health_folder: Path | None = None
    allow_insecure: bool = False
    disabled_plugins: str = ""

    @property
    def database(self) -> str:
        """Current SQLAlchemy URL, with its password."""
        if self.database_url:
            return self.database_url.get_secret_value()
        return f"sqlite:///{urllib.parse.quote(str(self.home / 'finch.db'))}"

    @property
    def artifacts(self) -> str:
        """Current fsspec URL or local folder of the artifact store, with its password."""
        return self.artifacts_url.get_secret_value() if self.artifacts_url else str(self.home / "artifacts")

    @property
    def disabled_plugin_names(self) -> frozenset[str]:
        """Names of the installed plugins that are not loaded."""
        return frozenset(filter(None, map(str.strip, self.disabled_plugins.split(","))))

    @property
    def spans_machines(self) -> bool:
        """Whether workers on other machines can run the same jobs: database and artifacts are not the home's own."""
        return self.database_url is not None and self.artifacts_url is not None

    @property
    def owner_name(self) -> str:
        """Current owner of new jobs: the name that is set, or that of the user."""
        return self.owner if self.owner is not None else self.user_name

    @property
    def user_name(self) -> str:
        """Name in the audit: the one that is set, or the login name of the user who runs this process."""
        if self.user is not None:
            return self.user
        try:
            name = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:  # containers may run as a user without a name
            name = ""
        return name[:_MAX_OWNER] or f"user-{os.geteuid()}"

    @property
    def work(self) -> Path:
        """Folder that jobs work in, one for each database. Workers delete folders of jobs that their database lacks."""
        if self.database_url is None:
            return self.home / "work"
        url = urllib.parse.urlsplit(self.database)
        place = f"{url.hostname}:{url.port}{url.path}?{url.query}"  # without the password, which may change
        return self.home / f"work-{hashlib.sha256(place.encode()).hexdigest()[:8]}"

    @property
    def cache(self) -> Path:
        """Folder of reproducible files: converted bases, fetched artifacts, measurements of the device."""
        return self.home / "cache"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _complete_urls(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Move the passwords into the URLs, so that no code knows two places of a secret."""
        completed = dict(values)
        for name in ("database", "broker"):
            fields = [f"{name}_{field}" for field in url_passwords.FIELDS]
            given = {field: completed.pop(field) for field in fields if field in completed}
            try:
                url = url_passwords.complete_url(name, given)
                completed |= given if url is None else {f"{name}_url": url}
            except url_passwords.Refusal as refusal:  # a validator raises it, beside the problems of other fields
                completed[refusal.field] = refusal
        return completed

    @pydantic.field_validator(*_URL_FIELDS, mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> Any:
        if isinstance(value, url_passwords.Refusal):
            raise value
        return value

    @pydantic.field_validator("heartbeat_seconds")
    @classmethod
    def _renew_in_time(cls, value: float, info: pydantic.ValidationInfo) -> float:
        lease = info.data.get("lease_seconds")
        if lease is not None and value * 2 > lease:
            raise ValueError(
                f"is {value:g}, but must be at most half of FINCH_LEASE_SECONDS, which is {lease:g}, or leases expire"
                " between renewals"
            )
        return value

    @pydantic.field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not _is_utf8(str(value)):
            raise ValueError("is not a name in UTF-8; choose another folder")
        if "::" in str(value):
            raise ValueError("contains ::, which fsspec reads as a chain of file systems; choose another folder")
        folder = expand_home(value)
        if folder.parts[0].startswith("~"):
            raise ValueError(f"is in {folder.parts[0]}, which this system does not know; set FINCH_HOME to a folder")
        return folder.absolute()

    @pydantic.field_validator("user", "owner")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or to_line(value) != value):
            raise ValueError("contains characters that cannot be printed; use letters, digits and spaces")
        if value is not None and not any(map(str.isalnum, value)):
            raise ValueError("has no letter or digit; use a name")
        return None if value is None else redact(value)[:_MAX_OWNER]  # it is stored and shown

    @pydantic.field_validator("broker_url")
    @classmethod
    def _url(cls, value: pydantic.SecretStr | None) -> pydantic.SecretStr | None:
        if value is not None and "://" not in value.get_secret_value():
            raise ValueError("is not a broker URL; use redis://:PASSWORD@HOST:6379/0")
        return value

    @pydantic.field_validator("metrics_folder", "health_folder")
    @classmethod
    def _expanded(cls, value: Path | None) -> Path | None:
        return None if value is None else expand_home(value).absolute()

    @pydantic.field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: Source,
        env_settings: Source,
        dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:
        """Return the sources: arguments, environment, and the ``finch.toml`` in ``FINCH_CONFIG`` or in the home."""
        return init_settings, env_settings, pydantic_settings.TomlConfigSettingsSource(settings_cls, _find_file())


def _find_file() -> Path:
    home = expand_home(os.environ.get("FINCH_HOME") or "~/.finch").absolute()
    return Path(os.environ.get("FINCH_CONFIG") or home / "finch.toml")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def expand_home(path: str | Path) -> Path:
    """Return the path with a user's home folder for `~`. In containers users may have none, and `~` stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises a RuntimeError


def load(**overrides: Any) -> Settings:
    """Return the current settings; overrides replace values from the environment.

    Raises:
        InvalidSpec: some values are invalid; contains a problem for each.
    """
    named = os.environ.get("FINCH_CONFIG")
    if named and not Path(named).is_file():
        fix = "set it to a finch.toml file, or unset it"
        raise errors.InvalidSpec(f"{named} is not a file", where="FINCH_CONFIG", fix=fix, subject="settings")
    for text in find_misspelled():
        warnings.warn(text, UnknownVariableWarning, stacklevel=2)
    try:
        return Settings(**overrides)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        what = f"is not valid TOML: {error} (fix that line)"
        raise errors.InvalidSpec(what, where=str(_find_file()), subject="settings") from None
    except RecursionError:
        what = "is nested too deeply"
        raise errors.InvalidSpec(what, where=str(_find_file()), subject="settings") from None
    except OSError as error:
        what = f"could not read the file: {error.strerror}"
        raise errors.InvalidSpec(what, where=str(_find_file()), subject="settings") from None
    except pydantic.ValidationError as error:
        problems = [_describe(finding, overrides) for finding in error.errors(include_url=False)]
        raise errors.InvalidSpec(problems, subject="settings") from None


def _describe(finding: pydantic_core.ErrorDetails, overrides: Mapping[str, Any]) -> errors.Problem:
    """Return a problem that names what its user set: the argument, the variable, or the line of ``finch.toml``."""
    name = str(finding["loc"][0])
    where = name if name in overrides else _find_origin(name)
    if finding["type"] == "extra_forbidden":
        near = errors.near(name, Settings.model_fields)
        fix = f"did you mean {' or '.join(near)}?" if near else "remove it"
        return errors.Problem(where=where, what="there is no such setting", fix=fix)
    if isinstance(refusal := finding.get("ctx", {}).get("error"), url_passwords.Refusal):
        return errors.Problem(where=where, what=refusal.what, fix=refusal.fix)
    if finding["type"] == "value_error":
        return errors.Problem(where=where, what=finding["msg"].removeprefix("Value error, "))
    allowed = f"must be {_describe_allowed(Settings.model_fields[name])}"
    if name in _URL_FIELDS or name == "artifacts_url":  # they may have passwords
        return errors.Problem(where=where, what=allowed)
    found = errors.shorten(repr(finding["input"]))
    return errors.Problem(where=where, what=f"is {found}, but {allowed}")


def _find_origin(name: str) -> str:
    variable = f"{_PREFIX}{name.upper()}"
    if any(given.upper() == variable and value for given, value in os.environ.items()):
        return variable
    file, key = _find_file(), re.compile(rf"[\s\[\"']*{re.escape(name)}[\"']?\s*[=.\]]")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    number = next((number for number, line in enumerate(lines, start=1) if key.match(line)), None)
    return variable if number is None else f"{file}, line {number}, {name}"


def _describe_allowed(field: pydantic.fields.FieldInfo) -> str:
    (kind, *_) = get_args(field.annotation) or (field.annotation,)
    if get_origin(field.annotation) is Literal:
        return " or ".join(get_args(field.annotation))
    if kind is bool:
        return "true or false"
    limits = {
        name: value for limit in field.metadata for name in _LIMITS if (value := getattr(limit, name, None)) is not None
    }
    least, most = (
        next((f"{limits[name]:,.0f}" for name in names if name in limits), "") for names in (_LIMITS[:3], _LIMITS[3:])
    )
    if kind not in (int, float):
        return f"text of {least} to {most} characters" if limits else "text"
    number = "a whole number" if kind is int else "a number"
    return f"{number} above {least} and up to {most}" if "gt" in limits else f"{number} from {least} to {most}"


def find_misspelled() -> list[str]:
    """Return what to say about each environment variable that looks like a misspelled setting."""
    found: list[str] = []
    known = {name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in known | _OTHER_VARIABLES or name.startswith("TEST_"):
            continue
        near = errors.near(name, known | _OTHER_VARIABLES)
        if near:
            suggestions = " or ".join(_PREFIX + name for name in near)
            found.append(f"{variable} is ignored: it is not a setting (did you mean {suggestions}?)")
    return found
