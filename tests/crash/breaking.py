"""Does the faults of a schedule to a world, and starts again what ended."""

import asyncio
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from pyatm.database.errors import EmbeddedServerError
from pyatm.simulator.control import ControlError, SimulatorControl
from pyatm.simulator.process import SimulatorProcess, SimulatorProcessError
from tests.crash.connection import Patient
from tests.crash.load import POOLS
from tests.crash.recording import Recorder
from tests.crash.schedule import HOSTS, Fault, Life
from tests.crash.world import Child, World

ZOMBIE_LIFE: Final = 30.0
"""Seconds that a fenced engine gets to notice it; then it is killed, and counted."""
CREATE_FAULTS: Final = {
    "lose answer": "lose_answer",
    "drop before": "drop_before",
    "drop after": "drop_after",
    "born late": "born_late",
    "delay": "delay",
    "delay answer": "delay_answer",
    "half open": "half_open",
    "refuse": "refuse",
}
"""Faults of the next create that a host receives, with the simulator's names."""


class Breaker:
    """Breaks things, and repairs them a moment later.

    Args:
        world: what is broken.
        lives: where the next engines die or stop.
        recorder: told every fault.
        patient: a connection of its own, for the list of backends.
    """

    def __init__(
        self, world: World, lives: Iterator[Life], recorder: Recorder, patient: Patient
    ) -> None:
        self.done: Counter[str] = Counter()
        """Faults by kind."""
        self.ended: Counter[str] = Counter()
        """How processes ended that nobody had killed."""
        self._world, self._lives, self._recorder = world, lives, recorder
        self._patient = patient
        self._not_before: dict[str, float] = {}
        self._paused: set[int] = set()
        self._database_down = False
        self._later: set[asyncio.Task[None]] = set()
        self._chance = random.Random(f"harness {world.seed}")
        self._quiet = False
        # A process is started and killed by threads; one at a time.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def apply(self, fault: Fault) -> None:
        """Do one fault; one that is not possible now is left out."""
        problem = ""
        try:
            await self._dispatch(fault)
        except (ControlError, SimulatorProcessError, OSError, LookupError) as error:
            problem = f"{type(error).__name__}: {error}"
        if not problem:
            self.done[fault.kind] += 1
        self._recorder.write("fault", kind=fault.kind, target=fault.target, problem=problem)

    async def supervise(self, every: float = 0.1) -> None:
        """Start again what ended, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(every)

    async def look(self) -> None:
        """One look at everything."""
        world = self._world
        if self._database_down and self._due("database"):
            await self._start_database()
        for name, host in world.hosts.items():
            if not host.running and self._due(name):
                try:
                    async with self._turns[name]:
                        await asyncio.to_thread(host.start)
                except SimulatorProcessError as error:
                    self._recorder.write("not_started", name=name, reason=str(error))
                    self._delay(name, 1.0)
        for name, poller in list(world.pollers.items()):
            if not poller.running and self._due(name):
                self._count_end(poller)
                world.start_poller(name)
        for name, engine in list(world.engines.items()):
            if not engine.running and self._due(name):
                self._count_end(engine)
                self._start_engine(name)
            elif engine.stopped and engine.process.pid not in self._paused:
                self._at_point(name, engine)
        for zombie in list(world.zombies):
            if not zombie.running:
                self._count_end(zombie)
                world.zombies.remove(zombie)
            elif zombie.stopped and zombie.process.pid not in self._paused:
                # It came to another point. Its open transactions keep its successor waiting.
                self._at_point(zombie.name, zombie)

    async def calm(self) -> None:
        """No more faults: everything runs again, and no simulator has any left to do."""
        self._quiet = True
        for task in list(self._later):
            task.cancel()
        world = self._world
        self._not_before.clear()
        for child in (*world.engines.values(), *world.pollers.values(), *world.zombies):
            child.send(signal.SIGCONT)
        for host in world.hosts.values():
            if host.running:
                host.resume()
        self._paused.clear()
        await self.look()
        for host in world.hosts.values():
            while True:
                try:
                    await self.look()
                    async with control_of(host) as control:
                        await control.remove_fault()
                        await control.slow(0)
                        await control.load()
                        await control.threads(10, 500)
                    break
                except ControlError:
                    await asyncio.sleep(0.2)

    def _due(self, name: str) -> bool:
        return time.monotonic() >= self._not_before.get(name, 0.0)

    def _delay(self, name: str, seconds: float) -> None:
        self._not_before[name] = time.monotonic() + seconds

    async def _start_database(self) -> None:
        # Before the start: a kill during it calls for another one.
        self._database_down = False
        try:
            async with self._turns["database"]:
                await self._world.start_database()
        except EmbeddedServerError as error:
            self._recorder.write("not_started", name="database", reason=str(error))
            self._database_down = True
            self._delay("database", 0.5)

    def _count_end(self, child: Child) -> None:
        code = child.process.returncode
        if code not in (-signal.SIGKILL, None):
            self.ended[f"{child.name.partition('-')[0]} ended with {code}"] += 1

    def _start_engine(self, name: str) -> None:
        self._world.start_engine(name, Life() if self._quiet else next(self._lives))
        self._delay(name, self._chance.uniform(0.1, 1.0))

    def _at_point(self, name: str, engine: Child) -> None:
        if self._quiet:
            engine.send(signal.SIGCONT)
            return
        self._paused.add(engine.process.pid)
        self.done["stopped at a point"] += 1
        if engine.life.twin and engine not in self._world.zombies:
            self.done["fenced by a newer incarnation while stopped"] += 1
            self._world.zombies.append(engine)
            self._start_engine(name)
        self._soon(engine.life.seconds, lambda: self._go_on(engine))

    def _go_on(self, child: Child) -> None:
        self._paused.discard(child.process.pid)
        child.send(signal.SIGCONT)
        if child in self._world.zombies:
            self._soon(ZOMBIE_LIFE, lambda: self._end_zombie(child))

    def _end_zombie(self, child: Child) -> None:
        if child.running:
            self.ended["fenced engine did not notice"] += 1
            child.end()

    def _soon(self, seconds: float, deed: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            result = deed()
            if asyncio.iscoroutine(result):
                await result

        self._keep(wait())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _dispatch(self, fault: Fault) -> None:
        kind, target = fault.kind, fault.target
        if kind in CREATE_FAULTS:
            await self._fault(target, CREATE_FAULTS[kind], "create", fault)
        elif kind.startswith("pause "):
            self._pause(fault)
        elif kind in ("kill engine", "kill poller"):
            children = self._world.engines if kind == "kill engine" else self._world.pollers
            self._delay(target, fault.seconds)
            children[target].end()
        elif kind == "kill simulator":
            self._delay(target, fault.seconds)
            await self._kill_host(target)
        elif kind in ("kill postmaster", "stop database"):
            self._delay("database", fault.seconds)
            self._database_down = True
            if kind == "kill postmaster":
                self._world.signal_server(self._world.database.pid, signal.SIGKILL)
            else:
                async with self._turns["database"]:
                    await asyncio.to_thread(self._world.database.stop, immediate=True)
        elif kind in ("kill backend", "terminate backend"):
            await self._end_backend(signal.SIGKILL if kind == "kill backend" else signal.SIGTERM)
        elif kind == "fail over":
            await self._fail_over(fault)
        else:
            await self._other(fault)

    async def _other(self, fault: Fault) -> None:
        kind, target, details = fault.kind, fault.target, fault.details
        if kind in ("kill at request", "lose chore"):
            await self._fault(target, details["action"], details["method"], fault)
        elif kind == "slow listing":
            await self._fault(target, "delay", "Host.getAllTasksStatuses", fault)
        elif kind == "damage task":
            await self._damage()
        else:
            async with control_of(self._world.hosts[target]) as control:
                if kind == "fail work":
                    failure = {"code": 205}
                    await control.job((0.05, 0.5), count=details["count"], failure=failure)
                elif kind == "drop connections":
                    await control.drop_connections()
                elif kind == "full queue":
                    await control.threads(0, 1)
                    self._soon(fault.seconds, lambda: self._room(target))
                else:
                    raise AssertionError(f"no deed for {kind}")

    async def _room(self, target: str) -> None:
        try:
            async with control_of(self._world.hosts[target]) as control:
                await control.threads(10, 500)
        except ControlError:
            return  # it was killed meanwhile, and has room again

    async def _fault(self, target: str, action: str, method: str, fault: Fault) -> None:
        async with control_of(self._world.hosts[target]) as control:
            await control.fault(
                action, method, seconds=fault.seconds, count=fault.details.get("count", 1)
            )

    def _pause(self, fault: Fault) -> None:
        world, target = self._world, fault.target
        if fault.kind == "pause simulator":
            host = world.hosts[target]
            host.pause()
            self._soon(fault.seconds, lambda: host.running and host.resume())
            return
        child = (world.engines if fault.kind == "pause engine" else world.pollers)[target]
        if not child.running or child.stopped:
            raise LookupError(f"{target} is not running")
        self._paused.add(child.process.pid)
        child.send(signal.SIGSTOP)
        self._soon(fault.seconds, lambda: self._go_on(child))

    async def _end_backend(self, number: signal.Signals) -> None:
        try:
            found = await self._patient.try_rows(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND application_name <> 'chaos harness'"
            )
        except Exception as error:
            raise LookupError(f"no database: {error}") from None
        self._world.signal_server(self._chance.choice([row["pid"] for row in found]), number)

    async def _fail_over(self, fault: Fault) -> None:
        """Fence the SPM of the first pool by killing it, and make the other host SPM."""
        pool = str(POOLS[0])
        spm = ""
        for name in HOSTS[:2]:
            async with control_of(self._world.hosts[name]) as control:
                status = await control.status()
            if status["pools"][pool]["spmStatus"] == "SPM":
                spm = name
        if not spm:
            raise LookupError("no host is SPM")
        other = HOSTS[1] if spm == HOSTS[0] else HOSTS[0]
        self._delay(spm, fault.seconds + 1.0)
        await self._kill_host(spm)
        async with control_of(self._world.hosts[other]) as control:
            await control.load(hide_seconds=fault.details["hide_seconds"])
            await control.become_spm(pool)

    async def _kill_host(self, name: str) -> None:
        async with self._turns[name]:
            await asyncio.to_thread(self._world.hosts[name].kill)

    async def _damage(self) -> None:
        """Make a stored task unreadable: the next SPM does not load it."""
        async with control_of(self._world.hosts[HOSTS[0]]) as control:
            stored = await control.stored_tasks(str(POOLS[0]))
            await control.damage_task(self._chance.choice(stored), str(POOLS[0]))


def control_of(host: SimulatorProcess) -> SimulatorControl:
    """A connection to its control port that does not wait long: the host may be stopped."""
    return SimulatorControl(host.host, host.control_port, timeout=2.0)
