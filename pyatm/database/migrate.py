"""Brings a database to this program's schema: numbered migrations, then the repeatable files.

One process at a time per database, by an advisory lock that ends with its connection. A kill at
any point leaves a state from which the next run goes on.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import psycopg
import structlog
from psycopg import errors

from pyatm.database import loader
from pyatm.database.dsn import yoyo_url
from pyatm.database.errors import MigrationError
from pyatm.database.files import SqlFiles, content_hash, packaged_files
from pyatm.database.loader import Session, described
from pyatm.database.session import connect
from pyatm.database.yoyo_backend import (
    SCHEMA,
    MigrationBackend,
    apply_migration,
    migrations_in_order,
)

LOCK_KEY: Final = 0x61746D01
"""The advisory lock's key: `atm` in ASCII, then 1."""
LOCK_TIMEOUT: Final = 60.0
APPLICATION: Final = "pyatm migrate"
OLDEST_SERVER: Final = 150000
NEWEST_TESTED: Final = 189999
RELEASED: Final = "released.sha256"
"""In `migrations/`, in the format of sha256sum; the files it lists never change."""
ATTEMPTS: Final = 5
"""Roles belong to the whole cluster: two databases that make them at once collide, harmlessly."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What a run did; all empty when the database was up to date.

    Attributes:
        applied: ids of the migrations applied now.
        loaded: whether the repeatable files were loaded.
        dropped: functions, views and triggers that the files no longer define.
    """

    applied: tuple[str, ...]
    loaded: bool
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """How a database stands to this program's files.

    Attributes:
        server_version: as the server writes it, such as `18.4`.
        applied: ids of the applied migrations.
        pending: ids of those to come.
        unknown: ids that a newer program has applied.
        edited: ids whose file is not the one that was applied.
        files_loaded: whether the repeatable files are these.
    """

    server_version: str
    applied: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]
    edited: tuple[str, ...]
    files_loaded: bool

    @property
    def up_to_date(self) -> bool:
        """Whether this program can work on the database."""
        return self.files_loaded and not (self.pending or self.unknown or self.edited)


def migrate(
    dsn: str,
    files: SqlFiles | None = None,
    *,
    lock_timeout: float = LOCK_TIMEOUT,
    reload: bool = False,
) -> MigrationResult:
    """Apply pending migrations and load the repeatable files.

    Args:
        dsn: a direct connection (not through a pooler) as superuser or as owner of the database
            with CREATEROLE.
        files: other directories than the program's own.
        lock_timeout: seconds to wait for another migration, and for each lock on a table.
        reload: load the repeatable files even if the database has them.

    Raises:
        MigrationError: it cannot be done; what was applied before the failing file stays.
        psycopg.OperationalError: the server cannot be reached.
    """
    files = files or packaged_files()
    check_released(files)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _migrate_once(dsn, files, lock_timeout, reload)
        except MigrationError as error:
            if attempt == ATTEMPTS or not _collided(error.__cause__):
                raise
            _log.info("migration_collided_on_a_role", attempt=attempt)
            time.sleep(0.1 * attempt)
    raise AssertionError("unreachable")


def status(dsn: str, files: SqlFiles | None = None) -> MigrationStatus:
    """Compare a database with the files; changes nothing.

    Args:
        dsn: any connection that may read the schema `atm_migration`.
        files: other directories than the program's own.
    """
    files = files or packaged_files()
    names = {path.stem: content_hash(path) for path in files.migration_files()}
    with connect(dsn, application_name="pyatm status", autocommit=True) as session:
        version = session.info.parameter_status("server_version") or "?"
        row = session.execute(
            "SELECT pg_catalog.to_regclass('atm_migration.applied_file') IS NOT NULL"
        ).fetchone()
        if row is None or not row[0]:
            return MigrationStatus(version.split()[0], (), tuple(names), (), (), False)
        applied = _applied(session)
        return MigrationStatus(
            server_version=version.split()[0],
            applied=tuple(applied),
            pending=tuple(name for name in names if name not in applied),
            unknown=tuple(name for name in applied if name not in names),
            edited=tuple(_edited(applied, names)),
            files_loaded=loader.loaded_hash(session) == files.repeatable_hash(),
        )


