from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session
from support import fuzzing, registry
from support.services import Databases

from finch_hub.registry import attempts, claims, jobs, outbox, tables, types, values, workers
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job, Requirements

OWNERS = ["ada", "ben", "cleo", "dora"]


@pytest.fixture(scope="module")
def sqlite_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all examples of a test."""
    folder: Path = tmp_path_factory.mktemp("turns")
    made = Databases(folder, None)
    database = Database(made.new())
    yield database
    database.close()
    made.close()


@pytest.fixture(scope="module")
def shared_database(databases: Databases) -> Iterator[Database]:
    """The same on both engines in turn."""
    url = databases.new()
    database = Database(url, allow_insecure=True)
    yield database
    database.close()
    databases.drop(url)


def empty(database: Database) -> None:
    with database.write() as session:
        session.execute(sa.delete(tables.jobs))


def submit(database: Database, owner: str, count: int = 1, *, priority: int = 0, **requirements: object) -> list[str]:
    new = values.NewJob.of_spec(
        registry.merge_spec(), owner=owner, priority=priority, requirements=Requirements.model_validate(requirements)
    )
    with database.write() as session:
        return [job.id for job in jobs.submit_many(session, [new] * count)]


def end(database: Database, job: Job) -> None:
    registry.succeed(database, job)


def run_all(database: Database, *, slots: int = 1, **arguments: object) -> list[Job]:
    """Claim and end all jobs with a number of slots, and return them in the order of their claims."""
    order: list[Job] = []
    running: list[Job] = []
    while True:
        job = registry.claim(database, **arguments)  # type: ignore[arg-type]
        if job is not None:
            order.append(job)
            running.append(job)
        if job is None and not running:
            return order
        if job is None or len(running) >= slots:
            end(database, running.pop(0))


def owners_of(order: Sequence[Job]) -> list[str]:
    return [job.owner for job in order]


def turn_of(database: Database, job_id: str) -> int:
    with database.read() as session:
        return int(session.scalar(sa.select(tables.jobs.c.turn).where(tables.jobs.c.id == job_id)) or 0)


@pytest.mark.parametrize("slots", [1, 4])
def test_single_job_overtakes_the_sweep_of_another_owner(database: Database, slots: int) -> None:
    submit(database, "ada", 200)
    for _ in range(slots):
        registry.claimed(database)
    submit(database, "ben")
    assert [registry.claimed(database).owner for _ in range(3)] == ["ada", "ben", "ada"]


def test_single_job_overtakes_a_sweep_that_has_waited_for_minutes(database: Database) -> None:
    submit(database, "ada", 100)
    with database.write() as session:
        session.execute(sa.update(tables.jobs).values(created_at=types.later(-600)))
    registry.claimed(database, warm_base="other@")
    submit(database, "ben")
    assert [registry.claimed(database, warm_base="other@").owner for _ in range(2)] == ["ada", "ben"]


def test_owners_with_sweeps_take_turns(database: Database) -> None:
    submit(database, "ada", 5)
    submit(database, "ben", 3)
    submit(database, "cleo", 2)
    assert owners_of(run_all(database)) == [
        *("ada", "ben", "cleo"), *("ada", "ben", "cleo"), *("ada", "ben"), "ada", "ada"
    ]  # fmt: skip


def test_owner_who_submits_again_after_each_job_gets_every_second_claim(database: Database) -> None:
    submit(database, "ada", 20)
    submit(database, "ben")
    order = []
    for _ in range(12):
        job = registry.claimed(database)
        order.append(job.owner)
        if job.owner == "ben":
            submit(database, "ben")
        end(database, job)
    assert Counter(order) == {"ada": 6, "ben": 6}


def test_priority_is_above_turns(database: Database) -> None:
    submit(database, "ada", 3, priority=1)
    submit(database, "ben", 2)
    submit(database, "cleo", 1, priority=1)
    assert owners_of(run_all(database)) == ["ada", "cleo", "ada", "ada", "ben", "ben"]


def test_urgent_jobs_cost_their_owner_no_turns_among_others(database: Database) -> None:
    submit(database, "ada", 5, priority=1)
    submit(database, "ben", 3)
    submit(database, "ada")
    assert owners_of(run_all(database)) == [*["ada"] * 5, "ada", "ben", "ben", "ben"]


def test_jobs_of_earlier_versions_are_those_of_one_owner(database: Database) -> None:
    submit(database, "", 3)
    submit(database, "ada", 2)
    assert owners_of(run_all(database)) == ["", "ada", "", "ada", ""]


def test_job_that_returns_to_the_queue_keeps_its_turn(database: Database) -> None:
    submit(database, "ada", 3)
    submit(database, "ben", 3)
    first = registry.claimed(database)
    turn = turn_of(database, first.id)
    with database.write() as session:
        attempts.hand_back(session, first)
    assert turn_of(database, first.id) == turn
    again = registry.claimed(database)
    assert again.id == first.id
    registry.fail(database, again, retry=registry.AT_ONCE)
    assert turn_of(database, first.id) == turn
    assert registry.claimed(database).id == first.id


def test_job_with_dependencies_takes_its_turn_when_it_is_queued(database: Database) -> None:
    (parent,) = submit(database, "ada")
    children = [registry.submit(database, owner="ada", depends_on=[parent]).id for _ in range(3)]
    running = registry.claimed(database)
    submit(database, "ben", 3)
    end(database, running)
    order = run_all(database)
    assert owners_of(order) == ["ada", "ben", "ada", "ben", "ada", "ben"]
    assert [job.id for job in order if job.owner == "ada"] == children


def test_job_with_dependencies_comes_after_the_jobs_that_its_owner_has_queued(database: Database) -> None:
    parents, children = [], []
    for _ in range(3):
        parents += submit(database, "ada")
        children.append(registry.submit(database, owner="ada", depends_on=parents[-1:]).id)
    assert [job.id for job in run_all(database)] == parents + children


def test_dependents_of_one_job_have_different_turns(database: Database) -> None:
    (parent,) = submit(database, "ada")
    children = [registry.submit(database, owner="ada", depends_on=[parent]).id for _ in range(5)]
    end(database, registry.claimed(database))
    assert [turn_of(database, child) for child in children] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("slots", [1, 3])
def test_chain_of_jobs_takes_turns_with_the_jobs_of_others(database: Database, slots: int) -> None:
    (parent,) = submit(database, "ada")
    for _ in range(9):
        parent = registry.submit(database, owner="ada", depends_on=[parent]).id
    submit(database, "ben", 30)
    order = owners_of(run_all(database, slots=slots))
    runs = [len(list(run)) for owner, run in itertools.groupby(order) if owner == "ada"]
    assert max(runs) <= 2


def test_retry_keeps_its_owner(database: Database) -> None:
    submit(database, "ada")
    failed = registry.fail(database, registry.claimed(database))
    with database.write() as session:
        assert jobs.retry(session, failed.id).owner == "ada"


def test_queue_that_nobody_serves_holds_back_no_other(database: Database) -> None:
    """The turns of one queue say nothing about those of another."""
    submit(database, "ada", 50)
    for _ in range(40):
        end(database, registry.claimed(database))
    registry.claimed(database)
    submit(database, "ben", 100, queue="slow")
    (single,) = submit(database, "cleo", queue="slow")
    slow = registry.ANY_SLOT.evolve(queues=("slow",))
    assert single in [registry.claimed(database, capabilities=slow).id for _ in range(3)]


def test_job_that_fits_nobody_gives_no_other_owner_an_advantage(database: Database) -> None:
    submit(database, "ada", labels=("none",))
    submit(database, "ben", 20)
    for _ in range(10):
        registry.claimed(database)
    submit(database, "cleo", 5)
    assert Counter(registry.claimed(database).owner for _ in range(6)) == {"ben": 3, "cleo": 3}


def test_job_that_fits_nobody_starves_no_sweep_in_a_line_behind_others(database: Database) -> None:
    """Other lines have claimed many greater turns, so the line's own claims are looked up by themselves."""
    slow = registry.ANY_SLOT.evolve(queues=("slow",))
    submit(database, "ada", queue="slow", labels=("none",))
    submit(database, "zoe", 20, queue="slow")
    submit(database, "busy", 200)
    for _ in range(100):
        end(database, registry.claimed(database))
    for _ in range(8):
        end(database, registry.claimed(database, capabilities=slow))
    order = []
    submit(database, "ben", queue="slow")
    for _ in range(10):
        job = registry.claimed(database, capabilities=slow)
        order.append(job.owner)
        end(database, job)
        if job.owner == "ben":
            submit(database, "ben", queue="slow")
    assert Counter(order) == {"zoe": 5, "ben": 5}


