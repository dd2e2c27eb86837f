from __future__ import annotations

import math

import pytest
import sqlalchemy as sa

from finch_hub import errors
from finch_hub.registry.database import Database
from finch_hub.registry.postgresql_options import PostgresOptions, read_options

NAMES = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


def read(query: str) -> PostgresOptions:
    return read_options(sa.make_url(f"postgresql+psycopg://finch@localhost/finch?{query}"))


def test_options_have_defaults() -> None:
    options = read("")
    assert options.server == dict(zip(NAMES, ("30s", "10s", "30s"), strict=True))
    assert options.answer_seconds == 35
    assert options.connect == {
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }


def test_options_of_libpq_in_the_url_replace_the_defaults() -> None:
    options = read("connect_timeout=3&tcp_user_timeout=0&sslmode=require&application_name=finch")
    assert "connect_timeout" not in options.connect
    assert "tcp_user_timeout" not in options.connect
    assert options.url.query == {
        "connect_timeout": "3",
        "tcp_user_timeout": "0",
        "sslmode": "require",
        "application_name": "finch",
    }


@pytest.mark.parametrize(
    ("text", "statement_timeout", "seconds", "rest"),
    [
        ("-c statement_timeout=2min", "2min", 125, None),
        ("-cstatement_timeout=2000", "2000", 7, None),
        ("--statement-timeout=0 -c search_path=finch", "0", math.inf, "-c search_path=finch"),
        (r"-c search_path=a\ b -c statement_timeout=1\ s", "1 s", 6, r"-c search_path=a\ b"),
        ("-c work_mem=64MB", "30s", 35, "-c work_mem=64MB"),
    ],
)
def test_timeouts_are_taken_out_of_the_options_that_a_pooler_refuses(
    text: str, statement_timeout: str, seconds: float, rest: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = read_options(sa.make_url("postgresql+psycopg://localhost/x").set(query={"options": text}))
    assert options.server["statement_timeout"] == statement_timeout
    assert options.answer_seconds == seconds
    assert options.connect.get("options") == rest
    assert "options" not in options.url.query
    monkeypatch.setenv("PGOPTIONS", text)
    assert read("").server["statement_timeout"] == statement_timeout
    assert read("").connect["options"] == (rest or "")


@pytest.mark.parametrize(("value", "threshold"), [("none", None), ("None", None), ("0", 0), ("12", 12)])
def test_prepare_threshold_is_the_number_that_psycopg_expects(value: str, threshold: int | None) -> None:
    assert read(f"prepare_threshold={value}").connect["prepare_threshold"] == threshold


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("prepare_threshold=often", "prepare_threshold=often is not a number"),
        ("prepared_threshold=0", "unknown option prepared_threshold.*did you mean prepare_threshold"),
        ("host=/a&host=/b&port=1,2,3", "hosts and ports cannot be combined"),
        ("autocommit=1", "unknown option autocommit"),
        ("connect_timeout=10s", "connect_timeout=10s is not a number"),
        ("options=-c%20lock_timeout%3D'1';DROP", "lock_timeout='1';DROP is not a duration.*write 30s"),
    ],
)
def test_invalid_options_are_refused(query: str, message: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=message):
        Database(f"postgresql://finch@localhost/finch?{query}")


@pytest.mark.parametrize(("given", "wanted"), [("", ["30s", "10s", "30s"]), ("7s", ["7s", "7s", "7s"])])
def test_transactions_have_the_timeouts_and_the_session_keeps_none(
    given: str, wanted: list[str], postgres_url: str
) -> None:
    url = sa.make_url(postgres_url)
    if given:
        url = url.update_query_dict({"options": " ".join(f"-c {name}={given}" for name in NAMES)})
    database = Database(url.render_as_string(hide_password=False), allow_insecure=True)
    for begin in (database.read, database.write):
        with begin() as session:
            driver = session.connection().connection.dbapi_connection
            assert [session.scalar(sa.text(f"SHOW {name}")) for name in NAMES] == wanted
        assert driver is not None
        assert [driver.execute(f"SHOW {name}").fetchone()[0] for name in NAMES] == ["0", "0", "0"]
    database.close()
