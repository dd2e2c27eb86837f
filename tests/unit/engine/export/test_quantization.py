from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support import fuzzing
from support.adapters import VARIANTS, logits, save_adapter

from finch_hub import errors
from finch_hub.engine.adapters import adapter_files
from finch_hub.engine.export import peft, quantization
from finch_hub.engine.export.parameters import PEFTParameters
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.peft_names import WEIGHTS
from finch_hub.formats.quantized import Scheme
from finch_hub.specs.reports import TokenMetrics

A, B = "base_model.model.layer.lora_A.weight", "base_model.model.layer.lora_B.weight"


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def metrics(loss: float) -> TokenMetrics:
    return TokenMetrics(loss=loss, accuracy=0.5, tokens=10, examples=1)


@settings(deadline=None, max_examples=fuzzing.examples(50))
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_spread_keeps_the_product_and_equalizes_all_directions(seed: int, rank: int, out: int, inner: int) -> None:
    a, b = random(seed, rank, inner), random(seed + 1, out, rank)
    spread_a, spread_b = quantization.spread(a, b)
    assert spread_a.shape == a.shape
    assert spread_b.shape == b.shape
    np.testing.assert_allclose(spread_b @ spread_a, b @ a, atol=1e-4)
    nuclear = np.linalg.svd(b.astype(np.float64) @ a, compute_uv=False).sum()
    np.testing.assert_allclose(np.square(spread_a).sum(1), nuclear / rank, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(np.square(spread_b).sum(0), nuclear / rank, rtol=1e-3, atol=1e-6)


def test_spread_lowers_the_error_of_a_skewed_update() -> None:
    strength = np.geomspace(1, 0.01, 16, dtype=np.float32)
    a, b = random(0, 16, 256), random(1, 192, 16) * strength
    scheme = Scheme(bits="int4", group=64)

    def error(a: np.ndarray, b: np.ndarray) -> float:
        return float(
            np.linalg.norm(scheme.restore(B, scheme.pack(B, b)) @ scheme.restore(A, scheme.pack(A, a)) - b @ a)
        )

    assert error(*quantization.spread(a, b)) < 0.7 * error(a, b)


@given(st.integers(0, 2**32 - 1))
def test_squared_distance_equals_the_dense_one(seed: int) -> None:
    a, b, other_a, other_b = (random(seed + i, *s) for i, s in enumerate([(3, 8), (6, 3), (2, 8), (6, 2)]))
    expected = np.square(b.astype(np.float64) @ a - other_b.astype(np.float64) @ other_a).sum()
    assert quantization.squared_distance(a, b, other_a, other_b) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_quantized_adapter_acts_nearly_as_the_original(tiny_folder: Path, tmp_path: Path, variant: str) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS[variant])
    report = quantization.quantize(adapter, tmp_path / "small", scheme="int8", group=16)
    peft.export_peft(tmp_path / "small", None, tmp_path / "plain", PEFTParameters())
    before = logits(tiny_folder, [adapter])
    for ours, theirs in zip(logits(tiny_folder, [tmp_path / "plain"]), before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.1, rtol=0.05)
    assert 0 < report.relative_error < 0.01
    with StoredAdapter(adapter) as stored:
        dense = {path: _delta(adapter, path) for path in stored.modules}
    squared_error = sum(np.square(_delta(tmp_path / "small", path) - delta).sum() for path, delta in dense.items())
    expected = np.sqrt(squared_error / sum(np.square(delta).sum() for delta in dense.values()))
    assert report.relative_error == pytest.approx(expected, rel=1e-3)


def _delta(folder: Path, path: str) -> np.ndarray:
    with StoredAdapter(folder) as stored:
        a, b = stored.factors(path)
        return (stored.modules[path].scale * b.astype(np.float64)) @ a


def test_both_readers_restore_the_same_values(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["dora"])
    quantization.quantize(adapter, tmp_path / "small", scheme="int4", group=16)
    read = adapter_files.read_adapter(tmp_path / "small").tensors
    with StoredAdapter(tmp_path / "small") as stored:
        assert set(read) == set(stored.names)
        for name, tensor in read.items():
            np.testing.assert_array_equal(tensor.numpy(), stored.tensor(name))


def test_4_bit_takes_at_most_30_percent_of_bf16(tmp_path: Path) -> None:
    """On the shapes of SmolLM2-135M's q and v projections, headers and all."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for layer in range(30):
        for module, out in (("q_proj", 576), ("v_proj", 192)):
            path = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors |= {
                f"{path}.lora_A.weight": random(layer, 16, 576),
                f"{path}.lora_B.weight": random(layer, out, 16),
            }
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / WEIGHTS)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16, "lora_alpha": 32}')
    report = quantization.quantize(adapter, tmp_path / "small", scheme="int4")
    bf16 = sum(2 * tensor.size for tensor in tensors.values())
    assert report.bytes_after == (tmp_path / "small" / WEIGHTS).stat().st_size
    assert report.bytes_after <= 0.30 * bf16
    assert report.candidates[0]["share_of_bf16"] == pytest.approx(report.bytes_after / bf16)


def test_auto_takes_the_smallest_scheme_within_the_tolerance(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])

    with StoredAdapter(adapter) as stored:
        paths = list(stored.modules)

    def objective(folder: Path) -> TokenMetrics:
        """A loss that grows with the distance from the original."""
        return metrics(2.0 + sum(float(np.abs(_delta(folder, p) - _delta(adapter, p)).max()) for p in paths))

    int4 = quantization.quantize(adapter, tmp_path / "a", objective=objective, tolerance=10.0)
    assert int4.after is not None
    tolerance = (int4.after.loss / 2.0 - 1) / 2
    int8 = quantization.quantize(adapter, tmp_path / "b", objective=objective, tolerance=tolerance)
    assert (int4.scheme, int8.scheme) == ("int4", "int8")
    assert len(int8.candidates) == 2
    assert int8.before == metrics(2.0)
    assert int8.after is not None
    assert int8.after.loss <= 2 * (1 + tolerance) < int8.candidates[0]["loss"]
    assert int4.bytes_after < int8.bytes_after < int8.bytes_before
    with pytest.raises(errors.Incompatible, match="no scheme keeps the held-out loss"):
        quantization.quantize(adapter, tmp_path / "c", objective=objective, tolerance=1e-6)
    with pytest.raises(errors.InvalidSpec, match="held-out data"):
        quantization.quantize(adapter, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_quantized_adapter_is_not_quantized_again(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    quantization.quantize(adapter, tmp_path / "small", scheme="int8")
    with pytest.raises(errors.Incompatible, match="already quantized"):
        quantization.quantize(tmp_path / "small", tmp_path / "smaller", scheme="int4")
