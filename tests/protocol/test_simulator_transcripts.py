"""The simulator answers as VDSM did in every recorded conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.conductor import Conductor
from tests.protocol.recordings import Recording, all_recordings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("recording", all_recordings(), ids=lambda r: r.scenario)
async def test_the_simulator_plays_the_server_of_a_transcript(
    recording: Recording, tmp_path: Path
) -> None:
    conductor = Conductor(recording, tmp_path)
    await conductor.play()
    assert not conductor.differences, "\n".join(
        [*conductor.differences, *(f"not understood: {line}" for line in conductor.stage.ignored)]
    )
    assert conductor.compared > 0 or not recording.of(1, "server")
