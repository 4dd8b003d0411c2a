"""The poller: takes pools by lease, runs one loop for each, and gives them up at its end."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
from psycopg.conninfo import make_conninfo

from pyatm.database.dsn import parse
from pyatm.database.session import aconnect, hung_up_after
from pyatm.poller.database import LISTENER, PollerDatabase
from pyatm.poller.metrics import Metrics
from pyatm.poller.pool_loop import PoolLoop, Services
from pyatm.poller.service_manager import ServiceManager
from pyatm.poller.share import FairShare
from pyatm.vdsm import ClientSettings, ConnectionSettings, TlsFiles, VdsmClient

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pyatm.config import Settings, VdsmSettings
    from pyatm.poller.database import LeasedPool
    from pyatm.vdsm import Address

CHANNEL: Final = "atm_work"
_LONGEST_PAUSE: Final = 10.0
_RELEASE_TIMEOUT: Final = 3.0
_LISTEN_CHECK: Final = 30.0
_DAY: Final = 86400.0


@dataclass(slots=True)
class _Running:
    loop: PoolLoop
    task: asyncio.Task[None]


class Poller:
    """One poller process.

    :param settings: checked settings; :meth:`reload` replaces them.
    :param name: unique per process.
    :param dsn: for the calls; :param listen_dsn: for LISTEN, never through a pooler.
    :param ready: called once, after schema check, LISTEN and the first look for pools.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        dsn: str,
        listen_dsn: str,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.name, self.metrics = settings, name, Metrics()
        self._dsn, self._listen_dsn, self._ready = dsn, listen_dsn, ready
        self._manager = ServiceManager()
        self._running: dict[str, _Running] = {}
        self._work = asyncio.Event()
        self._listening = asyncio.Event()
        self._scan_by = time.monotonic() + 300.0
        self._scanned = False
        self._log = structlog.get_logger(__name__).bind(poller=name)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then give the pools up.

        Raises ``SchemaError``; a database that cannot be reached is waited for.
        """
        connected = functools.partial(self.metrics.connected, "calls")
        timeout = self.settings.poller.database_timeout
        async with PollerDatabase(self._dsn, timeout=timeout, connected=connected) as database:
            stopped = asyncio.create_task(stop.wait())
            check = asyncio.create_task(self._check_schema(database))
            await asyncio.wait([check, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not check.done():
                check.cancel()
                await asyncio.gather(check, return_exceptions=True)
                return
            check.result()
            services = Services(
                database,
                lambda: self.settings.poller,
                asyncio.Semaphore(self.settings.poller.concurrency),
                lambda address: client_for(address, self.settings),
                self.metrics,
            )
            tasks = [
                asyncio.create_task(self._listen()),
                asyncio.create_task(self._scan(services)),
                asyncio.create_task(self._keep_house(database)),
                asyncio.create_task(self._collect_figures(database)),
                asyncio.create_task(self._feed_watchdog()),
            ]
            try:
                await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._manager.stopping()
                stopped.cancel()
                for task in tasks:
                    task.cancel()
                with _impatience(database):
                    ended = await asyncio.gather(*tasks, return_exceptions=True)
                await self._release(database)
            for result in ended:
                if isinstance(result, Exception):
                    raise result

    def reload(self, settings: Settings) -> None:
        """Use other settings from now on; connections to VDSM take theirs when they are made."""
        self._manager.reloading()
        self.settings = settings
        self._log.info("settings reloaded")
        for running in self._running.values():
            running.loop.hurry()
        self._work.set()
        self._manager.ready(self._status())

    def reload_failed(self, error: Exception) -> None:
        """The settings could not be read again; the former ones stay."""
        self._log.error("settings not reloaded", error=str(error))

    async def _check_schema(self, database: PollerDatabase) -> None:
        """Wait for the database."""
        pause = 0.2
        while True:
            try:
                await database.check_schema()
            except psycopg.OperationalError as error:
                problem = str(error).strip()
                self._log.warning("database not reached; trying again", error=problem)
                self._manager.status(f"waiting for the database: {problem}"[:200])
            else:
                self._log.info("database reached")
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _listen(self) -> None:
        """Set the wake-up flag at each notification; never the only way to find work."""
        pause = 0.2
        while True:
            try:
                async with await self._listener() as connection:
                    pause = 0.2
                    self._listening.set()
                    # What was announced while nobody listened.
                    self._work.set()
                    while True:
                        timeout = self.settings.poller.database_timeout
                        async for _ in connection.notifies(timeout=min(timeout, _LISTEN_CHECK)):
                            self.metrics.woken("notify")
                            self._work.set()
                        with hung_up_after(connection, timeout):
                            cursor = await connection.execute(b"show transaction_read_only")
                            if await cursor.fetchone() == ("on",):
                                # A former primary: nobody notifies there any more.
                                raise psycopg.OperationalError("the server takes no writes now")
            except (psycopg.Error, OSError) as error:
                self.metrics.database_errors.inc()
                self._log.warning("not listening; trying again", error=str(error).strip())
            # Without LISTEN everything works, only later.
            self._listening.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _listener(self) -> psycopg.AsyncConnection[Any]:
        """A new connection that listens."""
        dsn = make_conninfo(**{"target_session_attrs": "read-write", **parse(self._listen_dsn)})
        connection = await aconnect(dsn, application_name=LISTENER, autocommit=True)
        self.metrics.connected("listen")
        with hung_up_after(connection, self.settings.poller.database_timeout):
            await connection.execute(f"LISTEN {CHANNEL}".encode())
        return connection

    async def _scan(self, services: Services) -> None:
        await self._listening.wait()
        pause, failed = 0.2, False
        share = FairShare(patience=3 * self.settings.poller.rescan_interval)
        while True:
            # Cleared before the query: what comes during it is looked at again.
            self._work.clear()
            settings = self.settings.poller
            self._scan_by = time.monotonic() + settings.rescan_interval + 300.0
            try:
                census = await services.database.census()
                limit = share.limit(census, len(self._running), settings.max_pools)
                begun = time.monotonic()
                pools = await services.database.acquire_pools(self.name, limit, settings.lease)
            except psycopg.Error as error:
                self.metrics.database_errors.inc()
                if not failed:
                    self._log.warning("cannot look for pools", error=str(error).strip())
                    self._manager.status("no database")
                failed = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if failed:
                self._log.info("looking for pools again")
            pause, failed = 0.2, False
            await self._take(pools, begun, services)
            if not self._scanned:
                self._scanned = True
                self._log.info("ready", pools=len(pools))
                self._manager.ready(self._status())
                self._ready()
            else:
                self._manager.status(self._status())
            interval = min(settings.rescan_interval, settings.lease / 3)
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._work.wait()
                continue
            self.metrics.woken("rescan")

    async def _take(self, pools: list[LeasedPool], begun: float, services: Services) -> None:
        """Make the loops those of exactly these pools, as held from ``begun`` (monotonic) on."""
        held = {str(pool.storage_pool_id): pool for pool in pools}
        for name, running in list(self._running.items()):
            if name not in held or running.task.done():
                await self._end(name, running)
        for name, pool in held.items():
            held_until = begun + pool.lease_left
            self.metrics.open_tasks(name, pool.open_tasks)
            if name in self._running:
                self._running[name].loop.update(pool, held_until)
                continue
            self._log.info("pool taken", storage_pool_id=name, open_tasks=pool.open_tasks)
            self.metrics.leased(name)
            loop = PoolLoop(pool, held_until, services)
            self._running[name] = _Running(loop, asyncio.create_task(loop.run()))
        self.metrics.pools.set(len(self._running))

    async def _end(self, name: str, running: _Running) -> None:
        self._log.info("pool given up", storage_pool_id=name)
        del self._running[name]
        self.metrics.given_up(name)
        running.task.cancel()
        for result in await asyncio.gather(running.task, return_exceptions=True):
            if isinstance(result, Exception):
                self._log.error("pool loop failed", storage_pool_id=name, error=repr(result))

    async def _release(self, database: PollerDatabase) -> None:
        loops = list(self._running.items())
        with _impatience(database):
            await asyncio.gather(*(self._end(name, running) for name, running in loops))
        try:
            with _impatience(database):
                await database.release_pools(self.name)
            self._log.info("pools released")
        except psycopg.Error as error:
            self._log.warning("pools not released; their leases run out", error=str(error).strip())

    async def _keep_house(self, database: PollerDatabase) -> None:
        """Once a day; every poller does it, the first one finds something to do."""
        while True:
            try:
                await database.ensure_partitions()
            except psycopg.Error as error:
                self._log.warning("partitions not looked after", error=str(error).strip())
                await asyncio.sleep(600)
            else:
                await asyncio.sleep(_DAY * random.uniform(0.8, 1))  # noqa: S311 (spreads load)

    async def _collect_figures(self, database: PollerDatabase) -> None:
        """The figures of the whole database, for the metrics page and far from the polls."""
        while True:
            settings = self.settings.poller
            if settings.metrics_port is not None:
                try:
                    figures = await database.metrics()
                except psycopg.Error as error:
                    self._log.warning("figures not read", error=str(error).strip())
                else:
                    self.metrics.figures(figures, good_for=3 * settings.metrics_interval)
            await asyncio.sleep(settings.metrics_interval)

    def _status(self) -> str:
        now = time.monotonic()
        late = sum(each.loop.progress_by < now for each in self._running.values())
        open_tasks = sum(each.loop.pool.open_tasks for each in self._running.values())
        return f"{len(self._running)} pools, {open_tasks} open tasks" + (
            f", {late} pools stuck" if late else ""
        )

    async def _feed_watchdog(self) -> None:
        interval = self._manager.watchdog_interval
        if interval is None:
            await asyncio.Event().wait()
            return
        while True:
            now = time.monotonic()
            stuck = [name for name, each in self._running.items() if each.loop.progress_by < now]
            if stuck:
                self._log.error("pool loops do not progress", storage_pool_ids=stuck)
            elif self._scan_by >= now:
                self._manager.alive()
            await asyncio.sleep(interval)


@contextmanager
def _impatience(database: PollerDatabase) -> Generator[None]:
    """A database that does not answer must not keep a poller that is told to end."""
    timer = asyncio.get_running_loop().call_later(_RELEASE_TIMEOUT, database.hang_up)
    try:
        yield
    finally:
        timer.cancel()


def tls_files(settings: VdsmSettings) -> TlsFiles | None:
    """The certificates to use, None for plain TCP.

    Raises ``ValueError`` when TLS is on and no CA is named.
    """
    if not settings.tls:
        return None
    if settings.ca is None:
        raise ValueError(
            "vdsm.ca is missing: name the file of the CA that signed the hosts' certificates, "
            "or set vdsm.tls = false for a simulator"
        )
    return TlsFiles(settings.ca, settings.certificate, settings.key, settings.verify_host_name)


def client_for(address: Address, settings: Settings) -> VdsmClient:
    """A client of one host as the settings want it."""
    vdsm = settings.vdsm
    return VdsmClient(
        address,
        tls=tls_files(vdsm),
        settings=ClientSettings(
            timeout=vdsm.request_timeout,
            slow_timeout=max(180.0, vdsm.request_timeout),
            max_in_flight=settings.poller.concurrency,
            connection=ConnectionSettings(
                connect_timeout=vdsm.connect_timeout,
                heart_beat_out=vdsm.heartbeat,
                heart_beat_in=vdsm.heartbeat,
            ),
        ),
    )
