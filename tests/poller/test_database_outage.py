"""A database server of the test's own is stopped, started, replaced, and left without standby."""

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyatm.database.embedded import EmbeddedServer, private_server
from pyatm.database.migrate import migrate
from pyatm.simulator.process import SimulatorProcess
from tests.poller.stage import UNTIL_TOLD, Stage, until
from tests.poller.standby import either, position, streaming_standby

Running = Callable[..., Any]


def lsn(text: str) -> tuple[int, int]:
    high, low = text.split("/")
    return int(high, 16), int(low, 16)


@pytest.fixture
def server() -> Generator[EmbeddedServer]:
    with private_server(durable=False) as server:
        migrate(server.dsn())
        yield server


async def test_the_database_is_shut_down_hard_and_comes_back(
    server: EmbeddedServer, tmp_path: Path, running: Running
) -> None:
    pool = str(uuid4())
    directory = tmp_path / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    with psycopg.connect(server.dsn(), autocommit=True) as before:
        stage = Stage(server.dsn(), before, tmp_path)
        stage.pool(host, pool_id=pool)
        poller = running(stage.poller())
        command, _ = await stage.command(host, pool)
        await until(lambda: stage.polled_host(pool), "the pool is polled")
    server.stop(immediate=True)
    await until(lambda: poller.logged("cannot look for pools"), "it has noticed")
    async with host.control() as control:
        await control.finish()
    server.start()
    with psycopg.connect(server.dsn(), autocommit=True) as after:
        stage.db = after
        await stage.ended(command, "succeeded")
    assert len(poller.logged("cannot look for pools")) == 1
    assert poller.end() == 0


async def test_nothing_is_done_at_vdsm_after_a_commit_without_its_standby(
    server: EmbeddedServer, tmp_path: Path, running: Running
) -> None:
    pool = str(uuid4())
    directory = tmp_path / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    with psycopg.connect(server.dsn(), autocommit=True) as db:
        db.execute("set synchronous_commit = local")
        stage = Stage(server.dsn(), db, tmp_path)
        stage.pool(host, pool_id=pool)
        poller = running(stage.poller(PYATM_POLLER__LEASE="3600"))
        command, _ = await stage.command(host, pool)
        await until(lambda: stage.polled_host(pool), "the pool is polled")
        standby = "alter system set synchronous_standby_names = '{}'"
        db.execute(standby.format("nobody").encode())
        db.execute("select pg_reload_conf()")
        async with host.control() as control:
            await control.finish()

            def cancelled() -> int:
                stage.value(
                    "select count(pg_cancel_backend(pid)) from pg_stat_activity"
                    " where wait_event = 'SyncRep'"
                )
                return len(poller.logged("report not confirmed by the standbys"))

            await until(lambda: cancelled() and stage.state(command) == "ready", "it is ready")
            assert stage.finish() == [(command, "succeeded")]
            seen = cancelled()
            # Each of these reports has asked for the clear.
            await until(lambda: cancelled() >= seen + 3, "further reports")
            assert len(await control.tasks()) == 1
            db.execute(standby.format("").encode())
            db.execute("select pg_reload_conf()")
            await until(lambda: stage.state(command) is None, "the command is cleared")
            async with asyncio.timeout(20):
                while await control.tasks():
                    await asyncio.sleep(0.05)


async def test_the_poller_follows_the_database_to_the_promoted_standby(
    server: EmbeddedServer, tmp_path: Path, running: Running
) -> None:
    pool = str(uuid4())
    directory = tmp_path / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    with streaming_standby(server) as standby:
        with psycopg.connect(server.dsn(), autocommit=True) as before:
            stage = Stage(server.dsn(), before, tmp_path)
            stage.pool(host, pool_id=pool)
            # The standby stands first, and refuses writes until it is promoted.
            dsn = make_conninfo(either(standby, server), options="-c role=atm_poller")
            poller = running(stage.poller(PYATM_DSN=dsn))
            command, _ = await stage.command(host, pool)
            await until(lambda: stage.polled_host(pool), "the pool is polled")
            host.pause()
            written = position(server)
            await until(lambda: lsn(position(standby)) >= lsn(written), "the standby has it all")
        server.stop(immediate=True)
        host.resume()
        await until(lambda: poller.logged("cannot look for pools"), "it has noticed")
        async with host.control() as control:
            await control.finish()
        with psycopg.connect(standby.dsn(), autocommit=True) as after:
            after.execute("select pg_promote()")
            stage.db = after
            await stage.ended(command, "succeeded")
            second, _ = await stage.command(host, pool)
            async with host.control() as control:
                await control.finish()
            await stage.ended(second, "succeeded")
        assert poller.end() == 0


async def test_the_poller_leaves_a_server_that_takes_no_writes_any_more(
    server: EmbeddedServer, tmp_path: Path, running: Running
) -> None:
    pool = str(uuid4())
    host = running(SimulatorProcess(tmp_path / "vdsm", pools=(pool,), spm=True))
    with streaming_standby(server) as standby:
        with psycopg.connect(server.dsn(), autocommit=True) as before:
            stage = Stage(server.dsn(), before, tmp_path)
            stage.pool(host, pool_id=pool)
            dsn = make_conninfo(either(server, standby), options="-c role=atm_poller")
            poller = running(stage.poller(PYATM_DSN=dsn, PYATM_POLLER__DATABASE_TIMEOUT="2"))
            await until(lambda: stage.polled_host(pool), "the pool is polled")
            # As after a switch-over without a restart: its connections live on.
            before.execute("alter system set default_transaction_read_only = on")
            before.execute("select pg_reload_conf()")
        with psycopg.connect(standby.dsn(), autocommit=True) as after:
            after.execute("select pg_promote()")
            stage.db = after
            command, _ = await stage.command(host, pool)
            await stage.ended(command, "succeeded")
            await until(
                lambda: stage.value(
                    "select count(*) from pg_stat_activity"
                    " where application_name = 'pyatm poller listen'"
                ),
                "it listens there",
            )
        assert poller.end() == 0
