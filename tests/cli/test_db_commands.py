"""`pyatm db` as a process: output, exit codes, messages."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest

from pyatm.database.files import packaged_files
from pyatm.database.postgres_programs import find_programs
from tests.cli.printed import printed
from tests.cli.programs import Program, environment

PENDING = [path.stem for path in packaged_files().migration_files()]


@pytest.fixture
def program(empty_dsn: str) -> Program:
    """The program, set to an empty database."""
    return Program({"PYATM_DSN": empty_dsn})


@pytest.fixture
def data_dir() -> Generator[str]:
    """A directory for a kept embedded server, open to the server's account."""
    base = Path(tempfile.mkdtemp(prefix="pyatm-cli-"))
    base.chmod(0o755)
    yield str(base / "data")
    Program().run("db", "stop", "--data-dir", str(base / "data"))
    shutil.rmtree(base)


def test_status_before_and_after_migrate(program: Program) -> None:
    before = program.run("db", "status", "--json")
    assert before.returncode == 1
    assert printed("db status", before.stdout)["pending"] == PENDING
    migrated = program.run("db", "migrate", "--json")
    assert migrated.returncode == 0, migrated.stderr
    assert printed("db migrate", migrated.stdout) == {
        "applied": PENDING,
        "loaded": True,
        "dropped": [],
    }
    after = program.run("db", "status")
    assert after.returncode == 0
    assert "0 pending" in after.stdout
    assert "functions   current" in after.stdout
    again = program.run("db", "migrate")
    assert again.stdout == "the database is up to date\n"


def test_without_a_dsn_the_embedded_server_is_started_and_kept(data_dir: str) -> None:
    program = Program()
    migrated = program.run("db", "migrate", "--data-dir", data_dir)
    assert migrated.returncode == 0, migrated.stderr
    answer = program.run(
        "db", "psql", "--data-dir", data_dir, "--",
        "--no-psqlrc", "--tuples-only", "--command", "SELECT count(*) FROM atm_migration.load",
    )  # fmt: skip
    assert answer.stdout.strip() == "1", answer.stderr
    assert "has stopped" in program.run("db", "stop", "--data-dir", data_dir).stdout
    assert "does not run" in program.run("db", "stop", "--data-dir", data_dir).stdout


def test_psql_works_with_the_bundled_program_and_hides_the_password(
    program: Program, tmp_path: Path
) -> None:
    """Looks at its own command line from inside psql, with no psql on PATH."""
    dsn = program.variables["PYATM_DSN"] + " password=open-sesame"
    done = subprocess.run(
        [sys.executable, "-m", "pyatm.cli.main", "db", "psql", "--", "--no-psqlrc", "-At",
         "-c", "\\! tr '\\\\0' ' ' < /proc/$PPID/cmdline", "-c", "SELECT 6 * 7"],
        env=environment(PYATM_DSN=dsn, PATH=_path_without_psql(tmp_path)),
        cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("42\n"), done.stderr
    assert str(find_programs().directory) in done.stdout
    assert "open-sesame" not in done.stdout


def _path_without_psql(tmp_path: Path) -> str:
    for name in ("sh", "tr"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    return str(tmp_path)


def test_the_dumped_script_is_complete(program: Program) -> None:
    done = program.run("db", "dump-sql")
    assert done.returncode == 0
    for path in [*packaged_files().migration_files(), *packaged_files().repeatable_files()]:
        assert f"-- {path.name}\n" in done.stdout


@pytest.mark.parametrize(
    ("variables", "arguments", "code", "message"),
    [
        ({}, ["--dsn", "nonsense"], 78, "--dsn is not a libpq connection string"),
        ({"PYATM_DSN": "nonsense"}, [], 78, "dsn is not a libpq connection string"),
        ({"PYATM_CONFIG": "/does/not/exist"}, [], 78, "PYATM_CONFIG names /does/not/exist"),
        ({"PYATM_POLLER__LEASE": "soon"}, [], 78, "poller.lease"),
        ({}, ["--dsn", "host=127.0.0.1 port=1 dbname=x"], 1, "cannot be reached"),
        ({}, ["--nonsense"], 2, "No such option"),
        ({}, ["--dsn", "dbname=x", "--data-dir", "/tmp/x"], 2, "exclude each other"),
        ({}, ["--lock-timeout", "-1"], 2, "lock-timeout"),
    ],
)
def test_a_mistake_is_a_message_and_an_exit_code_without_a_traceback(
    variables: dict[str, str], arguments: list[str], code: int, message: str
) -> None:
    done = Program(variables).run("db", "migrate", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_database_in_the_way_is_reported_with_what_the_server_said(program: Program) -> None:
    with psycopg.connect(program.variables["PYATM_DSN"]) as session:
        session.execute("CREATE SCHEMA atm_internal")
        session.execute("CREATE VIEW atm_internal.history AS SELECT 1")
    done = program.run("db", "migrate")
    assert done.returncode == 1
    assert 'relation "history" already exists (42P07)' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_among_the_flags_is_warned_about_and_never_shown(empty_dsn: str) -> None:
    done = Program().run("db", "status", "--json", "--dsn", empty_dsn + " password=open-sesame")
    assert "can see the password" in done.stderr
    assert "open-sesame" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["migrate", "status", "dump-sql", "psql", "stop"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = Program().run("db", command, "--help")
    assert done.returncode == 0
    assert f"Example: pyatm db {command}" in done.stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pyatm.cli.main", "db", "dump-sql"],
        env=environment(), cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 10)
        process.stdout.close()
        problems = process.stderr.read()
    assert problems == b""
