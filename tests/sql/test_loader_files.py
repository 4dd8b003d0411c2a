"""The repeatable files: replaced, dropped, checked; upgraded databases equal fresh ones."""

import subprocess
from pathlib import Path

import psycopg
import pytest

from pyatm.database.errors import MigrationError
from pyatm.database.files import SqlFiles, packaged_files
from pyatm.database.migrate import migrate
from pyatm.database.postgres_programs import find_programs
from tests.conftest import Databases

BASE = """-- depends:
CREATE SCHEMA atm;
CREATE TABLE atm.thing (id integer PRIMARY KEY, note text);
CREATE FUNCTION atm.is_good(id integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT id > 0';
ALTER TABLE atm.thing ADD CHECK (atm.is_good(id));
CREATE FUNCTION atm.never_loaded() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
"""
OLD = """
CREATE OR REPLACE FUNCTION atm.twice(a integer) RETURNS integer LANGUAGE sql AS 'SELECT a * 2';
COMMENT ON FUNCTION atm.twice IS 'old';
GRANT EXECUTE ON FUNCTION atm.twice TO pg_monitor;
CREATE OR REPLACE FUNCTION atm.gone(a integer) RETURNS integer LANGUAGE sql AS 'SELECT a';
CREATE OR REPLACE VIEW atm.things AS SELECT id, note FROM atm.thing;
COMMENT ON COLUMN atm.things.note IS 'old';
GRANT SELECT ON atm.things TO pg_monitor;
GRANT SELECT (id) ON atm.things TO pg_read_all_stats;
CREATE OR REPLACE VIEW atm.gone_too AS SELECT atm.gone(id) FROM atm.things;
CREATE OR REPLACE TRIGGER looked BEFORE INSERT ON atm.thing FOR EACH ROW
    EXECUTE FUNCTION atm.never_loaded();
"""
NEW = """
CREATE OR REPLACE FUNCTION atm.twice(a integer) RETURNS integer LANGUAGE sql AS 'SELECT a + a';
REVOKE ALL ON FUNCTION atm.twice FROM PUBLIC;
CREATE OR REPLACE VIEW atm.things AS SELECT id, note FROM atm.thing;
"""
CHANGED = """
CREATE OR REPLACE FUNCTION atm.twice(b integer) RETURNS bigint LANGUAGE sql
    AS 'SELECT b * 2::bigint';
CREATE OR REPLACE VIEW atm.things AS SELECT note, id, atm.twice(id) AS more FROM atm.thing;
"""


@pytest.fixture
def files(tmp_path: Path) -> SqlFiles:
    made = SqlFiles(tmp_path / "migrations", tmp_path / "sql")
    made.migrations.mkdir()
    made.sql.mkdir()
    (made.migrations / "0001_base.sql").write_text(BASE)
    return made


def _load(dsn: str, files: SqlFiles, text: str) -> tuple[str, ...]:
    (files.sql / "1.sql").write_text(text)
    result = migrate(dsn, files)
    assert result.loaded
    return result.dropped


def _schema(dsn: str) -> str:
    """The schema as pg_dump writes it, grants and comments included, without its random key."""
    text = subprocess.run(
        [find_programs().path("pg_dump"), "--schema-only", "--dbname", dsn],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return "\n".join(line for line in text.splitlines() if not line.startswith("\\"))


def test_what_the_files_no_longer_define_is_dropped(empty_dsn: str, files: SqlFiles) -> None:
    _load(empty_dsn, files, OLD)
    assert set(_load(empty_dsn, files, NEW)) == {
        "atm.gone(integer)",
        "atm.gone_too",
        "looked on atm.thing",
    }
    with psycopg.connect(empty_dsn) as session:
        names = session.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'atm'::regnamespace ORDER BY 1"
        ).fetchall()
    assert [name for (name,) in names] == ["is_good", "never_loaded", "twice"]


@pytest.mark.parametrize("new", [NEW, CHANGED], ids=["replaced", "changed signatures"])
def test_an_upgraded_database_equals_a_fresh_one_grants_and_comments_included(
    databases: Databases, files: SqlFiles, new: str
) -> None:
    upgraded, fresh = databases.create(), databases.create()
    _load(upgraded, files, OLD)
    before = _schema(upgraded)
    _load(upgraded, files, new)
    _load(fresh, files, new)
    assert _schema(upgraded) == _schema(fresh) != before


def test_the_programs_own_schema_loaded_twice_equals_the_one_loaded_once(
    databases: Databases, template: str
) -> None:
    once, twice = databases.create(template), databases.create(template)
    migrate(twice, reload=True)
    assert _schema(twice) == _schema(once)


def test_a_changed_signature_does_not_leave_an_overload(empty_dsn: str, files: SqlFiles) -> None:
    _load(empty_dsn, files, OLD)
    text = NEW.replace("a integer", "a bigint").replace("RETURNS integer", "RETURNS bigint")
    assert "atm.twice(integer)" in _load(empty_dsn, files, text)


def test_an_object_dropped_by_hand_comes_back(empty_dsn: str, files: SqlFiles) -> None:
    _load(empty_dsn, files, NEW)
    with psycopg.connect(empty_dsn) as session:
        session.execute("DROP FUNCTION atm.twice")
    assert migrate(empty_dsn, files).loaded
    with psycopg.connect(empty_dsn) as session:
        assert session.execute("SELECT atm.twice(2)").fetchone() == (4,)


