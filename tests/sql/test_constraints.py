"""What no row may say is refused by a constraint, whoever writes it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest

from .world import FINISHED, World

if TYPE_CHECKING:
    from tests.conftest import Connection

TASK = {
    "a planned task has an outcome": "planned: outcome = 'failed', done_at = now()",
    "a done task has none": "done: outcome = null, done_at = null",
    "a done task was never done": "done: done_at = null",
    "a running task was done": "running: done_at = now()",
    "an id of VDSM came at no time": "running: bound_at = null",
    "a planned task was bound at some time": "planned: bound_at = now()",
    "a planned task has an id of VDSM": (
        "planned: vdsm_task_id = gen_random_uuid(), bound_at = now()"
    ),
    "a running task has none": "running: vdsm_task_id = null, bound_at = null",
    "a submitting task was never announced": "submitting: announced_at = null",
    "a running task was never announced": "running: announced_at = null",
    "a lost task was never announced": (
        "running: state = 'done', outcome = 'lost', done_at = now(), announced_at = null"
    ),
    "a task succeeded that VDSM never had": (
        "submitting: state = 'done', outcome = 'succeeded', done_at = now()"
    ),
    "a task that was announced counts as not submitted": (
        "submitting: state = 'done', outcome = 'not_submitted', done_at = now()"
    ),
    "a running task is cleared": "running: cleared_at = now()",
    "a task has no type": "planned: task_type = ''",
}
ROOT = {
    "a sealed root has an outcome": "sealed: outcome = 'failed'",
    "a ready root has none": "ready: outcome = null",
    "a ready root has open tasks": "ready: open_tasks = 1",
    "a root has fewer than no open tasks": "sealed: open_tasks = -1",
    "a ready root is never due": "ready: due_at = null",
    "a sealed root is due": "sealed: due_at = now()",
    "a ready root is claimed": "ready: token = 1",
    "a root ends at no time": "ready: state = 'ended', due_at = null, uncleared = 0",
    "a sealed root has ended": "sealed: ended_at = now(), uncleared = 0",
    "a root has fewer than no clears to wait for": (
        "ready: state = 'ended', due_at = null, ended_at = now(), uncleared = -1"
    ),
    "an ended root counts no clears": "ready: state = 'ended', due_at = null, ended_at = now()",
    "a sealed root counts clears": "sealed: uncleared = 1",
    "a root succeeds with a failed task": "ready: failed = true",
    "an aborted root succeeds": "ready: aborted = true",
}
OTHERS = {
    "a command below itself": "command set parent_no = command_no where command_no = 1",
    "a command below the root that says so": "command set parent_no = 0 where command_no = 1",
    "a command before the root": "command set command_no = -1 where command_no = 4",
    "a command without a type": "command set action_type = ''",
    "an entity without a type": "hold set entity_type = ''",
    "an entity with an endless type": "hold set entity_type = repeat('x', 201)",
    "a lease of nobody": "pool_poll set poller = null",
    "a lease without an end": "pool_poll set lease_until = null",
    "a listing of no SPM": "pool_poll set lver = null",
}


@pytest.fixture
def world(db: Connection) -> World:
    """A sealed root with a task in each state, and a ready one."""
    world = World(db).start()
    rows = world.plan(world.document(4))
    tasks = [row["task_id"] for row in rows]
    world.rows("select * from atm.submit_tasks(%s, %s)", world.epoch, tasks[1:])
    started = world.now()
    world.bind(tasks[2])
    vdsm = world.bind(tasks[3])
    world.poll({vdsm: FINISHED}, started=started)
    empty = {"command_id": str(uuid.uuid4()), "action_type": "Nothing"}
    world.plan(empty)
    assert {row["state"] for row in world.rows("select state from atm.tasks")} == {
        *("planned", "submitting", "running", "done")
    }
    return world


def refused(world: World, update: str) -> None:
    before = world.rows("select * from atm.tasks")
    with pytest.raises(psycopg.errors.CheckViolation):
        world.rows(update)
    assert world.rows("select * from atm.tasks") == before


@pytest.mark.parametrize("what", TASK)
def test_no_task_row_says_that(world: World, what: str) -> None:
    state, _, change = TASK[what].partition(": ")
    refused(world, f"update atm_internal.task set {change} where state = '{state}'")


@pytest.mark.parametrize("what", ROOT)
def test_no_root_row_says_that(world: World, what: str) -> None:
    state, _, change = ROOT[what].partition(": ")
    refused(world, f"update atm_internal.root set {change} where state = '{state}'")


@pytest.mark.parametrize("what", OTHERS)
def test_no_other_row_says_that(world: World, what: str) -> None:
    refused(world, f"update atm_internal.{OTHERS[what]}")
