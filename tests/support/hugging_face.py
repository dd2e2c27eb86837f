"""A stand-in for the Hugging Face Hub: repositories with commits and tags in memory, over HTTP."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

WRITER = "hf_writerwriterwriterwriterwriter12"
READER = "hf_readerreaderreaderreaderreader12"


@dataclass
class Commit:
    """A commit with its whole tree."""

    oid: str
    files: dict[str, bytes]
    message: str = ""


@dataclass
class Repository:
    """A repository; its main branch is the list of commits.

    Attributes:
        branches: newest commit of each branch beside main.
        others: commits that were made on those branches.
    """

    is_private: bool = False
    is_gated: bool = False
    card_data: dict[str, Any] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    others: list[Commit] = field(default_factory=list)

    def commit(self, files: dict[str, bytes | None], message: str = "", branch: str = "main") -> str:
        """Add files to the newest ones of a branch, without those that are None, and return the commit."""
        parent = self.find(branch)
        changed = {**(parent.files if parent else {}), **files}
        tree = {name: data for name, data in changed.items() if data is not None}
        text = "".join(f"{name} {hashlib.sha1(data).hexdigest()}\n" for name, data in sorted(tree.items()))
        oid = hashlib.sha1(f"{len(self.commits) + len(self.others)} {text}".encode()).hexdigest()
        (self.commits if branch == "main" else self.others).append(Commit(oid, tree, message))
        if branch != "main":
            self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1] if self.commits else None
        oid = self.branches.get(revision, self.tags.get(revision, revision))
        return next((commit for commit in [*self.commits, *self.others] if commit.oid == oid), None)


@dataclass
class HuggingFace:
    """A server with its repositories.

    Attributes:
        requests: method and path of each request.
        fault: status with which each request is answered, 0 for none.
        nonsense: bytes in place of the JSON of each answer, as the server sends them on its socket.
        spoil: changes the JSON of each answer.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    fault: int = 0
    nonsense: bytes = b""
    spoil: Callable[[Any], Any] = lambda value: value

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> Repository:
        """Make a repository with one commit of these files."""
        made = self.repositories[name] = Repository(**options)
        made.commit({**files})
        return made


