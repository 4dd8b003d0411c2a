"""Migrations: repeated, concurrent, killed, edited; on directories made for the test."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from pyatm.database import yoyo_backend
from pyatm.database.errors import MigrationError
from pyatm.database.files import SqlFiles, packaged_files
from pyatm.database.migrate import LOCK_KEY, check_released, migrate, status
from pyatm.database.script import schema_script

BASE = """-- depends:
CREATE SCHEMA atm;
CREATE TABLE atm.thing (id integer PRIMARY KEY);
"""
MORE = """-- depends: 0001_base
ALTER TABLE atm.thing ADD COLUMN note text;
"""


@pytest.fixture
def files(tmp_path: Path) -> SqlFiles:
    made = SqlFiles(tmp_path / "migrations", tmp_path / "sql")
    made.migrations.mkdir()
    made.sql.mkdir()
    (made.migrations / "0001_base.sql").write_text(BASE)
    return made


def test_a_second_run_changes_nothing(empty_dsn: str, files: SqlFiles) -> None:
    first = migrate(empty_dsn, files)
    assert first.applied == ("0001_base",)
    assert first.loaded
    second = migrate(empty_dsn, files)
    assert second.applied == ()
    assert not second.loaded


def test_the_status_changes_nothing_and_tells_what_is_pending(
    empty_dsn: str, files: SqlFiles
) -> None:
    before = status(empty_dsn, files)
    assert before.pending == ("0001_base",)
    assert not before.up_to_date
    with psycopg.connect(empty_dsn) as session:
        assert session.execute("SELECT to_regnamespace('atm_migration')").fetchone() == (None,)
    migrate(empty_dsn, files)
    assert status(empty_dsn, files).up_to_date
    (files.migrations / "0002_more.sql").write_text(MORE)
    assert status(empty_dsn, files).pending == ("0002_more",)


def test_a_migration_and_its_mark_are_one_transaction(empty_dsn: str, files: SqlFiles) -> None:
    (files.migrations / "0002_more.sql").write_text(MORE + "SELECT 1 / 0;\n")
    with pytest.raises(MigrationError, match=r"0002_more\.sql: division by zero"):
        migrate(empty_dsn, files)
    assert status(empty_dsn, files).applied == ("0001_base",)
    (files.migrations / "0002_more.sql").write_text(MORE)
    assert migrate(empty_dsn, files).applied == ("0002_more",)


def _migrate_and_tell(dsn: str, files: SqlFiles, results: "multiprocessing.Queue[int]") -> None:
    results.put(len(migrate(dsn, files).applied))


def test_two_processes_that_migrate_at_once_apply_each_migration_once(
    empty_dsn: str, files: SqlFiles
) -> None:
    (files.migrations / "0002_more.sql").write_text(MORE + "SELECT pg_sleep(0.3);\n")
    spawn = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = spawn.Queue()
    processes = [
        spawn.Process(target=_migrate_and_tell, args=(empty_dsn, files, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    counts = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert counts == [0, 2]


def test_a_migration_that_does_not_get_the_lock_says_who_may_hold_it(
    empty_dsn: str, files: SqlFiles
) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        with pytest.raises(MigrationError, match="another migration"):
            migrate(empty_dsn, files, lock_timeout=0.2)
    assert migrate(empty_dsn, files).applied == ("0001_base",)


KILLED = """
import sys
from pathlib import Path
from pyatm.database.files import SqlFiles
from pyatm.database.migrate import migrate
migrate(sys.argv[1], SqlFiles(Path(sys.argv[2]), Path(sys.argv[3])))
"""
WAITING = "SELECT pg_advisory_lock(4711), pg_advisory_unlock(4711);\n"


def _wait_until_waiting(session: psycopg.Connection) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        row = session.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND wait_event = 'advisory'"
        ).fetchone()
        if row == (1,):
            return
        time.sleep(0.02)
    pytest.fail("the migration did not reach the statement at which it is to be killed")


@pytest.mark.parametrize("where", ["in a migration", "in the repeatable files"])
def test_a_run_killed_in_the_middle_is_repeated_without_harm(
    empty_dsn: str, files: SqlFiles, where: str
) -> None:
    migration, repeatable = files.migrations / "0002_more.sql", files.sql / "1.sql"
    function = "CREATE OR REPLACE FUNCTION atm.f() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"
    in_migration = where == "in a migration"
    migration.write_text(MORE + (WAITING if in_migration else ""))
    repeatable.write_text(function + ("" if in_migration else WAITING))
    with psycopg.connect(empty_dsn, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(4711)")
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, empty_dsn, str(files.migrations), str(files.sql)]
        )
        _wait_until_waiting(holder)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
        # yoyo's lock row is what a killed run leaves behind.
        assert holder.execute("SELECT count(*) FROM atm_migration.yoyo_lock").fetchone() == (
            (1,) if in_migration else (0,)
        )
        holder.execute("SELECT pg_advisory_unlock(4711)")
    result = migrate(empty_dsn, files)
    assert result.applied in (("0002_more",), ())
    assert status(empty_dsn, files).up_to_date
    with psycopg.connect(empty_dsn) as session:
        assert session.execute("SELECT atm.f(), count(note) FROM atm.thing").fetchone() == (1, 0)


# yoyo says so when its connection was cut inside a transaction.
@pytest.mark.filterwarnings("ignore:Nested transaction requested")
@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_any_moment_is_repeated_without_harm(
    empty_dsn: str, files: SqlFiles, seed: int
) -> None:
    """Kills the server's side, so that the moment is spread over the whole run."""
    (files.migrations / "0002_more.sql").write_text(MORE)
    (files.sql / "1.sql").write_text(
        "CREATE OR REPLACE VIEW atm.things AS SELECT id, note FROM atm.thing;"
    )
    stop = threading.Event()

    def terminate() -> None:
        with psycopg.connect(empty_dsn, autocommit=True) as killer:
            while not stop.is_set():
                time.sleep(0.005 + seed * 0.007)
                killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'pyatm migrate'"
                )

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        for _ in range(5):
            try:
                migrate(empty_dsn, files)
            except (MigrationError, psycopg.Error):
                continue
    finally:
        stop.set()
        thread.join()
    migrate(empty_dsn, files)
    assert status(empty_dsn, files).up_to_date


