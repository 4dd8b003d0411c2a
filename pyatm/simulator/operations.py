"""What can be asked of a simulator: the operations of the control port."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from pyatm.simulator.faults import JobRule, Match, Rule
from pyatm.simulator.plans import Failure, JobPlan, Rollback
from pyatm.simulator.values import Arguments, BadArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyatm.simulator.server import Simulator
    from pyatm.simulator.spm import ConnectedPool

_FOREVER: Final = 1e12


class Operations:
    """Executes operations on one simulator.

    Args:
        simulator: which.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._table: dict[str, Callable[[Arguments], Awaitable[Any]]] = {
            name.removeprefix("op_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("op_")
        }

    async def perform(self, operation: str, fields: dict[str, Any]) -> Any:
        """Execute one; raises BadArgumentError that names the field and the fix."""
        handler = self._table.get(operation)
        if handler is None:
            known = ", ".join(sorted(self._table))
            raise BadArgumentError(f"field op: unknown operation {operation!r}; known: {known}")
        arguments = Arguments(fields, operation)
        return await handler(arguments)

    async def op_status(self, a: Arguments) -> dict[str, Any]:
        a.finish()
        simulator = self._simulator
        status: dict[str, Any] = {
            "alive": simulator.alive,
            "host_id": simulator.settings.host_id,
            "port": simulator.port,
            "pid": os.getpid(),
            "storage": str(simulator.settings.directory),
        }
        if simulator.alive:
            process = simulator.process
            status["pools"] = {
                pool.pool_id: process.spm.status(pool) for pool in process.spm.pools.values()
            }
            status["tasks"] = len(process.tasks.tasks)
            status["connections"] = len(process.connections)
            status["deaf"] = process.rpc.deaf
        return status

    async def op_tasks(self, a: Arguments) -> list[dict[str, Any]]:
        a.finish()
        return [
            {
                **task.entry,
                "pool_id": task.spec.pool_id,
                "params": dict(task.spec.params),
                "correlation_id": task.spec.correlation_id,
            }
            for task in self._simulator.process.tasks.tasks.values()
        ]

    async def op_stored_tasks(self, a: Arguments) -> list[str]:
        pool = self._pool(a)
        a.finish()
        return sorted(pool.master.stored_ids())

    async def op_contents(self, a: Arguments) -> dict[str, Any]:
        pool_id = a.text("pool_id")
        a.finish()
        contents = self._simulator.contents
        return {
            "images": {name: asdict(image) for name, image in contents.images(pool_id).items()},
            "removed": sorted(contents.removed(pool_id)),
        }

    async def op_add_volume(self, a: Arguments) -> None:
        place = (a.text("pool_id"), a.text("domain_id"), a.text("image_id"), a.text("volume_id"))
        a.finish()
        self._simulator.contents.add_volume(*place)

    async def op_missing(self, a: Arguments) -> None:
        self._simulator.contents.missing |= set(a.texts("ids"))
        a.finish()

    async def op_present(self, a: Arguments) -> None:
        self._simulator.contents.missing -= set(a.texts("ids"))
        a.finish()

    async def op_add_vms(self, a: Arguments) -> None:
        ids = set(a.texts("ids"))
        a.finish()
        if self._simulator.vms is None:
            raise BadArgumentError("every VM runs here already; start with a list of VMs")
        self._simulator.vms |= ids

    async def op_fault(self, a: Arguments) -> int:
        rule = Rule.read(a)
        a.finish()
        return self._simulator.faults.add(rule)

    async def op_remove_fault(self, a: Arguments) -> None:
        number = a.optional_int("number")
        a.finish()
        self._simulator.faults.remove(number)

    async def op_fault_used(self, a: Arguments) -> int:
        number = a.integer("number", 0)
        a.finish()
        return self._simulator.faults.used(number)

    async def op_job(self, a: Arguments) -> int:
        """Plan the work of tasks that are created from now on and match."""
        rule = JobRule(JobPlan.read(a), Match.read(a), a.optional_int("count"))
        a.finish()
        return self._simulator.faults.add_job(rule)

    async def op_default_job(self, a: Arguments) -> None:
        plan = JobPlan.read(a)
        a.finish()
        self._simulator.faults.default_plan = plan

    async def op_finish(self, a: Arguments) -> int:
        """Let the work of a task, or of all tasks, end now."""
        return self._settle(a, True)

    async def op_fail(self, a: Arguments) -> int:
        """Make the work of a task, or of all tasks, fail now."""
        return self._settle(a, Failure.read(a))

    async def op_rollback(self, a: Arguments) -> None:
        """Change what the rollback of an existing task will do."""
        task = self._simulator.process.tasks.get(a.text("task_id"))
        rollback = Rollback(a.seconds("seconds", 0.0), a.flag("fails"))
        a.finish()
        task.plan = replace(task.plan, rollback=rollback)
        task.rollback_registered = True

    async def op_slow(self, a: Arguments) -> None:
        faults = self._simulator.faults
        faults.slow_seconds = a.seconds("seconds")
        faults.slow_methods = a.texts("methods")
        a.finish()

    async def op_starting(self, a: Arguments) -> None:
        """Code 99 for ``seconds``; without it until told otherwise, 0 ends it."""
        seconds = a.optional_seconds("seconds")
        a.finish()
        clock = asyncio.get_running_loop().time()
        faults = self._simulator.faults
        faults.starting_until = clock + (_FOREVER if seconds is None else seconds)

    async def op_deafness(self, a: Arguments) -> None:
        """Whether poison requests make VDSM deaf."""
        self._simulator.faults.deafness = a.flag("on", True)
        a.finish()

    async def op_deaf(self, a: Arguments) -> None:
        self._simulator.process.rpc.deaf = a.flag("on", True)
        a.finish()

    async def op_drop_connections(self, a: Arguments) -> int:
        a.finish()
        return self._simulator.process.drop_connections()

    async def op_half_open(self, a: Arguments) -> int:
        a.finish()
        connections = list(self._simulator.process.connections)
        for connection in connections:
            connection.go_half_open()
        return len(connections)

    async def op_accept(self, a: Arguments) -> None:
        """Refuse new connections (``on`` false), or accept them again."""
        on = a.flag("on", True)
        a.finish()
        process = self._simulator.process
        process.refuse_connections()
        if on:
            await process.listen(self._simulator.port)

    async def op_restart(self, a: Arguments) -> None:
        down, starting = a.seconds("down_seconds", 0.0), a.seconds("starting_seconds", 0.0)
        a.finish()
        await self._simulator.restart(down_seconds=down, starting_seconds=starting)

    async def op_stop_vdsm(self, a: Arguments) -> None:
        """Kill VDSM but keep the control port; ``start_vdsm`` starts it again."""
        a.finish()
        self._simulator.die()

    async def op_start_vdsm(self, a: Arguments) -> None:
        a.finish()
        await self._simulator.start()

    async def op_kill(self, a: Arguments) -> None:
        """Kill the whole process; there is no answer."""
        a.finish()
        self._simulator.process.host.log.write("killed")
        self._simulator.kill()

    async def op_become_spm(self, a: Arguments) -> dict[str, Any]:
        pool = self._pool(a)
        a.finish()
        spm = self._simulator.process.spm
        spm.start(pool)
        return spm.status(pool)

    async def op_lose_spm(self, a: Arguments) -> None:
        pool = self._pool(a)
        a.finish()
        self._simulator.process.spm.stop(pool)

    async def op_connect_pool(self, a: Arguments) -> None:
        pool_id = a.text("pool_id")
        a.finish()
        self._simulator.process.spm.connect(pool_id)

    async def op_spm_start_seconds(self, a: Arguments) -> None:
        """How long spmStart tasks work from now on; without ``seconds`` until told to end."""
        seconds = a.optional_seconds("seconds")
        a.finish()
        self._simulator.process.spm_start_seconds = seconds

    async def op_threads(self, a: Arguments) -> None:
        """Workers for tasks and room for waiting ones; 0 threads: nothing starts any more."""
        pool = self._simulator.process.tasks.pool
        threads, waiting = a.optional_int("threads"), a.optional_int("max_tasks")
        a.finish()
        pool.resize(
            pool.workers if threads is None else threads,
            pool.limit if waiting is None else waiting,
        )

    async def op_load(self, a: Arguments) -> None:
        """What goes wrong at the next start of the SPM role."""
        self._simulator.faults.set_load(a)
        a.finish()

    async def op_damage_task(self, a: Arguments) -> None:
        """Make the stored files of a task unreadable."""
        pool, task_id = self._pool(a), a.text("task_id")
        a.finish()
        pool.master.damage(task_id)

    def _settle(self, a: Arguments, verdict: Failure | bool) -> int:
        every = a.flag("all")
        task_id = None if every else a.text("task_id")
        a.finish()
        tasks = self._simulator.process.tasks
        if task_id is None:
            return tasks.settle_all(verdict)
        tasks.settle(task_id, verdict)
        return 1

    def _pool(self, a: Arguments) -> ConnectedPool:
        """The pool of field ``pool_id``; without it the only one."""
        pools = self._simulator.process.spm.pools
        pool_id = a.optional_text("pool_id")
        if pool_id is None:
            if len(pools) != 1:
                raise BadArgumentError(f"field pool_id is required: {len(pools)} pools")
            return next(iter(pools.values()))
        return self._simulator.process.spm.connected(pool_id)
