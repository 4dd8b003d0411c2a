"""The engine's client of the functions of schema `atm`, for asyncio.

Each method takes `connection`: given, the call is part of the caller's transaction and is neither
repeated nor committed here; left out, it is a transaction of its own, repeated after a
serialization failure or deadlock and, on a pool, after a lost connection. All functions may be
repeated: the same call again changes nothing.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from pyatm.database.session import CommitGuard
from pyatm.engine import calls
from pyatm.engine.calls import Call, Row
from pyatm.engine.errors import RETRYABLE, Holder, is_connection_loss, named
from pyatm.engine.model import (
    Announcement,
    CommandPlan,
    EndAction,
    Entity,
    EntityTask,
    PlannedTask,
    TaskState,
)

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]
Source = Connection | AsyncConnectionPool[Any]
Probe = Callable[[str], Awaitable[None]]
"""Told each step (`before-bind_task`, `commit-bind_task`, `after-bind_task`); for crash tests."""

ATTEMPTS: Final = 20
"""How often an own transaction is tried at most."""


class Transaction:
    """An open transaction of the engine, and afterwards what its COMMIT was worth.

    Attributes:
        connection: to be passed to the engine's methods and used for the engine's own rows.
        since: `time.monotonic()` when it began.
        only_local: as in `Announcement`; known once the transaction is over.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.since = time.monotonic()
        self.only_local = False

    @property
    def announcement(self) -> Announcement[None]:
        """For tasks announced in this transaction (`submit` in the plan)."""
        return Announcement(None, self.since, self.only_local)


