import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.specs.references import AdapterReference, check_name

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: ".." not in name and name.split(".")[0] not in {"latest", "base", "none", "con", "prn", "aux", "nul"}
)


@given(NAMES, st.integers(1, 999_999_999))
def test_parsed_text_of_a_reference_equals_it(name: str, version: int) -> None:
    for reference in (
        AdapterReference(name),
        AdapterReference(name, version=version),
        AdapterReference(name, alias="production"),
    ):
        assert AdapterReference.parse(str(reference)) == reference


def test_alias_latest_means_no_version() -> None:
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
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidReference):
        check_name(name)


@pytest.mark.parametrize(
    "text", ["legal/0", "legal/-1", "legal/01", "legal/", "legal@", "legal@a/b", "@x", "/1", "a/1/2"]
)
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidReference):
        AdapterReference.parse(text)


def test_error_names_a_character_that_is_not_ascii() -> None:
    with pytest.raises(errors.InvalidReference, match="CYRILLIC SMALL LETTER EL"):
        check_name("lega\u043b")
