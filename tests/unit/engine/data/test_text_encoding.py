"""Recognition of the encoding of a text file."""

from __future__ import annotations

import codecs
import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.engine.data import text_encoding

FEW = 0.05
GERMAN = "Frage;Antwort\nWo ist mein Paket – „seit“ Dienstag?;Es kommt am 3. März für 5 €, Grüße.\n"
FRENCH = "Où est l’œuvre ?;« Là-bas », à côté de l'été, 20 °C.\n"
SPANISH = "¿Dónde está el niño?;¡Aquí está, señor! 1ª vez, 3½ €\n"
PORTUGUESE = "Não há informações?;Não, à noite há só pão.\n"


def recognize(content: bytes) -> str:
    stream = io.BytesIO(content)
    encoding = text_encoding.recognize(stream, max_damaged=FEW)
    assert stream.tell() == 0
    return encoding.codec


@pytest.mark.parametrize("text", [GERMAN, FRENCH, SPANISH, PORTUGUESE])
@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("utf-32-le", "utf-32-le"),
        ("utf-32-be", "utf-32-be"),
        ("cp1252", "cp1252"),
    ],
)
def test_encoding_of_a_western_text_is_recognized(text: str, encoding: str, codec: str) -> None:
    content = (text * 3).encode(encoding)
    assert recognize(content) == codec
    assert content.decode(codec) == text * 3


def test_latin1_is_read_as_its_superset() -> None:
    content = "Grüße aus Köln".encode("latin-1")
    assert recognize(content) == "cp1252"
    assert text_encoding.recognize(io.BytesIO(content), max_damaged=FEW).label == "Windows-1252 (Latin-1)"


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-32-be"])
def test_mark_of_the_other_byte_order_is_recognized(encoding: str) -> None:
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else codecs.BOM_UTF32_BE
    content = mark + GERMAN.encode(encoding)
    assert content.decode(recognize(content)) == GERMAN


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Где моя посылка?;Она придёт завтра.\n", "cp1251"),
        ("Где моя посылка?;Она придёт завтра.\n", "koi8-r"),
        ("我的包裹在哪里？;明天到。\n", "gb18030"),
        ("荷物はどこですか?;明日届きます。\n", "shift_jis"),
        ("소포는 어디에 있나요?;내일 도착합니다.\n", "euc_kr"),
        ("Που είναι το δέμα μου;Θα έρθει αύριο.\n", "cp1253"),
        ("Gdzie jest moja paczka, łódź i żółw?;Będzie jutro, dziękuję.\n", "cp1250"),
        ("Wo ist mein Päckchen für München?;Schöne Grüße, es kommt früh.\n", "cp850"),
    ],
)
@pytest.mark.usefixtures("words_of_a_command")
def test_encoding_that_cannot_be_told_is_refused_with_the_option_that_names_it(text: str, encoding: str) -> None:
    with pytest.raises(errors.InvalidDataset, match="--encoding"):
        recognize((text * 5).encode(encoding))


def test_few_damaged_lines_do_not_change_the_encoding() -> None:
    lines = ["Grüße aus Köln".encode()] * 30 + ["Grüße aus Köln".encode("latin-1")]
    assert recognize(b"\n".join(lines)) == "utf-8"
    assert recognize(b"\n".join(reversed(lines))) == "utf-8"


@pytest.mark.parametrize(
    ("damaged", "codec"),
    [(b"\xff\xfe\x81\x8d", "utf-8"), ("Где посылка?".encode("cp1251"), "utf-8"), (b"caf\xe9", "cp1252")],
)
def test_few_damaged_lines_of_an_ascii_text_are_western_if_they_look_like_it(damaged: bytes, codec: str) -> None:
    lines = [b"Where is the bird?"] * 1_000 + [damaged]
    assert recognize(b"\n".join(lines)) == codec
    with pytest.raises(errors.InvalidDataset) if codec == "utf-8" else contextlib.nullcontext():
        assert text_encoding.recognize(io.BytesIO(b"\n".join(lines)), max_damaged=0.0).codec == "cp1252"


def test_replacement_character_of_a_text_is_utf8() -> None:
    assert recognize("It is shown as \ufffd.".encode()) == "utf-8"


def test_character_across_two_chunks_is_utf8() -> None:
    assert recognize(b"x" * (text_encoding._CHUNK - 1) + "ü".encode()) == "utf-8"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_any_utf8_is_read_as_it_is(text: str) -> None:
    content = ("ask;answer\n" + text.replace("\0", "")).encode()
    assert content.decode(recognize(content)) == content.decode()


@given(st.binary(max_size=50))
def test_any_bytes_are_recognized_or_refused(content: bytes) -> None:
    with contextlib.suppress(errors.InvalidDataset):
        codecs.lookup(recognize(content))


@pytest.mark.parametrize(
    "encoding",
    [
        "utf-8",
        "utf8",
        "utf-8-sig",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-32-be",
        "cp1252",
        "latin-1",
        "cp850",
    ],
)
@pytest.mark.parametrize(
    "text", ["", "a,b\n", GERMAN.replace("–", "-").replace("„", "").replace("“", "").replace("€", "e")]
)
def test_right_encoding_that_is_named_is_taken(text: str, encoding: str) -> None:
    stream = io.BytesIO(text.encode(encoding))
    assert text_encoding.check(stream, encoding, max_damaged=FEW) == ""
    assert stream.tell() == 0


