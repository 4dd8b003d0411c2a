"""The simulator's own record of what it executed: one JSON line per event, only appended.

Crash tests are judged by it, so a line is in the file before the answer that it is about leaves.
Simulators that share a storage directory share the file.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME: Final = "execution-log.jsonl"


@dataclass(frozen=True, slots=True)
class ExecutionEvent:
    """One line.

    Attributes:
        time: seconds since the epoch.
        event: what happened: ``created``, ``started``, ``stop_requested``, ``work_done``,
            ``work_failed``, ``rolled_back``, ``finished``, ``cleared``, ``loaded``,
            ``dropped_at_load``, ``answer_lost``, ``spm_started``, ``spm_stopped``,
            ``vm_hibernated``, ``vm_snapshot``.
        host_id: the simulator that did it.
        pool_id: its storage pool, empty where there is none.
        task_id: the task, empty where there is none.
        details: everything else: ``verb``, ``params``, ``result``, ``code``, ``message``, ...
    """

    time: float
    event: str
    host_id: int
    pool_id: str = ""
    task_id: str = ""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What the log says about one task.

    Attributes:
        result: taskResult of its end as last logged, empty while it has none.
        work_done: whether the storage work itself ran to its end.
        cleared: whether it was cleared.
        correlation_id: ``ovirtCorrelationId`` of the request that created it, if it had one.
    """

    task_id: str
    pool_id: str
    verb: str
    params: Mapping[str, Any]
    correlation_id: str | None
    created_at: float
    work_done: bool
    result: str
    cleared: bool


class ExecutionLog:
    """Appends to the log of a storage directory.

    Args:
        directory: the storage directory.
        host_id: written into every line.
    """

    def __init__(self, directory: Path, host_id: int) -> None:
        self._host_id = host_id
        self._fd = os.open(directory / FILE_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: str, *, pool_id: str = "", task_id: str = "", **details: Any) -> None:
        """Append one event; returns when the kernel has the line."""
        line: dict[str, Any] = {"time": time.time(), "event": event, "host_id": self._host_id}
        if pool_id:
            line["pool_id"] = pool_id
        if task_id:
            line["task_id"] = task_id
        line.update(details)
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_events(directory: Path) -> list[ExecutionEvent]:
    """All events of a storage directory, oldest first; an unfinished last line is left out."""
    path = directory / FILE_NAME
    if not path.exists():
        return []
    events: list[ExecutionEvent] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        known: dict[str, Any] = json.loads(line)
        events.append(
            ExecutionEvent(
                time=known.pop("time"),
                event=known.pop("event"),
                host_id=known.pop("host_id"),
                pool_id=known.pop("pool_id", ""),
                task_id=known.pop("task_id", ""),
                details=known,
            )
        )
    return events


def read_tasks(directory: Path) -> dict[str, TaskRecord]:
    """What was executed, per task id, in the order of creation."""
    tasks: dict[str, TaskRecord] = {}
    for event in read_events(directory):
        details = event.details
        if event.event == "created":
            tasks[event.task_id] = TaskRecord(
                event.task_id,
                event.pool_id,
                details["verb"],
                details["params"],
                details.get("correlation_id"),
                event.time,
                work_done=False,
                result="",
                cleared=False,
            )
        elif (task := tasks.get(event.task_id)) is not None:
            tasks[event.task_id] = TaskRecord(
                task.task_id,
                task.pool_id,
                task.verb,
                task.params,
                task.correlation_id,
                task.created_at,
                work_done=task.work_done or event.event == "work_done",
                result=details["result"] if event.event == "finished" else task.result,
                cleared=task.cleared or event.event == "cleared",
            )
    return tasks
