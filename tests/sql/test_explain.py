"""atm.explain and the views that answer an operator's questions."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from .world import FINISHED, World, status

if TYPE_CHECKING:
    import psycopg

    from .world import Row


@pytest.fixture
def world(db: psycopg.Connection[Any]) -> World:
    return World(db).start()


def story(world: World, command_id: uuid.UUID, what: str) -> list[Row]:
    rows = world.rows("select * from atm.explain(%s)", command_id)
    return [row for row in rows if row["what"] == what]


def end(world: World) -> None:
    for claim in world.claim():
        world.finish(claim["token"])
    world.settle()
    assert world.live_rows() == 0


def test_a_task_that_was_never_sent_is_ended_by_its_engine_and_vdsm_is_not_quoted(
    world: World,
) -> None:
    root = world.plan(world.document(1))[0]["root_command_id"]
    world.epoch = world.start_engine()
    for _ in ("live", "over"):
        (done,) = story(world, root, "done")
        assert done["who"] == world.engine_name
        assert done["detail"].endswith(": not_submitted")
        assert story(world, root, "cleared") == []
        end(world)


def test_what_vdsm_said_is_quoted_with_the_poller_that_heard_it(world: World) -> None:
    root, _, (vdsm_id,) = world.planned_and_bound(1)
    world.vdsm[vdsm_id] = status("finished", "cleanFailure", 358, "Storage domain does not exist")
    world.poll()
    for _ in ("live", "over"):
        (done,) = story(world, root, "done")
        assert done["who"] == "poller"
        assert done["detail"].endswith(
            ": failed; VDSM: finished cleanFailure, code 358, Storage domain does not exist"
        )
        assert story(world, root, "bound")[0]["who"] == world.engine_name
        end(world)


def test_what_happened_to_many_tasks_at_one_moment_is_told_in_plan_order(world: World) -> None:
    planned = world.plan(world.document(40))
    root, tasks = planned[0]["root_command_id"], [str(row["task_id"]) for row in planned]

    def told(what: str) -> list[str]:
        return [next(x for x in tasks if x in r["detail"]) for r in story(world, root, what)]

    assert told("next") == tasks
    for task in tasks:
        world.rows("select atm.submit_tasks(%s, %s)", world.epoch, [uuid.UUID(task)])
        world.vdsm[world.bind(uuid.UUID(task))] = FINISHED
    world.poll()
    end(world)
    cleared = [row["at"] for row in story(world, root, "cleared")]
    assert len(set(cleared)) < len(cleared) == len(tasks)
    assert told("cleared") == tasks


def test_a_task_that_was_ended_by_an_operator_names_the_operator(
    world: World, connect: Any
) -> None:
    operator = connect("atm_operator")
    cancelled = world.plan(world.document(1))[0]["root_command_id"]
    world.rows("select atm.cancel_command(%s, 'mistake', false)", cancelled, db=operator)
    resolved, (task,), _ = world.planned_and_bound(1)
    world.rows("select atm.resolve_task(%s, 'lost', 'x', false)", task["task_id"], db=operator)
    world.vdsm.clear()
    for _ in ("live", "over"):
        for root in (cancelled, resolved):
            (done,) = story(world, root, "done")
            assert done["who"] == "atm_operator"
        (note,) = story(world, resolved, "task resolved to lost")
        assert note["detail"] == f"{task['task_id']}: x"
        end(world)


def test_a_task_that_vdsm_refused_is_ended_by_its_engine(world: World) -> None:
    (row,) = world.plan(world.document(1, submit=True))
    world.one("select atm.fail_task(%s, %s, 'code 405')", world.epoch, row["task_id"])
    root = row["root_command_id"]
    assert story(world, root, "done")[0]["who"] == world.engine_name
    assert story(world, root, "refused by VDSM")[0]["detail"] == f"{row['task_id']}: code 405"
    end(world)
    assert story(world, root, "done")[0]["who"] == world.engine_name


def test_stuck_says_why_an_end_action_gave_up(world: World) -> None:
    world.planned_and_bound(1)
    world.vdsm = dict.fromkeys(world.vdsm, FINISHED)
    world.poll()
    (claim,) = world.claim()
    world.finish(claim["token"], "give_up", message="no such VM")
    (stuck,) = world.rows("select * from atm.stuck")
    assert stuck["waits_for"] == "endAction gave up: no such VM"
    assert stuck["not_before"] is None


def test_stuck_says_until_when_a_doubt_lasts_at_least_and_which_vdsm_task_it_may_be(
    world: World,
) -> None:
    world.set(in_doubt_settle="180 s")
    (row,) = world.plan(world.document(1, submit=True))
    born = str(uuid.uuid4())
    world.vdsm[born] = status()
    world.poll()
    world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, row["task_id"])
    (stuck,) = world.rows("select * from atm.stuck")
    assert stuck["not_before"] - stuck["since"] == timedelta(seconds=180)
    assert stuck["waits_for"].endswith(f"; may be VDSM task {born}")
    world.vdsm[born] = FINISHED
    world.poll()
    (stuck,) = world.rows("select * from atm.stuck")
    assert born not in stuck["waits_for"]


def test_a_pool_tells_what_vdsm_has_or_may_have(world: World) -> None:
    def at_vdsm() -> int:
        return world.one("select at_vdsm from atm.pools")

    rows = world.plan(world.document(3))
    assert at_vdsm() == 0, "planned tasks were never sent"
    ids = [row["task_id"] for row in rows]
    world.rows("select * from atm.submit_tasks(%s, %s::uuid[])", world.epoch, ids[:2])
    assert at_vdsm() == 2, "announced ones may be there"
    vdsm_id = world.bind(ids[0])
    world.vdsm[str(uuid.uuid4())] = status()
    world.poll()
    assert at_vdsm() == 3, "an unknown one is there"
    world.vdsm = {vdsm_id: FINISHED}
    world.settle()
    world.one("select atm.fail_task(%s, %s, 'code 405')", world.epoch, ids[1])
    world.one("select atm.abort_command(%s, %s, 'x')", world.epoch, rows[0]["root_command_id"])
    assert at_vdsm() == 1, "a finished one is there until it is cleared"
    end(world)
    assert at_vdsm() == 0


def test_history_tasks_has_a_row_for_each_task_with_what_vdsm_said(world: World) -> None:
    root, rows, (good, bad) = world.planned_and_bound(2)
    world.vdsm = {good: FINISHED, bad: status("finished", "cleanFailure", 358, "no domain")}
    world.poll()
    end(world)
    found = world.rows("select * from atm.history_tasks where command_id = %s", root)
    assert [row["task_id"] for row in found] == [row["task_id"] for row in rows]
    assert [row["outcome"] for row in found] == ["succeeded", "failed"]
    assert [row["vdsm_code"] for row in found] == [0, 358]
    assert found[1]["vdsm_message"] == "no domain"
    assert found[1]["bound_at"] <= found[1]["done_at"] <= found[1]["cleared_at"]
    assert {row["command_outcome"] for row in found} == {"failed"}


def test_engines_shows_the_incarnation_that_may_write(world: World) -> None:
    world.planned_and_bound(1)
    (before,) = world.rows("select * from atm.engines")
    world.epoch = world.start_engine()
    (after,) = world.rows("select * from atm.engines")
    assert (before["commands"], after["commands"]) == (1, 1)
    assert after["epoch"] == world.epoch > before["epoch"]
    assert after["started_at"] > before["started_at"]
