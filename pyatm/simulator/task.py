"""One storage task: its state, what it shows to clients, and what it needs to work."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from pyatm.simulator.states import DONE, VISIBLE, State, check_transition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyatm.simulator.locks import LockRequest
    from pyatm.simulator.plans import Failure, JobPlan

INITIALIZING: Final = "Task is initializing"
RUNNING: Final = "running job 1 of 1"
COMPLETED: Final = "1 jobs completed successfully"

SPM_TAG: Final = "spm"
HSM_TAG: Final = "hsm"


class Job(Protocol):
    """The storage work of a task."""

    @property
    def has_rollback(self) -> bool:
        """Whether starting it registers a step that undoes it."""
        ...

    def begin(self) -> None:
        """What is on disk while the work goes on."""
        ...

    async def complete(self) -> Any:
        """The end of the work; returns the task's result."""
        ...

    def undo(self) -> None:
        """What the rollback does on disk."""
        ...


class Store(Protocol):
    """Where a task is kept across restarts."""

    def save(self, task: Task) -> None: ...

    def save_result(self, task: Task) -> None: ...

    def save_rollback(self, task: Task) -> None: ...

    def remove(self, task: Task) -> None: ...


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task is for; never changes.

    Attributes:
        verb: name of the storage function, such as ``deleteImage``.
        pool_id: the storage pool.
        tag: ``spm`` (listed, persistent) or ``hsm``.
        params: parameters of the request.
        locks: resources held until the task is done.
        correlation_id: ``ovirtCorrelationId`` of the request.
    """

    verb: str
    pool_id: str
    tag: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    locks: tuple[LockRequest, ...] = ()
    correlation_id: str | None = None


class Task:
    """A task of the task manager.

    Args:
        task_id: VDSM's id of it, a uuid in lower case.
        spec: what it is for.
        job: its work; None for a task that only exists to be listed.
        plan: the course of its work.
        store: where it is kept, None: in memory only.
        state: its first state.
    """

    def __init__(
        self,
        task_id: str,
        spec: TaskSpec,
        job: Job,
        plan: JobPlan,
        store: Store | None,
        state: State = State.ACQUIRING,
    ) -> None:
        self.task_id = task_id
        self.spec = spec
        self.job = job
        self.plan = plan
        self.store = store
        self.state = state
        self.code = 0
        self.message = INITIALIZING
        self.result: Any = ""
        self.rollback_registered = False
        self.stop_requested = False
        self.verdict: Failure | bool | None = None
        """Told from outside: True: end the work now; a failure: fail now; None: nothing."""
        self.wake = asyncio.Event()
        self.ended = asyncio.Event()
        self.holds_locks = bool(spec.locks)
        self.recovery: asyncio.Task[None] | None = None
        """After a restart: waits for room in the queue."""
        self._status: str | None = None

    @property
    def done(self) -> bool:
        return self.state in DONE

    def enter(self, state: State, *, code: int | None = None, message: str | None = None) -> None:
        """Change the state, and with it code and message when they are given; save it.

        Raises a fault (441) for a change that the state machine does not allow.
        """
        check_transition(self.state, state)
        self.state = state
        self._status = None
        if code is not None:
            self.code = code
        if message is not None:
            self.message = message
        if self.store is not None:
            self.store.save(self)
        if self.done:
            self.ended.set()

    def restore(self, state: State, message: str, result: Any) -> None:
        """Set what was read back from disk; codes of failures are not kept there."""
        self.state, self.message, self.result = state, message, result
        self._status = None
        if self.done:
            self.ended.set()

    @property
    def status(self) -> str:
        """The JSON text of ``Task.getStatus``, made once per change: lists are joined from it."""
        if self._status is None:
            task_state, task_result = VISIBLE[self.state]
            self._status = json.dumps(
                {
                    "taskID": self.task_id,
                    "taskState": task_state,
                    "taskResult": task_result,
                    "code": self.code,
                    "message": self.message,
                }
            )
        return self._status

    @property
    def info(self) -> str:
        """The JSON text of ``Task.getInfo``."""
        return f'{{"id": "{self.task_id}", "verb": "{self.spec.verb}"}}'

    @property
    def entry(self) -> dict[str, Any]:
        """The entry of ``Host.getAllTasks``, with the internal state."""
        return {
            "id": self.task_id,
            "verb": self.spec.verb,
            "state": str(self.state),
            "code": self.code,
            "message": self.message,
            "result": self.result,
            "tag": self.spec.tag,
        }
