"""The loop of one pool: poll, report, do what the database asks, wait."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg
import structlog

from pyatm.poller.chores import Chores
from pyatm.poller.database import StaleLeaseError
from pyatm.poller.spm import SpmFinder

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyatm.config import PollerSettings
    from pyatm.poller.database import LeasedPool, PollerDatabase
    from pyatm.poller.metrics import Metrics
    from pyatm.vdsm import Address, VdsmClient

_SLOWER: Final = 1.5
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_POLL_BUDGET: Final = 300.0  # seconds; every wait of a poll has a shorter time limit of its own


@dataclass(frozen=True, slots=True)
class Services:
    """What all loops share.

    :param settings: the settings now; a reload changes them.
    :param slots: bounds the to-dos in flight over all pools.
    :param connect: makes a client for a host.
    """

    database: PollerDatabase
    settings: Callable[[], PollerSettings]
    slots: asyncio.Semaphore
    connect: Callable[[Address], VdsmClient]
    metrics: Metrics


class PoolLoop:
    """Polls one leased pool until it is cancelled or the lease is another poller's.

    :param held_until: monotonic seconds until which the lease is certainly ours.
    """

    def __init__(self, pool: LeasedPool, held_until: float, services: Services) -> None:
        self.pool = pool
        self.lost = False
        self.progress_by = time.monotonic() + _POLL_BUDGET
        """Monotonic seconds by which this loop has moved, if it is sound."""
        self._held_until = held_until
        self._services, self._metrics = services, services.metrics
        self._finder = SpmFinder(
            str(pool.storage_pool_id), services.connect, services.metrics.request
        )
        self._finder.set_hosts(pool.hosts)
        self._chores = Chores(
            pool.storage_pool_id,
            services.database,
            services.slots,
            may_act=self._holds,
            observe=services.metrics.request,
            progress=self.hurry,
        )
        self._woken = asyncio.Event()
        self._interval = services.settings().poll_interval_min
        self._listed: str | None = None
        self._problem: str | None = ""
        self._failures = 0
        self._log = structlog.get_logger(__name__).bind(storage_pool_id=str(pool.storage_pool_id))

    @property
    def name(self) -> str:
        """The pool's id."""
        return str(self.pool.storage_pool_id)

    def update(self, pool: LeasedPool, held_until: float) -> None:
        """The lease was extended; the pool's hosts and open tasks are these now."""
        before, self.pool, self._held_until = self.pool, pool, held_until
        if pool.hosts != before.hosts:
            self._finder.set_hosts(pool.hosts)
            self.hurry()
        if pool.open_tasks != before.open_tasks:
            self.hurry()

    def hurry(self) -> None:
        """Something has changed: poll soon, and often for a while."""
        self._interval = self._services.settings().poll_interval_min
        self._woken.set()

    async def run(self) -> None:
        """Poll until cancelled or ``lost``."""
        reporter = asyncio.create_task(self._chores.report(lambda: self.pool.token))
        try:
            while not self.lost:
                pause = await self._turn()
                if reporter.done():
                    # It ends by a stale lease only.
                    self._stale(reporter.exception())
                    break
                await self._wait(pause)
        finally:
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)
            await self._chores.close()
            await self._finder.close()

    async def _turn(self) -> float:
        """One poll; returns the pause after it, in seconds."""
        self.progress_by = time.monotonic() + _POLL_BUDGET
        token = self.pool.token
        # Cleared before looking: what happens from here on wakes the next turn.
        self._woken.clear()
        try:
            pause = await self._poll(token)
        except StaleLeaseError as error:
            if token == self.pool.token:
                self._stale(error)
            else:
                self._metrics.stale.inc()
            return 0.0
        except psycopg.Error as error:
            self._say(f"database: {str(error).strip()}")
        except Exception:
            # One pool's trouble never stops the others.
            self._log.exception("poll failed")
        else:
            self._failures = 0
            return pause
        self._failures = min(self._failures + 1, 30)
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)
        return random.uniform(longest / 2, longest)  # noqa: S311 (spreads load only)

    async def _poll(self, token: int) -> float:
        database, pool = self._services.database, self.pool
        begun = time.monotonic()
        started_at = await database.clock()
        listing = await self._finder.list_tasks()
        # The report's transaction begins only now, with the list in hand.
        reported = await database.report_poll(
            token, pool.storage_pool_id, started_at, listing.spm, listing.statuses
        )
        self._metrics.polled(self.name, time.monotonic() - begun, listing.statuses is not None)
        self._say(listing.problem)
        if not reported.durable:
            self._log.warning("report not confirmed by the standbys")
        elif listing.client is not None and reported.to_do:
            await self._chores.start(reported.to_do, listing.client)
        return self._pace(listing.statuses, bool(reported.to_do))

    def _pace(self, statuses: str | None, to_do: bool) -> float:
        settings = self._services.settings()
        moved = to_do or statuses != self._listed
        self._listed = statuses
        if moved:
            self._interval = settings.poll_interval_min
        else:
            self._interval = min(self._interval * _SLOWER, settings.poll_interval_max)
        quiet = statuses == "{}" and not to_do and not self._chores.under_way
        if quiet and self.pool.open_tasks == 0:
            return max(settings.idle_interval, self._interval)
        return max(self._interval, settings.poll_interval_min)

    async def _wait(self, pause: float) -> None:
        # Not all pools at the same moment.
        pause *= random.uniform(0.9, 1.1)  # noqa: S311 (spreads load only)
        due = time.monotonic() + pause
        self.progress_by = due + _POLL_BUDGET
        least = min(pause, self._services.settings().poll_interval_min)
        # Even a wake-up leaves VDSM the shortest interval between two lists.
        await asyncio.sleep(least)
        try:
            async with asyncio.timeout(max(pause - least, 0)):
                await self._woken.wait()
        except TimeoutError:
            self._metrics.late(max(time.monotonic() - due, 0.0))

    def _holds(self) -> bool:
        return not self.lost and time.monotonic() < self._held_until

    def _stale(self, error: BaseException | None) -> None:
        self._metrics.stale.inc()
        self._log.warning("the pool is another poller's now", error=str(error))
        self.lost = True

    def _say(self, problem: str | None) -> None:
        """One line per change of state, none per quiet poll."""
        if problem == self._problem:
            return
        self._problem = problem
        if problem is None:
            self._log.info("polling")
        else:
            self._log.warning("not polled", problem=problem)
