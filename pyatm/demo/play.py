"""The whole demo, from an empty directory to the verdict."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyatm.database.embedded import EmbeddedServer, private_server
from pyatm.database.migrate import migrate
from pyatm.demo import scenarios
from pyatm.demo.expectations import live_rows
from pyatm.demo.stage import SHORT_TIMES, set_up

if TYPE_CHECKING:
    from collections.abc import Generator

    from pyatm.demo.display import Display
    from pyatm.demo.expectations import Result


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the demo found.

    Attributes:
        results: of the scenarios.
        live_rows: rows in the live views at the end.
        vdsm_tasks: tasks that VDSM lists at the end.
        kept: directory of the database that was kept, None when it is gone.
        dsn: of the database that was kept.
    """

    results: tuple[Result, ...]
    live_rows: int
    vdsm_tasks: int
    kept: Path | None
    dsn: str | None

    @property
    def held(self) -> bool:
        """Whether everything was as expected."""
        clean = self.live_rows == 0 and self.vdsm_tasks == 0
        return clean and all(result.held for result in self.results)

    def as_json(self) -> dict[str, Any]:
        """The object that `pyatm demo --json` prints."""
        return {
            "scenarios": [
                {
                    "name": result.name,
                    "outcome": result.outcome,
                    "tasks": result.tasks,
                    "seconds": round(result.seconds, 2),
                }
                for result in self.results
            ],
            "live_rows": self.live_rows,
            "vdsm_tasks": self.vdsm_tasks,
        }


def play(display: Display, *, keep: bool) -> Verdict:
    """Play all scenarios.

    Args:
        display: where to report to.
        keep: leave the database, with its server running.

    Raises:
        DemoError, ChildError: something did not happen at all.
        EmbeddedServerError: PostgreSQL does not start.
    """
    display.heading("Start")
    with _server(keep=keep) as server:
        display.say(f"PostgreSQL: process {server.pid}, own server in {server.directory}")
        migrate(server.dsn())
        display.say("migrated: schema atm")
        for name, value in SHORT_TIMES.items():
            display.say(f"setting {name} is shortened to {value} so that you need not wait")
        results, rows, tasks = asyncio.run(_play(server, display))
    if not keep:
        return Verdict(results, rows, tasks, None, None)
    # Only now does it become a server that outlives this process.
    kept = EmbeddedServer(server.directory)
    kept.start()
    return Verdict(results, rows, tasks, kept.directory, kept.dsn())


async def _play(server: EmbeddedServer, display: Display) -> tuple[tuple[Result, ...], int, int]:
    playing = asyncio.current_task()
    if playing is not None:
        # As Ctrl-C: everything that was started is ended in order.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)
    async with set_up(server.dsn(), server.directory, display) as stage:
        results = [await scenario(stage) for scenario in scenarios.ALL]
        rows = await live_rows(stage.database)
        return tuple(results), rows, len(await stage.vdsm.tasks())


@contextmanager
def _server(*, keep: bool) -> Generator[EmbeddedServer]:
    if not keep:
        with private_server() as server:
            yield server
        return
    directory = Path(tempfile.mkdtemp(prefix="pyatm-demo-"))
    server = EmbeddedServer(directory, private=True, durable=True)
    try:
        server.start()
        yield server
    except BaseException:
        # Nobody would be told where the half-played database is.
        server.close()
        shutil.rmtree(directory, ignore_errors=True)
        raise
    server.close()
