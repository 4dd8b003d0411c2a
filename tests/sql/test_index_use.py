"""At 100 000 live tasks each lookup goes through an index; no call reads more than it needs."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from .world import FINISHED, Row, World

if TYPE_CHECKING:
    from tests.conftest import Connection

POOLS, COMMANDS, CHILDREN, TASKS = 50, 1000, 10, 10

BIND = """
select count(*)
  from (select task_id from atm.tasks where state = 'submitting' limit 3000) t
 cross join lateral atm.bind_task(%s, t.task_id, gen_random_uuid()) b
"""
BIG = ("command", "hold", "plan", "root", "task")
READ = """
select coalesce(sum(seq_tup_read), 0) from pg_stat_xact_user_tables
 where schemaname = 'atm_internal' and relname = any (%s)
"""


def entity(entity_type: str, access: str = "shared") -> Row:
    return {"type": entity_type, "id": str(uuid.uuid4()), "access": access}


def command(number: int, pool: str) -> Row:
    """One with CHILDREN children of TASKS tasks, each with an entity; every second one is open."""
    return {
        "command_id": str(uuid.uuid4()),
        "action_type": "Fill",
        "seal": number % 2 == 0,
        "entities": [entity("VM")],
        "children": [
            {
                "command_id": str(uuid.uuid4()),
                "action_type": "Child",
                "entities": [entity("Disk", "exclusive")],
                "tasks": [
                    {
                        "task_id": str(uuid.uuid4()),
                        "task_type": "fill",
                        "storage_pool_id": pool,
                        "submit": True,
                        "entities": [entity("Image")],
                    }
                    for _ in range(TASKS)
                ],
            }
            for _ in range(CHILDREN)
        ],
    }


@pytest.fixture
def world(db: Connection) -> World:
    """One test needs it, and takes what it costs to fill it."""
    world = World(db).start()
    pools = [uuid.uuid4() for _ in range(POOLS)]
    for pool in pools:
        world.one("select atm.set_pool(%s, 'many', %s)", pool, Jsonb([{"address": "h"}]))
    with db.transaction():
        for n in range(COMMANDS):
            document = Jsonb(command(n, str(pools[n % POOLS])))
            db.execute("select count(*) from atm.plan_command(%s, %s)", (world.epoch, document))
    db.execute(BIND, (world.epoch,))
    db.execute("vacuum analyze")
    assert world.one("select count(*) from atm.tasks") == COMMANDS * CHILDREN * TASKS
    return world


def cost(
    db: Connection, query: str, arguments: dict[str, Any], tables: tuple[str, ...] = BIG
) -> tuple[int, int, str]:
    """Blocks touched, rows of big tables read without an index, and the plan; nothing is kept."""
    plan: Any = None
    read = 0
    for _ in range(2):  # the first time, catalogues are read too
        with db.transaction(force_rollback=True):
            ((before,),) = db.execute(READ, (list(tables),)).fetchall()
            explain = f"explain (analyze, buffers, format json) {query}"
            cursor = db.execute(explain.encode(), arguments)
            ((plan,),) = cursor.fetchall()
            ((after,),) = db.execute(READ, (list(tables),)).fetchall()
            read = int(after - before)
    top = plan[0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], read, json.dumps(plan)


VIEWS = {
    "a task": "select * from atm.tasks where task_id = %(task)s",
    "a VDSM id": "select * from atm.tasks where vdsm_task_id = %(vdsm)s",
    "a pool": "select * from atm.tasks where storage_pool_id = %(pool)s",
    "a command": "select * from atm.commands where command_id = %(root)s",
    "the tasks of a command": "select * from atm.tasks where command_id = %(child)s",
    "the tasks of a root": "select * from atm.tasks where root_command_id = %(root)s",
    "the commands of a root": "select * from atm.commands where root_command_id = %(root)s",
    "the children of a command": "select * from atm.commands where parent_command_id = %(root)s",
    "what a root holds": "select * from atm.entities where root_command_id = %(root)s",
    "orphans": "select * from atm.orphans",
}
LOOKUPS = {
    "entity_tasks": "select * from atm.entity_tasks('Disk', %(disk)s)",
    "entity_tasks of nothing": "select * from atm.entity_tasks('Disk', %(task)s)",
    "busy_entities": "select * from atm.busy_entities(%(entities)s)",
    "blockers": "select * from atm.blockers(%(entities)s)",
    "can_compensate": "select atm.can_compensate('Disk', %(disk)s)",
    "explain": "select * from atm.explain(%(root)s)",
}
CALLS = {
    "plan_command": "select * from atm.plan_command(%(epoch)s, %(document)s)",
    "add_tasks": "select * from atm.add_tasks(%(epoch)s, %(open)s, %(addition)s)",
    "seal_command": "select atm.seal_command(%(epoch)s, %(open)s)",
    "abort_command": "select atm.abort_command(%(epoch)s, %(open)s, 'test')",
    "submit_tasks": "select * from atm.submit_tasks(%(epoch)s, array[%(task)s::uuid])",
    "bind_task": "select * from atm.bind_task(%(epoch)s, %(task)s, gen_random_uuid())",
    "fail_task": "select atm.fail_task(%(epoch)s, %(task)s, 'test')",
    "doubt_task": "select atm.doubt_task(%(epoch)s, %(task)s, 'test')",
    "claim_end_actions": "select * from atm.claim_end_actions(%(epoch)s, 10, '1 min')",
    "report_poll": (
        "select * from atm.report_poll(%(token)s, %(small)s, %(now)s, %(spm)s, %(seen)s)"
    ),
    "report_actions": "select atm.report_actions(%(token)s, %(small)s, %(actions)s)",
    "cancel_command": "select * from atm.cancel_command(%(root)s, 'test', false)",
    "resolve_task": "select atm.resolve_task(%(bound)s, 'lost', 'test', false)",
    "resolve_orphan": "select atm.resolve_orphan(%(orphan)s, 'test', false)",
    "drain_pool": "select atm.drain_pool(%(small)s, 'test', true, false)",
}
SMALL_SCAN = 400
"""Blocks. A scan of one of the big tables or of its index takes more."""


def test_no_lookup_and_no_call_reads_a_whole_table(world: World) -> None:
    db = world.db
    sizes = world.rows(
        "select relname, relpages from pg_class where relnamespace = 'atm_internal'::regnamespace"
        " and relname in ('task', 'hold')"
    )
    assert all(row["relpages"] > 2 * SMALL_SCAN for row in sizes), sizes
    (root,) = world.rows(
        "select t.root_command_id, t.command_id, t.task_id, t.storage_pool_id from atm.tasks t"
        " where t.state = 'submitting' limit 1"
    )
    (bound,) = world.rows("select * from atm.tasks where vdsm_task_id is not null limit 1")
    (open_root,) = world.rows("select command_id from atm.commands where state = 'open' limit 1")
    (disk,) = world.rows("select entity_id from atm.entities where entity_type = 'Disk' limit 1")
    _, (own,), (vdsm,) = world.planned_and_bound(1)
    orphan = str(uuid.uuid4())
    world.poll({vdsm: FINISHED, orphan: FINISHED})
    db.execute("analyze")
    arguments: dict[str, Any] = {
        "root": root["root_command_id"],
        "child": root["command_id"],
        "task": root["task_id"],
        "pool": root["storage_pool_id"],
        "open": open_root["command_id"],
        "disk": disk["entity_id"],
        "bound": bound["task_id"],
        "vdsm": bound["vdsm_task_id"],
        "small": world.pool_id,
        "orphan": orphan,
        "epoch": world.epoch,
        "token": world.token,
        "now": world.now(),
        "entities": Jsonb([{"type": "Disk", "id": str(disk["entity_id"]), "access": "exclusive"}]),
        "document": Jsonb(world.document(4)),
        "addition": Jsonb({"children": world.document(2)["children"]}),
        "spm": Jsonb({"lver": 1}),
        "seen": Jsonb({vdsm: FINISHED, orphan: FINISHED}),
        "actions": Jsonb([{"vdsm_task_id": vdsm, "action": "clear", "ok": True}]),
    }
    assert own["root_command_id"]
    found: dict[str, str] = {}
    for name, query in {**VIEWS, **LOOKUPS, **CALLS}.items():
        most, tables = SMALL_SCAN, BIG
        if name == "a pool":
            # Its tasks are many; what they are joined with may be read whole.
            most, tables = 5 * SMALL_SCAN, ("task",)
        blocks, read, plan = cost(db, query, arguments, tables)
        if blocks > most or read > 0:
            found[name] = f"{blocks} blocks, {read} rows read in sequence: {plan[:300]}"
    assert found == {}
    blocks, read, plan = cost(db, "select * from atm.tasks where task_type = 'other'", {})
    assert blocks > SMALL_SCAN, "the measure sees a scan"
    assert read > COMMANDS * CHILDREN * TASKS
    assert "Seq Scan" in plan
