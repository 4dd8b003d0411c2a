"""The demo interrupted: nothing of it is left, at whatever moment and by whatever signal."""

import random
import re
import signal
import subprocess
import time

import pytest

from tests.cli.demo_program import a_place, listens, soon, start

pytestmark = pytest.mark.slow

LONGEST = 15.0
"""Seconds; about as long as a demo lasts on an idle machine."""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_an_interrupted_demo_leaves_no_process_and_no_port(
    number: signal.Signals, part: int
) -> None:
    moment = random.uniform(part, part + 1) * LONGEST / 2
    with a_place() as place, start(place) as demo:
        time.sleep(moment)
        demo.send_signal(number)
        try:
            output, problems = demo.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            demo.kill()
            pytest.fail(f"{number.name} after {moment:.2f} s does not end the demo")
        said = f"{number.name} after {moment:.2f} s\n{output}\n{problems}"
        # Before its first word Python itself may still be starting.
        assert "Traceback" not in problems or not output, said
        soon(lambda: not place.processes(), lambda: f"{place.processes()} {said}")
        for port in re.findall(r"port (\d+)", output):
            assert not listens(int(port)), said
        if number != signal.SIGKILL:
            soon(lambda: not place.files(), lambda: f"{place.files()} {said}")


def test_two_interruptions_in_a_row_leave_nothing_either() -> None:
    with a_place() as place, start(place) as demo:
        time.sleep(random.uniform(1, 8))
        demo.send_signal(signal.SIGINT)
        time.sleep(random.uniform(0, 0.3))
        demo.send_signal(signal.SIGINT)
        output, problems = demo.communicate(timeout=90)
        soon(lambda: not place.processes(), lambda: f"{place.processes()}\n{output}\n{problems}")
