"""How long the simulator takes for the list of its tasks, beside VDSM's own figures.

Run it with ``.venv/bin/python bench/simulator_lists.py``. The simulator and the client are
processes of their own; times are from the request to the whole answer, in ms. VDSM's figures were
measured on a busy machine with two cores; they are only the measure to stay below.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pyatm.simulator.process import SimulatorProcess
from pyatm.vdsm import Address, VdsmClient

VDSM_MS = {0: 1.3, 10: 1.2, 100: 5.8, 1000: 73.0, 5000: 297.0}
SIZES = (0, 10, 100, 1000, 5000, 10_000)
REPEATS = 15
DOMAIN = str(uuid.uuid4())


async def measure() -> list[dict[str, float]]:
    pool = str(uuid.uuid4())
    rows: list[dict[str, float]] = []
    options = ("--job-seconds", "until-told", "--max-tasks", "20000")
    with (
        tempfile.TemporaryDirectory() as directory,
        SimulatorProcess(Path(directory), pools=(pool,), spm=True, options=options) as process,
    ):
        async with VdsmClient(Address(process.host, process.port)) as client:
            held, begun = 0, time.perf_counter()
            for size in SIZES:
                while held < size:
                    some = min(32, size - held)
                    await asyncio.gather(
                        *(
                            client.image.delete(str(uuid.uuid4()), pool_id=pool, domain_id=DOMAIN)
                            for _ in range(some)
                        )
                    )
                    held += some
                creating = time.perf_counter() - begun
                times: list[float] = []
                length = 0
                for _ in range(REPEATS):
                    start = time.perf_counter()
                    text = await client.call_json("Host.getAllTasksStatuses")
                    times.append((time.perf_counter() - start) * 1000)
                    length = len(text)
                rows.append(
                    {
                        "tasks": size,
                        "median_ms": round(statistics.median(times), 2),
                        "worst_ms": round(max(times), 2),
                        "bytes": length,
                        "vdsm_ms": VDSM_MS.get(size, float("nan")),
                        "created_in_s": round(creating, 1),
                    }
                )
    return rows


def main() -> None:
    rows = asyncio.run(measure())
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return
    table = Table("tasks", "median ms", "worst ms", "bytes", "VDSM ms", title="getAllTasksStatuses")
    for row in rows:
        names = ("tasks", "median_ms", "worst_ms", "bytes", "vdsm_ms")
        table.add_row(*(str(row[name]) for name in names))
    Console().print(table)
    print(f"{rows[-1]['tasks']} tasks were created in {rows[-1]['created_in_s']} s")


if __name__ == "__main__":
    main()
