"""Who may call and read what: each role is tried by connecting as it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.conftest import Connect, Connection

LOOKUPS = {"blockers", "busy_entities", "can_compensate", "entity_tasks", "explain"}
POOLS = {"set_pool", "remove_pool"}
FIGURES = {"check", "metrics", "version"}
MAY_CALL: dict[str, set[str]] = {
    "atm_engine": LOOKUPS
    | POOLS
    | {"abort_command", "add_tasks", "bind_task", "claim_end_actions", "doubt_task"}
    | {"extend_end_action", "fail_task", "finish_end_action", "plan_command", "seal_command"}
    | {"start_engine", "submit_tasks", "version"},
    "atm_poller": POOLS
    | FIGURES
    | {"acquire_pools", "ensure_partitions", "release_pools", "report_actions", "report_poll"},
    "atm_operator": LOOKUPS
    | POOLS
    | FIGURES
    | {"cancel_command", "drain_pool", "ensure_partitions", "purge_history", "resolve_orphan"}
    | {"reference", "resolve_task", "retry_end_action", "set_setting"},
    "atm_reader": LOOKUPS | FIGURES | {"reference"},
    "atm_monitor": FIGURES,
}
FUNCTIONS = """
select p.proname, format('select * from %s(%s)', p.oid::regproc,
         (select string_agg(format('null::%s', format_type(t, null)), ', ')
            from unnest(p.proargtypes) t))
  from pg_proc p where p.pronamespace = 'atm'::regnamespace
"""


def may(connection: Connection, query: str) -> bool:
    """Tries a call; a refusal of its arguments is no refusal of the call."""
    try:
        connection.execute(query.encode())
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith("AT"):
            raise
    return True


@pytest.mark.parametrize("role", sorted(MAY_CALL))
def test_a_role_calls_what_it_is_for_and_nothing_else(
    db: Connection, connect: Connect, role: str
) -> None:
    session = connect(role)
    calls = db.execute(FUNCTIONS.encode()).fetchall()
    assert len(calls) > 30
    assert {name for name, query in calls if may(session, query)} == MAY_CALL[role]


@pytest.mark.parametrize("role", sorted(MAY_CALL))
def test_no_role_reads_a_table_or_calls_an_inner_function(
    db: Connection, connect: Connect, role: str
) -> None:
    session = connect(role)
    tables = db.execute(
        "select format('select 1 from %s', c.oid::regclass) from pg_class c"
        " where c.relkind in ('r', 'p', 'v')"
        " and c.relnamespace = 'atm_internal'::regnamespace"
    ).fetchall()
    assert len(tables) > 10
    assert [query for (query,) in tables if may(session, query)] == []
    assert not may(session, "select atm_internal.hint('atm_ready')")
    assert not may(session, "create table atm.mine ()")


GRANTED_TO_PUBLIC = """
with ours as (
  select n.oid, n.nspname, n.nspacl, n.nspowner from pg_namespace n
   where n.nspname in ('atm', 'atm_internal', 'atm_migration')
), object as (
  select 'schema ' || n.nspname as name, coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl
    from ours n
  union all
  -- Constructor functions of own types are functions of these schemas too.
  select 'function ' || p.oid::regprocedure, coalesce(p.proacl, acldefault('f', p.proowner))
    from pg_proc p join ours n on n.oid = p.pronamespace
  union all
  select 'relation ' || c.oid::regclass,
         coalesce(c.relacl, acldefault(k.kind, c.relowner))
    from pg_class c join ours n on n.oid = c.relnamespace
   cross join lateral (select case c.relkind when 'S' then 's' else 'r' end::"char" as kind) k
   where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  union all
  select format('column %s.%s', c.oid::regclass, a.attname), a.attacl
    from pg_class c join ours n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attacl is not null
  union all
  select 'type ' || t.oid::regtype, coalesce(t.typacl, acldefault('T', t.typowner))
    from pg_type t join ours n on n.oid = t.typnamespace
   where t.typelem = 0   -- arrays have no privileges of their own
     and (t.typrelid = 0   -- those of tables follow their tables
          or exists (select from pg_class c where c.oid = t.typrelid and c.relkind = 'c'))
)
select o.name from object o
 where exists (select from aclexplode(o.acl) x where x.grantee = 0) order by 1
