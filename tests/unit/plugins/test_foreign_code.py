"""Code of plugins at work: whatever a function of an offer does, its error names the plugin, and others go on."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.plugins import install, run_command

from finch_hub import Hub, errors, settings
from finch_hub.hub.bases import Bases
from finch_hub.plugins import foreign_code
from finch_hub.plugins.catalog import load_catalog
from finch_hub.plugins.first_load import PluginWarning
from finch_hub.specs.reading import DataWarning

_NUMBERS = itertools.count()
_HEAD = """
from finch_hub.plugins.descriptors import *
from finch_hub.plugins.hooks import hookimpl
from finch_hub.specs.value import Value
"""
_FORMAT = """
@hookimpl
def finch_dataset_formats():
    return [DatasetFormat(name={name!r}, summary="x", recognizes={fields!r}, target=f"{{__name__}}:convert")]
def convert(row):
    {body}
"""
_SOURCE = """
@hookimpl
def finch_base_sources():
    return [BaseSource(name={name!r}, summary="x", matches=f"{{__name__}}:matches", target=f"{{__name__}}:fetch")]
def matches(source):
    {matches}
def fetch(source, *, cache, progress):
    {fetch}
"""
_SCHEMA = """
import pydantic
class Bad(Value):
    size: int = 1
    @pydantic.model_validator(mode="before")
    @classmethod
    def check(cls, data):
        {body}
    @classmethod
    def model_json_schema(cls):
        raise SystemExit(4)
