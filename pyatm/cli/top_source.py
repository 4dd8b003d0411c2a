"""What `pyatm top` shows: a few bounded queries over one connection that comes back by itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from pyatm.cli.lookups import NOT_HERE, not_here
from pyatm.database.session import aconnect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from pyatm.cli.filters import Filter, Where

POOLS: Final = 50
STUCK: Final = 100
COMMANDS: Final = 200
"""Rows that are asked for at most; a terminal does not show more at once."""
ANSWER_TIMEOUT: Final = 30.0
"""Seconds for all queries of one refresh."""


class LostError(Exception):
    """The database does not answer; the next question connects again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The tasks of one root, counted.

    Attributes:
        states: how many tasks are in each state; those that are done count by outcome.
    """

    states: Mapping[str, int]

    @property
    def tasks(self) -> int:
        """All of them."""
        return sum(self.states.values())

    @property
    def done(self) -> int:
        """Those that are over."""
        return sum(n for state, n in self.states.items() if state not in _LIVE)


_LIVE: Final = frozenset({"planned", "submitting", "in_doubt", "running"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One refresh.

    Attributes:
        pools, stuck, commands: rows of the views, at most as many as the limits.
        more_pools, more_stuck, more_commands: there are more rows.
        progress: by root command id.
        totals: the counts of atm.metrics by name and state, filters left aside.
        seconds: how long the database took.
    """

    pools: Sequence[DictRow]
    stuck: Sequence[DictRow]
    commands: Sequence[DictRow]
    more_pools: bool
    more_stuck: bool
    more_commands: bool
    progress: Mapping[UUID, Progress]
    totals: Mapping[tuple[str, str], int]
    seconds: float


class Source:
    """Asks the database; safe to call from several coroutines.

    Args:
        dsn: a libpq connection string.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def snapshot(self, wanted: Filter) -> Snapshot:
        """Everything that the screen shows.

        Raises:
            LostError: the database does not answer.
            CommandError: the role may not read the views.
            psycopg.Error: the server refused a query.
        """
        started = time.monotonic()
        pools, more_pools = await self._view("pools", wanted.pools(), "pool_name", POOLS)
        stuck, more_stuck = await self._view(
            "stuck", wanted.stuck(), "since, root_command_id, task_id", STUCK
        )
        commands, more_commands = await self._view(
            "commands", wanted.commands(roots=True), "created_at, root_command_id", COMMANDS
        )
        progress = await self._progress([row["root_command_id"] for row in commands])
        counted = await self.rows(
            "select name, labels ->> 'state' as state, value from atm.metrics()"
            " where labels ? 'state'"
        )
        totals = {(row["name"], row["state"]): int(row["value"]) for row in counted}
        return Snapshot(
            pools, stuck, commands, more_pools, more_stuck, more_commands, progress, totals,
            time.monotonic() - started,
        )  # fmt: skip

    async def explain(self, command_id: UUID) -> list[DictRow]:
        """The rows of atm.explain."""
        return await self.rows("select * from atm.explain(%(id)s)", {"id": command_id})

    async def may_cancel(self) -> bool:
        """Whether this role may call atm.cancel_command."""
        function = "atm.cancel_command(uuid,text,boolean)"
        query = "select has_function_privilege(%(function)s, 'execute') as may"
        return bool((await self.rows(query, {"function": function}))[0]["may"])

    async def cancel(self, command_id: UUID, reason: str, *, dry_run: bool) -> list[DictRow]:
        """Call atm.cancel_command; how many tasks it meets in which way.

        Args:
            command_id: a live command.
            reason: kept in atm.audit.
            dry_run: change nothing.

        Returns:
            Rows with state, effect and tasks (their number).
        """
        return await self.rows(
            "select state, effect, count(*) as tasks"
            " from atm.cancel_command(%(id)s, %(reason)s, dry_run => %(dry_run)s)"
            " group by state, effect order by tasks desc",
            {"id": command_id, "reason": reason, "dry_run": dry_run},
            role="atm_operator",
        )

    async def rows(
        self,
        query: LiteralString | sql.Composed,
        parameters: Mapping[str, object] | None = None,
        role: str = "atm_reader",
    ) -> list[DictRow]:
        """The rows of one query.

        Raises:
            LostError: the database does not answer.
            CommandError: the role may not, or the schema is not there.
            psycopg.Error: the server refused the query.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    return await self._ask(query, parameters or {})
            except NOT_HERE as error:
                raise not_here(error, role) from None
            except TimeoutError:
                await self._drop()
                raise LostError(f"no answer within {ANSWER_TIMEOUT:g} s") from None
            except psycopg.OperationalError as error:
                await self._drop()
                raise LostError(str(error).strip()) from None

    async def close(self) -> None:
        """End the connection."""
        await self._drop()

    async def _ask(
        self, query: LiteralString | sql.Composed, parameters: Mapping[str, object]
    ) -> list[DictRow]:
        if self._connection is None or self._connection.closed:
            self._connection = await aconnect(
                self._dsn, application_name="pyatm top", autocommit=True
            )
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, parameters)
            return await cursor.fetchall()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _view(
        self, name: LiteralString, where: Where, order: LiteralString, limit: int
    ) -> tuple[list[DictRow], bool]:
        rows = await self.rows(where.query(name, order), {**where.parameters, "limit": limit + 1})
        return rows[:limit], len(rows) > limit

    async def _progress(self, roots: Sequence[UUID]) -> dict[UUID, Progress]:
        counted = await self.rows(
            "select root_command_id as id, coalesce(outcome, state) as state, count(*) as n"
            " from atm.tasks where root_command_id = any(%(roots)s) group by 1, 2",
            {"roots": list(roots)},
        )
        states: dict[UUID, dict[str, int]] = {}
        for row in counted:
            states.setdefault(row["id"], {})[row["state"]] = row["n"]
        return {root: Progress(states.get(root, {})) for root in roots}
