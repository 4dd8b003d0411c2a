"""The whole schema as one script for psql, for those who may not run pyatm against a database."""

from collections.abc import Generator
from pathlib import Path
from typing import cast

from psycopg import sql

from pyatm import __version__
from pyatm.database.files import SqlFiles, content_hash, packaged_files
from pyatm.database.yoyo_backend import migrations_in_order


def schema_script(files: SqlFiles | None = None) -> Generator[str]:
    """The parts of the script, for an empty database and for psql.

    A database made by it is known to a later `pyatm db migrate`.

    Args:
        files: other directories than the program's own.
    """
    files = files or packaged_files()
    yield f"-- The schema of pyatm {__version__}, for an empty database:\n"
    yield "-- psql --no-psqlrc --file=THIS_FILE DATABASE\n\n\\set ON_ERROR_STOP on\n\n"
    yield Path(__file__).with_name("bookkeeping.sql").read_text(encoding="utf-8")
    for migration in migrations_in_order(files.migrations):
        path = Path(cast("str", migration.path))
        migration.load()
        yield f"\n-- {path.name}\n"
        # As yoyo has it: a transaction per migration unless its header says otherwise.
        yield "BEGIN;\n" if migration.use_transactions else ""
        yield path.read_text(encoding="utf-8").rstrip() + "\n;\nRESET ROLE;\n"
        yield _call(
            "INSERT INTO atm_migration.applied_file (migration_id, sha256) VALUES ({}, {});",
            path.stem,
            content_hash(path),
        )
        yield "COMMIT;\n" if migration.use_transactions else ""
    yield "\n-- Functions, views and grants\nBEGIN;\nSELECT atm_migration.begin_load();\n"
    yield "SET LOCAL check_function_bodies = off;\n"
    for path in files.repeatable_files():
        yield f"\n-- {path.name}\nSET LOCAL search_path = pg_catalog, pg_temp;\n"
        yield path.read_text(encoding="utf-8").rstrip() + "\n;\nRESET ROLE;\n"
    yield _call("SELECT atm_migration.end_load({}, {});", files.repeatable_hash(), __version__)
    yield "COMMIT;\n"


def _call(statement: str, *arguments: str) -> str:
    literals = [sql.Literal(argument) for argument in arguments]
    return sql.SQL(statement).format(*literals).as_string() + "\n"  # type: ignore[arg-type]
