"""Makes the toy inventory's schema: the one step of the flows that needs an owner's rights."""

from pathlib import Path
from typing import Final

import psycopg

from pyatm.database.session import connect

SCHEMA_FILE: Final = Path(__file__).with_name("inventory.sql")
_LOCK: Final = 0x70796174


class NotInstalled(Exception):  # noqa: N818 (reads as what it says)
    """The database has no toy inventory, or only one of an older program."""


def install_inventory(dsn: str) -> None:
    """Create what is missing of schema `pyatm_inventory` and let `atm_engine` use it.

    Args:
        dsn: of a migrated database, as a role that may create schemas in it.

    Raises:
        psycopg.errors.InsufficientPrivilege: the role may not.
    """
    with connect(dsn, application_name="pyatm inventory") as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute(SCHEMA_FILE.read_bytes())


def is_installed(dsn: str) -> bool:
    """Whether the whole schema is there."""
    with connect(dsn, application_name="pyatm inventory") as connection:
        row = connection.execute(INSTALLED).fetchone()
    return bool(row and row[0])


async def require_inventory(connection: psycopg.AsyncConnection[object]) -> None:
    """Raise `NotInstalled` unless the schema is there."""
    cursor = await connection.execute(INSTALLED)
    row = await cursor.fetchone()
    if not (isinstance(row, tuple) and row[0]):
        raise NotInstalled(
            "the database has no toy inventory (schema pyatm_inventory); as a role that may create"
            " schemas run: pyatm db inventory"
        )


INSTALLED: Final = (
    "SELECT count(*) = 1 FROM pg_tables WHERE schemaname = 'pyatm_inventory'"
    " AND tablename = 'reverting'"
)
