"""Repositories of the Hugging Face Hub: their names, and its errors as ours.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` apply, as huggingface_hub reads them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from finch_hub import errors
from finch_hub.formats.atomic_writes import is_disk_full
from finch_hub.specs.addresses import strip_credentials
from finch_hub.specs.bases import MAX_ID, MAX_REVISION, is_hub_id
from finch_hub.texts.visible_text import to_line

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
    """Tell whether `HF_HUB_OFFLINE` forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def make_address(repository: RepositoryReference) -> str:
    """Return the address of the page of a repository, or of one revision."""
    from huggingface_hub import constants

    page = f"{strip_credentials(constants.ENDPOINT)}/{repository.name}"
    return f"{page}/tree/{repository.revision}" if repository.revision else page


def require_login(action: str) -> None:
    """Check that the network is allowed and that there is a token.

    Raises:
        Unavailable: the offline mode is on.
        AccessDenied: there is no token.
    """
    from huggingface_hub import get_token

    if is_offline():
        raise _offline(action)
    if not get_token():
        raise errors.AccessDenied(f"could not {action}: there is no token (set HF_TOKEN, or run `hf auth login`)")


def avoid_missing_xet(name: str) -> None:
    """Let uploads go without Xet if the server does not store files by it. They would try again without end.

    Args:
        name: repository that exists, for which the server would give a token for Xet.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.HF_HUB_DISABLE_XET:
        return
    address = f"{constants.ENDPOINT}/api/models/{name}/xet-write-token/main"
    answer = get_session().get(address, headers=build_hf_headers(), timeout=_XET_SECONDS)
    if not answer.is_success or constants.HUGGINGFACE_HEADER_X_XET_ENDPOINT not in answer.headers:
        constants.HF_HUB_DISABLE_XET = True  # of this process, which has one endpoint


@contextlib.contextmanager
def translate_errors(action: str, repository: RepositoryReference) -> Iterator[None]:
    """Turn the errors of huggingface_hub into ours. None has a token, or an address with credentials.

    Args:
        action: what was tried, with its object, such as "pull org/name".

    Raises:
        NotFound: there is no such repository or revision, or it is private.
        AccessDenied: the token is missing, wrong, or may not do this.
        Conflict: somebody else changed the repository meanwhile.
        Unavailable: the network or the server does not answer, the offline mode is on, or the disk is full.
    """
    from huggingface_hub import errors as hub_errors

    try:
        yield
    except hub_errors.OfflineModeIsEnabled as error:
        raise _offline(action) from error
    except hub_errors.GatedRepoError as error:
        page = make_address(RepositoryReference(name=repository.name))
        what = f"could not {action}: it is gated (accept its terms at {page} with the account of your token)"
        raise errors.AccessDenied(what) from error
    except hub_errors.RevisionNotFoundError as error:
        raise errors.NotFound("revision", str(repository), _list_revisions(repository.name)) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise errors.MissingRepository(repository.name, has_token=_has_token()) from error
    except hub_errors.LocalEntryNotFoundError as error:
        if is_offline():
            raise _offline(f"{action}, which is not in the cache") from error
        raise _no_answer(action, error) from error
    except hub_errors.HfHubHTTPError as error:
        raise _translate_status(error.response.status_code, str(error.server_message or ""), action) from error
    except _list_network_errors() as error:
        if is_disk_full(error):
            raise errors.Unavailable(f"could not {action}: no space left (free some in HF_HOME)") from error
        raise _no_answer(action, error) from error
    except (ValueError, RuntimeError) as error:
        if str(error).startswith("Invalid metadata"):
            reasons = " ".join(line.removeprefix("- ") for line in str(error).splitlines()[1:])
            refusal = f"could not {action}: the metadata of its card is refused: {_shorten(reasons)}"
            raise errors.InvalidInput(refusal, fix="edit the card, and try again") from error
        # An upload of a large file, or an answer that is not understood
        raise _no_answer(action, error.__cause__ or error) from error


def _translate_status(status: int, answer: str, action: str) -> errors.FinchError:
    said = f": {_shorten(answer)}" if answer else ""
    if status == 401:
        fix = "set HF_TOKEN to a valid token, or run `hf auth login`"
        return errors.AccessDenied(f"could not {action}: the server rejected the token ({fix})")
    if status == 403:
        fix = "use a token with write access to the owner's repositories"
        return errors.AccessDenied(f"could not {action}: the token may not do this ({fix})")
    if status in (409, 412):
        return errors.Conflict(f"could not {action}: the repository changed meanwhile (try again)")
    if status == 429:
        return errors.Unavailable(f"could not {action}: too many requests (wait some minutes, and try again)")
    return errors.Unavailable(f"could not {action}: the server answered {status}{said} (try again later)")


def _shorten(answer: str) -> str:
    return to_line(answer)[:_MAX_ANSWER]


def _no_answer(action: str, error: BaseException) -> errors.Unavailable:
    what = f"could not {action}: the Hugging Face Hub does not answer ({type(error).__name__})"
    return errors.Unavailable(f"{what} (check the network and HF_ENDPOINT)")


def _offline(action: str) -> errors.Unavailable:
    return errors.Unavailable(f"could not {action}: HF_HUB_OFFLINE forbids the network (unset it, and try again)")


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def _list_network_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the system, and of the HTTP library that this version of huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception))


def _list_revisions(name: str) -> list[str]:
    """Return the branches and tags of a repository as references, nothing if they cannot be read."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(name)
    except _list_network_errors():
        return []
    return [f"{name}@{ref.name}" for ref in (*refs.branches, *refs.tags)]
