"""Pools are shared evenly by the pollers that are there, and none is left alone."""

import signal
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from pyatm.poller.share import Census, FairShare
from pyatm.simulator.process import SimulatorProcess
from tests.poller.stage import Stage, until

Running = Callable[..., Any]


def test_pools_that_nobody_takes_are_taken_over_the_share() -> None:
    share = FairShare(patience=0.0)
    census = Census(pools=5, free=2, pollers=2)
    assert share.limit(census, held=3, max_pools=10) == 3
    assert share.limit(census, held=3, max_pools=10) == 10
    assert share.limit(Census(pools=5, free=0, pollers=2), held=5, max_pools=10) == 10


def test_the_share_is_never_above_the_setting() -> None:
    share = FairShare(patience=60.0)
    assert share.limit(Census(pools=100, free=100, pollers=1), held=0, max_pools=7) == 7
    assert share.limit(Census(pools=0, free=0, pollers=0), held=0, max_pools=7) == 0


async def test_pools_are_spread_when_pollers_come_and_go(stage: Stage, running: Running) -> None:
    pools = tuple(str(uuid.uuid4()) for _ in range(4))
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=pools, spm=True))
    for pool in pools:
        stage.pool(host, pool_id=pool)

    def held() -> Counter[str | None]:
        return Counter(stage.holder(pool) for pool in pools)

    first = running(stage.poller())
    assert held() == {first.name: 4}
    second = running(stage.poller())
    await until(lambda: held() == {first.name: 2, second.name: 2}, "two each")
    first.end(signal.SIGKILL)
    await until(lambda: held() == {second.name: 4}, "all with the one that is left")


async def test_the_pools_of_a_frozen_poller_are_taken_over_the_share(
    stage: Stage, running: Running
) -> None:
    pools = tuple(str(uuid.uuid4()) for _ in range(2))
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=pools, spm=True))
    for pool in pools:
        stage.pool(host, pool_id=pool)
    first, second = running(stage.poller()), running(stage.poller())
    await until(lambda: {stage.holder(pool) for pool in pools} == {first.name, second.name}, "one")
    first.send(signal.SIGSTOP)
    # Its connections stay, so it still counts as a poller that would have a share.
    await until(lambda: {stage.holder(pool) for pool in pools} == {second.name}, "both")
