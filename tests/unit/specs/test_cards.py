from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.specs.cards import MAX_CARD, check_card, name_revision


def test_text_of_a_user_has_newlines_of_one_kind_and_ends_with_one() -> None:
    assert check_card("\n# Birds\r\nThey sing.\n\n") == "# Birds\nThey sing.\n"


@pytest.mark.parametrize(("text", "reason"), [(" \n", "is empty"), ("x" * (MAX_CARD + 1), "more than 200,000")])
def test_text_that_is_empty_or_too_long_is_refused(text: str, reason: str) -> None:
    with pytest.raises(errors.InvalidInput, match=reason):
        check_card(text)


def test_revision_tells_texts_and_the_written_card_apart() -> None:
    assert len({name_revision(None), name_revision("a"), name_revision("b"), name_revision("written")}) == 4
