from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import settings
from finch_hub.settings import Settings
from finch_hub.storage import redaction
from finch_hub.storage.redaction import Redactor

SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"redis://:{SECRET}@host:6379/0", "redis://:***@host:6379/0"),
        (f"postgresql+psycopg://user:{SECRET}@host/db", "postgresql+psycopg://user:***@host/db"),
        (f"no answer from rediss://u:{SECRET}@h, trying again", "no answer from rediss://u:***@h, trying again"),
        (f"https://user:{SECRET}@h/x", "https://***@h/x"),
        (f"postgresql://u@/db?host=/tmp&password={SECRET}&x=1", "postgresql://u@/db?host=/tmp&password=***&x=1"),
        (f"s3://b/x?a=1;secret={SECRET};b=2", "s3://b/x?a=1;secret=***;b=2"),
    ],
)
def test_secrets_are_replaced_and_nothing_else(text: str, clean: str) -> None:
    assert Redactor().clean(text) == clean


@pytest.mark.parametrize(
    "name",
    ["password", "sslpassword", "passwd", "passphrase", "secret", "client_secret", "token", "X-Amz-Security-Token",
     "key", "AccountKey", "aws.access-key", "credential", "credentials", "X-Amz-Signature", "sig", "PASSWORD", "pwd"],
)  # fmt: skip
def test_secret_parameter_of_a_url_is_replaced_there_and_elsewhere(name: str) -> None:
    url = f"https://host/x?a=1&{name}=correct%2Dhorse-battery&b=2"
    redactor = Redactor(url)
    assert redactor.clean(f"no answer from {url}") == f"no answer from https://host/x?a=1&{name}=***&b=2"
    for text in (SECRET, "correct%2Dhorse-battery"):
        assert redactor.clean(f"refused {text}") == "refused ***"


def test_token_of_an_address_without_a_user_is_replaced_elsewhere() -> None:
    assert Redactor(f"https://{SECRET}@host/x").clean(f"refused {SECRET}") == "refused ***"


@pytest.mark.parametrize("field", [field for field in Settings.model_fields if field.endswith("_url")])
def test_password_in_any_address_of_the_settings_is_replaced(tmp_path: Path, field: str) -> None:
    assert field in {"database_url", "broker_url", "artifacts_url"}
    loaded = settings.load(home=tmp_path, **{field: f"scheme://user:{SECRET}@host/place"})
    assert Redactor.of(loaded).clean(f"refused {SECRET}") == "refused ***"


@pytest.mark.parametrize("name", ["database", "broker"])
def test_password_of_a_setting_or_file_is_replaced_in_every_spelling(name: str, tmp_path: Path) -> None:
    secret = 'p@ss:w/o%rd#?&[]"größer'
    (tmp_path / "secret").write_text(secret)
    url = {"database": "postgresql://finch@db/finch", "broker": "redis://broker/0"}[name]
    for fields in ({f"{name}_password": secret}, {f"{name}_password_file": tmp_path / "secret"}):
        redactor = Redactor.of(settings.load(home=tmp_path, **{f"{name}_url": url}, **fields))
        in_json = (json.dumps(secret), json.dumps(secret, ensure_ascii=False))
        for spelling in (secret, quote(secret, safe=""), quote(secret), *in_json, repr(secret)):
            assert redactor.clean(f"refused {spelling}").replace('"', "").replace("'", "") == "refused ***"


def test_password_is_replaced_outside_of_urls_and_percent_encoded() -> None:
    redactor = Redactor("redis://:p%40ss-word-1@host/0")
    assert redactor.clean("the server refused p@ss-word-1") == "the server refused ***"
    assert redactor.clean("the server refused p%40ss-word-1") == "the server refused ***"


@pytest.mark.parametrize(
    "name",
    ["PGPASSWORD", "MYSQL_PASSWD", "KEY_PASSPHRASE", "AWS_SECRET", "HF_TOKEN", "OPENAI_API_KEY", "APIKEY", "FTP_PASS",
     "AWS_ACCESS_KEY_ID", "GOOGLE_CREDENTIALS", "hf_token", "DB_PWD", "STORE_KEY", "MY_PASS", "DBPASS", "BASIC_AUTH",
     "PASS", "TOKEN_2", "GITHUB_PAT", "AZURE_SAS", "SESSION_COOKIE"],
)  # fmt: skip
def test_secret_environment_variable_is_replaced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    assert Redactor().clean(f"working with {SECRET} failed") == "working with *** failed"


