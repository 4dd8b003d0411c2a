"""A short run of the harness; `make chaos` is the long one."""

import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Generator
from itertools import islice
from pathlib import Path

import pytest

from tests.crash.points import DEEDS, POINTS
from tests.crash.run import run
from tests.crash.schedule import WEIGHTS, faults, lives


@pytest.fixture
def directory() -> Generator[Path]:
    """For a run's files, open to the account of the database; kept when the test fails."""
    path = Path(tempfile.mkdtemp(prefix="pyatm-chaos-"))
    path.chmod(0o755)
    yield path
    if (path / "clean").exists():
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at its processes in /proc")
def test_every_invariant_holds_after_some_seconds_of_faults(directory: Path) -> None:
    seed = random.randrange(1_000_000)
    result = asyncio.run(run(directory, seed, 12, interval=0.8))
    words = "\n".join(str(violation) for violation in result.violations)
    assert not words, f"{words}\nmake chaos MINUTES=0.2 SEED={seed}; its data is in {directory}"
    assert len(result.evidence.effects) > 5
    assert sum(result.faults.values()) > 2
    (directory / "clean").touch()


def test_the_same_seed_gives_the_same_faults_and_points() -> None:
    assert list(islice(faults(7, 1.0), 200)) == list(islice(faults(7, 1.0), 200))
    assert list(islice(faults(7, 1.0), 20)) != list(islice(faults(8, 1.0), 20))
    assert list(islice(lives(7), 200)) == list(islice(lives(7), 200))


def test_every_kind_of_fault_and_every_point_has_its_turn() -> None:
    assert {fault.kind for fault in islice(faults(1, 1.0), 1000)} == set(WEIGHTS)
    orders = [order.split(":") for life in islice(lives(1), 200) for order in life.orders]
    assert {(name, deed) for name, _, deed in orders} == {
        (point, deed) for point in POINTS for deed in DEEDS
    }
