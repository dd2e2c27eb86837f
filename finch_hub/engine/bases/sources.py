"""Sources of base models: a local folder, a GGUF file, the Hugging Face Hub.

Each source has a function that recognizes it by the text, and a function that fetches it: a local folder with
`config.json`, safetensors weights and a tokenizer. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from finch_hub import errors, settings
from finch_hub.artifacts.hugging_face import RepositoryReference, translate_errors
from finch_hub.engine.bases import fingerprint
from finch_hub.formats import model_files
from finch_hub.formats.peft_names import CONFIG
from finch_hub.progress import Meter
from finch_hub.specs.bases import BaseDescription, is_hub_id
from finch_hub.specs.jobs import BaseModelSource

Progress = Callable[[str], None]

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Small files of a causal language model, in the repository's root. Pickled weights and code are never downloaded.
_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "README.md"]  # the last one names the license
_FOLDERS = ["*/*.json", "*/*.txt", "*/*.model"]
_VOCABULARIES = ("tokenizer.json", "tekken.json", *model_files.SLOW_VOCABULARIES)


def fetch_base(source: BaseModelSource, *, cache: Path, progress: Progress = lambda text: None) -> Path:
    """Return a local folder with the base's configuration, safetensors weights and tokenizer.

    Args:
        source: folder, GGUF file (converted once) or Hugging Face id.
        cache: folder for converted files and file hashes.
        progress: called with a few words before each slow step.

    Raises:
        NotFound: the folder, file or repository does not exist, or you have no access to it.
        Incompatible: the files hold no usable model: pickled weights only, an adapter, no tokenizer.
        Unavailable: the Hugging Face Hub does not answer and the base is not in its cache.
    """
    for is_source, fetch in BUILTIN:
        if is_source(source.source):
            return fetch(source, cache=cache, progress=progress)
    raise errors.NotFound("folder, file or repository", source.source, fix=errors.BASE_FORMS)


def pin(source: BaseModelSource, folder: Path) -> BaseModelSource:
    """Return a source that brings the files of this folder again, also when its branch has moved on.

    For a Hugging Face id this is the commit whose files are in the folder. Other sources stay as they are.
    """
    is_snapshot = folder.parent.name == "snapshots" and not is_folder(source.source) and is_hub_id(source.source)
    return source.evolve(revision=folder.name) if is_snapshot else source


def source_of(base: BaseDescription) -> BaseModelSource:
    """Return the source of a registered base, with the commit of its files."""
    source = BaseModelSource(source=base.source, revision=base.revision)
    return pin(source, Path(base.path)) if base.path is not None else source


def check_registered(base: BaseDescription, *, cache: Path) -> None:
    """Check that a registered base has the files that it had then, as far as they are on this machine.

    Raises:
        Incompatible: its files were replaced, or its folder holds no usable model.
    """
    if base.path is None:
        return
    file, folder = settings.expand_home(base.source), Path(base.path)
    if is_gguf(base.source) and file.is_file():
        from finch_hub.engine.bases import gguf

        if gguf.folder_of(file, cache=cache).name != folder.name:
            raise _changed(base.source)
    elif folder.is_dir():
        check_files(folder, base.fingerprint, base.source, cache=cache)


def check_files(folder: Path, expected: str, source: str, *, cache: Path) -> None:
    """Check that a folder has the fingerprint with which its source was registered.

    Raises:
        Incompatible: it has another one, or holds no usable model.
    """
    if fingerprint.compute_like(expected, folder, cache=cache) != expected:
        raise _changed(source)


def _changed(source: str) -> errors.Incompatible:
    fix = "bring the files back, or add these with `finch-hub bases add`"
    return errors.Incompatible("has other files than when it was added", where=source, fix=fix)


def is_folder(source: str) -> bool:
    """Tell whether the text names a folder: it exists, or the text can only be a path."""
    return settings.expand_home(source).is_dir() or source.startswith(("/", "./", "../", "~"))


def _missing(kind: str, path: Path, neighbors: Iterable[Path]) -> errors.NotFound:
    """Return the error of a path that does not exist, with paths of its folder whose names are similar."""
    similar = errors.near(path.name, [neighbor.name for neighbor in neighbors])
    return errors.NotFound(kind, str(path), [str(path.parent / name) for name in similar], fix=errors.BASE_FORMS)


def is_gguf(source: str) -> bool:
    """Tell whether the text names a GGUF file, by its suffix."""
    return source.lower().endswith(".gguf")


def fetch_folder(source: BaseModelSource, *, cache: Path, progress: Progress) -> Path:
    """Return the folder itself after checking that it holds a usable model."""
    folder = settings.expand_home(source.source).absolute()
    if folder.is_file():
        fix = "give a folder of safetensors, a .gguf file or a Hugging Face id"
        raise errors.Incompatible("is a file, not a base model", where=str(folder), fix=fix)
    if not folder.is_dir():
        neighbors = [path for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise _missing("folder", folder, neighbors)
    if source.revision is not None:
        raise errors.InvalidSpec("a local folder has no revisions", where=str(folder), fix="omit the revision")
    return check_folder(folder)


def fetch_gguf(source: BaseModelSource, *, cache: Path, progress: Progress) -> Path:
    """Convert a GGUF file to a folder of safetensors, once for each content, and return the folder."""
    file = settings.expand_home(source.source).absolute()
    if not file.is_file():
        raise _missing("GGUF file", file, file.parent.glob("*.gguf") if file.parent.is_dir() else [])
    from finch_hub.engine.bases import gguf

    return gguf.convert_once(file, cache=cache, progress=progress)


def fetch_hub(source: BaseModelSource, *, cache: Path, progress: Progress) -> Path:
    """Download a repository of the Hugging Face Hub into its own cache: the files that transformers loads, no code.

    The weights are those of the commit that the small files are of. The name of the folder is this commit. The
    environment variables `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` apply.
    """
    place = RepositoryReference(name=source.source, revision=source.revision)
    progress(f"fetching {place} from the Hugging Face Hub")
    try:
        with translate_errors(f"fetch base model {str(place)!r}, which is no local folder", place):
            import huggingface_hub

            folder = huggingface_hub.snapshot_download(
                source.source, revision=source.revision, allow_patterns=_SMALL_FILES, ignore_patterns=_FOLDERS
            )
            weights = model_files.weight_names(Path(folder))
            huggingface_hub.snapshot_download(
                source.source, revision=Path(folder).name, allow_patterns=weights, tqdm_class=_make_bar_class()
            )
    except errors.MissingRepository as error:
        raise errors.MissingRepository(place.name, has_token=error.has_token, is_source=True) from error
    return check_folder(Path(folder))


def _make_bar_class() -> Any:
    """Return a class of progress bars that tells the bytes of a download, whether or not it is drawn."""
    from huggingface_hub import utils

    class Bar(utils.tqdm):  # type: ignore[name-defined, misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._meter = Meter("MB fetched", size=10**6) if options.get("unit") == "B" else None
            super().__init__(*args, **options)

        def update(self, n: float | None = 1) -> Any:
            if self._meter is not None:
                self._meter.total = int(self.total or 0) or None
                self._meter.add(int(n or 0))
            return super().update(n)

    return Bar


def check_folder(folder: Path) -> Path:
    """Return the folder if it holds a usable base model.

    Raises:
        Incompatible: one problem for each thing that is missing or damaged.
    """
    problems = []
    has_config = (folder / "config.json").is_file()
    if (folder / CONFIG).is_file() and has_config:
        # transformers would load the base that the adapter names, and then the adapter.
        what, fix = f"holds an adapter beside the model ({CONFIG})", "move the adapter's files to another folder"
        problems.append(errors.Problem(what=what, fix=fix))
    elif (folder / CONFIG).is_file():
        problems.append(errors.Problem(what="is an adapter, not a base model", fix="name the base it was trained on"))
    elif not has_config:
        problems.append(errors.Problem(what="has no config.json", fix="give the folder of a transformers model"))
    special = [path for path in _list_files(folder) if path.exists() and not path.is_file()]
    for path in special:  # transformers would wait for ever for what comes through a pipe
        problems.append(errors.Problem(where=path.name, what="is not a regular file", fix="remove it"))
    weights: list[Path] | None = None
    try:
        if has_config:
            model_files.read_config(folder)
            model_files.check_tokenizer_config(folder)
        weights = model_files.weight_files(folder)
    except errors.InvalidInput as error:
        problems += error.problems
    if weights == []:
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        if pickled:
            what = f"has pickled weights only ({pickled[0]}), which can run code"
            problems.append(errors.Problem(what=what, fix="convert to safetensors"))
        else:
            problems.append(errors.Problem(what="has no safetensors weights"))
    elif weights:
        problems += model_files.find_damage(folder)
    if weights and not problems:
        try:
            model_files.check_number_of_layers(folder)
        except errors.InvalidInput as error:
            problems += error.problems
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        fix = "put the model's tokenizer.json beside its weights"
        problems.append(errors.Problem(what="has no tokenizer", fix=fix))
    if problems:
        raise errors.Incompatible(problems, subject=f"base model {folder}")
    return folder


def _list_files(folder: Path) -> list[Path]:
    return [
        path for part in (".", "additional_chat_templates") for path in folder.glob(f"{part}/*") if not path.is_dir()
    ]


BUILTIN = ((is_gguf, fetch_gguf), (is_folder, fetch_folder), (is_hub_id, fetch_hub))
