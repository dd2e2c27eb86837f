"""A plugin package that puts secrets, or texts that steer terminals, into all that the hub stores, prints and logs.

`install` makes it an installed distribution for processes that have the folder on their Python path. The variable
`LEAKS` has the secrets, as a JSON list, and `LEAKY_BASE` the folder of a base.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from finch_hub.logins import find_login
from finch_hub.plugins.descriptors import BaseSource, ExportFormat, Listener
from finch_hub.plugins.hooks import hookimpl
from finch_hub.specs.value import Value

FORMS = (
    "no answer from https://user:{}@h/x",
    "no answer from https://{}@h/x?a=1",
    "refused Authorization: Bearer {}",
    "{{'headers': {{'X-Api-Key': '{}'}}}}",
    "connection failed: host=db password='{}' dbname=x",
    "https://b.example/x?X-Amz-Signature={}&y=1",
    "AccountKey={};EndpointSuffix=x",
    '{{"token": "{}"}}',
)
"""Texts that have a secret by their form."""


class Parameters(Value):
    """How the job ends."""

    end: Literal["raise", "print", "return"] = "return"


def _list_texts() -> list[str]:
    known = json.loads(os.environ["LEAKS"])
    plain = [f"refused {text}" for secret in known for text in (secret, quote(secret, safe="", errors="replace"))]
    return plain + [form.format(f"{os.environ['LEAKY_FORM']}{number}aZ") for number, form in enumerate(FORMS)]


def matches(source: str) -> bool:
    return source.startswith("leaky:")


def fetch(source: Any, *, cache: Path, progress: Any) -> Path:
    """Return the folder of a base if the netrc file has the login for its host."""
    login = find_login(source.source)
    if login is None:
        raise RuntimeError(f"no login for {source.source}")
    for text in _list_texts():
        progress(text)
        logging.getLogger("leaky").warning(text)
    return Path(os.environ["LEAKY_BASE"])


def write(adapter: Path, base: Path | None, out: Path, parameters: Parameters) -> dict[str, Any]:
    texts = _list_texts()
    for text in texts:
        logging.getLogger("leaky").warning("%s", text, extra={"field": text})
        warnings.warn(text, stacklevel=1)
    if parameters.end == "raise":
        try:
            raise ValueError(" ".join(texts))
        except ValueError as error:
            raise RuntimeError("\n".join(texts)) from error
    if parameters.end == "print":
        print("\n".join(texts), file=sys.stderr, flush=True)
        os._exit(4)
    out.mkdir()
    (out / "done").write_text("done")
    return {"texts": texts, "password": json.loads(os.environ["LEAKS"])[0], "nested": {"more": texts}}


def listen(job: Any) -> None:
    raise RuntimeError("\n".join(_list_texts()))


def fail() -> None:
    raise RuntimeError("\n".join(_list_texts()))


@hookimpl
def finch_base_sources() -> Sequence[BaseSource]:
    return [BaseSource(name="leaky", summary="Leaks.", matches="finch_leaks:matches", target="finch_leaks:fetch")]


@hookimpl
def finch_export_formats() -> Sequence[ExportFormat]:
    summary = " ".join(_list_texts()).encode(errors="replace").decode()
    return [ExportFormat(name="leaky", summary=summary, target="finch_leaks:write", parameters=Parameters)]


@hookimpl
def finch_listeners() -> Sequence[Listener]:
    return [Listener(name="leaky", summary="Leaks.", target="finch_leaks:listen")]


def install(folder: Path, *, with_broken: bool = False) -> None:
    """Install this package into a folder for the Python path.

    Args:
        with_broken: whether the package has a second plugin, which cannot be imported.
    """
    information = folder / "finch_leaks-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "finch_leaks.py").write_bytes(Path(__file__).read_bytes())
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: finch-leaks\nVersion: 1.0\n")
    broken = "leaks-broken = finch_leaks_broken\n" if with_broken else ""
    (information / "entry_points.txt").write_text(f"[finch_hub]\nleaks = finch_leaks\n{broken}")
    (folder / "finch_leaks_broken.py").write_text("import finch_leaks\nfinch_leaks.fail()\n")
