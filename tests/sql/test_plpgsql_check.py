"""Every function, looked at by plpgsql_check: what PL/pgSQL itself notices only when it runs."""

import pytest

from tests.conftest import Connection

pytestmark = pytest.mark.debian

FUNCTIONS = """
SELECT p.oid::regprocedure::text AS function, coalesce(t.tgrelid, 0)::oid AS relation
FROM pg_proc AS p
JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
LEFT JOIN LATERAL (
    SELECT tgrelid FROM pg_trigger WHERE tgfoid = p.oid LIMIT 1
) AS t ON p.prorettype = 'trigger'::regtype
WHERE p.pronamespace::regnamespace::text IN ('atm', 'atm_internal', 'atm_migration')
"""
CHECK = """
SELECT f.function, c.lineno, c.level, c.message, c.detail, c.hint
FROM ({functions}) AS f
CROSS JOIN LATERAL plpgsql_check_function_tb(
    f.function, f.relation,
    other_warnings => true, performance_warnings => false, extra_warnings => true
) AS c
ORDER BY 1, 2
"""


@pytest.fixture
def checked_db(db: Connection) -> Connection:
    """The test's database with the extension; skipped where the server does not have it."""
    row = db.execute(
        "SELECT count(*) FROM pg_available_extensions WHERE name = 'plpgsql_check'"
    ).fetchone()
    if row == (0,):
        pytest.skip("postgresql-15-plpgsql-check is not installed")
    db.execute("CREATE EXTENSION IF NOT EXISTS plpgsql_check")
    return db


def test_plpgsql_check_finds_nothing_in_any_function(checked_db: Connection) -> None:
    count = checked_db.execute(f"SELECT count(*) FROM ({FUNCTIONS}) AS f".encode()).fetchone()
    assert count is not None
    assert count[0] > 5
    found = checked_db.execute(CHECK.format(functions=FUNCTIONS).encode()).fetchall()
    assert found == [], "\n".join(str(finding) for finding in found)


def test_plpgsql_check_would_find_an_unknown_column(checked_db: Connection) -> None:
    checked_db.execute(
        "CREATE FUNCTION atm.wrong() RETURNS bigint LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN (SELECT nowhere FROM atm_migration.load); END $$"
    )
    found = checked_db.execute(CHECK.format(functions=FUNCTIONS).encode()).fetchall()
    assert "atm.wrong()" in [row[0] for row in found if row[2] == "error"]
