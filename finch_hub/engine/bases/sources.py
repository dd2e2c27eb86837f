"""Where bases come from: a local folder, a GGUF file, the Hugging Face hub.

For each source there is a test whether a text names one, and a function that brings it to a folder with
`config.json`, safetensors weights and a tokenizer. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from finch_hub import errors
from finch_hub.formats import model_files
from finch_hub.specs.jobs import BaseModelSource

Progress = Callable[[str], None]

# huggingface.co's own rule: one or two parts of letters, digits and . _ -
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# What a causal language model needs; pickled weights and code are never downloaded.
_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]


def resolve(source: BaseModelSource | str | Path, *, cache: Path, progress: Progress | None = None) -> Path:
    """Return a local folder with the base's configuration, safetensors weights and tokenizer.

    Args:
        source: a folder, a GGUF file (converted once) or a Hugging Face id.
        cache: folder for what is made on the way.
        progress: told in a few words what takes long.

    Raises:
        NotFound: there is no such folder, file or repository.
        Incompatible: it holds no model that can be used: pickled weights only, an adapter, no tokenizer.
        Unavailable: the hub does not answer and the base is not in its cache.

    """
    wanted = source if isinstance(source, BaseModelSource) else BaseModelSource(source=str(source))
    say = progress or (lambda message: None)
    for matches, fetch in ((is_gguf, fetch_gguf), (is_folder, fetch_folder), (is_hub_id, fetch_hub)):
        if matches(wanted.source):
            return fetch(wanted, cache=cache, progress=say)
    raise errors.NotFound("base model", wanted.source)


def is_folder(source: str) -> bool:
    """Tell whether the text names a folder: one that exists, or a path that can be nothing else."""
    return Path(source).expanduser().is_dir() or source.startswith(("/", "./", "../", "~"))


def is_gguf(source: str) -> bool:
    """Tell whether the text names a GGUF file, by its suffix."""
    return source.lower().endswith(".gguf")


def is_hub_id(source: str) -> bool:
    """Tell whether the text has the form of a Hugging Face repository id."""
    return bool(_HUB_ID.fullmatch(source)) and ".." not in source and "--" not in source


def fetch_folder(source: BaseModelSource, *, cache: Path, progress: Progress) -> Path:
    """Return the folder itself, once it is seen to hold a model.

    Raises:
        NotFound: there is no such folder.
        Incompatible: it is a file, or holds no usable model.

    """
    folder = Path(source.source).expanduser().absolute()
    if folder.is_file():
        fix = "give a folder of safetensors, a .gguf file or a Hugging Face id"
        raise errors.Incompatible(errors.Problem(where=str(folder), what="is a file and no base model", fix=fix))
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise errors.NotFound("base model folder", str(folder), [str(folder.parent / name) for name in beside])
    if source.revision is not None:
        raise errors.InvalidSpec(
            errors.Problem(what="a local folder has no revisions", where=str(folder), fix="leave the revision out")
        )
    return check_folder(folder)


def fetch_gguf(source: BaseModelSource, *, cache: Path, progress: Progress) -> Path:
    """Convert a GGUF file to a folder of safetensors, once for its content, and return that folder.

    Raises:
        NotFound: there is no such file.
        Incompatible: its architecture cannot be converted, or it is no GGUF file.

    """
    file = Path(source.source).expanduser().absolute()
    if not file.is_file():
        beside = [str(p) for p in file.parent.glob("*.gguf")] if file.parent.is_dir() else []
        raise errors.NotFound("GGUF file", str(file), beside)
    from finch_hub.engine.bases import gguf

    return gguf.convert_once(file, cache=cache, progress=progress)


def fetch_hub(source: BaseModelSource, *, cache: Path, progress: Progress) -> Path:
    """Download a repository of the Hugging Face hub into the hub's own cache; only safetensors weights, no code.

    The hub's environment variables (`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`) are honoured.

    Raises:
        NotFound: the hub has no such repository or revision, or does not show it to you.
        Incompatible: it holds no usable model.
        Unavailable: the hub does not answer and the base is not in its cache.

    """
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    name = f"{source.source}@{source.revision}" if source.revision else source.source
    progress(f"fetching {name} from the Hugging Face hub")
    try:
        folder = huggingface_hub.snapshot_download(
            source.source, revision=source.revision, allow_patterns=_WANTED, ignore_patterns=["original/*", "onnx/*"]
        )
    except hub_errors.GatedRepoError as error:
        raise errors.Unavailable(
            f"base model {name!r} is gated: accept its terms on huggingface.co and set HF_TOKEN"
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError) as error:
        raise errors.NotFound("base model", name) from error
    except (hub_errors.HfHubHTTPError, hub_errors.LocalEntryNotFoundError, OSError) as error:
        raise errors.Unavailable(
            f"base model {name!r} is no local folder, not in the Hugging Face cache, and the hub does not answer: "
            f"{type(error).__name__}"
        ) from error
    return check_folder(Path(folder))


def check_folder(folder: Path) -> Path:
    """Return the folder if it holds a base model that can be used.

    Raises:
        Incompatible: with everything that is missing or wrong.

    """
    problems = []
    if (folder / "adapter_config.json").is_file():
        problems.append(errors.Problem(what="is an adapter, not a base model", fix="name the base it was trained on"))
    elif not (folder / "config.json").is_file():
        problems.append(errors.Problem(what="has no config.json", fix="give the folder of a transformers model"))
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        problems.append(
            errors.Problem(
                what=f"has pickled weights only ({pickled[0]}), which can run code", fix="convert to safetensors"
            )
            if pickled
            else errors.Problem(what="has no safetensors weights")
        )
    else:
        problems += model_files.damage_of(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        problems.append(
            errors.Problem(what="has no tokenizer", fix="put the model's tokenizer.json beside its weights")
        )
    if problems:
        raise errors.Incompatible(problems, subject=f"base model {folder}")
    return folder
