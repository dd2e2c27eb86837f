from __future__ import annotations

import errno
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from finch_hub import errors
from finch_hub.engine.training.interruption import Interrupted
from finch_hub.plugins import foreign_code
from finch_hub.specs.jobs import Job, JobState
from finch_hub.specs.value import Value
from finch_hub.workers import child
from finch_hub.workers.runs import kinds
from finch_hub.workers.runs.channel import Channel, Stopped
from finch_hub.workers.supervision import descendants


class Order(Value):
    text: str


def serve(
    monkeypatch: pytest.MonkeyPatch,
    outcome: BaseException | None = None,
    order: Any = None,
    *,
    has_descendants: bool = False,
) -> tuple[bool, dict[str, Any]]:
    """Run one order of a kind that raises an error or returns its order; return what `run` did."""

    def execute(order: Order, channel: Channel) -> Order:
        if outcome is not None:
            raise outcome
        return order

    kind = SimpleNamespace(name="echo", order=Order, execute=execute)
    monkeypatch.setattr(kinds, "kind_of", lambda name: kind)
    monkeypatch.setattr(foreign_code, "_has_run", False)  # by other tests in this process
    monkeypatch.setattr(descendants, "has_any", lambda: has_descendants)
    messages = io.BytesIO()
    message = {"kind": "echo", "job_id": "j1", "workdir": "/nowhere", "order": order or {"text": "seeds"}}
    goes_on = child.run(message, Channel(messages))
    (line,) = messages.getvalue().splitlines()
    return goes_on, json.loads(line)


def test_outcome_is_sent_and_the_process_takes_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve(monkeypatch) == (
        True,
        {"type": "done", "outcome": {"text": "seeds"}, "warm_base": None, "spent": False},
    )


@pytest.mark.parametrize("stop", [None, Stopped("cancel")])
def test_process_with_descendants_takes_no_other_order(
    stop: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be of the ended job."""
    assert serve(monkeypatch, stop, has_descendants=True)[1]["spent"]


class Figures(Value):
    figures: dict[str, Any]


def test_outcome_that_is_not_json_is_sent_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of a plugin may be NumPy's."""
    kind = SimpleNamespace(
        name="echo", order=Order, execute=lambda order, channel: Figures(figures={"loss": np.float32(0.5)})
    )
    monkeypatch.setattr(kinds, "kind_of", lambda name: kind)
    messages = io.BytesIO()
    assert child.run({"kind": "echo", "job_id": "j1", "workdir": "/nowhere", "order": {"text": ""}}, Channel(messages))
    assert json.loads(messages.getvalue())["outcome"] == {"figures": {"loss": "0.5"}}


def test_failure_names_the_version_with_which_the_base_computes_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    _, message = serve(monkeypatch, errors.UnusableAdapter("birds/1", "the loss is not finite"))
    assert (message["type"], message["unusable"], message["retry"]) == ("failed", "birds/1", False)


@pytest.mark.parametrize("stop", [Stopped("cancel"), Interrupted("hand_back")])
def test_stop_is_not_a_failure(stop: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "cancel" if isinstance(stop, Stopped) else "hand_back"
    assert serve(monkeypatch, stop) == (True, {"type": "stopped", "why": why, "spent": False})


@pytest.mark.parametrize(
    ("error", "reason", "is_retried", "is_traced"),
    [
        (errors.Incompatible(errors.Problem(what="does not fit")), "does not fit", False, False),
        (errors.Unavailable("the store does not answer"), "the store does not answer", True, False),
        (errors.PluginError("it broke"), "it broke", False, True),
        (ZeroDivisionError("1 / 0"), "ZeroDivisionError: 1 / 0", False, True),
        (MemoryError(), "MemoryError", True, True),
        (OSError(errno.ENOSPC, "full"), f"OSError: [Errno {errno.ENOSPC}] full", True, True),
        (OSError(errno.EPERM, "no"), f"PermissionError: [Errno {errno.EPERM}] no", False, True),
        (SystemExit(3), "SystemExit: 3", False, True),
    ],
)
def test_failure_ends_the_process_with_its_reason(
    error: BaseException, reason: str, is_retried: bool, is_traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, message = serve(monkeypatch, error)
    assert not goes_on
    assert (message["type"], message["reason"], message["retry"]) == ("failed", reason, is_retried)
    assert ("Traceback" in message["traceback"]) is is_traced


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_of_worker"),
    [
        (ImportError("libcudart.so.12: cannot open shared object file"), True),
        (caused(ModuleNotFoundError("could not import AutoModel"), ImportError("libcudart.so.12")), True),
        (caused(errors.PluginError("cannot be loaded"), ModuleNotFoundError("scipy")), True),
        (caused(errors.Incompatible("cannot be loaded"), ImportError("requires sentencepiece")), True),
        (OSError(errno.ESTALE, "stale"), True),
        (caused(errors.Unavailable("the disk is full"), OSError(errno.ENOSPC, "full")), True),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), True),
        (RuntimeError("No CUDA GPUs are available"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (MemoryError(), False),
        (errors.InvalidDataset("is empty"), False),
    ],
)
def test_fault_of_the_worker_is_told_and_worth_a_retry(
    error: BaseException, is_of_worker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, message = serve(monkeypatch, error)
    assert message["of_worker"] is is_of_worker
    assert message["retry"] is (is_of_worker or isinstance(error, MemoryError))
    needs_library = isinstance(error, errors.FinchError) and isinstance(error.__cause__, ImportError)
    assert message["of_any_job"] is (is_of_worker and not needs_library), "perhaps no worker has that library"


def test_order_of_another_version_is_refused_at_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, message = serve(monkeypatch, order={"txt": "seeds"})
    assert not goes_on
    assert message["reason"].startswith("echo order: ")
    assert "did you mean text?" in message["reason"]


def test_base_is_freed_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter may still be attached to it."""
    cleared: list[bool] = []
    kind = SimpleNamespace(name="echo", order=Order, execute=lambda order, channel: channel.stop_here())
    monkeypatch.setattr(kinds, "kind_of", lambda name: kind)
    channel = Channel(io.BytesIO())
    monkeypatch.setattr(channel.bases, "clear", lambda: cleared.append(True))
    channel.stop("cancel")
    assert child.run({"kind": "echo", "job_id": "j1", "workdir": str(Path("/nowhere")), "order": {"text": ""}}, channel)
    assert cleared == [True]


def call(listener: Any) -> dict[str, Any]:
    """Call a listener with a job in this process; return what was sent."""
    messages = io.BytesIO()
    channel = Channel(messages)
    channel.catalog = SimpleNamespace(listeners={"bell": SimpleNamespace(load=lambda: listener)})  # type: ignore[assignment]
    job = Job(id="j1", kind="merge", state=JobState.FAILED, spec={}, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    order = {"listener": "bell", "job": job.model_dump(mode="json")}
    assert child.call(order, channel)
    (line,) = messages.getvalue().splitlines()
    return cast(dict[str, Any], json.loads(line))


def test_listener_is_called_with_the_job() -> None:
    heard: list[Job] = []
    assert call(heard.append) == {"type": "heard"}
    assert (heard[0].id, heard[0].state) == ("j1", JobState.FAILED)


def test_listener_that_raises_or_leaves_fails_with_the_reason() -> None:
    def leave(job: Job) -> None:
        raise SystemExit("no bell")

    message = call(leave)
    assert (message["type"], message["reason"]) == ("failed", "SystemExit: no bell")
