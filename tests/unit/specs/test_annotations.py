import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.specs.annotations import Tag, check_description, check_notes

VALUES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)


@given(VALUES)
def test_parsed_text_of_a_tag_equals_it(value: str) -> None:
    for tag in (Tag("owner", value), Tag("gold")):
        assert Tag.parse(str(tag)) == tag


def test_value_of_a_tag_goes_from_the_first_equals_sign_on() -> None:
    assert Tag.parse("query=a=b c") == Tag("query", "a=b c")
    assert Tag.parse("gold=") == Tag("gold")


@pytest.mark.parametrize("text", ["", "=x", "a b=c", "a=\x1b[31m", "a=b\n", "a= b", "a=\u202ex", "a=" + "x" * 257])
def test_malformed_tag_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidReference):
        Tag.parse(text)


def test_long_texts_are_refused_with_a_better_place() -> None:
    assert check_description(" Names birds.\n") == "Names birds."
    with pytest.raises(errors.InvalidInput, match=r"1,001 characters, more than 1,000 \(put long texts into the notes"):
        check_description("x" * 1001)
    assert check_notes("x" * 100_000)
    with pytest.raises(errors.InvalidInput, match="more than 100,000"):
        check_notes("x" * 100_001)
