"""Values whose names say that they are secrets: `password=x`, `"api_key": "x"`, `Authorization: Bearer x`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finch_hub.texts import odd_spelling
from finch_hub.texts.likely_secrets import PLACEHOLDER, WORD, Span, find_stop, is_plain, looks_random

_POSSIBLE, _CERTAIN = 1, 2  # weights of names
_NAMED = re.compile(
    r"(?=[abcjkpst])(?P<name>passw(?:or)?ds?|passphrase|passcode|pass|pwd?|secret(?:s|string|value)?|key|token|credentials?|creds|signature|sig"
    r"|set-cookie|cookie|authorization|auth|sas|bearer|jwt|pat)"
    r"(?:(?P<sign>\\{0,3}[\"'],?\s{0,8}\\{0,3}[\"']?value\\{0,3}[\"']?\s{0,8}[=:]\s{0,8}|(?P<tag>>)(?=[^\s<>])"
    r"|(?:\\{0,3}[\"'])?\s{0,8}(?:=>|:=|=|:(?!//)|%(?:25){0,3}(?:3D|3A)|\\u003[dD])(?:\s|%20){0,8})"
    r"|(?P<pair>\\{0,3}[\"'],\s{0,8}(?=[\[(]?[bu]?\\{0,3}[\"']))|(?P<blank>\s{1,8}(?:(?:provided|given|is|was|to):?\s{1,8})?(?=[^\s-])))",
    re.IGNORECASE,
)
_BLANK = re.compile(r"passw|passphrase|secret|token|key", re.IGNORECASE)  # in prose
_SIGNS = ("=", ":", "%", "',", '",', "--", "\\u003", "</")  # of which each value with a name has one
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
_NEW_LINE = re.compile(r"[\r\n]")
_HEADERS = ("authorization", "cookie")
_HEADER_SCHEME = re.compile(
    r"(?:Bearer|Basic|Digest|Token|Negotiate|NTLM|AWS4?[\w-]*|ApiKey|SharedKey\w*|OAuth|Hawk|Bot)\b", re.IGNORECASE
)
_CALL = re.compile(r"[A-Za-z_][\w.]*[(\[]")
_TYPE = re.compile(
    r"(?:pydantic\.)?(?:str|string|int|float|bool|bytes|any|optional|required|secretstr|\w+error|\w+exception)\b.*",
    re.IGNORECASE,
)
_LINE_NAME = re.compile(r"[\s\w.\"'-]*")
_MAX_LINE_NAME = 80


def is_named_secret(name: str, value: str) -> bool:
    """Tell whether a value with this name, such as `api_key`, is a secret and no placeholder."""
    text = f"{odd_spelling.read(name)[0]}="
    found = next((found for found in _NAMED.finditer(text) if found.end() == len(text)), None)
    weight = _weigh_name(text, found) if found is not None else 0
    return bool(weight and value) and not PLACEHOLDER.fullmatch(value) and (weight == _CERTAIN or looks_random(value))


def find_named(text: str) -> Iterator[Span]:
    """Yield values of secret names: `password=x`, `"api_key": "x"`, `sig=x`, `Authorization: Bearer x`."""
    if not any(sign in text for sign in _SIGNS) and not _BLANK.search(text):
        return
    position = 0
    while (found := _NAMED.search(text, position)) is not None:
        position = found.end()
        span = _find_value(text, found)
        if span is not None and span[0] < span[1]:
            yield span
            position = span[1]


def _find_value(text: str, found: re.Match[str]) -> Span | None:
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
        end = find_stop(_LINE_END, text, start)
    elif text.startswith("{", start) and "=" in sign and "}" in text[start : start + 256]:
        end = text.index("}", start)
        start += 1
    else:
        end = _find_end(text, start, is_query)
    value = text[start:end]
    if not value or PLACEHOLDER.fullmatch(value):
        return None
    if found["blank"] is not None:
        is_option = text[max(run + 1, 0) : found.start()].startswith("-")
        if is_option and (quoted is not None or looks_random(value)):
            return start, end
        is_one = name not in ("passwords", "passwds", "secrets")  # "see the page on passwords" names no value
        is_likely = is_one and looks_random(value) and any(c.isdigit() for c in value)
        return (start, end) if is_likely and (weight == _CERTAIN or (name == "token" and quoted is not None)) else None
    if found["tag"] is not None and (run < 0 or text[run] not in "<:"):
        return None
    if weight < _CERTAIN:
        return (start, end) if looks_random(value) else None
    if found["pair"] is not None:
        is_first = text[max(0, run - 2) : max(0, run)].rstrip("buBU\\")[-1:] in ("(", "[")
        if not (is_first and (looks_random(value) or _HEADER_SCHEME.match(value))):
            return None  # names in a list
    if quoted is None and " " in sign and _CALL.match(value):
        return None  # a line of code in a traceback
    if name == "pwd" and value.startswith("/") and text[run + 1 : found.end("name")] in ("PWD", "OLDPWD"):
        return None  # the working folder
    if name.endswith(_HEADERS) or "=" in sign or quoted is not None or "%" in sign or "u003" in sign:
        is_masked = not (name.endswith("authorization") and WORD.fullmatch(value))
    else:  # a colon, which prose has too
        is_masked = _is_line(text, found.start(), end) or (len(value) >= 4 and not is_plain(value))
        is_masked = is_masked and not _TYPE.fullmatch(value) and (run < 0 or text[run] != "/")  # the end of a path
    return (start, end) if is_masked else None


def _weigh_name(text: str, found: re.Match[str]) -> int:
    """Return whether a name is that of a secret: 0, `_POSSIBLE` or `_CERTAIN`."""
    start, name = found.start(), found["name"]
    if name.lower().startswith(_STRONG):
        return _CERTAIN
    before = text[max(0, start - _MAX_OWNER) : start]
    may_have_owner = before[-1:].isalnum() or before.endswith(("_", ".", " ", "-", "\n"))  # the search takes long
    if may_have_owner and name.lower() in ("key", "token", "signature") and _OWNER.search(before):
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
    return find_stop(_NEW_LINE, text, start)


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
