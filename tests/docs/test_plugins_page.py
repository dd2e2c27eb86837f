"""docs/plugins.md: the plugin that it builds up works, and every hook and call stands there as it is."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.adapters import VARIANTS, save_adapter

from finch_hub import testing
from finch_hub.plugins import hooks
from finch_hub.plugins.catalog import Catalog
from finch_hub.plugins.descriptors import (
    BaseSource,
    DatasetFormat,
    Evaluator,
    ExportFormat,
    Listener,
    Resolver,
    Runnable,
    Strategy,
)

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
BLOCKS = re.findall(r"^```python (file=(?P<file>\S+)|run)\n(?P<code>.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
HOOKS = [hook for name, hook in inspect.getmembers(hooks, inspect.isfunction) if name.startswith("finch_")]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Write the page's files, run its other snippets in their order, and give the catalog they made."""
    folder = tmp_path_factory.mktemp("page")
    for _, file, code in BLOCKS:
        if file:
            (folder / file).parent.mkdir(exist_ok=True)
            with (folder / file).open("a") as stream:
                stream.write(f"{code}\n\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        names: dict[str, Any] = {}
        for what, _, code in BLOCKS:
            if what == "run":
                exec(compile(code, "docs/plugins.md", "exec"), names)
        yield names["catalog"]
        for name in [name for name in sys.modules if name.partition(".")[0] == "finch_birds"]:
            del sys.modules[name]


def test_every_python_snippet_is_a_file_or_is_run() -> None:
    assert len(BLOCKS) == PAGE.count("```python")
    assert sum(what == "run" for what, _, _ in BLOCKS) >= 5


def test_the_page_adds_one_of_everything(catalog: Catalog) -> None:
    added = [
        name for offers in catalog.all_offers() for name in offers if offers.plugin_of(name) == "finch_birds.plugin"
    ]
    assert added == ["birds", "median", "quieten", "sightings", "mirror", "listing", "naming", "bell"]


def test_the_pages_export_and_strategy_do_what_it_says(catalog: Catalog, tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["patterns"])
    assert catalog.export_formats["listing"].load()(adapter, None, tmp_path / "out", None) == {"modules": 8}
    assert "model.layers.1.self_attn.v_proj 7" in (tmp_path / "out" / "modules.txt").read_text()
    strategy = catalog.strategies["median"]
    core = testing.example_core_space()
    merge, total = strategy.load(), sum(core.modules["a"].cores)
    mean = merge(core, (1.0, 1.0, 1.0), strategy.parse({"share": 0}), seed=0)
    assert float((mean["a"] - total).abs().max()) < 1e-12
    middle = merge(core, (1.0, 1.0, 1.0), strategy.parse({}), seed=0)["a"].numpy() / 3
    np.testing.assert_allclose(middle, np.median([matrix.numpy() for matrix in core.modules["a"].cores], axis=0))


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_every_hook_stands_on_the_page_with_its_signature_and_what_it_returns(hook: Any) -> None:
    returned = inspect.signature(hook).return_annotation.replace("descriptors.", "")
    sentence = hook.__doc__.strip().removeprefix("Return ").removesuffix(".")
    assert not inspect.signature(hook).parameters
    assert f"| `{hook.__name__}() -> {returned}`" in PAGE
    assert f"| {sentence} |" in PAGE


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_a_hook_specification_is_one_sentence_and_nothing_else(hook: Any) -> None:
    documentation = hook.__doc__
    assert documentation.count("\n") == 0
    assert documentation.endswith(".")
    source = inspect.getsource(hook)
    assert source.rstrip().endswith(f'"""{documentation}"""')


RUNNABLES = [Strategy, Resolver, DatasetFormat, BaseSource, ExportFormat, Evaluator, Listener]


@pytest.mark.parametrize("kind", RUNNABLES, ids=lambda kind: kind.__name__)
def test_every_call_stands_on_the_page_as_the_descriptor_says_it(kind: type[Runnable]) -> None:
    documentation = " ".join(str(kind.__doc__).split())
    (call,) = re.findall(r"``((?:merge|resolve|convert|fetch|write|evaluate|listen)\(.*?)``", documentation)
    assert f"`{call}`" in PAGE
