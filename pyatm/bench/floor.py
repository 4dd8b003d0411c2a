"""The floor: the same writes without rules, in 8 transactions, or in 4."""

from typing import Final, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from pyatm.bench.measure import Connection, Counter
from pyatm.bench.threads import Threads

PARAMETERS: Final = {"image": "x" * 150, "force": False, "postZero": True}
"""About 200 bytes as JSON text."""


class Floor:
    """Floor commands, one open command per submitter.

    Args:
        dsn: a database with the floor's tables.
        statements: by name.
        minimal: 4 transactions per command instead of 8.
    """

    def __init__(self, dsn: str, statements: dict[str, LiteralString], *, minimal: bool) -> None:
        self._dsn = dsn
        self._sql = statements
        self._minimal = minimal
        self._pool = uuid4()
        self.counter = Counter()
        self._threads = Threads()

    def start(self, submitters: int) -> None:
        """See `Subject`."""
        self._threads = Threads()
        for _ in range(submitters):
            self._threads.start(self._submit)

    def stop(self) -> None:
        """See `Subject`."""
        self._threads.stop()

    def failed(self) -> bool:
        """See `Subject`."""
        return self._threads.failed()

    def _submit(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._threads.stopping:
                self._command(connection)
                self.counter.ended()

    def _command(self, connection: Connection) -> None:
        call, sql = self.counter.call, self._sql
        root = uuid4()
        tasks = [uuid4() for _ in range(4)]
        arguments = {
            "root": root,
            "commands": [root, *(uuid4() for _ in range(4))],
            "tasks": tasks,
            "entities": [uuid4() for _ in range(8)],
            "pool": self._pool,
            "parameters": Jsonb(PARAMETERS),
        }
        call(connection, sql["floor_insert"], arguments)
        vdsms: list[UUID] = [uuid4() for _ in tasks]
        if self._minimal:
            call(connection, sql["floor_bind_all"], {"tasks": tasks, "vdsms": vdsms})
            call(connection, sql["floor_report_and_claim"], {"tasks": tasks, "root": root})
        else:
            for task, vdsm in zip(tasks, vdsms, strict=True):
                call(connection, sql["floor_bind"], {"task": task, "vdsm": vdsm})
            call(connection, sql["floor_report"], {"tasks": tasks})
            call(connection, sql["floor_claim"], {"root": root})
        call(connection, sql["floor_delete"], {"root": root})
