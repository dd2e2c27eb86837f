"""American spelling in code, comments, messages and pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import spelling
from support.spelling import british

ROOT = Path(__file__).parents[2]
FOLDERS = ("finch_hub", "tests", "benchmarks", "examples", "docs")
ENDINGS = {".py", ".md", ".txt", ".toml"}
EXEMPT = {
    Path(__file__),
    Path(spelling.__file__),
    ROOT / "CHANGELOG.md",  # it names what was renamed
    ROOT / "examples" / "demo" / "knowledge.py",  # its text was measured as it is, see docs/benchmarks.md
}


@pytest.mark.parametrize("folder", [*FOLDERS, "."])
def test_words_are_spelled_the_american_way(folder: str) -> None:
    files = (ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*")
    wrong = [
        f"{file.relative_to(ROOT)}:{number}: {word}"
        for file in sorted(files)
        if file.is_file() and file.suffix in ENDINGS and file not in EXEMPT
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        for word in british(line)
    ]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# Its behaviour is optimised.", ["behaviour", "optimised"]),
        ("def tokenise_all(): ...", ["tokenise"]),
        ("class ArtefactStore: ...", ["ArtefactStore"]),
        ("_QUANTISED = 1", ["QUANTISED"]),
        ('"the licence of the base"', ["licence"]),
        ("optimistic behavior, quantized artifacts, a cancelled job, a finite analysis, promise, precise", []),
    ],
)
def test_a_british_word_is_found_wherever_it_stands(text: str, found: list[str]) -> None:
    assert british(text) == found
