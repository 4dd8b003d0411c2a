"""The processes of a run: sites of two hosts each, and three pollers; PostgreSQL is given."""

import asyncio
import json
import random
import signal
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from pyatm.simulator.control import ControlError, fail_over
from pyatm.simulator.process import SimulatorProcess, SimulatorProcessError
from tests.poller.stage import PollerProcess

POLLERS: Final = 3
SITES: Final = 3
SETTINGS: Final = {"absence_time": "1 s", "in_doubt_settle": "12 s"}
"""Shorter than in production; `absence_polls` stays."""
VARIABLES: Final = {
    "PYATM_VDSM__CONNECT_TIMEOUT": "2",
    "PYATM_VDSM__REQUEST_TIMEOUT": "2",
    "PYATM_VDSM__HEARTBEAT": "1",
    "PYATM_POLLER__IDLE_INTERVAL": "1",
    "PYATM_POLLER__METRICS_PORT": "0",
}
WORK: Final = ("--job-seconds", "0.05-1.2", "--lock-timeout", "1")


class Site:
    """A storage pool with two hosts, one of which is SPM.

    A host has one pool only, as in oVirt: it lists its tasks whatever their pool is.

    :param directory: the storage.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pool = str(uuid.uuid4())
        self.hosts = tuple(
            SimulatorProcess(directory, pools=(self.pool,), host_id=number, options=WORK)
            for number in (1, 2)
        )
        self.spm = self.hosts[0]
        self.steady = asyncio.Lock()
        """Held while the role moves."""

    @property
    def other(self) -> SimulatorProcess:
        return self.hosts[1] if self.spm is self.hosts[0] else self.hosts[0]

    async def keep_spm(self) -> None:
        """Give the role back to a host that was started again; what an engine does in oVirt."""
        async with self.steady:
            if not self.spm.running:
                return
            async with self.spm.control() as control:
                roles = (await control.status())["pools"]
                if roles[self.pool]["spmStatus"] != "SPM":
                    await control.become_spm(self.pool)

    async def fail_over(self, hide_polls: int) -> None:
        """Fence the SPM and make the other host SPM."""
        async with self.steady, self.spm.control() as old, self.other.control() as new:
            await new.load(hide_polls=hide_polls)
            await fail_over(old, new, self.pool)
            self.spm = self.other

    async def at_vdsm(self) -> list[str]:
        """Tasks that some host has, in memory or on disk."""
        found: list[str] = []
        for host in self.hosts:
            async with host.control() as control:
                found += [task["id"] for task in await control.tasks()]
                found += await control.stored_tasks(self.pool)
        return found


class World:
    """Starts everything; a context manager that ends it.

    :param directory: for storage and logs.
    :param dsn: a migrated database of the run's own.
    """

    def __init__(self, directory: Path, dsn: str) -> None:
        self.directory, self.dsn = directory, dsn
        self.sites = tuple(Site(directory / f"site-{number}") for number in range(SITES))
        self.pollers: list[PollerProcess] = []
        self.past: list[PollerProcess] = []
        """Pollers that were ended or killed."""
        self.frozen: set[PollerProcess] = set()
        self.exits: Counter[int] = Counter()
        self._stack = ExitStack()

    async def start(self) -> None:
        """Hosts, roles, pools, pollers."""
        for site in self.sites:
            for host in site.hosts:
                await asyncio.to_thread(self._stack.enter_context, host)
            await site.keep_spm()
        async with await self.connect() as connection:
            for name, value in SETTINGS.items():
                await connection.execute(b"select atm.set_setting(%s, %s, 'chaos')", [name, value])
            for site in self.sites:
                await self.set_pool(connection, site.pool, site.hosts)
        for _ in range(POLLERS):
            self.start_poller()
        for poller in self.pollers:
            await asyncio.to_thread(poller.wait_ready)

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)

    async def set_pool(
        self,
        connection: psycopg.AsyncConnection[Any],
        pool: str,
        hosts: Sequence[SimulatorProcess],
    ) -> None:
        addresses = [{"address": host.host, "port": host.port} for host in hosts]
        await connection.execute(
            b"select atm.set_pool(%s, %s, %s)", [pool, pool, json.dumps(addresses)]
        )

    def start_poller(self) -> None:
        """One more; nobody waits for it."""
        dsn = make_conninfo(self.dsn, options="-c role=atm_poller")
        poller = PollerProcess(dsn, self.directory, **VARIABLES)
        self._stack.enter_context(poller)
        self.pollers.append(poller)

    @property
    def veteran(self) -> PollerProcess:
        """The one that lives from the first to the last moment: its memory is watched."""
        return self.pollers[0]

    def replace(self, poller: PollerProcess, number: signal.Signals) -> None:
        """End a poller by a signal and start another."""
        self.frozen.discard(poller)
        if number is signal.SIGTERM:
            poller.send(signal.SIGCONT)
        code = poller.end(number)
        if number is signal.SIGTERM:
            self.exits[code] += 1
        self.pollers.remove(poller)
        self.past.append(poller)
        self.start_poller()

    async def watch(self) -> None:
        """Keep the hosts running and the roles taken, for ever."""
        while True:
            await asyncio.sleep(0.3)
            for site in self.sites:
                try:
                    for host in site.hosts:
                        if not host.running:
                            await _to_its_end(asyncio.create_task(asyncio.to_thread(host.start)))
                    await site.keep_spm()
                except (ControlError, SimulatorProcessError):
                    continue

    async def calm(self) -> None:
        """No more trouble: whatever was frozen, moved or deaf is so no more."""
        async with await self.connect() as connection:
            for site in self.sites:
                await self.set_pool(connection, site.pool, site.hosts)
        for poller in self.frozen:
            poller.send(signal.SIGCONT)
        self.frozen.clear()
        for site in self.sites:
            for host in site.hosts:
                if host.running:
                    await asyncio.to_thread(host.restart)
                else:
                    await asyncio.to_thread(host.start)

    def stop(self) -> None:
        """End all processes."""
        self._stack.close()


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Wait for it even when cancelled meanwhile: a thread cannot be interrupted."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def resident_kib(poller: PollerProcess) -> int:
    """Resident memory, KiB."""
    status = Path(f"/proc/{poller.child.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def some_host(site: Site, chance: random.Random) -> SimulatorProcess:
    """Rather the SPM."""
    return site.spm if chance.random() < 0.7 else site.other
