"""What the scenarios play on: a database, a simulated VDSM and a poller."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pyatm.database.session import aconnect
from pyatm.demo.display import DiskRow
from pyatm.demo.processes import Child, Command
from pyatm.flows.setup import install_inventory
from pyatm.simulator.process import SimulatorProcess

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    import psycopg

    from pyatm.demo.display import Display
    from pyatm.simulator.control import SimulatorControl

POOL_ID: Final = "5849b030-626e-47cb-ad90-3ce782d831b3"
POOL_NAME: Final = "demo"
DISKS: Final = 4
ENGINE_NAME: Final = "demo"
REASON: Final = "the demo does not want to wait"
SHORT_TIMES: Final = {"in_doubt_settle": "2 s", "absence_time": "1 s"}
"""Settings that the demo shortens; in production they are 180 s and 30 s."""
WATCH_INTERVAL: Final = 0.1
PATIENCE: Final = 120.0
"""Seconds until the demo believes that something will not happen any more."""

Row = dict[str, Any]


class DemoError(Exception):
    """The demo cannot go on; the message says what did not happen."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that a scenario needs.

    Attributes:
        dsn: of the database.
        database: a connection to it, each statement a transaction.
        vdsm: the simulator's control port.
        poller: its process.
        directory: for logs.
        display: where it reports to.
    """

    dsn: str
    database: psycopg.AsyncConnection[Any]
    vdsm: SimulatorControl
    poller: Child
    directory: Path
    display: Display

    async def rows(self, query: str, *arguments: object) -> list[Row]:
        """The rows of a query on a view or function of `atm`."""
        async with self.database.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), arguments)
            return await cursor.fetchall()

    async def roots(self) -> list[Row]:
        """The live root commands."""
        return await self.rows("SELECT * FROM atm.commands WHERE parent_command_id IS NULL")

    async def tasks(self) -> list[Row]:
        """The live tasks in plan order, which is the order in which the engine sends them."""
        return await self.rows("SELECT * FROM atm.tasks ORDER BY root_command_id, task_no")

    async def until(
        self,
        condition: Callable[[], Awaitable[bool]],
        what: str,
        *children: Child,
        seconds: float = PATIENCE,
    ) -> None:
        """Wait for a condition and show the tasks meanwhile.

        Args:
            condition: what is waited for.
            what: the same in words.
            children: processes that must live for it to happen.
            seconds: how long it may take.

        Raises:
            DemoError: it did not happen in time.
            ChildError: one of the processes has ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            await self.show()
            if await condition():
                return
            for child in (self.poller, *children):
                child.require_running()
            if time.monotonic() > deadline:
                raise DemoError(f"not within {seconds:g} s: {what}")
            await asyncio.sleep(WATCH_INTERVAL)

    async def show(self) -> None:
        """Show the tasks as they are now."""
        rows = await self.tasks()
        if rows:
            self.display.disks([_disk(number, row) for number, row in enumerate(rows, 1)])


@asynccontextmanager
async def set_up(dsn: str, directory: Path, display: Display) -> AsyncGenerator[Stage]:
    """The processes of the demo, running; they have ended afterwards.

    Args:
        dsn: of a migrated database, reachable by the child processes too.
        directory: for the simulated storage and the logs.
        display: where to report to.
    """
    await asyncio.to_thread(install_inventory, dsn)
    simulator = SimulatorProcess(directory / "vdsm", pools=[POOL_ID], spm=True)
    async with await aconnect(dsn, application_name="pyatm demo", autocommit=True) as database:
        with simulator:
            display.say(f"VDSM simulator: process {simulator.pid}, port {simulator.port}")
            for name, value in SHORT_TIMES.items():
                await database.execute("SELECT atm.set_setting(%s, %s, %s)", [name, value, REASON])
            hosts = Jsonb([{"address": simulator.host, "port": simulator.port}])
            await database.execute("SELECT atm.set_pool(%s, %s, %s)", [POOL_ID, POOL_NAME, hosts])
            poller = Child(_poller(dsn, directory), directory / "poller.log")
            async with poller, simulator.control() as control:
                display.say(f"poller: process {poller.pid}, storage pool {POOL_ID}")
                yield Stage(
                    dsn=dsn,
                    database=database,
                    vdsm=control,
                    poller=poller,
                    directory=directory,
                    display=display,
                )


def engine_command(stage: Stage, *, resume: bool) -> Command:
    """What the engine's process runs.

    Args:
        stage: where it works.
        resume: end what an earlier process left, instead of removing a VM.
    """
    order = ["--resume"] if resume else ["--flow", "remove-vm", "--disks", str(DISKS)]
    return Command(
        name="engine",
        module="pyatm.flows.reference_engine",
        arguments=[*order, "--pool", POOL_ID, "--engine", ENGINE_NAME, "--rescan", "1"],
        environment=_environment(stage.dsn, stage.directory),
    )


def _poller(dsn: str, directory: Path) -> Command:
    return Command(
        name="poller",
        module="pyatm.cli.main",
        arguments=["poller", "--name", "demo-poller"],
        environment={
            **_environment(dsn, directory),
            "PYATM_POLLER__POLL_INTERVAL_MIN": "0.25",
            "PYATM_POLLER__POLL_INTERVAL_MAX": "0.5",
            "PYATM_POLLER__LEASE": "5",
        },
    )


def _environment(dsn: str, directory: Path) -> dict[str, str]:
    # The machine's configuration file is for its own poller.
    empty = directory / "pyatm.toml"
    empty.touch()
    return {
        "PYATM_CONFIG": str(empty),
        "PYATM_DSN": dsn,
        "PYATM_VDSM__TLS": "false",
        "PYATM_LOG_LEVEL": "info",
    }


def _disk(number: int, row: Row) -> DiskRow:
    return DiskRow(
        disk=f"disk {number}",
        state=row["outcome"] or row["state"],
        vdsm_task_id=str(row["vdsm_task_id"] or ""),
        vdsm_state=row["vdsm_state"] or "",
    )
