"""Listening: calls of the plugins' listeners with the changes of jobs that the registry has for them."""

from __future__ import annotations

import logging
import secrets
import selectors
import threading

from finch_hub import errors
from finch_hub.registry import listeners, values
from finch_hub.registry.database import Session
from finch_hub.specs.jobs import Job
from finch_hub.storage.stores import Stores
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.devices import NO_DEVICE
from finch_hub.workers.supervision.orphan_cleanup import OrphanCleanup
from finch_hub.workers.supervision.process import Child, write_environment

log = logging.getLogger(__name__)

CALL_SECONDS = 30.0  # that a call may take
_START_SECONDS = 120.0  # that the process of a listener may take to start
_TURN_SECONDS = 15.0  # after which no further call begins
_RENEW_SECONDS = listeners.LEASE_SECONDS / 4
_BATCH = 50  # changes in a turn
_LOOK_SECONDS = 1.0
_POLL_SECONDS = 0.2
_REGISTER_SECONDS = 600.0
_MAX_TROUBLE = 500  # characters


class Listening:
    """Calls of all listeners of a worker. A worker without listeners has no thread and no process for them."""

    def __init__(self, stores: Stores) -> None:
        self._stores, self._names = stores, list(stores.catalog.listeners)
        self._orphan_cleanup: OrphanCleanup | None = None
        self._calls: list[ListenerCalls] = []

    def register(self, session: Session) -> None:
        """Record the listeners, so that they hear of all changes from now on."""
        if self._names:
            listeners.register(session, self._names)

    def start(self) -> None:
        """Start the threads."""
        if self._names:
            self._orphan_cleanup = OrphanCleanup()
        for name in self._names:
            self._calls.append(ListenerCalls(name, self._stores, self._orphan_cleanup))
            self._calls[-1].start()

    def close(self) -> None:
        """End the threads and the processes. A call that was not finished is made again later."""
        for calls in self._calls:
            calls.stop()
        for calls in self._calls:
            calls.close()
        if self._orphan_cleanup is not None:
            self._orphan_cleanup.close()