GPU_SLOT = registry.ANY_SLOT.evolve(device="cuda")


def enter_gpu_worker(database: Database) -> None:
    """Let the slot be that of a worker which clients know."""
    device = values.Device(kind="cuda", name="L4", memory_bytes=2**40, free_bytes=2**40)
    description = values.WorkerDescription(
        id="w", hostname="box", pid=1, version="1", schema_revision="1", devices=(device,)
    )
    with database.write() as session:
        session.execute(sa.delete(tables.Worker.__table__))
        workers.register(session, description)


@pytest.mark.parametrize("used", ["never", "before", "after"])
@pytest.mark.parametrize("is_idle", [False, True])
def test_job_that_fits_nobody_lets_its_line_begin_after_others(database: Database, used: str, is_idle: bool) -> None:
    enter_gpu_worker(database)
    if used == "before":
        submit(database, "ada", device="cuda")
        end(database, registry.claimed(database, capabilities=GPU_SLOT))
    submit(database, "ada", device="cuda", labels=("none",))
    if used == "after":
        submit(database, "ada", device="cuda")
        end(database, registry.claimed(database, capabilities=GPU_SLOT))
    submit(database, "ben", 60)
    for _ in range(40):
        end(database, registry.claimed(database, capabilities=GPU_SLOT))
    if not is_idle:
        registry.claimed(database, capabilities=GPU_SLOT)
    submit(database, "cleo", 20, device="cuda")
    assert Counter(registry.claimed(database, capabilities=GPU_SLOT).owner for _ in range(10)) == {"ben": 5, "cleo": 5}


