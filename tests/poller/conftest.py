"""The stage of a test of the poller."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pyatm.simulator.process import SimulatorProcess
from tests.conftest import Connection
from tests.poller.stage import PollerProcess, Stage


@pytest.fixture
def stage(dsn: str, db: Connection, tmp_path: Path) -> Stage:
    return Stage(dsn, db, tmp_path)


@pytest.fixture
def running() -> Generator[Callable[..., Any]]:
    """Starts simulators and pollers that end with the test."""
    with ExitStack() as stack:

        def enter(process: SimulatorProcess | PollerProcess) -> Any:
            entered = stack.enter_context(process)
            if isinstance(entered, PollerProcess):
                entered.wait_ready()
            return entered

        yield enter
