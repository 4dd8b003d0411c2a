"""One engine under load: `python -m tests.crash.load_engine`, killed and started by the harness.

It starts its incarnation, plans commands from a few workers at once, sends their tasks to VDSM and
runs endActions, until SIGTERM, a kill, or a newer incarnation. When the file `drain` appears in the
directory of the histories it plans nothing more. What it does not expect ends it: the harness
starts it again, as a service manager would.

Exit codes: 0 told to end, 1 something unexpected, 3 fenced.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from pyatm.config import load_settings
from pyatm.database.dsn import resolve
from pyatm.database.session import parameters
from pyatm.engine import (
    Announcement,
    CommandPlan,
    EndActionRunner,
    Engine,
    EntityBusy,
    PlannedTask,
    StaleEpoch,
    Submission,
    TaskPlan,
)
from pyatm.engine.errors import RETRYABLE, is_connection_loss
from pyatm.flows.hosts import Hosts, connector
from pyatm.vdsm import Address, Sending
from tests.crash.end_actions import LoadHandler, Watcher
from tests.crash.load import METHODS, Load
from tests.crash.points import Points
from tests.crash.recording import Recorder

EXIT_FENCED = 3
WORKERS = 4
BACKLOG = 60
"""Commands of this process that are planned and not over, at most."""
DRAIN = "drain"


class Sender:
    """Calls VDSM; see `pyatm.engine.submission.Send`."""

    def __init__(self, hosts: dict[UUID, Hosts], points: Points) -> None:
        self._hosts, self._points = hosts, points
        self._tasks: dict[UUID, TaskPlan] = {}

    def know(self, command: CommandPlan) -> None:
        self._tasks.update({task.task_id: task for task in command.all_tasks()})

    def forget(self, command: CommandPlan) -> None:
        for task in command.all_tasks():
            self._tasks.pop(task.task_id, None)

    async def __call__(self, task: PlannedTask, sending: Sending) -> str:
        planned = self._tasks[task.task_id]
        await self._points.reach("before-rpc")
        hosts = self._hosts[planned.storage_pool_id]
        method = METHODS[planned.task_type]
        call = asyncio.create_task(hosts.create_task(method, planned.parameters, sending))
        try:
            while not call.done() and not hosts.waiting:
                await asyncio.sleep(0.002)
            await self._points.reach("sent-rpc")
            return await call
        finally:
            call.cancel()
            await self._points.reach("after-rpc")


class LoadEngine:
    """The process."""

    def __init__(self, options: argparse.Namespace, recorder: Recorder) -> None:
        self._options, self._recorder = options, recorder
        self._points = Points(options.at, recorder)
        self._points.engine = options.engine
        self._load = Load(random.Random(options.seed))
        self._pause = random.Random(options.seed)
        self._stop = asyncio.Event()
        self._watcher = Watcher(recorder, self._points)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        # The harness holds the other end: when it dies in any way, this end is readable.
        loop.add_reader(sys.stdin.fileno(), self._stop.set)
        settings = load_settings()
        database = resolve(settings)
        name: str = self._options.engine
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            kwargs={**parameters(database.dsn, f"pyatm {name}"), "autocommit": True},
            min_size=1,
            max_size=8,
            open=False,
        )
        async with pool:
            engine = await Engine.start(pool, name, probe=self._points.reach)
            self._points.epoch = engine.epoch
            self._recorder.write("started", engine=name, epoch=engine.epoch)
            connect = connector(settings)
            hosts = {
                UUID(pool_id): Hosts(UUID(pool_id), [_address(text) for text in places], connect)
                for pool_id, *places in (given.split(",") for given in self._options.pool)
            }
            try:
                await self._serve(engine, Sender(hosts, self._points), database.direct_dsn)
            finally:
                for each in hosts.values():
                    await each.close()

    async def _serve(self, engine: Engine, sender: Sender, listen_dsn: str) -> None:
        submission = Submission(
            engine,
            sender,
            submit_window=self._options.submit_window,
            answer_timeout=self._options.answer_timeout,
            observe=self._submission_event,
        )
        runner = EndActionRunner(
            engine,
            LoadHandler(engine, self._recorder),
            listen_dsn=listen_dsn,
            lease=self._options.lease,
            rescan=0.5,
            retry_first=0.3,
            observe=self._watcher,
            probe=self._points.reach,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.run(self._stop))
            for _ in range(WORKERS):
                group.create_task(self._work(engine, submission, sender))
        await submission.close()

    async def _work(self, engine: Engine, submission: Submission, sender: Sender) -> None:
        drain = self._recorder.directory / DRAIN
        while not self._stop.is_set():
            if drain.exists():
                self._points.disarm()
            if drain.exists() or self._watcher.open >= BACKLOG:
                await asyncio.sleep(0.2)
                continue
            command = self._load.command()
            sender.know(command)
            planned = await self._plan(engine, command)
            results: tuple[str, ...] = ()
            if planned is not None:
                tasks, announcement = planned
                results = await submission.run(tasks, announcement)
            sender.forget(command)
            # After a refusal there is probably no SPM for a moment.
            longest = self._options.pause * (5 if "refused" in results else 1)
            await asyncio.sleep(self._pause.uniform(0.02, longest))

    async def _plan(
        self, engine: Engine, command: CommandPlan
    ) -> tuple[tuple[PlannedTask, ...], Announcement[None]] | None:
        """Plan it, again after a lost connection; None when an entity is held."""
        first = time.monotonic()
        repeated = False
        while not self._stop.is_set():
            began = time.time()
            try:
                async with engine.transaction("plan_command") as transaction:
                    connection = transaction.connection
                    tasks = await engine.plan_command(command, connection=connection)
                    # The same plan again after a lost COMMIT finds its row.
                    await connection.execute(
                        "INSERT INTO chaos.planned (root_command_id, engine_name, epoch, document)"
                        " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                        [command.command_id, engine.name, engine.epoch, Jsonb(command.document())],
                    )
            except EntityBusy as busy:
                self._recorder.write(
                    "busy",
                    began=began,
                    wanted=[entity.document() for entity in command.all_entities()],
                    holders=sorted({str(holder.root_command_id) for holder in busy.holders}),
                )
                return None
            except psycopg.Error as error:
                if not (is_connection_loss(error) or error.sqlstate in RETRYABLE):
                    raise
                repeated = True
                await asyncio.sleep(0.2)
                continue
            self._write_planned(command, engine.epoch, began)
            # What a lost COMMIT was worth is not known, as in the engine client.
            return tasks, Announcement(None, first, repeated or transaction.only_local)
        return None

    def _write_planned(self, command: CommandPlan, epoch: int, began: float) -> None:
        root = str(command.command_id)
        self._watcher.open += 1
        self._recorder.write("planned", root=root)
        self._recorder.write(
            "write",
            operation="plan_command",
            engine=self._options.engine,
            epoch=epoch,
            began=began,
        )

    async def _submission_event(self, event: str, **facts: Any) -> None:
        self._recorder.write(event, **facts)
        await self._points.reach(event)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="load_engine", description="An engine under load.")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--histories", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--pool", action="append", required=True, metavar="ID,HOST:PORT,...")
    parser.add_argument("--at", action="append", default=[], metavar="NAME:N:DEED")
    parser.add_argument("--answer-timeout", type=float, default=1.5)
    parser.add_argument("--submit-window", type=float, default=2.0)
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--pause", type=float, default=0.3, help="longest between two commands")
    return parser.parse_args()


def main() -> int:
    """Run the process; returns its exit code."""
    options = _arguments()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    recorder = Recorder(options.histories, f"{options.engine}-{os.getpid()}")
    code = 0
    try:
        asyncio.run(LoadEngine(options, recorder).run())
    except* StaleEpoch:
        recorder.write("fenced", engine=options.engine)
        code = EXIT_FENCED
    except* Exception as group:
        for error in _flat(group):
            recorder.write("gave_up", kind=type(error).__name__, reason=str(error).strip())
        code = code or 1
    return code


def _flat(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    sys.exit(main())
