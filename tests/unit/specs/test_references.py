import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.specs.references import AdapterReference, check_adapter_name, check_name, check_new_name

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: ".." not in name and name.split(".")[0] not in {"latest", "base", "none", "con", "prn", "aux", "nul"}
)


@given(NAMES, st.integers(1, 999_999_999))
def test_parsed_text_of_a_reference_equals_it(name: str, version: int) -> None:
    for reference in (
        AdapterReference(name),
        AdapterReference(f"team/{name}" if not name.isdigit() else name, version=version),
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
    "text",
    [
        "legal/0",
        "legal/-1",
        "legal/01",
        "legal/",
        "legal@",
        "legal@a/b",
        "@x",
        "/1",
        "a/1/2",
        "a/b/c",
        "a/b/",
        "a/b/c/1",
        "7/a",
    ],
)
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidReference):
        AdapterReference.parse(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2024", ("2024", None, None)),  # as earlier hubs allowed
        ("2024/3", ("2024", 3, None)),
        ("team/triage", ("team/triage", None, None)),
        ("team/triage/3", ("team/triage", 3, None)),
        ("team/triage@best", ("team/triage", None, "best")),
    ],
)
def test_last_part_of_digits_is_a_version(text: str, parts: tuple[str, int | None, str | None]) -> None:
    reference = AdapterReference.parse(text)
    assert (reference.name, reference.version, reference.alias) == parts


def test_reference_with_both_a_version_and_an_alias_is_refused() -> None:
    with pytest.raises(errors.InvalidReference, match=r"both a version and an alias \(write name/3 or name@alias\)"):
        AdapterReference.parse("a/b/3@best")


def test_new_name_is_not_all_digits() -> None:
    assert check_new_name("v7") == "v7"
    with pytest.raises(errors.InvalidReference, match=r"all digits.*\(put a letter into it, such as v7\)"):
        check_new_name("7")


def test_name_with_a_namespace_is_no_longer_than_another() -> None:
    assert check_adapter_name(f"{'a' * 47}/{'b' * 48}")
    with pytest.raises(errors.InvalidReference, match="more than 96 characters"):
        check_adapter_name(f"{'a' * 48}/{'b' * 48}")


def test_error_names_a_character_that_is_not_ascii() -> None:
    with pytest.raises(errors.InvalidReference, match="CYRILLIC SMALL LETTER EL"):
        check_name("lega\u043b")


@pytest.mark.parametrize(
    "text", ["store://user:C4nary@host/x", "s3://C4nary@bucket/x/3", "a://C4nary", "a://C4nary/3@x"]
)
def test_message_about_an_address_shows_its_scheme_only(text: str) -> None:
    """A password in it can have any form, so that nothing else would find it."""
    with pytest.raises(errors.InvalidReference) as caught:
        AdapterReference.parse(text)
    assert "C4nary" not in str(caught.value)
