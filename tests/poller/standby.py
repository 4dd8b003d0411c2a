"""A streaming standby of an embedded server."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyatm.database.embedded import SUPERUSER, EmbeddedServer


@contextmanager
def streaming_standby(primary: EmbeddedServer) -> Generator[EmbeddedServer]:
    """A running hot standby that streams from the primary."""
    directory = Path(tempfile.mkdtemp(prefix="pyatm-"))
    standby = EmbeddedServer(directory, private=True, delete=True, durable=False)
    account = primary.programs.account
    if os.geteuid() == 0:
        os.chown(directory, account.uid, account.gid)
    try:
        primary.programs.run(
            "pg_basebackup",
            f"--pgdata={standby.data}",
            f"--host={primary.socket_directory}",
            f"--port={primary.port}",
            f"--username={SUPERUSER}",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
            cwd=directory,
            timeout=120,
        )
        standby.start()
        yield standby
    finally:
        standby.close()
        shutil.rmtree(directory, ignore_errors=True)


def either(*servers: EmbeddedServer) -> str:
    """A connection string that names them all."""
    places = [conninfo_to_dict(server.dsn()) for server in servers]
    hosts = ",".join(str(place["host"]) for place in places)
    ports = ",".join(str(place["port"]) for place in places)
    return make_conninfo(servers[0].dsn(), host=hosts, port=ports)


def position(server: EmbeddedServer) -> str:
    """How far the server has written, or replayed."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        row = connection.execute(
            "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()"
            " else pg_current_wal_flush_lsn() end::text"
        ).fetchone()
    assert row is not None
    return row[0]