def test_a_function_that_a_migration_made_is_not_dropped_even_if_a_file_once_replaced_it(
    empty_dsn: str, files: SqlFiles
) -> None:
    replaced = "CREATE OR REPLACE FUNCTION atm.is_good(id integer) RETURNS boolean LANGUAGE sql "
    replaced += "IMMUTABLE AS 'SELECT id > 1';"
    _load(empty_dsn, files, replaced)
    assert _load(empty_dsn, files, NEW) == ()
    with psycopg.connect(empty_dsn) as session:
        assert session.execute("SELECT atm.is_good(1)").fetchone() == (False,)


def test_what_somebody_else_built_on_a_view_is_never_dropped(
    empty_dsn: str, files: SqlFiles
) -> None:
    _load(empty_dsn, files, OLD)
    with psycopg.connect(empty_dsn) as session:
        session.execute("CREATE VIEW public.mine AS SELECT * FROM atm.gone_too")
    (files.sql / "1.sql").write_text(NEW)
    with pytest.raises(MigrationError, match=r"atm\.gone.* cannot be dropped") as caught:
        migrate(empty_dsn, files)
    assert "view public.mine depends on view atm.gone_too" in str(caught.value)
    with psycopg.connect(empty_dsn) as session:
        assert session.execute("SELECT atm.twice(2), atm.gone(1)").fetchone() == (4, 1)


def test_an_error_names_file_and_line_and_nothing_has_changed(
    empty_dsn: str, files: SqlFiles
) -> None:
    _load(empty_dsn, files, OLD)
    before = _schema(empty_dsn)
    (files.sql / "2.sql").write_text("-- one\n-- two\nSELECT nonsense;\n")
    (files.sql / "1.sql").write_text(NEW)
    with pytest.raises(MigrationError, match=r'2\.sql:3: column "nonsense" does not exist'):
        migrate(empty_dsn, files)
    assert _schema(empty_dsn) == before


def test_a_file_may_use_what_a_later_file_defines(empty_dsn: str, files: SqlFiles) -> None:
    (files.sql / "2.sql").write_text(NEW)
    early = "CREATE FUNCTION atm.early() RETURNS integer LANGUAGE sql AS 'SELECT atm.twice(1)';"
    _load(empty_dsn, files, early)
    with psycopg.connect(empty_dsn) as session:
        assert session.execute("SELECT atm.early()").fetchone() == (2,)


@pytest.mark.parametrize(
    "body",
    ["LANGUAGE sql AS 'SELECT atm.nowhere()'", "LANGUAGE plpgsql AS 'BEGIN RETURN ; END; X'"],
    ids=["sql", "plpgsql"],
)
def test_a_body_that_cannot_be_right_is_an_error_that_names_the_function(
    empty_dsn: str, files: SqlFiles, body: str
) -> None:
    (files.sql / "1.sql").write_text(f"CREATE FUNCTION atm.wrong() RETURNS integer {body};")
    with pytest.raises(MigrationError, match=r"atm\.wrong\(\): "):
        migrate(empty_dsn, files)


def test_a_file_that_commits_is_refused(empty_dsn: str, files: SqlFiles) -> None:
    (files.sql / "1.sql").write_text("COMMIT;")
    with pytest.raises(MigrationError, match=r"1\.sql ends the transaction"):
        migrate(empty_dsn, files)


def test_a_role_or_path_set_by_one_file_does_not_reach_the_next(
    empty_dsn: str, files: SqlFiles
) -> None:
    (files.sql / "0.sql").write_text("SET ROLE pg_monitor; SET LOCAL search_path = public;")
    _load(empty_dsn, files, NEW)
    with psycopg.connect(empty_dsn) as session:
        row = session.execute(
            "SELECT pg_get_userbyid(proowner) = current_user FROM pg_proc WHERE proname = 'twice'"
        ).fetchone()
    assert row == (True,)


def test_sessions_go_on_while_functions_are_replaced_or_made_again(
    empty_dsn: str, files: SqlFiles
) -> None:
    """A prepared statement survives both ways of loading."""
    _load(empty_dsn, files, OLD)
    with psycopg.connect(empty_dsn, autocommit=True, prepare_threshold=0) as session:
        assert session.execute("SELECT atm.twice(3)").fetchone() == (6,)
        _load(empty_dsn, files, NEW)
        assert session.execute("SELECT atm.twice(3)").fetchone() == (6,)
        _load(empty_dsn, files, CHANGED.replace("bigint", "integer"))
        assert session.execute("SELECT atm.twice(3)").fetchone() == (6,)


def test_nothing_in_the_bookkeeping_is_open_to_everybody(empty_dsn: str, files: SqlFiles) -> None:
    _load(empty_dsn, files, NEW)
    with psycopg.connect(empty_dsn) as session:
        row = session.execute(
            "SELECT count(*) FROM pg_proc p CROSS JOIN LATERAL aclexplode("
            " coalesce(p.proacl, acldefault('f', p.proowner))) a"
            " WHERE p.pronamespace = 'atm_migration'::regnamespace AND a.grantee = 0"
        ).fetchone()
    assert row == (0,)


def test_the_packaged_files_are_found_and_sorted() -> None:
    files = packaged_files()
    names = [path.name for path in files.migration_files()]
    assert names
    assert names == sorted(names)
