"""Everything that is compared, by name, in the order of the tables."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

import psycopg

from pyatm.bench.floor import Floor
from pyatm.bench.lifecycle import Lifecycle
from pyatm.bench.measure import Subject
from pyatm.bench.statements import load
from pyatm.database.migrate import migrate


@dataclass(frozen=True, slots=True)
class Entry:
    """One subject.

    Attributes:
        setup: makes its tables in a new database.
        make: the subject on that database.
        package: on PyPI, whose version is told; None: ours.
        what: said in the table.
    """

    setup: Callable[[str], None]
    make: Callable[[str], Subject]
    package: str | None
    what: str

    @property
    def release(self) -> str:
        """Its version."""
        return version(self.package) if self.package else ""


def _floor(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(load()["floor_schema"])


def _pyatm(dsn: str) -> None:
    migrate(dsn)


def _peer(module: str, name: str, package: str | None, what: str) -> Entry:
    """Imported only when used: not all of them are wanted in one process."""
    where = f"bench.peers.{module}"
    return Entry(
        lambda dsn: import_module(where).setup(dsn),
        lambda dsn: getattr(import_module(where), name)(dsn),
        package,
        what,
    )


SUBJECTS: dict[str, Entry] = {
    "floor": Entry(
        _floor,
        lambda dsn: Floor(dsn, load(), minimal=False),
        None,
        "the same writes without any rule, 8 transactions",
    ),
    "floor-min": Entry(
        _floor,
        lambda dsn: Floor(dsn, load(), minimal=True),
        None,
        "the same in 4 transactions",
    ),
    "pyatm": Entry(_pyatm, Lifecycle, "pyatm", "all rules, history kept"),
    "pgqueuer": _peer("pgqueuer", "PgQueuer", "pgqueuer", "a job per task, join by hand"),
    "pgmq": _peer("pgmq", "Pgmq", "pgmq", "a message per task, join by hand"),
    "pgmq-unbound": _peer(
        "pgmq", "PgmqUnbound", "pgmq", "the same without VDSM's ids: a crash loses them"
    ),
    "absurd": _peer("absurd", "AbsurdTasks", "absurd-sdk", "a parent that waits for 4 events"),
    "dbos": _peer("dbos", "DbosWorkflows", "dbos", "a workflow with 4 child workflows"),
    "procrastinate": _peer(
        "procrastinate", "Procrastinate", "procrastinate", "a job per task, join by hand"
    ),
    "ovirt-engine": _peer(
        "ovirt_engine", "OvirtEngine", None, "its tables and calls, re-created; 52 round trips"
    ),
}
