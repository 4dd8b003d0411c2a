"""Bad calls of the SQL face: each error code, each NULL, wrong and hostile documents."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from .world import FINISHED, Row, World, everything, refused

if TYPE_CHECKING:
    from collections.abc import Callable

ANY_ID = uuid.UUID(int=7)
VALUES: dict[str, Any] = {
    "uuid": ANY_ID,
    "text": "failed",
    "bigint": 1,
    "integer": 1,
    "interval": "1 s",
    "boolean": True,
    "jsonb": Jsonb({}),
    "timestamp with time zone": "2026-01-01",
    "uuid[]": [],
}
MAY_BE_NULL = {
    ("report_poll", "spm"),
    ("report_poll", "statuses"),
    ("finish_end_action", "retry_after"),
    ("finish_end_action", "message"),
    ("purge_history", "keep_months"),
}
ARGUMENTS = """
select p.proname as function, a.n::integer as n, p.proargnames[a.n] as argument,
       array(select format_type(t, null) from unnest(p.proargtypes) t) as types
  from pg_proc p cross join lateral generate_series(1, p.pronargs) a (n)
 where p.pronamespace = 'atm'::regnamespace order by 1, 2
"""


@pytest.fixture
def world(db: psycopg.Connection[Any]) -> World:
    return World(db).start()


def with_task(world: World, **task: Any) -> Row:
    """A plan of one task with these keys instead of its own; None removes one."""
    document = world.document(1)
    changed = {**document["children"][0]["tasks"][0], **task}
    document["children"][0]["tasks"] = [{k: v for k, v in changed.items() if v is not None}]
    return document


def test_null_for_any_argument_is_refused_by_name_and_changes_nothing(world: World) -> None:
    before = everything(world)
    called = 0
    for row in world.rows(ARGUMENTS):
        if (row["function"], row["argument"]) in MAY_BE_NULL:
            continue
        values = [VALUES[t] for t in row["types"]]
        values[row["n"] - 1] = None
        places = sql.SQL(", ").join(sql.SQL("%s::" + t) for t in row["types"])
        query = sql.SQL("select * from atm.{}({})").format(sql.Identifier(row["function"]), places)

        def call(query: sql.Composed = query, values: list[Any] = values) -> None:
            world.db.execute(query, values)

        error = refused(call, "AT001")
        assert f"argument {row['argument']} " in str(error), (row, error)
        called += 1
    assert called > 50
    assert everything(world) == before


def provoke(world: World) -> dict[str, Callable[[], object]]:
    """For each error code a call that raises it."""
    rows = world.plan(held := world.document(1, submit=True))
    root, task = rows[0]["root_command_id"], rows[0]["task_id"]
    vdsm = world.bind(task)
    disk = held["children"][0]["entities"]
    doubled = world.document(2)
    doubled["children"][1]["command_id"] = doubled["children"][0]["command_id"]
    taken = world.document(1)
    taken["children"][0]["tasks"][0]["task_id"] = str(task)
    over = world.document(0)
    over_id = world.plan(over) or over["command_id"]
    (claim,) = world.claim()
    world.finish(claim["token"])
    assert over_id == over["command_id"]
    drained, other = uuid.uuid4(), world.plan(world.document(1, submit=True))[0]["task_id"]
    world.one("select atm.set_pool(%s, 'drained', %s)", drained, Jsonb([{"address": "h2"}]))
    world.one("select atm.drain_pool(%s, 'test', true, false)", drained)
    ready = world.document(0)
    world.plan(ready)
    addition = Jsonb({"tasks": with_task(world)["children"][0]["tasks"]})
    return {
        "AT001": lambda: world.claim(lease="-1 s"),
        "AT002": lambda: world.plan(world.document(1, hurry=True)),
        "AT003": lambda: world.plan(with_task(world, storage_pool_id=None)),
        "AT004": lambda: world.plan(world.document(1, seal="yes")),
        "AT005": lambda: world.plan(doubled),
        "AT006": lambda: world.plan(world.document(1, parameters={"x": "x" * 2_000_000})),
        "AT007": lambda: world.plan(with_task(world, storage_pool_id=str(ANY_ID))),
        "AT008": lambda: world.one("select atm.seal_command(%s, %s)", world.epoch, ANY_ID),
        "AT101": lambda: world.plan({**held, "action_type": "Other"}),
        "AT102": lambda: world.plan(over),
        "AT103": lambda: world.rows(
            "select atm.add_tasks(%s, %s, %s)", world.epoch, root, addition
        ),
        "AT104": lambda: world.one("select atm.fail_task(%s, %s, 'no')", world.epoch, task),
        "AT105": lambda: world.bind(other, vdsm),
        "AT106": lambda: world.plan(taken),
        "AT107": lambda: world.rows(
            "select atm.cancel_command(%s, 'no', false)", ready["command_id"]
        ),
        "AT108": lambda: world.one("select atm.remove_pool(%s, 'no', false)", world.pool_id),
        "AT109": lambda: world.plan(with_task(world, storage_pool_id=str(drained))),
        "AT201": lambda: world.plan(world.document(1), epoch=world.epoch - 1),
        "AT202": lambda: world.poll(token=world.token + 1000),
        "AT203": lambda: world.finish(claim["token"]),
        "AT301": lambda: world.plan(world.document(1, entities=disk)),
    }


def test_every_error_code_is_raised_and_changes_nothing(world: World) -> None:
    calls = provoke(world)
    assert sorted(calls) == [r["code"] for r in world.rows("select code from atm.errors")]
    before = everything(world)
    for code, call in calls.items():
        refused(call, code)
    assert everything(world) == before


def test_unknown_ids_are_not_found(world: World) -> None:
    before = everything(world)
    for query in (
        "select atm.submit_tasks(%(e)s, array[%(i)s::uuid])",
        "select atm.bind_task(%(e)s, %(i)s, %(i)s)",
        "select atm.doubt_task(%(e)s, %(i)s, 'r')",
        "select atm.fail_task(%(e)s, %(i)s, 'r')",
        "select atm.abort_command(%(e)s, %(i)s, 'r')",
        "select atm.cancel_command(%(i)s, 'r')",
        "select atm.resolve_task(%(i)s, 'lost', 'r')",
        "select atm.retry_end_action(%(i)s, 'r')",
        "select atm.resolve_orphan(%(i)s, 'r')",
        "select atm.remove_pool(%(i)s, 'r')",
        "select atm.explain(%(i)s)",
    ):
        arguments = {"e": world.epoch, "i": ANY_ID}
        refused(lambda q=query, a=arguments: world.db.execute(q.encode(), a), "AT008")
    assert everything(world) == before


@pytest.mark.parametrize(
    "text", ["'; drop schema atm cascade; --", "%s %I {0}", "\\", "日本 \u202e"]
)
def test_hostile_texts_are_kept_as_they_are(world: World, text: str) -> None:
    rows = world.plan(with_task(world, task_type=text, parameters={text: text}, submit=True))
    world.vdsm[world.bind(rows[0]["task_id"])] = FINISHED
    world.poll()
    (claim,) = world.claim()
    assert claim["tasks"][0]["task_type"] == text
    assert claim["tasks"][0]["parameters"] == {text: text}
    assert world.finish(claim["token"], message=text) == "ended"


def test_the_message_names_the_path_of_what_is_wrong(world: World) -> None:
    error = refused(lambda: world.plan(with_task(world, hurry=1)), "AT002")
    assert "plan.children[0].tasks[0]" in str(error)
    assert "hurry" in str(error)
    error = refused(lambda: world.plan(with_task(world, storage_pool_id="pool")), "AT004")
    assert "plan.children[0].tasks[0].storage_pool_id" in str(error)


def test_each_required_key_that_is_missing_is_named(world: World) -> None:
    def without(path: tuple[str | int, ...], key: str) -> Row:
        document = world.document(1, entities=[{"type": "VM", "id": str(ANY_ID)}])
        node: Any = document
        for step in path:
            node = node[step]
        del node[key]
        return document

    before = everything(world)
    for path, key in (
        ((), "command_id"),
        ((), "action_type"),
        (("entities", 0), "type"),
        (("entities", 0), "id"),
        (("children", 0), "action_type"),
        (("children", 0, "tasks", 0), "task_type"),
        (("children", 0, "tasks", 0), "storage_pool_id"),
    ):
        document = without(path, key)
        error = refused(lambda d=document: world.plan(d), "AT003")
        assert f"key {key} is missing" in str(error)
    assert everything(world) == before


def test_a_parameter_of_20_megabytes_is_refused_with_the_limit(world: World) -> None:
    huge = with_task(world, parameters={"x": "x" * 20_000_000})
    error = refused(lambda: world.plan(huge), "AT006")
    assert "plan.children[0].tasks[0].parameters" in str(error)
    assert "1048576" in str(error)


def test_a_plan_of_10_000_tasks_is_stored_in_plan_order(world: World) -> None:
    document = world.document(0)
    template = with_task(world)["children"][0]["tasks"][0]
    ids = [str(uuid.uuid4()) for _ in range(10_000)]
    document["tasks"] = [{**template, "task_id": i} for i in ids]
    assert [str(r["task_id"]) for r in world.plan(document)] == ids
    assert world.one("select count(*) from atm.tasks") == 10_000
