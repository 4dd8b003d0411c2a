"""Sends the tasks of a planned command to VDSM, one after the other, and never one of them twice.

The order for each task: announce (committed) -> call VDSM -> bind, which announces the next one in
the same commit. What cannot go on that way:

* VDSM refused, or the request certainly never left: `fail_task`;
* the announcing COMMIT was only local, or `submit_window` has passed: VDSM is not called,
  `doubt_task`;
* no answer: `doubt_task`; a late answer is still bound as long as this object lives.

After the first task that failed or is in doubt the command is aborted: the tasks that were never
sent end at once, those that run are followed to their end by the poller.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import structlog

from pyatm.engine.client import Engine
from pyatm.engine.errors import StaleWrite, WrongState
from pyatm.engine.model import Announcement, PlannedTask
from pyatm.vdsm import NotSent, Refused, Sending, Unknown

Send = Callable[[PlannedTask, Sending], Awaitable[str]]
"""Calls VDSM's verb for a task and returns VDSM's task id; raises as `VdsmClient.create_task`."""

Observer = Callable[..., Awaitable[None]]
"""`await observe(event, **facts)`: told what happens, in order."""

SUBMIT_WINDOW: Final = 30.0
"""Seconds; the setting `submit_window` of the database."""

Result = Literal["bound", "refused", "doubted", "not_announced"]


@dataclass(frozen=True, slots=True)
class _Doubt:
    reason: str
    unknown: Unknown | None = None


async def _silent(event: str, **facts: Any) -> None:
    del event, facts


class Submission:
    """Sends tasks for one engine; one object serves any number of commands.

    Args:
        send: calls VDSM.
        submit_window: seconds from before the announcing transaction in which a create may leave.
        answer_timeout: seconds to wait for VDSM's answer; None takes the client's setting.
        late_answers: seconds to wait for the late answer of a task in doubt.
        observe: told `submitting`, `answered`, `bound`, `refused`, `doubted`, `late_bound`, each
            with `n` (the task's number in the command, from 1) and `task_id`.
    """

    def __init__(
        self,
        engine: Engine,
        send: Send,
        *,
        submit_window: float = SUBMIT_WINDOW,
        answer_timeout: float | None = None,
        late_answers: float = 3600.0,
        observe: Observer = _silent,
    ) -> None:
        self._engine, self._send, self._observe = engine, send, observe
        self._window, self._timeout, self._late = submit_window, answer_timeout, late_answers
        self._log = structlog.get_logger(__name__)
        self._sent: set[UUID] = set()
        self._first: dict[UUID, float] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    async def run(
        self, tasks: Sequence[PlannedTask], announcement: Announcement[Any] | None = None
    ) -> tuple[Result, ...]:
        """Send the tasks of one command in plan order; returns how each one went.

        Args:
            announcement: of the planning transaction, when the plan announced the first task.

        Raises:
            StaleEpoch: the engine has been started again elsewhere; nothing more was sent.
        """
        results: list[Result] = []
        announced: Announcement[Any] | None = announcement
        for index, task in enumerate(tasks):
            if announced is None or (index == 0 and task.state == "planned"):
                before = time.monotonic()
                self._first.setdefault(task.task_id, before)
                submitted = await self._engine.submit_tasks([task.task_id])
                if not _is_submitting(submitted, task.task_id):
                    # Ended meanwhile, by an abort or an operator.
                    results.append("not_announced")
                    continue
                announced = submitted
            following = tasks[index + 1] if index + 1 < len(tasks) else None
            self._first.setdefault(task.task_id, announced.since)
            result, announced = await self._one(index + 1, task, announced, following)
            results.append(result)
            if result != "bound":
                await self._give_up(task, result)
                break
        return tuple(results)

    async def close(self) -> None:
        """Stop waiting for late answers."""
        for waiting in self._waiting:
            waiting.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _one(
        self,
        number: int,
        task: PlannedTask,
        announced: Announcement[Any],
        following: PlannedTask | None,
    ) -> tuple[Result, Announcement[Any] | None]:
        facts = {"n": number, "task_id": str(task.task_id)}
        outcome = await self._call(task, announced, facts)
        if isinstance(outcome, Refused | NotSent):
            await self._engine.fail_task(task.task_id, str(outcome))
            await self._observe("refused", **facts, reason=str(outcome))
            return "refused", None
        if isinstance(outcome, _Doubt):
            await self._engine.doubt_task(task.task_id, outcome.reason)
            if outcome.unknown is not None:
                self._await_late(task, outcome.unknown, facts)
            await self._observe("doubted", **facts, reason=outcome.reason)
            return "doubted", None
        following_ids = [] if following is None else [following.task_id]
        before = time.monotonic()
        for following_id in following_ids:
            self._first.setdefault(following_id, before)
        bound = await self._engine.bind_task(task.task_id, UUID(outcome), submit_next=following_ids)
        await self._observe("bound", **facts, vdsm_task_id=outcome)
        if following is not None and _is_submitting(bound, following.task_id):
            return "bound", bound
        return "bound", None

    async def _call(
        self, task: PlannedTask, announced: Announcement[Any], facts: dict[str, Any]
    ) -> str | _Doubt | Refused | NotSent:
        send_by = self._first[task.task_id] + self._window
        if announced.only_local:
            return _Doubt("the announcing commit was not confirmed by its standbys; not sent")
        if task.task_id in self._sent:
            return _Doubt("sent before by this process; not sent again")
        if time.monotonic() >= send_by:
            return _Doubt(f"submit_window of {self._window:g} s had passed; not sent")
        self._sent.add(task.task_id)
        await self._observe("submitting", **facts)
        sending = Sending(self._timeout, str(task.task_id), send_by)
        try:
            vdsm_task_id = await self._send(task, sending)
        except Unknown as unknown:
            return _Doubt(str(unknown), unknown)
        except NotSent as not_sent:
            if time.monotonic() >= send_by:
                return _Doubt(str(not_sent))
            return not_sent
        except Refused as refused:
            return refused
        try:
            UUID(vdsm_task_id)
        except ValueError:
            return _Doubt(f"VDSM answered with {vdsm_task_id[:100]!r}, which is no task id")
        await self._observe("answered", **facts, vdsm_task_id=vdsm_task_id)
        return vdsm_task_id

    async def _give_up(self, task: PlannedTask, result: Result) -> None:
        reason = f"task {task.task_id} was {result}"
        try:
            await self._engine.abort_command(task.root_command_id, reason)
        except WrongState as over:
            # Nothing is left to abort: the command became ready with its last task.
            self._log.info("not aborted", command_id=str(task.root_command_id), reason=str(over))

    def _await_late(self, task: PlannedTask, unknown: Unknown, facts: dict[str, Any]) -> None:
        waiting = asyncio.create_task(self._bind_late(task, unknown, facts))
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

    async def _bind_late(self, task: PlannedTask, unknown: Unknown, facts: dict[str, Any]) -> None:
        answer = await unknown.wait(self._late)
        if answer is None:
            return
        log = self._log.bind(task_id=str(task.task_id), command_id=str(task.root_command_id))
        if isinstance(answer, Refused):
            log.info("late answer: refused", reason=str(answer))
            return
        try:
            await self._engine.bind_task(task.task_id, UUID(str(answer.value)))
        except (StaleWrite, WrongState, ValueError) as late:
            log.info("late answer came too late", reason=str(late))
        else:
            await self._observe("late_bound", **facts, vdsm_task_id=str(answer.value))


def _is_submitting(announced: Announcement[Any], task_id: UUID) -> bool:
    return any(s.task_id == task_id and s.state == "submitting" for s in announced.value)
