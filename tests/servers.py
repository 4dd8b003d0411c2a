"""The database server of a test run: a given one, a container, or the embedded server."""

import http.client
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyatm.database.embedded import POSTGRES_MAJOR, private_server

DOCKER_SOCKET = "/var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which kind of server, and how the pytest header names it."""

    kind: str
    words: str


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(DOCKER_SOCKET)


def docker_answers() -> bool:
    """Whether a Docker engine really answers; the program being installed says nothing."""
    connection = _UnixConnection("localhost", timeout=1)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def choose() -> Choice:
    """The server to use, in this order: PYATM_TEST_DSN, Docker, embedded."""
    if dsn := os.environ.get("PYATM_TEST_DSN"):
        parameters = conninfo_to_dict(dsn)
        where = f"{parameters.get('host', 'local')}:{parameters.get('port', 5432)}"
        return Choice("given", f"PYATM_TEST_DSN ({where})")
    if docker_answers():
        return Choice("container", f"container postgres:{POSTGRES_MAJOR}")
    return Choice("embedded", f"embedded PostgreSQL {POSTGRES_MAJOR}, fsync off")


@contextmanager
def running(choice: Choice) -> Generator[str]:
    """The connection string of the chosen server's superuser, for as long as the block lasts."""
    if choice.kind == "given":
        yield os.environ["PYATM_TEST_DSN"]
    elif choice.kind == "container":
        from testcontainers.postgres import PostgresContainer

        image = f"postgres:{POSTGRES_MAJOR}"
        with PostgresContainer(image, driver=None) as container:
            yield container.get_connection_url()
    else:
        with private_server(durable=False) as server:
            yield server.dsn()


def on(dsn: str, database: str) -> str:
    """The same server, another database."""
    return make_conninfo(dsn, dbname=database)


def administer(dsn: str, statement: str) -> None:
    """Run one statement outside of a transaction, in the maintenance database."""
    with psycopg.connect(on(dsn, "postgres"), autocommit=True) as connection:
        connection.execute(statement.encode())
