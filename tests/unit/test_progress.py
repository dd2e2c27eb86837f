from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
import weakref
from collections.abc import Iterator

import pytest

from finch_hub import progress
from finch_hub.progress import Advance, Meter, listen, track


class Owner:
    """Owner of a wish, as a hub is."""


class Clock:
    """Clock of the meters; each look at it takes `step` seconds."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


def test_items_pass_and_their_number_is_told(told: list[Advance]) -> None:
    assert list(track("abc", "spelling")) == ["a", "b", "c"]
    assert [advance[:3] for advance in told] == [("spelling", 1, 3), ("spelling", 2, 3), ("spelling", 3, 3)]
    told.clear()
    assert list(track(iter("ab"), "spelling")) == ["a", "b"]
    assert [advance[1:] for advance in told] == [(1, None, None), (2, None, None)]


def test_time_left_follows_from_the_speed_so_far(told: list[Advance], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "time", Clock(3.0))
    list(track(range(4), "counting"))
    assert [advance.seconds_left for advance in told] == [9.0, 6.0, 3.0, 0.0]
    told.clear()
    list(track(range(4), "fetching", total=2))  # as of a download whose size was not fully known
    assert [advance.seconds_left for advance in told] == [3.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("step", "tellings"), [(0.001, 0), (0.5, 250), (100.0, 1000)])
def test_short_work_tells_nothing_and_long_work_tells_rarely(
    step: float, tellings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "time", Clock(step))
    heard: list[Advance] = []
    with listen(heard.append):
        list(track(range(1000), "counting"))
    assert len(heard) <= tellings
    assert bool(heard) == bool(tellings)


def test_nothing_is_told_without_a_listener_and_after_its_block(told: list[Advance]) -> None:
    heard: list[Advance] = []
    with listen(heard.append):
        list(track(range(2), "inside"))
    list(track(range(2), "outside"))
    assert [advance.work for advance in heard] == ["inside"] * 2
    assert [advance.work for advance in told] == ["outside"] * 2


def test_exception_of_the_listener_ends_the_work(told: list[Advance]) -> None:
    def stop(advance: Advance) -> None:
        raise KeyboardInterrupt

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt), listen(stop):
        seen.extend(track(itertools.count(), "counting"))
    assert seen == [0]


def test_parts_that_other_threads_finish_are_told(told: list[Advance]) -> None:
    meter = Meter("MB read", 3_000_000, size=1_000_000)
    for _ in range(2):
        thread = threading.Thread(target=meter.add, args=(1_500_000,))
        thread.start()
        thread.join()
    assert [advance[:3] for advance in told] == [("MB read", 1, 3), ("MB read", 3, 3)]


def test_generator_is_not_asked_for_more_than_is_used() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise AssertionError

    assert next(iter(track(numbers(), "counting"))) == 1


def test_work_is_shown_as_the_newest_open_owner_wishes(told: list[Advance], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_wishes", weakref.WeakKeyDictionary())
    opened: list[bool | None] = []
    shown: list[Advance] = []

    def open_view(shows: bool | None) -> contextlib.nullcontext[progress.Show]:
        opened.append(shows)
        return contextlib.nullcontext(print)

    def shows() -> bool:
        """Tell whether work that no thread listens to is shown."""
        shown.clear()
        contextvars.Context().run(lambda: list(track(range(2), "counting")))
        return [advance.done for advance in shown] == [1, 2]

    monkeypatch.setattr(progress, "_display", progress.Display(open_view, shown.append))
    first, second = Owner(), Owner()
    assert not shows(), "nobody wishes it"
    for owner, wish in ((first, True), (second, False)):
        progress.begin_showing(owner, wish)
        progress.open_view()
        assert shows() is wish
    progress.stop_showing(second)
    assert shows()
    progress.stop_showing(first)
    progress.open_view()
    assert not shows()
    progress.open_view(False)
    assert opened == [True, False, None, False]
    progress.begin_showing(first, None)
    assert not shows(), "standard error is no terminal"
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    assert shows()
    list(track(range(2), "heard elsewhere"))
    assert len(told) == 2
    del owner, first
    assert not shows(), "an owner that is gone wishes nothing"


def test_work_begins_while_another_thread_makes_an_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = [Owner(), Owner()]
    other = threading.Thread(target=progress.begin_showing, args=(owners[1], False))

    class Wishes(weakref.WeakKeyDictionary[object, bool | None]):
        def values(self) -> Iterator[bool | None]:  # type: ignore[override]
            for wish in super().values():
                other.start()
                other.join(timeout=1.0)  # it waits for this thread if all is well
                yield wish

    monkeypatch.setattr(progress, "_wishes", Wishes())
    progress.begin_showing(owners[0], None)
    monkeypatch.setattr(progress, "_display", progress.Display(lambda shows: contextlib.nullcontext(print), print))
    contextvars.Context().run(Meter, "counting")
    other.join()
    assert len(progress._wishes) == 2
