"""What the reference engine tells about itself, and where crash tests take hold of it."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pyatm.engine import CommandPlan, PlannedTask, TaskPlan
from pyatm.flows.hosts import Hosts
from pyatm.flows.vdsm_tasks import METHODS
from pyatm.vdsm import Sending

if TYPE_CHECKING:
    from uuid import UUID

T = TypeVar("T")


class Trail:
    """Prints events, counts points, and stops at the one that was asked for.

    Args:
        pause_at: `NAME:N`: stop when NAME is reached for the N-th time.
        show_points: print every point.
    """

    def __init__(self, pause_at: str | None, show_points: bool) -> None:
        self._pause_at, self._show = pause_at, show_points
        self._reached: Counter[str] = Counter()

    async def event(self, event: str, **facts: Any) -> None:
        """Print an event, which is a point too."""
        self.write(event, **facts)
        await self.point(event)

    async def point(self, name: str) -> None:
        """Reach a point."""
        self._reached[name] += 1
        at = f"{name}:{self._reached[name]}"
        if self._show:
            self.write("point", at=at)
        if at == self._pause_at:
            self.write("paused", at=at)
            # The whole process stands still, until it is killed or told to go on.
            os.kill(os.getpid(), signal.SIGSTOP)

    def write(self, event: str, **facts: Any) -> None:
        """Print a line without reaching a point."""
        line = json.dumps({"event": event, **facts}, default=str)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class ToldHosts(Hosts):
    """Hosts that reach a point before a call, when it has been sent, and when it is answered.

    Args:
        trail: where the points are.
        arguments: of `Hosts`.
    """

    def __init__(self, trail: Trail, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._trail = trail

    async def create_task(self, method: str, params: Mapping[str, Any], sending: Sending) -> str:
        """See `Hosts`."""
        return await self._tell(super().create_task(method, params, sending))

    async def call(self, method: str, params: Mapping[str, Any], *, correlation_id: str) -> None:
        """See `Hosts`."""
        return await self._tell(super().call(method, params, correlation_id=correlation_id))

    async def _tell(self, calling: Coroutine[Any, Any, T]) -> T:
        try:
            await self._trail.point("before-rpc")
        except BaseException:
            calling.close()
            raise
        call = asyncio.create_task(calling)
        try:
            # The client has no event for "sent": only crash tests want to know.
            while not call.done() and not self.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await self._trail.point("sent-rpc")
            return await call
        finally:
            call.cancel()
            await self._trail.point("after-rpc")


class Sender:
    """Calls VDSM for the tasks of the commands that this process planned.

    A task of an earlier process is never sent: its parameters are not known here.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._tasks: dict[UUID, TaskPlan] = {}

    def know(self, command: CommandPlan) -> None:
        """The tasks of this command may be sent."""
        self._tasks.update({task.task_id: task for task in command.all_tasks()})

    async def __call__(self, task: PlannedTask, sending: Sending) -> str:
        """See `pyatm.engine.submission.Send`."""
        planned = self._tasks[task.task_id]
        method = METHODS[planned.task_type]
        return await self._hosts.create_task(method, planned.parameters, sending)
