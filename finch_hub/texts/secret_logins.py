"""Passwords and tokens in addresses, and in the options of programs that log in."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from finch_hub.texts.likely_secrets import PLACEHOLDER, Span, find_stop, looks_random

# Schemes whose logins begin with a name that is no secret, and whose passwords are often written without encoding.
_NAMED_USERS = re.compile(
    r"(?:postgres|postgresql|mysql|mariadb|mssql|oracle|mongodb|amqps?|rediss?|valkeys?)(?:\+\w+)?|(?:git\+)?ssh|sftp|scp"
    r"|ftps?|smb",
    re.IGNORECASE,
)
_NAMELESS_USERS = re.compile(r"(?:rediss?|valkeys?)(?:\+\w+)?", re.IGNORECASE)  # a lone user is a misplaced password
_SEPARATOR = re.compile(r":(?://|\\/\\/|/(?![/\\]))|%(?:25){0,3}3A(?:%(?:25){0,3}2F){2}", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
_MAX_SCHEME = 32
_AUTHORITY_END = re.compile(r"[\s/?#\"<>`\\]")
_ENCODED_END = re.compile(r"[\s/?#\"<>`\\&]|%(?:25){0,3}2F", re.IGNORECASE)
_ENCODED_AT = re.compile(r"%(?:25){0,3}40", re.IGNORECASE)
_SPACE = re.compile(r"\s")
_QUOTE_END = re.compile(r"[\"<>`]")
_DIGEST = re.compile(r"@sha\d+:")
_HOST = re.compile(r"(?:\[[0-9a-f:.%]*\]|[^:\[\]]*)(?::(?:\d*|port|\{?\w*port\}?|<\w*>))?", re.IGNORECASE)
_PORT_AT_END = re.compile(r":\d+(?:[^A-Za-z0-9@][^:]*)?$")
_USER = re.compile(r"[a-z_][\w.-]{0,31}", re.IGNORECASE)
_USER_OPTION = re.compile(
    r"(?<![\w-])(?:-u|--(?:proxy-)?user)(?:[ =]?[\"']?|[\"'],\s?[\"'])[\w.@-]{1,64}:(?P<password>[^\s\"'/]{1,256})"
)
_NEXT_WORD = r"(?:\\{0,3}[\"'])?[,=]?\s{0,8}"
_WITHOUT_SCHEME = re.compile(
    r"(?:(?<![\w/:@.+%-])|(?<![\w:]//)(?<=//))[\w.+-]{1,64}:(?P<password>[^\s:@/\"'<>]{1,256})@(?!sha\d)(?=[\w.-]{1,253}(?::\d|/|(?P<quote>[\"']))|\w{2,9}\()"
)
# Parameters that are secrets in addresses and ordinary words elsewhere, such as the key of a function of Azure.
_QUERY = re.compile(
    r"(?<=[?&;])(?:code|hmac|session(?:_?id)?|sid|ticket|otp|assertion)=([\w.~+/%-]{12,})", re.IGNORECASE
)


def find_logins(text: str) -> Iterator[Span]:
    """Yield the passwords and tokens of addresses: `scheme://user:password@host`, `https://token@host`."""
    if ":" not in text and "%" not in text:
        return
    position, word_end, last_at = 0, -1, -1
    while (found := _SEPARATOR.search(text, position)) is not None:
        start = position = found.end()
        scheme = _find_scheme(text, found.start())
        if scheme is None and found.group() == ":/":
            continue
        scheme = scheme or ""
        if text[found.start()] == "%":
            stop = find_stop(_ENCODED_END, text, start)
            ats = list(_ENCODED_AT.finditer(text, start, stop))
            if ats:
                yield start, ats[-1].start()
                position = ats[-1].end()
            continue
        stop = find_stop(_AUTHORITY_END, text, start)
        if start >= word_end:
            word_end = find_stop(_SPACE, text, start)
            last_at = text.rfind("@", start, word_end)
        has_names = _NAMED_USERS.fullmatch(scheme) is not None
        at = text.rfind("@", start, stop)
        is_cut = not _are_hosts(text[start:stop] if at < 0 else text[at + 1 : stop])
        if has_names and last_at >= start and (at >= 0 or is_cut):
            at = last_at  # an unencoded password may hold what ends the authority
        elif at < 0 and is_cut:
            quoted = find_stop(_QUOTE_END, text, start) if last_at > stop else 0
            if stop <= last_at < min(word_end, max(quoted, stop)):
                at = last_at
            elif (stop == len(text) or text[stop] not in "/?#") and not _PORT_AT_END.search(text[start:stop]):
                at = stop  # it has no port, so it was cut off within a password
        if at < 0 or (not has_names and _DIGEST.match(text, at)):
            continue
        login = text[start:at]
        is_certain = has_names or ":" in login or scheme.lower().startswith("http") or looks_random(login)
        if found.group() == ":/" and not is_certain:
            continue  # a path
        begin = _find_password(text, start, at, scheme if has_names else "")
        if begin is not None:
            yield begin, at
        position = max(at, position)


def _find_scheme(text: str, end: int) -> str | None:
    start = end
    while start > max(0, end - _MAX_SCHEME) and (text[start - 1].isalnum() or text[start - 1] in "+.-"):
        start -= 1
    scheme = text[start:end].lstrip("0123456789+.-")
    return scheme if len(scheme) > 1 and _SCHEME.fullmatch(scheme) else None


def _find_password(text: str, start: int, at: int, scheme: str) -> int | None:
    """Return where the secret of a login begins, None if there is none."""
    user, colon, password = text[start:at].partition(":")
    if password and PLACEHOLDER.fullmatch(password):
        return None
    if not scheme:
        return start if not PLACEHOLDER.fullmatch(user) or password else None
    if colon:
        return start + len(user) + 1 if password else None
    is_name = _USER.fullmatch(user) and not (len(user) >= 16 and looks_random(user))
    return None if is_name and not _NAMELESS_USERS.fullmatch(scheme) else start


def _are_hosts(authority: str) -> bool:
    return all(_HOST.fullmatch(host) for host in authority.split(","))


def find_bare_logins(text: str) -> Iterator[Span]:
    """Yield passwords of `user:password@host:port`."""
    if "@" not in text or ":" not in text:
        return
    for found in _WITHOUT_SCHEME.finditer(text):
        is_likely = not found["quote"] or looks_random(found["password"])
        if is_likely and not found["password"].isdigit() and not PLACEHOLDER.fullmatch(found["password"]):
            yield found.span("password")


def find_user_options(text: str) -> Iterator[Span]:
    """Yield passwords of `curl -u user:password`."""
    if "-u" not in text:
        return
    for found in _USER_OPTION.finditer(text):
        if not found["password"].isdigit() and not PLACEHOLDER.fullmatch(found["password"]):
            yield found.span("password")


def _find_password_options(option: str, pattern: str, text: str) -> Iterator[Span]:
    """Yield passwords of `mysql -pPASSWORD`, `sshpass -p PASSWORD` and others, also as lists of words."""
    if option not in text:
        return
    for found in re.finditer(pattern, text):
        name = "plain" if found["quoted"] is None else "quoted"
        is_port = found[name].isdigit()  # `sshpass -e ssh -p 22`
        if not is_port and not PLACEHOLDER.fullmatch(found[name]):
            yield found.span(name)


def find_parameters(text: str) -> Iterator[Span]:
    """Yield values of parameters of addresses, such as `?code=x`."""
    if "=" not in text or not any(sign in text for sign in "?&;"):
        return
    for found in _QUERY.finditer(text):
        if looks_random(found[1]) and any(character.isdigit() for character in found[1]):
            yield found.span(1)


# Options of programs with a password in the same word or the next one. They are compiled when a text needs them.
PASSWORD_OPTIONS = tuple(
    functools.partial(
        _find_password_options,
        option[:2],
        rf"(?<![\w-])(?:{programs})(?=\\{{0,3}}[\s\"'])[^\r\n;|]{{0,256}}?[\s\"']{option}"
        r"(?:\\{0,3}[\"'](?P<quoted>[^\s,\])\"'\\][^\"'\r\n]*)|(?P<plain>[^\s,\])\"'\\][^\s\"'\\]*))",
    )
    for programs, option in (
        (r"(?:mysql|mariadb)[\w-]{0,16}|7z[ar]?", "-p"),
        (r"sshpass|mongo\w{0,8}|cqlsh|twine", f"-p{_NEXT_WORD}"),
        (r"(?:docker|podman|nerdctl|registry|az|oc)(?:\s|[\"'],\s?[\"'])login", f"-p{_NEXT_WORD}"),
        (r"(?:redis|valkey)-cli", f"-a{_NEXT_WORD}"),
        (r"ldap\w{2,10}", f"-w{_NEXT_WORD}"),
        (r"sqlcmd|bcp|(?:un)?zip", f"-P{_NEXT_WORD}"),
    )
)
