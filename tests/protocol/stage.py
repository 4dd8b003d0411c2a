"""Does to a simulator what the ``control`` lines of a recording say, by their words."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyatm.simulator.operations import Operations
from pyatm.simulator.server import Simulator
from pyatm.simulator.settings import SimulatorSettings
from pyatm.simulator.storage import Existence

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
NUMBER = r"\d+(?:\.\d+)?"
SECONDS = rf"({NUMBER}) ?(?:s\b|seconds?)"


@dataclass(slots=True)
class Stage:
    """A simulator and what was said about it.

    ``translate`` turns recorded task ids into the simulator's, ``message_of`` finds the text with
    which a recorded task failed: the line names the error, the text is an example of the recording.
    """

    directory: Path
    translate: Callable[[str], str]
    message_of: Callable[[str, int], str | None]
    simulator: Simulator | None = None
    slow: float = 0.0
    spm: bool = False
    killed: bool = False
    ignored: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    early: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def prepare(self, words: str) -> None:
        """A line before the first frame: the state from which the recording starts."""
        pools = re.findall(rf"storage pool ({UUID})", words)
        if re.search(r"no storage pool is connected", words):
            self.settings["pools"] = ()
        elif pools:
            self.settings["pools"] = tuple(pools)
        if re.search(rf"\bis (?:the )?SPM\b.*{UUID}|{UUID}.*\bis (?:the )?SPM\b", words):
            self.spm = True
        if not await self._perform(words) and not pools and "pools" not in self.settings:
            self.ignored.append(words)

    async def open(self) -> None:
        """Start the simulator in the state that was described."""
        settings: dict[str, Any] = {"vms": frozenset[str](), **self.settings}
        self.simulator = Simulator(
            SimulatorSettings(
                self.directory,
                existence=Existence.ASSUMED,
                spm_start_seconds=None,
                backlog=100,
                **settings,
            )
        )
        await self.simulator.start()
        if self.spm:
            # Only now: a VDSM that is started again is not SPM.
            for pool_id in self.settings["pools"]:
                await self.do("become_spm", pool_id=pool_id)
        for operation, fields in self.early:
            await self.do(operation, **fields)

    async def close(self) -> None:
        if self.simulator is not None:
            await self.simulator.stop()

    async def change(self, words: str) -> None:
        """A line between the frames."""
        assert self.simulator is not None
        if re.search(r"\b(killed|stopped|shut down)\b", words) and "VDSM" in words:
            self.simulator.die()
            self.killed = True
        elif re.search(r"\bstarted again|restarted\b", words):
            if self.simulator.alive:
                self.simulator.die()
            await self.simulator.start()
            if re.search(r"\bis (?:the )?SPM\b", words) and "not SPM" not in words:
                await self.do("become_spm")
        elif not await self._perform(words):
            self.ignored.append(words)

    async def do(self, operation: str, **fields: Any) -> Any:
        """An operation of the control port, now or when the simulator has started."""
        if self.simulator is None:
            self.early.append((operation, fields))
            return None
        return await Operations(self.simulator).perform(operation, fields)

    async def _perform(self, words: str) -> bool:
        """Everything that may be said at any time; False when nothing of it was."""
        if "from now on" in words:
            await self._plan(words)
        elif task := re.search(rf"work of (?:task )?({UUID})", words):
            await self._end(task[1], words)
        elif workers := re.search(r"(\d+) task (?:workers|threads)", words):
            room = re.search(r"room for (\d+)", words)
            await self.do(
                "threads", threads=int(workers[1]), max_tasks=int(room[1]) if room else None
            )
        elif re.search(r"fast again|no longer slow", words):
            self.slow = 0.0
        elif (slow := re.search(SECONDS, words)) and "slow" in words:
            self.slow = float(slow[1])
        elif "not exist" in words:
            await self.do("missing", ids=re.findall(UUID, words)[:1])
        elif vms := re.findall(rf"VM ({UUID})", words):
            await self.do("add_vms", ids=vms)
        elif re.search(r"recovery .*ended|is ready", words):
            await self.do("starting", seconds=0.0)
        elif re.search(r"recovering|just been started", words):
            await self.do("starting")
        elif re.search(r"closed all .*connections", words):
            await self.do("drop_connections")
        else:
            return bool(re.search(r"VDSM is running", words))
        return True

    async def _plan(self, words: str) -> None:
        work, _, rollback = words.partition("rollback:")
        lasts = re.search(SECONDS, work)
        step = re.search(SECONDS, rollback)
        await self.do(
            "default_job",
            seconds=float(lasts[1]) if lasts else None,
            ignores_stop=bool(re.search(r"not react|ignores", work)),
            rollback_seconds=float(step[1]) if step else 0.0,
            rollback_fails=bool(re.search(r"\bfails?\b|raises", rollback)),
        )

    async def _end(self, recorded: str, words: str) -> None:
        task_id = self.translate(recorded)
        work, _, rollback = words.partition("its rollback")
        if rollback:
            step = re.search(SECONDS, rollback)
            await self.do(
                "rollback",
                task_id=task_id,
                seconds=float(step[1]) if step else 0.0,
                fails=bool(re.search(r"\bfails?\b|raises", rollback)),
            )
        if not re.search(r"\bfail", work):
            await self.do("finish", task_id=task_id)
        elif code := re.search(r"\((\d+)\)", work):
            number = int(code[1])
            message = self.message_of(recorded, number)
            await self.do("fail", task_id=task_id, code=number, message=message)
        else:
            await self.do("fail", task_id=task_id, message=self.message_of(recorded, 100))
        # The work notices within the same moment, as a thread of VDSM does.
        await asyncio.sleep(0.002)
