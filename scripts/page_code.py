"""The Python code of the README and the guides as files, for type checkers.

A page is one module, since its blocks share their names. Blocks of `python file=PATH` are files of their own beside it.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```python(?: run| file=(?P<file>\S+))?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
# Names that the text of a page introduces. The tests of the pages give them values.
_GIVEN = {
    "export": "from pathlib import Path; base = adapter = other = work = Path()",
    "training": "from pathlib import Path; base, pairs = Path(), [('prompt', 'completion')]",
}


def write_page_code(folder: Path) -> None:
    """Write the code of all pages to a folder, which is emptied first, with the settings of pyright.

    A line of a page has the same number in the module, so that an error names the line of the page.
    """
    shutil.rmtree(folder, ignore_errors=True)
    written: dict[Path, str] = {}
    for page in PAGES:
        text, name = page.read_text(encoding="utf-8"), page.stem.lower()
        module = _GIVEN.get(name, "")
        for block in _BLOCK.finditer(text):
            if block["file"]:
                path = folder / name / block["file"]
                written[path] = f"{written[path]}\n\n{block['code']}" if path in written else block["code"]
            else:
                module += "\n" * (text.count("\n", 0, block.start("code")) - module.count("\n")) + block["code"]
        if module.strip():
            written[folder / name / f"{name}_page.py"] = module
    written[folder / "pyrightconfig.json"] = json.dumps({"extraPaths": ["plugins"], "pythonVersion": "3.11"})
    for path, code in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")


def main() -> None:
    """Write the code to the folder that the command names."""
    write_page_code(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