class ListenerCalls:
    """Calls of one listener, in a thread and a child process of its own.

    So a listener that hangs, crashes or leaks delays neither jobs nor other listeners. Its process is killed after a
    while, and the call is repeated a few times.
    """

    def __init__(self, name: str, stores: Stores, orphan_cleanup: OrphanCleanup | None = None) -> None:
        self._name, self._stores, self._orphan_cleanup = name, stores, orphan_cleanup
        self._caller = secrets.token_hex(8)
        self._redactor = stores.redactor
        self._closed = threading.Event()
        self._child: Child | None = None
        self._used_at = self._registered_at = self._renewed_at = clock.elapsed()
        self._has_lost_turn = False
        self._thread = threading.Thread(target=self._run, name=f"listener {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end, without waiting for it."""
        self._closed.set()

    def close(self) -> None:
        """End the thread and the child process."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._drop_child()

    def look(self) -> None:
        """Call the listener with all changes that it has not heard."""
        while not self._closed.is_set() and self._take_turn():
            self._used_at = clock.elapsed()

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                self._keep_registered()
                self.look()
            except errors.FinchError as error:
                log.warning("listen", extra={"listener": self._name, "error": error})
            except Exception:
                log.exception("listen", extra={"listener": self._name})
            if clock.elapsed() - self._used_at > self._stores.settings.warm_seconds:
                self._drop_child()
        try:
            with self._stores.database.write() as session:
                listeners.release(session, self._name, self._caller)
        except errors.FinchError as error:
            log.warning("listen", extra={"listener": self._name, "error": error})

    def _keep_registered(self) -> None:
        if clock.elapsed() - self._registered_at < _REGISTER_SECONDS:
            return
        with self._stores.database.write() as session:
            listeners.register(session, [self._name])
            if number := listeners.skip_old(session, self._name):
                log.error("skip", extra={"listener": self._name, "changes": number, "error": "they waited too long"})
        self._registered_at = clock.elapsed()

    def _take_turn(self) -> bool:
        """Call the listener with some changes. Return whether there may be more."""
        with self._stores.database.read() as session:
            if not listeners.has_due(session, self._name, self._caller):
                return False
        with self._stores.database.write() as session:
            changes = listeners.take(session, self._name, self._caller, limit=_BATCH)
        began = self._renewed_at = clock.elapsed()
        self._has_lost_turn = False
        heard: list[values.StateChange] = []
        for change in changes:
            if clock.elapsed() - began > _TURN_SECONDS or self._closed.is_set():
                break
            trouble = self._call(change.job)
            if self._closed.is_set() or self._has_lost_turn:
                break  # the call may have been cut short
            if trouble is None:
                heard.append(change)
            else:
                self._record(heard, change, self._redactor.clean(trouble)[:_MAX_TROUBLE])
                heard = []
        if heard:
            self._record(heard)
        return bool(changes)

    def _record(
        self, heard: list[values.StateChange], failed: values.StateChange | None = None, trouble: str = ""
    ) -> None:
        is_repeated = True
        with self._stores.database.write() as session:
            if heard:
                listeners.record_success(session, self._name, heard)
            if failed is not None:
                is_repeated = listeners.record_failure(session, self._name, failed, trouble)
        if failed is not None:
            level, action = (logging.WARNING, "listen") if is_repeated else (logging.ERROR, "skip")
            fields = {
                "listener": self._name,
                "job_id": failed.job.id,
                "state": failed.job.state.value,
                "error": trouble,
            }
            log.log(level, action, extra=fields)

    def _call(self, job: Job) -> str | None:
        """Call the listener with a job. Return why the call failed, None if it did not."""
        child = self._take_child()
        child.send(type="call", listener=self._name, job=job.model_dump(mode="json"))
        seconds = CALL_SECONDS if child.has_started else _START_SECONDS
        deadline = clock.elapsed() + seconds
        with selectors.PollSelector() as selector:
            selector.register(child.messages_fd, selectors.EVENT_READ)
            selector.register(child.output_fd, selectors.EVENT_READ)
            while not self._closed.is_set():
                ready = {key.fd for key, _ in selector.select(_POLL_SECONDS)}
                if child.output_fd in ready and not child.read_output():
                    selector.unregister(child.output_fd)
                has_started = child.has_started
                for message in child.read_messages():
                    if message is None:
                        end = child.describe_end()
                        self._drop_child()
                        return f"its process ended: {end}"
                    if message["type"] == "heard":
                        return None
                    if trace := message.get("traceback"):
                        log.warning("call", extra={"listener": self._name, "exception": trace})
                    return str(message.get("reason"))
                if child.has_started and not has_started:
                    deadline = clock.elapsed() + CALL_SECONDS
                if clock.elapsed() > deadline:
                    self._drop_child()
                    if not has_started:
                        return f"its process did not start within {_START_SECONDS:g} s"
                    return f"it did not return within {CALL_SECONDS:g} s"
                self._keep_turn()
                if self._has_lost_turn:
                    self._drop_child()
                    break
        return None

    def _keep_turn(self) -> None:
        """Renew the lease now and then, as while a process starts slowly. Note whether another worker has it by now."""
        if clock.elapsed() - self._renewed_at < _RENEW_SECONDS:
            return
        try:
            with self._stores.database.write() as session:
                self._has_lost_turn = not listeners.renew(session, self._name, self._caller)
        except errors.Unavailable as error:
            log.warning("listen", extra={"listener": self._name, "error": error})
        if self._has_lost_turn:
            log.warning("listen", extra={"listener": self._name, "error": "another worker calls it by now"})
        self._renewed_at = clock.elapsed()

    def _take_child(self) -> Child:
        if self._child is None or not self._child.is_alive:
            self._drop_child()
            environment = {**NO_DEVICE, **write_environment(self._stores.settings)}  # the devices are for jobs
            self._child = Child(environment, orphan_cleanup=self._orphan_cleanup)
        return self._child

    def _drop_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