@contextlib.contextmanager
def serve() -> Iterator[HuggingFace]:
    """Yield a running stand-in without repositories."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = server.hub = HuggingFace(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use(hub: HuggingFace, cache: Any, monkeypatch: pytest.MonkeyPatch, *, token: str | None = WRITER) -> None:
    """Let huggingface_hub of this process use the stand-in, as its variables do before it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)  # a push finds that the stand-in has no Xet
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - names of the base class

    @property
    def _hub(self) -> HuggingFace:
        hub: HuggingFace = self.server.hub  # type: ignore[attr-defined]
        return hub

    def _answer(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        self._hub.requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        try:
            if self._hub.nonsense:
                self.wfile.write(self._hub.nonsense.replace(b"PATH", self.path.encode()))
                self.close_connection = True
                return
            if self._hub.fault:
                raise _Refusal(self._hub.fault)
            self._route(body)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(refusal.status, b"{}", {name: value for name, value in headers.items() if value})

    def _route(self, body: bytes) -> None:
        words = self.path.strip("/").split("/")
        if words[:3] == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif words[:2] == ["api", "validate-yaml"]:
            if "license: 12" in json.loads(body)["content"]:  # what the Hub refuses, and others do not
                self._send(400, b'{"errors": [{"message": "\\"license\\" must be a string"}], "warnings": []}', {})
            else:
                self._json({"errors": [], "warnings": []})
        elif words[:2] == ["api", "models"] and len(words) > 3:
            self._model("/".join(words[2:4]), words[4:], body)
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self._require_writer()
            objects = [self._offer(wanted) for wanted in json.loads(body)["objects"]]
            self._json({"transfer": "basic", "objects": objects})
        elif words[0] == "large":
            self._hub.large[words[1]] = body
            self._json({})
        elif len(words) > 4 and words[2] == "resolve":
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        else:
            raise _Refusal(404, message=f"the stand-in has no {self.command} {self.path}")

    def _create(self, asked: dict[str, Any]) -> None:
        self._require_writer()
        name = f"{asked['organization']}/{asked['name']}"
        if name in self._hub.repositories:
            raise _Refusal(409)
        is_private = asked.get("visibility") == "private" or asked.get("private") is True
        self._hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, is_private=is_private)
        self._json({"url": f"{self._hub.url}/{name}"})

    def _model(self, name: str, words: list[str], body: bytes) -> None:
        repository = self._find(name)
        verb = words[0] if words else ""
        if verb == "branch":
            self._require_writer()
            self._change_branch(repository, words[1], body)
            return
        if verb == "tag" and self.command == "DELETE":
            self._require_writer()
            if repository.tags.pop(words[1], None) is None:
                raise _Refusal(404, "RevisionNotFound")
            self._json({})
            return
        commit = self._find_commit(repository, words[1] if verb not in ("", "refs") else "main")
        if verb in ("", "revision"):
            files = [{**self._describe(path, data), "rfilename": path} for path, data in commit.files.items()]
            about = {"private": repository.is_private, "cardData": repository.card_data}
            self._json({"id": name, "sha": commit.oid, "siblings": files, **about})
        elif verb == "refs":
            heads = {"main": commit.oid, **repository.branches}
            branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": oid} for b, oid in heads.items()]
            tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": oid} for t, oid in repository.tags.items()]
            self._json({"branches": branches, "tags": tags, "converts": []})
        elif verb == "tree":
            files = [{**self._describe(path, data), "type": "file"} for path, data in commit.files.items()]
            self._json(files)
        elif verb == "preupload":
            self._require_writer()
            self._json({"files": [self._choose(commit, file["path"]) for file in json.loads(body)["files"]]})
        elif verb == "commit":
            self._require_writer()
            self._commit(name, repository, words[1], commit, body)
        elif verb == "tag":
            self._require_writer()
            tag = json.loads(body)["tag"]
            if tag in repository.tags:
                raise _Refusal(409)
            repository.tags[tag] = commit.oid
            self._json({})
        else:  # such as a token for Xet
            raise _Refusal(404)

    def _change_branch(self, repository: Repository, branch: str, body: bytes) -> None:
        if self.command == "DELETE":
            del repository.branches[branch]
        elif branch in repository.branches:
            raise _Refusal(409)
        else:
            start = self._find_commit(repository, json.loads(body or b"{}").get("startingPoint", "main"))
            repository.branches[branch] = start.oid
        self._json({})

    def _commit(self, name: str, repository: Repository, branch: str, newest: Commit, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, newest.oid):
            raise _Refusal(412)
        files: dict[str, bytes | None] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                files[value["path"]] = None
                continue
            is_large = line["key"] == "lfsFile"
            files[value["path"]] = self._hub.large[value["oid"]] if is_large else base64.b64decode(value["content"])
        oid = repository.commit(files, header["summary"], branch)
        self._json({"commitUrl": f"{self._hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        commit = self._find_commit(self._find(name), revision)
        if path not in commit.files:
            raise _Refusal(404, "EntryNotFound")
        data = commit.files[path]
        digest = hashlib.sha256(data).hexdigest() if path.endswith(".safetensors") else _hash_blob(data)
        self._send(200, data, {"ETag": f'"{digest}"', "X-Repo-Commit": commit.oid})

    def _describe(self, path: str, data: bytes) -> dict[str, Any]:
        size = self._hub.sizes.get(path, len(data))
        found: dict[str, Any] = {"path": path, "size": size, "oid": _hash_blob(data), "blobId": _hash_blob(data)}
        if path.endswith(".safetensors"):
            digest = hashlib.sha256(data).hexdigest()
            found["lfs"] = {"size": size, "oid": digest, "sha256": digest, "pointerSize": 134}
        return found

    def _choose(self, commit: Commit, path: str) -> dict[str, Any]:
        chosen = {"path": path, "uploadMode": "regular", "shouldIgnore": False}
        if path in commit.files:
            found = self._describe(path, commit.files[path])
            chosen["oid"] = found["lfs"]["oid"] if "lfs" in found else found["oid"]
        return {**chosen, "uploadMode": "lfs"} if path.endswith(".safetensors") else chosen

    def _offer(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self._hub.large:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self._hub.url}/large/{wanted['oid']}"}}}

    def _find(self, name: str) -> Repository:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in (WRITER, READER):
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        repository = self._hub.repositories.get(name)
        if repository is None or (repository.is_private and not token):
            raise _Refusal(404 if token else 401, "RepoNotFound")
        if repository.is_gated:
            raise _Refusal(403, "GatedRepo")
        return repository

    def _find_commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound")
        return commit

    def _require_writer(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {WRITER}":
            raise _Refusal(403, message="Forbidden")

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(self._hub.spoil(value)).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _hash_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