"""


def test_nothing_is_granted_to_public(db: Connection) -> None:
    assert db.execute(GRANTED_TO_PUBLIC.encode()).fetchall() == []


def test_what_is_made_later_is_not_granted_to_public_either(db: Connection) -> None:
    db.execute("set role atm_owner")
    db.execute("select atm.ensure_partitions(7)")
    db.execute("create type atm_internal.mood as enum ('good')")
    db.execute("create function atm_internal.later() returns int language sql return 1")
    assert db.execute(GRANTED_TO_PUBLIC.encode()).fetchall() == []


def test_a_stranger_gets_nowhere(db: Connection, connect: Connect) -> None:
    name = f"stranger_{uuid.uuid4().hex}"
    db.execute(f"create role {name}".encode())
    try:
        stranger = connect(name)
        for query in (
            "select * from atm.commands",
            "select atm.version()",
            "select null::atm.planned_task",
            "select atm_internal.hint('x')",
            "select nextval('atm_internal.stamp')",
            "create table mine (x atm_internal.task_state)",
            "select * from atm_migration.load",
        ):
            assert not may(stranger, query), query
    finally:
        db.execute(f"drop owned by {name}; drop role {name}".encode())


def test_security_definers_have_the_pinned_search_path(db: Connection) -> None:
    definers = db.execute(
        "select p.oid::regprocedure::text, p.proconfig from pg_proc p where p.prosecdef"
        " and p.pronamespace::regnamespace::text in ('atm', 'atm_internal')"
    ).fetchall()
    assert len(definers) > 30
    assert [name for name, c in definers if "search_path=pg_catalog, pg_temp" not in c] == []


def test_everything_public_is_commented(db: Connection) -> None:
    found = db.execute(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'atm'::regnamespace"
        " and obj_description(p.oid, 'pg_proc') is null"
        " union all select c.oid::regclass::text from pg_class c where c.relkind = 'v'"
        " and c.relnamespace = 'atm'::regnamespace and obj_description(c.oid, 'pg_class') is null"
    ).fetchall()
    assert found == []


def test_everything_belongs_to_the_owner_who_cannot_log_in(db: Connection) -> None:
    found = db.execute(
        "select p.oid::regprocedure::text from pg_proc p"
        " where p.pronamespace::regnamespace::text in ('atm', 'atm_internal')"
        "   and p.proowner <> 'atm_owner'::regrole"
        " union all select c.oid::regclass::text from pg_class c"
        "  where c.relkind in ('r', 'p', 'v', 'S')"
        "   and c.relnamespace in ('atm'::regnamespace, 'atm_internal'::regnamespace)"
        "   and c.relowner <> 'atm_owner'::regrole"
    ).fetchall()
    assert found == []
    row = db.execute("select rolcanlogin from pg_roles where rolname = 'atm_owner'").fetchone()
    assert row == (False,)


@pytest.mark.parametrize("role", sorted(MAY_CALL))
def test_a_role_sees_all_rows_of_the_views_that_it_may_read(
    db: Connection, connect: Connect, role: str
) -> None:
    session = connect(role)
    views = db.execute(
        "select c.oid::regclass::text from pg_class c where c.relkind = 'v'"
        " and c.relnamespace = 'atm'::regnamespace and has_table_privilege(%s, c.oid, 'select')",
        [role],
    ).fetchall()
    assert {"atm.settings", "atm.errors"} <= {name for (name,) in views}
    for (name,) in views:
        count = f"select count(*) from {name}".encode()
        assert session.execute(count).fetchone() == db.execute(count).fetchone(), name
    assert session.execute("select count(*) > 5 from atm.settings").fetchone() == (True,)
