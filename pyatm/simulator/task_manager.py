"""The task manager: ten workers, a queue, and stop, revert and clear in every state."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import structlog

from pyatm.simulator import errors
from pyatm.simulator.plans import Failure, JobPlan
from pyatm.simulator.states import VISIBLE, State
from pyatm.simulator.task import COMPLETED, HSM_TAG, RUNNING, Job, Store, Task, TaskSpec
from pyatm.simulator.worker_pool import WorkerPool

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from pyatm.simulator.execution_log import ExecutionLog
    from pyatm.simulator.locks import ResourceLocks

_log = structlog.get_logger()


class StoppedError(Exception):
    """The work noticed Task.stop."""


class TaskManager:
    """All tasks of one VDSM process.

    Args:
        threads: workers that do the work of tasks.
        max_tasks: tasks that may wait for a worker before create verbs block.
        locks: the resource locks, released when a task is done.
        log: the execution log.
        chance: source of ids and random durations.
        transition: seconds spent in each short state on the way down (aborting, racquiring).
    """

    def __init__(
        self,
        *,
        threads: int,
        max_tasks: int,
        locks: ResourceLocks,
        log: ExecutionLog,
        chance: random.Random,
        transition: float,
    ) -> None:
        self.tasks: dict[str, Task] = {}
        self.pool = WorkerPool(threads, max_tasks, _report)
        self._locks = locks
        self._execution = log
        self._chance = chance
        self._transition = transition

    async def create(self, spec: TaskSpec, job: Job, plan: JobPlan, store: Store | None) -> Task:
        """Make a task whose locks are held already, and queue it.

        Returns when it is queued: when the queue is full that is when another task has ended.
        """
        task_id = str(uuid.UUID(int=self._chance.getrandbits(128), version=4))
        task = Task(task_id, spec, job, plan, store)
        self.tasks[task_id] = task
        task.enter(State.QUEUED)
        self._note(
            task,
            "created",
            verb=spec.verb,
            params=dict(spec.params),
            correlation_id=spec.correlation_id,
            tag=spec.tag,
        )
        await self.pool.put(lambda: self._run(task))
        return task

    def get(self, task_id: str) -> Task:
        """The task, or the fault for an unknown (401) or impossible (1000) id."""
        if not isinstance(task_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            # Parameters come from the wire with any type.
            raise errors.general(f"argument of type '{type(task_id).__name__}' is not iterable")
        if not task_id or "." in task_id:
            raise errors.invalid_parameter("taskID", task_id)
        task = self.tasks.get(task_id)
        if task is None:
            raise errors.task_unknown(task_id)
        return task

    async def stop(self, task_id: str) -> None:
        task = self.get(task_id)
        if task.state is State.QUEUED:
            self._note(task, "stop_requested")
            await self._roll_back(task)
        elif task.state is State.RUNNING:
            if task.stop_requested:
                raise errors.task_aborted(task_id)
            self._note(task, "stop_requested")
            task.stop_requested = True
            task.wake.set()

    async def revert(self, task_id: str) -> None:
        task = self.get(task_id)
        if task.spec.tag == HSM_TAG:
            return
        if not task.done:
            raise errors.task_not_finished(task.state)
        if task.state is not State.FINISHED:
            raise errors.wrong_transition(task.state, State.RACQUIRING)
        self._note(task, "revert_requested")
        task.enter(State.RACQUIRING)
        await self._recover(task)

    def clear(self, task_id: str) -> None:
        task = self.get(task_id)
        if task.store is not None and not task.done:
            raise errors.task_not_cleanable(task.state)
        del self.tasks[task_id]
        if task.store is not None:
            task.store.remove(task)
        self._note(task, "cleared", verb=task.spec.verb)

    def settle(self, task_id: str, verdict: Failure | bool) -> None:
        """Let the work of a task end now (True), or fail now."""
        task = self.get(task_id)
        task.verdict = verdict
        task.wake.set()

    def settle_all(self, verdict: Failure | bool) -> int:
        """The same for every task that is not done; returns how many those are."""
        open_tasks = [task for task in self.tasks.values() if not task.done]
        for task in open_tasks:
            task.verdict = verdict
            task.wake.set()
        return len(open_tasks)

    def add_loaded(self, tasks: Iterable[Task]) -> None:
        """Register tasks read from disk; error 405 when an id is in use already."""
        loaded = list(tasks)
        for task in loaded:
            if task.task_id in self.tasks:
                raise errors.add_task_refused(f"Task id already in use: {task.task_id}")
        for task in loaded:
            self.tasks[task.task_id] = task

    def recover_later(self, task: Task) -> None:
        """Queue the rollback of a task that was interrupted, without waiting for room."""
        work = asyncio.create_task(self.pool.put(lambda: self._resume(task)))
        task.recovery = work

    def abandon(self) -> None:
        """Forget everything at once, as a killed process does."""
        self.pool.abandon()
        for task in self.tasks.values():
            if task.recovery is not None:
                task.recovery.cancel()
        self.tasks.clear()

    async def _run(self, task: Task) -> None:
        if task.done or task.state is not State.QUEUED:
            _log.debug("task ended before its turn", task_id=task.task_id)
            return
        task.enter(State.RUNNING, message=RUNNING)
        if task.job.has_rollback or task.plan.rollback.seconds or task.plan.rollback.fails:
            task.rollback_registered = True
            if task.store is not None:
                task.store.save_rollback(task)
        self._note(task, "started")
        try:
            task.job.begin()
            await self._work(task)
            result = await task.job.complete()
            self._note(task, "work_done")
            if task.stop_requested:
                raise StoppedError("shutting down")
        except StoppedError as stop:
            await self._abort(task, 411, str(stop))
        except errors.StorageFault as fault:
            await self._abort(task, fault.code, fault.message)
        except Exception as error:
            await self._abort(task, 100, str(error))
        else:
            task.result = result
            if task.store is not None:
                task.store.save_result(task)
            task.enter(State.FINISHED, message=COMPLETED)
            self._end(task)

    async def _work(self, task: Task) -> None:
        """Wait until the work is over; raises what it fails with."""
        clock = asyncio.get_running_loop().time
        seconds = self._length(task.plan)
        end = None if seconds is None else clock() + seconds
        while True:
            if isinstance(task.verdict, Failure):
                raise task.verdict.exception()
            if task.stop_requested and not task.plan.ignores_stop:
                raise StoppedError(task.task_id)
            if task.verdict is True or (end is not None and clock() >= end):
                break
            task.wake.clear()
            try:
                await asyncio.wait_for(task.wake.wait(), None if end is None else end - clock())
            except TimeoutError:
                continue
        if task.plan.failure is not None:
            raise task.plan.failure.exception()

    def _length(self, plan: JobPlan) -> float | None:
        if plan.shortest is None or plan.longest is None:
            return plan.shortest
        return self._chance.uniform(plan.shortest, plan.longest)

    async def _abort(self, task: Task, code: int, reason: str) -> None:
        self._note(task, "work_failed", code=code, message=reason)
        await self._roll_back(task, code, f"value={reason} abortedcode={code}")

    async def _roll_back(
        self, task: Task, code: int | None = None, message: str | None = None
    ) -> None:
        task.enter(State.ABORTING, code=code, message=message)
        if task.rollback_registered or code is not None:
            await asyncio.sleep(self._transition)
        task.enter(State.RACQUIRING)
        await self._recover(task)

    async def _recover(self, task: Task) -> None:
        """From racquiring to the end: run the rollback step, if one is registered."""
        task.enter(State.RECOVERING)
        succeeded = True
        if task.rollback_registered:
            rollback = task.plan.rollback
            if rollback.seconds:
                await asyncio.sleep(rollback.seconds)
            succeeded = not rollback.fails
            if succeeded:
                task.job.undo()
            self._note(task, "rolled_back", succeeded=succeeded)
        task.enter(State.RECOVERED if succeeded else State.FAILED)
        self._end(task)

    async def _resume(self, task: Task) -> None:
        """Recovery after a restart: the task waits in racquiring until a worker takes it."""
        if task.state is State.RACQUIRING:
            await self._recover(task)

    def _end(self, task: Task) -> None:
        if task.holds_locks:
            task.holds_locks = False
            self._locks.release(task.spec.locks)
        self._note(
            task,
            "finished",
            result=VISIBLE[task.state][1],
            code=task.code,
            message=task.message,
            verb=task.spec.verb,
        )

    def _note(self, task: Task, event: str, **details: object) -> None:
        self._execution.write(event, pool_id=task.spec.pool_id, task_id=task.task_id, **details)
        _log.debug(event, task_id=task.task_id, pool_id=task.spec.pool_id)


def _report(error: BaseException) -> None:
    _log.error("a task worker failed", error=repr(error))
