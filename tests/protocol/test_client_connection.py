"""The lasting connection: heart-beats, reconnecting, and peers that misbehave."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyatm.vdsm import (
    Address,
    Backoff,
    ClientSettings,
    ConnectError,
    ConnectionSettings,
    ConnectTimeout,
    HostUnreachable,
    NotSent,
    PeerSilent,
    ProtocolViolation,
    Unknown,
    VdsmClient,
    VersionRejected,
    outcome,
)
from pyatm.vdsm.stomp import Limits, encode
from tests.protocol.scripted import PATIENCE, ScriptedVdsm, closed_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUICK = ClientSettings(timeout=20, slow_timeout=20, backoff=Backoff(first=0.01, longest=0.05))
CALM = ClientSettings(timeout=20, backoff=Backoff(first=3600, longest=3600))


@pytest.fixture
async def vdsm() -> AsyncIterator[ScriptedVdsm]:
    async with ScriptedVdsm() as server:
        yield server


async def test_beats_go_out_at_half_of_what_the_host_expects_not_of_what_was_offered(
    vdsm: ScriptedVdsm,
) -> None:
    settings = ClientSettings(connection=ConnectionSettings(heart_beat_out=60, heart_beat_in=0))
    async with VdsmClient(vdsm.address, settings=settings):
        peer = await vdsm.welcome("0,1000")
        reading = asyncio.create_task(peer.frame())
        async with asyncio.timeout(PATIENCE):
            while len(peer.beats) < 4:
                await asyncio.sleep(0.05)
        reading.cancel()
        gaps = [b - a for a, b in zip(peer.beats, peer.beats[1:], strict=False)]
        # A beat is never early. The shortest gap shows the interval even on a slow machine.
        assert 0.4 <= min(gaps) < 0.9


async def test_without_a_promise_no_beats_are_sent(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(vdsm.address) as client:
        peer = await vdsm.welcome("0,0")
        await client.connect()
        link = client._link.connection
        assert link is not None
        assert (link.beat_every, link.silence_allowed) == (0.0, 0.0)
        assert peer.beats == []


@pytest.mark.parametrize("answer", ["junk", "1000", "a,b", "-1,5", ""])
async def test_a_senseless_heart_beat_answer_counts_as_none(
    vdsm: ScriptedVdsm, answer: str
) -> None:
    async with VdsmClient(vdsm.address) as client:
        await vdsm.welcome(answer)
        await client.connect()
        link = client._link.connection
        assert link is not None
        assert (link.beat_every, link.silence_allowed) == (0.0, 0.0)


async def test_a_lost_connection_comes_back_by_itself(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(vdsm.address, settings=QUICK) as client:
        for count in range(1, 4):
            peer = await vdsm.welcome()
            ping = asyncio.create_task(client.host.ping())
            peer.answer(await peer.asked(), True)
            await ping
            assert client.state.connects == count
            peer.close()


async def test_a_host_that_was_down_is_found_again(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(vdsm.address, settings=QUICK) as client:
        await vdsm.welcome()
        await vdsm.stop()
        with pytest.raises(HostUnreachable):
            while True:
                await client.connect()
                await asyncio.sleep(0.01)
        await vdsm.start()
        await vdsm.welcome()
        await client.connect()
        assert client.state.connected


async def test_attempts_are_made_one_at_a_time_however_many_ask(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(vdsm.address, settings=CALM) as client:
        asking = [asyncio.create_task(client.connect()) for _ in range(20)]
        calls = [asyncio.create_task(outcome(client.host.ping())) for _ in range(5)]
        peer = await vdsm.accept()
        await asyncio.sleep(0.1)
        assert vdsm.waiting == 0
        await peer.welcome()
        await asyncio.gather(*asking)
        assert client.state.connects == 1
        for call in calls:
            call.cancel()


@pytest.mark.parametrize("turns", range(6))
async def test_a_pause_ends_at_once_when_the_caller_asks(vdsm: ScriptedVdsm, turns: int) -> None:
    """Also when asked in the very moment of the loss: ``turns`` of the event loop after it."""
    async with VdsmClient(vdsm.address, settings=CALM) as client:  # pauses of an hour
        peer = await vdsm.welcome()
        await client.connect()
        peer.close()
        async with asyncio.timeout(PATIENCE):
            while client.state.connected:
                await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        again = asyncio.create_task(client.connect())
        await vdsm.welcome()
        await again
        assert client.state.connects == 2


def test_pauses_double_up_to_the_longest_and_are_spread() -> None:
    backoff = Backoff(first=0.1, longest=30.0)
    assert all(0.1 <= backoff.pause(0) <= 0.1 for _ in range(10))
    assert all(0.1 <= backoff.pause(3) <= 0.8 for _ in range(100))
    drawn = [backoff.pause(10_000) for _ in range(1000)]
    assert max(drawn) <= 30.0
    assert max(drawn) - min(drawn) > 10


async def test_a_host_that_accepts_and_drops_is_not_called_without_pause(
    vdsm: ScriptedVdsm,
) -> None:
    """Connecting alone proves nothing: only an answer makes the pauses short again."""
    async with VdsmClient(vdsm.address, settings=QUICK) as client:
        for _ in range(4):
            (await vdsm.welcome()).close()
        peer = await vdsm.welcome()
        assert client._link.failures >= 4
        ping = asyncio.create_task(client.host.ping())
        peer.answer(await peer.asked(), True)
        await ping
        assert client._link.failures == 0


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", VersionRejected),
        (b"\x15\x03\x03\0\x02\x02(", VersionRejected),
        (b"\xff" * 100_000, VersionRejected),
        (b"ERROR\ncontent-length:19\n\nVersion unsupported\0", VersionRejected),
        (b"CONNECTED\nversion:1.1\n\n\0", VersionRejected),
        (b"CONNECTED\n\n\0", VersionRejected),
        (b"MESSAGE\n\n\0", VersionRejected),
        (b"CONNECTED\nversion", HostUnreachable),
        (b"", HostUnreachable),
    ],
)
async def test_a_peer_that_is_no_vdsm_is_a_named_error(
    vdsm: ScriptedVdsm, said: bytes, error: type[ConnectError]
) -> None:
    async with VdsmClient(vdsm.address, settings=CALM) as client:
        connecting = asyncio.create_task(client.connect())
        peer = await vdsm.accept()
        await peer.connect()
        peer.writer.write(said)
        peer.close()
        with pytest.raises(error):
            await connecting


async def test_a_peer_that_accepts_and_says_nothing_is_a_timeout(vdsm: ScriptedVdsm) -> None:
    settings = ClientSettings(
        backoff=CALM.backoff, connection=ConnectionSettings(connect_timeout=0.2)
    )
    async with VdsmClient(vdsm.address, settings=settings) as client:
        with pytest.raises(ConnectTimeout):
            await client.connect()
        await (await vdsm.accept()).closed()


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    async with VdsmClient(Address("host.invalid"), settings=CALM) as client:
        with pytest.raises(HostUnreachable, match=r"host\.invalid"):
            await client.connect()


BROKEN = {
    "garbage": b"\x00\x01\x02 garbage",
    "unknown command": b"NONSENSE\n\n\0",
    "header without colon": b"MESSAGE\nbad\n\n\0",
    "wrong length": b"MESSAGE\ncontent-length:1\n\nabc\0",
    "endless header": b"MESSAGE\na:" + b"x" * 200_000,
    "endless headers": b"MESSAGE\n" + b"a:b\n" * 20_000,
    "endless body": b"MESSAGE\n\n" + b"x" * 300_000,
    "huge length": b"MESSAGE\ncontent-length:999999999999\n\n",
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_host_that_sends_nonsense_costs_the_connection_and_names_it(
    vdsm: ScriptedVdsm, kind: str
) -> None:
    limits = Limits(body_bytes=200_000)
    settings = ClientSettings(
        timeout=20, backoff=CALM.backoff, connection=ConnectionSettings(limits=limits)
    )
    async with VdsmClient(vdsm.address, settings=settings) as client:
        peer = await vdsm.welcome()
        call = asyncio.create_task(outcome(client.host.ping()))
        await peer.asked()
        peer.writer.write(BROKEN[kind])
        ended = await call
        assert isinstance(ended, Unknown)
        assert isinstance(ended.__cause__, ProtocolViolation), ended.__cause__
        await peer.closed()


async def test_answers_before_the_nonsense_still_count(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(vdsm.address, settings=CALM) as client:
        peer = await vdsm.welcome()
        call = asyncio.create_task(client.call("X.y"))
        asked = await peer.asked()
        body = f'{{"jsonrpc": "2.0", "id": "{asked.id}", "result": 7}}'.encode()
        peer.writer.write(encode(peer.message(body)) + b"NONSENSE\n\n\0")
        assert await call == 7


async def test_a_frame_that_is_never_finished_is_given_up_although_bytes_drip(
    vdsm: ScriptedVdsm,
) -> None:
    settings = ClientSettings(
        timeout=30, backoff=CALM.backoff, connection=ConnectionSettings(frame_timeout=0.5)
    )
    async with VdsmClient(vdsm.address, settings=settings) as client:
        peer = await vdsm.welcome()
        call = asyncio.create_task(outcome(client.host.ping()))
        await peer.asked()
        await peer.write(b"MESSAGE\ncontent-length:900\n\n")

        async def drip() -> None:
            while True:
                await peer.write(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        ended = await call
        dripping.cancel()
        assert isinstance(ended, Unknown)
        assert isinstance(ended.__cause__, PeerSilent)
        assert "complete" in str(ended.__cause__)


async def test_many_frames_that_concern_nobody_cost_no_memory(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(vdsm.address, settings=CALM) as client:
        peer = await vdsm.welcome()
        await client.connect()
        flood = b"".join(
            encode(peer.message(b'{"jsonrpc": "2.0", "id": "nobody-%d", "result": true}' % n))
            for n in range(2000)
        )
        tracemalloc.start()
        try:
            await settle(client, peer, flood)
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(10):
                await settle(client, peer, flood)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 200_000
        assert client.state.connects == 1


async def settle(client: VdsmClient, peer, flood: bytes) -> None:
    await peer.write(flood)
    ping = asyncio.create_task(client.host.ping())
    peer.answer(await peer.asked(), True)
    await ping


async def test_a_16_mib_answer_does_not_hold_the_event_loop(vdsm: ScriptedVdsm) -> None:
    """CPU time between two turns of the loop, not wall time: other processes do not count."""
    import json
    import time

    async with VdsmClient(vdsm.address, settings=CALM) as client:
        peer = await vdsm.welcome()
        entry = {"taskState": "running", "taskResult": "", "code": 0, "message": "x" * 60}
        listing = {f"{n:036}": {"taskID": f"{n:036}"} | entry for n in range(86_000)}
        text = json.dumps(listing)
        call = asyncio.create_task(client.host.get_all_tasks_statuses())
        asked = await peer.asked()
        body = f'{{"jsonrpc": "2.0", "id": "{asked.id}", "result": {text}}}'.encode()
        assert len(body) > 16 << 20
        data = encode(peer.message(body))
        longest = 0.0

        async def measure() -> None:
            nonlocal longest
            while True:
                start = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - start)

        # The server has its own process' share of the loop too: it sends from a thread.
        sock = os.dup(peer.writer.get_extra_info("socket").fileno())
        measuring = asyncio.create_task(measure())
        await asyncio.to_thread(_write_all, sock, data)
        statuses = await call
        measuring.cancel()
        assert statuses.raw == text
        assert longest < 0.1  # seconds; 0.014 measured, the aim is 0.05


def _write_all(descriptor: int, data: bytes) -> None:
    import select

    view = memoryview(data)
    try:
        while view:
            select.select([], [descriptor], [], PATIENCE)
            view = view[os.write(descriptor, view[: 1 << 20]) :]
    finally:
        os.close(descriptor)


async def test_a_host_that_does_not_read_gets_no_more_than_a_buffer_full(
    vdsm: ScriptedVdsm,
) -> None:
    async with VdsmClient(vdsm.address, settings=CALM) as client:
        peer = await vdsm.welcome()
        await client.connect()
        reading: asyncio.ReadTransport = peer.reader._transport  # type: ignore[attr-defined]
        reading.pause_reading()
        padding = {"padding": "x" * 1_000_000}
        ended = [await outcome(client.call("X.y", padding, timeout=0.05)) for _ in range(60)]
        assert isinstance(ended[0], Unknown)
        assert isinstance(ended[-1], NotSent)
        assert "does not read" in str(ended[-1])


@pytest.mark.parametrize("end", ["close", "cancel", "refused", "silent"])
async def test_nothing_leaks_however_the_client_ends(vdsm: ScriptedVdsm, end: str) -> None:
    async def once() -> None:
        address = closed_port() if end == "refused" else vdsm.address
        client = VdsmClient(address, settings=QUICK)
        call = asyncio.create_task(outcome(client.host.ping()))
        peer = None if end == "refused" else await vdsm.accept()
        if peer is not None and end != "silent":
            await peer.welcome()
            await peer.asked()
        if end == "cancel":
            call.cancel()
        await client.close()
        await asyncio.wait((call,))
        assert call.cancelled() == (end == "cancel")
        if peer is not None:
            peer.writer.transport.abort()

    def held() -> tuple[int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await once()
        await asyncio.sleep(0.05)
        before = held()
        for _ in range(10):
            await once()
        async with asyncio.timeout(PATIENCE):
            while held() > before or held()[1] > before[1]:
                await asyncio.sleep(0.05)
