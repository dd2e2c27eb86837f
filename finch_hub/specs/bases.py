"""Descriptions of base models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pydantic

from finch_hub.specs.addresses import strip_credentials
from finch_hub.specs.licenses import MAX_LICENSE, MAX_LINK
from finch_hub.specs.value import NonNegativeInt, Value

MAX_ID = 200
"""Characters of a repository id."""
MAX_NAME = 512
"""Characters of a base's name, which may be its source."""
MAX_REVISION = 255
MAX_ARCHITECTURE = 96
# Rule of huggingface.co: one or two parts of letters, digits and . _ - that end with none of . and -
_HUB_ID = re.compile(r"(?:[A-Za-z0-9](?:[\w.-]*\w)?/)?[A-Za-z0-9](?:[\w.-]{0,94}\w)?", re.ASCII)


# Stored texts of earlier versions may have credentials, which no value has.
BareAddress = Annotated[str, pydantic.BeforeValidator(lambda text: _strip(text))]
BaseName = Annotated[BareAddress, pydantic.StringConstraints(max_length=MAX_NAME)]
Revision = Annotated[str, pydantic.StringConstraints(max_length=MAX_REVISION)]
# The config of a foreign model names it, so that it is cut instead of refused.
Architecture = Annotated[str, pydantic.AfterValidator(lambda name: name[:MAX_ARCHITECTURE])]


def _strip(text: object) -> object:
    return strip_credentials(text) if isinstance(text, str) else text


def is_hub_id(text: str) -> bool:
    """Tell whether the text has the form of a repository id of the Hugging Face Hub."""
    return bool(_HUB_ID.fullmatch(text)) and not (".." in text or "--" in text or text.endswith(".git"))


class BaseDescription(Value):
    """A base model whose files were read.

    Attributes:
        source: folder, GGUF file or repository id.
        public_id: repository id that a user gave for it; None for none.
        fingerprint: hash of its configuration, tokenizer and weights.
        architecture: class of the model, as its configuration names it.
        parameters: number of its weights.
        path: local folder.
        license: its license, as its files or a user name it; None if it is not known.
        license_link: address of the license's text, or the name of its file; None if it is not known.
    """

    name: BaseName
    source: BareAddress
    revision: Revision | None = None
    public_id: Annotated[str, pydantic.StringConstraints(max_length=MAX_ID)] | None = None
    fingerprint: str
    architecture: Architecture
    parameters: NonNegativeInt
    path: str | None = None
    license: Annotated[str, pydantic.StringConstraints(max_length=MAX_LICENSE)] | None = None
    license_link: Annotated[BareAddress, pydantic.StringConstraints(max_length=MAX_LINK)] | None = None

    @property
    def hub_id(self) -> str | None:
        """Repository id that others know the base by: the one that was given, or the source. None if it has none."""
        return self.public_id or (self.source if is_hub_id(self.source) else None)

    @property
    def label(self) -> str:
        """Name of the base in files for others: its repository id, otherwise its name, and never a path."""
        return self.hub_id or Path(self.name).name
