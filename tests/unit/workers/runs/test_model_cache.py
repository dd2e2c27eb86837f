from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub import errors
from finch_hub.engine.bases import base as base_module
from finch_hub.engine.bases import fingerprint
from finch_hub.specs.jobs import BaseModelSource
from finch_hub.workers.runs import model_cache
from finch_hub.workers.runs.model_cache import BaseModelCache, BaseOrder


@dataclass(frozen=True)
class Base:
    """What the cache uses of a loaded base."""

    folder: Path
    fingerprint: str
    name: str = ""
    revision: str | None = None


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for loading: `loaded["of"]` lists what was loaded, `loaded["files"]` is the state of the files."""
    state: dict[str, Any] = {"of": [], "files": "first"}

    def load_base(folder: Path, *, dtype: str, cache: Path, progress: Callable[[str], None]) -> Base:
        progress("loading")
        state["of"].append((folder.name, dtype))
        return Base(folder, state["files"])

    monkeypatch.setattr(base_module, "load_base", load_base)
    monkeypatch.setattr(fingerprint, "compute_fingerprint", lambda folder, *, cache: state["files"])
    monkeypatch.setattr(fingerprint, "compute_first_fingerprint", lambda folder, *, cache: state["files"])
    monkeypatch.setattr(model_cache, "load_fetch", lambda target, offered_by: _fetch)
    return state


def _fetch(source: BaseModelSource, *, cache: Path, progress: Any) -> Path:
    progress(f"fetching {source.source}")
    return cache / source.source


def order(source: str = "tiny", **fields: Any) -> BaseOrder:
    return BaseOrder(source=BaseModelSource(source=source), fetch="plugin:fetch", cache=Path("/cache"), **fields)


def load(cache: BaseModelCache, order: BaseOrder, **options: Any) -> Any:
    return cache.load(order, say=lambda text: None, **options)


def test_base_is_loaded_once_for_jobs_in_a_row(loaded: dict[str, Any]) -> None:
    cache = BaseModelCache()
    base = load(cache, order())
    assert (base.name, cache.key) == ("tiny", order().source.key)
    assert load(cache, order()) is base
    assert load(cache, order(fingerprint="first")) is base
    assert loaded["of"] == [("tiny", "auto")]


def test_another_base_or_dtype_takes_the_place_of_the_first(loaded: dict[str, Any]) -> None:
    cache = BaseModelCache()
    load(cache, order())
    load(cache, order("large"))
    load(cache, order("large"), dtype="float32")
    assert loaded["of"] == [("tiny", "auto"), ("large", "auto"), ("large", "float32")]
    assert cache.key == order("large").source.key


def test_base_whose_files_were_replaced_is_loaded_again(loaded: dict[str, Any]) -> None:
    cache = BaseModelCache()
    load(cache, order())
    loaded["files"] = "second"
    assert load(cache, order()).fingerprint == "second"
    assert len(loaded["of"]) == 2


def test_base_of_another_fingerprint_is_refused_and_none_is_kept(loaded: dict[str, Any]) -> None:
    cache = BaseModelCache()
    load(cache, order())
    with pytest.raises(errors.Incompatible, match="tiny: has other files than when it was added"):
        load(cache, order(fingerprint="other"))
    assert cache.key is None


def test_cleared_cache_loads_again(loaded: dict[str, Any]) -> None:
    cache = BaseModelCache()
    cache.clear()
    load(cache, order())
    cache.clear()
    assert cache.key is None
    load(cache, order())
    assert len(loaded["of"]) == 2


def test_source_that_no_plugin_knows_is_not_ordered() -> None:
    class Catalog:
        def base_source_of(self, source: str) -> Any:
            raise errors.NotFound("base source", source)

    stores: Any = SimpleNamespace(catalog=Catalog(), bases=Path("/bases"))
    with pytest.raises(errors.NotFound, match="no base source 'gopher://x'"):
        model_cache.order_base(BaseModelSource(source="gopher://x"), stores)
