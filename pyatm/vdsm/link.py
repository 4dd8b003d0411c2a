"""Keeps one connection to a host: connects, tells how it ended, and connects again."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from pyatm.vdsm.connection import Address, Connection, ConnectionSettings
from pyatm.vdsm.errors import ConnectError, VdsmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyatm.vdsm.stomp import Frame
    from pyatm.vdsm.tls import TlsContext


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts to connect, in seconds.

    The n-th pause is drawn evenly from ``first`` to ``first * 2 ** n``, at most ``longest``, so
    that many clients of a restarted VDSM do not come all at once.
    """

    first: float = 0.1
    longest: float = 30.0

    def pause(self, failures: int) -> float:
        """The pause after ``failures`` failures in a row."""
        ceiling = min(self.longest, self.first * 2 ** min(failures, 30))
        return random.uniform(min(self.first, ceiling), ceiling)  # noqa: S311 (spreads load only)


class Link:
    """One connection at a time to one host, made again whenever it ends.

    :param on_frame: called for each frame of the host.
    """

    def __init__(
        self,
        address: Address,
        *,
        tls: TlsContext | None,
        settings: ConnectionSettings,
        backoff: Backoff,
        reply_to: str,
        on_frame: Callable[[Frame], None],
    ) -> None:
        self._address, self._tls, self._settings = address, tls, settings
        self._backoff, self._reply_to, self._on_frame = backoff, reply_to, on_frame
        self._log = structlog.get_logger(__name__).bind(host=str(address))
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._closed = False
        self._outcome: asyncio.Future[Connection] | None = None  # of this or the next attempt
        self.connection: Connection | None = None
        self.last_error: VdsmError | None = None
        self.connects = 0
        self.failures = 0  # attempts in a row without success
        self.next_attempt_at = 0.0  # loop time

    def start(self) -> None:
        """Begin to connect; returns at once."""
        if self._task is None and not self._closed:
            self._renew_outcome()
            self._task = asyncio.create_task(self._keep(), name=f"vdsm link {self._address}")

    async def get(self, deadline: float) -> Connection:
        """The connection, or the outcome of the running or next attempt.

        Raises :class:`ConnectError` with the reason when that attempt fails, when it is not due
        before ``deadline`` (loop time), or when it takes longer.
        """
        self.start()
        loop = asyncio.get_running_loop()
        while not self._closed:
            connection, outcome = self.connection, self._outcome
            if connection is not None and connection.usable:
                return connection
            if outcome is None or outcome.done():
                await asyncio.sleep(0)  # lost a moment ago; the link has not taken it in yet
                continue
            if self.next_attempt_at < deadline:
                await asyncio.wait((outcome,), timeout=max(deadline - loop.time(), 0))
            if not outcome.done():
                last = f": {self.last_error}" if self.last_error else ""
                raise ConnectError(f"{self._address}: not connected before the deadline{last}")
            if not outcome.cancelled() and (error := outcome.exception()) is not None:
                raise type(error)(str(error)) from error  # one for each who waits
        raise ConnectError(f"{self._address}: this client is closed")

    async def connect(self, timeout: float) -> None:
        """Connect now, without waiting for the pause to end; no effect when connected.

        Raises :class:`ConnectError`. An attempt that is under way is not doubled but awaited.
        """
        self.start()
        # A connection whose end has been noticed, but not yet by _keep, is as good as none.
        if self.connection is None or not self.connection.usable:
            self.next_attempt_at = 0.0
            self._hurry.set()
        await self.get(asyncio.get_running_loop().time() + timeout)

    def proved_alive(self) -> None:
        """VDSM has answered a request: the next loss starts with short pauses again."""
        self.failures = 0

    async def close(self) -> None:
        """End the connection and every attempt."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._outcome is not None:
            self._outcome.cancel()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._hurry.clear()
            try:
                await self._once()
            except ConnectError as error:
                self._hurry.clear()  # who asked meanwhile gets the outcome of this attempt
                self._attempt_failed(error)
            except Exception as error:
                # A defect of ours must not silence this host for ever.
                self._log.exception("defect in the VDSM client")
                self._attempt_failed(ConnectError(f"{self._address}: {error!r}"))
            if self._hurry.is_set():  # asked for while the last one ended
                continue
            pause = self._backoff.pause(self.failures)
            self.next_attempt_at = loop.time() + pause
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()

    async def _once(self) -> None:
        connection = await Connection.open(
            self._address, tls=self._tls, settings=self._settings, reply_to=self._reply_to
        )
        self.connects += 1
        self.connection = connection
        self._log.info("connected to VDSM", connects=self.connects)
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(connection)
        try:
            self.last_error = await connection.run(self._on_frame)
            self._log.warning("connection to VDSM lost", error=str(self.last_error))
        finally:
            self.connection = None
            self._renew_outcome()
            # Counts as a failure until VDSM has answered something: a host that accepts and
            # drops connections must not be called without pause.
            self.failures += 1

    def _attempt_failed(self, error: ConnectError) -> None:
        if self.failures == 0 or type(error) is not type(self.last_error):
            self._log.warning("no connection to VDSM", error=str(error))
        self.failures += 1
        self.last_error = error
        outcome = self._outcome
        self._renew_outcome()
        if outcome is not None and not outcome.done():
            outcome.set_exception(error)
            outcome.exception()  # nobody may have been waiting, and that is no defect

    def _renew_outcome(self) -> None:
        self._outcome = asyncio.get_running_loop().create_future()
