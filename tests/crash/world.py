"""Everything that runs: PostgreSQL, simulated hosts, pollers, engines."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from psycopg.conninfo import make_conninfo

from pyatm.database.embedded import EmbeddedServer
from pyatm.database.migrate import migrate
from pyatm.simulator.process import SimulatorProcess
from tests.cli.programs import environment
from tests.crash.load import POOLS
from tests.crash.schedule import ENGINES, HOSTS, POLLERS, Life

LEASE: Final = 3.0
SETTINGS: Final = {
    "absence_time": "2 s",
    "in_doubt_settle": "6 s",
    "submit_window": "2 s",
    "end_action_attempts": "200",
}
"""Settings of the database that are shorter than in production; `absence_polls` stays at 3."""
VARIABLES: Final = {
    "PYATM_VDSM__TLS": "false",
    "PYATM_VDSM__CONNECT_TIMEOUT": "2",
    "PYATM_VDSM__REQUEST_TIMEOUT": "3",
    "PYATM_VDSM__HEARTBEAT": "1",
    "PYATM_POLLER__LEASE": str(LEASE),
    "PYATM_POLLER__POLL_INTERVAL_MIN": "0.15",
    "PYATM_POLLER__POLL_INTERVAL_MAX": "0.5",
    "PYATM_POLLER__IDLE_INTERVAL": "1",
    "PYATM_POLLER__RESCAN_INTERVAL": "0.3",
}
ROOT: Final = Path(__file__).parents[2]


@dataclass(slots=True)
class Child:
    """A process of ours; it ends when its standard input ends."""

    name: str
    process: "subprocess.Popen[bytes]"
    life: Life = field(default_factory=Life)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def stopped(self) -> bool:
        """It was stopped by SIGSTOP."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return False
        return self.running and stat.rpartition(")")[2].split()[0] == "T"

    def send(self, number: signal.Signals) -> None:
        if self.running:
            self.process.send_signal(number)

    def end(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.send(signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class World:
    """One run's processes.

    Args:
        directory: holds everything of the run; the database's account must be able to enter it.
        seed: for the load.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.seed = directory, seed
        self.histories = directory / "histories"
        self.database = EmbeddedServer(directory / "database", private=True, durable=True)
        self.hosts = {
            name: SimulatorProcess(
                directory / ("vdsm-2" if name == HOSTS[2] else "vdsm-1"),
                pools=[str(POOLS[1] if name == HOSTS[2] else POOLS[0])],
                spm=True,
                host_id=number + 1,
                options=("--job-seconds", "0.05-0.6", "--lock-timeout", "1"),
            )
            for number, name in enumerate(HOSTS)
        }
        self.engines: dict[str, Child] = {}
        self.pollers: dict[str, Child] = {}
        self.zombies: list[Child] = []
        self.lives: Counter[str] = Counter()
        """How often each process was started."""

    @property
    def storage(self) -> list[Path]:
        """The storage directories of the simulated hosts."""
        return sorted({host.directory for host in self.hosts.values()})

    def dsn(self, role: str | None = None) -> str:
        """With a role, what that role may do is all that a connection may do."""
        dsn = self.database.dsn()
        return dsn if role is None else make_conninfo(dsn, options=f"-c role={role}")

    def start(self) -> None:
        """The database with its schema, the hosts, the pollers; no engine yet."""
        self.histories.mkdir(parents=True)
        self.database.start()
        migrate(self.dsn())
        for host in self.hosts.values():
            host.start()
        for name in POLLERS:
            self.start_poller(name)

    def start_poller(self, name: str) -> None:
        self.lives[name] += 1
        self.pollers[name] = self._child(
            name,
            "pyatm.cli.main",
            "poller",
            "--exit-with-parent",
            "--name",
            f"{name}-{self.lives[name]}",
            role="atm_poller",
        )

    def start_engine(self, name: str, life: Life) -> None:
        """A new incarnation, that dies or stops where its life says."""
        self.lives[name] += 1
        arguments = ["--engine", name, "--histories", str(self.histories)]
        # Another load in each life, always the same in the same life.
        number = 1000 * self.lives[name] + ENGINES.index(name)
        arguments += ["--seed", str(self.seed * 1_000_000 + number)]
        for pool, names in ((POOLS[0], HOSTS[:2]), (POOLS[1], HOSTS[2:])):
            places = [f"{self.hosts[host].host}:{self.hosts[host].port}" for host in names]
            arguments += ["--pool", ",".join([str(pool), *places])]
        for order in life.orders:
            arguments += ["--at", order]
        child = self._child(name, "tests.crash.load_engine", *arguments, role="atm_engine")
        child.life = life
        self.engines[name] = child

    def _child(self, name: str, module: str, *arguments: str, role: str) -> Child:
        variables = {**VARIABLES, "PYATM_DSN": self.dsn(role)}
        with self._log(name) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environment(**variables),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Child(name, process)

    def _log(self, name: str) -> IO[bytes]:
        return (self.directory / f"{name}.log").open("ab")

    def signal_server(self, pid: int | None, number: signal.Signals) -> None:
        """Send a signal to the postmaster or a backend.

        Raises:
            LookupError: there is no such process of our server; the pid file of a dead one may
                name a process of somebody else.
        """
        try:
            here = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:
            here = None
        if pid is None or here != self.database.data:
            raise LookupError(f"{pid} is no process of our server")
        os.kill(pid, number)

    async def start_database(self) -> None:
        """Start it again after a kill or a stop; recovery is part of it."""
        await asyncio.to_thread(self.database.start)

    def stop(self) -> None:
        """End everything."""
        for child in (*self.engines.values(), *self.pollers.values(), *self.zombies):
            child.end()
        for host in self.hosts.values():
            if host.running:
                host.resume()
            host.kill()
        self.database.stop(immediate=True)
