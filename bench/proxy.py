"""Counts round trips and transactions on the wire, the same way for every subject.

The server ends each exchange with ReadyForQuery, which says whether a transaction is open. One such
message is one round trip (a pipeline has one per synchronisation point); one that says "idle" is
the end of one transaction. The first one of a connection is its start and is not counted.
"""

import asyncio
import mmap
import struct
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

COUNTS = struct.Struct("QQ")
READY, IDLE = ord("Z"), ord("I")


class Counts:
    """Two counters that another process can read."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            path.write_bytes(bytes(COUNTS.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), COUNTS.size)

    def read(self) -> tuple[int, int]:
        """Round trips and transactions so far."""
        trips, transactions = COUNTS.unpack_from(self._memory)
        return trips, transactions

    def add(self, trips: int, transactions: int) -> None:
        """Count some more; one process only."""
        had = self.read()
        COUNTS.pack_into(self._memory, 0, had[0] + trips, had[1] + transactions)


class Answers:
    """Finds the ReadyForQuery messages in what the server sends, however it is cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False

    def feed(self, data: bytes) -> tuple[int, int]:
        """Round trips and transactions that end in the next piece."""
        trips = transactions = position = 0
        data = self._rest + data
        while len(data) - position >= 5:
            size = 1 + int.from_bytes(data[position + 1 : position + 5])
            if len(data) - position < size:
                break
            if data[position] == READY:
                trips += self._started
                transactions += self._started and data[position + 5] == IDLE
                self._started = True
            position += size
        self._rest = data[position:]
        return trips, transactions


@contextmanager
def counting(server: Path) -> Generator[tuple[Path, Path]]:
    """A proxy in front of a server.

    Args:
        server: directory of its socket.

    Yields:
        The directory of the proxy's socket, and the file of its counters for `Counts`.
    """
    with tempfile.TemporaryDirectory(prefix="pyatm-proxy-") as name:
        directory = Path(name)
        counts = Counts(directory / "counts", create=True)
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        ready = threading.Event()

        async def serve() -> None:
            async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                back, forth = await asyncio.open_unix_connection(str(server / ".s.PGSQL.5432"))
                answers = Answers()

                async def questions() -> None:
                    while data := await reader.read(65536):
                        forth.write(data)
                        await forth.drain()
                    forth.close()

                asking = asyncio.create_task(questions())
                try:
                    while data := await back.read(65536):
                        found = answers.feed(data)
                        if found[0]:
                            counts.add(*found)
                        writer.write(data)
                        await writer.drain()
                except (ConnectionError, asyncio.CancelledError):
                    pass
                finally:
                    asking.cancel()
                    writer.close()
                    forth.close()

            path = directory / ".s.PGSQL.5432"
            async with await asyncio.start_unix_server(client, str(path)):
                path.chmod(0o777)
                ready.set()
                await stop.wait()
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()

        directory.chmod(0o755)
        thread = threading.Thread(target=loop.run_until_complete, args=[serve()], daemon=True)
        thread.start()
        ready.wait(10)
        try:
            yield directory, directory / "counts"
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
