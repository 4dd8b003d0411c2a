"""Runs transactions step by step, and finds the serial order that explains what they did."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from .database import SEEN, empty, growing_tables

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from .scripts import Call

# 23505: two binds to one VDSM id at once; repeated, it is AT105.
REPEAT = ("40001", "40P01", "23505")
Outcome = tuple[Any, ...]


class Saved:
    """The rows of all tables, to be brought back."""

    def __init__(self, owner: psycopg.Connection[Any]) -> None:
        self.owner = owner
        self.columns: dict[str, str] = {}
        for n, table in enumerate(growing_tables(owner)):
            columns = owner.execute(
                "select string_agg(quote_ident(attname), ', ') from pg_attribute where attnum > 0"
                " and attrelid = %s::regclass and not attisdropped and attgenerated = ''",
                (table,),
            ).fetchall()[0][0]
            owner.execute(f"create table saved_{n} as select {columns} from {table}".encode())
            self.columns[table] = columns

    def restore(self) -> None:
        with self.owner.transaction():
            empty(self.owner, list(self.columns))
            for n, (table, columns) in enumerate(self.columns.items()):
                self.owner.execute(
                    f"insert into {table} ({columns}) overriding system value"
                    f" select {columns} from saved_{n}".encode()
                )


@dataclass(slots=True)
class Lane:
    """A transaction on its way."""

    script: list[Call]
    connection: psycopg.AsyncConnection[Any]
    level: str
    steps: list[str | Call] = field(default_factory=list)
    running: asyncio.Task[None] | None = None
    code: str | None = None
    results: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = ["begin", *self.script, "commit"]

    async def step(self) -> None:
        step = self.steps.pop(0)
        try:
            if step == "begin":
                await self.connection.execute(f"begin isolation level {self.level}".encode())
                await self.connection.execute("select count(*) from atm.commands")  # the snapshot
            elif isinstance(step, str):
                await self.connection.execute(step.encode())
            else:
                cursor = await self.connection.execute(step.query.encode(), step.args)
                self.results.append(tuple(await cursor.fetchall()))
        except psycopg.Error as error:
            self.code = error.sqlstate
            self.steps.clear()
            await self.connection.rollback()

    @property
    def waits(self) -> bool:
        return self.running is not None and not self.running.done()


class Interleaving:
    """Makes the steps of all lanes, in an order that the dice choose."""

    def __init__(self, lanes: list[Lane], monitor: psycopg.AsyncConnection[Any]) -> None:
        self.lanes = lanes
        self.monitor = monitor
        self.order: list[str] = []

    async def run(self, dice: random.Random) -> None:
        while any(lane.steps or lane.waits for lane in self.lanes):
            for lane in self.lanes:
                await self.until_it_waits(lane)
            able = [lane for lane in self.lanes if lane.steps and not lane.waits]
            if not able:  # all wait for each other: PostgreSQL ends it
                waiting = [x.running for x in self.lanes if x.running and x.waits]
                if waiting:
                    await asyncio.wait(waiting, timeout=1)
                continue
            lane = dice.choice(able)
            self.order.append(f"{self.lanes.index(lane)}: {lane.steps[0]}")
            lane.running = asyncio.create_task(lane.step())
            await self.until_it_waits(lane)

    async def until_it_waits(self, lane: Lane) -> None:
        """Returns when the lane's step is done or waits for a lock that another lane has."""
        while lane.running and lane.waits:
            await asyncio.wait([lane.running], timeout=0.002)
            cursor = await self.monitor.execute(
                "select cardinality(pg_blocking_pids(%s))", (lane.connection.info.backend_pid,)
            )
            row = await cursor.fetchone()
            if lane.waits and row and row[0]:
                return
        if lane.running:
            await lane.running


