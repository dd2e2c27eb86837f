from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fuzzing

from finch_hub import errors
from finch_hub.specs.addresses import refuse_credentials, refuse_secrets, strip_credentials
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.jobs import BaseModelSource, EvaluateSpec

SECRET = "C4nary-7f3aQz"
BARE = [
    (f"https://u:{SECRET}@h/x", "https://h/x"),
    (f"https://{SECRET}@h/x?a=1", "https://h/x?a=1"),
    (f"s3:/k:{SECRET}@b/x", "s3:/b/x"),
    (f"postgresql://u:{SECRET}@h/d?sslpassword={SECRET}&b=1", "postgresql://u@h/d?b=1"),
    (f"redis://:{SECRET}@h/0", "redis://h/0"),
    (f"https://h/x?sig={SECRET}&se=2#part", "https://h/x?se=2#part"),
    (f"https://h/x?a=1&token={SECRET}", "https://h/x?a=1"),
    (f"https://h/x?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}", "https://h/x"),
    (f"vault:model?token={SECRET}", "vault:model"),
    (f"git+https://x-access-token:{SECRET}@h/a/b.git@main", "git+https://h/a/b.git@main"),
    ("hf_abcDEF1234567890ab", "***"),
]


@pytest.mark.parametrize(("address", "bare"), BARE)
def test_credentials_are_taken_off(address: str, bare: str) -> None:
    assert strip_credentials(address) == bare
    assert strip_credentials(bare) == bare
    source = BaseModelSource(source=address)
    assert source.source == bare
    assert SECRET not in source.key
    described = BaseDescription(name=address, source=address, fingerprint="a", architecture="b", parameters=1)
    assert described.name == described.source == bare


@pytest.mark.parametrize("address", [address for address, _ in BARE])
def test_address_with_credentials_is_refused_without_them(address: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"^base: .* was given with credentials.*\.netrc") as raised:
        refuse_credentials(address, where="base")
    assert SECRET not in f"{raised.value} {raised.value!r} {raised.value.problems}"


@pytest.mark.parametrize(
    "address",
    ["owner/name", "/models/a?token=b:c@d", "./x@y", "~/x:y@z", "https://h/x@y", "hf://a/b@main", "store:model-7b",
     "ssh://git@h/x", "https://h/x?a=1&b=2#c", "name.gguf"],
)  # fmt: skip
def test_address_without_credentials_stays(address: str) -> None:
    assert strip_credentials(address) == address
    refuse_credentials(address, where="base")


@given(
    st.sampled_from(["https", "s3", "redis", "postgresql", "store", "git+ssh"]),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1, max_size=20),
    st.booleans(),
)
@settings(max_examples=fuzzing.examples(200))
def test_no_encoded_password_stays(scheme: str, password: str, has_user: bool) -> None:
    address = f"{scheme}://{'user' if has_user else ''}:x{quote(password, safe='')}9@host/path"
    bare = strip_credentials(address)
    assert bare in (f"{scheme}://host/path", f"{scheme}://user@host/path")


def test_specification_of_an_earlier_version_is_read_without_credentials() -> None:
    stored = {"kind": "evaluate", "base": {"source": BARE[0][0]}, "dataset": "0" * 64}
    spec = EvaluateSpec.of_stored(stored)
    assert spec.base.source == "https://h/x"
    assert SECRET not in spec.model_dump_json()


def test_secrets_among_parameters_are_refused_together_without_their_values() -> None:
    parameters = {
        "judge": {"api_key": SECRET, "address": f"https://u:{SECRET}@h", "model": "small"},
        "headers": [f"Authorization: Bearer {SECRET}"],
        "limit": 5,
        "system": "password: hunter22",
    }
    with pytest.raises(errors.InvalidSpec) as raised:
        refuse_secrets(parameters, where="parameters")
    assert [problem.where for problem in raised.value.problems] == [
        "parameters.headers", "parameters.judge.address", "parameters.judge.api_key",
    ]  # fmt: skip
    assert SECRET not in f"{raised.value} {raised.value.problems}"


@pytest.mark.parametrize("parameters", [None, {}, {"stop_token": "</s>", "tokens": 5, "key": "loss", "a": [1, "b"]}])
def test_ordinary_parameters_are_taken(parameters: object) -> None:
    refuse_secrets(parameters, where="parameters")