def test_job_that_waits_after_a_failure_lets_its_line_begin_after_others(database: Database) -> None:
    enter_gpu_worker(database)
    submit(database, "ada", device="cuda")
    registry.fail(
        database,
        registry.claimed(database, capabilities=GPU_SLOT),
        retry=values.RetryPolicy(max_attempts=3, base_delay=600),
    )
    submit(database, "ben", 60)
    for _ in range(40):
        end(database, registry.claimed(database, capabilities=GPU_SLOT))
    submit(database, "cleo", 20, device="cuda")
    assert Counter(registry.claimed(database, capabilities=GPU_SLOT).owner for _ in range(10)) == {"ben": 5, "cleo": 5}


def test_job_of_a_slow_line_is_not_behind_its_sweep_while_a_worker_is_idle(database: Database) -> None:
    """Workers of the line would claim the first job of the sweep next, so it was not passed over."""
    enter_gpu_worker(database)
    submit(database, "ada", 50)
    submit(database, "ben", 100, device="cuda")
    for _ in range(40):
        registry.claimed(database)
    (single,) = submit(database, "cleo", device="cuda")
    assert single in [registry.claimed(database, capabilities=GPU_SLOT).id for _ in range(3)]


@pytest.mark.slow
@settings(max_examples=fuzzing.examples(15), deadline=None, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 2**32))
@example(seed=23)
@example(seed=208)  # a job that fits nobody is left in front of a line whose last claim is long ago
def test_jobs_that_fit_nobody_give_no_owner_more_than_its_turns(sqlite_database: Database, seed: int) -> None:
    """Between two claims of an owner who waits, each other one gets at most two in each of the two lines."""
    empty(sqlite_database)
    enter_gpu_worker(sqlite_database)
    random = Random(seed)
    waiting: Counter[str] = Counter()  # jobs that fit, by owner
    since: dict[str, Counter[str]] = {}  # claims of others since the last one of an owner who waits
    num_steps = 0
    while num_steps < 60 or waiting.total():
        num_steps += 1
        step = random.choice(["submit", "stick", "claim", "claim"]) if num_steps < 60 else "claim"
        owner, device = random.choice(OWNERS[:3]), random.choice(["any", "cuda"])
        if step == "submit":
            submit(sqlite_database, owner, 6, device=device)
            if not waiting[owner]:
                since[owner] = Counter()
            waiting[owner] += 6
        elif step == "stick":
            submit(sqlite_database, "zoe", device=device, labels=("none",))
        elif waiting.total():
            job = registry.claimed(sqlite_database, capabilities=GPU_SLOT)
            end(sqlite_database, job)
            waiting[job.owner] -= 1
            since[job.owner] = Counter()
            for other in OWNERS[:3]:
                if waiting[other] and other != job.owner:
                    since[other][job.owner] += 1
                    assert since[other][job.owner] <= 4


