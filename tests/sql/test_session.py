"""Connections: what a COMMIT was worth, and connection strings on their way to yoyo."""

import threading
import time
from collections.abc import Generator

import psycopg
import pytest
from psycopg import sql
from yoyo.connections import parse_uri

from pyatm.config import Settings
from pyatm.database.dsn import parse, redacted, resolve, yoyo_url
from pyatm.database.embedded import private_server
from pyatm.database.errors import DsnError
from pyatm.database.session import CommitGuard, aconnect, connect
from tests.conftest import Connection


def _end_the_wait_of(server: Connection, pid: int, function: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        row = server.execute(
            sql.SQL(
                "SELECT {}(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
            ).format(sql.Identifier(function)),
            [pid],
        ).fetchone()
        if row is not None:
            return
        time.sleep(0.02)


def _has_standby_names(dsn: str) -> bool:
    with psycopg.connect(dsn) as session:
        return session.execute("SHOW synchronous_standby_names").fetchone() == ("nobody",)


@pytest.fixture(scope="module")
def server_without_its_standby() -> Generator[str]:
    """The DSN of a server whose synchronous standby never answers."""
    with private_server(durable=False) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as session:
            # Set late, or the server could not even make its database.
            session.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            session.execute("SELECT pg_reload_conf()")
        while not _has_standby_names(server.dsn()):
            time.sleep(0.02)
        yield server.dsn()


@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_commit_that_did_not_wait_for_its_standby_is_noticed(
    server_without_its_standby: str, function: str
) -> None:
    dsn = server_without_its_standby
    with (
        psycopg.connect(dsn, autocommit=True) as other,
        connect(dsn, application_name="test") as session,
        CommitGuard(session) as guard,
    ):
        session.execute("COMMENT ON DATABASE pyatm IS 'written'")
        assert not guard.commit_was_only_local
        pid = session.info.backend_pid
        thread = threading.Thread(target=_end_the_wait_of, args=(other, pid, function))
        thread.start()
        try:
            session.commit()
        except psycopg.OperationalError:
            assert function == "pg_terminate_backend"
        thread.join()
        assert guard.commit_was_only_local
        guard.reset()
        assert not guard.commit_was_only_local


async def test_a_guard_of_an_async_connection_takes_other_warnings_for_what_they_are(
    dsn: str,
) -> None:
    session = await aconnect(dsn, application_name="test")
    async with session:
        guard = CommitGuard(session)
        await session.execute(
            "DO $$ BEGIN RAISE WARNING 'canceling wait for synchronous replication'; END $$"
        )
        await session.commit()
        assert not guard.commit_was_only_local


def test_a_connection_notices_a_vanished_host_and_says_who_it_is(dsn: str) -> None:
    with connect(dsn + " keepalives_idle=7", application_name="pyatm test") as session:
        found = session.info.get_parameters()
        assert found["keepalives_idle"] == "7"
        assert found["keepalives_count"] == "3"
        assert found["tcp_user_timeout"] == "30000"
        assert session.execute("SHOW application_name").fetchone() == ("pyatm test",)


@pytest.mark.parametrize(
    "dsn",
    [
        "host=/run/postgresql dbname=pyatm",
        "host=h1,h2 port=5432,5433 dbname=pyatm target_session_attrs=read-write",
        "postgresql://u:p%40ss%2Fw%25rd@h1:1,h2:2/data%20base?sslmode=verify-full",
        "dbname='odd name/with?signs&' user='a b' password='x=y&z'",
        "service=other options='-c work_mem=8MB'",
        "",
    ],
)
def test_yoyo_connects_with_the_parameters_of_the_dsn(dsn: str) -> None:
    uri = parse_uri(yoyo_url(dsn, "atm_migration", "me"))
    assert uri.scheme == "postgresql+psycopg"
    assert (uri.hostname, uri.port, uri.username, uri.password) == (None, None, None, None)
    expected = {**parse(dsn), "schema": "atm_migration", "application_name": "me"}
    assert uri.args == expected


def test_a_message_shows_no_password() -> None:
    assert "secret" not in redacted("host=h user=u password=secret")
    assert "secret" not in redacted("postgresql://u:secret@h/d")
    with pytest.raises(DsnError) as caught:
        parse("host=h password=secret nonsense")
    assert "secret" not in str(caught.value)


def test_the_direct_connection_is_the_dsn_unless_it_is_set() -> None:
    one = resolve(Settings.model_validate({"dsn": "host=a"}))
    assert (one.dsn, one.direct_dsn, one.server) == ("host=a", "host=a", None)
    two = resolve(Settings.model_validate({"dsn": "host=pooler", "listen_dsn": "host=a"}))
    assert (two.dsn, two.direct_dsn) == ("host=pooler", "host=a")
