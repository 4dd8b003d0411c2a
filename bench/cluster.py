"""A PostgreSQL cluster of our own: Debian's where it is installed, else the embedded one."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg.conninfo import make_conninfo

from pyatm.database.postgres_programs import (
    Programs,
    clean_environment,
    find_programs,
    server_account,
)

SETTINGS = {
    "listen_addresses": "",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "jit": "off",
    "log_min_messages": "warning",
}
START_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server.

    Attributes:
        directory: of its socket.
        postmaster: process id.
        version: as the server says it.
    """

    directory: Path
    postmaster: int
    version: str

    def dsn(self, database: str = "postgres") -> str:
        """Connection string of its superuser."""
        return make_conninfo(host=str(self.directory), port=5432, user="postgres", dbname=database)

    def create(self, database: str) -> bool:
        """Make a database; False if it is there already."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [database]
            ).fetchone()
            if found is None:
                connection.execute(f'CREATE DATABASE "{database}"'.encode())
            return found is None

    def set(self, name: str, value: str) -> None:
        """Change a setting of the whole server that needs no restart."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute(f"SHOW {name}".encode()).fetchone() != (value,):
                time.sleep(0.02)
            connection.execute("CHECKPOINT")


def installed() -> Programs:
    """Debian's newest server, else the embedded one."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3])
    )
    return Programs(found[-1].parent, server_account()) if found else find_programs()


def end_cleanly() -> None:
    """A terminated run takes its cluster along."""

    def end(*_: object) -> None:
        # Whoever terminates a group of processes may do it twice.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)


@contextmanager
def running(
    parent: Path | None = None, changed: Mapping[str, str] = MappingProxyType({})
) -> Generator[Cluster]:
    """A new cluster, gone with its files at the end of the block.

    Args:
        parent: where its directory goes; None: the temporary directory. It should be on the disk
            that is to be measured, not in memory.
        changed: settings other than `SETTINGS`.
    """
    programs = installed()
    directory = Path(tempfile.mkdtemp(prefix="pyatm-bench-", dir=parent))
    if os.geteuid() == 0:
        os.chown(directory, programs.account.uid, programs.account.gid)
    data = directory / "data"
    server: subprocess.Popen[bytes] | None = None
    try:
        programs.run(
            "initdb",
            f"--pgdata={data}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            cwd=directory,
            timeout=120,
        )
        # In the file, not as arguments: those could not be changed while the server runs.
        settings = {**SETTINGS, **changed, "unix_socket_directories": str(directory)}
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs.path("postgres"), "-D", str(data)],
                cwd=directory,
                env=clean_environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                **programs.account.switch(),
            )
        yield Cluster(directory, server.pid, _wait(directory, server))
    finally:
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGQUIT)
            server.wait(60)
        shutil.rmtree(directory, ignore_errors=True)


def _wait(directory: Path, server: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            dsn = make_conninfo(host=str(directory), user="postgres", dbname="postgres")
            with psycopg.connect(dsn) as connection:
                row = connection.execute("SHOW server_version").fetchone()
                return str(row[0]) if row else ""
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                text = (directory / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the cluster does not start:\n{text}") from None
            time.sleep(0.1)