def test_line_that_begins_late_does_not_begin_before_others(database: Database) -> None:
    """Its clock is that of the other lines, whose jobs fit the same slots, also if it was used long ago."""
    submit(database, "ben", 1, device="cpu")
    submit(database, "ada", 60, device="any")
    for _ in range(41):
        end(database, registry.claimed(database))
    submit(database, "ben", 20, device="cpu")
    assert Counter(registry.claimed(database).owner for _ in range(10)) == {"ada": 5, "ben": 5}


def test_job_with_new_needs_is_not_behind_the_sweep_of_a_slow_line(database: Database) -> None:
    submit(database, "ada", 50)
    submit(database, "ben", 100, device="cuda")
    for _ in range(40):
        registry.claimed(database)
    (single,) = submit(database, "cleo", device="cuda", memory_bytes=2**30)
    accelerator = registry.ANY_SLOT.evolve(device="cuda")
    assert single in [registry.claimed(database, capabilities=accelerator).id for _ in range(3)]


def test_jobs_that_are_submitted_before_any_claim_ask_for_no_workers(database: Database) -> None:
    submit(database, "ada")
    statements: list[str] = []
    with database.write() as session:
        sa.event.listen(session.connection(), "before_cursor_execute", lambda *event: statements.append(event[2]))
        registry.submit_job(session, registry.merge_spec(), owner="ada")
    assert [text for text in statements if "INSERT INTO jobs" in text]
    assert not [text for text in statements if "FROM workers" in text]


def test_owner_at_the_limit_gives_no_new_owner_an_advantage(database: Database) -> None:
    limited = registry.ANY_SLOT.evolve(owner_running=1)
    submit(database, "ada", 20)
    submit(database, "ben", 60)
    assert registry.claimed(database, capabilities=limited).owner == "ada"  # and runs on
    for _ in range(40):
        end(database, registry.claimed(database, capabilities=limited))
    submit(database, "cleo", 20)
    order = []
    for _ in range(10):
        job = registry.claimed(database, capabilities=limited)
        order.append(job.owner)
        end(database, job)
    assert Counter(order) == {"ben": 5, "cleo": 5}


