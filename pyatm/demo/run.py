"""One scenario in the making: its engine, its command, and what was found so far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from pyatm.demo.expectations import Expectation, Result, live_rows, orphans
from pyatm.demo.processes import Child
from pyatm.demo.stage import DISKS, POOL_ID, DemoError, Stage, engine_command

if TYPE_CHECKING:
    from pyatm.demo.stage import Row


class Run:
    """Plays one scenario; also an async context manager that ends its engine.

    Args:
        stage: what it plays on.
        name: as in the JSON of the demo.
    """

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self._name = name
        self._engine: Child | None = None
        self._command_id = ""
        self._tasks = 0
        self._bound = 0
        self._removed_before = 0
        self._started = 0.0
        self._found: list[Expectation] = []

    async def __aenter__(self) -> Self:
        vdsm = self.stage.vdsm
        # Work lasts until it is told to end: the demo, not the clock, decides what comes first.
        await vdsm.remove_fault()
        await vdsm.default_job(None)
        self._removed_before = await self._removed()
        self._started = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._engine is not None:
            await self._engine.stop()

    def expect(self, what: str, expected: object, found: object) -> None:
        """Note something that must be so."""
        self._found.append(Expectation(what, expected, found))

    async def start_engine(self) -> None:
        """Start the engine with the order to remove a VM."""
        await self._start(resume=False)

    async def start_engine_again(self) -> None:
        """Start a new engine of the same name, which finds what the old one left."""
        await self._start(resume=True)

    async def kill_engine(self) -> None:
        """SIGKILL, as a crash."""
        engine = self._running()
        await engine.kill()
        self.stage.display.say(f"engine: process {engine.pid} killed (SIGKILL)")
        self.expect("the engine was killed", -9, engine.exit_code)

    async def planned(self) -> None:
        """Wait for the plan, which is one transaction, and look at it."""
        stage = self.stage
        await stage.until(self._has_root, "the engine plans the command", self._running())
        roots = await stage.roots()
        self._command_id = str(roots[0]["command_id"])
        self._tasks = len(await stage.tasks())
        stage.display.say(
            f"planned in one transaction: {roots[0]['action_type']} {self._command_id[:8]}, "
            f"{self._tasks} tasks"
        )
        self.expect("live root commands", 1, len(roots))
        self.expect("tasks planned", DISKS, self._tasks)

    async def bound(self, number: int) -> None:
        """Wait until that many tasks have VDSM's id."""

        async def reached() -> bool:
            return await self.count_bound() >= number

        await self.stage.until(reached, f"{number} disks are bound", self._running())
        self._bound = await self.count_bound()

    async def done(self) -> None:
        """Wait until nothing of the command is left anywhere, and for its engine."""
        engine = self._running()
        await self.stage.until(self._nothing_left, "the command is ended and cleared")
        self.expect("exit code of the engine", 0, await engine.wait(60))

    async def result(self, outcome: str, *, removed: int) -> Result:
        """Compare the end with what was expected.

        Args:
            outcome: of the command.
            removed: disks that are gone from the storage.
        """
        stage = self.stage
        seconds = time.monotonic() - self._started
        history = await stage.rows(
            "SELECT * FROM atm.history WHERE command_id = %s", self._command_id
        )
        found = str(history[0]["outcome"]) if history else "unknown"
        self.expect("outcome", outcome, found)
        self.expect("disks removed", removed, await self._removed() - self._removed_before)
        self.expect("rows in the live tables", 0, await live_rows(stage.database))
        self.expect("tasks at VDSM", 0, len(await stage.vdsm.tasks()))
        self.expect("orphans", 0, await orphans(stage.database))
        stage.display.say(f"the command has {found}; nothing is left in the live tables or at VDSM")
        return Result(self._name, found, self._tasks, seconds, self._bound, tuple(self._found))

    async def watch(self, seconds: float) -> None:
        """Let time pass, and show the tasks meanwhile."""
        over = time.monotonic() + seconds

        async def passed() -> bool:
            return time.monotonic() >= over

        await self.stage.until(passed, "time passes")

    async def count(self, **wanted: object) -> int:
        """Live tasks with these values, such as `state="running"`."""
        rows = await self.stage.tasks()
        return sum(all(row[name] == value for name, value in wanted.items()) for row in rows)

    async def count_bound(self) -> int:
        """Live tasks with VDSM's id."""
        return len(await self.bound_ids())

    async def bound_ids(self) -> list[str]:
        """VDSM's ids of the live tasks, in the order of binding."""
        return [str(row["vdsm_task_id"]) for row in await self.stage.tasks() if row["vdsm_task_id"]]

    async def at_vdsm(self, number: int) -> bool:
        """Whether VDSM has that many tasks."""
        return len(await self.stage.vdsm.tasks()) >= number

    async def succeeded(self, number: int) -> bool:
        """Whether that many live tasks have succeeded."""
        return await self.count(outcome="succeeded") == number

    async def recovered(self) -> bool:
        """Whether the new engine has recovered what the old one left."""
        return await self.count(state="in_doubt") > 0

    async def orphan_found(self) -> bool:
        """Whether a task of VDSM is known of which no engine can say that it is its own."""
        rows = await self.stage.rows("SELECT * FROM atm.orphans")
        return any(str(row["meaning"]).startswith("orphan") for row in rows)

    async def orphan(self) -> str:
        """VDSM's id of the only orphan."""
        rows: list[Row] = await self.stage.rows("SELECT * FROM atm.orphans")
        self.expect("orphans found", 1, len(rows))
        return str(rows[0]["vdsm_task_id"])

    async def state(self) -> str:
        """State of the root command, empty when it has ended."""
        roots = await self.stage.roots()
        return str(roots[0]["state"]) if roots else ""

    async def _start(self, *, resume: bool) -> None:
        stage = self.stage
        command = engine_command(stage, resume=resume)
        self._engine = Child(command, stage.directory / "engine.log")
        await self._engine.start()
        again = " again" if resume else ""
        stage.display.say(f"engine: process {self._engine.pid} started{again}")

    def _running(self) -> Child:
        if self._engine is None:
            raise DemoError("no engine was started")
        return self._engine

    async def _has_root(self) -> bool:
        return bool(await self.stage.roots())

    async def _nothing_left(self) -> bool:
        stage = self.stage
        left = await live_rows(stage.database) + await orphans(stage.database)
        return left + len(await stage.vdsm.tasks()) == 0

    async def _removed(self) -> int:
        contents: dict[str, Any] = await self.stage.vdsm.perform("contents", pool_id=POOL_ID)
        return len(contents["removed"])
