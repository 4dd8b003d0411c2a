"""Any sequence of calls and faults, by two engines, two pollers and an operator.

Every call is predicted by an oracle (`oracle.py`, `listings.py`), every prediction is compared
with the public views, and both with what happens in truth (`truth.py`). `make test` repeats the
same runs each time; `make stateful` looks for new ones.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from .database import Database
from .machine import Machine
from .walk import Walk

if TYPE_CHECKING:
    from collections.abc import Generator

# How many examples and walks beyond those of each run of the tests; make stateful sets it.
RUNS = int(os.environ.get("PYATM_STATEFUL_RUNS", "0"))
# The first walk; make stateful takes other ones each time.
FIRST = int(os.environ.get("PYATM_STATEFUL_SEED", "0"))
STEPS = 200


@pytest.fixture
def database(dsn: str) -> Generator[Database]:
    database = Database(dsn)
    yield database
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, FIRST + (RUNS or 4)))
def test_long_walks_through_the_same_moves_come_to_rest(database: Database, seed: int) -> None:
    walk = Walk(database, seed)
    try:
        walk.run(STEPS)
    except BaseException:
        print(f"seed {seed}:", *walk.trace, sep="\n  ")
        raise


@pytest.mark.slow
def test_no_sequence_of_calls_and_faults_breaks_an_invariant(database: Database) -> None:
    class Bound(Machine):
        pass

    Bound.database = database
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=RUNS or 25,
            stateful_step_count=100 if RUNS else 60,
            derandomize=not RUNS,
            database=None,
            deadline=None,
            print_blob=True,
            verbosity=Verbosity.normal,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
