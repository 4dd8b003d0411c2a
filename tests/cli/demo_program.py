"""The demo as a process of its own, in a temporary directory by which everything of it is found."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.printed import printed
from tests.cli.programs import environment

ROOT = Path(__file__).parents[2]
MARK = "TEST_OF_THE_DEMO"
SCENARIOS = ["remove-vm", "engine-crash-unbound", "engine-crash-all-bound"]
OUTCOMES = ["succeeded", "failed", "succeeded"]
PATIENCE = 240.0
"""Seconds for a whole demo on a machine that is busy with other tests."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a demo runs.

    Attributes:
        directory: its TMPDIR; its server's files, its logs and its storage are below.
        mark: in the environment of its processes.
    """

    directory: Path
    mark: str

    def environment(self, **changes: str) -> dict[str, str]:
        return environment(**{"TMPDIR": str(self.directory), MARK: self.mark, **changes})

    def processes(self) -> list[str]:
        """Processes of the demo that are alive, as `pid command line`."""
        return [found for entry in Path("/proc").glob("[0-9]*") if (found := self._ours(entry))]

    def files(self) -> list[str]:
        return sorted(entry.name for entry in self.directory.iterdir())

    def _ours(self, entry: Path) -> str:
        try:
            if entry.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return ""
            command = entry.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
            marked = f"{MARK}={self.mark}".encode() in entry.joinpath("environ").read_bytes()
            # PostgreSQL gets a clean environment, and works in its data directory.
            inside = (entry / "cwd").readlink().is_relative_to(self.directory)
        except OSError:
            return ""
        return f"{entry.name} {command}" if marked or inside else ""


@contextmanager
def a_place() -> Generator[Place]:
    """A place that the server's account may enter too when the tests run as root."""
    directory = Path(tempfile.mkdtemp(prefix="pyatm-test-demo-"))
    directory.chmod(0o777)
    try:
        yield Place(directory, uuid.uuid4().hex)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def start(place: Place, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pyatm.cli.start", "demo", *arguments],
        env=place.environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def judge(output: str) -> dict[str, Any]:
    """Check the one JSON object on standard output against what it must be."""
    told = printed("demo", output)
    assert list(told) == ["scenarios", "live_rows", "vdsm_tasks"]
    assert [scenario["name"] for scenario in told["scenarios"]] == SCENARIOS
    assert [scenario["outcome"] for scenario in told["scenarios"]] == OUTCOMES
    for scenario in told["scenarios"]:
        assert list(scenario) == ["name", "outcome", "tasks", "seconds"]
        assert scenario["tasks"] == 4
        assert scenario["seconds"] > 0
    assert (told["live_rows"], told["vdsm_tasks"]) == (0, 0)
    return told


def soon(condition: Callable[[], bool], what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what()}")
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
