"""One life of a simulated VDSM process: from its start until it is killed or stopped."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from typing import TYPE_CHECKING, Final

import structlog

from pyatm.simulator import tls
from pyatm.simulator.broker import Broker
from pyatm.simulator.connection import Connection, Service
from pyatm.simulator.errors import VdsmFault
from pyatm.simulator.locks import ResourceLocks
from pyatm.simulator.rpc import RpcServer
from pyatm.simulator.spm import SpmRoles
from pyatm.simulator.task_manager import TaskManager
from pyatm.simulator.verbs import Host

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyatm.simulator.execution_log import ExecutionLog
    from pyatm.simulator.faults import Faults
    from pyatm.simulator.settings import SimulatorSettings
    from pyatm.simulator.storage import DiskContents

_log = structlog.get_logger()

_LIFE: Final = "lives"


class VdsmProcess:
    """A VDSM that listens, with all that it forgets when it is killed.

    Args:
        settings: what it is like.
        contents: the disks, which outlive it.
        faults: what was asked for, outlives it too.
        log: the execution log.
        vms: VMs that run on the host, None: all.
        kill: what a fault that kills the process calls.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        contents: DiskContents,
        faults: Faults,
        log: ExecutionLog,
        vms: set[str] | None,
        kill: Callable[[], None],
    ) -> None:
        self.settings = settings
        locks = ResourceLocks(settings.lock_timeout)
        self.tasks = TaskManager(
            threads=settings.task_threads,
            max_tasks=settings.max_tasks,
            locks=locks,
            log=log,
            chance=_chance(settings),
            transition=settings.transition_seconds,
        )
        self.spm = SpmRoles(
            directory=settings.directory,
            host_id=settings.host_id,
            tasks=self.tasks,
            contents=contents,
            log=log,
            options=lambda: faults.load,
        )
        self.spm_start_seconds = settings.spm_start_seconds
        self.host = Host(
            tasks=self.tasks,
            spm=self.spm,
            locks=locks,
            contents=contents,
            faults=faults,
            log=log,
            vms=vms,
            spm_start_seconds=lambda: self.spm_start_seconds,
        )
        broker = Broker()
        self.rpc = RpcServer(self.host, broker, settings.rpc_workers, settings.rpc_queue, kill)
        self.connections: set[Connection] = set()
        self._service = Service(
            broker, self.rpc, settings.detection_seconds, settings.poll_seconds, self.connections
        )
        self._server: asyncio.Server | None = None
        self._gate: tls.Gate | None = None

    async def start(self, port: int) -> int:
        """Connect the pools, take the SPM role if it is wanted, listen; returns the port."""
        for pool_id in self.settings.pools:
            self.spm.connect(pool_id)
            if self.settings.spm:
                try:
                    self.spm.start(self.spm.connected(pool_id))
                except VdsmFault as fault:
                    _log.warning("cannot become SPM", pool_id=pool_id, reason=fault.message)
        return await self.listen(port)

    async def listen(self, port: int) -> int:
        """Accept connections on ``port`` (0: any free one); returns the port."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        try:
            listener.bind((self.settings.host, port))
            listener.listen(self.settings.backlog)
        except OSError:
            listener.close()
            raise
        directory = self.settings.tls_directory
        if directory is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                self._connection, sock=listener, backlog=self.settings.backlog
            )
        else:
            context = tls.server_context(directory)
            self._gate = tls.Gate(
                listener, self._connection, context, self.settings.detection_seconds
            )
        return int(listener.getsockname()[1])

    def refuse_connections(self) -> None:
        """Stop listening; connections that exist go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._gate is not None:
            self._gate.close()
            self._gate = None

    def drop_connections(self) -> int:
        """Close all connections at once; returns how many."""
        connections = list(self.connections)
        for connection in connections:
            connection.drop()
        return len(connections)

    def die(self) -> None:
        """What SIGKILL does: everything that is not on disk is gone."""
        self.refuse_connections()
        self.drop_connections()
        self.rpc.abandon()
        self.tasks.abandon()
        self.spm.abandon()

    def _connection(self) -> Connection:
        return Connection(self._service)


def _chance(settings: SimulatorSettings) -> random.Random:
    """Seeded per life of the host, so that a restarted one does not give the same ids again."""
    if settings.seed is None:
        return random.Random(os.urandom(16))  # noqa: S311 - ids of a simulator
    path = settings.directory / f"host-{settings.host_id}.{_LIFE}"
    life = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(life))
    return random.Random(f"{settings.seed}/{settings.host_id}/{life}")  # noqa: S311
