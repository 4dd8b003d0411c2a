"""yoyo, with the three things changed that make a kill harmless.

A migration and its mark are one transaction; a migration that cannot be read is an error and not
skipped; yoyo's own lock row is only kept for other users of yoyo, because below our advisory lock
any row found is a dead process's.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

import contextlib
import glob
import io
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import psycopg
from psycopg.rows import TupleRow
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri
from yoyo.exceptions import BadMigration
from yoyo.migrations import (
    Migration,
    default_migration_table,
    read_sql_migration,
    topological_sort,
)

from pyatm.database.errors import MigrationError

SCHEMA: Final = "atm_migration"
"""Has yoyo's tables and those of `bookkeeping.sql`."""


class MigrationBackend(PostgresqlPsycopgBackend):
    """yoyo's backend on one connection.

    Args:
        url: as `pyatm.database.dsn.yoyo_url` makes it.
        content_hashes: of the migration files by migration id, noted when one is applied.
    """

    def __init__(self, url: str, content_hashes: Mapping[str, str]) -> None:
        super().__init__(parse_uri(url), default_migration_table)
        self._content_hashes = content_hashes

    @property
    def session(self) -> psycopg.Connection[TupleRow]:
        """The connection, in autocommit mode."""
        return cast("psycopg.Connection[TupleRow]", self.connection)

    def create_lock_table(self) -> None:
        """Create yoyo's lock table unless it exists, without provoking an error to find out."""
        if self.lock_table not in self.list_tables():
            super().create_lock_table()

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        """What goes into yoyo's log; the host's plain name, because asking DNS may take long."""
        return {**super().get_log_data(migration, operation), "hostname": socket.gethostname()}

    def adopt(self, migration: Migration) -> None:
        """Mark a migration that was applied by the script of `pyatm db dump-sql`."""
        if not self.is_applied(migration):
            with self.transaction():
                self.mark_one(migration)

    def apply_one(self, migration: Any, force: bool = False, mark: bool = True) -> None:
        """Apply a migration and mark it in one transaction.

        A migration with `-- transactional: false` cannot be in one; it has to be repeatable.
        """
        self.ensure_internal_schema_updated()
        if not migration.use_transactions:
            migration.process_steps(self, "apply", force=force)
        with self.transaction():
            if migration.use_transactions:
                migration.process_steps(self, "apply", force=force)
            # The migration may have left us with another role or path.
            self.execute("RESET ROLE")
            self.execute(f"SET LOCAL search_path TO {SCHEMA}")
            self.log_migration(migration, "apply")
            self.session.execute(
                "INSERT INTO atm_migration.applied_file (migration_id, sha256) VALUES (%s, %s)"
                " ON CONFLICT (migration_id) DO UPDATE SET sha256 = excluded.sha256",
                [migration.id, self._content_hashes[migration.id]],
            )
            if mark:
                self.mark_one(migration, log=False)


def migrations_in_order(directory: Path) -> list[Migration]:
    """The migrations of a directory in the order of their `depends` lines.

    Raises:
        MigrationError: a file cannot be read or depends on one that does not exist.
    """
    try:
        return list(topological_sort(read_migrations(glob.escape(str(directory)))))
    except BadMigration as error:
        raise MigrationError(f"{error}; check its `-- depends:` line") from None


def apply_migration(backend: MigrationBackend, migration: Migration) -> None:
    """Apply one migration; rows that its statements return are dropped, not printed.

    Raises:
        psycopg.Error: the server refused a statement; nothing of the migration is left.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        migration.load()
        backend.apply_one(migration)


def statements(path: Path) -> list[str]:
    """The statements of a migration file as yoyo splits them."""
    _, _, found = read_sql_migration(str(path))
    return found
