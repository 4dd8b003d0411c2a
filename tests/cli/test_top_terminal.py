"""The live view on a real terminal: it starts, obeys, and leaves the terminal as it was."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pexpect
import pytest

from tests.cli.demo_program import ROOT
from tests.cli.mess import Mess, as_role, make_mess
from tests.cli.programs import Program, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.conftest import Connection

MODES = {
    "alternate screen": ("\x1b[?1049h", "\x1b[?1049l"),
    "mouse": ("\x1b[?1000h", "\x1b[?1000l"),
    "hidden cursor": ("\x1b[?25l", "\x1b[?25h"),
    "bracketed paste": ("\x1b[?2004h", "\x1b[?2004l"),
}
"""What a full-screen program switches on, and how it switches it off."""


@pytest.fixture
def mess(db: Connection) -> Mess:
    return make_mess(db)


@contextmanager
def terminal(dsn: str, *arguments: str) -> Generator[Any]:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "pyatm.cli.start", "top", *arguments],
        env=environment(  # pyright: ignore[reportArgumentType]
            PYATM_DSN=dsn, TERM="xterm-256color", COLUMNS="150", LINES="40"
        ),
        cwd=str(ROOT),
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 150),
    )
    try:
        yield child
    finally:
        child.close(force=True)


class Recording:
    """Everything that the program wrote."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        pytest.param(lambda child: child.send("q"), 0, id="q"),
        pytest.param(lambda child: child.sendintr(), 0, id="ctrl-c"),
        pytest.param(lambda child: os.kill(child.pid, signal.SIGTERM), 0, id="sigterm"),
    ],
)
def test_it_leaves_the_terminal_as_it_was(
    mess: Mess, dsn: str, leave: Callable[[Any], None], code: int
) -> None:
    with terminal(as_role(dsn, "atm_reader")) as child:
        before = termios.tcgetattr(child.child_fd)
        recording = child.logfile_read = Recording()
        child.expect("CreateSnapshot")
        child.expect("in doubt")
        assert termios.tcgetattr(child.child_fd) != before
        leave(child)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == code
        for name, (on, off) in MODES.items():
            assert recording.text.rfind(off) > recording.text.rfind(on), name
        assert "Traceback" not in recording.text
        assert "\x1b]0;owned" not in recording.text


def test_the_modes_of_the_terminal_are_back_for_the_shell(mess: Mess, dsn: str) -> None:
    # A shell keeps the terminal open, so its modes can be compared.
    command = (
        f"before=$(stty -g); {sys.executable} -m pyatm.cli.start top;"
        ' echo "code $?"; [ "$before" = "$(stty -g)" ] && echo "as before"'
    )
    child = pexpect.spawn(
        "/bin/sh",
        ["-c", command],
        env=environment(  # pyright: ignore[reportArgumentType]
            PYATM_DSN=dsn, TERM="xterm-256color", COLUMNS="150", LINES="40"
        ),
        cwd=str(ROOT),
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 150),
    )
    try:
        child.expect("CreateSnapshot")
        child.send("q")
        child.expect("code 0")
        child.expect("as before")
    finally:
        child.close(force=True)


def test_keys_of_a_real_terminal_explain_a_command_of_a_read_only_role(
    mess: Mess, dsn: str
) -> None:
    with terminal(as_role(dsn, "atm_reader"), "--action", "CreateSnapshot") as child:
        child.expect("only action CreateSnapshot")
        child.expect("end_failed")
        child.send("e")
        child.expect("planned")
        child.expect("gave up")
        child.send("e")
        child.expect("end_failed")
        child.send("c")
        child.expect("GRANT")
        child.send("q")
        child.expect(pexpect.EOF)


def test_without_a_terminal_it_says_what_to_use_instead() -> None:
    done = Program({"PYATM_DSN": "host=127.0.0.1 port=1"}).run("top")
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
    assert "pyatm commands --json --watch" in done.stderr


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("unreachable", "the database cannot be reached"),
        ("empty", "pyatm db migrate"),
        ("monitor", "GRANT atm_reader"),
    ],
)
def test_a_database_that_cannot_be_shown_is_told_on_the_plain_terminal(
    case: str, message: str, dsn: str, empty_dsn: str
) -> None:
    place = {
        "unreachable": "host=127.0.0.1 port=1",
        "empty": empty_dsn,
        "monitor": as_role(dsn, "atm_monitor"),
    }[case]
    with terminal(place) as child:
        child.expect(re.escape(message))
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 1
