from pathlib import Path

import numpy as np
import pytest
from support.safetensors_files import CONFIG, PREFIX, adapter_folder, factors

from finch_hub import errors
from finch_hub.artifacts.adapter_checks import (
    DEFAULT_POLICY,
    CheckedAdapter,
    GatePolicy,
    check_adapter,
    find_large_updates,
)
from finch_hub.artifacts.config_cleaning import canonical_json
from finch_hub.formats.peft_names import WEIGHTS
from finch_hub.formats.safetensors_file import SafetensorsFile


def checked(tmp_path: Path, tensors: dict[str, np.ndarray], policy: GatePolicy = DEFAULT_POLICY) -> CheckedAdapter:
    with SafetensorsFile(adapter_folder(tmp_path / "in", tensors) / WEIGHTS) as file:
        return check_adapter(file, canonical_json(CONFIG), policy=policy, shown="in")


def test_checked_adapter_has_the_names_of_peft(tmp_path: Path) -> None:
    old = {name.replace(".weight", ".default.weight"): array for name, array in factors("layers.0.q").items()}
    found = checked(tmp_path, old)
    assert dict(found.names) == {name: name.replace(".default", "") for name in old}
    assert (found.problems, [*found.modules]) == ([], ["layers.0.q"])


def test_problems_of_tensors_are_returned_for_the_caller(tmp_path: Path) -> None:
    found = checked(tmp_path, factors("layers.0.q") | {f"{PREFIX}layers.1.q.lora_A.weight": np.zeros((2, 4), "<f4")})
    assert ["layers.1.q" in str(problem) for problem in found.problems] == [True]


def test_limit_of_the_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.RefusedArtifact, match="has 2 tensors, more than 1"):
        checked(tmp_path, factors("layers.0.q"), GatePolicy(max_tensors=1))


def test_update_above_the_limit_is_named(tmp_path: Path) -> None:
    found = checked(tmp_path, factors("layers.0.q"))
    norms = dict.fromkeys(found.tensors, 10.0)
    limit = found.modules["layers.0.q"].scale * 100
    parts = norms, found.tensors, found.scheme
    assert [*find_large_updates(found.modules, *parts, GatePolicy(max_update_norm=limit))] == []
    (update,) = find_large_updates(found.modules, *parts, GatePolicy(max_update_norm=limit * 0.99))
    assert update.startswith("layers.0.q: the update's norm may reach")
