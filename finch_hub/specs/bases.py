"""Descriptions of base models."""

from __future__ import annotations

from finch_hub.specs.value import Value


class BaseDescription(Value):
    """A base model whose files were read.

    Attributes:
        source: folder, GGUF file or repository id.
        fingerprint: hash of its configuration, tokenizer and weights.
        architecture: class of the model, as its configuration names it.
        parameters: number of its weights.
        path: local folder.
    """

    name: str
    source: str
    revision: str | None = None
    fingerprint: str
    architecture: str
    parameters: int
    path: str | None = None
