"""Brokers by their address: which of them may be used, and what to do about one that does not answer."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from finch_hub import errors

_SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")

# What Redis and Valkey say to whoever comes with a wrong password, or none.
_WRONG_PASSWORD = ("invalid username-password", "WRONGPASS", "NOAUTH", "Authentication required", "invalid password")


def refuse_open_broker(url: str, *, allow_insecure: bool) -> None:
    """Refuse an address that is none, and a broker that anyone on the network could ring.

    Raises:
        InvalidSpec: it cannot be read; or it has no password, is neither on loopback nor a unix socket, and
            `allow_insecure` is off.

    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is read only now
        if parts.scheme not in _SCHEMES:
            raise ValueError
    except ValueError:
        # Not even what the port is taken to be is shown: it may be a piece of the password.
        raise errors.InvalidSpec(
            errors.Problem(
                where="FINCH_BROKER_URL",
                what="is no address of a broker",
                fix="write redis://:PASSWORD@HOST:PORT/0, with / # and ? of a password as %2F %23 and %3F",
            ),
            subject="settings",
        ) from None
    if allow_insecure or not parts.hostname or parts.password or _is_loopback(parts.hostname):
        return
    raise errors.InvalidSpec(
        errors.Problem(
            where="FINCH_BROKER_URL",
            what=f"the broker at {parts.hostname} has no password and is not on this machine",
            fix="give it one (redis://:PASSWORD@HOST), or set FINCH_ALLOW_INSECURE=1 if the network is trusted",
        ),
        subject="settings",
    )


def explain(error: Exception, url: str) -> errors.Unavailable:
    """Return our error for what a client of the broker raised: what is wrong, and what to do."""
    place = urlsplit(url).hostname or "its socket"
    if any(sign in str(error) for sign in _WRONG_PASSWORD):
        return errors.AccessDenied(
            f"the broker at {place} lets nobody in: {error} (mend the password in FINCH_BROKER_URL)"
        )
    advice = "make sure that it runs and that FINCH_BROKER_URL names its host and port"
    return errors.Unavailable(f"the broker at {place} does not answer: {error} ({advice})")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
