"""`pyatm operate`: nothing happens without --execute, what happens is audited with its reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pyatm.cli.main import app
from tests.cli.mess import Mess, as_role, make_mess, program_as
from tests.cli.printed import printed
from tests.sql.world import World

if TYPE_CHECKING:
    from tests.conftest import Connection


@pytest.fixture
def mess(db: Connection) -> Mess:
    return make_mess(db)


class Operator:
    """Runs the program in this process, as a user who has only the role atm_operator."""

    def __init__(self, dsn: str, db: Connection) -> None:
        self._environment = {"PYATM_DSN": as_role(dsn, "atm_operator"), "PYATM_CONFIG": ""}
        self._db = db

    def run(self, *arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, env=self._environment)
        assert done.exit_code == 0, f"{done.output} {done.exception!r}"
        return done.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        names = 2 if arguments[0] == "operate" else 1
        return printed(" ".join(arguments[:names]), self.run(*arguments, "--json"))

    def audit(self) -> list[tuple[str, str, str]]:
        """Function, target and reason of what operators did after the mess was made."""
        query = (
            "select function, target, reason from atm.audit"
            " where application = 'pyatm operate' order by at"
        )
        return self._db.execute(query).fetchall()


@pytest.fixture
def operator(dsn: str, db: Connection) -> Operator:
    return Operator(dsn, db)


def test_cancel_shows_its_effect_on_each_task_and_acts_only_when_told(
    mess: Mess, operator: Operator, db: Connection
) -> None:
    call = ("operate", "cancel", str(mess.running), "--reason", "wrong VM")
    dry = operator.json(*call)
    assert (dry["function"], dry["target"], dry["dry_run"], dry["more"]) == (
        "cancel_command",
        str(mess.running),
        True,
        False,
    )
    assert {row["effect"] for row in dry["rows"]} == {"is stopped at VDSM"}
    assert len(dry["rows"]) == 3
    words = operator.run(*call, "--limit", "1")
    assert "nothing has changed; --execute does it" in words
    assert "(2 more rows)" in words
    assert operator.audit() == []
    done = operator.json(*call, "--execute")
    assert done["dry_run"] is False
    assert operator.audit() == [("cancel_command", str(mess.running), "wrong VM")]
    assert World(db).rows("select * from atm.commands where aborted and parent_command_id is null")


def test_a_task_in_doubt_is_resolved_and_its_command_fails(
    mess: Mess, operator: Operator, db: Connection
) -> None:
    call = ("operate", "resolve-task", mess.doubtful_task, "lost", "--reason", "reinstalled")
    assert operator.json(*call)["result"] == "would be done: lost, was in_doubt"
    assert World(db).task(mess.doubtful_task)["state"] == "in_doubt"
    assert "done: lost" in operator.run(*call, "--execute")
    assert World(db).root(mess.doubtful)["outcome"] == "failed"  # pyright: ignore[reportOptionalSubscript]
    assert operator.audit() == [("resolve_task", mess.doubtful_task, "reinstalled")]


def test_an_end_action_that_gave_up_is_offered_again(
    mess: Mess, operator: Operator, db: Connection
) -> None:
    call = ("operate", "retry-end-action", str(mess.end_failed), "--reason", "space was made")
    assert operator.json(*call)["result"] == "would be ready"
    assert World(db).state(mess.end_failed) == "end_failed"
    assert operator.json(*call, "--execute")["result"] == "ready"
    assert World(db).state(mess.end_failed) == "ready"


def test_an_orphan_is_resolved_once_no_engine_can_bind_it(
    mess: Mess, operator: Operator, db: Connection
) -> None:
    World(db).start_engine()
    call = ("operate", "resolve-orphan", mess.orphan, "--reason", "seen by hand")
    assert operator.json(*call)["result"].startswith("would be resolved")
    assert operator.json(*call, "--execute")["result"] == "resolved"
    assert operator.audit() == [("resolve_orphan", mess.orphan, "seen by hand")]


def test_a_drained_pool_refuses_new_tasks_until_the_drain_ends(
    mess: Mess, operator: Operator, db: Connection
) -> None:
    world = World(db, pool_id=mess.pool_id)  # pyright: ignore[reportArgumentType]
    call = ("operate", "drain", "pool", "--reason", "new storage")
    assert "would be drained" in operator.json(*call)["result"]
    other = World(db, engine_name="other", pool_id=world.pool_id)
    other.epoch = other.start_engine()
    other.plan(other.document(1))
    assert "drained: new tasks are refused" in operator.run(*call, "--execute")
    with pytest.raises(Exception, match="drained") as refused:
        other.plan(other.document(1))
    assert refused.value.sqlstate == "AT109"  # pyright: ignore[reportAttributeAccessIssue]
    ended = operator.json("operate", "drain", mess.pool_id, "--end", "--reason", "x", "--execute")
    assert ended["target"] == mess.pool_id
    other.plan(other.document(1))
    assert [row[0] for row in operator.audit()] == ["drain_pool", "drain_pool"]


def test_a_pool_that_is_not_used_is_removed(operator: Operator, db: Connection) -> None:
    world = World(db).start()
    call = ("operate", "remove-pool", "pool", "--reason", "gone", "--execute")
    assert operator.json(*call)["result"] == "removed"
    assert world.rows("select * from atm.pools") == []


def test_a_setting_is_tried_before_it_is_changed(operator: Operator, db: Connection) -> None:
    def value() -> str:
        rows = operator.json("settings")["settings"]
        return next(row["value"] for row in rows if row["name"] == "absence_time")

    call = ("operate", "set", "absence_time", "45s", "--reason", "slow storage")
    before = value()
    assert operator.json(*call)["result"] == f"would be 00:00:45, was {before}"
    assert value() == before
    assert operator.audit() == []
    assert operator.json(*call, "--execute")["result"] == f"is 00:00:45, was {before}"
    assert value() == "00:00:45"
    seen = operator.json("audit", "--target", "absence_time", "--newer-than", "1h")["audit"]
    assert [(row["function"], row["reason"]) for row in seen] == [("set_setting", "slow storage")]
    assert seen[0]["detail"] == {"old": before, "new": "45s"}


def test_the_history_is_purged_by_month(mess: Mess, operator: Operator, db: Connection) -> None:
    call = ("operate", "purge-history", "--reason", "retention", "--keep-months", "0")
    assert operator.json(*call)["rows"] == []
    assert "no month is old enough" in operator.run(*call)
    operator.run(*call, "--execute")
    assert operator.audit() == [("purge_history", "history", "retention")]


def test_who_may_not_is_told_which_role_may(mess: Mess, dsn: str, db: Connection) -> None:
    reader = program_as(dsn, "atm_reader")
    refused = reader.run("operate", "cancel", str(mess.running), "--reason", "x", "--execute")
    assert refused.returncode == 1
    assert "GRANT atm_operator" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert World(db).state(mess.running) == "sealed"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["operate", "cancel", "{end}"], 2, "Missing option '--reason'"),
        (["operate", "cancel", "{end}", "--reason", "  "], 2, "kept in atm.audit"),
        (["operate", "cancel", "nonsense", "--reason", "x"], 2, "UUID"),
        (["operate", "resolve-task", "{task}", "succeeded", "--reason", "x"], 2, "lost"),
        (["operate", "cancel", "{over}", "--reason", "x"], 1, "AT008"),
        (["operate", "retry-end-action", "{run}", "--reason", "x"], 1, "AT107"),
        (["operate", "resolve-task", "{run}", "lost", "--reason", "x"], 1, "AT008"),
        (["operate", "resolve-orphan", "{run}", "--reason", "x"], 1, "AT008"),
        (["operate", "resolve-orphan", "{orphan}", "--reason", "x"], 1, "AT104"),
        (["operate", "drain", "elsewhere", "--reason", "x"], 1, "there is no storage pool"),
        (["operate", "remove-pool", "pool", "--reason", "x"], 1, "AT108"),
        (["operate", "set", "absence_time", "soon", "--reason", "x"], 1, "AT001"),
        (["operate", "set", "nonsense", "1", "--reason", "x"], 1, "AT008"),
        (["operate", "purge-history", "--keep-months", "-1", "--reason", "x"], 2, "--keep-months"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason_and_a_code(
    mess: Mess, dsn: str, arguments: list[str], code: int, message: str
) -> None:
    places = {"end": mess.end_failed, "run": mess.running, "over": mess.over}
    filled = [
        text.format(task=mess.doubtful_task, orphan=mess.orphan, **places) for text in arguments
    ]
    done = program_as(dsn, "atm_operator").run(*filled)
    assert done.returncode == code, done.stderr
    assert message in re.sub(r"\s+", " ", done.stderr)
    assert "Traceback" not in done.stderr