@pytest.mark.parametrize(
    "value", [f"https://u:{SECRET}@h/x", f"https://{SECRET}@h", f"https://h/?sig={SECRET}", f"amqp://u:{SECRET}@h"]
)
def test_secret_in_an_address_of_any_variable_is_replaced(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PIP_INDEX", value)
    assert Redactor().clean(f"working with {SECRET} failed") == "working with *** failed"


def test_lines_of_a_private_key_and_fields_of_a_service_account_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["MIIEvQIBADANBgkqhkiG9w0BAQEF", "AASCBKcwggSjAgEAAoIBAQC7VJTUt9Us"]
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----"])
    monkeypatch.setenv("SIGNING_KEY", key)
    monkeypatch.setenv("GOOGLE_CREDENTIALS", json.dumps({"type": "x", "refresh": SECRET}))
    for text in (*lines, SECRET, key, json.dumps(key), repr(key)):
        cleaned = Redactor().clean(f"refused {text}")
        assert not any(secret in cleaned for secret in (*lines, SECRET))


def test_password_of_the_netrc_file_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "logins").write_text(f"machine h login u password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
    assert Redactor().clean(f"refused {SECRET}") == "refused ***"


def test_short_password_is_replaced_as_a_word_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PWD", "s3cret")
    assert Redactor().clean("refused s3cret, not xs3cretx") == "refused ***, not xs3cretx"


def test_short_values_other_variables_and_files_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIN_TOKEN", "1234")
    monkeypatch.setenv("TEAM", "the-finch-team")
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("SSL_KEY", str(tmp_path))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    monkeypatch.setenv("SORT_KEY", "creation")
    monkeypatch.setenv("FINCH_BROKER_PASSWORD_FILE", "/run/secrets/broker")
    monkeypatch.setenv("TOKEN_PATH", "/run/secrets/token")
    files = "/run/secrets/broker and /run/secrets/token"
    text = f"the-finch-team failed at 1234 in {tmp_path}, disabled, by creation, {files}"
    assert Redactor().clean(text) == text


@pytest.mark.parametrize("name", ["SECRET_BACKEND", "CREDENTIAL_STORE", "TOKEN_TYPE", "APP_KEY"])
@pytest.mark.parametrize("value", ["postgres", "Production", "KUBERNETES", "sha256", "utf-8", "HS256", "größtenteils"])
def test_ordinary_word_under_the_name_of_a_secret_is_kept(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    text = f"{value} failed, as {value}ql did"
    assert Redactor().clean(text) == text


@pytest.mark.parametrize("name", ["DB_PASSWORD", "API_TOKEN", "CLIENT_SECRET", "TOKEN_OF_SECRET_2"])
def test_word_under_a_name_that_ends_with_that_of_a_secret_is_replaced(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "correcthorse")
    assert Redactor().clean("refused correcthorse") == "refused ***"


@pytest.mark.parametrize(
    "value", ["postgres1", "correct-horse", "correcthorsebattery", "kUbErNeTeS", "s3cret", "1sha256", "admin#1"]
)
def test_value_with_some_variety_is_replaced(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", value)
    assert Redactor().clean(f"refused {value}") == "refused ***"


@pytest.mark.parametrize("name", ["SORT_KEY", "SORT_KEYS", "PAGE_KEYS"])
@pytest.mark.parametrize("value", ["creation_timestamp", "creation_timestamp,modification_timestamp updatedAt"])
def test_words_under_a_name_that_may_be_no_secret_are_kept(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    text = f"by creation_timestamp or by {value}"
    assert Redactor().clean(text) == text


def test_parts_under_a_name_that_may_be_no_secret_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORT_KEYS", "creation_timestamp,name-of-the-owner-2")
    text = "by creation_timestamp or name-of-the-owner-2"
    assert Redactor().clean(text) == text


def test_variables_are_searched_for_forms_of_secrets_once() -> None:
    Redactor()
    searched = redaction._find_in_any.cache_info().misses
    Redactor()
    assert redaction._find_in_any.cache_info().misses == searched


def test_change_of_a_variable_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for secret in ("C4nary-7f3aQz9", "C4nary-8g4bRy1"):
        monkeypatch.setenv("MY_SERVICE", f"host=h password={secret}")
        assert Redactor().clean(f"refused {secret}") == "refused ***"


@given(secrets=st.lists(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=8), min_size=1))
def test_secret_is_replaced_whole_even_if_it_begins_with_another(secrets: list[str]) -> None:
    # A value such as "/proc/self/cgroup" is the path of a file, and no secret.
    secrets = [re.sub(r"[<>*]|^/", "x", secret) for secret in secrets]
    secrets = [f"{secret}1" if secret.isalpha() else secret for secret in secrets]  # a word is no secret
    secrets += [secret + "-and-more" for secret in secrets]
    with pytest.MonkeyPatch.context() as patch:
        for number, secret in enumerate(secrets):
            patch.setenv(f"TOKEN_{number}", secret)
        redactor = Redactor()
    for secret in secrets:
        assert redactor.clean(f"<{secret}>") == "<***>"


@pytest.mark.parametrize("before", ["", "u", "u:"])
def test_known_secret_is_replaced_in_encodings_of_the_bytes_around_it(
    monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    secret = 'Vx9/pl+q&Zz \xfc"7'
    monkeypatch.setenv("MY_TOKEN", secret)
    data = f"{before}{secret}@h".encode()
    for code in (base64.b64encode(data), base64.urlsafe_b64encode(data), data.hex().encode(), repr(data).encode()):
        cleaned = Redactor().clean(f"<{code.decode()}>")
        assert "***" in cleaned
        assert len(cleaned) < 24
    for text in (html.escape(secret), json.dumps(secret).replace("/", "\\/")):
        assert "Vx9" not in Redactor().clean(f"<{text}>")


@pytest.mark.parametrize(
    "value",
    [
        "Server=x;Uid=u;Pwd={};Database=d",
        "host=h password={}",
        "Authorization=Bearer {}",
        '{{"a": {{"client_secret": "{}"}}}}',
    ],
)
def test_secret_by_its_form_in_any_variable_is_replaced_elsewhere(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MY_SERVICE", value.format("C4nary-7f3aQz9"))
    assert Redactor().clean("the server knows no C4nary-7f3aQz9") == "the server knows no ***"


def test_each_of_several_secrets_in_a_variable_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKENS", "first-C4nary-7f3aQz, second-C4nary-7f3aQz")
    assert Redactor().clean("used second-C4nary-7f3aQz") == "used ***"
