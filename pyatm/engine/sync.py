"""The engine's client for threads: the same calls as `pyatm.engine.client`, without asyncio.

Pass a connection per thread, or a pool. Each method takes `connection` as the async client's do:
given, the call is part of the caller's transaction.
"""

import random
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from pyatm.database.session import CommitGuard
from pyatm.engine import calls
from pyatm.engine.calls import Call, Row
from pyatm.engine.client import ATTEMPTS, plain
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
SyncConnection = psycopg.Connection[Any]


class SyncEngine:
    """One incarnation of an engine; methods, arguments and errors are those of `Engine`.

    Args:
        source: a connection, used by one thread at a time, or a pool.
        epoch: what `start_engine` returned; use `SyncEngine.start` unless it is known already.
    """

    def __init__(
        self, source: SyncConnection | ConnectionPool[Any], epoch: int, *, name: str = ""
    ) -> None:
        self.epoch, self.name, self._source = epoch, name, source

    @classmethod
    def start(cls, source: SyncConnection | ConnectionPool[Any], name: str) -> "SyncEngine":
        """A new incarnation: fences the older ones of this name and recovers their commands."""
        return cls(source, cls(source, 0)._run(calls.start_engine(name)), name=name)

    def plan_command(
        self, plan: CommandPlan, *, connection: SyncConnection | None = None
    ) -> tuple[PlannedTask, ...]:
        return self._run(calls.plan_command(self.epoch, plan), connection)

    def add_tasks(
        self, command_id: UUID, addition: CommandPlan, *, connection: SyncConnection | None = None
    ) -> tuple[PlannedTask, ...]:
        return self._run(calls.add_tasks(self.epoch, command_id, addition), connection)

    def seal_command(self, command_id: UUID, *, connection: SyncConnection | None = None) -> str:
        return self._run(calls.seal_command(self.epoch, command_id), connection)

    def abort_command(
        self,
        command_id: UUID,
        reason: str,
        *,
        stop_running: bool = False,
        connection: SyncConnection | None = None,
    ) -> str:
        call = calls.abort_command(self.epoch, command_id, reason, stop_running)
        return self._run(call, connection)

    def submit_tasks(
        self, task_ids: Sequence[UUID], *, connection: SyncConnection | None = None
    ) -> Announcement[tuple[TaskState, ...]]:
        return self._announce(calls.submit_tasks(self.epoch, task_ids), connection)

    def bind_task(
        self,
        task_id: UUID,
        vdsm_task_id: UUID,
        *,
        submit_next: Sequence[UUID] = (),
        connection: SyncConnection | None = None,
    ) -> Announcement[tuple[TaskState, ...]]:
        call = calls.bind_task(self.epoch, task_id, vdsm_task_id, submit_next)
        return self._announce(call, connection)

    def fail_task(
        self, task_id: UUID, reason: str, *, connection: SyncConnection | None = None
    ) -> None:
        self._run(calls.fail_task(self.epoch, task_id, reason), connection)

    def doubt_task(
        self, task_id: UUID, reason: str, *, connection: SyncConnection | None = None
    ) -> None:
        self._run(calls.doubt_task(self.epoch, task_id, reason), connection)

    def claim_end_actions(
        self,
        max_commands: int = 10,
        lease: timedelta = timedelta(seconds=30),
        *,
        connection: SyncConnection | None = None,
    ) -> tuple[EndAction, ...]:
        return self._run(calls.claim_end_actions(self.epoch, max_commands, lease), connection)

    def extend_end_action(
        self, token: int, lease: timedelta, *, connection: SyncConnection | None = None
    ) -> None:
        self._run(calls.extend_end_action(token, lease), connection)

    def finish_end_action(
        self,
        token: int,
        result: str = "done",
        *,
        retry_after: timedelta | None = None,
        disposition: str = "clear",
        message: str | None = None,
        connection: SyncConnection | None = None,
    ) -> str:
        call = calls.finish_end_action(token, result, retry_after, disposition, message)
        return self._run(call, connection)

    def set_pool(
        self,
        storage_pool_id: UUID,
        pool_name: str,
        hosts: Sequence[tuple[str, int]],
        *,
        connection: SyncConnection | None = None,
    ) -> None:
        self._run(calls.set_pool(storage_pool_id, pool_name, hosts), connection)

    def entity_tasks(
        self, entity_type: str, entity_id: UUID, *, connection: SyncConnection | None = None
    ) -> tuple[EntityTask, ...]:
        return self._run(calls.entity_tasks(entity_type, entity_id), connection)

    def busy_entities(
        self, entities: Iterable[Entity], *, connection: SyncConnection | None = None
    ) -> tuple[Row, ...]:
        return self._run(calls.busy_entities(entities), connection)

    def blockers(
        self, entities: Iterable[Entity], *, connection: SyncConnection | None = None
    ) -> tuple[Holder, ...]:
        return self._run(calls.blockers(entities), connection)

    def can_compensate(
        self, entity_type: str, entity_id: UUID, *, connection: SyncConnection | None = None
    ) -> bool:
        return self._run(calls.can_compensate(entity_type, entity_id), connection)

    def _run(self, call: Call[T], connection: SyncConnection | None = None) -> T:
        return self._announce(call, connection).value

    def _announce(self, call: Call[T], connection: SyncConnection | None) -> Announcement[T]:
        since = time.monotonic()
        if connection is not None:
            return Announcement(_execute(connection, call), since)
        only_local = False
        for attempt in range(1, ATTEMPTS + 1):
            joined = False
            try:
                with self._session() as session:
                    joined = session.info.transaction_status != TransactionStatus.IDLE
                    with CommitGuard(session) as guard:
                        if not joined and plain(session):
                            value = _execute_alone(session, call)
                        else:
                            with session.transaction():
                                value = _execute(session, call)
                        return Announcement(value, since, only_local or guard.commit_was_only_local)
            except psycopg.Error as error:
                lost = is_connection_loss(error)
                only_local = only_local or lost  # as in the async client
                again = error.sqlstate in RETRYABLE or (
                    lost and isinstance(self._source, ConnectionPool)
                )
                if joined or not again or attempt == ATTEMPTS:
                    raise
            pause = min(0.01 * 2**attempt, 2.0)
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 (spreads load only)
        raise AssertionError("unreachable")

    @contextmanager
    def _session(self) -> Generator[SyncConnection]:
        if isinstance(self._source, ConnectionPool):
            with self._source.connection() as connection:
                yield connection
        else:
            yield self._source


def _execute_alone(connection: SyncConnection, call: Call[T]) -> T:
    """As in the async client."""
    if connection.autocommit:
        return _execute(connection, call)
    connection.autocommit = True
    try:
        return _execute(connection, call)
    finally:
        if connection.info.transaction_status == TransactionStatus.IDLE:
            connection.autocommit = False


def _execute(connection: SyncConnection, call: Call[T]) -> T:
    try:
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(call.sql, call.arguments)
            return call.read(cursor.fetchall())
    except psycopg.Error as error:
        if (known := named(error)) is not None:
            raise known from error
        raise
