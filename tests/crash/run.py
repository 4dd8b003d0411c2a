"""One run: everything is started, broken for some minutes, calmed, and judged."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.breaking import Breaker
from tests.crash.checker import Violation, check
from tests.crash.connection import Patient
from tests.crash.evidence import Evidence
from tests.crash.gathering import gather
from tests.crash.load import POOLS
from tests.crash.load_engine import DRAIN
from tests.crash.probing import Prober
from tests.crash.recording import Recorder, read_lines
from tests.crash.schedule import HOSTS, Life, faults, lives
from tests.crash.settling import Operator, Settled, settle
from tests.crash.world import SETTINGS, World


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run.

    Attributes:
        faults: done, by kind.
        ended: how processes ended that were not killed, with how often.
        points: `point deed` at which an engine died or stopped, with how often.
        starts: of each process.
        operator: what an operator had to decide, with how often.
    """

    evidence: Evidence
    violations: list[Violation]
    settled: Settled
    faults: Counter[str]
    ended: Counter[str]
    points: Counter[str]
    starts: Counter[str]
    operator: Counter[str]
    unexpected: Counter[str]


async def run(directory: Path, seed: int, seconds: float, *, interval: float = 1.5) -> Result:
    """A whole run.

    Args:
        directory: for all its files; the database's account must be able to enter it.
        seed: of the faults, the points and the load.
        seconds: with faults; starting before and settling after come on top.
        interval: seconds between two faults on average.
    """
    world = World(directory, seed)
    recorder: Recorder | None = None
    try:
        await asyncio.to_thread(world.start)
        recorder = Recorder(world.histories, "harness")
        return await _run(world, recorder, seconds, interval)
    finally:
        await asyncio.to_thread(world.stop)
        if recorder is not None:
            recorder.close()


async def _run(world: World, recorder: Recorder, seconds: float, interval: float) -> Result:
    patients = [Patient(world.dsn()) for _ in range(4)]
    main, for_breaker, for_prober, for_operator = patients
    await _prepare(world, main)
    breaker = Breaker(world, lives(world.seed), recorder, for_breaker)
    prober = Prober(for_prober, recorder, random.Random(f"prober {world.seed}"))
    operator = Operator(for_operator, recorder)
    for name in ("engine-1", "engine-2"):
        world.start_engine(name, Life())
    background = [
        asyncio.create_task(work) for work in (breaker.supervise(), prober.run(), operator.run())
    ]
    try:
        await _break(world, breaker, background, seconds, interval)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        (world.histories / DRAIN).touch()
        await breaker.calm()
        supervisor = asyncio.create_task(breaker.supervise())
        settled = await settle(world, main, operator)
        supervisor.cancel()
        evidence = await gather(main, world.histories, world.storage, settled.left)
    finally:
        for task in background:
            task.cancel()
        for patient in patients:
            await patient.close()
    lines = list(read_lines(world.histories))
    return Result(
        evidence,
        check(evidence),
        settled,
        breaker.done,
        breaker.ended,
        Counter(f"{x['point']} {x['deed']}" for x in lines if x["what"] == "point"),
        world.lives,
        operator.acted,
        Counter(f"{x['kind']}: {x['reason'][:100]}" for x in lines if x["what"] == "gave_up"),
    )


async def _prepare(world: World, patient: Patient) -> None:
    """The tables of the load, the shortened settings, the pools."""
    statements = (Path(__file__).parent / "chaos.sql").read_text()
    await patient.script(statements)
    for name, value in SETTINGS.items():
        await patient.rows("SELECT atm.set_setting(%s, %s, 'chaos')", name, value)
    for pool, names in ((POOLS[0], HOSTS[:2]), (POOLS[1], HOSTS[2:])):
        hosts: list[dict[str, Any]] = [
            {"address": world.hosts[name].host, "port": world.hosts[name].port} for name in names
        ]
        await patient.set_pool(str(pool), hosts)


async def _break(
    world: World,
    breaker: Breaker,
    background: list[asyncio.Task[None]],
    seconds: float,
    interval: float,
) -> None:
    end = time.monotonic() + seconds
    for fault in faults(world.seed, interval):
        left = end - time.monotonic()
        if fault.after >= left:
            await asyncio.sleep(max(left, 0))
            return
        await asyncio.sleep(fault.after)
        await breaker.apply(fault)
        for task in background:
            if task.done():
                task.result()  # the harness itself is broken
                raise RuntimeError("a part of the harness has ended")
