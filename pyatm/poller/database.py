"""The poller's calls of the database's functions, over a few connections that mend themselves."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, cast

import psycopg
from psycopg.types.json import Jsonb

from pyatm.database.session import CommitGuard, hang_up, hung_up_after, parameters
from pyatm.poller.share import Census
from pyatm.vdsm import Address

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from psycopg.rows import TupleRow

AsyncConnection = psycopg.AsyncConnection["TupleRow"]

LISTENER: Final = "pyatm poller listen"
"""Application name of the connection that every poller keeps for LISTEN."""
STALE_LEASE: Final = "AT202"
RETRIED: Final = ("40001", "40P01")
_ATTEMPTS: Final = 5
FUNCTIONS: Final = (
    "atm.acquire_pools(text,integer,interval)",
    "atm.release_pools(text)",
    "atm.report_poll(bigint,uuid,timestamptz,jsonb,jsonb)",
    "atm.report_actions(bigint,uuid,jsonb)",
    "atm.ensure_partitions(integer)",
    "atm.metrics()",
)
"""All that a poller calls."""
_GRANT: Final = "grant it the role atm_poller"
VDSM_PORT: Final = 54321


class SchemaError(Exception):
    """The database has no schema of pyatm, or this user may not use it; says what to do."""


class StaleLeaseError(Exception):
    """The pool belongs to another poller by now; it must not be touched any more."""


@dataclass(frozen=True, slots=True)
class LeasedPool:
    """A pool that this poller holds.

    :param token: goes with every report.
    :param hosts: the hosts of the pool, one of which is SPM.
    :param open_tasks: tasks that still need the poller.
    :param lease_left: seconds of the lease that were left when the database answered.
    """

    storage_pool_id: UUID
    token: int
    hosts: tuple[Address, ...]
    open_tasks: int
    lease_left: float = 0.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of ``atm.metrics()``."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class ToDo:
    """Something to be done at VDSM.

    :param task_id: ours, None for an orphan.
    :param action: ``stop``, ``revert`` or ``clear``.
    """

    task_id: UUID | None
    vdsm_task_id: UUID
    action: str


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What VDSM answered to a to-do.

    :param code: VDSM's error code, None when it said ``true``.
    """

    vdsm_task_id: UUID
    action: str
    ok: bool
    code: int | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Reported:
    """The answer to a report.

    :param durable: False: the COMMIT was confirmed here only and may be gone after a failover, so
        nothing may be done at VDSM because of it.
    """

    to_do: tuple[ToDo, ...]
    durable: bool


