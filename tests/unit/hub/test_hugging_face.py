"""Names of repositories of the Hugging Face Hub, and its errors as ours."""

from __future__ import annotations

import errno

import pytest

from finch_hub import errors
from finch_hub.hub.hugging_face import RepositoryReference, parse_repository, translate_errors

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
