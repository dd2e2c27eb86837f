"""Repositories of the Hugging Face Hub: their names, what it answers, and its errors as ours.

Nothing that huggingface_hub, its HTTP library or an answer without sense raises is an internal error. `HF_ENDPOINT`,
`HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` apply, as huggingface_hub reads them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from finch_hub import errors
from finch_hub.formats.atomic_writes import is_disk_full
from finch_hub.specs.addresses import strip_credentials
from finch_hub.specs.bases import MAX_ID, MAX_REVISION, is_hub_id
from finch_hub.texts.visible_text import to_line

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REVISION = re.compile(r"\w[\w./+-]*", re.ASCII)
_XET_SECONDS = 30.0
_MAX_ANSWER = 200  # characters of what a server says


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryReference:
    """Repository with a revision: a branch, a tag or a commit. None is the newest commit of its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def parse_repository(text: str) -> RepositoryReference:
    """Return the repository that a text such as `owner/name@v3` names.

    Raises:
        InvalidReference: the text is not well formed.
    """
    name, at, revision = text.partition("@")
    is_name = "/" in name and len(name) <= MAX_ID and is_hub_id(name)
    is_revision = len(revision) <= MAX_REVISION and _REVISION.fullmatch(revision) and ".." not in revision
    if not is_name or (at and not is_revision):
        what = f"{errors.shorten(text)!r} is not a repository of the Hugging Face Hub"
        raise errors.InvalidReference(what, fix="give it as owner/name or owner/name@revision")
    return RepositoryReference(name=name, revision=revision or None)


def is_offline() -> bool:
    """Tell whether `HF_HUB_OFFLINE` forbids the network.

    Raises:
        InvalidSpec: huggingface_hub cannot read its variables.
    """
    return bool(_read_constants().HF_HUB_OFFLINE)


def make_address(repository: RepositoryReference) -> str:
    """Return the address of the page of a repository, or of one revision."""
    page = f"{strip_credentials(_read_constants().ENDPOINT)}/{repository.name}"
    return f"{page}/tree/{repository.revision}" if repository.revision else page


def require_login(action: str) -> None:
    """Check that the network is allowed and that there is a token.

    Raises:
        InvalidSpec: huggingface_hub cannot read its variables.
        Unavailable: the offline mode is on.
        AccessDenied: there is no token.
    """
    if is_offline():
        raise _offline(action)
    if not _find_token():
        raise errors.AccessDenied(f"could not {action}: there is no token (set HF_TOKEN, or run `hf auth login`)")


def list_files(info: ModelInfo) -> dict[str, RepoSibling]:
    """Return the files of a commit by their names.

    Raises:
        ValueError: the server says no sensible commit, name or size.
    """
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise ValueError("a repository has no commit")
    files = {file.rfilename: file for file in info.siblings or ()}
    for name, file in files.items():
        is_size = file.size is None or (type(file.size) is int and file.size >= 0)
        if not isinstance(name, str) or not is_size:
            raise ValueError("a file has no sensible name or size")
    return files


def avoid_missing_xet(name: str) -> None:
    """Let uploads go without Xet if the server does not store files by it. They would try again without end.

    Args:
        name: repository that exists, for which the server would give a token for Xet.
    """
    from huggingface_hub import constants, get_session, get_token

    if constants.HF_HUB_DISABLE_XET:
        return
    address = f"{constants.ENDPOINT}/api/models/{name}/xet-write-token/main"
    answer = get_session().get(address, headers={"Authorization": f"Bearer {get_token()}"}, timeout=_XET_SECONDS)
    if not answer.is_success or constants.HUGGINGFACE_HEADER_X_XET_ENDPOINT not in answer.headers:
        constants.HF_HUB_DISABLE_XET = True  # of this process, which has one endpoint


@contextlib.contextmanager
def translate_errors(action: str, repository: RepositoryReference) -> Iterator[None]:
    """Turn what huggingface_hub, its HTTP library and senseless answers raise into our errors.

    None has a token, or an address with credentials.

    Args:
        action: what was tried, with its object, such as "pull org/name".

    Raises:
        NotFound: there is no such repository or revision, or it is private.
        InvalidReference: no repository can have this name.
        InvalidSpec: a variable of huggingface_hub or of a proxy is not well formed.
        AccessDenied: the token is missing, wrong, or may not do this.
        Conflict: somebody else changed the repository meanwhile.
        Unavailable: the network or the server does not answer, or gives answers without sense, the offline mode is on,
            or the disk is full.
    """
    _read_constants()
    try:
        yield
    except (errors.FinchError, Warning):
        raise
    except Exception as error:  # an answer without sense can end any line of the library
        raise _translate(error, action, repository) from error


