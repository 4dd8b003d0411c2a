"""A connection of the harness that outlives the deaths of the database."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pyatm.database.session import aconnect


class Patient:
    """Runs statements one by one, each in a transaction of its own.

    Args:
        dsn: of the database; a socket that nobody listens on is only waited for.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def try_rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """The rows; raises `psycopg.OperationalError` when the database is away.

        Raises:
            psycopg.Error: what the database answered.
        """
        if self._connection is None or self._connection.closed:
            self._connection = await aconnect(
                self._dsn, application_name="chaos harness", autocommit=True
            )
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), arguments)
            return [] if cursor.description is None else await cursor.fetchall()

    async def try_named(self, query: str, arguments: Mapping[str, Any]) -> None:
        """The same with named arguments, and without rows."""
        await self.try_rows("SELECT 1")
        if self._connection is not None:
            await self._connection.execute(query.encode(), arguments)

    async def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """The rows, however long the database is away."""
        while True:
            try:
                return await self.try_rows(query, *arguments)
            except psycopg.OperationalError:
                await self.close()
                await asyncio.sleep(0.1)

    async def script(self, statements: str) -> None:
        """Several statements at once."""
        await self.rows("SELECT 1")
        if self._connection is not None:
            await self._connection.execute(statements.encode())

    async def set_pool(self, pool: str, hosts: Sequence[Mapping[str, Any]]) -> None:
        """Make a storage pool known."""
        await self.rows("SELECT atm.set_pool(%s, %s, %s)", pool, f"pool {pool}", Jsonb(hosts))

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
