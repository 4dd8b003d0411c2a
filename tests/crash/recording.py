"""The history of operations: JSON lines that each process appends to a file of its own.

A line is handed to the kernel before what it tells can have consequences, so that SIGKILL loses at
most what nobody has seen.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUFFIX = ".history.jsonl"


class Recorder:
    """Appends to one file.

    Args:
        directory: where the histories of a run are.
        who: names the file; unique per process.
    """

    def __init__(self, directory: Path, who: str) -> None:
        self.directory = directory
        self._who = who
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(directory / f"{who}{SUFFIX}", flags, 0o644)

    def write(self, what: str, **facts: Any) -> None:
        """One line, with the time and who wrote it."""
        line = {"at": time.time(), "who": self._who, "what": what, **facts}
        os.write(self._file, json.dumps(line, default=str).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_lines(directory: Path) -> Iterator[dict[str, Any]]:
    """Every complete line of every history, file by file."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)
