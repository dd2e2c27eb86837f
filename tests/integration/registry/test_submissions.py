"""Submissions of several users at once."""

from __future__ import annotations

import contextlib
import threading
import types
from typing import Any

import pytest
from support import registry

from finch_hub.hub import submission
from finch_hub.hub.examples import StoredExamples
from finch_hub.registry import values
from finch_hub.registry.database import Database


def test_submissions_that_read_one_data_set_do_not_wait_for_each_other_in_a_circle(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = registry.train_spec("birds")
    stored = StoredExamples(digest=spec.train, format="messages", examples=2, bytes=9, made_of=(spec.train,))
    settings = types.SimpleNamespace(owner_unfinished=None)
    store = types.SimpleNamespace(has=lambda digest: True)
    stores: Any = types.SimpleNamespace(database=database, settings=settings, artifacts=store)
    dispatcher: Any = types.SimpleNamespace(dispatch=lambda *jobs: None)

    def submit() -> None:
        submission.submit([values.NewJob.of_spec(spec)], [stored], stores=stores, dispatcher=dispatcher)

    submit()
    both, register, failed = threading.Barrier(2), submission.register_examples, list[Exception]()

    def register_together(*args: Any, **options: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):  # both hold the data set now, unless one waits
            both.wait(1.0)
        return register(*args, **options)

    def try_submit() -> None:
        try:
            submit()
        except Exception as error:
            failed.append(error)

    monkeypatch.setattr(submission, "register_examples", register_together)
    threads = [threading.Thread(target=try_submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
