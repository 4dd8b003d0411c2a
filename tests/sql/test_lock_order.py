"""The lock order of docs/lock-order.md: two that arrive the other way around do not deadlock.

In each test a third transaction stops the first call half way; then the second call comes, from
the other end; then the third one lets go. Without the order the two would wait for each other.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from .races import REPEAT, code_of, contradictions, waits
from .world import FINISHED, Row, World, status

if TYPE_CHECKING:
    from tests.conftest import Connect, Connection

    from .races import Call

FIRST, MIDDLE, LAST = (f"{n}0000000-0000-0000-0000-000000000000" for n in (1, 2, 3))


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


def crossing(
    world: World, connect: Connect, gate: Call, first: Call, second: Call, *, keep: bool = False
) -> list[str | None]:
    """What the two calls end with; `gate` is undone (or kept) when both of them wait."""
    connections = [connect(autocommit=False) for _ in range(3)]
    worlds = [replace(world, db=c) for c in connections]
    gate(worlds[0])

    def run(call: Call, at: World) -> str | None:
        code = code_of(lambda: call(at)) or code_of(at.db.commit)
        at.db.rollback()
        return code

    with ThreadPoolExecutor(2) as pool:
        running = []
        for call, at in zip((first, second), worlds[1:], strict=True):
            running.append(pool.submit(run, call, at))
            assert waits(world, at.db, running[-1]), running[-1].result()
        if keep:
            connections[0].commit()
        connections[0].rollback()
        return [r.result(60) for r in running]


def entities(*ids: str, access: str = "exclusive") -> list[Row]:
    return [{"type": "Disk", "id": i, "access": access} for i in ids]


def test_two_plans_name_the_same_entities_in_opposite_orders(
    world: World, connect: Connect
) -> None:
    stopping, one, other = (
        world.document(1, entities=entities(*ids))
        for ids in ((LAST,), (FIRST, LAST), (LAST, FIRST))
    )
    codes = crossing(
        world, connect, lambda w: w.plan(stopping), lambda w: w.plan(one), lambda w: w.plan(other)
    )
    assert codes == [None, "AT301"]
    assert contradictions(world) == []


def test_an_addition_takes_what_is_new_and_what_it_has_in_one_order(
    world: World, connect: Connect
) -> None:
    documents = [
        world.document(1, seal=False, entities=entities(FIRST, access="shared")),
        world.document(1, seal=False),
    ]
    for document in documents:
        world.plan(document)

    def add(w: World, n: int, wanted: list[Row]) -> None:
        children = w.document(1)["children"]
        children[0]["entities"] = wanted
        w.rows(
            "select * from atm.add_tasks(%s, %s, %s)",
            w.epoch,
            documents[n]["command_id"],
            Jsonb({"children": children}),
        )

    stopping = world.document(1, entities=entities(LAST))
    codes = crossing(
        world,
        connect,
        lambda w: w.plan(stopping),
        lambda w: add(w, 0, entities(LAST, MIDDLE, FIRST)),
        lambda w: add(w, 1, entities(FIRST, access="shared") + entities(MIDDLE)),
    )
    assert codes == [None, "AT301"]
    assert contradictions(world) == []


def test_two_plans_that_wait_for_the_same_holder_are_not_both_planned(
    world: World, connect: Connect
) -> None:
    # PostgreSQL lets both insert before either of them looks: the exception that the page names.
    wanted = entities(FIRST)
    holder = world.document(0, entities=wanted)
    world.plan(holder)
    (claim,) = world.claim()
    documents = [world.document(1, entities=wanted) for _ in range(2)]
    codes = crossing(
        world,
        connect,
        lambda w: w.finish(claim["token"]),
        lambda w: w.plan(documents[0]),
        lambda w: w.plan(documents[1]),
        keep=True,
    )
    assert codes.count(None) == 1
    assert (codes[0] or codes[1]) in (*REPEAT, "AT301")
    assert contradictions(world) == []


def test_two_reports_end_tasks_of_the_same_roots_in_opposite_steps(
    world: World, connect: Connect
) -> None:
    second = replace(world, pool_id=uuid.uuid4(), vdsm={})
    second.one("select atm.set_pool(%s, 'second', %s)", second.pool_id, Jsonb([{"address": "h"}]))
    second.acquire()
    ids: list[list[str]] = []
    for _ in range(2):
        document = world.document(2, submit=True)
        document["children"][1]["tasks"][0]["storage_pool_id"] = str(second.pool_id)
        ids.append([world.bind(row["task_id"]) for row in world.plan(document)])
    (early_here, early_there), (late_here, late_there) = ids
    orphan = str(uuid.uuid4())
    world.poll({early_here: status(), late_here: status(), orphan: status()})
    started = world.now()
    # Here the late root's task is finished and the early one's is lost; there the other way around.
    codes = crossing(
        world,
        connect,
        lambda w: w.one("select atm.resolve_orphan(%s, 'stop the report', false)", orphan),
        lambda w: w.poll({late_here: FINISHED, orphan: FINISHED}, started=started),
        lambda w: replace(second, db=w.db).poll({early_there: FINISHED}, started=started),
    )
    assert codes == [None, None]
    assert late_there
    assert contradictions(world) == []
    assert [c["outcome"] for c in world.claim()] == ["failed", "failed"]


def test_an_abort_and_a_submission_take_tasks_in_the_order_of_their_ids(
    world: World, connect: Connect
) -> None:
    document = world.document(3)
    for child, task_id in zip(document["children"], (LAST, MIDDLE, FIRST), strict=True):
        child["tasks"][0]["task_id"] = task_id
    world.plan(document)

    def submit(w: World, *ids: str) -> Any:
        return w.rows("select * from atm.submit_tasks(%s, %s::uuid[])", w.epoch, list(ids))

    codes = crossing(
        world,
        connect,
        lambda w: submit(w, MIDDLE),
        lambda w: submit(w, FIRST, MIDDLE, LAST),
        lambda w: w.one(
            "select atm.abort_command(%s, %s, 'test')", w.epoch, document["command_id"]
        ),
    )
    assert codes == [None, None]
    assert contradictions(world) == []


def test_a_pool_is_not_removed_under_a_report_that_finds_an_orphan(
    world: World, connect: Connect
) -> None:
    orphan, known = str(uuid.uuid4()), str(uuid.uuid4())
    world.poll({known: FINISHED})
    world.one("select atm.resolve_orphan(%s, 'done with', false)", known)
    started = world.now()
    codes = crossing(
        world,
        connect,
        lambda w: w.one("select atm.resolve_orphan(%s, 'stop the report', false)", known),
        lambda w: w.poll({known: status(), orphan: status()}, started=started),
        lambda w: w.one("select atm.remove_pool(%s, 'test', false)", w.pool_id),
    )
    assert codes == [None, "AT108"]
