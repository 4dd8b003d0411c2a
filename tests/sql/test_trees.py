"""Commands of more than two levels: order, lineage, and the entities of ancestors."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from .world import Row, World

if TYPE_CHECKING:
    from tests.conftest import Connection


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


def tree(world: World, shape: list[Any], name: str = "0", *, ids: bool = True) -> Row:
    """A command with one task, an entity of its own, and a child for each item of `shape`."""
    node: Row = {
        "action_type": name,
        "entities": [{"type": "Disk", "id": str(uuid.uuid4())}],
        "tasks": [
            {
                "task_type": name,
                "storage_pool_id": str(world.pool_id),
                "entities": [{"type": "Image", "id": str(uuid.uuid4())}],
                "parameters": {"name": name},
            }
        ],
        "children": [tree(world, child, f"{name}.{n}", ids=ids) for n, child in enumerate(shape)],
    }
    if ids:
        node["command_id"] = str(uuid.uuid4())
        node["tasks"][0]["task_id"] = str(uuid.uuid4())
    return node


def nodes(node: Row) -> list[Row]:
    """A command, then its children, as they stand."""
    return [node, *(below for child in node["children"] for below in nodes(child))]


def tasks_of(world: World, entity: Row) -> set[str]:
    """The types of the tasks that are associated with an entity."""
    rows = world.rows("select * from atm.entity_tasks(%s, %s)", entity["type"], entity["id"])
    return {world.task(row["task_id"])["task_type"] for row in rows}


def check(world: World, node: Row) -> None:
    """A command's entity has the tasks of it and of all below it; a task's has that task."""
    for at in nodes(node):
        below = {x["action_type"] for x in nodes(at)}
        assert tasks_of(world, at["entities"][0]) == below
        assert tasks_of(world, at["tasks"][0]["entities"][0]) == {at["action_type"]}
        for child in at["children"]:
            row = world.root(child["command_id"])
            assert row is not None
            assert str(row["parent_command_id"]) == at["command_id"]


def test_a_deep_tree_is_stored_in_plan_order_with_its_lineage(world: World) -> None:
    root = tree(world, [[[], [[]]], [], [[[[]]]]])
    rows = world.plan(root)
    assert [row["task_type"] for row in rows] == [node["action_type"] for node in nodes(root)]
    assert [str(row["command_id"]) for row in rows] == [n["command_id"] for n in nodes(root)]
    check(world, root)
    assert world.plan(root) == rows


@pytest.mark.parametrize("shape", [[], [[]], [[[]], []]], ids=["flat", "child", "deep"])
@pytest.mark.parametrize("below", [0, 1, 2], ids=["root", "child", "grandchild"])
def test_what_is_added_below_any_command_joins_the_lineage(
    world: World, shape: list[Any], below: int
) -> None:
    root = {**tree(world, [[[]], []]), "seal": False}
    world.plan(root)
    at = nodes(root)[below]
    grown = tree(world, shape, "new")
    addition = {"tasks": grown["tasks"], "children": grown["children"]}
    query = "select * from atm.add_tasks(%s, %s, %s)"
    added = world.rows(query, world.epoch, at["command_id"], Jsonb(addition))
    assert [row["task_type"] for row in added] == [node["action_type"] for node in nodes(grown)]
    assert str(added[0]["command_id"]) == at["command_id"]
    for entity in (node["entities"][0] for node in (root, at)):
        assert {node["action_type"] for node in nodes(grown)} <= tasks_of(world, entity)
    for child in grown["children"]:
        check(world, child)
    assert world.rows(query, world.epoch, at["command_id"], Jsonb(addition)) == added
    world.one("select atm.abort_command(%s, %s, 'enough')", world.epoch, root["command_id"])
    (claim,) = world.claim()
    assert [t["parameters"] for t in claim["tasks"]] == [
        {"name": node["action_type"]} for node in (*nodes(root), *nodes(grown))
    ]


def test_ids_that_are_left_out_are_made_once(world: World) -> None:
    root = {**tree(world, [[[]], []], ids=False), "command_id": str(uuid.uuid4())}
    rows = world.plan(root)
    assert len({row["task_id"] for row in rows} | {row["command_id"] for row in rows}) == 8
    assert world.plan(root) == rows
    root["children"][0]["children"][0]["action_type"] = "other"
    with pytest.raises(Exception, match="another plan"):
        world.plan(root)


def test_a_mistake_deep_in_a_tree_is_named_by_its_path(world: World) -> None:
    root = tree(world, [[], [[], []]])
    root["children"][1]["children"][1]["tasks"][0]["task_type"] = 7
    with pytest.raises(Exception, match="children") as refused:
        world.plan(root)
    assert "plan.children[1].children[1].tasks[0].task_type: must be a text" in str(refused.value)


def test_a_stale_engine_claims_nothing_and_is_told_so(world: World) -> None:
    world.plan(world.document(0))
    old = world.epoch
    world.epoch = world.start_engine()
    with pytest.raises(Exception, match="is stale") as refused:
        world.claim(old)
    assert getattr(refused.value, "sqlstate", None) == "AT201"
    assert len(world.claim()) == 1
