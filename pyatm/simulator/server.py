"""The simulator: a VDSM process that can be killed and started again, and its control port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from pyatm.simulator.control_server import ControlServer
from pyatm.simulator.execution_log import ExecutionLog
from pyatm.simulator.faults import Faults
from pyatm.simulator.operations import Operations
from pyatm.simulator.storage import DiskContents
from pyatm.simulator.vdsm import VdsmProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyatm.simulator.settings import SimulatorSettings


class Simulator:
    """A simulated host, to be used inside an event loop; also an async context manager.

    Args:
        settings: what it is like.
        kill: what a fault that kills does; None: :meth:`die`, as a process of its own would.
    """

    def __init__(self, settings: SimulatorSettings, kill: Callable[[], None] | None = None) -> None:
        settings.directory.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.contents = DiskContents(settings.directory, settings.existence)
        self.faults = Faults(settings.plan)
        self.vms = None if settings.vms is None else set(settings.vms)
        self.port = settings.port
        self.control_port: int | None = None
        self.log = ExecutionLog(settings.directory, settings.host_id)
        self.kill: Callable[[], None] = kill or self.die
        """What a fault that kills does."""
        self._process: VdsmProcess | None = None
        self._control: ControlServer | None = None

    @property
    def process(self) -> VdsmProcess:
        """The VDSM that runs; raises RuntimeError while none does."""
        if self._process is None:
            raise RuntimeError("VDSM is not running; start or restart it first")
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None

    async def start(self) -> None:
        """Start VDSM on its port, and the control port when there is one and it is not open.

        Raises OSError when a port cannot be had.
        """
        if self._process is not None:
            raise RuntimeError("VDSM is running already")
        process = VdsmProcess(
            self.settings, self.contents, self.faults, self.log, self.vms, self.kill
        )
        clock = asyncio.get_running_loop().time()
        self.faults.starting_until = clock + self.settings.starting_seconds
        self._process = process
        try:
            # After a restart the port is the one of the first start.
            self.port = await process.start(self.port)
        except BaseException:
            self.die()
            raise
        if self.settings.control_port is not None and self._control is None:
            control = ControlServer(Operations(self))
            self.control_port = await control.start(self.settings.host, self.settings.control_port)
            self._control = control

    def die(self) -> None:
        """Kill VDSM: what is not on disk is gone. The control port stays open."""
        if self._process is not None:
            process, self._process = self._process, None
            process.die()

    async def restart(self, *, down_seconds: float = 0.0, starting_seconds: float = 0.0) -> None:
        """Kill VDSM and start it again on its port.

        Args:
            down_seconds: how long connections are refused in between.
            starting_seconds: how long every verb answers code 99 afterwards.
        """
        self.die()
        await asyncio.sleep(down_seconds)
        await self.start()
        clock = asyncio.get_running_loop().time()
        self.faults.starting_until = clock + starting_seconds

    async def stop(self) -> None:
        """End VDSM and close all ports."""
        self.die()
        if self._control is not None:
            await self._control.stop()
            self._control = None
        self.log.close()
        # Lets the transports that were aborted close their sockets.
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
