"""Two transactions in a fixed order: the second one calls while the first is not committed.

Whatever the isolation level, the second is right, refused, or told to repeat with 40001 or 40P01;
repeated, it is right.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import IsolationLevel
from psycopg.types.json import Jsonb

from .races import LEVELS, Race, code_of, waits
from .world import FINISHED, World

if TYPE_CHECKING:
    from tests.conftest import Connect, Connection

    from .races import Call


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


@pytest.fixture(params=LEVELS, ids=lambda level: level.name)
def race(world: World, connect: Connect, request: pytest.FixtureRequest) -> Race:
    return Race(world, connect, request.param)


def either_order(race: Race, swapped: bool, one: Call, other: Call) -> list[str | None]:
    """The codes of `one` and `other`, whichever came first."""
    return list(race.either_order(swapped, one, other).codes)


both_orders = pytest.mark.parametrize("swapped", [False, True], ids=["as_named", "swapped"])


def test_the_last_two_tasks_at_once_make_the_root_ready_once(race: Race) -> None:
    world = race.world
    second_pool = uuid.uuid4()
    world.one("select atm.set_pool(%s, 'second', %s)", second_pool, Jsonb([{"address": "h2"}]))
    other = replace(world, pool_id=second_pool)
    other.acquire()
    document = world.document(2, submit=True)
    document["children"][1]["tasks"][0]["storage_pool_id"] = str(second_pool)
    rows = world.plan(document)
    one_id, other_id = (world.bind(row["task_id"]) for row in rows)
    started = world.now()
    outcome = race.run(
        lambda w: w.poll({one_id: FINISHED}, started=started),
        lambda w: replace(w, pool_id=second_pool, token=other.token).poll(
            {other_id: FINISHED}, started=started
        ),
    )
    assert outcome.codes == (None, None)
    assert world.state(rows[0]["root_command_id"]) == "ready"
    assert [c["outcome"] for c in world.claim()] == ["succeeded"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("exclusive", "exclusive"), ("shared", "exclusive"), ("exclusive", "shared")],
)
def test_one_of_two_commands_that_exclude_each_other_is_refused(
    race: Race, first: str, second: str
) -> None:
    entity = {"type": "VM", "id": str(uuid.uuid4())}
    wanted = [
        race.world.document(1, entities=[{**entity, "access": access}])
        for access in (first, second)
    ]
    outcome = race.run(lambda w: w.plan(wanted[0]), lambda w: w.plan(wanted[1]))
    assert outcome.codes == (None, "AT301")
    assert outcome.waited
    assert race.world.state(wanted[0]["command_id"]) == "sealed"
    assert race.world.state(wanted[1]["command_id"]) is None


def test_two_commands_that_share_an_entity_are_both_planned(race: Race) -> None:
    entity = [{"type": "VM", "id": str(uuid.uuid4())}]
    wanted = [race.world.document(1, entities=entity) for _ in range(2)]
    outcome = race.run(lambda w: w.plan(wanted[0]), lambda w: w.plan(wanted[1]))
    assert outcome.codes == (None, None)
    assert not outcome.waited


def test_a_cancel_tells_what_becomes_of_a_task_that_is_announced_meanwhile(race: Race) -> None:
    (row,) = race.world.plan(race.world.document(1))
    told: list[str] = []

    def cancel(w: World) -> None:
        call = "select * from atm.cancel_command(%s, 'race', false)"
        told[:] = [task["state"] for task in w.rows(call, row["root_command_id"])]

    race.run(
        lambda w: w.rows("select * from atm.submit_tasks(%s, %s)", w.epoch, [row["task_id"]]),
        cancel,
    )
    assert told == ["submitting"]
    assert race.world.task(row["task_id"])["state"] == "submitting"


@both_orders
def test_a_plan_is_recovered_by_the_new_engine_or_refused(race: Race, swapped: bool) -> None:
    document = race.world.document(2)
    codes = either_order(race, swapped, lambda w: w.plan(document), lambda w: w.start_engine())
    root = race.world.root(document["command_id"])
    if swapped:
        assert codes == ["AT201", None]
        assert root is None
    else:
        assert codes == [None, None]
        assert root is not None
        assert (root["state"], root["outcome"]) == ("ready", "failed")


@both_orders
def test_a_bind_comes_before_the_new_engine_or_is_refused(race: Race, swapped: bool) -> None:
    (row,) = race.world.plan(race.world.document(1, submit=True))
    vdsm_id = uuid.uuid4()
    codes = either_order(
        race, swapped, lambda w: w.bind(row["task_id"], vdsm_id), lambda w: w.start_engine()
    )
    task = race.world.task(row["task_id"])
    if swapped:
        assert codes == ["AT201", None]
        assert (task["state"], task["vdsm_task_id"]) == ("in_doubt", None)
    else:
        assert codes == [None, None]
        assert (task["state"], task["vdsm_task_id"]) == ("running", vdsm_id)


def test_one_of_two_binds_to_one_vdsm_id_is_refused(race: Race, connect: Connect) -> None:
    world = race.world
    one, other = (row["task_id"] for row in world.plan(world.document(2, submit=True)))
    vdsm_id = uuid.uuid4()
    first, second = (replace(world, db=connect(autocommit=False)) for _ in range(2))
    second.db.isolation_level = race.level
    first.bind(one, vdsm_id)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(code_of, lambda: second.bind(other, vdsm_id))
        assert waits(world, second.db, running)
        first.db.commit()
        # The unique index has the last word; catching its error would cost each bind.
        assert running.result(60) in ("23505", "40001")
    second.db.rollback()
    assert code_of(lambda: second.bind(other, vdsm_id)) == "AT105"
    assert world.task(other)["state"] == "submitting"


@both_orders
def test_a_report_that_lists_the_id_of_a_bind_loses_neither(race: Race, swapped: bool) -> None:
    world = race.world
    (row,) = world.plan(world.document(1, submit=True))
    vdsm_id = str(uuid.uuid4())
    started = world.now()
    codes = either_order(
        race,
        swapped,
        lambda w: w.poll({vdsm_id: FINISHED}, started=started),
        lambda w: w.bind(row["task_id"], vdsm_id),
    )
    assert codes == [None, None]
    assert world.poll({vdsm_id: FINISHED}) == [], "neither stopped nor cleared"
    assert world.task(row["task_id"])["outcome"] == "succeeded"
    assert world.rows("select * from atm.orphans") == []


@both_orders
def test_an_end_action_is_finished_or_claimed_again_but_not_both(race: Race, swapped: bool) -> None:
    world = race.world
    document = world.document(0)
    world.plan(document)
    (claim,) = world.claim(lease="1 microsecond")
    claims: list[Any] = []

    def claim_again(w: World) -> None:
        claims[:] = w.claim()

    codes = either_order(race, swapped, lambda w: w.finish(claim["token"]), claim_again)
    if swapped:
        assert codes == ["AT203", None]
        assert [c["attempt"] for c in claims] == [2]
        assert world.finish(claims[0]["token"]) == "ended"
    else:
        assert codes == [None, None]
        assert claims == []
    assert world.history(document["command_id"])["outcome"] == "succeeded"


@both_orders
def test_a_cancel_fails_the_command_or_comes_too_late(race: Race, swapped: bool) -> None:
    world = race.world
    root, _, (vdsm_id,) = world.planned_and_bound(1)
    started = world.now()
    codes = either_order(
        race,
        swapped,
        lambda w: w.rows("select * from atm.cancel_command(%s, 'test', false)", root),
        lambda w: w.poll({vdsm_id: FINISHED}, started=started),
    )
    row = world.root(root)
    assert row is not None
    if swapped:
        assert codes == ["AT107", None]
        assert (row["state"], row["outcome"]) == ("ready", "succeeded")
    else:
        assert codes == [None, None]
        assert (row["state"], row["outcome"]) == ("ready", "failed")


def test_a_report_in_a_transaction_older_than_its_poll_is_told_to_repeat(
    race: Race, connect: Connect
) -> None:
    world = race.world
    world.planned_and_bound(1)  # the pool is not idle: the next plan leaves its row alone
    older = connect(autocommit=False)
    older.isolation_level = race.level
    older.execute("select count(*) from atm.commands")  # takes the snapshot
    root, _, (vdsm_id,) = world.planned_and_bound(1)
    started = world.now()
    code = code_of(lambda: replace(world, db=older).poll({vdsm_id: FINISHED}, started=started))
    older.commit()
    # Each statement of READ COMMITTED sees what is there; a snapshot may lack what was listed.
    if race.level is IsolationLevel.READ_COMMITTED:
        assert (code, world.state(root)) == (None, "ready")
    else:
        assert (code, world.state(root)) == ("40001", "sealed")


@pytest.mark.parametrize("resolved", [False, True], ids=["absent", "resolved"])
def test_a_finish_in_a_transaction_older_than_a_clear_loses_no_clear(
    race: Race, connect: Connect, resolved: bool
) -> None:
    """The report writes no root whose endAction is claimed, unless it makes its tasks cleared."""
    world = race.world
    world.set(absence_polls=1, absence_time="0 s", in_doubt_settle="0 s")
    if resolved:
        (row,) = world.plan(world.document(1, submit=True))
        world.one("select atm.doubt_task(%s, %s, 'late')", world.epoch, row["task_id"])
        world.one("select atm.resolve_task(%s, 'lost', 'test', false)", row["task_id"])
        root = row["root_command_id"]
    else:
        root, _, (vdsm_id,) = world.planned_and_bound(1)
        world.poll({vdsm_id: FINISHED})
    (claim,) = world.claim()
    older = connect(autocommit=False)
    older.isolation_level = race.level
    older.execute("select count(*) from atm.commands")  # takes the snapshot
    world.poll({})
    code = code_of(lambda: replace(world, db=older).finish(claim["token"]))
    older.commit()
    if race.level is IsolationLevel.READ_COMMITTED:
        assert code is None
    else:
        assert code == "40001"
        world.finish(claim["token"])
    assert world.state(root) is None
