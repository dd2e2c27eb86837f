"""The catalog: a broken plugin is reported and does not affect the others."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub import errors
from finch_hub.plugins.catalog import Catalog, load_catalog
from finch_hub.plugins.descriptors import BaseSource, DatasetFormat, Strategy
from finch_hub.plugins.hooks import hookimpl

BUILTIN = load_catalog(entry_points=False)


def strategy(name: str) -> Strategy:
    return Strategy(name=name, summary="Does something.", target="nowhere:nothing")


def plugin(name: str, **hooks: Any) -> SimpleNamespace:
    """Make a plugin object; each hook is a function, or the value that the hook returns."""
    made = SimpleNamespace(__name__=name)
    for hook, offered in hooks.items():
        setattr(made, hook, hookimpl(offered if callable(offered) else _returning(offered)))
    return made


def _returning(offered: Any) -> Callable[[], Any]:
    return lambda: offered


def load(*plugins: object) -> Catalog:
    return load_catalog(entry_points=False, extra=plugins)


def test_built_in_plugin_loads_without_problems() -> None:
    assert BUILTIN.problems == ()
    assert [found.name for found in BUILTIN.plugins] == ["finch-hub"]
    assert set(BUILTIN.presets) == {"medical", "legal", "code", "style"}
    assert set(BUILTIN.strategies) == {"linear", "cat", "ties", "dare", "tsv", "regmean", "learned"}
    assert set(BUILTIN.resolvers) == {"keep", "priority", "drop", "calibrate", "orthogonalize", "refuse"}
    unused = [offers for offers in BUILTIN.all_offers() if not len(offers)]
    assert unused == [BUILTIN.listeners], "every other hook has a built-in user"


def test_unknown_name_suggests_similar_names() -> None:
    with pytest.raises(errors.NotFound, match=r"no strategy 'teis' .did you mean 'ties'"):
        BUILTIN.strategies["teis"]
    with pytest.raises(errors.NotFound, match="preset 'medicine'"):
        BUILTIN.presets["medicine"]
    assert "teis" not in BUILTIN.strategies
    assert None not in BUILTIN.strategies


def test_offer_of_a_plugin_is_added_to_the_built_in_offers() -> None:
    catalog = load(plugin("mine", finch_strategies=[strategy("mine")]))
    assert catalog.strategies["mine"].name == "mine"
    assert catalog.strategies.plugin_of("mine") == "mine"
    assert catalog.strategies.plugin_of("linear") == "finch-hub"
    assert set(catalog.strategies) == {"mine", *BUILTIN.strategies}
    assert catalog.problems == ()


def test_name_of_two_plugins_is_refused_and_other_names_stay() -> None:
    catalog = load(
        plugin("first", finch_strategies=[strategy("twin"), strategy("fine")]),
        plugin("second", finch_strategies=[strategy("twin")]),
    )
    with pytest.raises(errors.PluginError, match="strategy 'twin' is offered by plugin first and plugin second"):
        catalog.strategies["twin"]
    assert "twin" not in catalog.strategies
    assert {"fine", "linear"} <= set(catalog.strategies)
    (problem,) = catalog.problems
    assert "plugin first and plugin second" in problem.what


def test_built_in_name_cannot_be_replaced() -> None:
    catalog = load(plugin("other", finch_strategies=[strategy("linear")]))
    assert catalog.strategies["linear"] == BUILTIN.strategies["linear"]
    assert catalog.strategies.plugin_of("linear") == "finch-hub"
    (problem,) = catalog.problems
    assert str(problem) == (
        "plugin other: strategy 'linear' is built in, so that of plugin other is left out (its authors can choose "
        "another name)"
    )


def test_plugins_with_the_same_module_name_are_numbered() -> None:
    catalog = load(plugin("same", finch_strategies=[strategy("a")]), plugin("same", finch_strategies=[strategy("b")]))
    assert [found.name for found in catalog.plugins] == ["same", "same#2", "finch-hub"]
    assert catalog.strategies.plugin_of("b") == "same#2"


def _raise() -> Any:
    raise RuntimeError("broken inside")


def _exit() -> Any:
    sys.exit(3)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (plugin("broken", finch_strategies=_raise), "finch_strategies failed: RuntimeError: broken inside"),
        (plugin("broken", finch_strategies=_exit), "finch_strategies failed: SystemExit: 3"),
        (
            plugin("broken", finch_strategies=[DatasetFormat(name="x", summary="x", recognizes={"x"}, target="a:b")]),
            "it is DatasetFormat, not Strategy",
        ),
        (
            plugin("broken", finch_strategies=["linear"]),
            "finch_strategies returned an offer that cannot be used: it is str, not Strategy",
        ),
        (plugin("broken", finch_strategies=7), "finch_strategies failed: TypeError"),
        (plugin("broken", finch_strategys=[]), "there is no hook finch_strategys (did you mean finch_strategies?)"),
        (
            SimpleNamespace(__name__="broken", finch_presets=hookimpl(lambda wanted: [])),
            "cannot be imported: PluginValidationError",
        ),
    ],
)
def test_broken_plugin_is_reported_and_disables_nothing_else(broken: object, says: str) -> None:
    catalog = load(broken, plugin("valid", finch_strategies=[strategy("valid")]))
    (problem,) = catalog.problems
    assert problem.where == "plugin broken"
    assert says in str(problem)
    assert {"valid", *BUILTIN.strategies} == set(catalog.strategies)


def test_valid_offers_of_a_partly_broken_plugin_are_kept() -> None:
    catalog = load(plugin("half", finch_strategies=[strategy("mine"), 7], finch_presets=_raise))
    assert "mine" in catalog.strategies
    assert len(catalog.problems) == 2


def test_third_party_base_source_matches_before_the_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "finch_test_source.py").write_text("def takes(text):\n    return text.startswith('mine:')\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = BaseSource(name="mine", summary="x", matches="finch_test_source:takes", target="a:b")
    catalog = load(plugin("mine", finch_base_sources=[source]))
    assert catalog.base_source_of("mine:model").name == "mine"
    assert catalog.base_source_of("owner/model").name == "hub"
    with pytest.raises(errors.NotFound):
        catalog.base_source_of("no such thing: at all")


def test_listing_loads_nothing_heavy() -> None:
    script = (
        "import sys; from finch_hub.plugins.catalog import load_catalog; load_catalog();"
        "heavy = ('torch', 'numpy', 'transformers', 'peft', 'sqlalchemy', 'celery');"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def install(folder: Path, name: str, module: str, code: str) -> None:
    """Lay out an installed distribution with one entry point, as pip would."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[finch_hub]\nplugin = {module}\n")
    (folder / f"{module.partition(':')[0]}.py").write_text(code)


def test_installed_plugins_are_loaded_and_import_errors_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "exits", "finch_test_exits", "import sys; sys.exit('bye')")
    install(tmp_path, "raises", "finch_test_raises", "import torch_that_is_not_installed")
    install(tmp_path, "lacks", "finch_test_lacks:plugin", "")
    code = (
        "from finch_hub.plugins.hooks import hookimpl\n"
        "from finch_hub.plugins.descriptors import Strategy\n"
        "@hookimpl\n"
        "def finch_strategies():\n"
        "    return [Strategy(name='installed', summary='x', target='a:b')]\n"
    )
    install(tmp_path, "works", "finch_test_works", code)
    monkeypatch.syspath_prepend(tmp_path)
    catalog = load_catalog()
    assert {problem.where for problem in catalog.problems} == {
        "plugin exits 1.0",
        "plugin raises 1.0",
        "plugin lacks 1.0",
    }
    assert catalog.strategies.plugin_of("installed") == "works"
    assert ("works", "1.0") in [(found.name, found.version) for found in catalog.plugins]
