"""Storage pools and the SPM role: who has it, how it is taken, what is loaded then."""

from __future__ import annotations

import asyncio
import dataclasses
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from pyatm.simulator import errors
from pyatm.simulator.jobs import NoWork, job_for
from pyatm.simulator.persistence import NOBODY, MasterDomain, StoredTask
from pyatm.simulator.plans import JobPlan, Rollback
from pyatm.simulator.states import DONE, State
from pyatm.simulator.task import COMPLETED, INITIALIZING, SPM_TAG, Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyatm.simulator.execution_log import ExecutionLog
    from pyatm.simulator.storage import DiskContents
    from pyatm.simulator.task_manager import TaskManager

_log = structlog.get_logger()


class Role(StrEnum):
    """``spmStatus`` of this host in a pool."""

    FREE = "Free"
    CONTEND = "Contend"
    SPM = "SPM"


@dataclasses.dataclass(slots=True)
class HiddenTasks:
    """Loaded tasks that the lists leave out for a while.

    Attributes:
        task_ids: which.
        until: until this moment of the event loop's clock.
        polls: and at least for that many lists.
    """

    task_ids: frozenset[str]
    until: float
    polls: int


@dataclasses.dataclass(slots=True)
class ConnectedPool:
    """A storage pool that this host is connected to."""

    pool_id: str
    master: MasterDomain
    role: Role = Role.FREE
    hidden: HiddenTasks | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LoadOptions:
    """What goes wrong when a host becomes SPM.

    Attributes:
        hide_seconds: how long lists leave loaded tasks out.
        hide_polls: for how many lists they do at least.
        dropped: ids of stored tasks that cannot be read.
        rollback: how the rollback of interrupted tasks goes.
    """

    hide_seconds: float = 0.0
    hide_polls: int = 0
    dropped: frozenset[str] = frozenset()
    rollback: Rollback = dataclasses.field(default_factory=Rollback)


