"""The hand-written join of `join.sql`, for threads and for asyncio."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

from pyatm.bench.floor import PARAMETERS
from pyatm.bench.measure import Counter
from pyatm.bench.statements import load
from pyatm.bench.threads import Threads

SQL = load(Path(__file__).with_name("join.sql"))
TASKS = 4


def arguments() -> dict[str, Any]:
    """Of one new command."""
    return {"root": uuid4(), "entities": [uuid4() for _ in range(8)]}


def jobs(root: UUID) -> list[dict[str, Any]]:
    """The 4 tasks of a command as jobs' arguments."""
    return [{"root": str(root), "number": n, "parameters": PARAMETERS} for n in range(TASKS)]


def plan(connection: psycopg.Connection[Any]) -> UUID:
    """Insert a command with its entities."""
    made = arguments()
    connection.execute(SQL["plan"], made, prepare=True)
    return made["root"]


def bind(connection: psycopg.Connection[Any], root: str) -> None:
    """Note VDSM's id of one task, before it is waited for: a crash must not start another one."""
    connection.execute(SQL["bind"], {"root": UUID(root), "vdsm": uuid4()}, prepare=True)


def task_done(connection: psycopg.Connection[Any], root: str) -> bool:
    """Count one task; whether it was the last one of its command."""
    done = connection.execute(SQL["task_done"], {"root": UUID(root)}, prepare=True).fetchone()
    return done is not None and done[0] == 0


def end(connection: psycopg.Connection[Any], root: str) -> None:
    """The final step: the command and its entities go."""
    connection.execute(SQL["end"], {"root": UUID(root)}, prepare=True)


async def aplan(connection: psycopg.AsyncConnection[Any]) -> UUID:
    """As `plan`."""
    made = arguments()
    await connection.execute(SQL["plan"], made, prepare=True)
    return made["root"]


async def abind(connection: psycopg.AsyncConnection[Any], root: str) -> None:
    """As `bind`."""
    await connection.execute(SQL["bind"], {"root": UUID(root), "vdsm": uuid4()}, prepare=True)


async def atask_done(connection: psycopg.AsyncConnection[Any], root: str) -> bool:
    """As `task_done`."""
    cursor = await connection.execute(SQL["task_done"], {"root": UUID(root)}, prepare=True)
    done = await cursor.fetchone()
    return done is not None and done[0] == 0


async def aend(connection: psycopg.AsyncConnection[Any], root: str) -> None:
    """As `end`."""
    await connection.execute(SQL["end"], {"root": UUID(root)}, prepare=True)


def create(dsn: str) -> None:
    """Make the tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SQL["schema"])


class ThreadSubject:
    """A subject whose parts are threads."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.counter = Counter()
        self.threads = Threads()
        self.places = threading.Semaphore()

    def start(self, submitters: int) -> None:
        """See `Subject`."""
        from pyatm.bench.lifecycle import OPEN

        self.threads = Threads()
        self.places = threading.Semaphore(OPEN)
        self.begin(submitters)

    def begin(self, submitters: int) -> None:
        """Start the threads."""
        raise NotImplementedError

    def stop(self) -> None:
        """See `Subject`."""
        self.threads.stop()

    def failed(self) -> bool:
        """See `Subject`."""
        return self.threads.failed()

    def ended(self) -> None:
        """A command is over."""
        self.counter.ended()
        self.places.release()


class AsyncSubject:
    """A subject that is one event loop in a thread of its own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.counter = Counter()
        self.threads = Threads()
        self.places = asyncio.Semaphore()
        self.stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, submitters: int) -> None:
        """See `Subject`."""
        self.threads = Threads()
        self.threads.start(lambda: self._thread(submitters))

    def _thread(self, submitters: int) -> None:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main(submitters))

    async def _main(self, submitters: int) -> None:
        from pyatm.bench.lifecycle import OPEN

        self._loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self.places = asyncio.Semaphore(OPEN)
        await self.main(submitters)

    async def main(self, submitters: int) -> None:
        """Run until `stopping`."""
        raise NotImplementedError

    async def submitter(self, submit: Callable[[], Awaitable[None]]) -> None:
        """Submit commands, with a bounded number open."""
        while not self.stopping.is_set():
            try:
                async with asyncio.timeout(0.2):
                    await self.places.acquire()
            except TimeoutError:
                continue
            await submit()

    def stop(self) -> None:
        """See `Subject`."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.stopping.set)
        self.threads.stop()

    def failed(self) -> bool:
        """See `Subject`."""
        return self.threads.failed()

    def ended(self) -> None:
        """A command is over."""
        self.counter.ended()
        self.places.release()
