"""Brokers: which addresses may be used, names of queues and task, and explanations of failed connections."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from finch_hub import errors

WAKE = "finch_hub.wake"
"""Name of the only task. `finch_hub.workers.worker.Worker` runs it."""

_SCHEMES = ("redis", "rediss", "redis+socket")

_SOCKET_OPTIONS = ("virtual_host",)
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_CHOICES = {
    "ssl_cert_reqs": ("required", "none", "optional", "CERT_REQUIRED", "CERT_NONE", "CERT_OPTIONAL"),
    "ssl_check_hostname": ("true", "false", "True", "False"),
}

# Answers of Redis and Valkey to a wrong or missing password.
_REJECTIONS = ("invalid username-password", "WRONGPASS", "NOAUTH", "Authentication required", "invalid password")


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerStatus:
    """Status of a broker that answers. Fields are None if the broker does not tell them to its user.

    Attributes:
        used_bytes: memory that it uses.
        limit_bytes: memory that it may use, 0 for no limit.
        policy: what it does at the limit, such as `noeviction` or `allkeys-lru`.
        evicted_keys: number of keys that it dropped at the limit since it was started.
        clock: its time, in seconds since 1970.
    """

    used_bytes: int | None = None
    limit_bytes: int | None = None
    policy: str | None = None
    evicted_keys: int | None = None
    clock: float | None = None


def key_prefix(deployment: str) -> str:
    """Return what all keys of a deployment in the broker begin with. Several deployments may share a broker."""
    return f"finch:{deployment}:"


def queue_name(queue: str) -> str:
    """Return the name in the broker of a queue of jobs."""
    return f"jobs.{queue}"


def own_queue_name(worker: str) -> str:
    """Return the name in the broker of the queue that wakes one worker only."""
    return f"worker.{worker}"


def refuse_open_broker(url: str, *, allow_insecure: bool) -> None:
    """Refuse a broker to which anyone on the network could send messages.

    Raises:
        InvalidSpec: the address is not valid; or the broker has no password, is neither on loopback nor a unix socket,
            and `allow_insecure` is off.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is not a number
        (parts.hostname or "").encode("idna")  # raises for what no host is called
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        is_socket = parts.scheme == "redis+socket"
        is_database = parts.path.strip("/").isdecimal() or parts.path in ("", "/")
        if parts.scheme not in _SCHEMES or not (is_socket or is_database):
            raise ValueError
    except ValueError:
        # The message shows no part of the address: what looks like a port may be a part of the password.
        what = "is not the address of a broker"
        fix = "write redis://:PASSWORD@HOST:PORT/0, and replace / # ? in the password by %2F %23 %3F"
        raise errors.InvalidSpec(what, where="FINCH_BROKER_URL", fix=fix, subject="settings") from None
    _check_options(options, is_socket=is_socket)
    if allow_insecure or not parts.hostname or parts.password or _is_loopback(parts.hostname):
        return
    raise errors.InvalidSpec(
        f"the broker at {parts.hostname} has no password and is not on this machine",
        where="FINCH_BROKER_URL",
        fix="set FINCH_BROKER_PASSWORD, or FINCH_ALLOW_INSECURE=1 if the network is trusted",
        subject="settings",
    )


def explain(error: Exception, url: str) -> errors.Unavailable:
    """Return the error, with its fix, for an exception that a client of the broker raised."""
    import redis

    place = urlsplit(url).hostname or "its socket"
    cause = error.__cause__ or error
    code = getattr(cause, "status_code", None)  # the first word of the broker's answer, which redis-py cuts off
    text = " ".join(filter(None, (code, str(error).rstrip(".") or type(error).__name__)))
    if any(answer in text for answer in _REJECTIONS):
        fix = "check the password in FINCH_BROKER_URL or FINCH_BROKER_PASSWORD"
        return errors.AccessDenied(f"the broker at {place} rejected the login: {text} ({fix})")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        fix = "name its authority's file with ?ssl_ca_certs=FILE in FINCH_BROKER_URL"
        return errors.Unavailable(f"the certificate of the broker at {place} is not valid: {text} ({fix})")
    if isinstance(cause, redis.ResponseError):
        fix = "change that at the broker, and waiting jobs start by themselves"
        return errors.Unavailable(f"the broker at {place} refused: {text} ({fix})")
    fix = "check that it runs and that FINCH_BROKER_URL has its host and port"
    return errors.Unavailable(f"the broker at {place} does not answer: {text} ({fix})")


def _check_options(options: Mapping[str, Sequence[str]], *, is_socket: bool) -> None:
    """Refuse options of an address that the client of the broker does not know, or cannot use."""
    known = _SOCKET_OPTIONS if is_socket else (*_TLS_CHOICES, *_TLS_FILES)
    for name, values in options.items():
        value = values[-1]
        if name not in known:
            # Its name is not shown, as it may be a part of the password.
            what = "an option of the broker's address is unknown"
            fix = f"use {', '.join(known)}, and replace ? in the password by %3F"
        elif value not in _TLS_CHOICES.get(name, (value,)):
            what = f"the option {name}={value} is unknown"
            fix = f"write {' or '.join(_TLS_CHOICES[name][:2])}"
        elif name in _TLS_FILES and not Path(value).is_file():
            what = f"{value} of {name} is not a file"
            fix = "name a file in PEM format"
        else:
            continue
        raise errors.InvalidSpec(what, where="FINCH_BROKER_URL", fix=fix, subject="settings")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