@pytest.mark.parametrize(
    ("real", "named"),
    [
        ("utf-8", "utf-16"),
        ("utf-8", "utf-32-le"),
        ("utf-8", "ascii"),
        ("utf-8-sig", "cp1252"),
        ("utf-16", "utf-8"),
        ("utf-16-le", "latin-1"),
        ("utf-16", "utf-32"),
        ("utf-32", "utf-16"),
        ("latin-1", "utf-8"),
        ("cp1251", "utf-8"),
        ("gb18030", "utf-8"),
    ],
)
@pytest.mark.usefixtures("words_of_a_command")
def test_wrong_encoding_that_is_named_is_refused(real: str, named: str) -> None:
    text = "вопрос, ответ\n" * 100 if real == "cp1251" else "éé, ü\n" * 100
    with pytest.raises(
        errors.InvalidDataset, match=rf"is not {named.upper()}: .*leave out --encoding, or name another"
    ):
        text_encoding.check(io.BytesIO(text.encode(real)), named, max_damaged=FEW)


def test_few_damaged_lines_are_left_to_the_reader() -> None:
    content = "é,ü\n".encode() * 50 + b"\xff,a\n"
    assert text_encoding.check(io.BytesIO(content), "utf-8", max_damaged=FEW) == ""
    zeros = b"a\0b,c\n" * 3 + b"a,b,c,d,e,f\n" * 50
    assert text_encoding.check(io.BytesIO(zeros), "utf-8", max_damaged=FEW) == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "ascii", "shift_jis", "gb18030", "euc_kr", "big5"])
@pytest.mark.parametrize(
    ("damaged", "limit", "is_taken"),
    [(1, 0.05, True), (50, 0.05, True), (54, 0.05, False), (1, 0.0, False), (200, 0.2, True)],
)
def test_damaged_lines_of_an_ascii_text_are_left_to_the_reader_up_to_the_limit(
    encoding: str, damaged: int, limit: float, is_taken: bool
) -> None:
    content = b"a,b\n" * (1_002 - damaged) + b"a\xff\xff,b\n" * damaged
    with (
        contextlib.nullcontext() if is_taken else pytest.raises(errors.InvalidDataset, match="of its first 1,002 lines")
    ):
        assert text_encoding.check(io.BytesIO(content), encoding, max_damaged=limit) == ""


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp1251", "mac-roman"])
def test_utf8_under_the_name_of_another_encoding_is_told(encoding: str) -> None:
    told = text_encoding.check(io.BytesIO(GERMAN.replace("“", "").encode()), encoding, max_damaged=FEW)
    assert told.startswith(f"read as {encoding}, but its bytes are also UTF-8")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("İyi günler, kitabı aldım, teşekkürler; ağaç\n", "cp1254"),
        ("A tűrő gyümölcs őszi, é, á, ó; köszönöm\n", "cp1250"),
        ("Bună ziua, aș dori mulțumesc foarte; așa\n".replace("ș", "ş").replace("ț", "ţ"), "cp1250"),
        ("Ačiū už knygą, šalta žiema; ėjo į mišką\n", "cp1257"),
    ],
)
def test_other_latin_alphabets_are_not_taken_for_western(text: str, encoding: str) -> None:
    with pytest.raises(errors.InvalidDataset, match="encoding cannot be recognized"):
        recognize((text * 3).encode(encoding))


@pytest.mark.parametrize(
    "text",
    [
        "Það er gott veður; ég þakka fyrir, sæl\n",
        "Góðan dag, hvussu gongur; tað er gott við ýsu\n",
        "Tere, õpilane söö õhtul; küll\n",
        "Grüße, ähnlich wie août à Zürich; Größe\n",
        "São Paulo, pinguim e lingüiça; informação não\n",
    ],
)
def test_western_texts_with_rare_letters_are_read(text: str) -> None:
    assert recognize((text * 3).encode("cp1252")) == "cp1252"


@pytest.mark.parametrize("text", [GERMAN, PORTUGUESE, "Það er gott veður; ég þakka fyrir, sæl\n"])
@pytest.mark.parametrize("name", ["Herr Novotný", "Þórður Guðmundsson", "Françoise Lefèvre", "Große Brücke"])
def test_single_name_of_another_language_does_not_change_the_encoding(text: str, name: str) -> None:
    assert recognize((text * 50 + f"{name}; OK\n").encode("cp1252")) == "cp1252"


@pytest.mark.usefixtures("words_of_a_command")
def test_refusal_offers_the_western_encoding_too() -> None:
    with pytest.raises(errors.InvalidDataset, match=r"--encoding, such as cp1252, cp1250"):
        recognize("Herr Novotný; OK\n".encode("cp1252"))


def test_single_zero_bytes_are_left_to_their_rows() -> None:
    assert recognize(b"prompt,completion\n" + b"a,b\n" * 50 + b"c\0,d\n") == "utf-8"
