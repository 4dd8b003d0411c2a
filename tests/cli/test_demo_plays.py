"""The demo as its users start it: for people, for programs, with its database kept."""

import re
import subprocess
import sys

import psycopg
import pytest

from tests.cli.demo_program import PATIENCE, a_place, judge, start

pytestmark = pytest.mark.slow


def test_the_demo_prints_one_json_object_and_leaves_nothing() -> None:
    with a_place() as place:
        with start(place, "--json") as demo:
            output, problems = demo.communicate(timeout=PATIENCE)
        assert demo.returncode == 0, problems
        judge(output)
        assert place.processes() == []
        assert place.files() == []


def test_the_demo_tells_people_what_happens_and_keeps_its_database_on_request() -> None:
    with a_place() as place:
        with start(place, "--keep") as demo:
            output, problems = demo.communicate(timeout=PATIENCE)
        assert demo.returncode == 0, output + problems
        for sentence in (
            "killed (SIGKILL)",
            "orphan found",
            "the command does not end as long as VDSM works on the orphan",
            "in_doubt_settle is shortened",
        ):
            assert sentence in output
        found = re.search(r'psql "(.+)"', output)
        assert found is not None, output
        directory = re.search(r"--data-dir (\S+)", output)
        assert directory is not None, output
        try:
            with psycopg.connect(found[1], autocommit=True) as database:
                statements = [
                    line.strip() for line in output.splitlines() if line.startswith("    SELECT ")
                ]
                assert len(statements) >= 4
                for statement in statements:
                    database.execute(statement.encode())
                history = database.execute("SELECT count(*) FROM atm.history").fetchone()
                assert history == (3,)
        finally:
            subprocess.run(
                [sys.executable, "-m", "pyatm.cli.main", "db", "stop", "--data-dir", directory[1]],
                env=place.environment(),
                check=True,
            )
        assert place.processes() == []
