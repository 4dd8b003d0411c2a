"""ovirt-engine's own way: its tables, and its calls in the reading that flatters it most.

That is 44 procedure calls, 52 round trips and 32 writing transactions for a root with 4 children:
one write per state change. The engine itself makes more than twice as many (see the reference of
measured facts in `docs/benchmarks.md`).
"""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

from bench import join
from pyatm.bench.floor import PARAMETERS
from pyatm.bench.statements import load

SQL = load(Path(__file__).with_name("ovirt_engine.sql"))
ZERO = UUID(int=0)
PARAMETERS_TEXT = json.dumps(PARAMETERS)
Connection = psycopg.Connection[Any]


def setup(dsn: str) -> None:
    """The engine's tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SQL["schema"])


class OvirtEngine(join.ThreadSubject):
    """Each submitter takes its commands to their end, one after the other, as the floor does."""

    def begin(self, submitters: int) -> None:
        """See `ThreadSubject`."""
        for _ in range(submitters):
            self.threads.start(self._submit)

    def _submit(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.threads.stopping:
                _command(connection)
                self.counter.ended()


def _command(connection: Connection) -> None:
    root, pool = uuid4(), uuid4()
    children = [(uuid4(), uuid4(), uuid4()) for _ in range(4)]
    _put(connection, root, root, "ACTIVE", executed=False)
    for child, task, vdsm in children:
        _put(connection, child, root, "ACTIVE", executed=False)
        unbound = {"task": task, "command": child, "pool": ZERO, "vdsm": ZERO}
        _call(connection, "put_task", unbound)
        # VDSM is called here.
        _call(connection, "get_task", {"task": task})
        with connection.transaction():
            _call(connection, "put_task", {**unbound, "pool": pool, "vdsm": vdsm})
            _call(connection, "put_task_entities", {"task": task, "entities": [uuid4(), uuid4()]})
        _put(connection, child, root, "ACTIVE", executed=True)
    _put(connection, root, root, "ACTIVE", executed=True)
    # VDSM has finished the tasks; what it said is kept in memory only.
    for child, _, vdsm in children:
        _call(connection, "children", {"root": root})
        _put(connection, child, root, "ENDED_SUCCESSFULLY", executed=True)
        _call(connection, "delete_task", {"vdsm": vdsm})
    _put(connection, root, root, "SUCCEEDED", executed=True)
    for command in [*(child for child, _, _ in children), root]:
        _call(connection, "delete_command", {"id": command})


def _put(connection: Connection, command: UUID, root: UUID, status: str, *, executed: bool) -> None:
    arguments = {
        "id": command,
        "type": 4 if command == root else 211,
        "root": root,
        "parameters": PARAMETERS_TEXT,
        "status": status,
        "executed": executed,
        "callback": command == root,
    }
    _call(connection, "put_command", arguments)


def _call(connection: Connection, name: str, arguments: dict[str, Any]) -> None:
    connection.execute(SQL[name], arguments, prepare=True)
