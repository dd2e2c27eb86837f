"""Settings from ``FINCH_*`` environment variables, then ``finch.toml``, then the embedded defaults."""

from __future__ import annotations

import hashlib
import os
import pwd
import tomllib
import urllib.parse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
import pydantic_settings
from pydantic_settings import PydanticBaseSettingsSource as Source

from finch_hub import errors
from finch_hub.specs.value import problems_of

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


class UnknownVariableWarning(UserWarning):
    """An environment variable that looks like a misspelled setting and has no effect."""


class Settings(pydantic_settings.BaseSettings):
    """Places and limits of a hub; the variable ``FINCH_<FIELD>`` sets a field.

    Attributes:
        home: folder of the database, artifacts, converted bases, locks and logs, unless set elsewhere.
        database_url: SQLAlchemy URL; None means SQLite in the home.
        database_password: password for a database URL that has none, with any characters.
        database_password_file: file with that password, such as a secret of Docker or Kubernetes.
        database_connections: largest number of connections of one worker or client to a PostgreSQL server.
        broker_url: Redis URL; None means a private Valkey started on demand.
        broker_password: password for a broker URL that has none, with any characters.
        broker_password_file: file with that password.
        artifacts_url: fsspec URL; None means a folder in the home.
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
        memory_bytes: main memory for one child process; None means nine tenths of the machine or container.
        gang_size: maximum number of jobs that are trained in one step; 1 trains each job alone.
        owner: name under which jobs take turns with those of other owners; None means the login name.
        owner_running: maximum number of jobs of one owner that run at a time; None sets no limit.
        owner_unfinished: maximum number of jobs of one owner that have not ended; None sets no limit.
        history_days: age in days after which ended jobs and their events are deleted; None keeps all.
        history_jobs: maximum number of ended jobs that are kept; None keeps all.
        log_format: format of log lines, `logfmt` or `json`.
        log_level: least level of what is logged: `debug`, `info`, `warning` or `error`.
        metrics_port: port on which a worker serves its metrics to Prometheus; None means no port.
        metrics_address: address of that port.
        metrics_folder: folder in which a worker keeps a file of its metrics; None means no file.
        health_folder: folder of files whose ages tell probes of a container how its worker is; None writes none.
        allow_insecure: allow a broker or database on another machine without authentication.

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
    owner: str | None = pydantic.Field(default=None, min_length=1, max_length=_MAX_OWNER)
    owner_running: int | None = pydantic.Field(default=None, ge=1, le=_MAX_NUMBER)
    owner_unfinished: int | None = pydantic.Field(default=None, ge=1, le=_MAX_NUMBER)
    history_days: float | None = pydantic.Field(default=None, gt=0, le=_MAX_SECONDS / 86_400)
    history_jobs: int | None = pydantic.Field(default=None, ge=0, le=_MAX_NUMBER)
    log_format: LogFormat = "logfmt"
    log_level: LogLevel = "info"
    metrics_port: int | None = pydantic.Field(default=None, ge=1, le=65_535)
    metrics_address: str = "127.0.0.1"
    metrics_folder: Path | None = None
    health_folder: Path | None = None
    allow_insecure: bool = False

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
    def spans_machines(self) -> bool:
        """Whether workers on other machines can run the same jobs: database and artifacts are not the home's own."""
        return self.database_url is not None and self.artifacts_url is not None

    @property
    def owner_name(self) -> str:
        """Current owner of new jobs: the name that is set, or the login name of the user who runs this process."""
        if self.owner is not None:
            return self.owner
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
        names = ("database", "broker")
        urls = {f"{name}_url": url for name in names if (url := _complete_url(name, values))}
        moved = {f"{name}_{field}" for name in names for field in ("password", "password_file")}
        return {name: value for name, value in values.items() if name not in moved} | urls

    @pydantic.model_validator(mode="after")
    def _renew_in_time(self) -> Settings:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "heartbeat_seconds must be at most half of lease_seconds, or leases expire between renewals"
            )
        return self

    @pydantic.field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if "::" in str(value):
            raise ValueError("contains ::, which fsspec reads as a chain of file systems; choose another folder")
        folder = expand_home(value)
        if folder.parts[0].startswith("~"):
            raise ValueError(f"is in {folder.parts[0]}, which this system does not know; set FINCH_HOME to a folder")
        return folder.absolute()

    @pydantic.field_validator("owner")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("contains characters that cannot be printed; use letters, digits and spaces")
        return value

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
        home = expand_home(os.environ.get("FINCH_HOME") or "~/.finch").absolute()
        file = Path(os.environ.get("FINCH_CONFIG") or home / "finch.toml")
        return init_settings, env_settings, pydantic_settings.TomlConfigSettingsSource(settings_cls, file)


def _complete_url(name: str, values: Mapping[str, Any]) -> str | None:
    """Return a URL of the settings with its password.

    Raises:
        ValueError: URL and password do not fit together. The text has no part of either.
    """
    url, password, file = (_reveal(values.get(f"{name}_{field}")) for field in ("url", "password", "password_file"))
    if url is not None:
        _check_encoding(name, url)
    if password is None and file is None:
        return url
    if password is not None and file is not None:
        raise ValueError(f"{name}_password and {name}_password_file are both set; remove one of them")
    if url is None:
        raise ValueError(f"{name}_password has no effect without {name}_url; set the URL too, or remove the password")
    parts = urllib.parse.urlsplit(url)
    if parts.password is not None:
        raise ValueError(f"{name}_url has a password already; remove it there, or remove {name}_password")
    if file is not None:
        password = _read_password(name, expand_home(file))
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user}:{urllib.parse.quote(password or '', safe='')}@{host}"
    return urllib.parse.urlunsplit(parts._replace(netloc=netloc))


def _check_encoding(name: str, url: str) -> None:
    """Refuse a URL that was probably cut at a character of its password."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_cut = bool(parts.netloc) and "@" in f"{parts.path}{parts.query}{parts.fragment}"
        _ = parts.port
    except ValueError:
        is_cut = True
    if is_cut:
        raise ValueError(
            f"{name}_url cannot be read; set its password as {name}_password, or write @ : / ? # [ ] % of the password"
            " as %40 %3A %2F %3F %23 %5B %5D %25"
        ) from None


def _read_password(name: str, file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{name}_password_file: {file} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{name}_password_file: could not read {file}: {error.strerror}") from None
    if not password:
        raise ValueError(f"{name}_password_file: {file} is empty")
    return password


def _reveal(value: Any) -> str | None:
    """Return the text of a value that was not validated yet."""
    if isinstance(value, pydantic.SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, str | Path) else None


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
    _warn_about_misspelled()
    try:
        return Settings(**overrides)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        what = f"is not valid TOML: {error} (fix that line)"
        raise errors.InvalidSpec(what, where="finch.toml", subject="settings") from None
    except OSError as error:
        what = f"could not read the file: {error.strerror}"
        raise errors.InvalidSpec(what, where="finch.toml", subject="settings") from None
    except pydantic.ValidationError as error:
        problems = problems_of(error, Settings.model_fields)
        raise errors.InvalidSpec(problems, subject="settings (FINCH_* or finch.toml)") from None


def _warn_about_misspelled() -> None:
    known = {name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in known | _OTHER_VARIABLES or name.startswith("TEST_"):
            continue
        near = errors.near(name, known | _OTHER_VARIABLES)
        if near:
            suggestions = " or ".join(_PREFIX + name for name in near)
            warnings.warn(
                f"{variable} is ignored: it is not a setting (did you mean {suggestions}?)",
                UnknownVariableWarning,
                stacklevel=3,
            )
