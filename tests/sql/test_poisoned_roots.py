"""A root whose rows contradict each other, or cannot be archived: set aside, the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from .world import FINISHED, World

if TYPE_CHECKING:
    from tests.conftest import Connection

POISON = """
update atm_internal.root set open_tasks = 0
 where root_no = (select root_no from atm_internal.command where command_id = %s)
"""


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


def refuse_to_archive(world: World, command_id: Any) -> None:
    """From now on no history takes this command."""
    world.db.execute(
        f"alter table atm_internal.history add check (command_id <> '{command_id}')".encode()
    )


def set_aside(world: World) -> list[Any]:
    return [
        row["root_command_id"]
        for row in world.rows("select * from atm.stuck where starts_with(waits_for, 'set aside')")
    ]


def test_tasks_of_the_other_roots_are_lost_all_the_same(world: World) -> None:
    bad, (bad_task, _), _ = world.planned_and_bound(2)
    roots = [world.planned_and_bound(2)[0] for _ in range(2)]
    world.rows(POISON, bad)
    world.poll({})
    assert [world.state(root) for root in roots] == ["ready", "ready"]
    assert world.task(bad_task["task_id"])["state"] == "running"
    assert set_aside(world) == [bad]
    world.poll({})
    assert set_aside(world) == [bad]


def test_doubts_of_the_other_roots_are_settled_all_the_same(world: World) -> None:
    roots: list[Any] = []
    for _ in range(3):
        rows = world.plan(world.document(2, submit=True))
        roots.append(rows[0]["root_command_id"])
        for row in rows:
            world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, row["task_id"])
    world.rows(POISON, roots[1])
    world.poll({})
    assert [world.state(root) for root in roots] == ["ready", "sealed", "ready"]
    assert set_aside(world) == [roots[1]]


@pytest.mark.parametrize("how", ["cleared", "absent"])
def test_the_other_roots_go_into_the_history_all_the_same(world: World, how: str) -> None:
    made = [world.planned_and_bound(1) for _ in range(3)]
    ids = [vdsm for _, _, (vdsm,) in made]
    world.poll(dict.fromkeys(ids, FINISHED))
    for claim in world.claim():
        world.finish(claim["token"])
    refuse_to_archive(world, made[1][0])
    if how == "cleared":
        assert world.act(world.poll(dict.fromkeys(ids, FINISHED))) == 3
    else:
        world.poll({})
    assert [world.state(root) for root, _, _ in made] == [None, "ended", None]
    assert set_aside(world) == [made[1][0]]


def test_the_other_roots_end_when_vdsm_has_reverted_their_tasks(world: World) -> None:
    made = [world.planned_and_bound(1) for _ in range(3)]
    ids = [vdsm for _, _, (vdsm,) in made]
    world.vdsm = dict.fromkeys(ids, FINISHED)
    world.poll()
    for claim in world.claim():
        world.finish(claim["token"], disposition="revert")
    refuse_to_archive(world, made[1][0])
    world.vdsm.clear()
    world.poll()
    assert [world.state(root) for root, _, _ in made] == [None, "reverting", None]
    assert set_aside(world) == [made[1][0]]


def test_nobody_rewrites_an_outcome_or_an_id_not_even_the_owner(world: World) -> None:
    _, (task,), (vdsm,) = world.planned_and_bound(1)
    world.poll({vdsm: FINISHED})
    for change in ("vdsm_task_id = gen_random_uuid()", "outcome = 'failed'"):
        with pytest.raises(psycopg.Error, match="written once") as refused:
            world.rows(f"update atm_internal.task set {change} where task_id = %s", task["task_id"])
        assert refused.value.sqlstate == "AT104"
