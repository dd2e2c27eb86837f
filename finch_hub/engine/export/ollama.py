"""Export to Ollama: a Modelfile and the GGUF adapter that it names."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.engine.export import gguf
from finch_hub.engine.export.parameters import OllamaParameters
from finch_hub.formats.atomic_writes import atomic_folder
from finch_hub.formats.finch_record import read_name, read_record, write_record
from finch_hub.texts.visible_text import to_line

KIND = "Ollama model"


def export_ollama(adapter: Path, base: Path | None, out: Path, parameters: OllamaParameters) -> dict[str, Any]:
    """Write ``Modelfile`` and ``adapter.gguf``, the input of ``ollama create NAME -f Modelfile``.

    The chat template is the base's. The adapter's alpha is an integer, because Ollama requires it.

    Raises:
        Incompatible: see :func:`finch_hub.engine.export.gguf.export_gguf`.
        NotFound: a folder or file is missing.
        Conflict: `out` exists and may not be replaced.
        Unavailable: `out` cannot be written.
    """
    with atomic_folder(out, kind=KIND, replace=parameters.replace) as folder:
        report = gguf.write_file(adapter, base, folder / gguf.FILE, parameters)
        lines = [f"FROM {parameters.base_model or _check_path(base)}", f"ADAPTER ./{gguf.FILE}"]
        if parameters.system:
            lines.append(f'SYSTEM """{parameters.system}"""')
        (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_record(folder, KIND, {"adapter": read_record(adapter)})
    name = read_name(adapter).replace("/", "-")
    return {**report, "create": shlex.join(["ollama", "create", name, "-f", str(out / "Modelfile")])}


def _check_path(base: Path | None) -> str:
    """Refuse a path that would become other instructions of the Modelfile, or another path."""
    if (shown := to_line(base)) != str(base):
        what, fix = "has characters that a Modelfile cannot hold", "name a model of Ollama with base_model"
        raise errors.Incompatible(what, where=f"base {shown}", fix=fix)
    return shown
