"""With many other commands alive, no step in the life of a command reads more than its own rows."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from .world import FINISHED, ROLLED_BACK, World

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.conftest import Connection

OTHERS = 30_000
"""Enough that the planner finds a scan of all of them cheap when it guesses wrong."""
MOST = 1000
"""Rows; a step of 8 commands with 4 tasks each needs some hundreds."""

FILL = """
select count(*)
  from generate_series(1, %(others)s) n
 cross join lateral atm.plan_command(%(epoch)s, jsonb_build_object(
         'command_id', gen_random_uuid(), 'action_type', 'Other ' || n,
         'entities', jsonb_build_array(jsonb_build_object('type', 'VM', 'id', gen_random_uuid())),
         'tasks', jsonb_build_array(jsonb_build_object(
           'task_type', 'other', 'storage_pool_id', %(pool)s::uuid)))) p
"""
READ = """
select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)
  from pg_stat_xact_user_tables where schemaname = 'atm_internal'
"""


@pytest.fixture
def world(db: Connection) -> World:
    world = World(db).start()
    other = uuid.uuid4()
    world.one("select atm.set_pool(%s, 'other', %s)", other, Jsonb([{"address": "h2"}]))
    db.execute(FILL, {"others": OTHERS, "epoch": world.epoch, "pool": other})
    db.execute("vacuum analyze")
    return world


def test_each_step_of_a_command_reads_its_own_rows_only(world: World) -> None:
    found: dict[str, int] = {}

    @contextmanager
    def step(name: str) -> Generator[None]:
        with world.db.transaction():
            before = int(world.one(READ))
            yield
            found[name] = int(world.one(READ)) - before

    def commands(name: str) -> tuple[list[Any], list[Any], list[str]]:
        with step(f"plan, to {name}"):
            rows = [world.plan(world.document(4, submit=True)) for _ in range(8)]
        with step(f"bind, to {name}"):
            vdsms = [world.bind(row["task_id"]) for tasks in rows for row in tasks[:3]]
        tasks = [row["task_id"] for tasks in rows for row in tasks]
        return [tasks[0]["root_command_id"] for tasks in rows], tasks[3::4], vdsms

    roots, last, vdsms = commands("end")
    with step("bind the last ones"):
        vdsms += [world.bind(task) for task in last]
    started = world.now()
    with step("report that they are over"):
        world.poll(dict.fromkeys(vdsms, FINISHED), started=started)
    with step("claim"):
        claimed = world.claim()
    assert {row["root_command_id"] for row in claimed} == set(roots)
    with step("ask for a retry"):
        world.finish(claimed[0]["token"], "retry")
    with step("claim again"):
        (again,) = world.claim()
    tokens = [again["token"], *(row["token"] for row in claimed[1:])]
    with step("finish"):
        for number, token in enumerate(tokens):
            world.finish(token, disposition="revert" if number < 2 else "clear")
    for name in ("reverts", "clears"):
        started = world.now()
        with step(f"report, to get the {name}"):
            chores = world.poll(dict.fromkeys(vdsms, FINISHED), started=started)
        assert chores
        with step(f"tell the {name}"):
            world.act(chores)
    assert not world.rows("select from atm.commands where command_id = any (%s)", roots)

    roots, last, vdsms = commands("fail")
    with step("abort"):
        world.one("select atm.abort_command(%s, %s, 'test', true)", world.epoch, roots[0])
    with step("cancel"):
        world.rows("select atm.cancel_command(%s, 'test', false)", roots[1])
    with step("fail and doubt"):
        world.one("select atm.fail_task(%s, %s, 'test')", world.epoch, last[0])
        for task in last[1:]:
            world.one("select atm.doubt_task(%s, %s, 'test')", world.epoch, task)
    for number in range(4):
        listing = dict.fromkeys(vdsms[number:], ROLLED_BACK)
        listing[str(uuid.uuid4())] = FINISHED
        started = world.now()
        with step(f"report what is missing and unknown, {number}"):
            chores = world.poll(listing, started=started)
        with step(f"tell what was done, {number}"):
            world.act(chores)
    with step("claim the failed"):
        world.claim()
    over = {name: rows for name, rows in found.items() if rows > MOST}
    assert over == {}, found
