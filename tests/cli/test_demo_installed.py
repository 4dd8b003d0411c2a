"""The demo away from the checkout: as another user, and from the built wheel."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cli.demo_program import PATIENCE, ROOT, a_place, judge
from tests.cli.programs import environment, ordinary_user

pytestmark = pytest.mark.slow


@pytest.mark.skipif(os.geteuid() != 0, reason="every other demo test is this one already")
def test_an_ordinary_user_runs_the_demo_in_a_home_of_his_own() -> None:
    user = ordinary_user()
    if user is None:
        pytest.skip("the account nobody cannot execute this interpreter")
    with a_place() as place:
        home = place.directory / "home"
        home.mkdir()
        os.chown(home, user.uid, user.gid)
        done = subprocess.run(
            [user.python, "-m", "pyatm.cli.main", "demo", "--json"],
            env=place.environment(HOME=str(home), PYTHONPATH=user.python_path, USER="nobody"),
            cwd="/",
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        judge(done.stdout)
        assert place.processes() == []


@pytest.fixture
def empty_environment() -> Generator[Path]:
    """A virtual environment with nothing but the built wheel and what it depends on."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    base = Path(tempfile.mkdtemp(prefix="pyatm-test-wheel-"))
    base.chmod(0o755)
    made = base / "venv"
    try:
        for arguments in (
            ["build", "--wheel", "--quiet", "--out-dir", str(base / "dist"), str(ROOT)],
            ["venv", "--quiet", "--python", sys.executable, str(made)],
        ):
            subprocess.run([uv, *arguments], env=environment(), cwd=base, check=True)
        wheel = next((base / "dist").glob("*.whl"))
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", str(made / "bin/python"), str(wheel)],
            env=environment(),
            cwd=base,
            check=True,
        )
        yield made
    finally:
        shutil.rmtree(base, ignore_errors=True)


def test_the_built_wheel_runs_the_demo_in_an_empty_environment(empty_environment: Path) -> None:
    with a_place() as place:
        done = subprocess.run(
            [empty_environment / "bin/pyatm", "demo", "--json"],
            env=place.environment(),
            cwd=place.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        judge(done.stdout)
        assert place.processes() == []
