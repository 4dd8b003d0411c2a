"""The reference engine: `python -m pyatm.flows.reference_engine`, one process, one engine.

It starts its incarnation (`atm.start_engine`), which recovers what an earlier process of the same
name left; plans and sends one flow if told to; and runs endActions until no command of its own is
left. It may be killed at any instant and started again.

Options
    --flow NAME          remove-vm, hibernate-vm, create-template, create-snapshot; without it the
                         process only recovers and ends what is there
    --disks N            disks of a new VM in the toy inventory (default 4); --vm ID takes an
                         existing VM instead; --memory saves memory with a snapshot
    --pool ID --vdsm HOST:PORT [--vdsm ...]    the storage pool and its hosts; without --vdsm the
                         hosts are those of `atm.pools`. TLS and certificates: settings `vdsm.*`
                         (`PYATM_VDSM__TLS=false` for a simulator)
    --domain ID          storage domain of the new VM's disks
    --dsn DSN            also PYATM_DSN; --engine NAME (default `reference`)
    --answer-timeout S   seconds to wait for VDSM's answer; --submit-window S
    --lease S --rescan S of endActions; --no-listen finds work by the re-scan alone;
                         --compensation-pause S between two questions whether it may begin
    --stay               go on when no command is left, until SIGTERM
    --pause-at POINT     print `paused` and stop (SIGSTOP) when POINT is reached, until SIGCONT
    --points             print every point that is reached

Events: JSON lines on stdout
    started {engine, epoch}               the incarnation exists, older ones are fenced
    vm {vm_id, disk_ids}                  the inventory has the new VM
    planned {command_id, action_type, tasks: [task_id ...]}   committed, the first task announced
    submitting {n, task_id}               about to call VDSM; n counts from 1
    answered {n, task_id, vdsm_task_id}   VDSM has answered, nothing is bound yet
    bound {n, task_id, vdsm_task_id}      committed; the next task is announced
    refused {n, task_id, reason}          VDSM refused, or nothing was sent
    doubted {n, task_id, reason}          no answer, or not sent in time
    late_bound {n, task_id, vdsm_task_id} a late answer settled a doubt
    submitted {results}                   no more will be sent
    ready {command_id, outcome, attempt}  endAction claimed
    retried {command_id, reason}          endAction failed and will be offered again
    ended {command_id, action_type, outcome, result, tasks}   endAction committed
    reverted {command_id}                 the inventory knows how VDSM's reverts ended
    idle                                  no command of this engine is left to end
    error {message}                       why it ends with exit code 1
    paused {at} / point {at}              see --pause-at and --points

Points are named `NAME:N`, the N-th time (from 1) that NAME is reached. NAME is an event (reached
just after it was printed, such as `bound:2`), or `before-F`, `commit-F` (before COMMIT), `after-F`
for each function F of schema atm, or `before-rpc`, `sent-rpc`, `after-rpc` around each call of
VDSM, or `prepared`, `applied` inside an endAction.

Exit codes: 0 nothing left to do (whatever the outcomes), 1 error, 3 fenced by a newer incarnation,
4 refused (an entity is held, or the inventory does not allow it).
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from pyatm.config import ConfigurationError, Settings, load_settings
from pyatm.database.dsn import resolve
from pyatm.database.session import parameters
from pyatm.engine import (
    EndAction,
    EndActionRunner,
    Engine,
    EngineError,
    EntityBusy,
    StaleEpoch,
    Submission,
)
from pyatm.flows.catalogue import FLOWS, by_name
from pyatm.flows.flow import Ending, Options
from pyatm.flows.handler import COMPENSATION_PAUSE, FlowHandler
from pyatm.flows.hosts import Hosts, connector
from pyatm.flows.inventory import Inventory, NotInInventory, NotOk
from pyatm.flows.planning import plan_flow
from pyatm.flows.reverts import reverting, settle_reverted
from pyatm.flows.setup import NotInstalled, require_inventory
from pyatm.flows.trail import Sender, ToldHosts, Trail
from pyatm.vdsm import Address

EXIT_FENCED: Final = 3
EXIT_REFUSED: Final = 4


class ReferenceEngine:
    """One run of the process.

    Args:
        options: of the command line.
        settings: DSN and VDSM.
        trail: where it tells what happens.
        flows: that it runs; others' commands are not ended.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        settings: Settings,
        trail: Trail,
        flows: Iterable[Ending],
    ) -> None:
        self._options, self._settings, self._trail = options, settings, trail
        self._endings = {ending.action_type: ending for ending in flows}
        self._flows = by_name(self._endings.values())
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Everything, until nothing is left to do."""
        database = resolve(self._settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            kwargs={**parameters(database.dsn, "pyatm engine"), "autocommit": True},
            min_size=2,
            max_size=8,
            open=False,
        )
        async with pool:
            async with pool.connection() as connection:
                await require_inventory(connection)
            name: str = self._options.engine
            engine = await Engine.start(pool, name, probe=self._trail.point)
            await self._trail.event("started", engine=name, epoch=engine.epoch)
            hosts = ToldHosts(
                self._trail,
                self._options.pool,
                await self._addresses(engine, pool),
                connector(self._settings),
            )
            try:
                listen = None if self._options.no_listen else database.direct_dsn
                await self._serve(engine, pool, hosts, listen)
            finally:
                await hosts.close()

    async def _addresses(self, engine: Engine, pool: AsyncConnectionPool[Any]) -> list[Address]:
        if self._options.vdsm:
            places = [_address(text) for text in self._options.vdsm]
            pool_id: UUID = self._options.pool
            await engine.set_pool(pool_id, f"pool {pool_id}", [(p.host, p.port) for p in places])
            return places
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT hosts FROM atm.pools WHERE storage_pool_id = %s", [self._options.pool]
            )
            row = await cursor.fetchone()
        if row is None:
            raise ValueError(f"pool {self._options.pool} is not set; add --vdsm HOST:PORT")
        return [Address(host["address"], int(host["port"])) for host in row[0]]

    async def _serve(
        self,
        engine: Engine,
        pool: AsyncConnectionPool[Any],
        hosts: Hosts,
        listen_dsn: str | None,
    ) -> None:
        sender = Sender(hosts)
        submission = Submission(
            engine,
            sender,
            submit_window=self._options.submit_window,
            answer_timeout=self._options.answer_timeout,
            observe=self._trail.event,
        )
        runner = EndActionRunner(
            engine,
            FlowHandler(engine, self._endings, hosts, self._options.compensation_pause),
            listen_dsn=listen_dsn,
            lease=self._options.lease,
            rescan=self._options.rescan,
            observe=self._observe,
            probe=self._trail.point,
        )
        if self._options.flow:
            await self._submit(engine, submission, sender)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(engine, pool))
                group.create_task(runner.run(self._stop))
        except* StaleEpoch as stale:
            raise StaleEpoch(str(stale.exceptions[0]), "AT201") from None
        await submission.close()

    async def _submit(self, engine: Engine, submission: Submission, sender: Sender) -> None:
        flow, chosen = self._flows[self._options.flow], Options(memory=self._options.memory)
        vm_id: UUID | None = self._options.vm
        if vm_id is None:
            async with engine.transaction("add_vm") as transaction:
                inventory = Inventory(transaction.connection)
                vm_id = await inventory.add_vm(
                    "toy", self._options.disks, self._options.pool, self._options.domain
                )
                disks = [str(disk.disk_id) for disk in await inventory.disks(vm_id)]
            await self._trail.event("vm", vm_id=str(vm_id), disk_ids=disks)
        planned = await plan_flow(engine, flow, vm_id, chosen)
        sender.know(planned.command)
        await self._trail.event(
            "planned",
            command_id=str(planned.command.command_id),
            action_type=flow.action_type,
            tasks=[str(task.task_id) for task in planned.tasks],
        )
        results = await submission.run(planned.tasks, planned.transaction.announcement)
        await self._trail.event("submitted", results=list(results))

    async def _observe(self, event: str, end_action: EndAction, detail: str) -> None:
        command_id = str(end_action.root_command_id)
        if event == "claimed":
            await self._trail.event(
                "ready",
                command_id=command_id,
                outcome=end_action.outcome,
                attempt=end_action.attempt,
            )
        elif event == "finished":
            await self._trail.event(
                "ended",
                command_id=command_id,
                action_type=end_action.action_type,
                outcome=end_action.outcome,
                state=detail,
                tasks=[task.outcome for task in end_action.tasks],
            )
        else:
            await self._trail.event("retried", command_id=command_id, reason=detail)

    async def _watch(self, engine: Engine, pool: AsyncConnectionPool[Any]) -> None:
        """Settle what was reverted; stop when nothing of this engine has still to end."""
        while not self._stop.is_set():
            with suppress(psycopg.OperationalError):
                async with pool.connection() as connection:
                    left = await self._left(connection, engine)
                    if left == 0 and not self._options.stay:
                        await self._trail.event("idle")
                        self._stop.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 0.2)

    async def _left(self, connection: psycopg.AsyncConnection[Any], engine: Engine) -> int:
        cursor = await connection.execute(
            "SELECT epoch FROM atm.engines WHERE engine_name = %s", [engine.name]
        )
        row = await cursor.fetchone()
        if row is None or row[0] != engine.epoch:
            # Without anything to write nobody else would tell us.
            raise StaleEpoch(f"epoch {engine.epoch} is stale", "AT201")
        cursor = await connection.execute(
            "SELECT count(*) FROM atm.commands WHERE engine_name = %s"
            " AND parent_command_id IS NULL"
            " AND state NOT IN ('ended', 'end_failed', 'reverting')",
            [engine.name],
        )
        row = await cursor.fetchone()
        commands = int(row[0]) if row is not None else 1
        # Counted after the commands: an endAction may just now turn one into reverts.
        if pending := await reverting(connection, engine.name):
            async with connection.transaction():
                settled = await settle_reverted(connection)
            for root in settled:
                await self._trail.event("reverted", command_id=str(root))
        return commands + pending


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--vdsm {text!r} is not HOST:PORT")
    return Address(host, int(port))


def _arguments(arguments: list[str] | None, flows: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="reference_engine", description="The reference engine.")
    parser.add_argument("--flow", choices=sorted(flows))
    parser.add_argument("--resume", action="store_true", help="no flow: only what is there")
    parser.add_argument("--disks", type=int, default=4)
    parser.add_argument("--vm", type=UUID)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--pool", type=UUID, required=True)
    parser.add_argument("--domain", type=UUID, default=uuid4())
    parser.add_argument("--vdsm", action="append", metavar="HOST:PORT")
    parser.add_argument("--dsn")
    parser.add_argument("--engine", default="reference")
    parser.add_argument("--answer-timeout", type=float)
    parser.add_argument("--submit-window", type=float, default=30.0)
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--rescan", type=float, default=2.0)
    parser.add_argument("--compensation-pause", type=float, default=COMPENSATION_PAUSE)
    parser.add_argument("--no-listen", action="store_true")
    parser.add_argument("--stay", action="store_true")
    parser.add_argument("--pause-at", default=os.environ.get("PYATM_PAUSE_AT"))
    parser.add_argument("--points", action="store_true")
    options = parser.parse_args(arguments)
    if options.resume and options.flow:
        parser.error("--resume and --flow exclude each other")
    return options


def main(arguments: list[str] | None = None, flows: Iterable[Ending] = FLOWS) -> int:
    """Run the process; returns its exit code.

    Args:
        arguments: of the command line; None: those of this process.
        flows: what it can run, such as `(*FLOWS, MyFlow())`.
    """
    known = tuple(flows)
    options = _arguments(arguments, by_name(known))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            os.environ.get("PYATM_LOG_LEVEL") or "info"
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    trail = Trail(options.pause_at, options.points)
    try:
        settings = load_settings(dsn=options.dsn)
        asyncio.run(ReferenceEngine(options, settings, trail, known).run())
    except StaleEpoch as error:
        fenced = f"engine {options.engine} has been started again elsewhere; this process ends"
        trail.write("error", message=f"{fenced} ({error})")
        return EXIT_FENCED
    except (EntityBusy, NotOk, NotInInventory) as error:
        trail.write("error", message=str(error))
        return EXIT_REFUSED
    except (EngineError, NotInstalled, psycopg.Error, ConfigurationError, ValueError) as error:
        trail.write("error", message=str(error).strip())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
