"""Things run out: file descriptors of the poller, room on the database server's disk."""

import asyncio
import os
import resource
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyatm.database.embedded import EmbeddedServer
from pyatm.database.migrate import migrate
from pyatm.simulator.process import SimulatorProcess
from tests.poller.stage import UNTIL_TOLD, Stage, until

Running = Callable[..., Any]


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit (Linux)")
async def test_a_poller_without_file_descriptors_waits_for_some(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    poller = running(stage.poller())
    command, _ = await stage.command(host, pool)
    await until(lambda: stage.polled_host(pool), "the pool is polled")
    pid = poller.child.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # No number below this one is free to be used again: what it has is above.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    used = processor_seconds(pid)
    async with host.control() as control:
        await control.drop_connections()
        stage.value(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        await until(lambda: "Too many open files" in poller.log(), "it has run out of descriptors")
        await control.finish()
        await asyncio.sleep(2)
        # It waits between its attempts.
        assert processor_seconds(pid) - used < 1.5
        assert stage.state(command) == "sealed"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        await stage.ended(command, "succeeded")
    assert poller.end() == 0


@pytest.fixture
def small_disk() -> Generator[Path]:
    """A directory on a file system of 180 MB."""
    # Not pytest's: the server's account cannot enter that.
    directory = Path(tempfile.mkdtemp(prefix="pyatm-disk-"))
    with suppress(FileNotFoundError):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=180m,mode=755", "pyatm-test", str(directory)],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            try:
                yield directory
            finally:
                subprocess.run(["umount", "--lazy", str(directory)], check=True)
                directory.rmdir()
            return
    directory.rmdir()
    pytest.skip("needs the right to mount a tmpfs")


@pytest.fixture
def server(small_disk: Path) -> Generator[EmbeddedServer]:
    server = EmbeddedServer(small_disk / "server", private=True, delete=True, durable=False)
    try:
        server.start()
        migrate(server.dsn())
        yield server
    finally:
        server.close()


def fill(directory: Path) -> Path:
    """Take what is left of the disk."""
    filler = directory / "filler"
    with filler.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    return filler


async def test_a_full_disk_of_the_server_stops_nothing_for_good(
    server: EmbeddedServer, small_disk: Path, tmp_path: Path, running: Running
) -> None:
    pool = str(uuid.uuid4())
    directory = tmp_path / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    with psycopg.connect(server.dsn(), autocommit=True) as before:
        stage = Stage(server.dsn(), before, tmp_path)
        stage.pool(host, pool_id=pool)
        poller = running(stage.poller())
        command, _ = await stage.command(host, pool)
        await until(lambda: stage.polled_host(pool), "the pool is polled")
        filler = fill(small_disk)
        # Until the log cannot grow any more, which ends the server.
        with pytest.raises(psycopg.OperationalError):
            while True:
                before.execute(
                    "select pg_logical_emit_message(false, 'test', repeat('.', 1000000))"
                )
        async with host.control() as control:
            await control.finish()
        await until(lambda: poller.logged("cannot look for pools"), "the poller has noticed")
    filler.unlink()
    await until(lambda: server.is_running() or server.pid is None, "it has recovered or ended")
    await asyncio.to_thread(server.start)
    with psycopg.connect(server.dsn(), autocommit=True) as after:
        stage.db = after
        await stage.ended(command, "succeeded")
    assert poller.child.poll() is None
    assert poller.end() == 0
