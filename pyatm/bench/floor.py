"""The floor: the same writes without rules, in 8 transactions, or in 4."""

import threading
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from pyatm.bench.measure import Counter, Meter, Sample

PARAMETERS = {"image": "x" * 150, "force": False, "postZero": True}
"""About 200 bytes as JSON text."""


class Floor:
    """Runs floor commands.

    Args:
        dsn: the server.
        statements: by name.
        postmaster: process id.
        minimal: 4 transactions per command instead of 8.
    """

    def __init__(
        self, dsn: str, statements: dict[str, LiteralString], postmaster: int, *, minimal: bool
    ) -> None:
        self._dsn = dsn
        self._sql = statements
        self._postmaster = postmaster
        self._minimal = minimal
        self._pool = uuid4()

    def run(self, submitters: int, commands: int) -> Sample:
        """A closed loop: each submitter takes its next command when the last one is deleted.

        Args:
            submitters: connections.
            commands: in all.
        """
        counter = Counter()
        connections = [psycopg.connect(self._dsn, autocommit=True) for _ in range(submitters)]
        with psycopg.connect(self._dsn, autocommit=True) as control:
            for connection in connections:
                self._command(connection, Counter())
            meter = Meter(control, self._postmaster)
            share = commands // submitters

            def work(connection: psycopg.Connection) -> None:
                for _ in range(share):
                    self._command(connection, counter)

            threads = [threading.Thread(target=work, args=[one]) for one in connections]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            sample = meter.sample(share * submitters, counter, [])
        for connection in connections:
            connection.close()
        return sample

    def _command(self, connection: psycopg.Connection, counter: Counter) -> None:
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
        counter.call(connection, self._sql["floor_insert"], arguments)
        vdsms: list[UUID] = [uuid4() for _ in tasks]
        if self._minimal:
            both = {"tasks": tasks, "vdsms": vdsms}
            counter.call(connection, self._sql["floor_bind_all"], both)
            named = {"tasks": tasks, "root": root}
            counter.call(connection, self._sql["floor_report_and_claim"], named)
        else:
            for task, vdsm in zip(tasks, vdsms, strict=True):
                counter.call(connection, self._sql["floor_bind"], {"task": task, "vdsm": vdsm})
            counter.call(connection, self._sql["floor_report"], {"tasks": tasks})
            counter.call(connection, self._sql["floor_claim"], {"root": root})
        counter.call(connection, self._sql["floor_delete"], {"root": root})
