"""Children that parse untrusted files: values, errors and progress, and limits of memory and time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finch_hub import errors, progress
from finch_hub.formats import parsing_process
from finch_hub.formats.parsing_process import Limits


def count(stop: int) -> Iterator[int]:
    yield from progress.track(range(stop), "counting")


def allocate(size: int) -> Iterator[int]:
    yield len(bytearray(size))


def spin() -> Iterator[int]:
    yield 1
    while True:
        pass


def end(number: int) -> Iterator[int]:
    yield os.getpid()
    os.kill(os.getpid(), number)


def fail(error: Exception) -> Iterator[int]:
    yield 1
    raise error


def read(descriptor: int) -> Iterator[bytes]:
    with open(descriptor, "rb", closefd=False) as stream:
        yield stream.read()


def watch() -> Iterator[int]:
    parsing_process._watch_memory(parsing_process._peak_bytes() - 1)
    yield 1


def parse(call: Any, limits: Limits = Limits(), **options: Any) -> Iterator[Any]:  # noqa: B008 - a constant
    return parsing_process.parse(call, limits=limits, error=errors.InvalidDataset, subject="x.bin", **options)


def test_values_and_progress_come_from_the_child(told: list[progress.Advance]) -> None:
    assert list(parse(partial(count, 3))) == [0, 1, 2]
    assert [(advance.work, advance.done, advance.total) for advance in told][-1] == ("counting", 3, 3)


def test_open_file_is_inherited(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with (tmp_path / "a").open("rb") as stream:
        assert list(parse(partial(read, stream.fileno()), files=(stream.fileno(),))) == [b"content"]


@pytest.mark.parametrize(
    "error",
    [
        errors.RefusedArtifact([errors.Problem(what="a", where="b", fix="c"), errors.Problem(what="d")], subject="s"),
        errors.NotFound("thing", "nme", ["name"]),
        errors.Unavailable("it does not answer"),
        ValueError("text"),
    ],
)
def test_error_of_the_child_is_raised_whole(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        list(parse(partial(fail, error)))
    assert str(raised.value) == str(error)
    assert raised.value.__dict__ == error.__dict__


def test_memory_is_limited() -> None:
    limits = Limits(memory=2**28)
    assert list(parse(partial(allocate, 2**26), limits)) == [2**26]
    for size in (2**29, 2**45):
        with pytest.raises(errors.InvalidDataset, match=r"^x\.bin: takes more than 256 MiB of memory to read"):
            list(parse(partial(allocate, size), limits))


def test_memory_is_watched_where_the_system_does_not_limit_it() -> None:
    with pytest.raises(errors.InvalidDataset, match="takes more than 1,024 MiB of memory"):
        list(parse(partial(watch)))


def test_computing_time_is_limited() -> None:
    values = parse(partial(spin), Limits(seconds=1))
    assert next(values) == 1
    with pytest.raises(errors.InvalidDataset, match="takes more than 1 seconds to read a part of it"):
        next(values)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_crash_of_a_reader_is_an_error_of_the_file(number: int) -> None:
    with pytest.raises(errors.InvalidDataset, match=f"crashed its reader, which ended with {number.name}"):  # type: ignore[attr-defined]
        list(parse(partial(end, number)))


def test_child_ends_with_its_reader() -> None:
    values = parse(partial(end, 0))
    process = next(values)
    values.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_children_of_several_threads_do_not_wait_for_each_other() -> None:
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(list(parse(partial(count, 5))))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0, 1, 2, 3, 4]] * 4