def test_a_migration_edited_after_its_application_is_refused(
    empty_dsn: str, files: SqlFiles
) -> None:
    migrate(empty_dsn, files)
    (files.migrations / "0001_base.sql").write_text(BASE + "-- edited\n")
    assert status(empty_dsn, files).edited == ("0001_base",)
    with pytest.raises(MigrationError, match="0001_base was edited after"):
        migrate(empty_dsn, files)


def test_a_released_migration_that_was_edited_or_removed_is_refused(files: SqlFiles) -> None:
    released = files.migrations / "0001_base.sql"
    digest = hashlib.sha256(released.read_bytes()).hexdigest()
    (files.migrations / "released.sha256").write_text(f"{digest}  0001_base.sql\n")
    check_released(files)
    released.write_text(BASE + "-- edited\n")
    with pytest.raises(MigrationError, match=r"0001_base\.sql was edited"):
        check_released(files)
    released.unlink()
    with pytest.raises(MigrationError, match=r"0001_base\.sql is missing"):
        check_released(files)


def test_an_older_program_does_not_touch_a_newer_database(empty_dsn: str, files: SqlFiles) -> None:
    newer = files.migrations / "0002_more.sql"
    newer.write_text(MORE)
    migrate(empty_dsn, files)
    newer.unlink()
    (files.sql / "1.sql").write_text("CREATE SCHEMA never;")
    with pytest.raises(MigrationError, match="newer pyatm"):
        migrate(empty_dsn, files)
    assert status(empty_dsn, files).unknown == ("0002_more",)


def test_a_dependency_on_a_file_that_does_not_exist_is_an_error(
    empty_dsn: str, files: SqlFiles
) -> None:
    (files.migrations / "0002_more.sql").write_text("-- depends: 0001_bsae\nSELECT 1;\n")
    with pytest.raises(MigrationError, match="depends"):
        migrate(empty_dsn, files)


