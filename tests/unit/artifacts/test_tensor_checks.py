import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import fuzzing

from finch_hub import errors
from finch_hub.artifacts import tensor_checks
from finch_hub.artifacts.tensor_checks import TensorStatistics, find_too_large, scan_tensor
from finch_hub.formats.safetensors_header import TensorInfo

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def scanned(path: Path, dtype: str, content: bytes, elements: int) -> TensorStatistics:
    path.write_bytes(b"header" + content + b"\xff" * 16)
    return scan_tensor(path, TensorInfo(dtype=dtype, shape=(elements,), start=6, end=6 + len(content)))


def as_bf16(values: np.ndarray) -> bytes:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=fuzzing.examples(60))
@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=16), min_size=1, max_size=50),
    dtype=st.sampled_from(["F64", "F32", "F16", "BF16"]),
)
def test_scan_counts_nonfinite_entries_and_measures_the_norm(tmp_path: Path, values: list[float], dtype: str) -> None:
    array = np.array(values, DTYPES.get(dtype, np.float32))
    if dtype == "BF16":
        array = (np.frombuffer(as_bf16(array), np.uint16).astype(np.uint32) << 16).view(np.float32)
    content = as_bf16(array) if dtype == "BF16" else array.tobytes()
    found = scanned(tmp_path / "f", dtype, content, len(values))
    finite = [float(value) for value in array if math.isfinite(value)]
    assert found.nonfinite == len(values) - len(finite)
    assert found.norm == pytest.approx(math.sqrt(sum(value * value for value in finite)))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("nonfinite", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1_500_000, 2_999_999])
def test_one_nonfinite_entry_among_millions_is_found(tmp_path: Path, dtype: str, nonfinite: float, where: int) -> None:
    values = np.ones(3_000_000, DTYPES.get(dtype, np.float32))
    values[where] = nonfinite
    content = as_bf16(values) if dtype == "BF16" else values.tobytes()
    assert scanned(tmp_path / "f", dtype, content, values.size).nonfinite == 1


@pytest.mark.parametrize("largest", [65_504.0, -70_000.0])
def test_largest_magnitude_is_found_in_any_block(tmp_path: Path, largest: float) -> None:
    values = np.ones(3_000_000, np.float32)
    values[1_500_000], values[1_500_001] = largest, math.nan
    found = scanned(tmp_path / "f", "F32", values.tobytes(), values.size)
    assert [problem.where for problem in find_too_large("a", found.largest)] == (["a"] if largest < 0 else [])


def test_norm_that_overflows_is_infinite(tmp_path: Path) -> None:
    values = np.full(4, 1e200)
    assert scanned(tmp_path / "f", "F64", values.tobytes(), 4) == TensorStatistics(0, math.inf, 1e200)


def test_long_names_are_refused_where_patterns_repeat_much() -> None:
    config: dict[str, Any] = {"target_modules": ".*a.*b", "rank_pattern": {r".*\d+.q": 4}}
    short = [f"model.layers.{layer}.mlp.gate_proj" for layer in range(200)]
    tensor_checks.check_cost_of_patterns(config, short)
    for field in config:
        with pytest.raises(errors.RefusedArtifact, match=f"{field}: .*too long names"):
            tensor_checks.check_cost_of_patterns({field: config[field]}, [f"{n}{'a' * 500}" for n in range(1000)])
    tensor_checks.check_cost_of_patterns({"target_modules": ["a" * 500]}, ["a" * 500] * 1000)


def test_five_million_matches_of_patterns_are_the_most() -> None:
    config = {"rank_pattern": {f"q{n}": 4 for n in range(5000)}}
    paths = [f"m{n}" for n in range(1001)]
    tensor_checks.check_cost_of_patterns(config, paths[:1000])
    with pytest.raises(errors.RefusedArtifact, match="rank_pattern: has too many patterns"):
        tensor_checks.check_cost_of_patterns(config, paths)
