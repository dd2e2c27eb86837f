"""Words of many scripts, which both databases find in each of their spellings."""

from __future__ import annotations

import unicodedata

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import search_index, sqlite, tables, version_search
from finch_hub.registry.database import Database
from finch_hub.specs import folding

WORDS = (
    *("naïve", "Łódź", "ǽon", "Größe", "ışık", "İzmir", "Việt", "Nẵng", "x²", "abc12"),
    *("Σίσυφος", "άλφα", "ᾧδε", "йод", "Ёлка", "їжак", "ўсё", "հայերեն", "ქართული"),
    *("שָׁלוֹם", "שלום", "أَحْمَد", "مؤمن", "کتاب\u200cها", "हिन्दी", "क़लम", "বাংলা", "தமிழ்", "ไทย", "ที่นี่", "ខ្មែរ", "አማርኛ"),
    *(
        "한국어",
        "ガイド",
        "がくしゅう",
        "データ",
        "機械学習",
        "神話",
        "a\u00adbc",
        "٣٤٥",
        "१२३",
        "ok😀",
        "ok🦜",
        "\U0001e900\U0001e901",
    ),
)
# Without marks, or with others, the same word is found.
SAME = (
    ("αλφα", "άλφα"),
    ("елка", "Ёлка"),
    ("naive", "naïve"),
    ("احمد", "أَحْمَد"),
    ("שלום", "שָׁלוֹם"),
    ("x2", "x²"),
    ("abc", "a\u00adbc"),
)


def spell(word: str) -> set[str]:
    """Return a word decomposed and composed, in all cases that are the same word again in small letters."""
    cases = {word, word.lower(), word.upper()}
    same = {case for case in cases if case.lower().replace("ς", "σ") == word.lower().replace("ς", "σ")}
    return {unicodedata.normalize(form, case) for form in ("NFC", "NFD") for case in same}


def find(database: Database, query: str) -> set[str]:
    with database.read() as session:
        return {version.notes or "" for version in version_search.find(session, query, limit=200).versions}


def add(database: Database, texts: list[str]) -> None:
    for number, text in enumerate(texts):
        registry.add_version(database, f"z{number}", digest=registry.digest(f"d{number}"))
        with database.write() as session:
            versions = tables.AdapterVersion.__table__
            session.execute(sa.update(versions).where(versions.c.id == number + 1).values(notes=text))


@pytest.mark.slow
def test_words_of_all_scripts_are_found_in_each_spelling(database: Database) -> None:
    texts = [f"before {spelling} behind" for word in WORDS for spelling in sorted(spell(word))]
    texts += [f"it is {word}, word.".replace(", word", "") for word in WORDS]
    add(database, texts)
    everything = find(database, "")
    assert everything == set(texts)
    for word in WORDS:
        for spelling in spell(word):
            wanted = {text for text in texts if any(f" {same}" in text for same in spell(word) | {word})}
            found = find(database, spelling)
            assert found >= wanted, (spelling, wanted - found)
            assert find(database, f"before {spelling}") == {text for text in found if text.startswith("before")}
            assert find(database, f"-{spelling}") == everything - found
            if word != "ok😀" and len(unicodedata.normalize("NFC", spelling)) > 2:
                assert find(database, f"{spelling}*") >= wanted
                begin = unicodedata.normalize("NFC", spelling)[:2]
                if folding.has_word(begin[1]):
                    assert find(database, f"{begin}*") >= wanted, begin


@pytest.mark.parametrize(("query", "text"), SAME)
def test_marks_do_not_count(database: Database, query: str, text: str) -> None:
    add(database, [text, "other"])
    assert find(database, query) == {text}
    assert find(database, f"-{query}") == {"other"}


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("ガイド", "カイト"),
        ("x²", "x"),
        ("हिन्दी", "हिन"),
        ("ışık", "isik"),
        ("a\u200bbc", "abc"),
        ("a\u00adbc", "bc"),
        ("ok🦜", "okx"),
    ],
)
def test_other_words_are_not_found(database: Database, text: str, query: str) -> None:
    add(database, [text])
    assert find(database, query) == set()
    assert find(database, f"-{query}") == {text}


def test_term_of_which_nothing_is_left_is_met_by_no_version(database: Database) -> None:
    add(database, ["some words"])
    assert find(database, "\u02b0\U0001f1e6\u16ee\u16ee*") == find(database, "some \u16ee") == set()
    assert find(database, "some -\u16ee") == {"some words"}


def test_only_the_last_of_words_between_separators_may_be_a_beginning(database: Database) -> None:
    separators = (*"–-—·…/'_→，。’«＂😀", "\u200b", "\u037e", "-–-")
    others = {"a football bar", "a foobar", "a foo and bar"}
    texts = {text.format(between) for between in separators for text in ("a foo{}bar", "a foo{}bargain")}
    exact = {text for text in texts if text.endswith("bar")}
    further = {f"a football{between}bargain" for between in separators} | others
    add(database, sorted(texts | further))
    for between in separators:
        assert find(database, f"foo{between}bar*") == texts, between
        assert find(database, f'"foo{between}bar"*') == find(database, f'"a foo{between}bar"*') == texts
        assert find(database, f'-"foo{between}bar"*') == further
        assert find(database, f'"foo{between}bar{between}"') == exact
        assert find(database, f'"foo bar{between}"*') == texts


def test_index_says_what_the_rows_say(database: Database) -> None:
    add(database, list(WORDS))
    with database.read() as session:
        assert search_index.find_stale(session.connection(), 1, len(WORDS)) == []


def test_migration_makes_the_words_of_before_anew(database: Database) -> None:
    add(database, ["Σίσυφος"])
    with database.write() as session:
        if database.is_sqlite:
            session.execute(sa.text("UPDATE version_texts SET text = 'Σίσυφος'"))
        else:
            session.execute(sa.text("UPDATE searched_versions SET words = to_tsvector('simple', 'Σίσυφος')"))
    assert find(database, "Σίσυφος") == set()
    is_sqlite = database.is_sqlite
    engine = sqlite.create_migration_engine(database.url) if is_sqlite else sa.create_engine(database.url)
    registry.migrate(engine, "0021")
    registry.migrate(engine, "head")
    engine.dispose()
    assert find(database, "Σίσυφος") == {"Σίσυφος"}
