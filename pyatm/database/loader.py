"""Loads the repeatable SQL files whole, in one transaction, and drops what they do not define."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus

from pyatm import __version__
from pyatm.database.errors import MigrationError
from pyatm.database.files import SqlFiles

Session = psycopg.Connection[Any]


class TransactionEndedError(MigrationError):
    """A file has a COMMIT or ROLLBACK; what stood before it may be in the database already."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load did.

    Attributes:
        loaded: False when the database had these files already.
        dropped: what the files no longer define, as PostgreSQL writes it.
    """

    loaded: bool
    dropped: tuple[str, ...] = ()


def loaded_hash(session: Session) -> str | None:
    """The hash of the files that the database has; None when none were loaded."""
    row = session.execute("SELECT content_hash FROM atm_migration.load").fetchone()
    return row[0] if row else None


def load(session: Session, files: SqlFiles, *, again: bool = False) -> LoadResult:
    """Bring the database's functions and views to the files' state.

    Args:
        session: a connection in autocommit mode; `bookkeeping.sql` was run.
        files: the files.
        again: load them even if the database has them.

    Raises:
        MigrationError: the server refused a file; the message has file and line. Nothing changed.
    """
    content_hash = files.repeatable_hash()
    if not again and loaded_hash(session) == content_hash and _complete(session):
        return LoadResult(loaded=False)
    with session.transaction():
        transaction_id = _transaction_id(session)
        try:
            with session.transaction():
                _run_files(session, files)
        except TransactionEndedError:
            raise
        except MigrationError as first:
            # A definition that cannot be replaced can be dropped and made again, unless something
            # else depends on it or the file is wrong; then the first error is the one to show.
            try:
                session.execute("SELECT atm_migration.drop_loaded_objects()")
                _run_files(session, files)
            except MigrationError as second:
                raise second from second.__cause__
            except psycopg.errors.DependentObjectsStillExist as second:
                raise MigrationError(f"{first}\n{described(second.diag)}") from second
        dropped = _finish(session, content_hash)
        if _transaction_id(session) != transaction_id:
            raise TransactionEndedError("a file in sql/ ends the transaction; remove its COMMIT")
    return LoadResult(loaded=True, dropped=dropped)


def _complete(session: Session) -> bool:
    row = session.execute("SELECT atm_migration.missing_objects()").fetchone()
    return row is not None and row[0] == 0


def _transaction_id(session: Session) -> str:
    row = session.execute("SELECT pg_catalog.pg_current_xact_id()::text").fetchone()
    return str(row[0]) if row else ""


def _run_files(session: Session, files: SqlFiles) -> None:
    session.execute("SELECT atm_migration.begin_load()")
    session.execute("SET LOCAL check_function_bodies = off")
    for path in files.repeatable_files():
        session.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        text = path.read_text(encoding="utf-8")
        try:
            session.execute(text.encode())
        except psycopg.Error as error:
            raise MigrationError(_located(path, text, error.diag)) from error
        if session.info.transaction_status != TransactionStatus.INTRANS:
            raise TransactionEndedError(f"{path.name} ends the transaction; remove its COMMIT")
        # A file may have changed the role for its own objects.
        session.execute("RESET ROLE")


def _finish(session: Session, content_hash: str) -> tuple[str, ...]:
    try:
        row = session.execute(
            "SELECT atm_migration.end_load(%s, %s)", [content_hash, __version__]
        ).fetchone()
    except psycopg.Error as error:
        raise MigrationError(described(error.diag)) from error
    return tuple(row[0]) if row else ()


def _located(path: Path, text: str, diag: Diagnostic) -> str:
    position = int(diag.statement_position or 0)
    line = f":{text.count(chr(10), 0, position - 1) + 1}" if position else ""
    return f"{path.name}{line}: {described(diag)}"


def described(diag: Diagnostic) -> str:
    """What the server said about an error: message, SQLSTATE, detail, context and hint."""
    parts = [f"{diag.message_primary} ({diag.sqlstate})"]
    parts += [part for part in (diag.message_detail, diag.context, diag.message_hint) if part]
    return "\n".join(parts)
