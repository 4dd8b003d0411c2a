"""The simulators' log, read as the lives of VDSM tasks."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pyatm.simulator.execution_log import ExecutionEvent


@dataclass(slots=True)
class VdsmTask:
    """What happened to one VDSM task.

    Attributes:
        correlation_id: ours, None when its creation is not in the log (VDSM was killed between
            storing the task and writing the line).
        born: when it was created.
        over: when VDSM was done with it; None: not in the log.
        last: the last line about it; without `over` its host was killed then or later.
        worked: its work ran to the end.
        success: VDSM ended it with result success, and nothing undid it.
        reverted: when what had succeeded was undone at our request.
        cleared: when it was cleared, each time.
    """

    vdsm_task_id: str
    correlation_id: str | None = None
    born: float = 0.0
    over: float | None = None
    last: float = 0.0
    worked: bool = False
    success: bool = False
    reverted: float = 0.0
    cleared: list[float] = field(default_factory=list[float])

    @property
    def until(self) -> float:
        """VDSM did nothing for it after this."""
        return self.last if self.over is None else self.over


def lives(events: Iterable[ExecutionEvent]) -> dict[str, VdsmTask]:
    """The tasks of the log by VDSM's id."""
    tasks: dict[str, VdsmTask] = {}
    reverting: set[str] = set()
    for event in events:
        if not event.task_id or event.details.get("verb") == "spmStart":
            continue
        task = tasks.setdefault(event.task_id, VdsmTask(event.task_id, born=event.time))
        if event.event not in ("cleared", "revert_requested"):
            task.last = event.time
        match event.event:
            case "created":
                task.correlation_id = event.details.get("correlation_id")
                task.born = event.time
            case "work_done":
                task.worked = True
            case "finished":
                if task.over is None:
                    task.over = event.time
                    task.success = event.details.get("result") == "success"
            case "loaded":
                # Killed between storing its end and writing the line.
                state = event.details.get("state")
                if task.over is None and state in ("finished", "recovered", "failed"):
                    task.over, task.success = event.time, state == "finished"
            case "dropped_at_load":
                task.over = event.time if task.over is None else task.over
            case "rolled_back":
                # A revert undoes what had succeeded, and is asked for after the command's end.
                if event.task_id in reverting:
                    task.reverted = event.time
                elif event.details.get("succeeded"):
                    task.worked = False
            case "revert_requested":
                reverting.add(event.task_id)
            case "cleared":
                task.cleared.append(event.time)
            case _:
                pass
    return tasks
