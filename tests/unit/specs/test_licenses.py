from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.specs.licenses import check_license, choose_license, make_metadata


@pytest.mark.parametrize(
    ("given", "known"),
    [("apache-2.0", "apache-2.0"), (" Apache-2.0 ", "apache-2.0"), ("MIT", "mit"), ("Finch License", "Finch License")],
)
def test_identifier_has_its_usual_spelling_and_another_name_stays(given: str, known: str) -> None:
    assert check_license(given) == known


@pytest.mark.parametrize("given", ["", " ", "a\nb", "\x1b[2J", "x" * 97, "\u202ex"])
def test_license_that_is_not_a_visible_line_is_refused(given: str) -> None:
    with pytest.raises(errors.InvalidInput, match="is not one line of at most 96 visible characters"):
        check_license(given)


@pytest.mark.parametrize("given", ["other", "Unknown"])
def test_word_that_names_no_license_is_refused(given: str) -> None:
    with pytest.raises(errors.InvalidInput, match="does not name a license"):
        check_license(given)


@pytest.mark.parametrize(
    ("text", "name", "chosen"),
    [
        ("mit", None, "mit"),
        ("other", "finch-terms", "finch-terms"),
        ("other", None, None),
        (None, None, None),
        (["mit"], 7, None),
        ("a\nb", "mit", "mit"),
    ],
)
def test_license_of_a_file_is_what_it_names(text: object, name: object, chosen: str | None) -> None:
    assert choose_license(text, name) == chosen


def test_other_license_has_a_name_for_the_hub() -> None:
    assert make_metadata("mit", "https://x.org") == {"license": "mit"}
    named = {"license": "other", "license_name": "finch-terms-1.0"}
    assert make_metadata("Finch Terms (1.0)") == named
    assert make_metadata("Finch Terms 1.0", "https://x.org") == {**named, "license_link": "https://x.org"}
    assert make_metadata("許諾")["license_name"] == "other"
