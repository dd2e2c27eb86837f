"""Fields of threads: each has its own, and calls that it starts elsewhere have them too."""

from __future__ import annotations

import threading

from finch_hub.workers.logs import context
from finch_hub.workers.supervision.blocking_calls import BlockingCalls


def test_fields_end_with_their_block_and_belong_to_one_thread() -> None:
    context.set_process_fields(worker="w1")
    seen: list[dict[str, object]] = []
    with context.log_fields(job_id="j1"):
        thread = threading.Thread(target=lambda: seen.append(context.current_fields()))
        thread.start()
        thread.join()
        seen.append(context.current_fields())
    assert [*seen, context.current_fields()] == [{"worker": "w1"}, {"worker": "w1", "job_id": "j1"}, {"worker": "w1"}]


def test_blocking_call_has_the_fields_of_its_caller() -> None:
    calls = BlockingCalls()
    for job_id in ("j1", "j2"):  # in one thread
        with context.log_fields(job_id=job_id):
            assert calls.start(context.current_fields).result(30) == {"job_id": job_id}
    calls.close()
