"""The stage of a test of the flows."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import Connection
from tests.flows.nursery import Nursery
from tests.flows.stage import Stage


@pytest.fixture(scope="session")
def nursery() -> Generator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def stage(dsn: str, db: Connection, tmp_path: Path, nursery: Nursery) -> Generator[Stage]:
    with Stage(dsn, db, tmp_path, nursery, job_seconds="0.05") as stage:
        yield stage
