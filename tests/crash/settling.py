"""After the faults: a bounded number of polls has to bring everything to an end."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pyatm.simulator.control import ControlError
from pyatm.simulator.execution_log import read_events
from tests.crash.breaking import control_of
from tests.crash.connection import Patient
from tests.crash.evidence import Left
from tests.crash.recording import Recorder
from tests.crash.world import World

POLLS: Final = 300
"""Polls of each pool in which everything has to be over; one every 0.15 to 0.5 s."""
LONGEST: Final = 240.0
"""Seconds, for machines on which even that takes long."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How it went.

    Attributes:
        seconds: from the end of the faults.
        polls: of the pool that was polled least.
    """

    left: Left
    seconds: float
    polls: int


@dataclass(slots=True)
class Operator:
    """Does what the design says that an operator decides.

    Attributes:
        acted: how often, by what was stuck.
    """

    patient: Patient
    recorder: Recorder
    acted: Counter[str] = field(default_factory=Counter[str])

    async def act(self) -> None:
        """Look at `atm.stuck` once; endActions that gave up are tried again."""
        rows = await self.patient.rows(
            "SELECT root_command_id::text AS root, waits_for FROM atm.stuck"
            " WHERE turn = 'operator' AND remedy LIKE '%%retry_end_action%%'"
        )
        for row in rows:
            await self.patient.rows(
                "SELECT atm.retry_end_action(%s, reason => 'chaos', dry_run => false)", row["root"]
            )
            self.acted[row["waits_for"]] += 1
            self.recorder.write("operator", root=row["root"], waits_for=row["waits_for"])

    async def run(self, every: float = 3.0) -> None:
        """Until cancelled."""
        while True:
            await self.act()
            await asyncio.sleep(every)


async def settle(world: World, patient: Patient, operator: Operator) -> Settled:
    """Wait until nothing is left, or until the polls are used up."""
    begun = time.monotonic()
    polled: dict[str, set[object]] = {}
    while True:
        await operator.act()
        for row in await patient.rows(
            "SELECT storage_pool_id::text AS pool, polled_at FROM atm.pools"
        ):
            polled.setdefault(row["pool"], set()).add(row["polled_at"])
        seconds = time.monotonic() - begun
        polls = min((len(times) - 1 for times in polled.values()), default=0)
        left = await look(world, patient)
        if not (left.live or left.at_vdsm) or polls >= POLLS or seconds > LONGEST:
            return Settled(left, seconds, polls)
        await asyncio.sleep(0.1)


async def look(world: World, patient: Patient) -> Left:
    """What is there now."""
    live: list[str] = []
    for view, columns in (
        ("commands", "command_id, state, outcome, engine_name, open_tasks"),
        ("tasks", "task_id, state, outcome, vdsm_task_id, vdsm_state"),
        ("entities", "entity_type, entity_id, access"),
        ("orphans", "vdsm_task_id, vdsm_state, meaning"),
    ):
        rows = await patient.rows(f"SELECT {columns} FROM atm.{view}")
        live += [f"atm.{view}: {' '.join(str(value) for value in row.values())}" for row in rows]
    roots = await patient.rows("SELECT DISTINCT root_command_id::text AS root FROM atm.commands")
    named = await patient.rows("SELECT root_command_id::text AS root FROM atm.stuck")
    return Left(
        tuple(live),
        tuple([] if live else await _at_vdsm(world)),
        frozenset(row["root"] for row in roots),
        frozenset(row["root"] for row in named),
    )


async def _at_vdsm(world: World) -> list[str]:
    found: list[str] = []
    for name, host in world.hosts.items():
        # Files that cannot be read stay on the disk: VDSM does not know such a task any more.
        damaged = {e.task_id for e in read_events(host.directory) if e.event == "dropped_at_load"}
        try:
            async with control_of(host) as control:
                status = await control.status()
                found += [f"{name}: {task['id']} in memory" for task in await control.tasks()]
                for pool in status["pools"]:
                    stored = set(await control.stored_tasks(pool)) - damaged
                    found += [f"{name}: {task} on disk" for task in stored]
        except ControlError as error:
            found.append(f"{name} does not answer: {error}")
    return found
