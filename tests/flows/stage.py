"""What the tests of the flows share: a database, a simulated SPM, a poller, engine processes."""

import asyncio
import json
import os
import select
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from psycopg.conninfo import make_conninfo

from pyatm.flows.setup import install_inventory
from pyatm.simulator.control import SimulatorControl
from pyatm.simulator.execution_log import read_tasks
from pyatm.simulator.process import SimulatorProcess
from tests.cli.programs import environment
from tests.conftest import Connection
from tests.flows.nursery import Nursery
from tests.poller.stage import PollerProcess

PATIENCE = 150.0
POOL = "5849b030-626e-47cb-ad90-3ce782d831b3"
DOMAIN = "773adfc7-10d4-4e60-b700-3272ee1871f9"


class EngineProcess:
    """The reference engine as a child, its events read as they come."""

    def __init__(self, stage: "Stage", *options: str) -> None:
        self.events: list[dict[str, Any]] = []
        arguments = ["--pool", POOL]
        for simulator in stage.simulators:
            arguments += ["--vdsm", f"{simulator.host}:{simulator.port}"]
        arguments += options
        variables = environment(PYATM_DSN=stage.engine_dsn, PYATM_VDSM__TLS="false")
        self._log = stage.directory / f"engine-{uuid.uuid4().hex[:8]}.log"
        self._output, theirs = os.pipe()
        with self._log.open("wb") as log:
            self.child = stage.nursery.start(arguments, variables, theirs, log.fileno())
        os.close(theirs)
        self._rest = b""

    def until(self, event: str) -> dict[str, Any]:
        """Wait for an event; fails when the process ends or nothing comes."""
        while True:
            line = self.next()
            assert line is not None, f"ended: {self._story()}"
            if line["event"] == event:
                return line

    def next(self) -> dict[str, Any] | None:
        """The next event, None when the process has ended; fails when nothing comes."""
        end = time.monotonic() + PATIENCE
        while b"\n" not in self._rest:
            ready = select.select([self._output], [], [], max(end - time.monotonic(), 0))[0]
            assert ready, self._story()
            more = os.read(self._output, 65536)
            if not more:
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        self.events.append(json.loads(line))
        return self.events[-1]

    def finish(self) -> int:
        """Wait for its end; returns its exit code."""
        while self.next() is not None:
            pass
        return self.child.wait(10)

    def resume(self) -> None:
        """Go on after a pause."""
        self.child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, unless it has ended; nothing more can be read."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(10)
        if self._output >= 0:
            os.close(self._output)
            self._output = -1

    def all(self, event: str) -> list[dict[str, Any]]:
        """The events of one kind so far."""
        return [each for each in self.events if each["event"] == event]

    def _story(self) -> str:
        return f"{self.events[-8:]} {self._log.read_text(errors='replace')[-3000:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Stage:
    """One test's world."""

    def __init__(
        self, dsn: str, db: Connection, directory: Path, nursery: Nursery, *, job_seconds: str
    ) -> None:
        self.nursery = nursery
        self.dsn, self.db, self.directory = dsn, db, directory
        # The engine's own role: it may do no more than an engine in production.
        self.engine_dsn = make_conninfo(dsn, options="-c role=atm_engine")
        self.made: set[str] = set()
        """Images of all VMs that were put on the storage."""
        install_inventory(dsn)
        quick = {
            "absence_time": "0.5 s",
            "in_doubt_settle": "1 s",
            "absence_polls": "2",
        }
        for name, value in quick.items():
            self.db.execute("select atm.set_setting(%s, %s, 'test')", [name, value])
        options = ("--job-seconds", job_seconds)
        self.simulator = SimulatorProcess(
            directory / "vdsm", pools=[POOL], spm=True, options=options
        )
        self.simulators = [self.simulator]
        self.poller: PollerProcess | None = None

    def __enter__(self) -> Self:
        self.simulator.start()
        self.poller = PollerProcess(self.dsn, self.directory, PYATM_POLLER__POLL_INTERVAL_MAX="0.2")
        return self

    def __exit__(self, *_: object) -> None:
        if self.poller is not None:
            self.poller.__exit__()
        for simulator in self.simulators:
            simulator.stop()

    def add_vm(self, disks: int) -> str:
        """A VM in the inventory whose disks are on the storage; returns its id."""
        vm_id = str(uuid.uuid4())
        self.db.execute("insert into pyatm_inventory.vm (vm_id, name) values (%s, 'vm')", [vm_id])
        images = [(str(uuid.uuid4()), str(uuid.uuid4())) for _ in range(disks)]
        for disk_id, volume_id in images:
            self.db.execute(
                "insert into pyatm_inventory.disk (disk_id, owner_id, storage_pool_id, domain_id,"
                " volume_id, size_bytes) values (%s, %s, %s, %s, %s, 1073741824)",
                [disk_id, vm_id, POOL, DOMAIN, volume_id],
            )

        async def fill(control: SimulatorControl) -> None:
            for image_id, volume_id in images:
                await control.add_volume(POOL, DOMAIN, image_id, volume_id)

        self.steer(fill)
        self.db.execute(
            "insert into pyatm_inventory.storage_domain values (%s) on conflict do nothing",
            [DOMAIN],
        )
        self.made |= {disk_id for disk_id, _ in images}
        return vm_id

    def engine(self, *options: str) -> EngineProcess:
        """A new engine process of the same name."""
        return EngineProcess(self, *options)

    def begin(self, flow: str, *options: str, disks: int = 2) -> EngineProcess:
        """An engine process that runs a flow on a new VM."""
        return self.engine("--flow", flow, "--vm", self.add_vm(disks), *options)

    def run(self, flow: str, *options: str, disks: int = 2) -> EngineProcess:
        """Run a flow on a new VM to its end."""
        with self.begin(flow, *options, disks=disks) as engine:
            assert engine.finish() == 0, engine.events
        return engine

    def rows(self, query: str, *arguments: object) -> list[Any]:
        return self.db.execute(query.encode(), arguments).fetchall()

    def one(self, query: str, *arguments: object) -> Any:
        return self.rows(query, *arguments)[0][0]

    def live_rows(self) -> int:
        """Rows in the live views."""
        return self.one(
            "select (select count(*) from atm.commands) + (select count(*) from atm.tasks)"
            " + (select count(*) from atm.entities) + (select count(*) from atm.orphans)"
        )

    def until_clean(self) -> None:
        """Wait until nothing is left in the live views and at VDSM."""
        self.until(lambda: self.live_rows() == 0, "live views are empty")
        self.until(lambda: self.at_vdsm() == [], "nothing is left at VDSM")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                left = self.rows("select * from atm.commands"), self.rows("select * from atm.tasks")
                log = "" if self.poller is None else self.poller.log()[-2000:]
                raise AssertionError(f"not within {PATIENCE:g} s: {what}\n{left}\n{log}")
            time.sleep(0.05)

    def at_vdsm(self) -> list[dict[str, Any]]:
        """The tasks in the memory of all hosts."""

        async def listed() -> list[dict[str, Any]]:
            tasks: list[dict[str, Any]] = []
            for simulator in self.simulators:
                async with simulator.control() as control:
                    tasks += await control.tasks()
            return tasks

        return asyncio.run(listed())

    def control(self, operation: str, *arguments: Any, **fields: Any) -> Any:
        """One operation of the simulator's control port."""

        return self.steer(lambda control: getattr(control, operation)(*arguments, **fields))

    def steer(self, what: Callable[[SimulatorControl], Awaitable[Any]]) -> Any:
        """Several operations over one connection."""

        async def perform() -> Any:
            async with self.simulator.control() as control:
                return await what(control)

        return asyncio.run(perform())

    def executed(self) -> int:
        """How many tasks did their work and were not undone, from the simulator's own record."""
        tasks = read_tasks(self.directory / "vdsm").values()
        return sum(task.result == "success" for task in tasks)

    def effects(self) -> list[tuple[uuid.UUID, str]]:
        """The effects of endActions, all of them."""
        return self.rows(
            "select root_command_id, effect from pyatm_inventory.effect order by effect_no"
        )

    def removed_images(self) -> set[str]:
        """Images that VDSM has removed for good."""
        return {path.name for path in (self.directory / "vdsm" / POOL).glob("*/removed/*")}

    def disks(self) -> dict[str, str]:
        """State by disk id in the inventory."""
        query = "select disk_id::text, state from pyatm_inventory.disk"
        return dict(self.rows(query))
