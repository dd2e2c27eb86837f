"""Parsers of untrusted input raise errors of Finch Hub only, whatever they are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import fuzzing
from support.fuzz_targets import TARGETS, run

NOISE = [b"[" * 200, b"\xff" * 8, b'{"a":', b"\0", b"9" * 20]
FOUND = sorted((Path(__file__).parents[1] / "data" / "fuzz").glob("*/*"))
"""Inputs with which fuzzing once found a fault, in a folder for each parser."""


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_to_begin_with_are_parsed(target: str) -> None:
    for seed in TARGETS[target].seeds:
        run(target, seed)


@pytest.mark.parametrize("file", FOUND, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_input_that_once_failed_is_parsed_or_refused(file: Path) -> None:
    run(file.parent.name, file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
@settings(max_examples=fuzzing.examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_changed_inputs_are_parsed_or_refused(target: str, data: st.DataObject) -> None:
    """The fallback of coverage-guided fuzzing, where Atheris does not run."""
    content = bytearray(data.draw(st.sampled_from(TARGETS[target].seeds)))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(content)))
        noise = data.draw(st.binary(max_size=8) | st.sampled_from(NOISE))
        content[begin : begin + data.draw(st.integers(0, 8))] = noise
    run(target, bytes(content))
