"""Sizes of a wheel that is not downloaded: what it takes to fetch it, and to keep it unpacked."""

from __future__ import annotations

import io
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

TIMEOUT_SECONDS = 30


class _RemoteFile(io.RawIOBase):
    """File behind a URL, of which only the ranges that are read are fetched."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            self.size = int(answer.headers["Content-Length"])

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._position + len(buffer), self.size)
        if end <= self._position:
            return 0
        headers = {"Range": f"bytes={self._position}-{end - 1}"}
        request = urllib.request.Request(self._url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            if answer.status != 206:
                raise OSError(f"{self._url} cannot be read in parts")
            data = answer.read()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def measure(url: str) -> tuple[int, int]:
    """Return the bytes of the wheel at a URL, and those of its unpacked files.

    Raises:
        OSError: the wheel cannot be reached, or not in parts.
    """
    if url.startswith("file:"):
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
        with zipfile.ZipFile(path) as wheel:
            return path.stat().st_size, sum(item.file_size for item in wheel.infolist())
    remote = _RemoteFile(url)
    # The index of a zip file is at its end, so a few small ranges suffice.
    with zipfile.ZipFile(io.BufferedReader(remote, 1 << 16)) as wheel:
        return remote.size, sum(item.file_size for item in wheel.infolist())
