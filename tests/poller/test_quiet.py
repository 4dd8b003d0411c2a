"""What a poller costs the database while nothing happens, and what a clock that jumps does."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from pyatm.simulator.process import SimulatorProcess
from tests.conftest import Connection
from tests.poller.stage import UNTIL_TOLD, Stage, until

Running = Callable[..., Any]
RUNNING = {"taskState": "running", "taskResult": "", "code": 0, "message": "running job 1 of 1"}
WRITTEN = (
    "select relname, (n_tup_ins + n_tup_upd + n_tup_del)::int from pg_stat_xact_all_tables"
    " where schemaname like 'atm%' and n_tup_ins + n_tup_upd + n_tup_del > 0"
)
LEASES = "select count(*), max(lease_until) from atm.acquire_pools('us', 10, '10 s')"


def written(db: Connection, step: Callable[[], object]) -> dict[str, int]:
    """Rows that a step writes, by table."""
    with db.transaction():
        # What earlier transactions wrote may still be counted.
        before = dict(db.execute(WRITTEN.encode()).fetchall())
        step()
        after = dict(db.execute(WRITTEN.encode()).fetchall())
    return {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name, 0)}


def make_pools(stage: Stage, count: int) -> list[str]:
    pools = [str(uuid.uuid4()) for _ in range(count)]
    for pool in pools:
        stage.value('select atm.set_pool(%s, %s, \'[{"address": "nowhere"}]\')', pool, pool)
    return pools


def test_a_quiet_poll_writes_one_row_and_a_quiet_look_none(stage: Stage) -> None:
    (pool,) = make_pools(stage, 1)
    _, tasks = stage.plan(pool, 5)
    statuses: dict[str, object] = {}
    for task in tasks:
        vdsm_id = str(uuid.uuid4())
        stage.bind(task, vdsm_id)
        statuses[vdsm_id] = {"taskID": vdsm_id, **RUNNING}
    db = stage.db

    def look() -> int:
        row = db.execute("select token from atm.acquire_pools('us', 10, '30 s')").fetchone()
        assert row is not None
        return row[0]

    def poll() -> None:
        db.execute(
            "select from atm.report_poll(%s, %s, clock_timestamp(), %s, %s)",
            [token, pool, '{"host": "a", "spm_id": 1, "lver": 1}', json.dumps(statuses)],
        )

    token = look()
    poll()
    assert written(db, look) == {}
    assert written(db, poll) == {"pool_poll": 1}
    assert look() == token


def test_a_lease_is_extended_once_half_of_it_is_over(stage: Stage) -> None:
    make_pools(stage, 2)
    db = stage.db
    taken = db.execute(LEASES).fetchone()
    assert taken == db.execute(LEASES).fetchone()
    db.execute("update atm_internal.pool_poll set lease_until = lease_until - interval '6 s'")
    assert written(db, lambda: db.execute(LEASES)) == {"pool_poll": 2}
    later = db.execute(LEASES).fetchone()
    assert taken is not None
    assert later is not None
    assert later[0] == 2
    assert later[1] >= taken[1]


def test_pools_are_given_up_and_taken_up_to_the_limit(stage: Stage, db: Connection) -> None:
    make_pools(stage, 5)

    def held(poller: str, limit: int) -> int:
        return len(
            db.execute("select from atm.acquire_pools(%s, %s, '10 s')", [poller, limit]).fetchall()
        )

    assert [held("one", 4), held("two", 4), held("one", 2), held("two", 4)] == [4, 1, 2, 3]
    assert [held("one", 0), held("two", 10), held("one", 10)] == [0, 5, 0]


async def test_a_clock_that_was_set_back_keeps_no_pool_from_being_polled_or_taken_over(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    db = stage.db
    db.execute("select from atm.acquire_pools('dead', 1, '1 h')")
    db.execute(
        "select from atm.report_poll((select token from atm.acquire_pools('dead', 1, '1 h')),"
        """ %s, clock_timestamp(), '{"host": "a", "spm_id": 1, "lver": 1}', '{}')""",
        [pool],
    )
    command, _ = await stage.command(host, pool)
    # To the database it is yesterday now: all that it has written lies in the future.
    db.execute(
        "update atm_internal.pool_poll set lease_until = lease_until + interval '1 day',"
        " polled_at = polled_at + interval '1 day', reported_at = reported_at + interval '1 day'"
    )
    poller = running(stage.poller())
    await until(lambda: stage.holder(pool) == poller.name, "it is taken over")
    async with host.control() as control:
        await control.finish()
    await stage.ended(command, "succeeded")