def test_a_migration_outside_a_transaction_is_applied_and_marked(
    empty_dsn: str, files: SqlFiles
) -> None:
    (files.migrations / "0002_index.sql").write_text(
        "-- depends: 0001_base\n-- transactional: false\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS thing_id ON atm.thing (id);\n"
    )
    assert migrate(empty_dsn, files).applied == ("0001_base", "0002_index")
    assert migrate(empty_dsn, files).applied == ()


def test_rows_that_a_migration_returns_are_not_printed(
    empty_dsn: str, files: SqlFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    (files.migrations / "0002_more.sql").write_text(MORE + "SELECT 'noise';\n")
    migrate(empty_dsn, files)
    assert "noise" not in capsys.readouterr().out


def test_yoyo_splits_bodies_where_they_end(tmp_path: Path) -> None:
    file = tmp_path / "0001_split.sql"
    file.write_text(
        "-- depends:\n"
        "CREATE FUNCTION a() RETURNS int LANGUAGE plpgsql AS $f$\n"
        "DECLARE x int := 0; BEGIN\n"
        "  BEGIN x := CASE WHEN true THEN 1 ELSE 2 END; EXCEPTION WHEN OTHERS THEN NULL; END;\n"
        "  FOR i IN 1..2 LOOP IF i = 1 THEN x := x + 1; END IF; END LOOP;\n"
        "  RETURN x; END $f$;\n"
        "DO $$ BEGIN PERFORM 1; END $$;\n"
        "CREATE FUNCTION b() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;\n"
        "COMMENT ON FUNCTION a() IS 'one; two';\n"
    )
    assert len(yoyo_backend.statements(file)) == 4


def _ends(text: str) -> int:
    """Semicolons that end a statement: outside of quotes, dollar quotes and comments."""
    count = i = 0
    while i < len(text):
        if text.startswith("--", i):
            i = text.find("\n", i)
            i = len(text) if i < 0 else i
        elif text.startswith("/*", i):
            i = text.index("*/", i) + 2
        elif text[i] in "'\"":
            i = text.index(text[i], i + 1) + 1
        elif (
            text[i] == "$"
            and (end := text.find("$", i + 1)) > 0
            and (text[i + 1 : end] == "" or text[i + 1 : end].isidentifier())
        ):
            tag = text[i : end + 1]
            i = text.index(tag, end + 1) + len(tag)
        else:
            count += text[i] == ";"
            i += 1
    return count


@pytest.mark.parametrize("path", packaged_files().migration_files(), ids=lambda path: path.stem)
def test_each_migration_is_split_into_the_statements_that_it_has(path: Path) -> None:
    found = [
        part
        for part in yoyo_backend.statements(path)
        if any(line.strip() and not line.strip().startswith("--") for line in part.splitlines())
    ]
    assert len(found) == _ends(path.read_text())


def test_each_migration_depends_on_the_one_before() -> None:
    names = [path.stem for path in packaged_files().migration_files()]
    migrations = yoyo_backend.migrations_in_order(packaged_files().migrations)
    assert [migration.id for migration in migrations] == names
    for before, migration in zip([None, *names], migrations, strict=False):
        assert [parent.id for parent in migration.depends or []] == ([before] if before else [])


def test_the_dumped_script_makes_the_same_database_and_migrate_knows_it(
    empty_dsn: str, tmp_path: Path
) -> None:
    script = tmp_path / "schema.sql"
    script.write_text("".join(schema_script()))
    done = subprocess.run(
        ["psql", "--no-psqlrc", "--quiet", "--file", str(script), empty_dsn],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{_bundled_programs()}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    assert status(empty_dsn).up_to_date
    again = migrate(empty_dsn)
    assert again.applied == ()
    assert not again.loaded


def _bundled_programs() -> Path:
    from pyatm.database.postgres_programs import find_programs

    return find_programs().directory
