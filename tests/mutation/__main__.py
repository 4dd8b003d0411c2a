"""python -m tests.mutation: every mutant on a copy of the checkout, and the test that fails.

Prints a table in Markdown; ends with 1 when a mutant survives. Takes about half a minute for each
mutant; `--only WORDS` takes those with these words in their names.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.servers import choose, running

from .mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PARTS = ("sql", "migrations", "pyatm", "tests", "docs", "bench", "packaging")
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")
LIMIT = 600.0  # seconds for one selection of tests


class BrokenMutantError(Exception):
    """The mutant does not even load: it proves nothing."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a mutant; `caught_by` is empty when nothing failed."""

    mutant: Mutant
    caught_by: str
    seconds: float

    def __str__(self) -> str:
        caught = f"`{self.caught_by}`" if self.caught_by else "nothing: it survives"
        return f"| {self.mutant.name} | {self.mutant.rule} | {caught} |"


def copy_to(place: Path) -> None:
    """Copies what the tests need."""
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for part in PARTS:
        shutil.copytree(ROOT / part, place / part, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, place / name)


def apply(mutant: Mutant, place: Path) -> None:
    """Takes the guard away; an edit whose text is gone is an error of the table."""
    for edit in mutant.edits:
        path = place / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise BrokenMutantError(f"{mutant.name}: not once in {edit.file}: {edit.old}")
        path.write_text(text.replace(edit.old, edit.new))


def first_failure(place: Path, selection: str, dsn: str) -> str:
    """Runs tests of the copy; returns the first that fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYATM_TEST_DSN": dsn,
    }
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", "no:randomly", selection],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if found := re.search(r"^FAILED (\S+?)(\[|$| )", done.stdout, re.MULTILINE):
        return found[1]
    if done.returncode != 0:
        raise BrokenMutantError(done.stdout[-2000:] + done.stderr[-2000:])
    return ""


def fate_of(mutant: Mutant, dsn: str) -> Fate:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pyatm-mutant-") as directory:
        place = Path(directory)
        copy_to(place)
        apply(mutant, place)
        caught = next(
            (name for tests in mutant.tests if (name := first_failure(place, tests, dsn))), ""
        )
    return Fate(mutant, caught, time.monotonic() - began)


def unchanged_passes(mutants: list[Mutant], dsn: str) -> None:
    """Without a mutant all these tests pass; else their failures would mean nothing."""
    with tempfile.TemporaryDirectory(prefix="pyatm-mutant-") as directory:
        copy_to(Path(directory))
        for tests in dict.fromkeys(tests for mutant in mutants for tests in mutant.tests):
            if failed := first_failure(Path(directory), tests, dsn):
                sys.exit(f"{failed} fails without any mutant")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", default="", help="mutants with these words in their names")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at the same time")
    parser.add_argument("--trust", action="store_true", help="do not run the tests unchanged first")
    given = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if given.only in mutant.name]
    with running(choose()) as dsn, ThreadPoolExecutor(given.jobs) as workers:
        if not given.trust:
            unchanged_passes(mutants, dsn)
        print("| taken away | rule | caught by |\n|---|---|---|", flush=True)
        fates: list[Fate] = []
        for fate in workers.map(lambda mutant: fate_of(mutant, dsn), mutants):
            print(fate, flush=True)
            fates.append(fate)
    survivors = sum(not fate.caught_by for fate in fates)
    took = sum(fate.seconds for fate in fates)
    print(f"\n{len(fates)} mutants, {survivors} survive; {took / 60:.0f} minutes of tests")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
