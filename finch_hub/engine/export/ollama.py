"""Ollama: a Modelfile beside the GGUF adapter it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finch_hub.engine.export import gguf
from finch_hub.engine.export.parameters import OllamaParameters
from finch_hub.formats import staging

KIND = "Ollama model"


def write(adapter: Path, base: Path | None, out: Path, parameters: OllamaParameters) -> dict[str, Any]:
    """Write ``Modelfile`` and ``adapter.gguf``, from which ``ollama create NAME -f Modelfile`` builds.

    The chat template is the base's; the adapter's alpha is a whole number, as Ollama asks for.

    Raises:
        Incompatible: what :func:`finch_hub.engine.export.gguf.write` cannot write.
        NotFound: a folder or file is missing.
        Conflict: `out` exists and may not be replaced.
        Unavailable: `out` cannot be written.

    """
    with staging.staged(out, kind=KIND, replace=parameters.replace) as folder:
        report = gguf.write_file(adapter, base, folder / gguf.FILE, parameters)
        lines = [f"FROM {parameters.base_model or base}", f"ADAPTER ./{gguf.FILE}"]
        if parameters.system is not None:
            lines.append(f'SYSTEM """{parameters.system}"""')
        (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        staging.write_record(folder, KIND, {"adapter": staging.record_of(adapter)})
    return {**report, "create": f"ollama create {staging.name_of(adapter).replace('/', '-')} -f {out / 'Modelfile'}"}