def check_released(files: SqlFiles) -> None:
    """Check the released migrations against their checksums.

    Raises:
        MigrationError: a released file was edited or removed.
    """
    path = files.migrations / RELEASED
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        expected, _, name = line.strip().partition("  ")
        if not name or name.startswith("#"):
            continue
        file = files.migrations / name
        if not file.exists():
            raise MigrationError(f"the released migration {name} is missing; restore it from git")
        if content_hash(file) != expected:
            raise MigrationError(
                f"the released migration {name} was edited; restore it from git and write the "
                "change as a new migration"
            )


def _migrate_once(dsn: str, files: SqlFiles, lock_timeout: float, reload: bool) -> MigrationResult:
    paths = {path.stem: path for path in files.migration_files()}
    hashes = {name: content_hash(path) for name, path in paths.items()}
    # Everything on one connection: whoever has lost the advisory lock cannot write any more.
    with MigrationBackend(yoyo_url(dsn, SCHEMA, APPLICATION), hashes) as backend:
        session = backend.session
        _check_server(session)
        session.execute(
            "SELECT pg_catalog.set_config('lock_timeout', %s, false)", [f"{lock_timeout:g}s"]
        )
        _lock(session, lock_timeout)
        session.execute(Path(__file__).with_name("bookkeeping.sql").read_bytes())
        backend.init_database()
        # Below our lock, yoyo's own is that of a process that was killed.
        backend.break_lock()
        with backend.lock():
            applied = _apply_pending(backend, files, hashes)
        loaded = loader.load(session, files, again=reload)
    return MigrationResult(tuple(applied), loaded.loaded, loaded.dropped)


def _apply_pending(
    backend: MigrationBackend, files: SqlFiles, hashes: Mapping[str, str]
) -> list[str]:
    session = backend.session
    migrations = migrations_in_order(files.migrations)
    before = _applied(session)
    if unknown := [name for name in before if name not in hashes]:
        raise MigrationError(
            f"the database was migrated by a newer pyatm ({', '.join(unknown)}); upgrade this one"
        )
    if edited := _edited(before, hashes):
        raise MigrationError(
            f"migration {', '.join(edited)} was edited after it had been applied to this database; "
            "restore the file and write the change as a new migration"
        )
    now: list[str] = []
    for migration in migrations:
        name = cast("str", migration.id)
        if name in before:
            backend.adopt(migration)
            continue
        try:
            apply_migration(backend, migration)
        except psycopg.Error as error:
            raise MigrationError(f"{name}.sql: {described(error.diag)}") from error
        _log.info("migration_applied", migration=name)
        now.append(name)
    return now


def _applied(session: Session) -> dict[str, str]:
    """The content hashes of the applied migrations by id, in the order of their application."""
    rows: list[tuple[str, str]] = session.execute(
        "SELECT migration_id, sha256 FROM atm_migration.applied_file"
        " ORDER BY applied_at, migration_id"
    ).fetchall()
    return dict(rows)


def _edited(applied: Mapping[str, str], hashes: Mapping[str, str]) -> list[str]:
    return sorted(name for name, found in applied.items() if hashes.get(name, found) != found)


def _lock(session: Session, lock_timeout: float) -> None:
    try:
        session.execute("SELECT pg_catalog.pg_advisory_lock(%s)", [LOCK_KEY])
    except errors.LockNotAvailable:
        raise MigrationError(
            f"another migration of this database has been running for {lock_timeout:g} s; "
            "wait for it, or look for application_name = '" + APPLICATION + "' in pg_stat_activity"
        ) from None


def _check_server(session: Session) -> None:
    version = session.info.server_version
    if version < OLDEST_SERVER:
        raise MigrationError(
            f"the server is PostgreSQL {version // 10000}; pyatm needs 15 or newer"
        )
    if version > NEWEST_TESTED:
        _log.warning("server_newer_than_tested", server_version=version)


def _collided(error: BaseException | None) -> bool:
    """Whether another database of the cluster changed the same role at the same time."""
    if not isinstance(error, psycopg.Error):
        return False
    if isinstance(error, errors.UniqueViolation):
        return (error.diag.table_name or "").startswith("pg_auth")
    function = error.diag.source_function or ""
    return error.sqlstate == "XX000" and function.startswith(("simple_heap_", "heap_inplace_"))
