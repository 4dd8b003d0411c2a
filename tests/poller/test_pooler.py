"""PgBouncer in transaction mode between the poller's calls and the database."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyatm.simulator.process import SimulatorProcess
from tests.poller.stage import PATIENCE, UNTIL_TOLD, Stage, until

Running = Callable[..., Any]
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer (Debian: pgbouncer)")

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} {password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
ignore_startup_parameters = extra_float_digits,options
"""


@pytest.fixture
def pooled_dsn(dsn: str) -> Generator[str]:
    """The test's database through a pooler that has two connections to it."""
    assert PROGRAM is not None
    place = conninfo_to_dict(dsn)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not pytest's: the account that it runs as cannot enter that.
    directory = Path(tempfile.mkdtemp(prefix="pyatm-pooler-"))
    password = f"password={place['password']}" if place.get("password") else ""
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(
            host=place["host"],
            port=place.get("port") or 5432,
            user=place["user"],
            password=password,
            listen_port=port,
        )
    )
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        # It refuses to run as root; the server's socket lets its own account in.
        entry = _account()
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(directory, entry.pw_uid, entry.pw_gid)
    with (directory / "log").open("wb") as log:
        child = subprocess.Popen(
            [PROGRAM, str(configuration)], stdout=log, stderr=log, cwd="/", **account
        )
    try:
        pooled = make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable")
        _await_answer(pooled, directory / "log")
        yield pooled
    finally:
        child.terminate()
        child.wait(PATIENCE)
        shutil.rmtree(directory)


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _await_answer(dsn: str, log: Path) -> None:
    for attempt in range(200):
        try:
            psycopg.connect(dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            if attempt == 199:
                raise AssertionError(log.read_text()) from None
            asyncio.run(asyncio.sleep(0.1))
        else:
            return


async def test_a_poller_works_through_a_pooler_in_transaction_mode(
    stage: Stage, pooled_dsn: str, running: Running
) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    # Only a notification, heard on the direct connection, finds the first task in time.
    poller = running(
        stage.poller(
            PYATM_DSN=pooled_dsn,
            PYATM_LISTEN_DSN=stage.dsn,
            PYATM_POLLER__IDLE_INTERVAL="3600",
            PYATM_POLLER__RESCAN_INTERVAL="3600",
            PYATM_POLLER__LEASE="3600",
        )
    )
    await until(lambda: stage.polled_host(pool), "the pool is polled")
    command, _ = await stage.command(host, pool, 2)
    # The pooler's connections end under it.
    stage.value(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and application_name = 'pyatm poller'"
    )
    async with host.control() as control:
        await control.finish()
    await stage.ended(command, "succeeded")
    assert poller.end() == 0
