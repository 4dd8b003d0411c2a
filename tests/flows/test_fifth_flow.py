"""The flow that docs/flows.md adds runs as it is printed there, and nothing else has to change."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.programs import environment
from tests.flows.agreement import settle_and_judge
from tests.flows.stage import POOL, Stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    document = (ROOT / "docs" / "flows.md").read_text()
    _, block = document.split("```python\n", 1)
    path = tmp_path / "add_disk.py"
    path.write_text(block.split("```", 1)[0])
    return path


def add_disk(stage: Stage, program: Path, vm_id: str) -> str:
    """Run it; returns the command's outcome."""
    place = f"{stage.simulator.host}:{stage.simulator.port}"
    options = ("--flow", "add-disk", "--vm", vm_id, "--pool", POOL, "--vdsm", place)
    done = subprocess.run(
        [sys.executable, program, *options],
        env=environment(PYATM_DSN=stage.engine_dsn, PYATM_VDSM__TLS="false"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return next(each["outcome"] for each in events if each["event"] == "ended")


def test_the_documented_flow_succeeds_and_fails_as_the_others_do(
    stage: Stage, program: Path
) -> None:
    vm_id = stage.add_vm(1)
    assert add_disk(stage, program, vm_id) == "succeeded"
    settle_and_judge(stage)
    assert list(stage.disks().values()) == ["OK", "OK"]
    stage.control("job", 0.05, count=1, failure={"code": 205})
    assert add_disk(stage, program, vm_id) == "failed"
    settle_and_judge(stage)
    assert list(stage.disks().values()) == ["OK", "OK"]