def explained(owner: psycopg.Connection[Any], lanes: list[Lane], before: Saved) -> str:
    """Compares what happened with the serial orders; returns what is wrong, or nothing.

    A unit of these orders is a transaction; under READ COMMITTED a call, which is what the
    functions promise. Transactions that have to be repeated are as if they had not been.

    Under READ COMMITTED a report may overlook what happens while it waits for a lock: a task that
    is bound meanwhile is neither new nor followed. The next poll tells the same again, so the
    rows after one more poll may be compared instead. A claim skips what another transaction has
    locked: when it found nothing, it counts as not made, and beside a transaction that came to
    nothing it may have found anything.
    """
    claims = any(call.name == "claim" for lane in lanes for call in lane.script)
    if claims and any(lane.code for lane in lanes):
        return ""
    reports = [call for lane in lanes for call in lane.script if call.name.startswith("report ")]
    state = states(owner, reports)
    before.restore()
    made = [
        [
            (call, result)
            for call, result in itertools.zip_longest(lane.script, lane.results)
            if not (call.name == "claim" and result == ())
        ]
        for lane in lanes
    ]
    scripts = [[call for call, _ in calls] for calls in made]
    found = [
        (tuple(result for _, result in calls if result is not None), lane.code)
        for lane, calls in zip(lanes, made, strict=True)
    ]
    units = [
        (n, part)
        for n, lane in enumerate(lanes)
        if lane.code not in REPEAT
        for part in (
            [[call] for call in scripts[n]]
            if lane.level == "READ COMMITTED" and lane.code is None
            else [scripts[n]]
        )
    ]
    near = ""
    for order in orders(units):
        results, then = serially(owner, order, reports)
        if all(results[n] == found[n] for n in results):
            if any(ours == theirs for ours, theirs in zip(then, state, strict=True)):
                return ""
            near = str([ours ^ theirs for ours, theirs in zip(then[0], state[0], strict=True)])
    return f"no serial order gives {found}; the nearest differs in {near or 'the results'}"


def orders(units: list[tuple[int, list[Call]]]) -> Iterator[list[tuple[int, list[Call]]]]:
    """All orders that keep the order of each transaction's own parts."""
    places = {n: [part for m, part in units if m == n] for n, _ in units}
    for order in set(itertools.permutations([n for n, _ in units])):
        parts = {n: iter(own) for n, own in places.items()}
        yield [(n, next(parts[n])) for n in order]


def serially(
    owner: psycopg.Connection[Any], order: list[tuple[int, list[Call]]], reports: list[Call]
) -> tuple[dict[int, tuple[tuple[Outcome, ...], str | None]], list[Any]]:
    """One after the other in a transaction that is taken back."""
    results: dict[int, list[Outcome]] = {n: [] for n, _ in order}
    codes: dict[int, str | None] = dict.fromkeys(results)
    with owner.transaction(force_rollback=True):
        for n, part in order:
            try:
                with owner.transaction():
                    for call in part:
                        results[n].append(
                            tuple(owner.execute(call.query.encode(), call.args).fetchall())
                        )
            except psycopg.Error as error:
                codes[n] = error.sqlstate
        state = states(owner, reports)
    return {n: (tuple(rows), codes[n]) for n, rows in results.items()}, state


def states(owner: psycopg.Connection[Any], reports: list[Call]) -> list[Any]:
    """The rows now, and as they would be after the same listings once more."""
    now = seen(owner)
    with owner.transaction(force_rollback=True):
        for call in reports:
            token, pool, _, *listing = call.args
            (at,) = owner.execute("select clock_timestamp()").fetchall()[0]
            with suppress(psycopg.Error), owner.transaction():
                owner.execute(call.query.encode(), (token, pool, at, *listing))
        return [now, seen(owner)]


def seen(owner: psycopg.Connection[Any]) -> list[Any]:
    """The views; an unknown that has been bound is none any more, whoever knows it first."""
    tasks, commands, entities, orphans = (
        set(owner.execute(query.encode()).fetchall()) for query in SEEN
    )
    bound = {task[4] for task in tasks}
    return [tasks, commands, entities, {orphan for orphan in orphans if orphan[0] not in bound}]
