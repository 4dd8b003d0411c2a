"""Runs the chaos: ``python -m tests.crash.poller_chaos --minutes 60 --seed 1``."""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from pyatm.database.embedded import private_server
from pyatm.database.migrate import migrate
from pyatm.simulator.control import ControlError
from tests.crash.evidence import Left
from tests.crash.poller_chaos.load import Load
from tests.crash.poller_chaos.trouble import Trouble
from tests.crash.poller_chaos.verdict import ended_commands, statistics, verdict
from tests.crash.poller_chaos.world import World, resident_kib

SETTLE: float = 150.0
"""Seconds after the last fault in which everything has to come to its end."""


async def run(world: World, seconds: float, seed: int, report: Any = print) -> list[str]:
    """One run; what is wrong, empty when all is well.

    :param seconds: of trouble; a wait for the end of everything follows.
    :param report: called with lines of text.
    """
    chance = random.Random(seed)
    load = Load(world, random.Random(chance.random()))
    trouble = Trouble(world, random.Random(chance.random()))
    memory: list[int] = []
    await world.start()
    working = asyncio.create_task(load.run())
    watching = asyncio.create_task(world.watch())
    while not load.epoch:
        await asyncio.sleep(0.01)
    ending = asyncio.create_task(load.end_actions())
    troubling = asyncio.create_task(trouble.run())
    begun, pause = time.monotonic(), max(seconds / 60, 0.5)
    while (passed := time.monotonic() - begun) < seconds:
        await asyncio.wait(
            [working, watching, ending, troubling],
            timeout=pause,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in (working, watching, ending, troubling):
            if task.done():
                task.result()
        memory.append(resident_kib(world.veteran))
        report(
            f"{passed:6.0f} s: {len(load.planned)} commands, {len(load.effects)} ended, "
            f"{sum(trouble.done.values())} faults, veteran {memory[-1]} KiB"
        )
    for task in (troubling, working, watching):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await trouble.end()
    await world.calm()
    watching = asyncio.create_task(world.watch())
    begun = time.monotonic()
    left = await settle(world)
    report(f"settled in {time.monotonic() - begun:.0f} s")
    for task in (ending, watching):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    memory.append(resident_kib(world.veteran))
    report(
        json.dumps(
            {
                "outcomes": statistics(world, await ended_commands(world)),
                "sent": load.sent,
                "faults": dict(trouble.done),
                "veteran_kib": [memory[0], max(memory), memory[-1]],
            }
        )
    )
    return await verdict(world, load, left, memory)


async def settle(world: World) -> Left:
    """Wait until nothing is left, or time is up; what is left then."""
    until = time.monotonic() + SETTLE
    async with await world.connect() as connection:
        while True:
            live: list[str] = []
            for view in (b"commands", b"tasks", b"entities", b"orphans"):
                cursor = await connection.execute(b"select x::text from atm." + view + b" x")
                live += [f"atm.{view.decode()}: {row[0]}" for row in await cursor.fetchall()]
            at_vdsm: list[str] = []
            if not live:
                try:
                    for site in world.sites:
                        at_vdsm += await site.at_vdsm()
                except ControlError as error:
                    at_vdsm.append(str(error))
                if not at_vdsm:
                    return Left()
            if time.monotonic() > until:
                cursor = await connection.execute(
                    b"select distinct root_command_id::text from atm.commands"
                )
                roots = frozenset(row[0] for row in await cursor.fetchall())
                return Left(tuple(live), tuple(at_vdsm), roots)
            await asyncio.sleep(0.3)


def main() -> int:
    """Exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.poller_chaos")
    parser.add_argument("--minutes", type=float, default=1.0, help="of trouble")
    parser.add_argument("--seed", type=int, default=None, help="of the faults and the load")
    parser.add_argument("--keep", action="store_true", help="keep the logs and say where")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}, {given.minutes:g} min", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="pyatm-chaos-"))
    # Only what is wrong is of interest here, not every connection of the load.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    with private_server(durable=False) as server:
        migrate(server.dsn())
        world = World(directory, server.dsn())
        try:
            wrong = asyncio.run(
                run(world, given.minutes * 60, seed, lambda text: print(text, flush=True))
            )
        finally:
            world.stop()
    for line in wrong:
        print(f"WRONG: {line}")
    if wrong or given.keep:
        print(f"logs in {directory}")
    else:
        shutil.rmtree(directory)
    print("all is well" if not wrong else f"{len(wrong)} things are wrong; seed {seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