class SpmRoles:
    """The pools of one VDSM process and its roles in them.

    Args:
        directory: the storage directory.
        host_id: id of this host in every pool.
        tasks: gets the tasks that are loaded.
        contents: the disks that their rollback works on.
        log: the execution log.
        options: read at every start of the role.
    """

    def __init__(
        self,
        *,
        directory: Path,
        host_id: int,
        tasks: TaskManager,
        contents: DiskContents,
        log: ExecutionLog,
        options: Callable[[], LoadOptions],
    ) -> None:
        self.host_id = host_id
        self.pools: dict[str, ConnectedPool] = {}
        self._directory = directory
        self._tasks = tasks
        self._contents = contents
        self._execution = log
        self._options = options

    def connect(self, pool_id: str) -> None:
        """Connect a pool; harmless when it is connected."""
        if pool_id not in self.pools:
            self.pools[pool_id] = ConnectedPool(pool_id, MasterDomain(self._directory, pool_id))

    def disconnect(self, pool_id: str) -> None:
        pool = self.connected(pool_id)
        if pool.role is not Role.FREE:
            raise errors.spm_active(pool_id)
        del self.pools[pool_id]

    def connected(self, pool_id: str) -> ConnectedPool:
        """The pool, or the fault (309) for one that is not connected."""
        pool = self.pools.get(pool_id)
        if pool is None:
            raise errors.pool_unknown(pool_id)
        return pool

    def require(self, pool: ConnectedPool) -> None:
        """Raise (654) unless this host is SPM of the pool."""
        if pool.role is not Role.SPM:
            raise errors.not_spm(pool.pool_id)

    def status(self, pool: ConnectedPool) -> dict[str, str | int]:
        """The result of ``StoragePool.getSpmStatus``."""
        spm_id, lver = pool.master.read_spm()
        return {"spmStatus": str(pool.role), "spmLver": lver, "spmId": spm_id}

    def listed(self) -> list[Task]:
        """The tasks that the lists show; the fault (654) when this host is not SPM of any pool."""
        roles = {pool.pool_id for pool in self.pools.values() if pool.role is Role.SPM}
        if not roles:
            raise errors.not_spm()
        hidden: set[str] = set()
        now = asyncio.get_running_loop().time()
        for pool in self.pools.values():
            if pool.hidden is not None:
                if now >= pool.hidden.until and pool.hidden.polls <= 0:
                    pool.hidden = None
                else:
                    pool.hidden.polls -= 1
                    hidden |= pool.hidden.task_ids
        return [
            task
            for task in self._tasks.tasks.values()
            if SPM_TAG in task.spec.tag
            and task.spec.pool_id in roles
            and task.task_id not in hidden
        ]

    def start(self, pool: ConnectedPool) -> None:
        """Take the role: lock the lease, load the stored tasks, then become SPM.

        The role is there before the interrupted tasks are queued for their rollback.
        Raises a fault when another living host is SPM (651) or a stored task is still in memory.
        """
        if pool.role is Role.SPM:
            raise errors.spm_active(pool.pool_id)
        pool.role = Role.CONTEND
        try:
            if not pool.master.take_lease():
                holder, _ = pool.master.read_spm()
                raise errors.storage_fault(651, f"Cannot obtain lock: {(f'held by {holder}',)!r}")
            pool.master.mounted = True
            options = self._options()
            loaded = self._load(pool, options)
            self._tasks.add_loaded(loaded)
        except BaseException:
            pool.master.release_lease()
            pool.role = Role.FREE
            raise
        _, lver = pool.master.read_spm()
        pool.master.write_spm(self.host_id, lver + 1)
        if options.hide_seconds or options.hide_polls:
            now = asyncio.get_running_loop().time()
            ids = frozenset(task.task_id for task in loaded)
            pool.hidden = HiddenTasks(ids, now + options.hide_seconds, options.hide_polls)
        pool.role = Role.SPM
        self._execution.write(
            "spm_started", pool_id=pool.pool_id, lver=lver + 1, loaded=len(loaded)
        )
        _log.info("became SPM", pool_id=pool.pool_id, lver=lver + 1, loaded_tasks=len(loaded))
        for task in loaded:
            if not task.done:
                self._tasks.recover_later(task)

    def stop(self, pool: ConnectedPool) -> None:
        """Give the role up; running work goes on, but nothing of it is stored any more."""
        if pool.role is not Role.SPM:
            raise errors.not_spm_to_stop()
        _, lver = pool.master.read_spm()
        pool.master.write_spm(NOBODY, lver)
        pool.master.release_lease()
        pool.role = Role.FREE
        pool.hidden = None
        self._execution.write("spm_stopped", pool_id=pool.pool_id, lver=lver)
        _log.info("gave up SPM", pool_id=pool.pool_id, lver=lver)

    def abandon(self) -> None:
        """Lose every role without writing anything, as a killed process does."""
        for pool in self.pools.values():
            pool.master.release_lease()
            pool.role = Role.FREE

    def _load(self, pool: ConnectedPool, options: LoadOptions) -> list[Task]:
        loaded: list[Task] = []
        for task_id, stored in pool.master.load():
            problem = stored if isinstance(stored, ValueError) else None
            if problem is not None or task_id in options.dropped:
                reason = str(problem or "told to be unreadable")
                self._execution.write(
                    "dropped_at_load", pool_id=pool.pool_id, task_id=task_id, reason=reason
                )
                _log.warning("task cannot be read", task_id=task_id, reason=reason)
            elif isinstance(stored, StoredTask):
                loaded.append(self._restored(pool, stored, options))
        return loaded

    def _restored(self, pool: ConnectedPool, stored: StoredTask, options: LoadOptions) -> Task:
        spec = stored.spec
        if stored.state in DONE:
            job, state = NoWork(), stored.state
        else:
            job, state = job_for(spec.verb, spec.pool_id, spec.params, self._contents), None
        plan = JobPlan(rollback=options.rollback)
        task = Task(stored.task_id, spec, job, plan, pool.master)
        # Locks are not taken again: nobody else can have them before the role is there.
        task.holds_locks = False
        task.rollback_registered = stored.rollback_registered
        if state is State.FINISHED:
            job = job_for(spec.verb, spec.pool_id, spec.params, self._contents)
            task.job = job
            task.restore(state, COMPLETED, stored.result or "")
        else:
            # Jobs cannot be started again, so all that remains is to undo what was begun.
            task.restore(state or State.RACQUIRING, INITIALIZING, "")
        self._execution.write(
            "loaded",
            pool_id=pool.pool_id,
            task_id=stored.task_id,
            state=str(stored.state),
            verb=spec.verb,
        )
        return task
