"""DBOS: a workflow that starts a child workflow per task, waits for their results, and ends."""

import os
from typing import Any
from uuid import UUID, uuid4

import psycopg
import sqlalchemy
from dbos import DBOS
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from bench import join

WORK: dict[str, "DbosWorkflows"] = {}
"""The subject that runs now: DBOS registers functions of the module, once per process."""


def url(dsn: str) -> str:
    """SQLAlchemy's way to write a connection string."""
    parts = conninfo_to_dict(dsn)
    made = sqlalchemy.URL.create(
        "postgresql",
        username=str(parts["user"]),
        database=str(parts["dbname"]),
        query={"host": str(parts["host"]), "port": str(parts["port"])},
    )
    return made.render_as_string(hide_password=False)


def launch(dsn: str, pool_size: int) -> None:
    """Start DBOS, whose tables go into the same database as ours."""
    os.environ["DBOS__CONSOLE_LOG_LEVEL"] = "ERROR"
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url(dsn),
            "sys_db_pool_size": pool_size,
            "log_level": "ERROR",
            "application_version": "1",
        }
    )
    DBOS.launch()


def setup(dsn: str) -> None:
    """DBOS makes its tables when it is launched."""
    launch(dsn, 2)
    DBOS.destroy()
    join.create(dsn)


@DBOS.step()
def bind(number: int) -> str:
    """What the engine would ask VDSM; DBOS stores the answer."""
    del number
    return str(uuid4())


@DBOS.workflow()
def task(job: dict[str, Any]) -> str:
    """One task."""
    return bind(job["number"])


@DBOS.step()
def finish(root: str) -> None:
    """The final step."""
    with WORK["now"].pool.connection() as connection:
        join.end(connection, root)


@DBOS.workflow()
def command(root: str) -> None:
    """One command: its tasks, then the end."""
    handles = [DBOS.start_workflow(task, job) for job in join.jobs(UUID(root))]
    for handle in handles:
        handle.get_result()
    finish(root)


class DbosWorkflows(join.ThreadSubject):
    """Submitters start workflows and delete them when they are over."""

    def begin(self, submitters: int) -> None:
        """See `ThreadSubject`."""
        WORK["now"] = self
        launch(self.dsn, 2 * submitters + 4)
        self.pool: ConnectionPool = ConnectionPool(
            self.dsn, min_size=2, max_size=submitters + 2, kwargs={"autocommit": True}, open=True
        )
        for _ in range(submitters):
            self.threads.start(self._submit)

    def stop(self) -> None:
        """See `Subject`."""
        try:
            super().stop()
        finally:
            DBOS.destroy()
            self.pool.close()

    def _submit(self) -> None:
        # A few open at a time: every open workflow holds a thread.
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.threads.stopping:
                handles = []
                for _ in range(4):
                    root = join.plan(connection)
                    handles.append(DBOS.start_workflow(command, str(root)))
                for handle in handles:
                    handle.get_result()
                    self.counter.ended()
                DBOS.delete_workflows([h.workflow_id for h in handles], delete_children=True)
