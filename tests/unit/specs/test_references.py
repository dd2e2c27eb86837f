import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.specs.references import AdapterReference, check_name

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: ".." not in name and name.split(".")[0] not in {"latest", "base", "none", "con", "prn", "aux", "nul"}
)


@given(NAMES, st.integers(1, 999_999_999))
def test_every_form_reads_back_as_it_was_written(name: str, version: int) -> None:
    for reference in (
        AdapterReference(name),
        AdapterReference(name, version=version),
        AdapterReference(name, alias="production"),
    ):
        assert AdapterReference.parse(str(reference)) == reference


def test_latest_is_the_reference_without_a_version() -> None:
    assert AdapterReference.parse("legal@latest") == AdapterReference("legal")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "a/../b",
        "%2e%2e",
        "a\\b",
        "a\0b",
        "C:",
        "a" * 97,
        "latest",
        "NUL",
        "com1.txt",
        ".hidden",
        "trailing.",
        "a..b",
        "lega\u043b",  # a Cyrillic letter that looks Latin
        "\uff41",
        "a b",
        "a\n",
    ],
)
def test_names_that_could_harm_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidReference):
        check_name(name)


@pytest.mark.parametrize(
    "text", ["legal/0", "legal/-1", "legal/01", "legal/", "legal@", "legal@a/b", "@x", "/1", "a/1/2"]
)
def test_references_of_no_known_form_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidReference):
        AdapterReference.parse(text)


def test_a_foreign_letter_is_named() -> None:
    with pytest.raises(errors.InvalidReference, match="CYRILLIC SMALL LETTER EL"):
        check_name("lega\u043b")
