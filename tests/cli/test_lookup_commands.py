"""The lookup commands over a prepared mess, with a role that may only read."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.mess import Mess, make_mess, program_as
from tests.cli.printed import printed
from tests.cli.programs import Program, environment

if TYPE_CHECKING:
    from tests.conftest import Connection

COMMANDS = ("commands", "tasks", "entity", "orphans", "stuck", "history", "explain", "check")


@pytest.fixture
def mess(db: Connection) -> Mess:
    return make_mess(db)


@pytest.fixture
def reader(dsn: str) -> Program:
    """The program as a role that may only read."""
    return program_as(dsn, "atm_reader")


def _json(program: Program, *arguments: str) -> dict[str, Any]:
    done = program.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return printed(arguments[0], done.stdout)


def _ids(rows: list[dict[str, Any]], name: str) -> set[str]:
    return {row[name] for row in rows}


def _columns(db: Connection, view: str) -> set[str]:
    names = "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
    return {row[0] for row in db.execute(names, [f"atm.{view}"])}


def test_commands_are_filtered_by_action_state_pool_entity_and_age(
    mess: Mess, reader: Program
) -> None:
    def roots(*arguments: str) -> set[str]:
        return _ids(_json(reader, "commands", *arguments)["commands"], "root_command_id")

    running, doubtful, failed = str(mess.running), str(mess.doubtful), str(mess.end_failed)
    assert roots() == {running, doubtful, failed}
    assert roots("--action", "CreateSnapshot") == {failed}
    assert roots("--state", "sealed") == {running, doubtful}
    assert roots("--pool", "pool") == roots("--pool", mess.pool_id) == roots()
    assert roots("--pool", "other") == set()
    assert roots("--entity", f"VM:{mess.vm}") == {running}
    assert roots("--older-than", "1h") == set()
    assert roots("--newer-than", "1h") == roots()
    listed = _json(reader, "commands", "--roots")["commands"]
    assert len(listed) == 3
    assert next(row for row in listed if row["command_id"] == running)["open_tasks"] == 3


def test_tasks_are_filtered_by_state_command_entity_and_pool(mess: Mess, reader: Program) -> None:
    def tasks(*arguments: str) -> set[str]:
        return _ids(_json(reader, "tasks", *arguments)["tasks"], "task_id")

    assert tasks("--state", "running") == set(mess.running_tasks)
    assert tasks("--state", "in_doubt") == {mess.doubtful_task}
    assert tasks("--command", str(mess.running)) == set(mess.running_tasks)
    assert tasks("--entity", f"VM:{mess.vm}") == set(mess.running_tasks)
    assert tasks("--pool", "other") == set()
    assert len(tasks()) == 5
    assert tasks("--action", "RemoveVm") == set()
    assert len(tasks("--action", "RemoveImage", "--newer-than", "1h")) == 5


@pytest.mark.parametrize("view", ["commands", "tasks", "orphans", "stuck", "history"])
def test_the_json_has_the_columns_of_the_view_and_says_when_it_was_cut(
    mess: Mess, reader: Program, db: Connection, view: str
) -> None:
    found = _json(reader, view)
    assert set(found) == {view, "more"}
    assert found["more"] is False
    assert found[view]
    for row in found[view]:
        assert set(row) == _columns(db, view)
    cut = _json(reader, view, "--limit", "1")
    assert cut[view][0].keys() == found[view][0].keys()
    assert cut["more"] is (len(found[view]) > 1)


def test_times_are_iso_and_ages_are_seconds(mess: Mess, reader: Program) -> None:
    row = _json(reader, "commands", "--roots")["commands"][0]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", row["created_at"])
    assert row["age"] >= 0


def test_an_entity_shows_its_holder_its_tasks_and_whether_compensation_may_start(
    mess: Mess, reader: Program
) -> None:
    found = _json(reader, "entity", "VM", mess.vm)
    assert [row["root_command_id"] for row in found["held_by"]] == [str(mess.running)]
    assert _ids(found["tasks"], "task_id") == set(mess.running_tasks)
    assert found["can_compensate"] is False
    words = reader.run("entity", "VM", mess.vm).stdout
    assert "may not" in words
    assert "RemoveVm" in words
    free = reader.run("entity", "VM", str(uuid.uuid4()))
    assert "no command holds it" in free.stdout
    assert "may start" in free.stdout


def test_orphans_and_stuck_name_what_lies_about(mess: Mess, reader: Program) -> None:
    assert _ids(_json(reader, "orphans", "--pool", "pool")["orphans"], "vdsm_task_id") == {
        mess.orphan
    }
    assert _json(reader, "orphans", "--pool", "other")["orphans"] == []
    assert _json(reader, "orphans", "--older-than", "1h")["orphans"] == []
    found = {row["root_command_id"]: row for row in _json(reader, "stuck")["stuck"]}
    assert found[str(mess.end_failed)]["turn"] == "operator"
    assert "atm.retry_end_action" in found[str(mess.end_failed)]["remedy"]
    assert found[str(mess.doubtful)]["task_id"] == mess.doubtful_task
    only = _json(reader, "stuck", "--action", "CreateSnapshot")["stuck"]
    assert _ids(only, "root_command_id") == {str(mess.end_failed)}


def test_the_history_is_filtered_by_outcome_action_and_age(mess: Mess, reader: Program) -> None:
    (row,) = _json(reader, "history", "--outcome", "succeeded")["history"]
    assert row["command_id"] == str(mess.over)
    assert row["tasks"][0]["vdsm_result"] == "success"
    assert _json(reader, "history", "--outcome", "failed")["history"] == []
    assert _json(reader, "history", "--action", "CreateSnapshot")["history"] == []
    assert _json(reader, "history", "--older-than", "1d")["history"] == []
    assert len(_json(reader, "history", "--newer-than", "1d")["history"]) == 1


def test_explain_tells_the_story_of_a_live_and_of_a_past_command(
    mess: Mess, reader: Program
) -> None:
    live = _json(reader, "explain", str(mess.running))["explain"]
    assert [row["what"] for row in live].count("bound") == 3
    assert "now: sealed" in [row["what"] for row in live]
    past = _json(reader, "explain", str(mess.over))["explain"]
    assert {"planned", "bound", "done", "ended"} <= _ids(past, "what")
    unknown = reader.run("explain", str(uuid.uuid4()))
    assert unknown.returncode == 1
    assert "there is no command" in unknown.stderr
    assert "AT008" in unknown.stderr


def test_check_ends_with_1_when_a_finding_is_critical(mess: Mess, reader: Program) -> None:
    done = reader.run("check", "--json")
    assert done.returncode == 1
    assert any(
        row["severity"] == "critical" and "end_failed" in row["finding"]
        for row in printed("check", done.stdout)["check"]
    )
    assert "critical" in reader.run("check").stdout


def test_check_ends_with_0_when_nothing_is_critical(reader: Program) -> None:
    done = reader.run("check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_tables_for_programs_have_no_colours_and_nothing_cut_or_wrapped(
    mess: Mess, reader: Program
) -> None:
    done = reader.run("tasks")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["task_id", "task_type", "state"]
    assert len(lines) == 6
    assert any(mess.doubtful_task in line and "in_doubt" in line for line in lines)
    assert "see --limit" in reader.run("tasks", "--limit", "2").stdout


def test_a_role_that_may_not_read_and_a_database_without_the_schema_are_told_what_to_do(
    dsn: str, empty_dsn: str
) -> None:
    monitor = program_as(dsn, "atm_monitor")
    assert monitor.run("check").returncode == 0
    refused = monitor.run("tasks")
    assert refused.returncode == 1
    assert "GRANT atm_reader" in refused.stderr
    empty = Program({"PYATM_DSN": empty_dsn}).run("commands")
    assert empty.returncode == 1
    assert "pyatm db migrate" in empty.stderr
    assert "Traceback" not in refused.stderr + empty.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["commands", "--older-than", "soon"], "15min"),
        (["tasks", "--entity", "Disk"], "TYPE:UUID"),
        (["tasks", "--entity", "Disk:nonsense"], "TYPE:UUID"),
        (["tasks", "--state", "lazy"], "in_doubt"),
        (["entity", "Disk", "nonsense"], "UUID"),
        (["history", "--limit", "0"], "--limit"),
    ],
)
def test_a_mistake_in_a_filter_names_it(arguments: list[str], message: str) -> None:
    done = Program({"PYATM_DSN": "host=127.0.0.1 port=1"}).run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_lookup_has_help_with_an_example(command: str) -> None:
    done = Program().run(command, "--help")
    assert done.returncode == 0
    assert f"Example: pyatm {command}" in done.stdout


def test_watching_prints_an_object_per_line_until_it_is_interrupted(
    mess: Mess, reader: Program
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pyatm.cli.main", "commands", "--json", "--watch", "0.1"],
        env=environment(**reader.variables),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert len(printed("commands", process.stdout.readline())["commands"]) == 8
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 0


def _screen(variables: dict[str, str], *arguments: str) -> str:
    """What the program writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pyatm.cli.main", *arguments],
        env=environment(**variables, TERM="xterm", COLUMNS="200", LINES="50"),
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's word for the end of a terminal
                break
            if not part:
                break
            written += part
    os.close(ours)
    return written.decode()


def test_a_terminal_gets_colours_and_no_escape_that_vdsm_sent(mess: Mess, reader: Program) -> None:
    seen = _screen(reader.variables, "tasks")
    assert "\x1b[" in seen
    assert "owned" in seen
    assert "\x1b]0;" not in seen
