"""A notebook in a real kernel, from a base to a composition: what its cells show."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.slow  # a kernel, a worker and its child import torch

SVG = "{http://www.w3.org/2000/svg}"
SHOWN = ("execute_result", "display_data")
DRAWN = {
    "preview": ("What does finch 0 eat at noon?", "18 training examples, 6 for validation"),
    "report": ("held-out loss", "of the completion tokens"),
    "sweep": ("behind the best", "owls/1", "owls/2", "The differences mean little"),
    "composition": ("retention", "birds/1", "owls/", "Candidates"),
}
CELLS = {
    "base": """
from finch_hub import Hub
hub = Hub()
base = hub.bases.add({base!r}, name="tiny")
base
""",
    "preview": """
birds = [(f"What does finch {{n}} eat at noon?", f"It eats {{('seeds', 'buds', 'grain')[n % 3]}}.") for n in range(24)]
owls = [(f"Where does owl {{n}} sleep by day?", f"In a {{('barn', 'tree', 'tower')[n % 3]}}.") for n in range(24)]
options = dict(base="tiny", validation=0.25, epochs=3, rank=4, alpha=8.0, learning_rate=5e-3, batch_size=4, threads=1)
hub.preview_training(birds, adapter="birds", **options)
""",
    "handle": """
job = hub.train(birds, adapter="birds", **options)
job
""",
    "waiting": "version = job.result()",
    "version": """
hub.adapters.set_alias("birds/1", "best")
hub.adapters["birds@best"]
""",
    "curve": 'hub.adapters["birds@best"].curve',
    "report": "job.report()",
    "sweep handle": """
sweep = hub.sweep(owls, adapter="owls", **{{**options, "rank": [4, 8]}})
sweep
""",
    "sweep": "sweep.wait()",
    "composition": """
composed = hub.compose(["birds", "owls"], adapter="meadow", evaluations=2)
composed.report()
""",
    "end": """
print(composed.result().reference)
hub.workers.stop_own()
hub.close()
""",
}


@pytest.fixture(scope="module")
def outputs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The outputs of each cell."""
    home = tmp_path_factory.mktemp("notebook")
    cells = [nbformat.v4.new_code_cell(code.format(base=str(tiny_folder)).strip()) for code in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"FINCH_HOME": home / "home", "OMP_NUM_THREADS": "1", "IPYTHONDIR": home}.items():
            patch.setenv(name, str(value))
        nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}


def find_shown(outputs: dict[str, list[Any]], cell: str, *, kind: str = "execute_result") -> dict[str, str]:
    """Return what the only output of this kind of a cell has for each media type."""
    (shown,) = (output.data for output in outputs[cell] if output.output_type == kind)
    return dict(shown)


def parse(shown: str) -> ET.Element:
    """Return HTML that is well-formed XML, as one element."""
    return ET.fromstring(f"<div>{shown}</div>")


def find_lines(shown: str) -> list[ET.Element]:
    """Return the lines of the loss curve."""
    (picture,) = parse(shown).iter(f"{SVG}svg")
    return [path for path in picture.iter(f"{SVG}path") if path.get("stroke-linejoin") == "round"]


def test_cells_write_no_warnings_and_no_errors(outputs: dict[str, list[Any]]) -> None:
    streams = [output for cell in outputs.values() for output in cell if output.output_type not in SHOWN]
    assert [(stream.name, stream.text) for stream in streams] == [("stdout", "meadow/1\n")]


@pytest.mark.parametrize("cell", [name for name in CELLS if name not in ("waiting", "end")])
def test_each_object_has_a_short_text_and_html(outputs: dict[str, list[Any]], cell: str) -> None:
    shown = find_shown(outputs, cell)
    assert len(shown["text/plain"].splitlines()) <= 20
    assert max(map(len, shown["text/plain"].splitlines())) <= 100
    assert "".join(parse(shown["text/html"]).itertext()).strip()


@pytest.mark.parametrize("cell", ["waiting", "version", "curve"])
def test_curve_of_training_and_held_out_loss_is_drawn_on_any_page(outputs: dict[str, list[Any]], cell: str) -> None:
    shown = find_shown(outputs, cell, kind="display_data" if cell == "waiting" else "execute_result")["text/html"]
    lines = find_lines(shown)
    assert len({line.get("stroke") for line in lines}) == len(lines) == 2
    assert all(line.get("d", "").count("L") >= 2 for line in lines)
    assert "currentColor" in shown
    assert '"#ffffff"' not in shown


def test_waiting_leaves_messages_without_a_bar(outputs: dict[str, list[Any]]) -> None:
    for cell, last in (("waiting", "succeeded"), ("sweep", "owls/2"), ("composition", "succeeded")):
        shown = find_shown(outputs, cell, kind="display_data")["text/html"]
        assert shown.removesuffix("</pre>").endswith(last)
        assert "\\x1b" not in shown, "the kernel's standard error seems to be a terminal"
        assert not list(parse(shown).iter(f"{SVG}rect"))[1:], "only the page of the curve"


def test_reports_are_drawn_as_the_commands_draw_them(outputs: dict[str, list[Any]]) -> None:
    texts = {name: "".join(parse(find_shown(outputs, name)["text/html"]).itertext()) for name in DRAWN}
    for name, expected in DRAWN.items():
        for part in expected:
            assert part in texts[name], name
    (learned,) = {
        span.get("style", "")
        for span in parse(find_shown(outputs, "preview")["text/html"]).iter("span")
        if (span.text or "").startswith("It eats")
    }
    assert "underline" in learned
