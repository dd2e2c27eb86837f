"""Texts of bundles without secrets."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime

import pytest

from finch_hub import errors
from finch_hub.specs.bundles import BundledAdapter, BundledEvaluation, BundledVersion, Manifest, Origin
from finch_hub.storage.bundle_texts import mask_secrets
from finch_hub.storage.redaction import Redactor

BORN = datetime(2026, 1, 1, tzinfo=UTC)


def make(**fields: object) -> Manifest:
    given = {"spec": {}, "metrics": {}, "environment": {}, **fields}
    version = BundledVersion(
        name="birds", number=1, identity="a" * 64, base="b" * 64, kind="train", state="ready", versions={"torch": "2"},
        origin=Origin(hub="1f", reference="birds/1", state="ready"), created_at=BORN, **given,
    )  # fmt: skip
    return Manifest(format=1, bases=(), adapters=(BundledAdapter(name="birds"),), versions=(version,))


def test_texts_without_secrets_stay() -> None:
    manifest = make(
        card="# birds", notes="Trained on `rows.jsonl`.", owner="ana", tags=("gold", "owner=ana"),
        spec={"system": "Be kind.", "lora": {"rank": 8}}, metrics={"loss_after": 1.5}, environment={"threads": 2},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mask_secrets(manifest, Redactor()) == manifest


@pytest.mark.parametrize(
    ("field", "value", "place", "expected"),
    [
        ("notes", "password=SECRETpw1", "notes", "password=***"),
        ("card", "https://u:SECRETpw1@h/", "card", "https://***@h/"),
        ("owner", "https://u:SECRETpw1@h/", "owner", "https://***@h/"),
        ("tags", ("password=SECRETpw1",), "tags", ("password=***",)),
        ("tags", ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "gold"), "tags", ("gold",)),
        ("spec", {"parameters": {"password": "SECRETpw1"}}, "settings", {"parameters": {"password": "***"}}),
        ("metrics", {"note": "password=SECRETpw1"}, "metrics", {"note": "password=***"}),
    ],
)
def test_each_text_is_masked_and_named(field: str, value: object, place: str, expected: object) -> None:
    with pytest.warns(errors.FinchWarning, match=f"^masked secrets in the {place} of birds/1$"):
        clean = mask_secrets(make(**{field: value}), Redactor())
    assert getattr(clean.versions[0], field) == expected


def test_system_prompt_stays_as_the_adapter_was_trained_with_it() -> None:
    prompt = 'Answer with JSON such as {"user": "ana", "password": "string"}.'
    with pytest.warns(errors.FinchWarning, match=r"^what looks like a secret stays in the system prompt of birds/1, "):
        clean = mask_secrets(make(spec={"system": prompt}), Redactor())
    assert clean.versions[0].spec == {"system": prompt}


def test_many_places_are_counted() -> None:
    evaluation = BundledEvaluation(
        dataset="d" * 64, evaluator="x", metrics={"a": "password=SECRETpw1"}, created_at=BORN
    )
    manifest = make(
        **dict.fromkeys(("card", "notes", "owner"), "password=SECRETpw1"), tags=("password=SECRETpw1",),
        spec={"note": "password=SECRETpw1"}, metrics={"a": "password=SECRETpw1"}, evaluations=(evaluation,),
    )  # fmt: skip
    with pytest.warns(errors.FinchWarning, match="and 2 more$"):
        clean = mask_secrets(manifest, Redactor())
    assert "SECRETpw1" not in clean.model_dump_json()
