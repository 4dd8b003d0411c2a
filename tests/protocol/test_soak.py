"""A client under random faults: no call outlives its deadline, nothing leaks, no outcome lies.

``make soak MINUTES=10`` runs it long; ``PYATM_SOAK_SEED`` repeats the choice of faults.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tracemalloc
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyatm.simulator.execution_log import read_tasks
from pyatm.simulator.faults import Action, Match, Rule
from pyatm.simulator.operations import Operations
from pyatm.simulator.plans import JobPlan
from pyatm.simulator.server import Simulator
from pyatm.simulator.settings import SimulatorSettings
from pyatm.vdsm import (
    Address,
    Answered,
    Backoff,
    ClientSettings,
    ConnectionSettings,
    LateAnswer,
    NotSent,
    Refused,
    Sending,
    Unknown,
    VdsmClient,
    VdsmError,
    outcome,
)

SECONDS = float(os.environ.get("PYATM_SOAK_SECONDS", "5"))
SEED = int(os.environ.get("PYATM_SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
POOL, DOMAIN = str(uuid.uuid4()), str(uuid.uuid4())
# How late a call may end when the machine is busy; a call that hangs is later than any machine.
LAG = 10.0
WORKERS = 8


@dataclass(slots=True)
class Story:
    """What the client was told, per image that was to be deleted."""

    ended: dict[str, Any] = field(default_factory=dict)
    late: dict[str, LateAnswer] = field(default_factory=dict)
    calls: int = 0
    latest: float = 0.0  # seconds after its deadline that a call ended, at most


async def work(client: VdsmClient, story: Story, rng: random.Random, until: float) -> None:
    now = asyncio.get_running_loop().time
    while now() < until:
        limit = rng.choice((0.05, 0.3, 1.0))
        start, image = now(), str(uuid.uuid4())
        kind = rng.randrange(6)
        if kind < 2:
            sending = Sending(timeout=limit, correlation_id=image)
            call = client.image.delete(image, pool_id=POOL, domain_id=DOMAIN, sending=sending)
            story.ended[image] = await outcome(call)
        elif kind == 2:
            await outcome(client.host.get_all_tasks_statuses(timeout=limit))
        elif kind == 3:
            await outcome(client.pool.get_spm_status(POOL, timeout=limit))
        elif kind == 4:
            await outcome(client.task.clear(str(uuid.uuid4()), timeout=limit))
        else:
            cancelled = asyncio.create_task(outcome(client.host.ping(timeout=limit)))
            await asyncio.sleep(rng.uniform(0, limit))
            cancelled.cancel()
            await asyncio.wait((cancelled,))
        story.calls += 1
        story.latest = max(story.latest, now() - start - limit)
        await asyncio.sleep(rng.uniform(0, 0.02))


async def disturb(simulator: Simulator, rng: random.Random, until: float) -> None:
    operations = Operations(simulator)
    now = asyncio.get_running_loop().time
    actions = [a for a in Action if a not in (Action.KILL_BEFORE, Action.KILL_AFTER)]
    while now() < until:
        what = rng.randrange(12)
        if what == 0:
            await simulator.restart(down_seconds=rng.uniform(0, 0.3), starting_seconds=0.1)
        elif what == 1:
            await operations.perform("half_open", {})
        elif what == 2:
            await operations.perform("deaf", {"on": True})
            await asyncio.sleep(rng.uniform(0, 0.5))
            await operations.perform("deaf", {"on": False})
        elif what == 3:
            await operations.perform("drop_connections", {})
        else:
            action = rng.choice(actions)
            simulator.faults.add(
                Rule(action, Match(), skip=rng.randrange(5), seconds=rng.uniform(0, 0.5))
            )
        await asyncio.sleep(rng.uniform(0, 0.2))
    simulator.faults.remove(None)


def held() -> tuple[int, int]:
    gc.collect()
    return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))


async def test_no_call_outlives_its_deadline_and_nothing_leaks_under_random_faults(
    tmp_path: Path,
) -> None:
    print(f"repeat with PYATM_SOAK_SEED={SEED}")
    rng, story = random.Random(SEED), Story()
    settings = SimulatorSettings(
        directory=tmp_path, pools=(POOL,), spm=True, seed=SEED, plan=JobPlan(0.05)
    )
    client_settings = ClientSettings(
        backoff=Backoff(first=0.02, longest=0.2),
        late_answers=200,
        connection=ConnectionSettings(connect_timeout=1, heart_beat_out=1, heart_beat_in=1),
    )
    async with Simulator(settings) as simulator:
        before = held()
        client = VdsmClient(
            Address("127.0.0.1", simulator.port),
            settings=client_settings,
            on_late_answer=lambda late: story.late.update({late.correlation_id or "": late}),
        )
        async with client:
            until = asyncio.get_running_loop().time() + SECONDS
            workers = [work(client, story, rng, until) for _ in range(WORKERS)]
            async with asyncio.timeout(SECONDS + 60):
                await asyncio.gather(disturb(simulator, rng, until), *workers)
            assert story.latest < LAG
            await well_again(client)
            assert client.state.in_flight == 0
            assert len(client._requests._overdue) <= client_settings.late_answers
        async with asyncio.timeout(30):
            # The server needs a moment to see that the connection is gone.
            while held()[0] > before[0] or held()[1] > before[1] + WORKERS:
                await asyncio.sleep(0.1)
        judge(story, tmp_path)


async def well_again(client: VdsmClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.connect()
                await client.host.ping(timeout=2)
            except VdsmError:
                await asyncio.sleep(0.1)
            else:
                return


def judge(story: Story, directory: Path) -> None:
    """Compare what the client was told with what the simulator executed."""
    kinds = Counter(type(ended).__name__ for ended in story.ended.values())
    print(f"{story.calls} calls, latest end {story.latest:.2f} s after its deadline")
    print(f"creating calls: {dict(kinds)}, late answers to them: {len(story.late)}")
    made: dict[str, list[str]] = {}
    for task in read_tasks(directory).values():
        made.setdefault(str(task.params.get("imageID")), []).append(task.task_id)
    for image, ended in story.ended.items():
        tasks = made.get(image, [])
        assert len(tasks) <= 1, "executed twice"  # a creating verb is never repeated
        if isinstance(ended, Answered):
            assert tasks == [ended.value]
        elif isinstance(ended, NotSent | Refused):
            assert not tasks, (image, ended)
        else:
            assert isinstance(ended, Unknown)
    for image, late in story.late.items():
        if isinstance(late.answer, Answered) and late.method == "Image.delete":
            assert made[image] == [late.answer.value]
    assert any(isinstance(ended, Answered) for ended in story.ended.values())
    assert story.calls > WORKERS


@pytest.mark.skipif(SECONDS < 60, reason="memory is judged in long runs: make soak")
async def test_memory_is_flat_over_a_long_run(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    settings = SimulatorSettings(directory=tmp_path, pools=(POOL,), spm=True)
    async with Simulator(settings) as simulator:
        address = Address("127.0.0.1", simulator.port)
        limits = ClientSettings(backoff=Backoff(0.02, 0.2), late_answers=200)
        async with VdsmClient(address, settings=limits) as client:
            sizes: list[int] = []
            tracemalloc.start()
            try:
                for _ in range(4):
                    for _ in range(2000):
                        timeout = rng.choice((0.0005, 5.0))
                        await outcome(client.host.ping(timeout=timeout))
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
            finally:
                tracemalloc.stop()
            assert sizes[-1] < sizes[0] + 500_000, sizes
