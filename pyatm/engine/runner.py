"""Runs endActions: claims what is due, keeps it, and finishes it together with its effect.

A handler has two parts. `prepare` may make remote calls and runs outside any transaction, at least
once. `apply` writes the engine's own rows and runs in the transaction of `finish_end_action`, so
its effect happens exactly once, whatever is killed.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, Protocol

import psycopg
import structlog

from pyatm.database.session import aconnect
from pyatm.engine.client import Connection, Engine, Probe
from pyatm.engine.errors import StaleEpoch, StaleToken
from pyatm.engine.model import EndAction

CHANNEL: Final = "atm_ready"
_LONGEST_RETRY: Final = 60.0


@dataclass(frozen=True, slots=True)
class Finish:
    """How an endAction ends.

    Attributes:
        result: `done`, `retry`, `postpone` (nothing was tried: does not count as an attempt) or
            `give_up`.
        retry_after: pause before the next attempt, with `retry` and `postpone`; None takes the
            runner's.
        disposition: `clear`, or `revert`: VDSM rolls back what succeeded.
        message: kept with the command.
    """

    result: Literal["done", "retry", "postpone", "give_up"] = "done"
    retry_after: timedelta | None = None
    disposition: Literal["clear", "revert"] = "clear"
    message: str | None = None


class Handler(Protocol):
    """What an engine does at the end of its commands."""

    async def prepare(self, end_action: EndAction) -> Any:
        """Remote calls of this endAction, if any; may happen more than once."""
        ...

    async def apply(self, connection: Connection, end_action: EndAction, prepared: Any) -> Finish:
        """The effect, in the transaction that finishes the endAction."""
        ...


Observer = Callable[[str, EndAction, str], Awaitable[None]]
"""`await observe("claimed" | "finished" | "retried", end_action, detail)`.

