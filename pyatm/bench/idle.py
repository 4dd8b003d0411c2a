"""Idle system: from the commit of the report that makes a command ready to its claim."""

import asyncio
import threading
import time
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from pyatm.bench.lifecycle import Lifecycle
from pyatm.bench.measure import percentiles
from pyatm.engine import EndAction, EndActionRunner, Engine, Finish

TIMEOUT = 30.0


class _Nothing:
    """An endAction without effect."""

    async def prepare(self, end_action: EndAction) -> None:
        del end_action

    async def apply(self, connection: Any, end_action: EndAction, prepared: Any) -> Finish:
        del connection, end_action, prepared
        return Finish()


class _Claims:
    """When the runner was given an endAction."""

    def __init__(self) -> None:
        self.at = 0.0
        self.claimed = threading.Event()
        self.finished = threading.Event()

    async def observe(self, event: str, end_action: EndAction, detail: str) -> None:
        del end_action, detail
        if event == "claimed":
            self.at = time.monotonic()
            self.claimed.set()
        else:
            self.finished.set()


def ready_to_claimed(dsn: str, work: Lifecycle, rounds: int) -> dict[str, float | None]:
    """One command at a time, claimed by the engine's own runner, which sleeps until NOTIFY.

    The claim is a durable commit. `commit_p50` is what the smallest durable commit takes on the
    same disk at the same time: the part of the wait that no task manager can avoid.

    Args:
        dsn: the database.
        work: nothing of it is open.
        rounds: commands.

    Returns:
        Milliseconds: `p50`, `p99`, `commit_p50`.
    """
    claims = _Claims()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def runner() -> None:
        async with AsyncConnectionPool(dsn, min_size=2, max_size=2, open=False) as pool:
            engine = Engine(pool, work.epoch)
            await EndActionRunner(engine, _Nothing(), listen_dsn=dsn, observe=claims.observe).run(
                stop
            )

    thread = threading.Thread(target=loop.run_until_complete, args=[runner()], daemon=True)
    thread.start()
    waits: list[float] = []
    commits: list[float] = []
    try:
        with psycopg.connect(dsn, autocommit=True) as hands:
            hands.execute("CREATE TABLE IF NOT EXISTS floor.probe (number int)")
            for number in range(rounds + 5):
                claims.claimed.clear()
                claims.finished.clear()
                work.submit(hands)
                begin = time.monotonic()
                hands.execute("INSERT INTO floor.probe VALUES (%s)", [number], prepare=True)
                commits.append(time.monotonic() - begin)
                _, reported = work.poll(hands)
                if not claims.claimed.wait(TIMEOUT) or not claims.finished.wait(TIMEOUT):
                    raise TimeoutError(f"the runner claimed nothing within {TIMEOUT:g} s")
                waits.append(claims.at - reported)
                work.poll(hands)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT)
    # The first ones prepare statements and connect.
    return {**percentiles(waits[5:]), "commit_p50": percentiles(commits[5:])["p50"]}
