"""One database server per run, one migrated template per run, one clone per test."""

import fcntl
import os
import signal
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
import pytest_asyncio
from hypothesis import settings
from psycopg import sql

from pyatm.database.migrate import migrate
from tests import branches, servers

# A shell that starts the tests in the background makes them ignore Ctrl-C, and their children
# too: tests of interrupted programs would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# CI runs the same examples each time, so that a change is judged by what it changes. Everybody
# else looks for new ones.
settings.register_profile("repeatable", derandomize=True)
if os.environ.get("PYATM_TEST_REPEATABLE") == "1":
    settings.load_profile("repeatable")

CHOICE = pytest.StashKey[servers.Choice]()
SERVER = pytest.StashKey[str]()
CLEANUP = pytest.StashKey[ExitStack]()

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]


class Connect(Protocol):
    """Opens one more connection to the test's database, closed at the end of the test."""

    def __call__(self, role: str | None = None, *, autocommit: bool = True) -> Connection: ...


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CLEANUP] = ExitStack()
    given = getattr(config, "workerinput", None)
    if given is not None:
        config.stash[SERVER] = given["pyatm_server"]
    else:
        config.stash[CHOICE] = servers.choose()


def pytest_unconfigure(config: pytest.Config) -> None:
    if CLEANUP in config.stash:
        config.stash[CLEANUP].close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    # The workers of a parallel run were told their server and do not choose.
    return [f"database server: {config.stash[CHOICE].words}"] if CHOICE in config.stash else []


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """The controller owns the server, because a worker may end while others still work."""
    server = node.workerinput["pyatm_server"] = _server(node.config)
    name = f"pyatm_template_{node.workerinput['testrunuid']}"
    node.config.stash[CLEANUP].callback(
        servers.administer, server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PYATM_DEBIAN") != "1":
        for item in items:
            if "debian" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="runs in make test-debian"))


def _server(config: pytest.Config) -> str:
    if SERVER not in config.stash:
        running = servers.running(config.stash[CHOICE])
        config.stash[SERVER] = config.stash[CLEANUP].enter_context(running)
    return config.stash[SERVER]


@pytest.fixture(scope="session")
def server_dsn(pytestconfig: pytest.Config) -> str:
    """The superuser's connection string of the run's server."""
    return _server(pytestconfig)


@pytest.fixture(scope="session")
def template(
    server_dsn: str, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Generator[str]:
    """The name of a database with the current schema; nobody connects to it any more."""
    run = getattr(pytestconfig, "workerinput", {}).get("testrunuid", uuid.uuid4().hex)
    name = f"pyatm_template_{run}"
    shared = tmp_path_factory.getbasetemp()
    parallel = hasattr(pytestconfig, "workerinput")
    done = (shared.parent if parallel else shared) / f"{name}.done"
    with done.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _make_template(server_dsn, name, done)
        if problem := done.read_text():
            pytest.fail(f"the schema cannot be migrated: {problem}", pytrace=False)
    yield name
    if not parallel:
        servers.administer(server_dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _make_template(server_dsn: str, name: str, done: Path) -> None:
    servers.administer(server_dsn, f'CREATE DATABASE "{name}"')
    problem = ""
    try:
        migrate(servers.on(server_dsn, name))
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    done.write_text(problem)


class Databases:
    """Makes databases for one test."""

    def __init__(self, server_dsn: str) -> None:
        self._server_dsn = server_dsn
        self._names: list[str] = []

    def create(self, template: str = "template0") -> str:
        name = f"pyatm_test_{uuid.uuid4().hex}"
        servers.administer(self._server_dsn, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        self._names.append(name)
        return servers.on(self._server_dsn, name)

    def drop_all(self) -> None:
        for name in self._names:
            branches.collect(servers.on(self._server_dsn, name))
            servers.administer(self._server_dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def databases(server_dsn: str) -> Generator[Databases]:
    """Makes further databases, dropped after the test."""
    made = Databases(server_dsn)
    yield made
    made.drop_all()


@pytest.fixture
def dsn(databases: Databases, template: str) -> str:
    """The superuser's connection string of a fresh, migrated database of this test's own."""
    return databases.create(template)


@pytest.fixture
def empty_dsn(databases: Databases) -> str:
    """The same for a database without the schema."""
    return databases.create()


@pytest.fixture
def connect(dsn: str) -> Generator[Connect]:
    """Opens connections; with a role, the session's user is that role."""
    with ExitStack() as opened:

        def open_one(role: str | None = None, *, autocommit: bool = True) -> Connection:
            connection = opened.enter_context(psycopg.connect(dsn, autocommit=True))
            # A test that left a transaction open must not fail by committing it at the end.
            opened.callback(connection.close)
            _become(connection, role)
            connection.autocommit = autocommit
            return connection

        yield open_one


def _become(connection: Connection, role: str | None) -> None:
    if role is not None:
        connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))


@pytest.fixture
def db(connect: Connect) -> Connection:
    """A superuser's connection in autocommit mode."""
    return connect()


AsyncConnect = Callable[..., Awaitable[AsyncConnection]]


@pytest_asyncio.fixture
async def aconnect(dsn: str) -> AsyncGenerator[AsyncConnect]:
    """As `connect`, for asyncio."""
    opened: list[AsyncConnection] = []

    async def open_one(role: str | None = None, *, autocommit: bool = True) -> AsyncConnection:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        opened.append(connection)
        if role is not None:
            await connection.execute(
                sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role))
            )
        await connection.set_autocommit(autocommit)
        return connection

    yield open_one
    for connection in opened:
        await connection.close()
