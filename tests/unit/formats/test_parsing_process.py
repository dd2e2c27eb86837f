"""Children that parse untrusted files: values, errors and progress, and limits of memory and time."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from finch_hub import errors, progress
from finch_hub.formats import parsing_process
from finch_hub.formats.parsing_process import Limits


def count(stop: int) -> Iterator[str]:
    yield from map(str, progress.track(range(stop), "counting"))


def allocate(size: int) -> Iterator[str]:
    yield str(len(bytearray(size)))


def fill() -> Iterator[str]:
    Path("/dev/full").write_text("x")
    yield ""


def fill_in_rust() -> Iterator[str]:
    yield ""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def spin() -> Iterator[str]:
    yield "1"
    while True:
        pass


def exhaust() -> Iterator[str]:
    yield "1"
    kept = []
    while True:  # as an interpreter that has no memory for its own MemoryError
        try:
            kept.append(bytearray(2**17))
        except MemoryError:
            continue


def fail_without_memory(number: int) -> Iterator[str]:
    yield "1"
    with contextlib.suppress(MemoryError):
        kept = []
        while True:
            kept.append(bytearray(2**17))
    kept.clear()  # as the part of a model that is freed with its frame
    raise [SystemError("returned NULL without setting an exception"), RuntimeError("std::bad_alloc"), *ERRORS][number]


def wait() -> Iterator[str]:
    yield "1"
    time.sleep(1e6)


def close() -> Iterator[str]:
    yield "1"
    os.close(int(sys.argv[1]))
    time.sleep(1e6)


def end(number: int) -> Iterator[str]:
    yield str(os.getpid())
    os.kill(os.getpid(), number)


ERRORS = [
    errors.RefusedArtifact([errors.Problem(what="a", where="b", fix="c"), errors.Problem(what="d")], subject="s"),
    errors.NotFound("thing", "nme", ["name"]),
    errors.Unavailable("it does not answer"),
]


def fail(number: int) -> Iterator[str]:
    yield "1"
    raise ERRORS[number]


def break_down() -> Iterator[str]:
    yield "1"
    raise ValueError("text")


def lie(text: str) -> Iterator[str]:
    """Write to the pipe as code of a file would that has taken over the child."""
    yield "1"
    os.write(int(sys.argv[1]), text.encode())
    os._exit(0)


def read(descriptor: int) -> Iterator[str]:
    with open(descriptor, "rb", closefd=False) as stream:
        yield stream.read().decode()


def watch() -> Iterator[str]:
    parsing_process._watch_memory(parsing_process._peak_bytes() - 1)
    yield "1"


def parse(function: Any, *arguments: Any, limits: Limits = Limits(), **options: Any) -> Iterator[str]:  # noqa: B008
    options |= {"limits": limits, "error": errors.InvalidDataset, "subject": "x.bin"}
    return parsing_process.parse(function, *arguments, **options)


def test_values_and_progress_come_from_the_child(told: list[progress.Advance]) -> None:
    assert list(parse(count, 3)) == ["0", "1", "2"]
    assert [(advance.work, advance.done, advance.total) for advance in told][-1] == ("counting", 3, 3)


def test_open_file_is_inherited(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with (tmp_path / "a").open("rb") as stream:
        assert list(parse(read, stream.fileno(), files=(stream.fileno(),))) == ["content"]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_error_of_the_child_is_raised_whole(number: int) -> None:
    error = ERRORS[number]
    with pytest.raises(type(error)) as raised:
        list(parse(fail, number))
    assert str(raised.value) == str(error)
    assert raised.value.__dict__ == error.__dict__


@pytest.mark.parametrize("function", [fill, fill_in_rust])
def test_full_disk_of_the_child_is_that_of_the_parent(function: Any) -> None:
    """Whoever calls the parser knows where it writes, and tells that."""
    with pytest.raises(OSError, match="No space left") as raised:
        list(parse(function))
    assert raised.value.errno == errno.ENOSPC


def test_bug_of_the_reader_is_named() -> None:
    with pytest.raises(RuntimeError, match="ValueError: text"):
        list(parse(break_down))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        "x\n",
        "e{\n",
        "e[]\n",
        'e{"kind": "int", "args": []}\n',
        "e" + "[" * 100_000 + "\n",
        "a[1]\n",
        "a\n",
        "\n",
    ],
)
def test_message_that_no_reader_sends_is_an_error_of_the_file(text: str) -> None:
    values = parse(lie, text)
    assert next(values) == "1"
    with pytest.raises(errors.InvalidDataset, match=r"x\.bin: crashed its reader"):
        next(values)


def test_memory_is_limited() -> None:
    limits = Limits(memory=2**28)
    assert list(parse(allocate, 2**26, limits=limits)) == [str(2**26)]
    for size in (2**29, 2**45):
        with pytest.raises(errors.InvalidDataset, match=r"^x\.bin: takes more than 256 MiB of memory to read"):
            list(parse(allocate, size, limits=limits))


def test_reader_that_goes_on_without_memory_is_ended() -> None:
    values = parse(exhaust, limits=Limits(memory=2**24))
    assert next(values) == "1"
    with pytest.raises(errors.InvalidDataset, match="takes more than 16 MiB of memory to read"):
        next(values)


@pytest.mark.parametrize("number", range(3))
def test_any_error_of_a_reader_without_memory_is_told_as_that(number: int) -> None:
    values = parse(fail_without_memory, number, limits=Limits(memory=2**26))
    assert next(values) == "1"
    with pytest.raises(errors.InvalidDataset, match="takes more than 64 MiB of memory to read"):
        next(values)


def test_memory_is_watched_where_the_system_does_not_limit_it() -> None:
    with pytest.raises(errors.InvalidDataset, match="takes more than 1,024 MiB of memory"):
        list(parse(watch))


def test_peak_of_memory_is_in_bytes() -> None:
    size = len(b"x" * 2**26)
    assert size < parsing_process._peak_bytes() < 2**44


def test_computing_time_is_limited() -> None:
    values = parse(spin, limits=Limits(seconds=1))
    assert next(values) == "1"
    with pytest.raises(errors.InvalidDataset, match="takes more than 1 seconds to read a part of it"):
        next(values)


def test_silence_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing_process, "_MOST_SILENCE", 6)  # its start is silent too
    values = parse(wait, limits=Limits(seconds=1))
    assert next(values) == "1"
    with pytest.raises(errors.InvalidDataset, match=r"x\.bin: is not read on for 6 seconds"):
        next(values)


def test_reader_that_closes_its_pipe_and_goes_on_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing_process, "_END_SECONDS", 0.5)
    values = parse(close)
    assert next(values) == "1"
    with pytest.raises(errors.InvalidDataset, match="crashed its reader, which does not end"):
        next(values)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_crash_of_a_reader_is_an_error_of_the_file(number: int) -> None:
    with pytest.raises(errors.InvalidDataset, match=f"crashed its reader, which ended with {number.name}"):  # type: ignore[attr-defined]
        list(parse(end, int(number)))


def test_child_ends_with_its_reader() -> None:
    values = parse(end, 0)
    process = int(next(values))
    values.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_children_of_several_threads_do_not_wait_for_each_other() -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(list(parse(count, 5)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["0", "1", "2", "3", "4"]] * 4
