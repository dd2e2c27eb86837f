"""Model cards: what is known of a version and goes into its card, and the card itself."""

from __future__ import annotations

import hashlib
from datetime import datetime

import pydantic

from finch_hub import errors
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.value import JsonObject, Value

MAX_CARD = 200_000
"""Characters of the text of a user."""


class CardBase(Value):
    """The base of a card's adapter.

    Attributes:
        label: what others know it by: its repository id, or its name.
        hub_id: its repository id on the Hugging Face Hub; None if it has none.
        revision: revision of that repository; None if it is not known.
        architecture: class of the model; None if it is not known.
    """

    label: str
    hub_id: str | None = None
    revision: str | None = None
    architecture: str | None = None
    license: str | None = None
    license_link: str | None = None


class CardFiles(Value):
    """What other systems must know of the files of a version.

    Attributes:
        parts: what it has beyond low-rank updates of linear modules.
        is_folded: whether its scales are alpha / rank with one rank and alpha, without rsLoRA and patterns.
        has_head: whether it adapts the language-model head.
    """

    parts: tuple[str, ...] = ()
    is_folded: bool = True
    has_head: bool = False


class CardParent(Value):
    """A version that a card's version was made from."""

    reference: str
    weight: float


class CardFacts(Value):
    """What is known of a version, and may be told to everybody. No row and no name of a data set is in it.

    Attributes:
        reference: reference of the version; None before it has a number.
        description: what users say that the adapter is for.
        spec: specification of the job that made it.
        files: what its files need of others; None if they are not at hand.
        data_license: license of the training data; None if it is not known.
        state: state of the version.
        repository: repository that the card is written for, with its revision; None for a folder.
    """

    name: str
    reference: str | None = None
    kind: str
    base: CardBase
    description: str = ""
    spec: JsonObject = pydantic.Field(default_factory=dict)
    files: CardFiles | None = CardFiles()
    metrics: JsonObject = pydantic.Field(default_factory=dict)
    parents: tuple[CardParent, ...] = ()
    train_digest: str | None = None
    validation_digest: str | None = None
    data_license: str | None = None
    evidence: Evidence | None = None
    state: str = "ready"
    repository: tuple[str, str] | None = None


class Card(Value):
    """The card of a version.

    Attributes:
        adapter: reference of the version.
        text: the whole card, as `README.md` has it: metadata and Markdown.
        body: the Markdown alone, which users edit.
        pictures: pictures as SVG by the names with which the card refers to them: `loss.svg` and `retention.svg`.
        edited_at: when a user edited it last; None if it is written from what is known.
        revision: hash by which an edit tells that nobody else has edited it since.
    """

    adapter: str
    text: str
    body: str
    pictures: dict[str, str] = pydantic.Field(default_factory=dict)
    edited_at: datetime | None = None
    revision: str


def name_revision(edited: str | None) -> str:
    """Return the revision of the card that a user edited, or of the written one."""
    return "written" if edited is None else hashlib.sha256(edited.encode(errors="surrogatepass")).hexdigest()[:16]


def check_card(text: str) -> str:
    """Return the text of a user for a card, with newlines of one kind.

    Raises:
        InvalidInput: it is empty or too long.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    if not text.strip():
        fix = "write a text, or bring the written card back with `finch-hub adapters card REFERENCE --reset`"
        raise errors.InvalidInput("the text is empty", where="card", fix=fix)
    if len(text) > MAX_CARD:
        what = f"the text has {len(text):,} characters, more than {MAX_CARD:,}"
        raise errors.InvalidInput(what, where="card", fix="keep long texts elsewhere, and link to them")
    return text + "\n"
