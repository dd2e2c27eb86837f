"""The demo's planner: what it chooses fits into the seconds by its own estimate, at any speed."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.demo import plan
from examples.demo.plan import COMPOSITION, KNOWLEDGE, Sizes, Speed, Tokens

DEMO_SECONDS = 480.0
TOKENS = Tokens(fact=52, domains={"medical": 140, "legal": 140, "code": 135, "style": 120})

units = st.floats(20, 100_000)
starts = st.floats(0.5, 15)
levels = st.integers(0, plan.LEVELS)
tokens = st.builds(
    Tokens,
    fact=st.floats(30, 80),
    domains=st.fixed_dictionaries({name: st.floats(60, 250) for name in ("medical", "legal", "code", "style")}),
)


def is_at_most(smaller: Sizes, larger: Sizes) -> bool:
    return all(value <= asdict(larger)[name] for name, value in asdict(smaller).items())


@given(units, starts)
def test_the_whole_demo_fits_at_any_speed(speed: float, start: float) -> None:
    measured = Speed(units=speed, start=start)
    sizes = plan.choose_sizes(TOKENS.steps, TOKENS, measured, seconds=DEMO_SECONDS)
    assert plan.estimate_seconds(TOKENS.steps, sizes, TOKENS, measured) <= DEMO_SECONDS


@given(units, starts, tokens, st.floats(0, 1_000), st.integers(0, 7))
def test_what_is_chosen_fits_or_is_the_least(
    speed: float, start: float, tokens: Tokens, seconds: float, done: int
) -> None:
    measured, steps = Speed(units=speed, start=start), tokens.steps[done:]
    sizes = plan.choose_sizes(steps, tokens, measured, seconds=seconds)
    fits = plan.estimate_seconds(steps, sizes, tokens, measured) <= seconds
    assert fits or sizes == plan.sizes_at(0)


@given(units, units, starts, st.floats(0, 600), st.floats(0, 600))
def test_more_speed_and_more_seconds_never_make_a_size_smaller(
    first: float, second: float, start: float, some: float, others: float
) -> None:
    slow, fast = (Speed(units=value, start=start) for value in sorted((first, second)))
    little, much = sorted((some, others))
    least = plan.choose_sizes(TOKENS.steps, TOKENS, slow, seconds=little)
    assert is_at_most(least, plan.choose_sizes(TOKENS.steps, TOKENS, fast, seconds=little))
    assert is_at_most(least, plan.choose_sizes(TOKENS.steps, TOKENS, slow, seconds=much))


@given(levels, levels)
def test_sizes_and_work_grow_with_the_level(first: int, second: int) -> None:
    low, high = (plan.sizes_at(level) for level in sorted((first, second)))
    assert is_at_most(low, high)
    for step in TOKENS.steps:
        if step != COMPOSITION:  # rows that a search does not share with its report cost it less
            assert plan.count_units(step, low, TOKENS) <= plan.count_units(step, high, TOKENS)


@given(levels)
def test_every_size_can_be_run(level: int) -> None:
    sizes = plan.sizes_at(level)
    assert min(asdict(sizes).values()) >= 1
    assert 1 <= sizes.fact_batch <= plan.QUESTIONS_PER_FACT * sizes.facts
    assert sizes.rows >= 2 * sizes.row_batch  # two steps, so that the second one uses what the first has learned


def test_a_fast_machine_gets_all_and_a_slow_one_a_part_of_everything() -> None:
    fast = plan.choose_sizes(TOKENS.steps, TOKENS, Speed(units=100_000, start=2), seconds=270)
    assert fast == plan.sizes_at(plan.LEVELS)
    slow = plan.choose_sizes(TOKENS.steps, TOKENS, Speed(units=20, start=5), seconds=DEMO_SECONDS)
    assert all(0 < value <= asdict(fast)[name] for name, value in asdict(slow).items())
    assert (slow.min_recall, slow.min_gain, slow.min_retention) == (0, 0, None)
    assert fast.min_recall > 0
    assert fast.min_gain > 0
    assert fast.min_retention is not None


def test_held_out_rows_stay_as_an_earlier_step_used_them() -> None:
    speed = Speed(units=1_000, start=2)
    sizes = plan.choose_sizes([COMPOSITION], TOKENS, speed, seconds=60, held_out=7)
    assert sizes.held_out == 7
    assert plan.estimate_seconds([COMPOSITION], sizes, TOKENS, speed) <= 60


@given(units, st.lists(units, min_size=1, max_size=9), st.floats(0.1, 100))
def test_the_speed_falls_at_once_and_stays_between_the_measured(
    first: float, later: list[float], seconds: float
) -> None:
    speed = Speed(units=first, start=3)
    for measured in later:
        speed = speed.after(measured * seconds, seconds)
        assert speed.units <= measured * (1 + 1e-9)
    assert min(first, *later) * (1 - 1e-9) <= speed.units <= max(first, *later) * (1 + 1e-9)
    assert speed.start == 3


@pytest.mark.parametrize("slowdown", [1, 2, 3])
def test_a_machine_that_slows_down_still_ends_in_time(slowdown: float) -> None:
    """Each step takes what the planner estimates, at a speed that falls after the facts."""
    believed, elapsed, held_out = Speed(units=400, start=5), 0.0, None
    for position, step in enumerate(TOKENS.steps):
        sizes = plan.choose_sizes(
            TOKENS.steps[position:], TOKENS, believed, seconds=DEMO_SECONDS - elapsed, held_out=held_out
        )
        held_out = held_out if step == KNOWLEDGE else sizes.held_out
        real = Speed(units=400 / (1 if step == KNOWLEDGE else slowdown), start=5)
        seconds = plan.estimate_seconds([step], sizes, TOKENS, real)
        elapsed += seconds
        work = plan.count_units(step, sizes, TOKENS)
        if work:
            believed = believed.after(work, seconds - plan.estimate_start(step, believed))
    assert elapsed <= DEMO_SECONDS