class PollerDatabase:
    """The functions of the database that a poller calls, each call a transaction of its own.

    A connection that fails is closed and made anew by the next call, without a pause in between:
    callers pace themselves. Statements are not prepared, so that any pooler may be in front.

    :param dsn: libpq connection string.
    :param connections: opened at most.
    :param timeout: seconds for the answer to a call, and for the wait for a free connection. A
        connection whose answer did not come is closed; the call may have happened all the same.
    :param connected: called after each new connection.
    """

    def __init__(
        self,
        dsn: str,
        *,
        connections: int = 4,
        timeout: float = 60.0,
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        # Several hosts in the DSN mean a failover: only the one that takes writes is of use.
        self._parameters = {
            "target_session_attrs": "read-write",
            **parameters(dsn, "pyatm poller"),
        }
        self._timeout, self._connected = timeout, connected
        self._busy: set[AsyncConnection] = set()
        self._slots: asyncio.LifoQueue[AsyncConnection | None] = asyncio.LifoQueue()
        for _ in range(connections):
            self._slots.put_nowait(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close_idle()

    def hang_up(self) -> None:
        """Let all calls that still wait for an answer fail."""
        for connection in self._busy:
            hang_up(connection)

    async def check_schema(self) -> None:
        """Whether all that a poller calls is there and may be called by this user.

        Raises ``SchemaError``; ``psycopg.OperationalError`` when the database is not reached.
        """
        try:
            rows, _ = await self._call(
                "select name, has_function_privilege(to_regprocedure(name), 'execute')"
                " from unnest(%s::text[]) name",
                [list(FUNCTIONS)],
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaError(f"{error.diag.message_primary}; {_GRANT}") from None
        missing = [row[0] for row in rows if row[1] is None]
        if missing:
            text = f"the database has no function {missing[0]}; run `pyatm db migrate`"
            raise SchemaError(text)
        refused = [row[0] for row in rows if not row[1]]
        if refused:
            raise SchemaError(f"this user may not call {refused[0]}; {_GRANT}")

    async def clock(self) -> datetime:
        """The database's clock now."""
        rows, _ = await self._call("select clock_timestamp()", [])
        return rows[0][0]

    async def acquire_pools(self, poller: str, max_pools: int, lease: float) -> list[LeasedPool]:
        """Extend the leases of our pools and take free ones; returns all that we hold then."""
        rows, _ = await self._call(
            "select storage_pool_id, token, hosts, open_tasks,"
            " extract(epoch from lease_until - clock_timestamp()) from atm.acquire_pools("
            "poller => %s, max_pools => %s, lease => make_interval(secs => %s))",
            [poller, max_pools, lease],
        )
        return [
            LeasedPool(row[0], row[1], _addresses(row[2]), row[3], float(row[4])) for row in rows
        ]

    async def pools(self) -> list[LeasedPool]:
        """All pools, whoever has them; their tokens are 0."""
        rows, _ = await self._call("select storage_pool_id, hosts, tasks from atm.pools", [])
        return [LeasedPool(row[0], 0, _addresses(row[1]), row[2]) for row in rows]

    async def census(self) -> Census:
        """How many pools and pollers there are; a poller is known by its listening connection."""
        rows, _ = await self._call(
            "select count(*), count(*) filter (where poller is null or lease_until < now()),"
            " (select count(*) from pg_stat_activity"
            " where datname = current_database() and application_name = %s) from atm.pools",
            [LISTENER],
        )
        return Census(*rows[0])

    async def report_poll(
        self,
        token: int,
        storage_pool_id: UUID,
        poll_started_at: datetime,
        spm: dict[str, Any] | None,
        statuses: str | None,
    ) -> Reported:
        """Report a listing, or with ``statuses`` None only that we live.

        Raises ``StaleLeaseError``.
        """
        spm_json = None if spm is None else Jsonb(spm)
        rows, durable = await self._call(
            "select task_id, vdsm_task_id, action from atm.report_poll(token => %s,"
            " storage_pool_id => %s, poll_started_at => %s, spm => %s, statuses => %s::jsonb)",
            [token, storage_pool_id, poll_started_at, spm_json, statuses],
        )
        return Reported(tuple(ToDo(row[0], row[1], row[2]) for row in rows), durable)

    async def root_commands(self, task_ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """The root commands of live tasks, for the log."""
        rows, _ = await self._call(
            "select task_id, root_command_id from atm.tasks where task_id = any (%s)",
            [list(task_ids)],
        )
        return {row[0]: row[1] for row in rows}

    async def report_actions(
        self, token: int, storage_pool_id: UUID, results: Sequence[ActionResult]
    ) -> None:
        """Report what VDSM answered to to-dos; raises ``StaleLeaseError``."""
        actions = [
            {
                "vdsm_task_id": str(result.vdsm_task_id),
                "action": result.action,
                "ok": result.ok,
                "code": result.code,
                "message": None if result.message is None else result.message.replace("\0", "�"),
            }
            for result in results
        ]
        await self._call(
            "select atm.report_actions(token => %s, storage_pool_id => %s, actions => %s::jsonb)",
            [token, storage_pool_id, json.dumps(actions)],
        )

    async def release_pools(self, poller: str) -> None:
        """Give all our pools to whoever wants them."""
        await self._call("select atm.release_pools(poller => %s)", [poller])

    async def ensure_partitions(self) -> None:
        """Make the partitions of the coming months, if they are missing."""
        await self._call("select atm.ensure_partitions()", [])

    async def metrics(self) -> list[Figure]:
        """What the database says about itself; it counts live rows, so ask seldom."""
        rows, _ = await self._call("select name, labels, value from atm.metrics()", [])
        return [
            Figure(row[0], tuple(sorted((key, str(text)) for key, text in row[1].items())), row[2])
            for row in rows
        ]

    async def _call(self, statement: str, arguments: list[Any]) -> tuple[list[TupleRow], bool]:
        """Rows, and whether the COMMIT was confirmed as the server's settings demand."""
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._connection() as connection:
                    with (
                        hung_up_after(connection, self._timeout),
                        CommitGuard(connection) as guard,
                    ):
                        cursor = await connection.execute(
                            statement.encode(), arguments, prepare=False
                        )
                        rows = await cursor.fetchall()
                    return rows, not guard.commit_was_only_local
            except psycopg.Error as error:
                if error.sqlstate == STALE_LEASE:
                    raise StaleLeaseError(str(error).partition("\n")[0]) from None
                if error.sqlstate not in RETRIED or attempt >= _ATTEMPTS:
                    raise
            await asyncio.sleep(0.01 * 2**attempt)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[AsyncConnection]:
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._slots.get()
        except TimeoutError:
            text = f"no connection to the database came free in {self._timeout:g} s"
            raise psycopg.OperationalError(text) from None
        try:
            if connection is None or connection.closed or connection.broken:
                connection = None
                connection = await self.connect()
            self._busy.add(connection)
            yield connection
        except psycopg.errors.ReadOnlySqlTransaction:
            # A former primary: the next connection looks for the host that takes writes.
            if connection is not None:
                await connection.close()
            raise
        finally:
            if connection is not None:
                self._busy.discard(connection)
            lost = connection is not None and connection.closed
            self._slots.put_nowait(None if lost else connection)
            if lost:
                # What ended this one has most likely ended the idle ones too.
                await self._close_idle()

    async def _close_idle(self) -> None:
        idle = [self._slots.get_nowait() for _ in range(self._slots.qsize())]
        for connection in idle:
            self._slots.put_nowait(None)
            if connection is not None:
                await connection.close()

    async def connect(self) -> AsyncConnection:
        """A new connection in autocommit mode."""
        connection = await psycopg.AsyncConnection.connect(
            "", autocommit=True, **cast("dict[str, Any]", self._parameters)
        )
        self._connected()
        return connection


def _addresses(hosts: object) -> tuple[Address, ...]:
    """The readable hosts of a pool; one bad entry does not hide the others."""
    found: list[Address] = []
    for entry in cast("list[object]", hosts) if isinstance(hosts, list) else []:
        if not isinstance(entry, dict):
            continue
        fields = cast("dict[str, object]", entry)
        name, port = fields.get("address"), fields.get("port", VDSM_PORT)
        if isinstance(name, str) and isinstance(port, int):
            found.append(Address(name, port))
    return tuple(found)
