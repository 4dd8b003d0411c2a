"""Filters of the lookups and of `pyatm top`: by action, state, pool, entity and age."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import LiteralString
from uuid import UUID

from psycopg import sql


class CommandState(StrEnum):
    """States of a root."""

    OPEN = "open"
    SEALED = "sealed"
    READY = "ready"
    ENDING = "ending"
    REVERTING = "reverting"
    ENDED = "ended"
    END_FAILED = "end_failed"


class TaskState(StrEnum):
    """States of a task."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    IN_DOUBT = "in_doubt"
    RUNNING = "running"
    DONE = "done"


class CommandOutcome(StrEnum):
    """Outcomes of a root."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


def checked_age(text: str | None) -> str | None:
    """An age that PostgreSQL reads as an interval.

    Raises:
        ValueError: it is none; the message says how to write it.
    """
    if text is not None and not re.fullmatch(r"\d{1,6}(\.\d{1,6})? ?(s|min|h|d)", text):
        raise ValueError(f"{text!r} is no age; write 30s, 15min, 2h or 7d")
    return text


def checked_entity(text: str | None) -> str | None:
    """An entity as TYPE:UUID.

    Raises:
        ValueError: it is none; the message says how to write it.
    """
    if text is not None:
        kind, _, entity_id = text.partition(":")
        try:
            UUID(entity_id)
        except ValueError:
            kind = ""
        if not kind:
            raise ValueError(f"{text!r} is no entity; write TYPE:UUID, such as Disk:9a1f...")
    return text


class Where:
    """Conditions of a query, with their parameters."""

    def __init__(self) -> None:
        self._conditions: list[sql.SQL] = [sql.SQL("true")]
        self.parameters: dict[str, object] = {}

    def add(self, condition: LiteralString, **parameters: object) -> None:
        """Add a condition unless one of its parameters is None (an option not given)."""
        if None not in parameters.values():
            self._conditions.append(sql.SQL(condition))
            self.parameters |= parameters

    def query(self, view: LiteralString, order: LiteralString) -> sql.Composed:
        """The rows of a view of schema atm; parameter `limit` bounds them."""
        return sql.SQL("select * from atm.{} where {} order by {} limit %(limit)s").format(
            sql.SQL(view), sql.SQL(" and ").join(self._conditions), sql.SQL(order)
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """What to show; None: everything.

    Attributes:
        action: action type.
        state: of the root.
        pool: name or id of a storage pool in which the command has tasks.
        entity: TYPE:UUID that the command holds.
        older_than: least age, as `15min`.
        newer_than: greatest age.
    """

    action: str | None = None
    state: str | None = None
    pool: str | None = None
    entity: str | None = None
    older_than: str | None = None
    newer_than: str | None = None

    def words(self) -> str:
        """The filter for people; empty when it lets everything through."""
        given = {
            "action": self.action,
            "state": self.state,
            "pool": self.pool,
            "entity": self.entity,
            "older than": self.older_than,
            "newer than": self.newer_than,
        }
        return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)

    def entity_parameters(self) -> dict[str, str | None]:
        """For conditions with `entity_type` and `entity_id`."""
        kind, _, entity_id = (self.entity or "").partition(":")
        return {"entity_type": kind or None, "entity_id": entity_id or None}

    def commands(self, *, roots: bool = False) -> Where:
        """Conditions on atm.commands.

        Args:
            roots: without child commands.
        """
        where = Where()
        where.add("action_type = %(action)s", action=self.action)
        where.add("state = %(state)s", state=self.state)
        where.add("created_at < now() - %(older)s::interval", older=self.older_than)
        where.add("created_at > now() - %(newer)s::interval", newer=self.newer_than)
        where.add(
            "root_command_id in (select root_command_id from atm.tasks"
            " where %(pool)s in (pool_name, storage_pool_id::text))",
            pool=self.pool,
        )
        where.add(
            "root_command_id in (select root_command_id"
            " from atm.entity_tasks(%(entity_type)s, %(entity_id)s))",
            **self.entity_parameters(),
        )
        if roots:
            where.add("parent_command_id is null")
        return where

    def stuck(self) -> Where:
        """Conditions on atm.stuck."""
        where = Where()
        where.add("action_type = %(action)s", action=self.action)
        where.add("since < now() - %(older)s::interval", older=self.older_than)
        where.add("since > now() - %(newer)s::interval", newer=self.newer_than)
        where.add(
            "root_command_id in (select root_command_id from atm.commands"
            " where state = %(state)s and parent_command_id is null)",
            state=self.state,
        )
        where.add(
            "root_command_id in (select root_command_id from atm.tasks"
            " where %(pool)s in (pool_name, storage_pool_id::text))",
            pool=self.pool,
        )
        where.add(
            "root_command_id in (select root_command_id"
            " from atm.entity_tasks(%(entity_type)s, %(entity_id)s))",
            **self.entity_parameters(),
        )
        return where

    def pools(self) -> Where:
        """Conditions on atm.pools."""
        where = Where()
        where.add("%(pool)s in (pool_name, storage_pool_id::text)", pool=self.pool)
        return where
