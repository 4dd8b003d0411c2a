"""The real thing: connections of each role, and what the public views say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from .facts import Row

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

# Tasks, commands, entities, orphans.
SEEN = (
    (
        "select task_id::text, root_command_id::text, state, outcome, vdsm_task_id::text,"
        " vdsm_state, vdsm_result, vdsm_code, vdsm_message, cleared_at is not null as cleared"
        " from atm.tasks"
    ),
    (
        "select command_id::text, root_command_id::text, state, outcome, open_tasks, attempt,"
        " aborted from atm.commands"
    ),
    (
        "select entity_type, entity_id::text, access, task_id::text, command_id::text,"
        " root_command_id::text from atm.entities"
    ),
    "select vdsm_task_id::text, vdsm_state, meaning from atm.orphans",
)


@dataclass(frozen=True, slots=True)
class Way:
    """How a call is made: in a transaction of this level, taken back at its end or not."""

    level: str = "READ COMMITTED"
    keep: bool = True


def growing_tables(owner: psycopg.Connection[Any]) -> list[str]:
    """All tables but those that a fresh database has rows in: settings and error codes."""
    rows = owner.execute(
        "select oid::regclass::text from pg_class where relkind = 'r'"
        " and (relnamespace = 'atm_internal'::regnamespace or relname = 'effect')"
        " and relname not in ('setting', 'error_code') order by oid"
    ).fetchall()
    return [name for (name,) in rows]


def empty(owner: psycopg.Connection[Any], tables: list[str]) -> None:
    """Takes all rows away in the transaction that runs; without the triggers of foreign keys."""
    owner.execute("set local session_replication_role = replica")
    owner.execute("; ".join(f"delete from {name}" for name in tables).encode())


def connected(dsn: str) -> psycopg.Connection[Row]:
    connection = psycopg.connect(dsn, autocommit=True)
    connection.row_factory = dict_row  # pyright: ignore[reportAttributeAccessIssue]
    return connection  # pyright: ignore[reportReturnType]


class Database:
    """Sessions of each role on one database, emptied between the runs of a machine.

    Emptying costs less than a clone of the template (a few milliseconds instead of fifty and
    more) and works for any tables: those with rows in a fresh database keep them.
    """

    def __init__(self, dsn: str) -> None:
        self.owner = psycopg.connect(dsn, autocommit=True)
        self.sessions = {
            name: connected(dsn)
            for name in ("engine 1", "engine 2", "poller 1", "poller 2", "operator")
        }
        for name, session in self.sessions.items():
            session.execute(f"set session authorization atm_{name.split()[0]}".encode())
        self.owner.execute("create table effect (root_command_id uuid not null)")
        self.owner.execute("grant insert on effect to atm_engine")
        self._tables = growing_tables(self.owner)

    def empty(self) -> None:
        """Takes every row away that a run has left."""
        with self.owner.transaction():
            empty(self.owner, self._tables)

    def close(self) -> None:
        for session in (*self.sessions.values(), self.owner):
            session.close()

    def call(self, who: str, way: Way, query: str, *args: Any) -> list[Row]:
        """Makes one call in a transaction of its own; raises what PostgreSQL raises."""
        session = self.sessions[who]
        if way == Way():
            return session.execute(query.encode(), args).fetchall()
        session.execute(f"begin isolation level {way.level}".encode())
        try:
            rows = session.execute(query.encode(), args).fetchall()
            if way.keep:
                session.execute("commit")
        finally:
            session.rollback()
        return rows

    def clock(self) -> Any:
        return self.owner.execute("select clock_timestamp()").fetchall()[0][0]

    def seen(self) -> list[set[tuple[Any, ...]]]:
        """The rows of tasks, commands, entities and orphans."""
        with self.owner.pipeline():
            cursors = [self.owner.execute(query.encode()) for query in SEEN]
            return [set(cursor.fetchall()) for cursor in cursors]

    def asked(
        self, entities: list[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[bool, set[str]]]:
        """For each entity: can_compensate, and the roots that would refuse an exclusive plan."""
        kinds, ids = [e[0] for e in entities], [e[1] for e in entities]
        rows = self.owner.execute(
            "select e.type, e.id::text, atm.can_compensate(e.type, e.id), array("
            "select b.root_command_id::text from atm.blockers(jsonb_build_array(jsonb_build_object("
            "'type', e.type, 'id', e.id, 'access', 'exclusive'))) b)"
            " from unnest(%s::text[], %s::uuid[]) e (type, id)",
            (kinds, ids),
        ).fetchall()
        return {(kind, ident): (free, set(roots)) for kind, ident, free, roots in rows}

    def over(self, root: str) -> Row | None:
        cursor = self.owner.cursor(row_factory=dict_row)
        cursor.execute(
            "select outcome, (select count(*) from jsonb_array_elements(tasks) t"
            " where t ->> 'outcome' = 'succeeded') as succeeded, aborted,"
            " (select count(*) from effect e where e.root_command_id = command_id) as effects"
            " from atm.history where command_id = %s",
            (root,),
        )
        return cursor.fetchone()
