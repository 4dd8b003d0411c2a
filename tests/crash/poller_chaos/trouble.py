"""The faults of a run, drawn from its seed."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from pyatm.simulator.control import ControlError
from pyatm.simulator.process import SimulatorProcess, SimulatorProcessError
from tests.crash.poller_chaos.world import World, some_host

CREATE_FAULTS: Final = ("lose_answer", "drop_before", "drop_after", "delay_answer", "born_late")
LATE: Final = 2.5
"""Seconds; above the time-out of requests, well below `in_doubt_settle`."""
LIST: Final = "Host.getAllTasksStatuses"


def kill(host: SimulatorProcess) -> None:
    """SIGKILL and nothing else: `World.watch` sees it and starts the host again."""
    with suppress(SimulatorProcessError, ProcessLookupError):
        os.kill(host.pid, signal.SIGKILL)


class Trouble:
    """Makes trouble until cancelled; what it froze or closed is opened by `World.calm`.

    :param chance: the order of the faults; their effect depends on the machine's speed.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self._chance = world, chance
        self.done: Counter[str] = Counter()
        self._later: set[asyncio.Task[None]] = set()
        self._kinds: dict[Callable[[], Awaitable[None]], float] = {
            self._kill_poller: 3,
            self._end_poller: 1,
            self._freeze_poller: 3,
            self._terminate_connections: 2,
            self._fail_over: 3,
            self._kill_host: 2,
            self._half_open: 2,
            self._drop_connections: 2,
            self._deaf: 1,
            self._fault_of_create: 3,
            self._fault_of_list: 2,
            self._work_fails: 2,
            self._move_pool: 2,
        }

    async def run(self) -> None:
        """For ever."""
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while True:
            await asyncio.sleep(self._chance.uniform(0.2, 2.0))
            (kind,) = self._chance.choices(kinds, weights)
            try:
                await kind()
            except (ControlError, SimulatorProcessError, OSError):
                continue  # it hit something that was broken already
            self.done[getattr(kind, "__name__", "").strip("_")] += 1

    async def end(self) -> None:
        """Let what is to happen later happen never."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    def _in(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await action()

        task = asyncio.create_task(wait())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _kill_poller(self) -> None:
        poller = self._chance.choice(self.world.pollers[1:])
        await asyncio.to_thread(self.world.replace, poller, signal.SIGKILL)

    async def _end_poller(self) -> None:
        poller = self._chance.choice(self.world.pollers[1:])
        if not poller.facts:
            # Not ready yet, and so without a handler of SIGTERM: that is another test's.
            await asyncio.to_thread(poller.wait_ready)
        await asyncio.to_thread(self.world.replace, poller, signal.SIGTERM)

    async def _freeze_poller(self) -> None:
        poller = self._chance.choice(self.world.pollers)
        poller.send(signal.SIGSTOP)
        self.world.frozen.add(poller)

        async def thaw() -> None:
            poller.send(signal.SIGCONT)
            self.world.frozen.discard(poller)

        # Some beyond the lease of 3 s.
        self._in(self._chance.uniform(0.5, 6.0), thaw)

    async def _terminate_connections(self) -> None:
        async with await self.world.connect() as connection:
            await connection.execute(
                b"select count(pg_terminate_backend(pid)) from pg_stat_activity"
                b" where datname = current_database() and application_name like 'pyatm poller%'"
            )

    async def _fail_over(self) -> None:
        await self._chance.choice(self.world.sites).fail_over(self._chance.choice((0, 1, 2)))

    async def _kill_host(self) -> None:
        kill(some_host(self._chance.choice(self.world.sites), self._chance))

    async def _half_open(self) -> None:
        async with some_host(
            self._chance.choice(self.world.sites), self._chance
        ).control() as control:
            await control.half_open()

    async def _drop_connections(self) -> None:
        async with some_host(
            self._chance.choice(self.world.sites), self._chance
        ).control() as control:
            await control.drop_connections()

    async def _deaf(self) -> None:
        host = some_host(self._chance.choice(self.world.sites), self._chance)
        async with host.control() as control:
            await control.deaf()

        async def restart() -> None:
            kill(host)

        self._in(self._chance.uniform(1, 4), restart)

    async def _fault_of_create(self) -> None:
        site = self._chance.choice(self.world.sites)
        async with site.spm.control() as control:
            await control.fault(self._chance.choice(CREATE_FAULTS), "create", count=2, seconds=LATE)

    async def _fault_of_list(self) -> None:
        site = self._chance.choice(self.world.sites)
        async with site.spm.control() as control:
            action = self._chance.choice(("lose_answer", "drop_after", "delay_answer"))
            await control.fault(action, LIST, count=3, seconds=LATE)

    async def _work_fails(self) -> None:
        site = self._chance.choice(self.world.sites)
        async with site.spm.control() as control:
            await control.job(
                0.2,
                method="Image.delete",
                count=2,
                failure={"code": 261},
                rollback_seconds=0.3,
                rollback_fails=self._chance.random() < 0.3,
            )

    async def _move_pool(self) -> None:
        """The hosts of a pool change: for a while it has only the SPM of now."""
        site = self._chance.choice(self.world.sites)
        async with await self.world.connect() as connection:
            await self.world.set_pool(connection, site.pool, (site.spm,))

        async def back() -> None:
            async with await self.world.connect() as connection:
                await self.world.set_pool(connection, site.pool, site.hosts)

        self._in(self._chance.uniform(1, 4), back)
