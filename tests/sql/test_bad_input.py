"""Values that no function takes: each is refused with a clear error, and nothing changes."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from .world import FINISHED, Row, World, everything, refused, status

if TYPE_CHECKING:
    from tests.conftest import Connection

LONG = "x" * 201
SOME = str(uuid.UUID(int=7))
SPM = {"host": "h1", "spm_id": 1, "lver": 1}
HOSTS = [{"address": "h1"}]

CALLS = {
    "acquire": "select * from atm.acquire_pools(%s, %s, %s::interval)",
    "actions": "select atm.report_actions(%(token)s, %(pool)s, %(value)s)",
    "add": "select * from atm.add_tasks(%(epoch)s, %(root)s, %(value)s)",
    "blockers": "select * from atm.blockers(%(value)s)",
    "busy": "select * from atm.busy_entities(%(value)s)",
    "claim": "select * from atm.claim_end_actions(%(epoch)s, %(value)s, '1 min')",
    "hosts": "select atm.set_pool(%(pool)s, 'pool', %(value)s)",
    "lease": "select atm.extend_end_action(%(claim)s, %(value)s::interval)",
    "plan": "select * from atm.plan_command(%(epoch)s, %(value)s)",
    "pool_name": 'select atm.set_pool(%(pool)s, %(value)s, \'[{"address": "h1"}]\')',
    "spm": "select * from atm.report_poll(%(token)s, %(pool)s, %(now)s, %(value)s, '{}')",
    "statuses": (
        "select * from atm.report_poll(%(token)s, %(pool)s, %(now)s,"
        ' \'{"host": "h1", "spm_id": 1, "lver": 1}\', %(value)s)'
    ),
    "started": "select * from atm.report_poll(%(token)s, %(pool)s, %(value)s, '{}', '{}')",
    "unset_pool": "select * from atm.report_poll(%(token)s, %(value)s, %(now)s, '{}', '{}')",
    "poller": "select * from atm.acquire_pools(%(value)s, 1, '1 min')",
    "max_pools": "select * from atm.acquire_pools('p', %(value)s, '1 min')",
    "pool_lease": "select * from atm.acquire_pools('p', 1, %(value)s::interval)",
    "engine": "select atm.start_engine(%(value)s)",
    "finish": "select atm.finish_end_action(%(claim)s, %(value)s)",
    "disposition": "select atm.finish_end_action(%(claim)s, disposition => %(value)s)",
    "retry_after": (
        "select atm.finish_end_action(%(claim)s, 'retry', retry_after => %(value)s::interval)"
    ),
    "token": "select atm.finish_end_action(%(value)s)",
    "entity_type": f"select * from atm.entity_tasks(%(value)s, '{SOME}')",
    "compensate": f"select atm.can_compensate(%(value)s, '{SOME}')",
    "outcome": "select atm.resolve_task(%(task)s, %(value)s, 'why', false)",
    "reason": "select * from atm.cancel_command(%(root)s, %(value)s, false)",
    "setting": "select atm.set_setting(%(value)s, '1', 'why')",
    "polls": "select atm.set_setting('absence_polls', %(value)s, 'why')",
    "policy": "select atm.set_setting('orphan_policy', %(value)s, 'why')",
    "settle": "select atm.set_setting('in_doubt_settle', %(value)s, 'why')",
    "notify": "select atm.set_setting('notify', %(value)s, 'why')",
    "months": "select atm.ensure_partitions(%(value)s)",
    "keep": "select * from atm.purge_history('why', %(value)s, false)",
    "drain": "select atm.drain_pool(%(value)s, 'why', true, false)",
    "remove": "select atm.remove_pool(%(value)s, 'why', false)",
    "orphan": "select atm.resolve_orphan(%(value)s, 'why', false)",
}

ENTITIES: list[tuple[Any, str, str]] = [
    ({}, "AT004", "entities: must be an array"),
    ([1], "AT004", "entities[0]: must be an object"),
    ([{"type": "VM"}], "AT003", "entities[0]: key id is missing"),
    ([{"type": "VM", "id": SOME, "kind": 1}], "AT002", "entities[0]: unknown key kind"),
    ([{"type": 5, "id": SOME}], "AT004", "entities[0].type: must be a text"),
    ([{"type": LONG, "id": SOME}], "AT004", "entities[0].type: must be a text of 1 to 200"),
    ([{"type": "VM", "id": SOME, "access": "all"}], "AT004", "entities[0].access"),
    ([{"type": "VM", "id": SOME}, {"type": "VM", "id": "5"}], "AT004", "entities[1].id"),
]
ROOT = {"command_id": SOME, "action_type": "A"}
ACTION = {"vdsm_task_id": SOME, "action": "clear", "ok": True}
CASES: list[tuple[str, Any, str, str]] = [
    *(("blockers", *case) for case in ENTITIES),
    *(("busy", *case) for case in ENTITIES),
    ("actions", {}, "AT004", "actions: must be an array"),
    ("actions", [1], "AT004", "actions[0]: must be an object"),
    ("actions", [{**ACTION, "hurry": 1}], "AT002", "unknown key hurry"),
    ("actions", [ACTION, {**ACTION, "action": "sing"}], "AT004", "actions[1].action"),
    ("actions", [{**ACTION, "code": "many"}], "AT004", "actions[0].code: must be an integer"),
    ("actions", [{**ACTION, "ok": "yes"}], "AT004", "actions[0].ok: must be true or false"),
    ("actions", [{"action": "clear", "ok": True}], "AT003", "key vdsm_task_id is missing"),
    ("plan", [], "AT004", "plan: must be an object"),
    ("plan", 5, "AT004", "plan: must be an object"),
    ("plan", "text", "AT004", "plan: must be an object"),
    ("plan", {"command_id": SOME, "action_type": "A", "tasks": {}}, "AT004", "plan.tasks"),
    ("plan", {"command_id": SOME, "action_type": "A", "tasks": [5]}, "AT004", "plan.tasks[0]"),
    (
        "plan",
        {"command_id": SOME, "action_type": "A", "children": [5]},
        "AT004",
        "plan.children[0]",
    ),
    ("plan", {"command_id": SOME, "action_type": "A", "entities": 5}, "AT004", "plan.entities"),
    ("plan", {"command_id": SOME, "action_type": ""}, "AT004", "plan.action_type"),
    ("plan", {"command_id": "me", "action_type": "A"}, "AT004", "plan.command_id: must be a uuid"),
    ("plan", {**ROOT, "parameters": []}, "AT004", "plan.parameters: must be an object"),
    ("add", [], "AT004", "plan: must be an object"),
    ("add", {"command_id": SOME}, "AT002", "plan: unknown key command_id"),
    ("add", {"tasks": [{"task_type": "t", "storage_pool_id": SOME}]}, "AT003", "key task_id"),
    ("claim", 0, "AT001", "max_commands"),
    ("claim", 10001, "AT001", "max_commands"),
    ("lease", "0 s", "AT001", "lease"),
    ("lease", "2 days", "AT001", "lease"),
    ("hosts", {}, "AT004", "hosts: must be an array"),
    ("hosts", [], "AT004", "hosts: must be an array of at least one host"),
    ("hosts", ["h1"], "AT004", "hosts[0]: must be an object"),
    ("hosts", [{"port": 5}], "AT003", "hosts[0]: key address is missing"),
    ("hosts", [*HOSTS, {"address": "h2", "port": 70000}], "AT004", "hosts[1].port"),
    ("hosts", [{"address": "h2", "port": "ssh"}], "AT004", "hosts[0].port"),
    ("hosts", [{"address": "h2", "name": "x"}], "AT002", "hosts[0]: unknown key name"),
    ("pool_name", " ", "AT001", "pool_name"),
    ("pool_name", LONG, "AT001", "pool_name"),
    ("spm", [], "AT004", "spm: must be an object"),
    ("spm", {"host": "h1"}, "AT004", "spm.lver: must be an integer"),
    ("spm", {**SPM, "lver": "new"}, "AT004", "spm.lver: must be an integer"),
    ("spm", {**SPM, "spm_id": "me"}, "AT004", "spm.spm_id: must be an integer"),
    ("spm", {**SPM, "role": "SPM"}, "AT002", "spm: unknown key role"),
    ("statuses", [], "AT004", "statuses: must be the map"),
    ("statuses", "down", "AT004", "statuses: must be the map"),
    ("started", "2099-01-01", "AT001", "poll_started_at lies in the future"),
    ("unset_pool", SOME, "AT008", "is not set"),
    ("poller", " ", "AT001", "poller must be 1 to 200"),
    ("poller", LONG, "AT001", "poller must be 1 to 200"),
    ("max_pools", -1, "AT001", "max_pools"),
    ("pool_lease", "-1 s", "AT001", "lease"),
    ("engine", " ", "AT001", "engine_name"),
    ("engine", LONG, "AT001", "engine_name"),
    ("finish", "dun", "AT001", "result must be done, retry"),
    ("disposition", "keep", "AT001", "disposition must be clear or revert, is 'keep'"),
    ("retry_after", "-1 s", "AT001", "retry_after"),
    ("retry_after", "31 days", "AT001", "retry_after"),
    ("token", -5, "AT203", "token -5 is stale"),
    ("entity_type", "", "AT001", "entity_type"),
    ("compensate", LONG, "AT001", "entity_type"),
    ("outcome", "succeeded", "AT001", "outcome must be failed or lost, is 'succeeded'"),
    ("reason", " ", "AT001", "reason must say why"),
    ("reason", None, "AT001", "reason must say why"),
    ("setting", "speed", "AT008", "there is no setting 'speed'"),
    ("polls", "0", "AT001", "absence_polls: '0' is not a value"),
    ("polls", "three", "AT001", "absence_polls: 'three' is not a value"),
    ("policy", "some", "AT001", "orphan_policy: 'some' is not a value"),
    ("settle", "soon", "AT001", "in_doubt_settle: 'soon' is not a value"),
    ("notify", "maybe", "AT001", "notify: 'maybe' is not a value"),
    ("months", -1, "AT001", "months_ahead"),
    ("keep", -1, "AT001", "keep_months"),
    ("drain", SOME, "AT008", f"storage pool {SOME} is not set"),
    ("remove", SOME, "AT008", f"storage pool {SOME} is not set"),
    ("orphan", SOME, "AT008", f"there is no orphan {SOME}"),
]


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


def arguments(world: World) -> dict[str, Any]:
    """A live task, a claimed endAction, and what a caller knows of them."""
    world.plan(world.document(0))
    (claim,) = world.claim()
    root, (task,), _ = world.planned_and_bound(1, seal=False)
    return {
        "epoch": world.epoch,
        "token": world.token,
        "pool": world.pool_id,
        "now": world.now(),
        "claim": claim["token"],
        "root": root,
        "task": task["task_id"],
    }


def test_each_wrong_value_is_named_and_changes_nothing(world: World) -> None:
    known = arguments(world)
    before = everything(world)
    found: list[str] = []
    wanted: list[str] = []
    for call, value, code, words in CASES:
        parameters = {**known, "value": Jsonb(value) if isinstance(value, (dict, list)) else value}
        if call in ("plan", "statuses"):
            parameters["value"] = Jsonb(value)
        try:
            world.db.execute(CALLS[call].encode(), parameters)
            said = "nothing"
        except psycopg.Error as error:
            said = f"{error.sqlstate}: {error.diag.message_primary}"
        right = said.startswith(code) and words in said
        wanted.append(f"{call} {value}: {code} ... {words}")
        found.append(wanted[-1] if right else f"{call} {value}: {said}")
    assert found == wanted
    assert everything(world) == before


def test_a_value_of_a_wrong_type_never_reaches_a_function(world: World) -> None:
    arguments(world)
    before = everything(world)
    tried = 0
    for row in world.rows(
        "select p.proname, a.n::integer, format_type(t.oid, null) as type,"
        " array(select format_type(x, null) from unnest(p.proargtypes) x) as types"
        "  from pg_proc p cross join lateral unnest(p.proargtypes) with ordinality a (oid, n)"
        "  join pg_type t on t.oid = a.oid"
        " where p.pronamespace = 'atm'::regnamespace and t.typname <> 'text'"
    ):
        places = [
            sql.SQL("'{{wrong'") if n == row["n"] else sql.SQL("null::" + type_name)
            for n, type_name in enumerate(row["types"], 1)
        ]
        query = sql.SQL("select * from atm.{}({})").format(
            sql.Identifier(row["proname"]), sql.SQL(", ").join(places)
        )
        with pytest.raises(psycopg.DataError):
            world.db.execute(query)
        tried += 1
    assert tried > 50
    assert everything(world) == before


def test_a_child_cannot_name_another_root(world: World) -> None:
    other = world.plan(world.document(1))[0]["root_command_id"]
    document = world.document(2)
    before = everything(world)
    document["children"][1]["root_command_id"] = str(other)
    error = refused(lambda: world.plan(document), "AT002")
    assert "plan.children[1]: unknown key root_command_id" in str(error)
    del document["children"][1]["root_command_id"]
    document["children"][1]["command_id"] = str(other)
    refused(lambda: world.plan(document), "AT106")
    document["children"][1]["command_id"] = document["command_id"]
    refused(lambda: world.plan(document), "AT005")
    assert everything(world) == before


def test_the_id_of_a_child_is_no_id_for_a_root(world: World) -> None:
    document = world.document(1)
    world.plan(document)
    error = refused(
        lambda: world.plan(world.document(1, command_id=document["children"][0]["command_id"])),
        "AT101",
    )
    assert "as a child of another root" in str(error)


@pytest.mark.parametrize("kind", ["task_id", "command_id"])
def test_an_id_that_stands_twice_is_named(world: World, kind: str) -> None:
    document = world.document(2)
    before = everything(world)
    first, second = document["children"]
    if kind == "task_id":
        first, second = first["tasks"][0], second["tasks"][0]
    second[kind] = first[kind]
    error = refused(lambda: world.plan(document), "AT005")
    assert first[kind] in str(error)
    assert everything(world) == before


def test_huge_arrays_are_worked_off_or_refused(world: World) -> None:
    known = arguments(world)
    before = everything(world)
    ids = [str(uuid.uuid4()) for _ in range(5_000)]
    refused(
        lambda: world.rows("select * from atm.submit_tasks(%s, %s::uuid[])", world.epoch, ids),
        "AT008",
    )
    entities = Jsonb([{"type": "Disk", "id": i, "access": "exclusive"} for i in ids])
    assert world.rows("select * from atm.busy_entities(%s)", entities) == []
    assert world.rows("select * from atm.blockers(%s)", entities) == []
    assert everything(world) == before
    actions = [{"vdsm_task_id": i, "action": "clear"} for i in ids]
    assert world.act(actions) == 0
    listed: dict[str, Row] = dict.fromkeys(ids, status())
    assert world.poll(listed) == []
    assert world.one("select count(*) from atm.orphans") == len(ids)
    assert world.poll({}) == []
    assert world.one("select count(*) from atm.orphans") == 0
    (row,) = world.plan(world.document(1, submit=True))
    world.bind(row["task_id"], None, *ids)
    assert world.task(row["task_id"])["state"] == "running"
    assert known["root"]


HOSTILE = [
    "'; drop schema atm cascade; --",
    "$$;",
    "\\x00",
    "%s%n{0}",
    "\u202e日本\U0001f4a3",
    "\t\n",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_is_a_text_for_every_function(world: World, text: str) -> None:
    known = arguments(world)
    named = f"x{text}"
    world.one("select atm.start_engine(%s)", named)
    world.one("select atm.set_pool(%s, %s, %s)", known["pool"], named, Jsonb([{"address": named}]))
    world.rows("select * from atm.acquire_pools(%s, 1, '1 min')", named)
    assert world.one("select atm.release_pools(%s)", named) == 0
    assert world.rows("select * from atm.entity_tasks(%s, %s)", named, SOME) == []
    entities = Jsonb([{"type": named, "id": SOME}])
    assert world.rows("select * from atm.busy_entities(%s)", entities) == []
    assert world.one("select atm.can_compensate(%s, %s)", named, SOME) is True
    rows = world.plan(world.document(2, submit=True, seal=False))
    reason = "select atm.{}(%s, %s, %s)"
    world.one(reason.format("doubt_task"), world.epoch, rows[0]["task_id"], named)
    world.one(reason.format("fail_task"), world.epoch, rows[0]["task_id"], named)
    world.one(reason.format("abort_command"), world.epoch, rows[0]["root_command_id"], named)
    story = world.rows("select * from atm.explain(%s)", rows[0]["root_command_id"])
    assert any(named in str(row["detail"]) for row in story)
    world.one("select atm.drain_pool(%s, %s, false, false)", known["pool"], named)
    assert world.rows("select * from atm.audit where reason = %s", named)
    refused(lambda: world.one("select atm.set_setting(%s, 'x', 'why')", named), "AT008")
    refused(lambda: world.one("select atm.set_setting('notify', %s, 'why')", named), "AT001")
    strange = {named: FINISHED, SOME: status(message=named)}
    world.poll(strange)
    (pool,) = world.rows("select * from atm.pools")
    assert (pool["pool_name"], list(pool["unreadable"])) == (named, [named])
    (orphan,) = world.rows("select * from atm.orphans")
    assert orphan["vdsm_message"] == named
