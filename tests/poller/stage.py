"""What the tests of the poller share: a database, simulated hosts, and pollers as processes."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from psycopg.conninfo import make_conninfo

from pyatm.simulator.process import SimulatorProcess
from pyatm.vdsm import Address, VdsmClient
from tests.cli.printed import printed
from tests.cli.programs import environment
from tests.conftest import Connection

PATIENCE = 90.0
DOMAIN = "773adfc7-10d4-4e60-b700-3272ee1871f9"
UNTIL_TOLD = ("--job-seconds", "until-told")
QUICK = {
    "PYATM_VDSM__TLS": "false",
    "PYATM_POLLER__LEASE": "3",
    "PYATM_POLLER__POLL_INTERVAL_MIN": "0.1",
    "PYATM_POLLER__POLL_INTERVAL_MAX": "0.4",
    "PYATM_POLLER__RESCAN_INTERVAL": "0.25",
}


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        await asyncio.sleep(0.03)


class PollerProcess:
    """`pyatm poller` as a child that ends with us."""

    def __init__(self, dsn: str, directory: Path, **settings: str) -> None:
        self._variables = {**QUICK, "PYATM_DSN": dsn, **settings}
        self._log = directory / f"poller-{uuid.uuid4().hex[:8]}.log"
        self.facts: dict[str, Any] = {}
        self._errors: IO[bytes] = self._log.open("wb")
        self.child = subprocess.Popen(
            [sys.executable, "-m", "pyatm.cli.main", "poller", "--json", "--exit-with-parent"],
            env=environment(**self._variables),
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    @property
    def name(self) -> str:
        return self.facts["name"]

    def wait_ready(self) -> Self:
        """Wait for the line that says so."""
        output = self.child.stdout
        assert output is not None
        line = b""
        end = time.monotonic() + PATIENCE
        while not line.endswith(b"\n"):
            left = max(end - time.monotonic(), 0)
            assert select.select([output], [], [], left)[0], f"not ready: {self.log()}"
            more = os.read(output.fileno(), 4096)
            assert more, f"ended: {self.log()}"
            line += more
        self.facts = printed("poller", line.decode())
        return self

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def send(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal; its exit code. Its log can still be read."""
        self.child.send_signal(number)
        code = self.child.wait(PATIENCE)
        self._close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self.child.stdin, self.child.stdout, self._errors):
            assert stream is not None
            stream.close()


class Stage:
    """One test's database and what an engine would do in it."""

    def __init__(self, dsn: str, db: Connection, directory: Path) -> None:
        self.dsn, self.db, self.directory = dsn, db, directory
        self.epoch: int = self.value("select atm.start_engine(engine_name => 'test')")
        for name, value in (("absence_time", "1 s"), ("in_doubt_settle", "1 s")):
            self.set(name, value)

    def value(self, query: str, *arguments: object) -> Any:
        row = self.db.execute(query.encode(), arguments).fetchone()
        return None if row is None else row[0]

    def set(self, name: str, value: str) -> None:
        self.value("select atm.set_setting(%s, %s, 'test')", name, value)

    def poller(self, **settings: str) -> PollerProcess:
        """Started; not waited for."""
        # What it may do is what the role may do, though the session is a superuser's.
        dsn = make_conninfo(self.dsn, options="-c role=atm_poller")
        return PollerProcess(dsn, self.directory, **settings)

    def pool(self, *hosts: SimulatorProcess, pool_id: str) -> str:
        """Make a pool of these hosts known."""
        addresses = [{"address": host.host, "port": host.port} for host in hosts]
        self.value("select atm.set_pool(%s, %s, %s)", pool_id, pool_id, json.dumps(addresses))
        return pool_id

    def plan(self, pool_id: str, tasks: int = 1) -> tuple[str, list[str]]:
        """A sealed command with announced tasks: its id and theirs."""
        command, ids = str(uuid.uuid4()), [str(uuid.uuid4()) for _ in range(tasks)]
        plan = {
            "command_id": command,
            "action_type": "RemoveVm",
            "entities": [{"type": "VM", "id": str(uuid.uuid4()), "access": "exclusive"}],
            "tasks": [
                {
                    "task_id": task,
                    "task_type": "deleteImage",
                    "storage_pool_id": pool_id,
                    "submit": True,
                }
                for task in ids
            ],
        }
        self.db.execute("select from atm.plan_command(%s, %s)", [self.epoch, json.dumps(plan)])
        return command, ids

    async def send(self, host: SimulatorProcess, pool_id: str, tasks: Sequence[str]) -> list[str]:
        """Create each task at VDSM and bind it; VDSM's ids."""
        found: list[str] = []
        async with VdsmClient(Address(host.host, host.port)) as client:
            for task in tasks:
                image = str(uuid.uuid4())
                vdsm_id = await client.image.delete(image, pool_id=pool_id, domain_id=DOMAIN)
                self.bind(task, vdsm_id)
                found.append(vdsm_id)
        return found

    def bind(self, task: str, vdsm_id: str) -> None:
        self.db.execute(
            "select from atm.bind_task(epoch => %s, task_id => %s, vdsm_task_id => %s)",
            [self.epoch, task, vdsm_id],
        )

    async def command(
        self, host: SimulatorProcess, pool_id: str, tasks: int = 1
    ) -> tuple[str, list[str]]:
        """A command with running tasks: its id and VDSM's ids."""
        command, ids = self.plan(pool_id, tasks)
        return command, await self.send(host, pool_id, ids)

    def state(self, command: str) -> str | None:
        return self.value("select state::text from atm.commands where command_id = %s", command)

    def outcome(self, command: str) -> str | None:
        return self.value("select outcome::text from atm.commands where command_id = %s", command)

    def finish(self, disposition: str = "clear") -> list[tuple[str, str]]:
        """Claim and finish every endAction: command ids and outcomes."""
        claimed = self.db.execute(
            "select root_command_id::text, outcome::text, token"
            " from atm.claim_end_actions(%s, 100, '1 min')",
            [self.epoch],
        ).fetchall()
        for _, _, token in claimed:
            self.value(
                "select atm.finish_end_action(token => %s, disposition => %s)", token, disposition
            )
        return [(command, outcome) for command, outcome, _ in claimed]

    async def ended(self, command: str, outcome: str) -> None:
        """Wait until the command is ready, end it, wait until nothing is left of it."""
        await until(lambda: self.state(command) == "ready", f"{command} is ready")
        assert (command, outcome) in self.finish()
        await until(lambda: self.state(command) is None, f"{command} is cleared")

    def holder(self, pool_id: str) -> str | None:
        """Which poller has the pool."""
        return self.value(
            "select l.poller from atm_internal.pool_poll l"
            " join atm_internal.pool p using (pool_no) where p.storage_pool_id = %s",
            pool_id,
        )

    def polled_host(self, pool_id: str) -> str | None:
        """The SPM of the last listing."""
        return self.value(
            "select l.host from atm_internal.pool_poll l"
            " join atm_internal.pool p using (pool_no) where p.storage_pool_id = %s",
            pool_id,
        )
