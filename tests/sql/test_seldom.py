"""Calls that are seldom: repeated ones, dry runs, and failures that must not be swallowed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.types.json import Jsonb

from .races import Race
from .world import FINISHED, World, everything, refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Connect, Connection


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


def test_what_an_engine_says_twice_it_has_said_once(world: World) -> None:
    doubtful, failed, planned = world.plan(world.document(3))
    ids = [doubtful["task_id"], failed["task_id"]]
    for _ in range(2):
        rows = world.rows("select * from atm.submit_tasks(%s, %s)", world.epoch, ids)
        assert [row["state"] for row in rows] == ["submitting"] * 2
    for _ in range(2):
        said = world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, ids[0])
        assert said == "in_doubt"
        assert world.one("select atm.fail_task(%s, %s, 'full')", world.epoch, ids[1]) == "done"
    before = everything(world)
    for word in ("doubt_task", "fail_task"):
        query = f"select atm.{word}(%s, %s, 'why')"
        refused(lambda q=query: world.one(q, world.epoch, planned["task_id"]), "AT104")
    refused(lambda: world.bind(planned["task_id"]), "AT104")
    assert everything(world) == before


def test_the_same_bind_again_changes_nothing_and_another_is_refused(world: World) -> None:
    one, other = world.plan(world.document(2))
    world.rows("select * from atm.submit_tasks(%s, %s)", world.epoch, [one["task_id"]])
    vdsm = world.bind(one["task_id"], None, other["task_id"])
    before = everything(world)
    world.bind(one["task_id"], vdsm, other["task_id"])
    error = refused(lambda: world.bind(one["task_id"]), "AT104")
    assert f"It is bound to VDSM task {vdsm}." in (error.diag.message_detail or "")
    refused(lambda: world.bind(other["task_id"], vdsm), "AT105")
    assert everything(world) == before


def test_another_addition_with_the_same_tasks_is_refused_with_the_difference(world: World) -> None:
    document = world.document(1, seal=False)
    world.plan(document)
    addition = {"tasks": world.document(1)["children"][0]["tasks"]}

    def add() -> list[dict[str, Any]]:
        query = "select * from atm.add_tasks(%s, %s, %s)"
        return world.rows(query, world.epoch, document["command_id"], Jsonb(addition))

    first = add()
    before = everything(world)
    assert add() == first
    addition["tasks"][0]["parameters"] = {"disk": "another"}
    error = refused(add, "AT101")
    assert "plan.tasks[0].parameters.disk" in (error.diag.message_detail or "")
    addition["tasks"][0]["task_id"] = document["children"][0]["tasks"][0]["task_id"]
    refused(add, "AT106")
    addition["tasks"][0]["task_id"] = str(uuid.uuid4())
    addition["tasks"][0]["parameters"] = {"x": "x" * 2_000_000}
    refused(add, "AT006")
    assert everything(world) == before


def test_a_dry_run_says_what_would_happen_and_changes_nothing(world: World) -> None:
    root, (task,), (vdsm,) = world.planned_and_bound(1)
    before = everything(world)
    rows = world.rows("select * from atm.cancel_command(%s, 'why')", root)
    assert [(r["state"], r["effect"]) for r in rows] == [("running", "is stopped at VDSM")]
    assert world.one("select atm.resolve_task(%s, 'failed', 'why')", task["task_id"]) == (
        "would be done: failed, was running"
    )
    assert everything(world) == before
    world.poll({vdsm: FINISHED})
    (claim,) = world.claim()
    world.finish(claim["token"], "give_up")
    before = everything(world)
    assert world.one("select atm.retry_end_action(%s, 'why')", root) == "would be ready"
    assert everything(world) == before


def test_the_wait_before_a_retry_grows_and_an_operator_can_end_it(world: World) -> None:
    world.set(end_action_backoff="20 s")
    root, _, (vdsm,) = world.planned_and_bound(1)
    world.poll({vdsm: FINISHED})
    waits: list[float] = []
    for _ in range(3):
        (claim,) = world.claim()
        assert world.finish(claim["token"], "retry") == "ready"
        waits.append(
            (
                world.rows("select due_at from atm.commands")[0]["due_at"] - world.now()
            ).total_seconds()
        )
        assert world.claim() == []
        assert world.one("select atm.retry_end_action(%s, 'now', false)", root) == "ready"
    assert all(10 < wait <= 20 for wait in waits), "the operator's word counts from zero again"
    (claim,) = world.claim()
    assert claim["attempt"] == 1
    assert world.finish(claim["token"], "retry", retry_after="0 s") == "ready"
    (claim,) = world.claim()
    assert claim["attempt"] == 2
    world.finish(claim["token"], "retry")
    due = world.rows("select due_at from atm.commands")[0]["due_at"] - world.now()
    assert 20 < due.total_seconds() <= 40


def test_a_report_from_a_transaction_older_than_its_poll_is_to_be_repeated(
    world: World, connect: Connect
) -> None:
    _, (task,), (vdsm,) = world.planned_and_bound(1)
    late = connect(autocommit=False)
    late.isolation_level = IsolationLevel.REPEATABLE_READ
    late.execute("select 1")
    started = world.now()
    call = "select * from atm.report_poll(%s, %s, %s, %s, %s)"
    spm, statuses = Jsonb({"lver": 1}), Jsonb({vdsm: FINISHED})
    arguments = (world.token, world.pool_id, started, spm, statuses)
    with pytest.raises(psycopg.errors.SerializationFailure):
        late.execute(call, arguments)
    late.rollback()
    late.execute(call, arguments)
    late.commit()
    assert world.task(task["task_id"])["outcome"] == "succeeded"


def test_without_notifications_everything_works_and_nothing_is_sent(
    world: World, connect: Connect
) -> None:
    listener = connect()
    listener.execute("listen atm_ready; listen atm_work")

    def heard() -> set[str]:
        world.poll({})
        document = world.document(0)
        world.plan(document)
        world.planned_and_bound(1)
        return {n.channel for n in listener.notifies(timeout=0.2)}

    world.set(notify="off")
    assert heard() == set()
    world.settle()
    world.set(notify="on")
    for claim in world.claim():
        world.finish(claim["token"])
    world.vdsm = dict.fromkeys(world.vdsm, FINISHED)
    world.settle()
    for claim in world.claim():
        world.finish(claim["token"])
    world.settle()
    assert world.live_rows() == 0
    assert heard() == {"atm_ready", "atm_work"}


def test_a_command_that_leaves_while_it_is_sealed_is_to_be_asked_for_again(
    world: World, connect: Connect
) -> None:
    root, _, (vdsm,) = world.planned_and_bound(1)
    world.poll({vdsm: FINISHED})
    (claim,) = world.claim()
    world.finish(claim["token"])
    outcome = Race(world, connect).run(
        lambda w: w.act([{"vdsm_task_id": vdsm, "action": "clear"}]),
        lambda w: w.one("select atm.seal_command(%s, %s)", w.epoch, root),
    )
    assert outcome.first_try == (None, "40001")
    assert outcome.codes == (None, "AT008")


def fail_with(world: World, code: str, event: str) -> None:
    """From now on this write raises the code, as a conflict with another transaction does."""
    world.rows(
        "create or replace function public.conflict() returns trigger language plpgsql as"
        f" $$ begin raise exception 'conflict' using errcode = '{code}'; end $$"
    )
    world.rows(f"create trigger conflict before {event} for each row execute function conflict()")


def recover(world: World) -> Callable[[], object]:
    world.plan(world.document(1))
    return world.start_engine


def report_finished(world: World) -> Callable[[], object]:
    _, _, (vdsm,) = world.planned_and_bound(1)
    return lambda: world.poll({vdsm: FINISHED})


def report_absent(world: World) -> Callable[[], object]:
    world.planned_and_bound(1)
    return lambda: world.poll({})


def report_after_a_doubt(world: World) -> Callable[[], object]:
    (row,) = world.plan(world.document(1, submit=True))
    world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, row["task_id"])
    return lambda: world.poll({})


def end_with_reverts(world: World) -> Callable[[], object]:
    _, _, (vdsm,) = world.planned_and_bound(1)
    world.poll({vdsm: FINISHED})
    (claim,) = world.claim()
    world.finish(claim["token"], disposition="revert")
    return lambda: world.act([{"vdsm_task_id": vdsm, "action": "revert"}])


def clear(world: World) -> Callable[[], object]:
    _, _, (vdsm,) = world.planned_and_bound(1)
    world.poll({vdsm: FINISHED})
    (claim,) = world.claim()
    world.finish(claim["token"])
    return lambda: world.act([{"vdsm_task_id": vdsm, "action": "clear"}])


@pytest.mark.parametrize("code", ["40001", "40P01"])
@pytest.mark.parametrize(
    ("prepare", "event"),
    [
        (recover, "update on atm_internal.task"),
        (report_finished, "update on atm_internal.task"),
        (report_absent, "update on atm_internal.task"),
        (report_after_a_doubt, "update on atm_internal.task"),
        (end_with_reverts, "update on atm_internal.root"),
        (clear, "insert on atm_internal.history"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_conflict_is_not_taken_for_a_bad_root(
    world: World, prepare: Callable[[World], Callable[[], object]], event: str, code: str
) -> None:
    call = prepare(world)
    fail_with(world, code, event)
    before = everything(world)
    refused(call, code)
    assert everything(world) == before
    world.rows(f"drop trigger conflict on {event.split(' on ')[1]}")
    call()
    stuck = world.rows("select * from atm.stuck where starts_with(waits_for, 'set aside')")
    assert stuck == []


def test_one_root_that_cannot_be_archived_is_set_aside_for_any_other_error(world: World) -> None:
    call = clear(world)
    fail_with(world, "XX000", "insert on atm_internal.history")
    call()
    (stuck,) = world.rows("select * from atm.stuck where starts_with(waits_for, 'set aside')")
    assert "XX000: conflict" in stuck["waits_for"]
