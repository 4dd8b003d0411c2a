"""The client against recorded conversations: what it must conclude from each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.recordings import Recording, all_recordings
from tests.protocol.replay import Replay, understand

if TYPE_CHECKING:
    from collections.abc import Mapping

each_recording = pytest.mark.parametrize("recording", all_recordings(), ids=lambda r: r.scenario)

# How the tasks of known conversations ended: result and code of the N-th created task.
SUCCESS: tuple[str, int] = ("success", 0)
CONCLUSIONS: dict[str, Mapping[int, tuple[str, int]]] = {
    "cleared_by_another_client": {1: SUCCESS, 2: SUCCESS},
    "clear_before_done": {1: SUCCESS},
    "create_waits_when_queue_full": dict.fromkeys(range(1, 7), SUCCESS),
    "dropped_during_create": {1: SUCCESS},
    "job_fails_oserror": {1: ("cleanSuccess", 100), 2: ("cleanSuccess", 100)},
    "job_fails_storage_error": {
        1: ("cleanSuccess", 205),
        2: ("cleanSuccess", 256),
        3: ("cleanSuccess", 261),
    },
    "no_reply_destination": {1: SUCCESS},
    "out_of_order_answers": {1: ("cleanSuccess", 0)},
    "remove_vm_four_disks": dict.fromkeys(range(1, 5), SUCCESS),
    "restart_kill": {1: SUCCESS} | dict.fromkeys(range(2, 5), ("cleanSuccess", 0)),
    "revert_finished": {1: ("cleanSuccess", 0)},
    "spm_start": {1: SUCCESS},
    "stop_pending_twice": {1: ("cleanSuccess", 411)},
    "stop_queued": {1: SUCCESS, 2: SUCCESS, 3: ("cleanSuccess", 0)},
    "stop_running": {1: ("cleanSuccess", 411), 2: SUCCESS},
    "vdsm_python_client": {1: SUCCESS},
    "volume_copy_life": {1: SUCCESS, 2: SUCCESS},
    "volume_create_shapes": {1: SUCCESS},
}


@each_recording
@pytest.mark.parametrize("piece", [None, 1], ids=["as-recorded", "byte-by-byte"])
async def test_the_client_concludes_what_the_transcript_says(
    recording: Recording, piece: int | None
) -> None:
    replay = Replay(recording, piece)
    await replay.play()
    wanted = [understand(recording, event) for event in recording.events if event.kind == "client"]
    answered = sum(said is not None and said.answer is not None for said in wanted)
    assert replay.checked + replay.left_out == answered
    if not any(e.kind == "server" and e.data.startswith(b"ERROR") for e in recording.events):
        assert replay.left_out == 0
    seen = [*replay.tasks, *(task for task in replay.statuses if task not in replay.tasks)]
    for number, (result, code) in CONCLUSIONS.get(recording.scenario, {}).items():
        status = replay.statuses[seen[number - 1]]
        assert (status.result, status.code) == (result, code), number
        assert status.succeeded == (result == "success")