def _translate(error: Exception, action: str, repository: RepositoryReference) -> errors.FinchError:
    from huggingface_hub import errors as hub_errors

    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return _offline(action)
    if isinstance(error, hub_errors.GatedRepoError):
        page = make_address(RepositoryReference(name=repository.name))
        fix = f"accept its terms at {page} with the account of your token"
        return errors.AccessDenied(f"could not {action}: it is gated ({fix})")
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return errors.NotFound("revision", str(repository), _list_revisions(repository.name))
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return errors.MissingRepository(repository.name, has_token=bool(_find_token()))
    if isinstance(error, hub_errors.LocalEntryNotFoundError):
        if is_offline():
            return _offline(action, why="it is not in the cache, and ")
        cause = error.__cause__
        return _translate(cause, action, repository) if isinstance(cause, Exception) else _no_answer(action, error)
    if isinstance(error, hub_errors.HfHubHTTPError):
        return _translate_status(error.response.status_code, str(error.server_message or ""), action)
    if isinstance(error, hub_errors.HFValidationError):
        refusal = f"{repository.name!r} cannot be a repository: no name has `--` or `..`, or ends with `.git`"
        return errors.InvalidReference(refusal, fix="check the name")
    if is_disk_full(error):
        return errors.Unavailable(f"could not {action}: no space left (free some in HF_HOME)")
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError | FileExistsError) and error.filename:
        place = f"{error.strerror}: {error.filename}"
        return errors.Unavailable(f"could not {action}: {place} (check HF_HOME, and who may write there)")
    if str(error).startswith("Invalid metadata"):
        reasons = " ".join(line.removeprefix("- ") for line in str(error).splitlines()[1:])
        metadata = f"could not {action}: the metadata of its card is refused: {_shorten(reasons)}"
        return errors.InvalidInput(metadata, fix="edit the card, and try again")
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # the upload of a large file
        return _translate(error.__cause__, action, repository)
    if (odd := _find_odd_setting()) is not None:
        return odd
    token = _find_token() or ""
    if not (token.isascii() and token.isprintable()):
        login = "set HF_TOKEN to a valid token, or run `hf auth login`"
        return errors.AccessDenied(f"could not {action}: the token has characters that no token has ({login})")
    if isinstance(error, _list_network_errors()):
        return _no_answer(action, error)
    odd_answer = f"{_name_host()} does not answer as the Hugging Face Hub ({type(error).__name__})"
    return errors.Unavailable(f"could not {action}: {odd_answer} (check HF_ENDPOINT and the proxy, or try again later)")


def _translate_status(status: int, answer: str, action: str) -> errors.FinchError:
    said = f": {_shorten(answer)}" if answer else ""
    if status == 401:
        fix = "set HF_TOKEN to a valid token, or run `hf auth login`"
        return errors.AccessDenied(f"could not {action}: the server rejected the token ({fix})")
    if status == 403:
        fix = "use a token that may read it; a push needs write access"
        return errors.AccessDenied(f"could not {action}: the token may not do this{said} ({fix})")
    if status in (409, 412):
        return errors.Conflict(f"could not {action}: the repository changed meanwhile (try again)")
    if status == 429:
        return errors.Unavailable(f"could not {action}: too many requests (wait some minutes, and try again)")
    return errors.Unavailable(f"could not {action}: the server answered {status}{said} (try again later)")


def _shorten(answer: str) -> str:
    return to_line(answer)[:_MAX_ANSWER]


def _no_answer(action: str, error: BaseException) -> errors.Unavailable:
    what = f"could not {action}: {_name_host()} does not answer ({type(error).__name__})"
    return errors.Unavailable(f"{what} (check the network and HF_ENDPOINT)")


def _offline(action: str, *, why: str = "") -> errors.Unavailable:
    return errors.Unavailable(f"could not {action}: {why}HF_HUB_OFFLINE forbids the network (unset it, and try again)")


def _name_host() -> str:
    """Return the host of the Hugging Face Hub, without a login."""
    return urlsplit(strip_credentials(_read_constants().ENDPOINT)).netloc.rpartition("@")[2] or "its host"


def _find_token() -> str | None:
    from huggingface_hub import get_token

    try:
        return get_token()
    except (OSError, ValueError) as error:
        what = f"could not read the token of the Hugging Face Hub ({type(error).__name__})"
        raise errors.AccessDenied(f"{what} (run `hf auth login`, or set HF_TOKEN)") from error


def _read_constants() -> ModuleType:
    """Return the module of huggingface_hub that reads its variables, once, when it is imported.

    Raises:
        InvalidSpec: it cannot read one.
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        raise
    except Exception as error:
        if (odd := _find_odd_setting()) is not None:
            raise odd from error
        given = ", ".join(sorted(name for name in os.environ if name.startswith("HF_") and name != "HF_TOKEN"))
        what = f"huggingface_hub cannot read its variables ({type(error).__name__})"
        raise errors.InvalidSpec(what, fix=f"check {given}") from error
    return constants


def _find_odd_setting() -> errors.InvalidSpec | None:
    """Return what is wrong with the endpoint, a proxy or the certificates, of which only failed requests tell."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not _is_address(endpoint, ("http", "https")):
        return errors.InvalidSpec("is not an address", where="HF_ENDPOINT", fix="unset it, or give one with https://")
    proxies = urllib.request.getproxies()
    for scheme in ("http", "https", "all"):
        proxy, where = proxies.get(scheme, ""), f"{scheme}_proxy".upper()
        proxy = proxy if "://" in proxy else f"http://{proxy}" if proxy else ""
        if proxy and not _is_address(proxy, ("http", "https", "socks5", "socks5h")):
            example = "give one such as http://proxy.example:3128"
            return errors.InvalidSpec("is not the address of a proxy", where=where, fix=example)
        if proxy.startswith("socks5") and importlib.util.find_spec("socksio") is None:
            what = "is a SOCKS proxy, and the package socksio is not installed"
            return errors.InvalidSpec(what, where=where, fix="install it, or use an HTTP proxy")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        places = os.environ.get(name, "").split(os.pathsep)  # of folders, there may be several
        if any(places) and not any(Path(place).exists() for place in places if place):
            return errors.InvalidSpec("names a place that does not exist", where=name, fix="correct or unset it")
    return None


def _is_address(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises if it is no number
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname)


def _list_network_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the system, and of the HTTP library that this version of huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception))


def _list_revisions(name: str) -> list[str]:
    """Return the branches and tags of a repository as references, nothing if they cannot be read."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(name)
        return [f"{name}@{ref.name}" for ref in (*refs.branches, *refs.tags) if isinstance(ref.name, str)]
    except Exception:  # they are a hint alone
        return []
