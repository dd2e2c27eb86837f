"""Names of repositories of the Hugging Face Hub, and its errors as ours."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.artifacts.hugging_face import RepositoryReference, parse_repository, require_login, translate_errors

PLACE = RepositoryReference(name="ana/birds", revision="v1")


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("ana/birds", "ana/birds", None),
        ("ana/birds@v3", "ana/birds", "v3"),
        ("ana/birds.2@refs/pr/1", "ana/birds.2", "refs/pr/1"),
    ],
)
def test_well_formed_repositories_are_parsed(text: str, name: str, revision: str | None) -> None:
    assert parse_repository(text) == RepositoryReference(name=name, revision=revision)
    assert str(parse_repository(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "birds", "ana/birds@", "ana/birds@..", "ana/bi rds", "https://huggingface.co/ana/birds", "a/b/c", "a/b@-x"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidReference, match="give it as owner/name"):
        parse_repository(text)


def test_full_disk_is_not_taken_for_a_lost_network() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(errors.Unavailable, match="no space left"), translate_errors("pull ana/birds", PLACE):
        raise full


def test_failed_upload_names_its_cause() -> None:
    cause = TimeoutError()
    with pytest.raises(errors.Unavailable, match="TimeoutError"), translate_errors("push it", PLACE):
        raise RuntimeError("Error while uploading") from cause


ODD = [
    ("HF_TOKEN", "tökén", errors.AccessDenied, "the token has characters that no token has"),
    ("HF_TOKEN", "hf_a\x1bb", errors.AccessDenied, "the token has characters that no token has"),
    ("HTTP_PROXY", "sock9://x:S3cretpw@y:1", errors.InvalidSpec, "HTTP_PROXY: is not the address of a proxy"),
    ("HTTPS_PROXY", "http://x:S3cretpw@y:port", errors.InvalidSpec, "HTTPS_PROXY: is not the address of a proxy"),
    ("ALL_PROXY", "socks5://x:S3cretpw@y:1", errors.InvalidSpec, "ALL_PROXY: is a SOCKS proxy, and the package"),
    ("SSL_CERT_FILE", "/no/such.pem", errors.InvalidSpec, "SSL_CERT_FILE: names a place that does not exist"),
    ("HF_ENDPOINT", "huggingface.example", errors.InvalidSpec, "HF_ENDPOINT: is not an address"),
]


@pytest.mark.parametrize(("variable", "value", "kind", "text"), ODD)
def test_odd_settings_are_told_without_their_values(
    variable: str, value: str, kind: type[errors.FinchError], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv(variable, value)
    with pytest.raises(kind, match=text) as caught, translate_errors("pull ana/birds", PLACE):
        raise ValueError(f"something with {value}")
    assert "S3cretpw" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("HF_ENDPOINT", "http://u:S3cretpw@[::1", "HF_ENDPOINT: is not an address"),
        ("HF_HUB_ETAG_TIMEOUT", "S3cretpw", r"cannot read its variables \(ValueError\) \(check HF_HUB_ETAG_TIMEOUT"),
    ],
)
def test_variables_that_cannot_be_imported_are_told(variable: str, value: str, text: str) -> None:
    code = "import sys; from finch_hub.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bases", "add", "ana/birds", "--name", "b"]
    ran = subprocess.run(command, env={**os.environ, variable: value}, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert re.search(text, ran.stderr)
    assert "S3cretpw" not in ran.stderr


@pytest.mark.parametrize("error", [TypeError("5"), KeyError("id"), RecursionError(), AssertionError(), ValueError("x")])
def test_answer_that_is_not_understood_names_the_host(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://u:S3cretpw@hub.example:8080/models")
    match = rf"could not pull it: hub.example:8080 does not answer as the Hugging Face Hub \({type(error).__name__}\)"
    with pytest.raises(errors.Unavailable, match=match) as caught, translate_errors("pull it", PLACE):
        raise error
    assert "S3cretpw" not in str(caught.value)


def test_own_errors_and_warnings_pass() -> None:
    for error in (errors.Conflict("taken"), DeprecationWarning("old")):
        with pytest.raises(type(error)), translate_errors("pull it", PLACE):
            raise error


def test_name_that_no_repository_has_is_refused() -> None:
    from huggingface_hub import HfApi

    place = RepositoryReference(name="ana/bi--rds")
    with pytest.raises(errors.InvalidReference, match="'ana/bi--rds' cannot be"), translate_errors("pull it", place):
        HfApi().model_info(place.name)


def test_cache_that_cannot_be_written_is_named() -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "/cache/x")
    match = r"Permission denied: /cache/x .*HF_HOME"
    with pytest.raises(errors.Unavailable, match=match), translate_errors("pull it", PLACE):
        raise denied


def test_token_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "token").write_bytes(b"\xff")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(errors.AccessDenied, match="could not read the token"):
        require_login("push it")
