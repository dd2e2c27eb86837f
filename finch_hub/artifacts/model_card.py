"""Model cards from someone untrusted: Markdown without HTML, scripts, or links that run something."""

from __future__ import annotations

import html
import re

from finch_hub import errors

MAX_BYTES = 256 * 1024

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Control characters but tab and line ends, and those that turn the direction of text or have no width.
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_WEB_LINK = r"(?P<link><https?://[^\s<>\"'`]+>)"
_TAG = re.compile(rf"{_WEB_LINK}|<(?=[A-Za-z/!?])", re.IGNORECASE)
_SCHEME = re.compile(
    r"(?:" + "|".join(r"\s*".join(name) for name in ("javascript", "vbscript", "livescript")) + r")\s*:"
    r"|data\s*:\s*[a-z]+\s*/|\bfile\s*:\s*//",
    re.IGNORECASE,
)


def sanitize(data: bytes) -> str:
    """Return the text of a card in which nothing is left that a browser would run.

    Tags are made visible as text rather than removed, everywhere, code blocks included: what counts as a code block
    differs between renderers. Links keep http and https; those that carry a script lose their scheme.

    Raises:
        RefusedArtifact: it is larger than 256 KB, or no UTF-8.

    """
    if len(data) > MAX_BYTES:
        what = f"is larger than {MAX_BYTES} bytes"
        raise errors.RefusedArtifact(errors.Problem(what=what), subject="model card")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        what = f"is no UTF-8: {error.reason} at byte {error.start}"
        raise errors.RefusedArtifact(errors.Problem(what=what), subject="model card") from None
    text = _HIDDEN.sub("", text)
    # Entities and escapes that would put a scheme together only after they are resolved.
    text = _ENTITY.sub(_plain, text).replace("\\:", ":")
    text = _HIDDEN.sub("", text)
    text = _SCHEME.sub("unsafe:", text)  # replaced, since taking one away may put another together
    return _TAG.sub(lambda match: match["link"] or "&lt;", text)


def _plain(match: re.Match[str]) -> str:
    """Resolve an entity, but for those that stand for the characters of markup."""
    character = html.unescape(match[0])
    return match[0] if set(character) & set("<>&\"'") else character