def test_jobs_with_different_needs_take_one_turn_each(database: Database) -> None:
    for number in range(20):
        submit(database, "ada", memory_bytes=2**20 * 2**number)
    submit(database, "ben", 20)
    assert Counter(registry.claimed(database).owner for _ in range(10)) == {"ada": 5, "ben": 5}


def test_owners_who_submit_again_after_each_end_do_not_starve_a_sweep(database: Database) -> None:
    submit(database, "zoe", 10)
    submit(database, "ada")
    submit(database, "ben")
    order = []
    for _ in range(15):
        job = registry.claimed(database)
        order.append(job.owner)
        end(database, job)
        if job.owner != "zoe":
            submit(database, job.owner)
    assert Counter(order) == {"zoe": 5, "ada": 5, "ben": 5}


def test_no_crowd_of_new_owners_overtakes_a_job_at_the_front(database: Database) -> None:
    submit(database, "ada", 3)
    order = []
    for number in range(12):
        submit(database, f"a-{number}")
        order.append(registry.claimed(database).owner)
    assert order.count("ada") == 3


def test_front_of_thousand_owners_has_all_of_them_once(database: Database) -> None:
    submit(database, "ada", 300)
    owners = [f"owner-{number}" for number in range(100)]
    for owner in owners:
        submit(database, owner, 2)
    order = [registry.claimed(database).owner for _ in range(101)]
    assert sorted(order) == sorted(["ada", *owners])


@settings(max_examples=fuzzing.examples(40))
@given(backlogs=st.lists(st.integers(1, 9), min_size=2, max_size=4), slots=st.integers(1, 3), data=st.data())
def test_claims_of_owners_with_a_backlog_differ_by_at_most_one(
    sqlite_database: Database, backlogs: list[int], slots: int, data: st.DataObject
) -> None:
    """At each moment, over the claims since all of them had a backlog."""
    empty(sqlite_database)
    left = dict(zip(OWNERS, backlogs, strict=False))
    batches = [owner for owner, count in left.items() for _ in range(count)]
    for owner in data.draw(st.permutations(batches)):  # one by one, in any order
        submit(sqlite_database, owner)
    claimed: Counter[str] = Counter()
    for job in run_all(sqlite_database, slots=slots):
        claimed[job.owner] += 1
        waiting = [owner for owner in left if claimed[owner] < left[owner]]
        for owner in waiting:
            assert all(claimed[other] <= claimed[owner] + 1 for other in left)
    assert claimed == Counter(left)


moves = st.one_of(
    st.tuples(st.sampled_from(OWNERS), st.integers(1, 4)),
    st.just("claim"),
    st.just("claim and submit again"),
    st.just("end"),
)


@settings(max_examples=fuzzing.examples(60))
@given(moves=st.lists(moves, max_size=60))
def test_between_two_claims_for_an_owner_with_queued_jobs_each_other_gets_at_most_one(
    shared_database: Database, moves: list[tuple[str, int] | str]
) -> None:
    empty(shared_database)
    queued: Counter[str] = Counter()
    since: dict[str, Counter[str]] = {}  # claims of others since the last one of an owner who always had a queued job
    running: list[Job] = []
    for move in moves:
        if isinstance(move, tuple):
            submit(shared_database, *move)
            queued[move[0]] += move[1]
        elif move == "end":
            if running:
                end(shared_database, running.pop(0))
        elif (job := registry.claim(shared_database)) is not None:
            running.append(job)
            queued[job.owner] -= 1
            for owner, claims_of_others in since.items():
                claims_of_others[job.owner] += 1
                assert owner == job.owner or claims_of_others[job.owner] <= 1
            if move == "claim and submit again":
                submit(shared_database, job.owner)
                queued[job.owner] += 1
            since.pop(job.owner, None)
            if queued[job.owner]:
                since[job.owner] = Counter()


steps = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from(OWNERS), st.integers(1, 4), st.integers(-1, 1)),
    st.just(("claim",)),
    st.just(("end",)),
    st.just(("back",)),
)


