"""The dtype that a device computes fastest in."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from finch_hub.engine.bases import precision
from finch_hub.engine.machine import processor

CPU = torch.device("cpu")
DAY = 86_400.0


class Probe:
    """Clock and measurements that a test sets: seconds of a product in bfloat16 and in float32."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1e9
        self.seconds: list[tuple[float, float]] = [(0.5, 1.0)]
        self.measured_at: list[float] = []
        monkeypatch.setattr(precision, "time", SimpleNamespace(time=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(precision, "_measure_seconds", self._measure)
        monkeypatch.setattr(processor, "has_bfloat16", lambda: True)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _measure(self, *dtypes: torch.dtype) -> list[float]:
        assert dtypes == (torch.bfloat16, torch.float32)
        self.measured_at.append(self.now)
        return list(self.seconds[(len(self.measured_at) - 1) % len(self.seconds)])


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    return Probe(monkeypatch)


def test_processor_without_the_instructions_computes_in_float32_and_is_not_measured(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_bfloat16", lambda: False)
    assert precision.pick_dtype("auto", CPU, cache=tmp_path) == torch.float32
    assert probe.measured_at == []
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("bfloat16_seconds", "dtype"), [(0.5, torch.bfloat16), (1.0, torch.float32)])
def test_dtype_is_measured_at_several_moments_and_then_known(
    probe: Probe, tmp_path: Path, bfloat16_seconds: float, dtype: torch.dtype
) -> None:
    probe.seconds = [(bfloat16_seconds, 1.0)]
    for _ in range(2):
        assert precision.pick_dtype("auto", CPU, cache=tmp_path) == dtype
    first, second, third = probe.measured_at
    assert min(second - first, third - second) > 0.2, "the load of a moment slows one of them"


@pytest.mark.parametrize("slowed", [0, 1, 2])
def test_load_of_a_moment_does_not_decide(probe: Probe, tmp_path: Path, slowed: int) -> None:
    for quiet, loaded, dtype in (((1.0, 1.0), (1.0, 9.0), torch.float32), ((0.5, 1.0), (9.0, 1.0), torch.bfloat16)):
        probe.measured_at.clear()
        probe.seconds = [quiet, quiet, quiet]
        probe.seconds[slowed] = loaded
        assert precision.pick_dtype("auto", CPU, cache=tmp_path / str(dtype)) == dtype


def test_equal_speeds_give_float32(probe: Probe) -> None:
    probe.seconds = [(0.9, 1.0)]
    assert not precision.is_bfloat16_faster(cache=None)


def measured_again(probe: Probe, cache: Path, after: float) -> bool:
    """Return whether the dtypes are measured again after so many seconds, and go back in time."""
    count, now = len(probe.measured_at), probe.now
    stored = (cache / "precision.json").read_bytes()
    probe.now += after
    precision.is_bfloat16_faster(cache=cache)
    (cache / "precision.json").write_bytes(stored)
    probe.now = now
    return len(probe.measured_at) > count


def test_measurements_expire_after_a_month_and_contradictory_ones_after_an_hour(probe: Probe, tmp_path: Path) -> None:
    precision.is_bfloat16_faster(cache=tmp_path)
    assert not measured_again(probe, tmp_path, 29 * DAY)
    assert measured_again(probe, tmp_path, 30 * DAY)
    assert measured_again(probe, tmp_path, -DAY), "the clock was set back"
    probe.measured_at.clear()
    probe.seconds = [(0.5, 1.0), (1.0, 1.0), (0.5, 1.0)]
    assert precision.is_bfloat16_faster(cache=tmp_path / "other")
    assert not measured_again(probe, tmp_path / "other", 3590.0)
    assert measured_again(probe, tmp_path / "other", 3600.0)


def test_training_far_below_the_promised_speed_has_the_dtypes_measured_again(probe: Probe, tmp_path: Path) -> None:
    precision.doubt_if_slow(1.0, cache=tmp_path)
    assert not any(tmp_path.iterdir()), "nothing was promised"
    precision.is_bfloat16_faster(cache=tmp_path)
    promised = 2 * 512 * 1024 * 1024 / 0.5
    precision.doubt_if_slow(0.34 * promised, cache=tmp_path)
    assert not measured_again(probe, tmp_path, DAY)
    precision.doubt_if_slow(0.33 * promised, cache=tmp_path)
    assert not measured_again(probe, tmp_path, 3590.0), "the measurement was an hour ago at most"
    assert measured_again(probe, tmp_path, DAY)


def test_measurements_count_under_their_conditions_only(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision.is_bfloat16_faster(cache=tmp_path)
    for name, change in {
        "processor": lambda patch: patch.setattr(processor, "find_model", lambda: "another"),
        "threads": lambda patch: patch.setattr(torch, "get_num_threads", lambda: 99),
        "torch": lambda patch: patch.setattr(torch, "__version__", "9.9"),
        "instructions": lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER"),
        "limit": lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16"),
    }.items():
        with monkeypatch.context() as patch:
            change(patch)
            assert measured_again(probe, tmp_path, 0.0), name
    assert not measured_again(probe, tmp_path, 0.0)


@pytest.mark.parametrize("content", ["damaged", "[]", '{"gains": []}'])
def test_damaged_measurements_are_measured_again(probe: Probe, tmp_path: Path, content: str) -> None:
    precision.is_bfloat16_faster(cache=tmp_path)
    file = tmp_path / "precision.json"
    (key,) = json.loads(file.read_bytes())
    file.write_text(content if content == "damaged" else json.dumps({key: json.loads(content)}), encoding="utf-8")
    assert measured_again(probe, tmp_path, 0.0)


def test_real_products_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_ROUNDS", 1)
    assert all(0 < seconds < float("inf") for seconds in precision._measure_seconds(torch.bfloat16, torch.float32))
