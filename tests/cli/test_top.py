"""The live view over a prepared mess: through Textual's pilot, on a database of the test's own."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from textual.widgets import DataTable, Input, Static

from pyatm.cli.filters import Filter
from pyatm.cli.top_app import Top, bar
from pyatm.cli.top_dialogs import CancelDialog, ExplainDialog, FilterDialog
from pyatm.cli.top_source import COMMANDS, Progress, Source
from pyatm.database.embedded import private_server
from pyatm.database.migrate import migrate
from tests.cli.mess import Mess, add_bad_pools, as_role, make_mess

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncGenerator, Callable

    from textual.pilot import Pilot

    from tests.conftest import Connection

Screen = "Pilot[Any]"


@pytest.fixture
def mess(db: Connection) -> Mess:
    made = make_mess(db)
    add_bad_pools(db)
    return made


@asynccontextmanager
async def shown(
    dsn: str, wanted: Filter | None = None, interval: float = 0.2
) -> AsyncGenerator[Pilot[Any]]:
    app = Top(Source(dsn), wanted or Filter(), interval, "a test")
    async with app.run_test(size=(200, 50), notifications=True) as pilot:
        await until(pilot, lambda: text(pilot, "#head").startswith("pyatm top"))
        yield pilot


async def until(pilot: Pilot[Any], holds: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, screen(pilot)
        await pilot.pause(0.02)


def text(pilot: Pilot[Any], selector: str) -> str:
    return str(pilot.app.screen.query_one(selector, Static).render())


def rows(pilot: Pilot[Any], name: str) -> list[list[str]]:
    table = pilot.app.screen_stack[0].query_one(f"#{name}", DataTable)
    return [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]


def column(pilot: Pilot[Any], name: str, number: int) -> set[str]:
    return {row[number] for row in rows(pilot, name)}


def screen(pilot: Pilot[Any]) -> str:
    lines = pilot.app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in lines)


def notices(pilot: Pilot[Any]) -> str:
    return "\n".join(str(toast.render()) for toast in pilot.app.screen.query("Toast"))


async def choose(pilot: Pilot[Any], command_id: uuid.UUID) -> None:
    """Put the cursor on a command."""
    table = pilot.app.screen.query_one("#commands", DataTable)
    table.focus()
    table.move_cursor(row=table.get_row_index(str(command_id)))
    await pilot.pause()


async def test_it_shows_pools_what_is_stuck_and_commands_with_the_progress_of_their_tasks(
    mess: Mess, dsn: str
) -> None:
    async with shown(as_role(dsn, "atm_reader")) as pilot:
        pools = {row[0]: row for row in rows(pilot, "pools")}
        assert set(pools) == {"pool", "hung", "deserted"}
        assert pools["pool"][1:3] == ["poller", "h1"]
        assert (pools["hung"][3], pools["hung"][6]) == ("", "not listed")
        assert pools["pool"][6] == ""
        assert "no poller" in pools["deserted"][6]
        assert {row[0]: row[2] for row in rows(pilot, "stuck")} == {
            "CreateSnapshot": "operator",
            "RemoveVm": "poller",
        }
        commands = {row[6]: row for row in rows(pilot, "commands")}
        assert set(commands) >= {str(mess.running), str(mess.doubtful), str(mess.end_failed)}
        assert commands[str(mess.running)][3].endswith(" 0/3")
        assert commands[str(mess.running)][4] == "3 running"
        assert commands[str(mess.end_failed)][3].endswith(" 1/1")
        assert commands[str(mess.doubtful)][4] == "1 in_doubt"
        # Those that wait for somebody are the first.
        first = [row[6] for row in rows(pilot, "commands")][:2]
        assert set(first) == {str(mess.doubtful), str(mess.end_failed)}
        assert "commands: 5" in text(pilot, "#head")
        assert "in_doubt" in text(pilot, "#head")


async def test_what_changes_in_the_database_appears_by_itself(
    mess: Mess, dsn: str, db: Connection
) -> None:
    async with shown(dsn) as pilot:
        assert len(rows(pilot, "commands")) == 5
        await choose(pilot, mess.running)
        db.execute(
            "select atm.cancel_command(%s, 'not needed', dry_run => false)", [mess.end_failed]
        )
        gone = str(mess.end_failed)
        await until(
            pilot, lambda: "end_failed" not in {r[1][:10] for r in rows(pilot, "commands")}, 20
        )
        assert gone not in column(pilot, "stuck", 3)
        # The cursor stays on its command although the rows around it have changed.
        table = pilot.app.screen.query_one("#commands", DataTable)
        assert str(table.get_row_at(table.cursor_row)[6]) == str(mess.running)


async def test_the_filter_dialog_narrows_what_is_shown_and_names_mistakes(
    mess: Mess, dsn: str
) -> None:
    async with shown(dsn) as pilot:
        await pilot.press("f")
        await until(pilot, lambda: isinstance(pilot.app.screen, FilterDialog))
        dialog = pilot.app.screen
        dialog.query_one("#entity", Input).value = "VM"
        await pilot.press("enter")
        await until(pilot, lambda: "TYPE:UUID" in text(pilot, "#problem"))
        dialog.query_one("#entity", Input).value = f"VM:{mess.vm}"
        dialog.query_one("#state", Input).value = "lazy"
        await pilot.press("enter")
        await until(pilot, lambda: "end_failed" in text(pilot, "#problem"))
        dialog.query_one("#state", Input).value = "sealed"
        await pilot.press("enter")
        await until(pilot, lambda: column(pilot, "commands", 6) == {str(mess.running)})
        assert f"only state sealed, entity VM:{mess.vm}" in text(pilot, "#head")
        await pilot.press("x")
        await until(pilot, lambda: len(rows(pilot, "commands")) == 5)
        await pilot.press("f", "escape")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1)


@pytest.mark.parametrize(
    ("wanted", "actions"),
    [
        (Filter(action="CreateSnapshot"), {"CreateSnapshot"}),
        (Filter(pool="hung"), {"CreateTemplate"}),
        (Filter(state="end_failed"), {"CreateSnapshot"}),
        (Filter(older_than="1h"), set()),
        (Filter(newer_than="1h"), {"CreateSnapshot", "RemoveVm", "CreateTemplate"}),
    ],
)
async def test_it_starts_with_the_filter_of_the_command_line(
    mess: Mess, dsn: str, wanted: Filter, actions: set[str]
) -> None:
    async with shown(dsn, wanted) as pilot:
        assert column(pilot, "commands", 0) == actions
        assert column(pilot, "stuck", 0) <= actions


async def test_enter_on_a_pool_shows_only_its_commands(mess: Mess, dsn: str) -> None:
    async with shown(dsn) as pilot:
        table = pilot.app.screen.query_one("#pools", DataTable)
        table.focus()
        table.move_cursor(row=[row[0] for row in rows(pilot, "pools")].index("hung"))
        await pilot.press("enter")
        await until(pilot, lambda: column(pilot, "commands", 0) == {"CreateTemplate"})


async def test_explain_shows_the_story_and_what_vdsm_sent_cannot_paint_the_screen(
    mess: Mess, dsn: str
) -> None:
    async with shown(as_role(dsn, "atm_reader")) as pilot:
        await choose(pilot, mess.end_failed)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, ExplainDialog))
        await until(pilot, lambda: "planned" in screen(pilot) and "gave up" in screen(pilot))
        assert "\x1b" not in screen(pilot)
        await pilot.press("escape")
        await choose(pilot, mess.running)
        await pilot.press("enter")
        await until(pilot, lambda: "now: sealed" in screen(pilot))


async def test_cancel_asks_why_shows_what_would_happen_and_does_it_only_after_yes(
    mess: Mess, dsn: str, db: Connection
) -> None:
    def audited() -> list[Any]:
        query = "select target, reason, application from atm.audit where function like %s"
        return db.execute(query, ["cancel%"]).fetchall()

    async with shown(as_role(dsn, "atm_operator")) as pilot:
        await choose(pilot, mess.running)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, CancelDialog))
        await pilot.press("enter")
        await until(pilot, lambda: "a reason is needed" in text(pilot, "#problem"))
        await pilot.press(*"user asked")
        await pilot.press("enter")
        await until(pilot, lambda: "is stopped at VDSM" in screen(pilot))
        assert "Nothing has happened yet" in screen(pilot)
        await pilot.press("n")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1)
        assert audited() == []
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, CancelDialog))
        await pilot.press(*"user asked", "enter")
        await until(pilot, lambda: "Nothing has happened yet" in screen(pilot))
        await pilot.press("y")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1)
        assert audited() == [(str(mess.running), "user asked", "pyatm top")]


async def test_what_cannot_be_cancelled_is_refused_with_the_database_s_words(
    mess: Mess, dsn: str, db: Connection
) -> None:
    async with shown(dsn) as pilot:
        await choose(pilot, mess.end_failed)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, CancelDialog))
        # Somebody else is faster.
        db.execute("select atm.retry_end_action(%s, 'now', dry_run => false)", [mess.end_failed])
        await pilot.press(*"gone", "enter")
        await until(pilot, lambda: "AT107" in text(pilot, "#problem"))
        await pilot.press("escape")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1)


async def test_a_role_that_may_only_read_is_told_so_before_it_types_a_reason(
    mess: Mess, dsn: str, db: Connection
) -> None:
    async with shown(as_role(dsn, "atm_reader")) as pilot:
        await choose(pilot, mess.running)
        await pilot.press("c")
        await until(pilot, lambda: "GRANT atm_operator" in notices(pilot))
        assert len(pilot.app.screen_stack) == 1


async def test_a_role_that_may_read_nothing_ends_the_view_with_the_reason(dsn: str) -> None:
    app = Top(Source(as_role(dsn, "atm_monitor")), Filter(), 0.2, "a test")
    async with app.run_test():
        end = time.monotonic() + 30
        while app.is_running and app.return_value is None:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
    assert "may not" in str(app.return_value)


async def test_a_restart_of_the_database_is_announced_and_survived() -> None:
    with private_server(durable=False) as server:
        migrate(server.dsn())
        async with shown(server.dsn()) as pilot:
            server.stop(immediate=True)
            await until(pilot, lambda: "does not answer" in text(pilot, "#problem"))
            assert "The figures are those of" in text(pilot, "#problem")
            assert pilot.app.screen_stack[0].query_one("#problem").display
            await pilot.press("e")  # keys still work
            server.start()
            await until(pilot, lambda: not pilot.app.screen_stack[0].query_one("#problem").display)


async def test_more_commands_than_fit_are_cut_in_the_database_and_the_view_says_so(
    dsn: str, db: Connection
) -> None:
    db.execute("select atm.start_engine('many')")
    db.execute(
        "select atm.plan_command(e.epoch, jsonb_build_object('command_id', gen_random_uuid(),"
        " 'action_type', 'RemoveVm', 'seal', false))"
        " from atm.start_engine('many') e (epoch), generate_series(1, %s)",
        [COMMANDS + 7],
    )
    async with shown(dsn, interval=60) as pilot:
        assert len(rows(pilot, "commands")) == COMMANDS
        assert f"commands: {COMMANDS} and more; f filters" in screen(pilot)
        assert f"commands: {COMMANDS + 7} " in text(pilot, "#head")


async def test_nothing_to_choose_is_said(dsn: str) -> None:
    async with shown(dsn) as pilot:
        await pilot.press("e")
        await until(pilot, lambda: "no command is chosen" in notices(pilot))


async def test_the_pause_after_a_slow_answer_is_nine_times_as_long(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    whole = Source.snapshot

    async def slow(self: Source, wanted: Filter) -> Any:
        asked.append(time.monotonic())
        found = await whole(self, wanted)
        object.__setattr__(found, "seconds", 600.0)
        return found

    monkeypatch.setattr(Source, "snapshot", slow)
    async with shown(dsn, interval=0.01) as pilot:
        await pilot.pause(1)
        assert len(asked) == 1
        await pilot.press("r")
        await until(pilot, lambda: len(asked) == 2)


def test_the_bar_shows_the_share_that_is_over_and_turns_red_with_a_failure() -> None:
    assert bar(Progress({"running": 3, "succeeded": 1})).plain.count("█") == 3
    assert bar(Progress({"running": 3, "succeeded": 1})).plain.endswith(" 1/4")
    assert str(bar(Progress({"succeeded": 1})).spans[0].style or "") != "red"
    assert bar(Progress({"failed": 1, "running": 1})).style == "red"
    assert bar(Progress({})).plain == "no tasks"
