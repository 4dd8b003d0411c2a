"""A call of the engine's client outside of a transaction: its own transaction, one round trip."""

import uuid
from pathlib import Path

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from bench.proxy import Counts, counting
from pyatm.engine import CommandPlan, Engine, EntityBusy, StaleEpoch, TaskPlan
from pyatm.engine.model import Entity
from pyatm.engine.sync import SyncEngine
from tests.conftest import AsyncConnect, Connect, Connection

POOL = uuid.UUID("5849b030-626e-47cb-ad90-3ce782d831b3")
DISK = Entity("Disk", uuid.UUID(int=1), "exclusive")


def plan() -> CommandPlan:
    return CommandPlan("RemoveDisk", entities=(DISK,), tasks=(TaskPlan("deleteImage", POOL),))


def commands(db: Connection) -> int:
    row = db.execute("select count(*) from atm.commands").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_call_alone_is_committed_and_leaves_the_connection_as_it_was(
    aconnect: AsyncConnect, db: Connection, autocommit: bool
) -> None:
    connection = await aconnect(autocommit=autocommit)
    engine = await Engine.start(connection, "test")
    await engine.set_pool(POOL, "pool", [("localhost", 54321)])
    await engine.plan_command(plan())
    assert commands(db) == 1
    with pytest.raises(EntityBusy):
        await engine.plan_command(plan())
    assert connection.autocommit is autocommit
    assert connection.info.transaction_status == TransactionStatus.IDLE
    # What comes afterwards is a transaction only if the connection makes it one.
    await connection.execute("select 1")
    begun = connection.info.transaction_status == TransactionStatus.INTRANS
    assert begun is not autocommit


@pytest.mark.parametrize("autocommit", [True, False])
def test_the_client_for_threads_does_the_same(
    connect: Connect, db: Connection, autocommit: bool
) -> None:
    connection = connect(autocommit=autocommit)
    engine = SyncEngine.start(connection, "test")
    engine.set_pool(POOL, "pool", [("localhost", 54321)])
    engine.plan_command(plan())
    assert commands(db) == 1
    with pytest.raises(EntityBusy):
        engine.plan_command(plan())
    assert connection.autocommit is autocommit
    assert connection.info.transaction_status == TransactionStatus.IDLE


def test_a_call_in_an_open_transaction_stays_part_of_it(connect: Connect, db: Connection) -> None:
    connection = connect(autocommit=False)
    engine = SyncEngine.start(connection, "test")
    engine.set_pool(POOL, "pool", [("localhost", 54321)])
    connection.execute("select 1")
    engine.plan_command(plan())
    assert commands(db) == 0
    connection.rollback()
    assert commands(db) == 0


async def test_the_isolation_level_of_the_connection_holds_for_a_call_alone(
    aconnect: AsyncConnect, db: Connection
) -> None:
    connection = await aconnect(autocommit=False)
    engine = await Engine.start(connection, "test")
    await connection.set_read_only(True)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await engine.set_pool(POOL, "pool", [("localhost", 54321)])
    await connection.set_read_only(None)
    await connection.set_isolation_level(IsolationLevel.SERIALIZABLE)
    await engine.set_pool(POOL, "pool", [("localhost", 54321)])
    await Engine.start(await aconnect(), "test")
    with pytest.raises(StaleEpoch):
        await engine.plan_command(plan())
    assert commands(db) == 0


def test_a_call_alone_is_one_round_trip(dsn: str, connect: Connect) -> None:
    directory = conninfo_to_dict(dsn).get("host")
    if not str(directory).startswith("/") or not Path(str(directory), ".s.PGSQL.5432").exists():
        pytest.skip("the server has no Unix socket that can be watched")
    with counting(Path(str(directory))) as (proxy, path):
        counts = Counts(path)
        watched = make_conninfo(dsn, host=str(proxy))
        with psycopg.connect(watched, autocommit=False) as connection:
            engine = SyncEngine.start(connection, "test")
            engine.set_pool(POOL, "pool", [("localhost", 54321)])
            before = counts.read()
            for _ in range(3):
                engine.can_compensate("Disk", DISK.id)
            after = counts.read()
    assert (after[0] - before[0], after[1] - before[1]) == (3, 3)
