"""Tasks in doubt, unknowns and orphans in worlds that take their time."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from .world import FINISHED, ROLLED_BACK, World, status

if TYPE_CHECKING:
    from tests.conftest import Connection

VM = str(uuid.uuid4())
RUNNING = status()


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


def in_doubt(world: World, tasks: int = 1) -> tuple[str, list[Any]]:
    """A command on VM whose tasks are all in doubt, by the word of a live engine."""
    rows = world.plan(world.document(tasks, submit=True, entities=[{"type": "VM", "id": VM}]))
    ids = [row["task_id"] for row in rows]
    for task in ids:
        world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, task)
    return str(rows[0]["root_command_id"]), ids


def can_compensate(world: World) -> bool:
    return bool(world.one("select atm.can_compensate('VM', %s)", VM))


def outcome(world: World, task: Any) -> str | None:
    return world.task(task)["outcome"]


def orphans(world: World) -> set[str]:
    return {str(row["vdsm_task_id"]) for row in world.rows("select * from atm.orphans")}


def end(world: World) -> None:
    for claim in world.claim():
        world.finish(claim["token"])
    world.settle()
    assert world.live_rows() == 0


def test_a_pool_without_spm_settles_nothing_however_long_it_lasts(world: World) -> None:
    world.set(absence_polls=2)
    root, (task,) = in_doubt(world)
    for _ in range(20):
        assert world.poll(None) == []
    world.epoch = world.start_engine()
    world.rows("update atm_internal.watch set since = since - interval '3 days'")
    for _ in range(20):
        assert world.poll(None) == []
    assert world.task(task)["state"] == "in_doubt"
    assert not can_compensate(world)
    world.lver += 1
    world.poll()
    world.poll(None)
    assert world.task(task)["state"] == "in_doubt"
    world.poll()
    assert outcome(world, task) == "in_doubt"
    assert world.state(root) == "ready"
    assert can_compensate(world)
    end(world)


def test_the_doubts_of_one_command_in_several_pools_are_settled_each_by_its_own_pool(
    world: World,
) -> None:
    worlds = [world, *(replace(world, pool_id=uuid.uuid4(), vdsm={}) for _ in range(2))]
    for at in worlds[1:]:
        at.one("select atm.set_pool(%s, 'more', %s)", at.pool_id, Jsonb([{"address": "h2"}]))
        at.acquire()
    document = world.document(6, submit=True, entities=[{"type": "VM", "id": VM}])
    for n, child in enumerate(document["children"]):
        child["tasks"][0]["storage_pool_id"] = str(worlds[n % 3].pool_id)
    tasks = [row["task_id"] for row in world.plan(document)]
    world.epoch = world.start_engine()
    for n, at in enumerate(worlds):
        assert (world.root(document["command_id"]) or {})["open_tasks"] == 6 - 2 * n
        assert world.claim() == []
        assert not can_compensate(world)
        at.poll()
        assert [outcome(world, task) for task in tasks[n::3]] == ["in_doubt"] * 2
    (claim,) = world.claim()
    assert (claim["outcome"], claim["attempt"]) == ("failed", 1)
    assert world.claim() == []
    world.finish(claim["token"])
    assert world.live_rows() == 0


def test_an_orphan_that_never_ends_waits_for_an_operators_word(world: World) -> None:
    _, (task,) = in_doubt(world)
    orphan = str(uuid.uuid4())
    world.vdsm[orphan] = RUNNING
    world.poll()
    world.epoch = world.start_engine()
    world.settle(10)
    assert world.task(task)["state"] == "in_doubt"
    assert not can_compensate(world)
    asked = world.one("select atm.resolve_orphan(%s, 'hung since Monday')", orphan)
    assert asked == "would be resolved: VDSM says running"
    world.settle(3)
    assert world.task(task)["state"] == "in_doubt", "a dry run is no word"
    world.one("select atm.resolve_orphan(%s, 'hung since Monday', false)", orphan)
    world.poll()
    assert outcome(world, task) == "in_doubt"
    assert can_compensate(world)
    end(world)
    assert orphans(world) == {orphan}, "it is still followed"
    world.vdsm[orphan] = ROLLED_BACK
    world.settle()
    assert (world.vdsm, orphans(world)) == ({}, set())


def test_an_orphan_cannot_be_resolved_while_a_running_engine_may_bind_it(world: World) -> None:
    in_doubt(world)
    unknown = str(uuid.uuid4())
    world.vdsm[unknown] = RUNNING
    world.poll()
    with pytest.raises(Exception, match="may still be bound") as refused:
        world.one("select atm.resolve_orphan(%s, 'impatient', false)", unknown)
    assert getattr(refused.value, "sqlstate", None) == "AT104"


def test_an_unknown_from_before_the_announcement_is_no_suspect(world: World) -> None:
    old, new = str(uuid.uuid4()), str(uuid.uuid4())
    world.vdsm[old] = RUNNING
    world.poll()
    (row,) = world.plan(world.document(1, submit=True))
    world.vdsm[new] = RUNNING
    world.poll()
    world.epoch = world.start_engine()
    world.settle()
    assert world.task(row["task_id"])["state"] == "in_doubt", "the new one may be it"
    world.vdsm[new] = FINISHED
    world.settle()
    assert outcome(world, row["task_id"]) == "in_doubt", "the old one cannot"
    world.vdsm[old] = FINISHED
    end(world)
    assert list(world.vdsm) == [old], "another tool's: reported, not cleared"
    assert orphans(world) == {old}


def test_a_task_that_is_born_late_is_followed_as_an_orphan_before_the_doubt_ends(
    world: World,
) -> None:
    world.set(in_doubt_settle="1 hour", absence_polls=2)
    _, (task,) = in_doubt(world)
    world.epoch = world.start_engine()
    world.settle(3)
    born = str(uuid.uuid4())
    world.vdsm[born] = RUNNING
    world.settle(2)
    world.rows("update atm_internal.watch set since = since - interval '2 hours'")
    world.settle(4)
    assert world.task(task)["state"] == "in_doubt"
    assert not can_compensate(world)
    world.vdsm[born] = ROLLED_BACK
    world.settle(1)
    assert world.vdsm == {}, "cleared as the orphan of a suspect"
    assert outcome(world, task) == "in_doubt"
    end(world)


def test_a_busy_pool_settles_a_doubt_although_something_is_always_being_submitted(
    world: World,
) -> None:
    world.set(absence_polls=3)
    _, (task,) = in_doubt(world)
    world.epoch = world.start_engine()
    busy = replace(world, engine_name="busy", vdsm=world.vdsm)
    busy.epoch = busy.start_engine()
    announced: tuple[Any, str] | None = None
    polls = 0
    while world.task(task)["state"] == "in_doubt":
        if announced is not None:
            busy.bind(*announced)
        (row,) = busy.plan(busy.document(1, submit=True))
        announced = row["task_id"], str(uuid.uuid4())
        world.vdsm[announced[1]] = RUNNING
        world.poll()
        assert announced[1] in orphans(world), "there is an unfinished unknown at each poll"
        polls += 1
        assert polls < 10, "the barrier starves"
    assert polls >= 3
    assert outcome(world, task) == "in_doubt"


def test_a_failover_in_the_middle_of_the_barrier_counts_from_the_beginning(world: World) -> None:
    world.set(absence_polls=2, absence_time="30 min", in_doubt_settle="10 min")
    _, (task,) = in_doubt(world)
    world.rows("update atm_internal.watch set since = since - interval '4 hours'")
    now = world.now()

    def poll(minutes_ago: float, lver: int) -> str:
        world.lver = lver
        world.poll(started=now - timedelta(minutes=minutes_ago))
        return str(world.task(task)["state"])

    assert poll(235, 1) == "in_doubt", "within the settle time"
    assert poll(200, 1) == "in_doubt", "one poll after it"
    assert poll(150, 2) == "in_doubt", "a failover"
    assert poll(149, 2) == "in_doubt", "two polls, but the new SPM may not have listed all yet"
    assert poll(130, 3) == "in_doubt", "another one"
    assert poll(100.5, 3) == "in_doubt", "two polls, not yet 30 minutes"
    assert poll(99, 3) == "done"


def test_an_operators_word_on_a_running_task_frees_compensation_when_vdsm_has_lost_it(
    world: World,
) -> None:
    world.set(absence_polls=2)
    root, (row,), (vdsm,) = world.planned_and_bound(1, entities=[{"type": "VM", "id": VM}])
    world.poll()
    said = world.one("select atm.resolve_task(%s, 'lost', 'host burnt')", row["task_id"])
    assert said == "would be done: lost, was running"
    world.one("select atm.resolve_task(%s, 'lost', 'host burnt', false)", row["task_id"])
    (claim,) = world.claim()
    assert world.finish(claim["token"]) == "ended"
    assert not can_compensate(world), "VDSM still lists it as running"
    del world.vdsm[vdsm]
    world.poll()
    assert not can_compensate(world)
    world.poll()
    assert can_compensate(world)
    assert world.history(root)["outcome"] == "failed"


def test_a_second_crash_does_not_end_the_doubts_of_the_first_one(world: World) -> None:
    world.set(in_doubt_settle="1 hour")
    _, tasks = in_doubt(world, 2)
    orphan = str(uuid.uuid4())
    world.vdsm[orphan] = RUNNING
    world.poll()
    for _ in range(3):
        world.epoch = world.start_engine()
    world.rows("update atm_internal.watch set since = since - interval '2 hours'")
    world.settle()
    assert [world.task(task)["state"] for task in tasks] == ["in_doubt"] * 2
    world.vdsm[orphan] = FINISHED
    world.settle()
    assert [outcome(world, task) for task in tasks] == ["in_doubt"] * 2
    end(world)
    assert world.vdsm == {}