class Engine:
    """One incarnation of an engine.

    Args:
        source: a connection (its calls then follow one after the other) or a pool. A connection
            that is in a transaction is joined.
        epoch: what `start_engine` returned; use `Engine.start` unless it is known already.
        name: the engine's name.
        probe: told each step, see `Probe`.
    """

    def __init__(
        self, source: Source, epoch: int, *, name: str = "", probe: Probe | None = None
    ) -> None:
        self.epoch, self.name = epoch, name
        self._source, self._probe = source, probe
        self._turn = asyncio.Lock()
        self._log = structlog.get_logger(__name__).bind(engine=name, epoch=epoch)

    @classmethod
    async def start(cls, source: Source, name: str, *, probe: Probe | None = None) -> "Engine":
        """A new incarnation: fences the older ones of this name and recovers their commands."""
        starter = cls(source, 0, name=name, probe=probe)
        return cls(source, await starter._run(calls.start_engine(name)), name=name, probe=probe)

    @asynccontextmanager
    async def transaction(self, label: str = "transaction") -> AsyncGenerator[Transaction]:
        """A transaction for the engine's own rows together with calls of this client.

        It is not repeated: catch `psycopg.errors.SerializationFailure` around it if need be.
        """
        since = time.monotonic()
        async with self._session() as connection:
            transaction = Transaction(connection)
            transaction.since = since
            with CommitGuard(connection) as guard:
                async with connection.transaction():
                    yield transaction
                    await self._at(f"commit-{label}")
                transaction.only_local = guard.commit_was_only_local
        await self._at(f"after-{label}")

    async def plan_command(
        self, plan: CommandPlan, *, connection: Connection | None = None
    ) -> tuple[PlannedTask, ...]:
        """Plan the whole tree; the same plan again returns the stored ids and states.

        Raises:
            EntityBusy: another command holds an entity in a conflicting way.
            StaleEpoch: the engine has been started again.
            OtherPlan, InHistory: the command id was used before.
        """
        return await self._run(calls.plan_command(self.epoch, plan), connection)

    async def add_tasks(
        self, command_id: UUID, addition: CommandPlan, *, connection: Connection | None = None
    ) -> tuple[PlannedTask, ...]:
        """Add the tasks and children of `addition` below a command of an open root."""
        return await self._run(calls.add_tasks(self.epoch, command_id, addition), connection)

    async def seal_command(self, command_id: UUID, *, connection: Connection | None = None) -> str:
        """No more tasks will come; returns the root's state."""
        return await self._run(calls.seal_command(self.epoch, command_id), connection)

    async def abort_command(
        self,
        command_id: UUID,
        reason: str,
        *,
        stop_running: bool = False,
        connection: Connection | None = None,
    ) -> str:
        """Seal, end the planned tasks and fail the command; returns the root's state."""
        call = calls.abort_command(self.epoch, command_id, reason, stop_running)
        return await self._run(call, connection)

    async def submit_tasks(
        self, task_ids: Sequence[UUID], *, connection: Connection | None = None
    ) -> Announcement[tuple[TaskState, ...]]:
        """Announce tasks; only those returned as `submitting` may be sent, and only once."""
        return await self._announce(calls.submit_tasks(self.epoch, task_ids), connection)

    async def bind_task(
        self,
        task_id: UUID,
        vdsm_task_id: UUID,
        *,
        submit_next: Sequence[UUID] = (),
        connection: Connection | None = None,
    ) -> Announcement[tuple[TaskState, ...]]:
        """Note VDSM's id of a task, and announce the next ones in the same commit."""
        call = calls.bind_task(self.epoch, task_id, vdsm_task_id, submit_next)
        return await self._announce(call, connection)

    async def fail_task(
        self, task_id: UUID, reason: str, *, connection: Connection | None = None
    ) -> None:
        """VDSM has certainly not started the task and will not."""
        await self._run(calls.fail_task(self.epoch, task_id, reason), connection)

    async def doubt_task(
        self, task_id: UUID, reason: str, *, connection: Connection | None = None
    ) -> None:
        """Nobody knows whether VDSM has the task; a late answer may still be bound."""
        await self._run(calls.doubt_task(self.epoch, task_id, reason), connection)

    async def claim_end_actions(
        self,
        max_commands: int = 10,
        lease: timedelta = timedelta(seconds=30),
        *,
        connection: Connection | None = None,
    ) -> tuple[EndAction, ...]:
        """Take endActions of this engine's name that are due."""
        return await self._run(calls.claim_end_actions(self.epoch, max_commands, lease), connection)

    async def extend_end_action(
        self, token: int, lease: timedelta, *, connection: Connection | None = None
    ) -> None:
        """The endAction needs longer. Raises StaleToken when it is not ours any more."""
        await self._run(calls.extend_end_action(token, lease), connection)

    async def finish_end_action(
        self,
        token: int,
        result: str = "done",
        *,
        retry_after: timedelta | None = None,
        disposition: str = "clear",
        message: str | None = None,
        connection: Connection | None = None,
    ) -> str:
        """End an endAction; returns the root's state.

        Args:
            result: `done`, `retry`, `postpone` (as `retry`, but no attempt is used up) or
                `give_up`.
            retry_after: with `retry` and `postpone`, the pause until it is offered again.
            disposition: `clear`, or `revert` (VDSM rolls succeeded tasks back, then clears).
            connection: of the transaction that has the effect, which is then exactly-once.

        Raises:
            StaleToken: finished, or claimed again by another; the transaction must not commit.
        """
        call = calls.finish_end_action(token, result, retry_after, disposition, message)
        return await self._run(call, connection)

    async def set_pool(
        self,
        storage_pool_id: UUID,
        pool_name: str,
        hosts: Sequence[tuple[str, int]],
        *,
        connection: Connection | None = None,
    ) -> None:
        """Set a storage pool and its hosts (address, port)."""
        await self._run(calls.set_pool(storage_pool_id, pool_name, hosts), connection)

    async def entity_tasks(
        self, entity_type: str, entity_id: UUID, *, connection: Connection | None = None
    ) -> tuple[EntityTask, ...]:
        """What runs on an entity."""
        return await self._run(calls.entity_tasks(entity_type, entity_id), connection)

    async def busy_entities(
        self, entities: Iterable[Entity], *, connection: Connection | None = None
    ) -> tuple[Row, ...]:
        """Those of the entities that anything holds, with counts."""
        return await self._run(calls.busy_entities(entities), connection)

    async def blockers(
        self, entities: Iterable[Entity], *, connection: Connection | None = None
    ) -> tuple[Holder, ...]:
        """Who would refuse these entities in these accesses."""
        return await self._run(calls.blockers(entities), connection)

    async def can_compensate(
        self, entity_type: str, entity_id: UUID, *, connection: Connection | None = None
    ) -> bool:
        """VDSM does not work on the entity and will not."""
        return await self._run(calls.can_compensate(entity_type, entity_id), connection)

    async def _run(self, call: Call[T], connection: Connection | None = None) -> T:
        return (await self._announce(call, connection)).value

    async def _announce(self, call: Call[T], connection: Connection | None) -> Announcement[T]:
        since = time.monotonic()
        if connection is not None:
            return Announcement(await _execute(connection, call), since)
        await self._at(f"before-{call.name}")
        value, only_local = await self._own_transaction(call)
        await self._at(f"after-{call.name}")
        return Announcement(value, since, only_local)

    async def _own_transaction(self, call: Call[T]) -> tuple[T, bool]:
        only_local = False
        for attempt in range(1, ATTEMPTS + 1):
            joined = False
            try:
                async with self._session() as connection:
                    joined = connection.info.transaction_status != TransactionStatus.IDLE
                    with CommitGuard(connection) as guard:
                        if not joined and self._probe is None and plain(connection):
                            value = await _execute_alone(connection, call)
                        else:
                            async with connection.transaction():
                                value = await _execute(connection, call)
                                await self._at(f"commit-{call.name}")
                        # A commit that was repeated after its answer was lost is doubtful too:
                        # the first one may have been the one that did not wait.
                        return value, only_local or guard.commit_was_only_local
            except psycopg.Error as error:
                lost = is_connection_loss(error)
                only_local = only_local or lost
                again = error.sqlstate in RETRYABLE or (
                    lost and isinstance(self._source, AsyncConnectionPool)
                )
                if joined or not again or attempt == ATTEMPTS:
                    raise
                self._log.info("transaction repeated", call=call.name, reason=str(error).strip())
            pause = min(0.01 * 2**attempt, 2.0)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 (spreads load only)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[Connection]:
        if isinstance(self._source, AsyncConnectionPool):
            async with self._source.connection() as connection:
                yield connection
        else:
            async with self._turn:
                yield self._source

    async def _at(self, point: str) -> None:
        if self._probe is not None:
            await self._probe(point)


def plain(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> bool:
    """Whether a transaction on this connection begins with nothing but BEGIN."""
    options = (connection.isolation_level, connection.read_only, connection.deferrable)
    return options == (None, None, None)


async def _execute_alone(connection: Connection, call: Call[T]) -> T:
    """A statement that is its own transaction: one round trip in place of three."""
    if connection.autocommit:
        return await _execute(connection, call)
    # A property of our end only, nothing is sent.
    await connection.set_autocommit(True)
    try:
        return await _execute(connection, call)
    finally:
        if connection.info.transaction_status == TransactionStatus.IDLE:
            await connection.set_autocommit(False)


async def _execute(connection: Connection, call: Call[T]) -> T:
    try:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(call.sql, call.arguments)
            return call.read(await cursor.fetchall())
    except psycopg.Error as error:
        if (known := named(error)) is not None:
            raise known from error
        raise
