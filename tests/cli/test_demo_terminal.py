"""The demo on a real terminal: a table that changes in place, and Ctrl-C from the keyboard."""

import sys

import pexpect
import pytest

from tests.cli.demo_program import ROOT, a_place, soon

pytestmark = pytest.mark.slow


def test_ctrl_c_on_the_terminal_ends_everything_in_the_middle_of_a_scenario() -> None:
    with a_place() as place:
        terminal = pexpect.spawn(
            sys.executable,
            ["-m", "pyatm.cli.start", "demo"],
            env=place.environment(TERM="xterm-256color"),  # pyright: ignore[reportArgumentType]
            cwd=str(ROOT),
            encoding="utf-8",
            timeout=120,
            dimensions=(40, 100),
        )
        try:
            terminal.expect("VDSM says")
            terminal.expect("planned in one transaction")
            assert len(place.processes()) > 4
            terminal.sendintr()
            terminal.expect(pexpect.EOF)
            shown = str(terminal.before)
            assert "Traceback" not in shown
            # The cursor, hidden while the table changed, is back.
            assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")
        finally:
            terminal.close(force=True)
        assert terminal.exitstatus == 130
        soon(lambda: not place.processes(), place.processes)
        soon(lambda: not place.files(), place.files)
