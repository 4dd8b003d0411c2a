"""The frame codec against recorded conversations: same bytes, whatever the splits."""

from __future__ import annotations

import pytest

from pyatm.vdsm.errors import FrameError
from pyatm.vdsm.stomp import (
    CLIENT_COMMANDS,
    SERVER_COMMANDS,
    Decoder,
    Frame,
    HeartBeat,
    encode,
)
from tests.protocol.recordings import Recording, all_recordings

RECORDINGS = all_recordings()
each_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.scenario)


def decode(kind: str, *pieces: bytes) -> tuple[list[Frame | HeartBeat], FrameError | None]:
    decoder = Decoder(CLIENT_COMMANDS if kind == "client" else SERVER_COMMANDS)
    items: list[Frame | HeartBeat] = []
    try:
        for piece in pieces:
            items.extend(decoder.feed(piece))
    except FrameError as error:
        return items, error
    return items, None


def frames(items: list[Frame | HeartBeat]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


@each_recording
def test_a_server_line_of_a_transcript_is_one_item_and_encodes_to_the_same_bytes(
    recording: Recording,
) -> None:
    for event in recording.events:
        if event.kind == "server":
            items, error = decode("server", event.data)
            assert error is None, event
            assert b"".join(map(encode, items)) == event.data, event
            assert len(items) == 1, event


@each_recording
def test_a_client_line_of_a_transcript_encodes_to_the_same_bytes_unless_it_is_broken(
    recording: Recording,
) -> None:
    for event in recording.events:
        if event.kind == "client":
            items, error = decode("client", event.data)
            if error is None and frames(items):
                assert b"".join(map(encode, items)) == event.data, event


@each_recording
def test_every_split_of_a_line_of_a_transcript_gives_the_same_frames(recording: Recording) -> None:
    for event in recording.events:
        if event.kind not in ("client", "server"):
            continue
        whole, whole_error = decode(event.kind, event.data)
        splits: list[tuple[bytes, ...]] = [
            (event.data[:at], event.data[at:]) for at in range(1, len(event.data))
        ]
        splits.append(tuple(event.data[i : i + 1] for i in range(len(event.data))))
        for split in splits:
            items, error = decode(event.kind, *split)
            assert items == whole, event
            assert type(error) is type(whole_error), event


@each_recording
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4096])
def test_the_stream_of_a_connection_of_a_transcript_can_be_cut_anywhere(
    recording: Recording, size: int
) -> None:
    for conn in recording.connections:
        stream = b"".join(event.data for event in recording.of(conn, "server"))
        whole, _ = decode("server", stream)
        pieces = (stream[i : i + size] for i in range(0, len(stream), size))
        items, error = decode("server", *pieces)
        assert error is None
        assert frames(items) == frames(whole)


@each_recording
def test_the_codec_refuses_nothing_that_vdsm_answered_in_a_transcript(recording: Recording) -> None:
    """What the codec refuses, VDSM must have refused too: by closing, without another frame."""
    for conn in recording.connections:
        decoder = Decoder(CLIENT_COMMANDS)
        refused = False
        for event in recording.of(conn):
            if event.kind == "client" and not refused:
                try:
                    list(decoder.feed(event.data))
                except FrameError:
                    refused = True
            assert not (refused and event.kind == "server"), event
        if refused:
            assert recording.of(conn, "close-by-server"), (recording.scenario, conn)
