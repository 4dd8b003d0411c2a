"""The control port from the other side: faults on demand as methods."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, Self, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINE_LIMIT: Final = 64 << 20

Seconds = float | tuple[float, float] | None
"""How long work lasts: seconds, (least, most) to draw from, or None: until it is told to end."""


class ControlError(Exception):
    """The simulator refused an operation, or is gone."""


class SimulatorControl:
    """Steers a simulator through its control port; also an async context manager.

    Args:
        host: address of the control port.
        port: its number.
        timeout: seconds for connecting and for each answer.
    """

    def __init__(self, host: str, port: int, *, timeout: float = 30.0) -> None:
        self._host, self._port, self._timeout = host, port, timeout
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def perform(self, operation: str, **fields: Any) -> Any:
        """Any operation by name; raises ControlError with the simulator's reason."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._exchange({"op": operation, **fields})
            except (OSError, TimeoutError) as error:
                await self._forget()
                raise ControlError(f"{operation}: no answer from the simulator ({error})") from None
            except asyncio.CancelledError:
                # The answer to a cancelled operation would be taken for the next one's.
                await self._forget()
                raise
        if not answer["ok"]:
            raise ControlError(str(answer["error"]))
        return answer["result"]

    async def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=_LINE_LIMIT)
        reader, writer = self._streams
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
        if not line:
            raise ConnectionResetError("it closed the connection")
        return json.loads(line)

    async def _forget(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def close(self) -> None:
        await self._forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def status(self) -> dict[str, Any]:
        """Port, process id, roles per pool, number of tasks and connections, deafness."""
        return await self.perform("status")

    async def tasks(self) -> list[dict[str, Any]]:
        """All tasks in memory with internal state, parameters and correlation id."""
        return await self.perform("tasks")

    async def stored_tasks(self, pool_id: str | None = None) -> list[str]:
        """Ids of the tasks that have files on the master storage domain."""
        return await self.perform("stored_tasks", pool_id=pool_id)

    async def images(self, pool_id: str) -> dict[str, dict[str, Any]]:
        """Images on disk by id: ``domain_id``, ``removing``, ``volumes``."""
        contents = await self.perform("contents", pool_id=pool_id)
        return cast("dict[str, dict[str, Any]]", contents["images"])

    async def add_volume(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> None:
        """Put a complete volume on disk."""
        place = {"domain_id": domain_id, "image_id": image_id, "volume_id": volume_id}
        await self.perform("add_volume", pool_id=pool_id, **place)

    async def declare_missing(self, *ids: str) -> None:
        """From now on these images, volumes or domains do not exist."""
        await self.perform("missing", ids=list(ids))

    async def add_vms(self, *ids: str) -> None:
        """These VMs run here too."""
        await self.perform("add_vms", ids=list(ids))

    async def fault(
        self,
        action: str,
        method: str = "*",
        *,
        params: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        skip: int = 0,
        count: int | None = 1,
        seconds: float = 0.0,
        code: int = 100,
        message: str | None = None,
    ) -> int:
        """A fault for matching requests; returns its number.

        Args:
            action: see :class:`~pyatm.simulator.faults.Action`, such as ``lose_answer``.
            method: a JSON-RPC method, ``create`` (any verb that makes a task) or ``*``.
            params: parameters that the request must have.
            correlation_id: its ``ovirtCorrelationId``.
            skip: matching requests that pass unharmed first.
            count: how many are hit then, None: all.
            seconds: for the actions that take time.
            code: for ``refuse``.
            message: for ``refuse``.
        """
        return await self.perform(
            "fault",
            action=action,
            method=method,
            params=params,
            correlation_id=correlation_id,
            skip=skip,
            **({"every": True} if count is None else {"count": count}),
            seconds=seconds,
            code=code,
            message=message,
        )

    async def remove_fault(self, number: int | None = None) -> None:
        """Remove a fault or job plan, or all."""
        await self.perform("remove_fault", number=number)

    async def fault_used(self, number: int) -> int:
        """How many requests it has hit."""
        return await self.perform("fault_used", number=number)

    async def job(
        self,
        seconds: Seconds = None,
        *,
        method: str = "*",
        params: dict[str, Any] | None = None,
        count: int | None = None,
        ignores_stop: bool = False,
        failure: dict[str, Any] | None = None,
        rollback_seconds: float = 0.0,
        rollback_fails: bool = False,
    ) -> int:
        """Plan the work of matching tasks that are created from now on; returns its number.

        Args:
            failure: ``{"code": 205}`` (storage error, with ``message`` if wanted),
                ``{"errno": 28}`` or ``{"message": ...}`` (any other exception).
        """
        return await self.perform(
            "job",
            method=method,
            params=params,
            count=count,
            **_plan(seconds, ignores_stop, failure, rollback_seconds, rollback_fails),
        )

    async def default_job(
        self,
        seconds: Seconds = None,
        *,
        ignores_stop: bool = False,
        failure: dict[str, Any] | None = None,
        rollback_seconds: float = 0.0,
        rollback_fails: bool = False,
    ) -> None:
        """Plan the work of all tasks that no other plan matches."""
        await self.perform(
            "default_job", **_plan(seconds, ignores_stop, failure, rollback_seconds, rollback_fails)
        )

    async def finish(self, task_id: str | None = None) -> int:
        """Let the work of a task, or of all, end now; returns how many."""
        return await self.perform("finish", **_which(task_id))

    async def fail(
        self,
        task_id: str | None = None,
        *,
        code: int | None = None,
        message: str | None = None,
        errno: int | None = None,
    ) -> int:
        """Make the work of a task, or of all, fail now; returns how many."""
        return await self.perform(
            "fail", **_which(task_id), code=code, message=message, errno=errno
        )

    async def rollback(self, task_id: str, *, seconds: float = 0.0, fails: bool = False) -> None:
        """Change what the rollback of an existing task does."""
        await self.perform("rollback", task_id=task_id, seconds=seconds, fails=fails)

    async def slow(self, seconds: float, methods: Sequence[str] = ()) -> None:
        """Storage verbs, or these methods, need ``seconds`` more; 0 ends it."""
        await self.perform("slow", seconds=seconds, methods=list(methods))

    async def starting(self, seconds: float | None) -> None:
        """Every verb answers code 99 for that long, None: until told otherwise; 0 ends it."""
        await self.perform("starting", seconds=seconds)

    async def deafness(self, on: bool) -> None:
        """Whether a poison request makes VDSM deaf."""
        await self.perform("deafness", on=on)

    async def deaf(self, on: bool = True) -> None:
        """No request is answered any more, though the connections live."""
        await self.perform("deaf", on=on)

    async def drop_connections(self) -> int:
        return await self.perform("drop_connections")

    async def half_open(self) -> int:
        """The connections that exist neither read nor write any more."""
        return await self.perform("half_open")

    async def accept(self, on: bool) -> None:
        """Refuse new connections, or accept them again."""
        await self.perform("accept", on=on)

    async def restart(self, *, down_seconds: float = 0.0, starting_seconds: float = 0.0) -> None:
        """Kill VDSM and start it again; what is on disk is kept."""
        await self.perform("restart", down_seconds=down_seconds, starting_seconds=starting_seconds)

    async def stop_vdsm(self) -> None:
        """Kill VDSM but keep the control port."""
        await self.perform("stop_vdsm")

    async def start_vdsm(self) -> None:
        """Start it after :meth:`stop_vdsm`."""
        await self.perform("start_vdsm")

    async def kill(self) -> None:
        """Kill the whole process with SIGKILL."""
        try:
            await self.perform("kill")
        except ControlError:
            await self._forget()

    async def become_spm(self, pool_id: str | None = None) -> dict[str, Any]:
        """Take the SPM role without a task; returns the pool's status."""
        return await self.perform("become_spm", pool_id=pool_id)

    async def lose_spm(self, pool_id: str | None = None) -> None:
        """Give the role up; running work goes on."""
        await self.perform("lose_spm", pool_id=pool_id)

    async def threads(self, threads: int | None = None, max_tasks: int | None = None) -> None:
        """Workers for tasks (0: nothing starts any more) and room for waiting ones."""
        await self.perform("threads", threads=threads, max_tasks=max_tasks)

    async def load(
        self,
        *,
        hide_seconds: float = 0.0,
        hide_polls: int = 0,
        dropped: Sequence[str] = (),
        rollback_seconds: float = 0.0,
        rollback_fails: bool = False,
    ) -> None:
        """What goes wrong when this host becomes SPM next.

        Args:
            hide_seconds: lists leave the loaded tasks out for that long.
            hide_polls: and for at least that many lists.
            dropped: tasks that cannot be read.
            rollback_seconds: how long the rollback of interrupted tasks takes.
            rollback_fails: it fails.
        """
        await self.perform(
            "load",
            hide_seconds=hide_seconds,
            hide_polls=hide_polls,
            dropped=list(dropped),
            rollback_seconds=rollback_seconds,
            rollback_fails=rollback_fails,
        )

    async def damage_task(self, task_id: str, pool_id: str | None = None) -> None:
        """Make the stored files of a task unreadable."""
        await self.perform("damage_task", task_id=task_id, pool_id=pool_id)


async def fail_over(old: SimulatorControl, new: SimulatorControl, pool_id: str) -> dict[str, Any]:
    """Fence the SPM (its VDSM is killed and starts again) and make another host SPM.

    Returns the pool's status as the new SPM sees it.
    """
    await old.stop_vdsm()
    status = await new.become_spm(pool_id)
    await old.start_vdsm()
    return status


def _plan(
    seconds: Seconds,
    ignores_stop: bool,
    failure: dict[str, Any] | None,
    rollback_seconds: float,
    rollback_fails: bool,
) -> dict[str, Any]:
    return {
        "seconds": list(seconds) if isinstance(seconds, tuple) else seconds,
        "ignores_stop": ignores_stop,
        "failure": failure,
        "rollback_seconds": rollback_seconds,
        "rollback_fails": rollback_fails,
    }


def _which(task_id: str | None) -> dict[str, Any]:
    return {"all": True} if task_id is None else {"task_id": task_id}
