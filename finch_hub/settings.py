"""Settings from ``FINCH_*`` environment variables, then ``finch.toml``, then the embedded defaults."""

from __future__ import annotations

import hashlib
import os
import tomllib
import urllib.parse
import warnings
from pathlib import Path
from typing import Any

import pydantic
import pydantic_settings

from finch_hub import errors
from finch_hub.specs.value import problems_of

_PREFIX = "FINCH_"
# Variables of ours that are no settings; those of the tests and of plugins resemble none of them.
_OTHER_VARIABLES = frozenset({"CONFIG", "DEBUG", "FAULT", "DATABASE_PASSWORD", "BROKER_PASSWORD"})


class UnknownVariableWarning(UserWarning):
    """An environment variable looks like a misspelt setting, and sets nothing."""


class Settings(pydantic_settings.BaseSettings):
    """Where things live and how patient the queue is; every field can be given as ``FINCH_<FIELD>``.

    Attributes:
        home: folder of the embedded default: database, artefacts, converted bases, sockets' locks, logs.
        database_url: SQLAlchemy URL; None means SQLite in the home.
        broker_url: Redis URL; None means a private Valkey started on demand.
        artifacts_url: fsspec URL; None means a folder in the home.
        lease_seconds: how long a claim lasts unless renewed.
        heartbeat_seconds: how often the supervisor renews it and looks for a cancellation.
        sweep_seconds: how often a worker looks for expired leases; for jobs to ring for, it looks every second.
        idle_seconds: after so long without work the worker started on demand ends.
        max_attempts: lost attempts after which a job fails.
        retry_seconds: wait before a job is tried again; doubled each time.
        stall_seconds: a child that reports nothing for so long is ended.
        grace_seconds: how long a child may take to checkpoint and end when its worker stops.
        warm_seconds: how long a child without work is kept, with the base it has loaded.
        memory_bytes: of main memory that one child may use; None means nine tenths of the machine's (or container's).
        gang_size: how many jobs that asked for it are trained in one step at most; 1 trains each alone.
        history_days: jobs that ended longer ago are deleted with their events, by the workers' sweeps; None keeps all.
        history_jobs: how many ended jobs are kept at most; None keeps all.
        allow_insecure: talk to a broker or database without authentication off loopback.

    Raises:
        InvalidSpec: from :func:`load`, naming the variable or the line of ``finch.toml``.

    """

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    home: Path = Path("~/.finch")
    database_url: pydantic.SecretStr | None = None
    broker_url: pydantic.SecretStr | None = None
    artifacts_url: str | None = None
    lease_seconds: float = pydantic.Field(default=60.0, gt=0)
    heartbeat_seconds: float = pydantic.Field(default=5.0, gt=0, le=20)
    sweep_seconds: float = pydantic.Field(default=15.0, gt=0)
    idle_seconds: float = pydantic.Field(default=600.0, gt=0)
    max_attempts: int = pydantic.Field(default=3, ge=1)
    retry_seconds: float = pydantic.Field(default=10.0, ge=0)
    stall_seconds: float = pydantic.Field(default=900.0, gt=0)
    grace_seconds: float = pydantic.Field(default=20.0, gt=0)
    warm_seconds: float = pydantic.Field(default=120.0, ge=0)
    memory_bytes: pydantic.PositiveInt | None = None
    gang_size: int = pydantic.Field(default=8, ge=1)
    history_days: float | None = pydantic.Field(default=None, gt=0)
    history_jobs: int | None = pydantic.Field(default=None, ge=0)
    allow_insecure: bool = False

    @property
    def database(self) -> str:
        """SQLAlchemy URL in force, with its password."""
        if self.database_url:
            return self.database_url.get_secret_value()
        return f"sqlite:///{urllib.parse.quote(str(self.home / 'finch.db'))}"

    @property
    def artifacts(self) -> str:
        """The fsspec URL or local folder of the artefact store in force."""
        return self.artifacts_url or str(self.home / "artifacts")

    @property
    def work(self) -> Path:
        """Folder that jobs work in; each database has its own, for its workers tidy up what it does not know of."""
        if self.database_url is None:
            return self.home / "work"
        named = urllib.parse.urlsplit(self.database)
        place = f"{named.hostname}:{named.port}{named.path}?{named.query}"
        return self.home / f"work-{hashlib.sha256(place.encode()).hexdigest()[:8]}"

    @property
    def cache(self) -> Path:
        """Folder of what can be made again: converted bases, fetched artefacts, probes of the device."""
        return self.home / "cache"

    @pydantic.model_validator(mode="after")
    def _renew_in_time(self) -> Settings:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("heartbeat_seconds must be at most half of lease_seconds, or leases expire by themselves")
        return self

    @pydantic.field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if "::" in str(value):
            raise ValueError("holds ::, with which fsspec chains file systems; choose another folder")
        return value.expanduser().absolute()

    @pydantic.field_validator("broker_url")
    @classmethod
    def _url(cls, value: pydantic.SecretStr | None) -> pydantic.SecretStr | None:
        if value is not None and "://" not in value.get_secret_value():
            raise ValueError("is no broker URL; give redis://:PASSWORD@HOST:6379/0")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """Read no ``.env``; a ``finch.toml`` counts where ``FINCH_CONFIG`` names it or it stands in the home."""
        home = Path(os.environ.get("FINCH_HOME") or "~/.finch").expanduser()
        file = Path(os.environ.get("FINCH_CONFIG") or home / "finch.toml")
        return init_settings, env_settings, pydantic_settings.TomlConfigSettingsSource(settings_cls, file)


def load(**overrides: Any) -> Settings:
    """Return the settings in force; the overrides win over the environment.

    Raises:
        InvalidSpec: with every value that is wrong.

    """
    named = os.environ.get("FINCH_CONFIG")
    if named and not Path(named).is_file():
        raise errors.InvalidSpec(
            errors.Problem(what=f"{named} is no file", where="FINCH_CONFIG", fix="name a finch.toml, or unset it"),
            subject="settings",
        )
    _warn_of_misspelt()
    try:
        return Settings(**overrides)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.InvalidSpec(
            errors.Problem(what=f"is no TOML: {error}", where="finch.toml", fix="mend that line"), subject="settings"
        ) from None
    except OSError as error:
        raise errors.InvalidSpec(
            errors.Problem(what=f"cannot be read: {error.strerror}", where="finch.toml"), subject="settings"
        ) from None
    except pydantic.ValidationError as error:
        problems = problems_of(error, Settings.model_fields)
        raise errors.InvalidSpec(problems, subject="settings (FINCH_* or finch.toml)") from None


def _warn_of_misspelt() -> None:
    known = {name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in known | _OTHER_VARIABLES or name.startswith("TEST_"):
            continue
        near = errors.near(name, known | _OTHER_VARIABLES)
        if near:
            meant = " or ".join(_PREFIX + each for each in near)
            warnings.warn(
                f"{variable} is no setting and is ignored; did you mean {meant}?", UnknownVariableWarning, stacklevel=3
            )
