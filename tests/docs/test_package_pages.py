"""What PyPI shows: links that work away from the repository, and a changelog that has the version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = "https://github.com/finch-hub/finch-hub"


def test_links_of_the_readme_are_absolute() -> None:
    inline = re.findall(r"\]\(([^)]+)\)", README)
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", README, re.MULTILINE))
    assert len(defined) > 10
    assert [link for link in [*inline, *defined.values()] if not link.startswith("https://")] == []
    assert set(re.findall(r"\]\[([^\]]+)\]", README)) == defined.keys()


def test_links_into_the_repository_name_files_that_exist() -> None:
    pages = [README, (ROOT / "SECURITY.md").read_text(encoding="utf-8"), *PROJECT["urls"].values()]
    links = [link for page in pages for link in re.findall(rf"{REPOSITORY}/(?:blob|tree)/main/([\w./-]+)", page)]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_url_of_the_package_is_in_the_repository() -> None:
    assert all(url.startswith(REPOSITORY) for url in PROJECT["urls"].values())


def test_changelog_begins_with_the_version_of_the_package() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d+\.\d+\.\d+)", changes, re.MULTILINE)[0] == PROJECT["version"]


def test_readme_names_every_extra() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == PROJECT["optional-dependencies"].keys()


def test_every_requirement_has_a_lower_bound() -> None:
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    requirements = [*PROJECT["dependencies"], *extras]
    assert [text for text in requirements if not re.match(r"[\w-]+(\[\w+\])?>=\d", text)] == []