@settings(max_examples=fuzzing.examples(60))
@given(steps=st.lists(steps, max_size=40), front=st.sampled_from([0, 1, 64]))
def test_claims_keep_priorities_and_the_order_of_each_owner_and_leave_no_slot_idle(
    sqlite_database: Database, steps: list[tuple[object, ...]], front: int
) -> None:
    empty(sqlite_database)
    queued: dict[str, list[tuple[int, int]]] = {owner: [] for owner in OWNERS}  # (-priority, serial)
    known: dict[str, tuple[str, tuple[int, int]]] = {}
    running: list[Job] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "FRONT_JOBS", front)
        for step in steps:
            if step[0] == "submit":
                _, owner, count, priority = step
                assert isinstance(owner, str)
                assert isinstance(count, int)
                assert isinstance(priority, int)
                for job_id in submit(sqlite_database, owner, count, priority=priority):
                    known[job_id] = (owner, (-priority, len(known)))
                    queued[owner].append(known[job_id][1])
            elif step[0] == "claim":
                job = registry.claim(sqlite_database)
                assert (job is None) == (not any(queued.values()))
                if job is not None:
                    owner, key = known[job.id]
                    assert key == min(queued[owner])
                    assert key[0] == min(key for keys in queued.values() for key, _ in keys)
                    queued[owner].remove(key)
                    running.append(job)
            elif running:
                job = running.pop(0)
                if step[0] == "end":
                    end(sqlite_database, job)
                else:
                    with sqlite_database.write() as session:
                        attempts.hand_back(session, job)
                    owner, key = known[job.id]
                    queued[owner].append(key)


@pytest.mark.parametrize("others", [0, 1])
def test_damaged_turn_lets_others_submit(database: Database, others: int) -> None:
    for job_id in submit(database, "ann", 2 + others)[others:]:
        with database.write() as session:
            session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(turn=2**63 - 1))
    submitted = submit(database, "ann", 2) + submit(database, "bob", 2)
    assert {registry.claimed(database).id for _ in range(6 + others)} > set(submitted)


@pytest.mark.slow
@pytest.mark.parametrize("planned_for", [0, 300, 1200])
def test_plans_for_a_short_queue_read_few_rows_of_a_long_one(database: Database, planned_for: int) -> None:
    """PostgreSQL keeps the plans of a connection. Without statistics it takes each index of queued jobs for tiny."""
    if database.is_sqlite:
        pytest.skip("SQLite keeps no plan of an earlier state")
    new = values.NewJob.of_spec(registry.merge_spec(), owner="ada")
    worker = registry.ANY_SLOT.worker

    def measure(use: Callable[[Session], object]) -> int:
        with database.write() as session:
            before = session.scalars(count).one()
            use(session)
            return int(session.scalars(count).one() - before)

    count = sa.text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs'")
    uses: dict[str, Callable[[Session], object]] = {
        "submit": lambda session: jobs.submit_many(session, [new]),
        "claim": lambda session: claims.claim(session, worker=worker, capabilities=registry.ANY_SLOT, lease_seconds=60),
        "has_queued": outbox.has_queued,
        "has_unsent": outbox.has_unsent,
        "has_due": outbox.has_due,
        "take_due": outbox.take_due,
    }

    def fill(count: int) -> None:
        started = {"fence": 1, "started_at": types.now(), "turn": tables.jobs.c.number}
        submit(database, "ada", count, queue="other")
        with database.write() as session:
            session.execute(sa.update(tables.jobs).where(tables.jobs.c.queue == "other").values(started))
        submit(database, "ada", count)

    fill(planned_for)
    for _ in range(20):  # the driver prepares a statement at its fifth use, and the server keeps a plan of the fifth
        for use in uses.values():
            measure(use)
    fill(3000)
    counts = {name: measure(use) for name, use in uses.items()}
    assert max(counts.values()) < 1000, counts
