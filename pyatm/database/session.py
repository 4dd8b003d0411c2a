"""Connections: how every process of pyatm connects, and what a COMMIT was worth."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg.errors import Diagnostic
from psycopg.rows import TupleRow

from pyatm.database.dsn import parse

DEFAULTS: Final = {
    "connect_timeout": "10",
    # A host that vanished without a word is noticed after 30 + 3 x 10 s when idle,
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    # and after this many milliseconds when data is under way.
    "tcp_user_timeout": "30000",
}
"""libpq parameters used unless the connection string has its own."""


def parameters(dsn: str, application_name: str) -> dict[str, str]:
    """What to connect with: the connection string, completed.

    Args:
        dsn: a libpq connection string; what it says wins.
        application_name: shown in `pg_stat_activity`.
    """
    return {**DEFAULTS, "application_name": application_name, **parse(dsn)}


def connect(
    dsn: str, *, application_name: str, autocommit: bool = False
) -> psycopg.Connection[TupleRow]:
    """A new connection.

    Args:
        dsn: a libpq connection string.
        application_name: shown in `pg_stat_activity`.
        autocommit: each statement is a transaction of its own.

    Raises:
        psycopg.OperationalError: the server cannot be reached or refuses.
    """
    return psycopg.connect("", autocommit=autocommit, **_by_name(parameters(dsn, application_name)))


async def aconnect(
    dsn: str, *, application_name: str, autocommit: bool = False
) -> psycopg.AsyncConnection[TupleRow]:
    """As `connect`, for asyncio."""
    return await psycopg.AsyncConnection.connect(
        "", autocommit=autocommit, **_by_name(parameters(dsn, application_name))
    )


def _by_name(values: dict[str, str]) -> dict[str, Any]:
    # psycopg types its own arguments (row_factory, ...) and takes libpq's as anything.
    return dict(values)


def hang_up(connection: psycopg.AsyncConnection[Any]) -> None:
    """End a connection whose server no longer answers, so that what waits for it fails at once.

    Cancelling such a wait is not enough: psycopg then asks the server to cancel the statement and
    goes on waiting for the answer. A shut down socket is readable, and libpq sees its end.
    """
    if connection.closed:
        return
    with suppress(OSError):
        # Not ours to close: libpq does that.
        ours = socket.socket(fileno=connection.fileno())
        try:
            ours.shutdown(socket.SHUT_RDWR)
        finally:
            ours.detach()


@contextmanager
def hung_up_after(connection: psycopg.AsyncConnection[Any], seconds: float) -> Generator[None]:
    """Let no wait for the server in this block last longer; it raises OperationalError then."""
    timer = asyncio.get_running_loop().call_later(seconds, hang_up, connection)
    try:
        yield
    finally:
        timer.cancel()


class CommitGuard:
    """Knows whether the last COMMIT of a connection was confirmed by its synchronous standbys.

    With synchronous replication a cancelled or terminated wait lets COMMIT return with a WARNING
    only: the transaction exists here and may be gone after a failover. Whoever announces a task by
    a commit must not call VDSM then.

        guard = CommitGuard(connection)
        guard.reset()
        connection.commit()
        if guard.commit_was_only_local: ...

    It is also a context manager that removes its handler from the connection at the end.

    Args:
        connection: a sync or async connection; the guard adds a notice handler to it.
    """

    def __init__(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._only_local = False
        connection.add_notice_handler(self._notice)

    @property
    def commit_was_only_local(self) -> bool:
        """Whether a COMMIT since the last `reset` returned without its standbys' word."""
        return self._only_local

    def reset(self) -> None:
        """Forget what was seen; call it before the COMMIT in question."""
        self._only_local = False

    def close(self) -> None:
        """Remove the handler from the connection."""
        self._connection.remove_notice_handler(self._notice)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _notice(self, diagnostic: Diagnostic) -> None:
        if is_only_local(diagnostic):
            self._only_local = True


def is_only_local(diagnostic: Diagnostic) -> bool:
    """Whether a notice says that a commit did not wait for its synchronous standbys.

    The text is translated into the server's `lc_messages`; the function in PostgreSQL's source that
    raises it is not, and no other notice comes from there. SQLSTATE is 01000 (warning) after a
    cancel request and 57P01 (admin_shutdown) after a termination.
    """
    if diagnostic.sqlstate not in ("01000", "57P01"):
        return False
    if diagnostic.source_function is not None:
        return diagnostic.source_function == "SyncRepWaitForLSN"
    # A proxy may drop the source fields; then only the English text is left.
    return "wait for synchronous replication" in (diagnostic.message_primary or "")
