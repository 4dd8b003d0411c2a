"""The fixtures that all database tests stand on."""

from tests.conftest import AsyncConnect, Connect, Connection


def test_a_test_has_a_migrated_database_of_its_own(db: Connection) -> None:
    assert db.execute("SELECT count(*) FROM atm_migration.load").fetchone() == (1,)
    db.execute("CREATE TABLE public.only_here ()")


def test_a_role_of_the_schema_cannot_read_the_bookkeeping(connect: Connect) -> None:
    session = connect("atm_reader")
    assert session.execute("SELECT session_user, current_user").fetchone() == (
        "atm_reader",
        "atm_reader",
    )
    row = session.execute("SELECT has_schema_privilege('atm_migration', 'USAGE')").fetchone()
    assert row == (False,)


def test_two_connections_see_one_database(connect: Connect) -> None:
    one, two = connect(), connect(autocommit=False)
    one.execute("CREATE TABLE public.only_here ()")
    assert two.execute("SELECT count(*) FROM public.only_here").fetchone() == (0,)


async def test_a_coroutine_connects_too(aconnect: AsyncConnect) -> None:
    session = await aconnect("atm_engine")
    row = await (await session.execute("SELECT current_user")).fetchone()
    assert row == ("atm_engine",)
