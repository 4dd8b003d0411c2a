"""Transactions at the same time, their steps in random orders, under each isolation level.

What they return and leave must be what some serial order of them returns and leaves; a transaction
may instead be told to repeat (40001, 40P01, 23505), but never all of them at once.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import pytest_asyncio

from .database import LEVELS
from .interleaving import REPEAT, Interleaving, Lane, Saved, explained
from .scripts import build, catalogue

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

RUNS = int(os.environ.get("PYATM_STATEFUL_RUNS", "0")) * 10
FIRST = int(os.environ.get("PYATM_STATEFUL_SEED", "0"))
LANES = 3


@pytest_asyncio.fixture
async def lanes(dsn: str) -> AsyncGenerator[list[psycopg.AsyncConnection[Any]]]:
    """Connections for the lanes and one that watches them."""
    opened = [await psycopg.AsyncConnection.connect(dsn, autocommit=True) for _ in range(LANES + 1)]
    for connection in opened:
        await connection.execute("set deadlock_timeout = '20ms'")
    yield opened
    for connection in opened:
        await connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
async def test_transactions_at_the_same_time_do_what_some_serial_order_does(
    db: psycopg.Connection[Any], lanes: list[psycopg.AsyncConnection[Any]], level: str
) -> None:
    stage = build(db)
    saved = Saved(db)
    monitor, *others = lanes
    for seed in range(FIRST, FIRST + (RUNS or 15)):
        dice = random.Random(seed)
        saved.restore()
        now = db.execute("select clock_timestamp()").fetchall()[0][0]
        calls = catalogue(stage, dice, now)
        chosen = [
            Lane([calls[name]() for name in dice.sample(sorted(calls), size)], connection, level)
            for connection, size in zip(
                others[: dice.choice([2, 2, 3])], dice.choices([1, 1, 2], k=LANES), strict=False
            )
        ]
        run = Interleaving(chosen, monitor)
        await run.run(dice)
        codes = [lane.code for lane in chosen]
        trace = f"seed {seed}, {level}: {' | '.join(run.order)}: {codes}"
        assert not all(code in REPEAT for code in codes), f"nobody gets on: {trace}"
        assert all(c is None or c in REPEAT or c[:2] == "AT" for c in codes), trace
        problem = explained(db, chosen, saved)
        assert not problem, f"{trace}: {problem}"
