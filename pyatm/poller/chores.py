"""The to-do list of a pool: stop, revert and clear at VDSM, and telling the database about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import psycopg
import structlog

from pyatm.poller.database import ActionResult, StaleLeaseError, ToDo
from pyatm.vdsm import CallError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from pyatm.poller.database import PollerDatabase
    from pyatm.vdsm import VdsmClient

PER_POOL: Final = 4
"""To-dos of one pool at VDSM at the same time; VDSM has 8 workers for all its clients."""
_GATHER: Final = 0.02  # seconds in which further answers join the same report
_LONGEST_PAUSE: Final = 10.0


class Chores:
    """Does to-dos in the background, so that a slow rollback does not hold up the polling.

    A to-do that is under way is not started again. One whose answer did not come is forgotten: the
    database asks again with the next poll, and all three verbs may be repeated.

    :param pool_id: the storage pool.
    :param slots: shared by all pools, bounds the requests in flight.
    :param may_act: whether the pool's lease is still ours; asked right before each request.
    :param observe: told the method and outcome of every request, for the metrics.
    :param progress: called when the database has taken answers.
    """

    def __init__(
        self,
        pool_id: UUID,
        database: PollerDatabase,
        slots: asyncio.Semaphore,
        *,
        may_act: Callable[[], bool],
        observe: Callable[[str, str], None],
        progress: Callable[[], None],
    ) -> None:
        self._pool_id, self._database, self._slots = pool_id, database, slots
        self._may_act, self._observe, self._progress = may_act, observe, progress
        self._own_slots = asyncio.Semaphore(PER_POOL)
        self._under_way: dict[tuple[UUID, str], asyncio.Task[None]] = {}
        self._results: list[ActionResult] = []
        self._some = asyncio.Event()
        self._log = structlog.get_logger(__name__).bind(storage_pool_id=str(pool_id))

    @property
    def under_way(self) -> int:
        """To-dos that were started and are not over."""
        return len(self._under_way)

    async def start(self, to_do: tuple[ToDo, ...], client: VdsmClient) -> None:
        """Start what is not under way yet, at the host that ``client`` talks to."""
        new = [each for each in to_do if (each.vdsm_task_id, each.action) not in self._under_way]
        roots = await self._root_commands(new)
        for each in new:
            log = self._log.bind(
                host=str(client.address),
                root_command_id=roots.get(each.task_id) if each.task_id else None,
                task_id=None if each.task_id is None else str(each.task_id),
                vdsm_task_id=str(each.vdsm_task_id),
                action=each.action,
            )
            key = (each.vdsm_task_id, each.action)
            self._under_way[key] = asyncio.create_task(self._do(each, client, log))

    async def _root_commands(self, to_do: list[ToDo]) -> dict[UUID, str]:
        """For the log alone: without them everything is done all the same."""
        task_ids = [each.task_id for each in to_do if each.task_id is not None]
        try:
            found = await self._database.root_commands(task_ids) if task_ids else {}
        except psycopg.Error as error:
            self._log.warning("root commands not read", error=str(error).strip())
            return {}
        return {task_id: str(root) for task_id, root in found.items()}

    async def report(self, token: Callable[[], int]) -> None:
        """Report answers in bulk for ever; raises ``StaleLeaseError``.

        :param token: the lease's token at the moment.
        """
        pause = 0.5
        while True:
            await self._some.wait()
            await asyncio.sleep(_GATHER)
            self._some.clear()
            results, self._results = self._results, []
            used = token()
            try:
                await self._database.report_actions(used, self._pool_id, results)
            except StaleLeaseError:
                if used == token():
                    raise
            except psycopg.OperationalError as error:
                self._log.warning("answers not reported yet", error=str(error).strip())
                self._results = results + self._results
                self._some.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except psycopg.Error as error:
                # The next polls will ask for the same things again.
                self._log.error("answers refused by the database", error=str(error).strip())
                await asyncio.sleep(pause)
            pause = 0.5
            self._progress()

    async def close(self) -> None:
        """Stop waiting for answers."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _do(self, to_do: ToDo, client: VdsmClient, log: structlog.stdlib.BoundLogger) -> None:
        try:
            async with self._own_slots, self._slots:
                if self._may_act():
                    result = await self._ask(to_do, client, log)
                    if result is not None:
                        self._results.append(result)
                        self._some.set()
        finally:
            del self._under_way[to_do.vdsm_task_id, to_do.action]

    async def _ask(
        self, to_do: ToDo, client: VdsmClient, log: structlog.stdlib.BoundLogger
    ) -> ActionResult | None:
        verbs = {
            "stop": client.task.stop,
            "revert": client.task.revert,
            "clear": client.task.clear,
        }
        verb = verbs.get(to_do.action)
        if verb is None:
            log.error("the database asks for something unknown; is this program too old?")
            return None
        try:
            await verb(str(to_do.vdsm_task_id))
        except Refused as error:
            self._observe(f"Task.{to_do.action}", "Refused")
            log.info("VDSM refuses", code=error.code, message=error.message)
            return ActionResult(to_do.vdsm_task_id, to_do.action, False, error.code, error.message)
        except CallError as error:
            self._observe(f"Task.{to_do.action}", type(error).__name__)
            log.warning("no answer from VDSM", error=str(error))
            return None
        self._observe(f"Task.{to_do.action}", "answered")
        log.info("done at VDSM")
        return ActionResult(to_do.vdsm_task_id, to_do.action, True, None, None)
