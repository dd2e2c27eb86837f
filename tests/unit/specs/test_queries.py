"""The language of searches."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.specs import queries
from finch_hub.specs.queries import NumberFilter, Sort, TextFilter, TimeFilter, Words, parse_query, parse_sort

_PIECES = st.sampled_from(
    ['"', "-", "*", ":", "=", "<", ">=", " ", "tag", "name:", "created", "metric.a", "lora.", "2026-13", "1e999", "ß"]
)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("contract", Words("contract")),
        ("-draft", Words("draft", negated=True)),
        ('"two  Words"', Words("two Words")),
        ("contr*", Words("contr", begins=True)),
        ('"of contr"*', Words("of contr", begins=True)),
        ("loss_after", Words("loss after")),
        ("Réponse", Words("Réponse")),
        ("a\u00adb\u200bc", Words("a\u00adb c")),
        ("foo–bar*", Words("foo bar", begins=True)),
        ("12:30", Words("12 30")),
        ("base:llama", TextFilter("base", "llama")),
        ("state=ready", TextFilter("state", "ready")),
        ('-name:"a b"', TextFilter("name", "a b", negated=True)),
        ("tag:owner", TextFilter("tag", "owner")),
        ("tag:owner=ana", TextFilter("tag", "owner", "ana")),
        ("tag:url=a=b", TextFilter("tag", "url", "a=b")),
        ("parent:legal/2", TextFilter("parent", "legal/2")),
        ("created:2026", TimeFilter("created", at(2026, 1, 1), at(2027, 1, 1))),
        ("created:2025-12", TimeFilter("created", at(2025, 12, 1), at(2026, 1, 1))),
        ("created>2026-01-31", TimeFilter("created", at(2026, 2, 1), None)),
        ("updated>=2026-01-31", TimeFilter("updated", at(2026, 1, 31), None)),
        ("created<2026-01", TimeFilter("created", None, at(2026, 1, 1))),
        ("created<=2026-01", TimeFilter("created", None, at(2026, 2, 1))),
        ("created>=2026-01-31T10:20Z", TimeFilter("created", at(2026, 1, 31, 10, 20), None)),
        ("metric.loss<2.1", NumberFilter("metric.loss", "<", 2.1)),
        ("metric.loss:-1e-3", NumberFilter("metric.loss", "=", -0.001)),
        ("lora.r=16", NumberFilter("lora.rank", "=", 16.0)),
        ("-training.epochs>=3", NumberFilter("training.epochs", ">=", 3.0, negated=True)),
    ],
)
def test_term_is_read(text: str, term: queries.Term) -> None:
    assert parse_query(f"  {text}\t") == (term,)


def test_terms_are_read_in_their_order() -> None:
    assert parse_query('a "b c" kind:train') == (Words("a"), Words("b c"), TextFilter("kind", "train"))
    assert parse_query(" \n ") == ()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("bse:x", "column 1 (bse:x): there is no filter 'bse' (did you mean base"),
        ("zzz:x", "column 1 (zzz:x): there is no filter 'zzz' (known: name,"),
        ("metrics<2", "column 1 (metrics<2): there is no filter 'metrics' (did you mean metric.NAME?"),
        ("a zzz:x", "column 3 (zzz:x): there is no filter 'zzz' (known: name, base, preset,"),
        ("state:redy", "'redy' is not a state (known: ready, quarantined, below_retention, unchecked)"),
        ("base<x", "base is a text, which has no order (write base:TEXT)"),
        ("base:", "column 1 (base:): has no value"),
        ("created>soon", "'soon' is not a time (write a year, month, day or minute in UTC"),
        ("created:2026-02-30", "'2026-02-30' is not a time"),
        ("metric.loss<low", "'low' is not a number (write a number, such as metric.loss<2.1)"),
        ("metric.loss<nan", "'nan' is not a number"),
        ("lora<3", "names no number (write lora.NAME"),
        ('x "open', 'column 3: a " is not closed (add a " behind)'),
        ("a -→", "column 3 (-→): has no letter or digit"),
        ("a -½", "column 3 (-½): has no letter or digit"),
        ("a*", "column 1 (a*): has fewer than 2 letters before *"),
        ("parent:/", "column 1 (parent:/)"),
        ("tag:\x00", "has a character that cannot be printed"),
    ],
)
def test_wrong_term_is_refused_with_its_place(text: str, what: str) -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        parse_query(text)
    if "\x00" not in text:
        assert what in str(caught.value)
    assert len(caught.value.problems) == 1


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        parse_query('bse:x good state:x metric.a<b "open')
    assert len(caught.value.problems) == 4


def test_long_queries_are_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="has 2,001 characters, of 2,000 at most"):
        parse_query("a" * 2001)
    with pytest.raises(errors.InvalidSpec, match=r"column 81: has 41 terms, of 40 at most"):
        parse_query("a " * 41)


@given(st.text(max_size=60) | st.lists(_PIECES, max_size=20).map("".join))
def test_any_text_is_a_query_or_refused(text: str) -> None:
    try:
        terms = parse_query(text)
    except errors.InvalidSpec:
        return
    assert bool(terms) == bool(text.strip())


@pytest.mark.parametrize(
    ("text", "sort"),
    [
        ("created", Sort("created", descending=False)),
        ("-updated", Sort("updated", descending=True)),
        ("-metric.loss", Sort("metric.loss", descending=True)),
        ("lora.r", Sort("lora.rank", descending=False)),
    ],
)
def test_order_is_read(text: str, sort: Sort) -> None:
    assert parse_sort(text) == sort


@pytest.mark.parametrize("text", ["", "-", "size", "metric.", "--created", "metric.\n"])
def test_wrong_order_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"sort: .* is not an order \(use created, updated, name or metric"):
        parse_sort(text)
