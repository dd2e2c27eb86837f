"""Export to Ollama: a Modelfile and the GGUF adapter that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finch_hub.engine.export import gguf
from finch_hub.engine.export.parameters import OllamaParameters
from finch_hub.formats.atomic_writes import atomic_folder
from finch_hub.formats.finch_record import read_name, read_record, write_record

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
        lines = [f"FROM {parameters.base_model or base}", f"ADAPTER ./{gguf.FILE}"]
        if parameters.system:
            lines.append(f'SYSTEM """{parameters.system}"""')
        (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_record(folder, KIND, {"adapter": read_record(adapter)})
    return {**report, "create": f"ollama create {read_name(adapter).replace('/', '-')} -f {out / 'Modelfile'}"}