The detail is the outcome of the command, the root's state after the finishing transaction, or why
the endAction will be offered again: `retry`, `postpone` or an error.
"""


async def _silent(event: str, end_action: EndAction, detail: str) -> None:
    del event, end_action, detail


class EndActionRunner:
    """Claims and runs the endActions of one engine.

    Args:
        listen_dsn: direct connection string for LISTEN, None: only the re-scan finds work.
        batch: endActions claimed at once.
        lease: seconds; extended while a handler runs.
        rescan: seconds between two looks without any notification.
        retry_first: seconds before the second attempt; doubles up to a minute.
        observe: told what happens to each endAction.
        probe: told the steps inside an endAction, for crash tests.
    """

    def __init__(
        self,
        engine: Engine,
        handler: Handler,
        *,
        listen_dsn: str | None = None,
        batch: int = 10,
        lease: float = 30.0,
        rescan: float = 5.0,
        retry_first: float = 1.0,
        observe: Observer = _silent,
        probe: Probe | None = None,
    ) -> None:
        self._engine, self._handler = engine, handler
        self._dsn, self._batch = listen_dsn, batch
        self._lease = timedelta(seconds=lease)
        self._rescan, self._retry_first = rescan, retry_first
        self._observe, self._probe = observe, probe
        self._wake = asyncio.Event()
        self._log = structlog.get_logger(__name__)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; what has been claimed is finished first.

        Raises:
            StaleEpoch: the engine has been started again elsewhere.
        """
        listener = asyncio.create_task(self._listen()) if self._dsn is not None else None
        stopper = asyncio.create_task(self._wake_at(stop))
        try:
            while not stop.is_set():
                # Cleared before the query: a hint during the query leads to another look.
                self._wake.clear()
                try:
                    found = await self.run_once()
                except psycopg.OperationalError as error:
                    self._log.warning("the database cannot be reached", error=str(error).strip())
                    found = 0
                if found == 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), self._rescan)
        finally:
            for task in (listener, stopper):
                if task is not None:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def run_once(self) -> int:
        """Claim one batch and run it; returns how many endActions it had."""
        claimed = await self._engine.claim_end_actions(self._batch, self._lease)
        async with asyncio.TaskGroup() as group:
            for end_action in claimed:
                group.create_task(self._keep_and_run(end_action))
        return len(claimed)

    async def _keep_and_run(self, end_action: EndAction) -> None:
        keeper = asyncio.create_task(self._keep(end_action))
        try:
            await self._run_one(end_action)
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self, end_action: EndAction) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            try:
                await self._engine.extend_end_action(end_action.token, self._lease)
            except StaleToken:
                return  # the finishing transaction learns it too
            except psycopg.OperationalError as error:
                self._log.warning("lease not extended", error=str(error).strip())

    async def _run_one(self, end_action: EndAction) -> None:
        log = self._log.bind(command_id=str(end_action.root_command_id))
        await self._observe("claimed", end_action, end_action.outcome)
        try:
            prepared = await self._handler.prepare(end_action)
            await self._at("prepared")
            finish, state = await self._finish(end_action, prepared)
        except (StaleToken, StaleEpoch) as stale:
            log.warning("endAction dropped", reason=str(stale))
            return
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            log.warning("endAction failed", error=text, attempt=end_action.attempt)
            await self._retry(end_action, text)
            await self._observe("retried", end_action, text)
            return
        if state == "ready":
            await self._observe("retried", end_action, finish.result)
        else:
            await self._observe("finished", end_action, state)

    async def _finish(self, end_action: EndAction, prepared: Any) -> tuple[Finish, str]:
        """The finishing transaction; what the handler said, and the root's state after it."""
        async with self._engine.transaction("finish_end_action") as transaction:
            connection = transaction.connection
            finish = await self._handler.apply(connection, end_action, prepared)
            await self._at("applied")
            pause = finish.retry_after
            if finish.result in ("retry", "postpone"):
                pause = pause or self._pause(end_action)
            state = await self._engine.finish_end_action(
                end_action.token,
                finish.result,
                retry_after=pause,
                disposition=finish.disposition,
                message=finish.message,
                connection=connection,
            )
        if pause is not None:
            self._look_again_after(pause)
        return finish, state

    def _look_again_after(self, pause: timedelta) -> None:
        """Nobody notifies us when a pause is over, and the re-scan may be long."""
        asyncio.get_running_loop().call_later(pause.total_seconds() + 0.01, self._wake.set)

    async def _retry(self, end_action: EndAction, reason: str) -> None:
        pause = self._pause(end_action)
        try:
            await self._engine.finish_end_action(
                end_action.token, "retry", retry_after=pause, message=reason[:1000]
            )
            self._look_again_after(pause)
        except StaleToken as stale:
            # Our transaction did commit although its answer was lost, or another has it.
            self._log.info("nothing to retry", reason=str(stale))
        except psycopg.OperationalError as error:
            # The lease runs out and the command is offered again.
            self._log.warning("retry not recorded", error=str(error).strip())

    def _pause(self, end_action: EndAction) -> timedelta:
        longest = min(_LONGEST_RETRY, self._retry_first * 2.0 ** min(end_action.attempt - 1, 30))
        return timedelta(seconds=random.uniform(longest / 2, longest))  # noqa: S311 (spreads load)

    async def _listen(self) -> None:
        pause = 0.2
        while True:
            try:
                connection = await aconnect(
                    self._dsn or "", application_name="pyatm engine (listen)", autocommit=True
                )
                async with connection:
                    await connection.execute("LISTEN " + CHANNEL)
                    self._wake.set()  # what came before LISTEN is found by looking
                    pause = 0.2
                    async for _ in connection.notifies():
                        self._wake.set()
            except psycopg.OperationalError as error:
                self._log.warning("not listening, re-scan only", error=str(error).strip())
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 (spreads load)
            pause = min(2 * pause, 10.0)

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _at(self, point: str) -> None:
        if self._probe is not None:
            await self._probe(point)
