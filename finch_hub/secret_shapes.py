"""Shapes of secrets in texts: addresses with a login, named values, headers, well-known tokens and private keys.

All patterns take linear time. Each begins with a literal or a bounded look behind, and what was masked is not read
again.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any

from finch_hub import odd_spelling

MASK = "***"
_HIDDEN = "\ufffb"  # replaces each character of a secret where positions must stay
_MASKED = re.compile(f"{_HIDDEN}+")

_Span = tuple[int, int]
_POSSIBLE, _CERTAIN = 1, 2  # weights of names
_INNER_NAMES = ("value", "values")  # of a named value in JSON

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
_NEW_LINE = re.compile(r"[\r\n]")
_HOST = re.compile(r"(?:\[[0-9a-f:.%]*\]|[^:\[\]]*)(?::(?:\d*|port|\{?\w*port\}?|<\w*>))?", re.IGNORECASE)
_PORT_AT_END = re.compile(r":\d+(?:[^A-Za-z0-9@][^:]*)?$")
_USER = re.compile(r"[a-z_][\w.-]{0,31}", re.IGNORECASE)
_USER_OPTION = re.compile(
    r"(?<![\w-])(?:-u|--(?:proxy-)?user)(?:[ =]?[\"']?|[\"'],\s?[\"'])[\w.@-]{1,64}:(?P<password>[^\s\"'/]{1,256})"
)
_NEXT_WORD = r"(?:\\{0,3}[\"'])?[,=]?\s{0,8}"
# Options of programs with a password in the same word or the next one. They are compiled when a text needs them.
_PASSWORD_OPTIONS = tuple(
    (
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
_WITHOUT_SCHEME = re.compile(
    r"(?:(?<![\w/:@.+%-])|(?<![\w:]//)(?<=//))[\w.+-]{1,64}:(?P<password>[^\s:@/\"'<>]{1,256})@(?!sha\d)(?=[\w.-]{1,253}(?::\d|/|(?P<quote>[\"']))|\w{2,9}\()"
)

_NAMED = re.compile(
    r"(?=[abcjkpst])(?P<name>passw(?:or)?ds?|passphrase|passcode|pass|pwd?|secret(?:s|string|value)?|key|token|credentials?|creds|signature|sig"
    r"|set-cookie|cookie|authorization|auth|sas|bearer|jwt|pat)"
    r"(?:(?P<sign>\\{0,3}[\"'],?\s{0,8}\\{0,3}[\"']?value\\{0,3}[\"']?\s{0,8}[=:]\s{0,8}|(?P<tag>>)(?=[^\s<>])"
    r"|(?:\\{0,3}[\"'])?\s{0,8}(?:=>|:=|=|:(?!//)|%(?:25){0,3}(?:3D|3A)|\\u003[dD])(?:\s|%20){0,8})"
    r"|(?P<pair>\\{0,3}[\"'],\s{0,8}(?=[\[(]?[bu]?\\{0,3}[\"']))|(?P<blank>\s{1,8}(?:(?:provided|given|is|was|to):?\s{1,8})?(?=[^\s-])))",
    re.IGNORECASE,
)
_SIGNS = ("=", ":", "%", "',", '",', "--", "\\u003", "</")  # of which each value with a name has one
_BLANK = re.compile(r"passw|passphrase|secret|token|key", re.IGNORECASE)  # in prose
_STRONG = ("passw", "passphrase", "passcode", "secret", "credential", "creds", "cookie", "authorization", "set-cookie")
_MAX_OWNER = 24
# What stands before `key`, `token` and `signature` if they are secrets.
_OWNER = re.compile(
    r"(?:api|functions?|fernet|access|account|private|secret|signing|encryption|master|storage|subscription|admin|client|consumer|license"
    r"|ssh|service|app|shared|auth|session|security|refresh|id|bearer|oauth2?|csrf|xsrf|personal|hf|vault|bot|deploy|job"
    r"|sas|github|gitlab|gh|user|login|hub|write|read|registry|upload|identity|x-(?:amz|goog|oss|cos|ms))[_. -]?$",
    re.IGNORECASE,
)
_LOGIN_OWNERS = ("bind", "db", "ldap", "root", "user")  # what stands before `pw` without a sign
_QUOTE = re.compile(r"[\[({]?[bBuUrR]{0,2}(?P<quote>\\{0,3}[\"'])")
_VALUE_END = re.compile(r"[\s\"'<>`|\\;&#]|%(?:25){0,3}26", re.IGNORECASE)
_NEXT_NAME = re.compile(
    r"[\s&;]{0,8}(?:[\w.%-]{1,64}|[a-z]{1,20}(?: [a-z]{1,20}){1,3})(?:=|%(?:25){0,3}3D)|amp;|\s|$", re.IGNORECASE
)
_ENDS_VALUE = re.compile(r"[\s\"'<>`|]|\\(?:u0026|[nrt\"'])|%(?:25){0,3}26", re.IGNORECASE)
_LINE_END = re.compile(r"[\r\n\"']|\\[nr\"']")
_HEADERS = ("authorization", "cookie")
_HEADER_SCHEME = re.compile(
    r"(?:Bearer|Basic|Digest|Token|Negotiate|NTLM|AWS4?[\w-]*|ApiKey|SharedKey\w*|OAuth|Hawk|Bot)\b", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"\*+|x+|\.+|…|<[\w .:-]*>|(?-i:\$[A-Z_][A-Z0-9_]*)|\$?\{[\w.]*\}?|%s|%\(\w+\)s|none|null|nil|true|false|undefined"
    r"|(?-i:[A-Z_]*(?:PASSWORD|SECRET|TOKEN|KEY|YOUR|HERE|VALUE)[A-Z_]*)",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(r"[A-Z]?[a-z]*(?:[._][A-Z]?[a-z]*)+")  # only one way to match a text
_CALL = re.compile(r"[A-Za-z_][\w.]*[(\[]")
_TYPE = re.compile(
    r"(?:pydantic\.)?(?:str|string|int|float|bool|bytes|any|optional|required|secretstr|\w+error|\w+exception)\b.*",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[\w.~+/=%:@!-]+")
_WORD = re.compile(r"[A-Za-z]?[a-z]*|\W*")
_LINE_NAME = re.compile(r"[\s\w.\"'-]*")
_MAX_LINE_NAME = 80

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
# Parameters that are secrets in addresses and ordinary words elsewhere, such as the key of a function of Azure.
_QUERY = re.compile(
    r"(?<=[?&;])(?:code|hmac|session(?:_?id)?|sid|ticket|otp|assertion)=([\w.~+/%-]{12,})", re.IGNORECASE
)


def redact(text: str, *, mask: str = MASK) -> str:
    """Return a text in which a mask replaces everything that has the shape of a secret.

    Shapes that are written oddly are found too, see :func:`odd_spelling.read`.
    """
    text = _redact_plain(text, mask)
    plain, place = odd_spelling.read(text)
    if plain is text:
        return text
    masked = _redact_plain(plain, _HIDDEN)
    return _mask(
        text, ((place(start), place(end)) for start, end in map(re.Match.span, _MASKED.finditer(masked))), mask
    )


def find_secrets(text: str) -> list[str]:
    """Return the parts of a text that have the shape of a secret."""
    return [text[found.start() : found.end()] for found in _MASKED.finditer(_redact_plain(text, _HIDDEN))]


def _redact_plain(text: str, mask: str) -> str:
    if "PRIVATE KEY" in text:
        text = _mask(text, _find_keys(text), mask)
    if ":" in text or "%" in text:
        text = _mask(text, _find_logins(text), mask)
    if "@" in text and ":" in text:
        text = _mask(text, _find_bare_logins(text), mask)
    if "-u" in text:
        text = _mask(text, _find_user_options(text), mask)
    for option, pattern in _PASSWORD_OPTIONS:
        if option in text:
            text = _mask(text, _find_password_options(pattern, text), mask)
    if any(sign in text for sign in _SIGNS) or _BLANK.search(text):
        text = _mask(text, _find_named(text), mask)
    if " " in text or "%20" in text or "+" in text:
        text = _mask(text, _find_schemed(text), mask)
    if "/services/" in text or "/webhook" in text or "/bot" in text:
        text = _mask(text, (found.span() for found in _HOOK.finditer(text)), mask)
    if "=" in text and ("?" in text or "&" in text or ";" in text):
        text = _mask(text, _find_parameters(text), mask)
    return _mask(text, _find_tokens(text), mask)


def redact_values(data: Any, clean: Callable[[str], str] = redact, *, name: str = "") -> Any:
    """Return JSON in which all texts are clean, and those under the names of secrets are masked.

    Args:
        clean: returns a text without secrets.
        name: name of the data.
    """
    if isinstance(data, str):
        return MASK if name and is_named_secret(name, data) else clean(data)
    if isinstance(data, list | tuple):
        return [redact_values(item, clean, name=name) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        clean(key) if isinstance(key, str) else key: redact_values(
            value, clean, name=name if key in _INNER_NAMES else str(key)
        )
        for key, value in data.items()
    }


def is_named_secret(name: str, value: str) -> bool:
    """Tell whether a value with this name, such as `api_key`, is a secret and no placeholder."""
    text = f"{odd_spelling.read(name)[0]}="
    found = next((found for found in _NAMED.finditer(text) if found.end() == len(text)), None)
    weight = _weigh_name(text, found) if found is not None else 0
    return bool(weight and value) and not _PLACEHOLDER.fullmatch(value) and (weight == _CERTAIN or _looks_random(value))


def _mask(text: str, spans: Iterator[_Span], mask: str) -> str:
    parts, done = [], 0
    for start, end in spans:
        if end > start:
            parts += [text[done:start], mask if mask != _HIDDEN else _HIDDEN * (end - start)]
            done = end
    if not parts:
        return text
    return "".join([*parts, text[done:]])


def _find_keys(text: str) -> Iterator[_Span]:
    """Yield private keys, also those whose begin or end is cut off."""
    begin, end = _KEY_BEGIN.search(text), _KEY_END.search(text)
    if end is not None and (begin is None or end.start() < begin.start()):
        body = _KEY_BODY.match(text[: end.start()][::-1])
        yield end.start() - (body.end() if body is not None else 0), end.start()
    while begin is not None:
        end = _KEY_END.search(text, begin.end())
        yield begin.end(), len(text) if end is None else end.start()
        begin = None if end is None else _KEY_BEGIN.search(text, end.end())


def _find_logins(text: str) -> Iterator[_Span]:
    """Yield the passwords and tokens of addresses: `scheme://user:password@host`, `https://token@host`."""
    position, word_end, last_at = 0, -1, -1
    while (found := _SEPARATOR.search(text, position)) is not None:
        start = position = found.end()
        scheme = _find_scheme(text, found.start())
        if scheme is None and found.group() == ":/":
            continue
        scheme = scheme or ""
        if text[found.start()] == "%":
            stop = _stop(_ENCODED_END, text, start)
            ats = list(_ENCODED_AT.finditer(text, start, stop))
            if ats:
                yield start, ats[-1].start()
                position = ats[-1].end()
            continue
        stop = _stop(_AUTHORITY_END, text, start)
        if start >= word_end:
            word_end = _stop(_SPACE, text, start)
            last_at = text.rfind("@", start, word_end)
        has_names = _NAMED_USERS.fullmatch(scheme) is not None
        at = text.rfind("@", start, stop)
        is_cut = not _are_hosts(text[start:stop] if at < 0 else text[at + 1 : stop])
        if has_names and last_at >= start and (at >= 0 or is_cut):
            at = last_at  # an unencoded password may hold what ends the authority
        elif at < 0 and is_cut:
            quoted = _stop(_QUOTE_END, text, start) if last_at > stop else 0
            if stop <= last_at < min(word_end, max(quoted, stop)):
                at = last_at
            elif (stop == len(text) or text[stop] not in "/?#") and not _PORT_AT_END.search(text[start:stop]):
                at = stop  # it has no port, so it was cut off within a password
        if at < 0 or (not has_names and _DIGEST.match(text, at)):
            continue
        login = text[start:at]
        is_certain = has_names or ":" in login or scheme.lower().startswith("http") or _looks_random(login)
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
    if password and _PLACEHOLDER.fullmatch(password):
        return None
    if not scheme:
        return start if not _PLACEHOLDER.fullmatch(user) or password else None
    if colon:
        return start + len(user) + 1 if password else None
    is_name = _USER.fullmatch(user) and not (len(user) >= 16 and _looks_random(user))
    return None if is_name and not _NAMELESS_USERS.fullmatch(scheme) else start


def _are_hosts(authority: str) -> bool:
    return all(_HOST.fullmatch(host) for host in authority.split(","))


def _find_bare_logins(text: str) -> Iterator[_Span]:
    """Yield passwords of `user:password@host:port`."""
    for found in _WITHOUT_SCHEME.finditer(text):
        is_likely = not found["quote"] or _looks_random(found["password"])
        if is_likely and not found["password"].isdigit() and not _PLACEHOLDER.fullmatch(found["password"]):
            yield found.span("password")


def _find_user_options(text: str) -> Iterator[_Span]:
    """Yield passwords of `curl -u user:password`."""
    for found in _USER_OPTION.finditer(text):
        if not found["password"].isdigit() and not _PLACEHOLDER.fullmatch(found["password"]):
            yield found.span("password")


def _find_password_options(pattern: str, text: str) -> Iterator[_Span]:
    """Yield passwords of `mysql -pPASSWORD`, `sshpass -p PASSWORD` and others, also as lists of words."""
    for found in re.finditer(pattern, text):
        name = "plain" if found["quoted"] is None else "quoted"
        is_port = found[name].isdigit()  # `sshpass -e ssh -p 22`
        if not is_port and not _PLACEHOLDER.fullmatch(found[name]):
            yield found.span(name)


def _find_named(text: str) -> Iterator[_Span]:
    """Yield values of secret names: `password=x`, `"api_key": "x"`, `sig=x`, `Authorization: Bearer x`."""
    position = 0
    while (found := _NAMED.search(text, position)) is not None:
        position = found.end()
        span = _find_value(text, found)
        if span is not None and span[0] < span[1]:
            yield span
            position = span[1]


def _find_value(text: str, found: re.Match[str]) -> _Span | None:
    start, sign, name = found.end(), found["sign"] or "", found["name"].lower()
    run = _find_run(text, found.start())
    is_query = run >= 0 and text[run] in "?&;"
    weight = _weigh_name(text, found)
    if is_query and "=" in sign and (weight or name == "key"):
        weight = _CERTAIN
    if not weight:
        return None
    quoted = _QUOTE.match(text, start)
    if quoted is not None:
        start = quoted.end()
        end = _find_closing(text, start, quoted["quote"])
    elif name.endswith(_HEADERS) and (name.endswith("cookie") or _HEADER_SCHEME.match(text, start)):
        end = _stop(_LINE_END, text, start)
    elif text.startswith("{", start) and "=" in sign and "}" in text[start : start + 256]:
        end = text.index("}", start)
        start += 1
    else:
        end = _find_end(text, start, is_query)
    value = text[start:end]
    if not value or _PLACEHOLDER.fullmatch(value):
        return None
    if found["blank"] is not None:
        is_option = text[max(run + 1, 0) : found.start()].startswith("-")
        if is_option and (quoted is not None or _looks_random(value)):
            return start, end
        is_one = name not in ("passwords", "passwds", "secrets")  # "see the page on passwords" names no value
        is_likely = is_one and _looks_random(value) and any(c.isdigit() for c in value)
        return (start, end) if is_likely and (weight == _CERTAIN or (name == "token" and quoted is not None)) else None
    if found["tag"] is not None and (run < 0 or text[run] not in "<:"):
        return None
    if weight < _CERTAIN:
        return (start, end) if _looks_random(value) else None
    if found["pair"] is not None:
        is_first = text[max(0, run - 2) : max(0, run)].rstrip("buBU\\")[-1:] in ("(", "[")
        if not (is_first and (_looks_random(value) or _HEADER_SCHEME.match(value))):
            return None  # names in a list
    if quoted is None and " " in sign and _CALL.match(value):
        return None  # a line of code in a traceback
    if name == "pwd" and value.startswith("/") and text[run + 1 : found.end("name")] in ("PWD", "OLDPWD"):
        return None  # the working folder
    if name.endswith(_HEADERS) or "=" in sign or quoted is not None or "%" in sign or "u003" in sign:
        is_masked = not (name.endswith("authorization") and _WORD.fullmatch(value))
    else:  # a colon, which prose has too
        is_masked = _is_line(text, found.start(), end) or (len(value) >= 4 and not _is_plain(value))
        is_masked = is_masked and not _TYPE.fullmatch(value) and (run < 0 or text[run] != "/")  # the end of a path
    return (start, end) if is_masked else None


def _weigh_name(text: str, found: re.Match[str]) -> int:
    """Return whether a name is that of a secret: 0, `_POSSIBLE` or `_CERTAIN`."""
    start, name = found.start(), found["name"]
    if name.lower().startswith(_STRONG):
        return _CERTAIN
    before = text[max(0, start - _MAX_OWNER) : start]
    if name.lower() in ("key", "token", "signature") and _OWNER.search(before):
        return _CERTAIN
    if name.lower() in ("pass", "pw", "pwd") and before.lower().endswith(_LOGIN_OWNERS):
        return _CERTAIN
    is_word = not before or not before[-1].isalpha() or (before[-1].islower() and name[0].isupper())
    if not is_word:
        return 0
    if name.lower() in ("pass", "pwd"):
        return _CERTAIN
    is_variable = name.isupper() and before.endswith("_")
    return 0 if name.lower() == "key" and not is_variable else _POSSIBLE


def _find_run(text: str, end: int) -> int:
    """Return the position before the name that ends here, at most 64 characters long; -1 at the start of the text."""
    start = end - 1
    while start > max(0, end - 64) and (text[start].isalnum() or text[start] in "_.%-"):
        start -= 1
    return start


def _find_closing(text: str, start: int, quote: str) -> int:
    """Return where a quoted text ends, whose quotes may be escaped or doubled. One without an end takes its line."""
    position = start
    while (end := text.find(quote, position)) >= 0:
        num_escapes = 0
        while end - num_escapes > start and text[end - num_escapes - 1] == "\\":
            num_escapes += 1
        if num_escapes % 2 == 0:
            if len(quote) > 1 or not text.startswith(quote, end + 1) or end == start:
                return end
            end += 1  # doubled
        position = end + len(quote)
    return _stop(_NEW_LINE, text, start)


def _find_end(text: str, start: int, is_query: bool) -> int:
    """Return where a value without quotes ends."""
    position = start
    while (found := _VALUE_END.search(text, position)) is not None:
        mark, position = found.group(), found.end()
        is_end = (mark in ";&" and _NEXT_NAME.match(text, position)) or (mark == "#" and is_query)
        if is_end or _ENDS_VALUE.match(text, found.start()):
            return _without_marks(text, start, found.start())
    return _without_marks(text, start, len(text))


def _without_marks(text: str, start: int, end: int) -> int:
    """Return the end of a value without the marks of the sentence around it."""
    while end > start + 1 and text[end - 1] in ",.)]}:…":
        end -= 1
    return end


def _is_line(text: str, name_start: int, value_end: int) -> bool:
    """Tell whether a line has a name and its value only."""
    line = text.rfind("\n", max(0, name_start - _MAX_LINE_NAME), name_start) + 1
    is_begin = line > 0 or name_start <= _MAX_LINE_NAME
    is_end = value_end == len(text) or text[value_end] in "\r\n"
    return is_begin and is_end and line > 0 and _LINE_NAME.fullmatch(text, line, name_start) is not None


def _find_parameters(text: str) -> Iterator[_Span]:
    """Yield values of parameters of addresses, such as `?code=x`."""
    for found in _QUERY.finditer(text):
        if _looks_random(found[1]) and any(character.isdigit() for character in found[1]):
            yield found.span(1)


def _find_schemed(text: str) -> Iterator[_Span]:
    """Yield what follows `Bearer` and `Basic`."""
    for found in _SCHEMED.finditer(text):
        scheme, value = found["scheme"].lower(), found["value"]
        if scheme == "basic":
            is_secret = _is_basic(value)
        elif scheme == "token":
            is_secret = _HEXADECIMAL.fullmatch(value) is not None
        else:
            is_secret = len(value) >= _LONG_WORD or _looks_random(value)
        if is_secret:
            yield found.span("value")


def _is_basic(value: str) -> bool:
    """Tell whether a value is the base64 of `user:password`."""
    try:
        bare = value.rstrip(".:=")
        return b":" in base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (ValueError, binascii.Error):
        return False


def _find_tokens(text: str) -> Iterator[_Span]:
    """Yield tokens whose beginnings name their issuers."""
    for found in _KNOWN_TOKEN.finditer(text):
        token = found.group()
        if any(c.isdigit() or c.isupper() for c in token[3:]):
            yield found.span()


def _looks_random(value: str) -> bool:
    """Tell whether a value is more than a word, a number or a special token."""
    is_token = len(value) >= 8 and _TOKEN.fullmatch(value)
    return bool(is_token) and any(c.isalpha() for c in value) and not _is_plain(value)


def _is_plain(value: str) -> bool:
    return bool(_WORD.fullmatch(value) or _IDENTIFIER.fullmatch(value))


def _stop(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.search(text, start)
    return len(text) if found is None else found.start()