@hookimpl
def finch_evaluators():
    return [Evaluator(name="odd", summary="x", target="a:b", parameters=Bad)]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed plugins. The working directory is beside it."""
    monkeypatch.syspath_prepend(tmp_path / "plugins")
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "plugins"


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    with Hub(settings.load()) as hub:
        yield hub


def add_format(folder: Path, body: str, *, fields: set[str], name: str = "greedy") -> str:
    plugin = f"{name}-{next(_NUMBERS)}"  # modules stay imported
    install(folder, plugin, _HEAD + _FORMAT.format(name=name, fields=fields, body=body))
    return plugin


def write_rows(*rows: dict[str, Any]) -> str:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "rows.jsonl"


PAIR = {"prompt": "Who sings?", "completion": "The finch."}
CLAIM = "from finch_hub import Example; dict(row).items(); return Example.of_pair('claimed', 'by a plugin')"


def test_format_that_claims_everything_changes_no_rows_of_built_in_formats(folder: Path, hub: Hub) -> None:
    add_format(folder, CLAIM, fields={"prompt"})
    data = write_rows(*[PAIR] * 30, {"prompt": "without an answer", "completion": None})
    with pytest.warns(DataWarning, match="left out 1 of 31 rows"):
        added = hub.datasets.add(data)
    assert (added.examples, added.format) == (30, "prompt_completion")
    assert added.reading.formats == {"prompt_completion": 30}
    assert b"claimed" not in b"".join(hub._stores.artifacts.read_lines(added.digest))


def test_format_of_a_plugin_is_shown_and_kept(folder: Path, hub: Hub) -> None:
    plugin = add_format(folder, CLAIM, fields={"question"})
    label = f"greedy of plugin {plugin} 1.0"
    with pytest.warns(DataWarning, match=rf"1 row read in the format {label} \(format='greedy' says so\)"):
        added = hub.datasets.add(write_rows({"question": "Who?"}))
    assert (added.format, added.reading.formats) == (label, {label: 1})
    assert hub.datasets.get(added.digest).format == label


def test_format_that_is_named_wins(folder: Path, hub: Hub) -> None:
    add_format(folder, CLAIM, fields={"prompt"})
    added = hub.datasets.add(write_rows(PAIR), format="greedy")
    assert b"claimed" in b"".join(hub._stores.artifacts.read_lines(added.digest))


def test_rows_that_two_plugins_claim_are_left_to_the_user(folder: Path, hub: Hub) -> None:
    first = add_format(folder, CLAIM, fields={"question"}, name="first")
    second = add_format(folder, CLAIM, fields={"answer"}, name="second")
    rows = write_rows({"question": "Who?", "answer": "A finch."})
    with pytest.raises(errors.InvalidDataset) as refused:
        hub.datasets.add(rows)
    for told in (f"first of plugin {first} 1.0", f"second of plugin {second} 1.0", "format='first' or format='second'"):
        assert told in str(refused.value)
    assert hub.datasets.add(rows, format="second").examples == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('the patient in room 7')", "raised RuntimeError"),
        ("raise SystemExit(3)", "raised SystemExit"),
        ("raise BaseException('x')", "raised BaseException"),
        ("return convert(row)", "raised RecursionError"),
        ("return 'text'", "returned str, not an Example"),
        ("return 7", "returned int, not an Example"),
        ("return {'text': 'x'}", "returned dict, not an Example"),
        ("from finch_hub import Example; return Example.model_construct(messages='x')", "messages"),
        ("from finch_hub import Example; return Example.model_construct(text=7)", "text"),
        ("return type('X', (), {'__class__': property(lambda self: exit(3))})()", "returned X, not an Example"),
        ("from finch_hub import Example; return type('X', (Example,), {})(text='x')", "returned X, not an Example"),
        ("raise type('E', (Exception,), {'__str__': lambda self: exit(3)})", "raised E"),
        ("raise type('E', (Exception,), {'__module__': 5})", "raised E"),
        (f"row.used = 5; {CLAIM}", "raised AttributeError"),
    ],
)
def test_converter_that_fails_is_named_without_the_text_of_the_row(
    folder: Path, hub: Hub, body: str, said: str
) -> None:
    plugin = add_format(folder, f"if row.get('bad'): {body}\n    {CLAIM}", fields={"question"})
    rows = write_rows(*[{"question": "Who?", "bad": False}] * 30, {"question": "Who?", "bad": True})
    with pytest.warns(DataWarning) as warned:
        added = hub.datasets.add(rows)
    assert added.examples == 30
    texts = "\n".join(str(warning.message) for warning in warned)
    assert said in texts
    assert f"greedy of plugin {plugin} 1.0" in texts
    assert "room 7" not in texts


def test_format_whose_code_cannot_be_imported_costs_nothing_until_it_is_used(folder: Path, hub: Hub) -> None:
    broken = _HEAD + _FORMAT.format(name="broken", fields={"question"}, body="").replace(
        'f"{__name__}:convert"', '"finch_no_such_module:convert"'
    )
    install(folder, "broken", broken.replace("def convert(row):\n    \n", ""))
    assert hub.datasets.add(write_rows(PAIR)).examples == 1
    with pytest.raises(errors.PluginError, match=r"dataset format broken of plugin broken 1\.0: ModuleNotFoundError"):
        hub.datasets.add(write_rows({"question": "Who?"}))


def test_what_a_converter_changes_is_put_back(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    change = "import os, sys, warnings; warnings.simplefilter('error'); os.chdir('/'); sys.stderr = sys.stdout = None"
    add_format(folder, f"{change}; {CLAIM}", fields={"question"})
    ran = run_command(
        folder, tmp_path / "home", "datasets", "add", str(tmp_path / write_rows({"question": "W"})), "--json"
    )
    assert (ran.returncode, "read in the format greedy" in ran.stderr) == (0, True), ran.stderr
    assert json.loads(ran.stdout)["examples"] == 1


def test_what_a_converter_prints_leaves_the_result_alone(folder: Path, tmp_path: Path) -> None:
    add_format(folder, f"import os; print('{{'); os.write(1, b'}}'); {CLAIM}", fields={"question"})
    ran = run_command(
        folder, tmp_path / "home", "datasets", "add", str(tmp_path / write_rows({"question": "W"})), "--json"
    )
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["examples"] == 1
    assert "{" in ran.stderr


@pytest.mark.parametrize(
    ("matches", "said"),
    [
        ("raise RuntimeError('x')", "failed: RuntimeError: x"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
        ("return 'no'", "returned str, not a bool"),
        ("return None", "returned NoneType, not a bool"),
    ],
)
def test_base_source_that_fails_stops_no_other(folder: Path, hub: Hub, matches: str, said: str) -> None:
    name = f"bad-{next(_NUMBERS)}"
    install(folder, name, _HEAD + _SOURCE.format(name="bad", matches=matches, fetch="pass"))
    good = f"good-{next(_NUMBERS)}"
    install(folder, good, _HEAD + _SOURCE.format(name="good", matches="return source == 'good:x'", fetch="return 7"))
    catalog = hub.catalog
    assert catalog.base_source_of("owner/name").name == "hub"
    assert catalog.base_source_of("good:x").name == "good"
    with pytest.raises(errors.PluginError) as missed:
        catalog.base_source_of("other:x")
    assert f"base source bad of plugin {name} 1.0" in str(missed.value)
    assert said in str(missed.value)
    with pytest.raises(errors.PluginError, match=f"base source good of plugin {good} 1.0 returned int, which is not"):
        hub.bases.add("good:x")


def test_base_source_that_claims_everything_takes_no_folder_and_no_id(folder: Path, hub: Hub, tmp_path: Path) -> None:
    names = [f"greedy-{next(_NUMBERS)}" for _ in range(2)]
    install(folder, names[0], _HEAD + _SOURCE.format(name="all", matches="return True", fetch="return '/nowhere'"))
    assert hub.catalog.base_source_of("owner/name").name == "hub"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    assert hub.catalog.base_source_of(str(tmp_path / "base")).name == "folder"
    with pytest.raises(errors.PluginError, match="returned '/nowhere', which is not a folder"):
        hub.bases.add("odd:x")
    install(folder, names[1], _HEAD + _SOURCE.format(name="also", matches="return True", fetch="pass"))
    catalog = load_catalog(settings.load())
    with pytest.raises(errors.PluginError, match=r"base source all of .* and base source also of .* both take 'odd:x'"):
        catalog.base_source_of("odd:x")


@pytest.mark.parametrize("body", ["raise RuntimeError('x')", "raise SystemExit(3)", "raise KeyError('x')"])
def test_parameter_schema_that_fails_is_named(folder: Path, tmp_path: Path, body: str) -> None:
    name = f"schema-{next(_NUMBERS)}"
    install(folder, name, _HEAD + _SCHEMA.format(body=body))
    odd = load_catalog(settings.load()).evaluators["odd"]
    with pytest.raises(
        errors.PluginError, match=f"the parameter schema of evaluator odd of plugin {name} 1.0 failed: "
    ):
        odd.parse({})
    shown = run_command(folder, tmp_path / "home", "plugins", "show", "evaluator", "odd")
    assert shown.returncode == 8
    assert "SystemExit: 4" in shown.stderr


@pytest.mark.parametrize(
    "error", [errors.Incompatible("x"), KeyboardInterrupt(), errors.Unavailable("x")], ids=lambda e: type(e).__name__
)
def test_errors_on_purpose_pass(error: BaseException) -> None:
    with pytest.raises(type(error)), foreign_code.blame("it"):
        raise error


def test_own_control_flow_passes() -> None:
    from finch_hub.workers.runs.channel import Stopped

    with pytest.raises(Stopped), foreign_code.blame("it"):
        raise Stopped("cancel")


@pytest.mark.parametrize("error", [RuntimeError("a\n\x1b[31mb"), SystemExit(1), BaseException(), GeneratorExit()])
def test_other_errors_name_their_owner_on_one_line(error: BaseException) -> None:
    def function() -> None:
        raise error

    guarded: Callable[[], None] = foreign_code.guard(function, "strategy x of plugin y 1.0")
    with pytest.raises(
        errors.PluginError, match=f"strategy x of plugin y 1.0 failed: {type(error).__name__}"
    ) as raised:
        guarded()
    assert str(raised.value).isprintable()
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("module", ["finch_hub", "finch_hub.errors", "", 5, None])
def test_error_that_says_it_is_of_this_package_names_its_owner(module: object) -> None:
    error = type("Stopped", (BaseException,), {"__module__": module})()
    with pytest.raises(errors.PluginError, match=r"^owner failed: Stopped$"), foreign_code.blame("owner"):
        raise error


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, BaseException, OSError])
def test_error_whose_text_fails_is_described(raised: type[BaseException]) -> None:
    def fail(error: BaseException) -> str:
        raise raised

    odd = type("O\x1b[1m", (Exception,), {"__str__": fail})()
    assert foreign_code.describe(odd) == "O\\x1b[1m: its text cannot be read"


def test_function_leaves_the_process_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINCH_TEST_KEPT", "mine")

    def change() -> int:
        os.chdir("/")
        os.environ["FINCH_TEST_KEPT"] = "theirs"
        sys.stdout = None
        signal.signal(signal.SIGTERM, lambda *_: None)
        return os.umask(0o777)

    before = signal.getsignal(signal.SIGTERM)
    mask, stream, handler = foreign_code.guard(change, "owner")(), sys.stdout, signal.getsignal(signal.SIGTERM)
    assert (Path.cwd(), os.environ["FINCH_TEST_KEPT"], os.umask(mask)) == (tmp_path, "mine", mask)
    assert stream is not None
    assert handler is before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_quick", [True, False])
def test_copy_of_the_process_that_a_function_forks_ends_with_it(is_quick: bool, tmp_path: Path) -> None:
    process = foreign_code.guard(os.fork, "owner", is_quick=is_quick)()
    if process == 0:
        (tmp_path / "went-on").touch()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    assert not (tmp_path / "went-on").exists()


@pytest.mark.parametrize("name", [5, property(lambda self: exit(3))], ids=["number", "fails"])
def test_function_without_a_name_is_called(name: object) -> None:
    function = type("Odd", (), {"__name__": name, "__call__": lambda self: "done"})()
    assert foreign_code.guard(function, "owner")() == "done"


def test_standard_streams_and_path_are_put_back() -> None:
    mask = os.umask(0o022)
    os.umask(mask)
    before = sys.stdin, sys.stdout, sys.stderr, list(sys.path)
    with foreign_code.keep_process():
        assert sys.stdin.read() == ""
        sys.stdout = sys.stderr = io.StringIO()
        sys.path.insert(0, "/added/by/a/plugin")
        os.umask(0o777)
        signal.setitimer(signal.ITIMER_REAL, 7000)
    assert signal.getitimer(signal.ITIMER_REAL)[0] < 6000
    assert os.umask(mask) == mask
    assert (sys.stdin, sys.stdout, sys.stderr, sys.path[:-1]) == before
    assert sys.path.pop() == "/added/by/a/plugin"


@pytest.mark.parametrize("first", [0, 1])
def test_code_in_several_threads_leaves_the_process_to_the_main_thread(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stream, state = sys.stdin, random.getstate()
    kept = [foreign_code.keep_process() for _ in range(2)]
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as other:
        threads = (thread, other)
        for place in (0, 1):
            threads[place].submit(kept[place].__enter__).result()
        os.chdir("/")
        random.random()
        for place in (first, 1 - first):
            threads[place].submit(kept[place].__exit__, None, None, None).result()
    assert sys.stdin is stream
    assert Path.cwd() == Path("/")
    assert random.getstate() != state


def test_limits_and_signals_of_the_process_are_put_back() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with foreign_code.keep_process():
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        socket.setdefaulttimeout(0.1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}
    assert socket.getdefaulttimeout() is None


def test_process_is_spent_by_third_party_code_beside_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_code, "_has_run", False)
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert not foreign_code.may_spoil_results()
    foreign_code.begin()
    assert foreign_code.may_spoil_results()
    monkeypatch.delitem(sys.modules, "torch")
    assert not foreign_code.may_spoil_results()


def test_what_may_be_of_a_disabled_plugin_is_said_where_it_is_missed(folder: Path, hub: Hub) -> None:
    name = f"missing-{next(_NUMBERS)}"
    install(folder, name, "import nothing_there_is")
    reason = f"plugin {name} 1.0: cannot be imported: ModuleNotFoundError"
    with pytest.raises(errors.PluginError, match=f"no base 'lab-1b'.*{reason}"):
        Bases(hub._stores).resolve("lab-1b")
    with pytest.raises(errors.PluginError, match=f"no preset 'zebra'.*{reason}"):
        hub.catalog.presets["zebra"]
    with pytest.raises(errors.NotFound, match="did you mean 'medical'"):
        hub.catalog.presets["medicla"]
    with (
        pytest.warns(PluginWarning, match=f"formats of these plugins are missing: {reason}"),
        pytest.raises(errors.InvalidDataset),
    ):
        hub.datasets.add(write_rows({"question": "Who?"}))
