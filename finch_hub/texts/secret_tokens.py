"""Secrets that are known by their own form: private keys, tokens of well-known issuers, and what follows `Bearer`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from finch_hub.texts.likely_secrets import Span, looks_random

_SCHEMED = re.compile(
    r"(?<![A-Za-z0-9])(?P<scheme>Bearer|Basic|Token|Negotiate|ApiKey|SharedKey(?:Lite)?)(?:\s|%20|\+){1,4}"
    r"(?P<value>[\w.~+/=:%-]{8,})",
    re.IGNORECASE,
)
_LONG_WORD = 20
_HEXADECIMAL = re.compile(r"[0-9a-f]{32,}", re.IGNORECASE)
_KNOWN_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:hf|hf_oauth|hf_jwt|api_org)_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|[sr]k_(?:live|test)_\w{10,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{20,}|gl(?:pat|ptt|rt|dt|cbt)-[\w.-]{16,}|(?:AKIA|ASIA|AIDA|AROA|ABIA|ACCA)[A-Z0-9]{12,}|xox[abcdeoprs]-[\w-]{10,}"
    r"|xapp-[\w-]{10,}|AIza[\w-]{30,}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{16,}"
    r"|dckr_[op]at_[\w-]{16,}|hv[sb]\.[\w-]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}|do[opr]_v1_[a-f0-9]{32,}|shp(?:at|ca|pa|ss)_\w{16,}"
    r"|glsa_[A-Za-z0-9]{32}_\w{8}|ATATT3\w{16,}|whsec_[A-Za-z0-9+/]{16,}|xai-[A-Za-z0-9]{20,}|pplx-[A-Za-z0-9]{20,}"
    r"|wandb_v1_\w{16,}|dapi[a-f0-9]{32}|AGE-SECRET-KEY-1[A-Z0-9]{16,}|sntry[su]_\w{16,}|lin_api_[A-Za-z0-9]{16,}"
    r"|nvapi-[\w-]{16,}|r8_[A-Za-z0-9]{20,}|gsk_[A-Za-z0-9]{20,}|tskey-[\w-]{16,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"
    r")(?![A-Za-z0-9])"
)
_KEY_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=\s\\]+")
_HOOK = re.compile(
    r"(?<=hooks\.slack\.com/services/)[\w/-]+|(?<=discord\.com/api/webhooks/)[\w/-]+"
    r"|(?<=office\.com/webhook/)[\w/@-]+|(?<=api\.telegram\.org/bot)[\w:-]+"
)


def find_keys(text: str) -> Iterator[Span]:
    """Yield private keys, also those whose begin or end is cut off."""
    if "PRIVATE KEY" not in text:
        return
    begin, end = _KEY_BEGIN.search(text), _KEY_END.search(text)
    if end is not None and (begin is None or end.start() < begin.start()):
        body = _KEY_BODY.match(text[: end.start()][::-1])
        yield end.start() - (body.end() if body is not None else 0), end.start()
    while begin is not None:
        end = _KEY_END.search(text, begin.end())
        yield begin.end(), len(text) if end is None else end.start()
        begin = None if end is None else _KEY_BEGIN.search(text, end.end())


def find_schemed(text: str) -> Iterator[Span]:
    """Yield what follows `Bearer` and `Basic`."""
    if " " not in text and "%20" not in text and "+" not in text:
        return
    for found in _SCHEMED.finditer(text):
        scheme, value = found["scheme"].lower(), found["value"]
        if scheme == "basic":
            is_secret = _is_basic(value)
        elif scheme == "token":
            is_secret = _HEXADECIMAL.fullmatch(value) is not None
        else:
            is_secret = len(value) >= _LONG_WORD or looks_random(value)
        if is_secret:
            yield found.span("value")


def _is_basic(value: str) -> bool:
    """Tell whether a value is the base64 of `user:password`."""
    try:
        bare = value.rstrip(".:=")
        return b":" in base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (ValueError, binascii.Error):
        return False


def find_tokens(text: str) -> Iterator[Span]:
    """Yield tokens whose beginnings name their issuers."""
    for found in _KNOWN_TOKEN.finditer(text):
        token = found.group()
        if any(c.isdigit() or c.isupper() for c in token[3:]):
            yield found.span()


def find_hooks(text: str) -> Iterator[Span]:
    """Yield the secret parts of addresses to which anybody may post."""
    if "/services/" in text or "/webhook" in text or "/bot" in text:
        yield from (found.span() for found in _HOOK.finditer(text))
