from __future__ import annotations

import importlib
from typing import Any

import pytest

from finch_hub.specs.bases import BaseDescription, is_hub_id


def describe(**fields: str) -> BaseDescription:
    known = {"name": "tiny", "source": "/models/tiny", "fingerprint": "0" * 64, "architecture": "LlamaForCausalLM"}
    return BaseDescription.of({**known, "parameters": 1, **fields})


@pytest.mark.parametrize(
    ("fields", "hub_id", "label"),
    [
        ({}, None, "tiny"),
        ({"name": "/home/ana/models/tiny"}, None, "tiny"),
        ({"public_id": "birds/finch-1b"}, "birds/finch-1b", "birds/finch-1b"),
        ({"source": "birds/finch-1b", "name": "birds/finch-1b"}, "birds/finch-1b", "birds/finch-1b"),
        ({"source": "birds/finch-1b", "public_id": "birds/finch"}, "birds/finch", "birds/finch"),
        ({"source": "/models/finch.gguf", "name": "/models/finch.gguf"}, None, "finch.gguf"),
    ],
)
def test_label_is_the_repository_id_or_the_name_and_never_a_path(
    fields: dict[str, str], hub_id: str | None, label: str
) -> None:
    base = describe(**fields)
    assert (base.hub_id, base.label) == (hub_id, label)


@pytest.mark.parametrize("text", ["gpt2", "birds/finch-1b", "a.b/c_d"])
def test_repository_id_is_recognized(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize("text", ["", "/a/b", "a/b/c", "./a", "a//b", "a b", "ä/b", "a--b/c", "a..b", "sample:tiny"])
def test_other_text_is_not_a_repository_id(text: str) -> None:
    assert not is_hub_id(text)


@pytest.mark.parametrize(
    "text", ["a/b.git", "a/b.", "a/b-", "a-/b", "a./b", "a", "a/b_", "a/" + "b" * 96, "a/" + "b" * 97]
)
def test_repository_ids_are_those_that_can_be_fetched(text: str) -> None:
    utils: Any = importlib.import_module("huggingface_hub.utils")
    try:
        utils.validate_repo_id(text)
    except utils.HFValidationError:
        assert not is_hub_id(text)
    else:
        assert is_hub_id(text)
