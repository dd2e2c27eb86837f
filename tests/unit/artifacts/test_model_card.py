import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.artifacts.model_card import MAX_BYTES, sanitize

HARMFUL = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src='https://evil.example'></iframe>",
    "<!-- comment --><?php x ?>",
    "</p><style>@import url(x)</style>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#115;cript:alert(1))",
    "[x](java&#x73;cript&colon;alert(1))",
    "[x](javascript&#0000058;alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](java&Tab;script:alert(1))",
    "[x](java\x01script:alert(1))",
    "[x](javascript\\:alert(1))",
    "[x](javajavascript:script:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox)",
    "[x]: javascript:alert(1)\n",
    "![x](file:///etc/passwd)",
    "<javascript:alert(1)>",
    "```\n<script>alert(1)</script>\n```",
    "<\u200bscript>",
    "\u202etxt.exe",
]
ACTIVE = re.compile(
    r"<[a-z/!?]|javascript\s*:|vbscript\s*:|data\s*:\s*[a-z]+/|file\s*:\s*//|[\x00-\x08\u202a-\u202e]", re.IGNORECASE
)


def active(card: str) -> re.Match[str] | None:
    """Find what a browser would act on, in the text as it is and with its link targets resolved as a renderer does."""
    links = html.unescape(card).replace("\\:", ":")
    web_links = re.compile(r"<https?://[^\s<>\"']+>")
    schemes = re.compile(r"(?:javascript|vbscript)\s*:|data\s*:\s*[a-z]+/", re.IGNORECASE)
    return ACTIVE.search(web_links.sub("", card)) or schemes.search(re.sub(r"[\t\n]", "", links))


@pytest.mark.parametrize("text", HARMFUL)
def test_nothing_is_left_that_a_browser_would_run(text: str) -> None:
    assert active(text) or "\u200b" in text or "&" in text or "\\" in text or "\x01" in text or "\t" in text
    assert active(sanitize(text.encode())) is None


def test_ordinary_markdown_stays() -> None:
    card = (
        "---\nbase_model: a/b\ntags:\n- lora\n---\n# Title\n\nSome *text*, a < b, 3 > 2, `x <- y`, R&D, data: 5 rows.\n"
        "[link](https://example.org/a?b=1&c=2) <https://example.org> | a | b |\n\n```python\nprint('x')\n```\n"
    )
    assert sanitize(card.encode()) == card


@given(st.text(alphabet=st.sampled_from("<>!/?javscriptdt:&#;x0123456789 \n\t\\()[]`\"'\u200b"), max_size=80))
def test_no_mixture_of_the_pieces_gets_through(text: str) -> None:
    assert active(sanitize(text.encode())) is None


@given(st.text(max_size=200))
def test_sanitising_twice_is_sanitising_once(text: str) -> None:
    once = sanitize(text.encode("utf-8", "ignore"))
    assert sanitize(once.encode()) == once


def test_what_is_no_card_is_refused() -> None:
    with pytest.raises(errors.RefusedArtifact, match="larger"):
        sanitize(b"x" * (MAX_BYTES + 1))
    with pytest.raises(errors.RefusedArtifact, match="UTF-8"):
        sanitize(b"\xff")
