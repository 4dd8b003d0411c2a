"""The pictures of the README come out of the running program."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.cli.programs import environment

ROOT = Path(__file__).parents[2]


def words(picture: Path) -> str:
    """The text in an SVG picture."""
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    return " ".join(root.itertext()).replace("\xa0", " ")


def test_the_script_takes_the_pictures_from_the_running_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "docs/make_screens.py", "--to", str(tmp_path), "--tasks", "40",
         "--only", "top", "cancel", "explain"],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "end_failed" in words(tmp_path / "top.svg")
    assert "40 running" in words(tmp_path / "top.svg") or "deserted" in words(tmp_path / "top.svg")
    assert "Nothing has happened yet" in words(tmp_path / "cancel.svg")
    assert "gave up" in words(tmp_path / "explain.svg")


def test_the_readme_shows_pictures_that_exist() -> None:
    shown = re.findall(r"!\[[^]]+\]\((docs/screens/[^)]+)\)", (ROOT / "README.md").read_text())
    assert len(shown) >= 3
    assert {Path(name).name for name in shown} == {p.name for p in ROOT.glob("docs/screens/*")}
    for name in shown:
        assert len(words(ROOT / name)) > 500
