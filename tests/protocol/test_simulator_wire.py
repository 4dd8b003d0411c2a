"""What the simulator does on the wire that no recorded conversation shows."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from pyatm.simulator import ca
from pyatm.simulator.server import Simulator
from pyatm.vdsm import Address, TlsFiles, VdsmClient
from pyatm.vdsm.stomp import Frame
from tests.protocol.simulated import (
    POOL,
    RESPONSES,
    FaultError,
    RawClient,
    creation,
    deletion,
    new_id,
    settings,
    tell,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(settings(tmp_path, detection_seconds=0.3, poll_seconds=0.4)) as running:
        yield running


async def connect(simulator: Simulator, **headers: str) -> RawClient:
    client = await RawClient.connect(simulator.port)
    client.put(Frame("CONNECT", (("accept-version", "1.2"), *headers.items())))
    return client


def ping(request_id: Any = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "Host.ping2", "params": {}, "id": request_id or new_id()}


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (b"", "eof"),
        (b"CONNE", "reset"),
        (b"STOMP\naccept-version:1.2\n\n\0", "reset"),
        (b"\nCONNECT\naccept-version:1.2\n\n\0", "reset"),
        (b"POST / HTTP/1.1\r\n\r\n", "reset"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "reset"),
    ],
    ids=["nothing", "too little", "STOMP", "newline", "POST", "TLS"],
)
async def test_the_first_bytes_decide(simulator: Simulator, sent: bytes, end: str) -> None:
    client = await RawClient.connect(simulator.port)
    client.writer.write(sent)
    assert await client.closed() == end


async def test_http_is_answered_by_the_image_server(simulator: Simulator) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(b"GET /stray HTTP/1.1\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_without_outgoing_beats_the_incoming_ones_are_checked_when_the_poll_wakes(
    simulator: Simulator,
) -> None:
    silent = await connect(simulator, **{"heart-beat": "1000,0"})
    frame = await silent.take(lambda f: f.command == "CONNECTED")
    assert frame.get("heart-beat") == "0,1000"
    begun = asyncio.get_running_loop().time()
    assert await silent.closed() == "eof"
    # 1000 ms have passed at the third check, 1.2 s after the CONNECT.
    assert asyncio.get_running_loop().time() - begun > 1.1


@pytest.mark.parametrize(
    "body",
    [
        {"jsonrpc": "2.0", "method": "Host.ping2", "params": {}},
        {"jsonrpc": "2.0", "method": "Host.ping2", "params": {}, "id": None},
        {"jsonrpc": "2.0", "method": "Host.ping2", "params": {}, "id": [1]},
        {"jsonrpc": "2.0", "method": "Host.ping2", "params": {}, "id": {"a": 1}},
        [{"jsonrpc": "2.0", "method": "Host.ping2"}, {"jsonrpc": "2.0"}],
        [1, 2],
    ],
    ids=["no id", "null", "list", "object", "batch of a notification and junk", "batch of junk"],
)
async def test_a_poison_request_makes_vdsm_deaf_unless_that_is_switched_off(
    simulator: Simulator, body: Any
) -> None:
    client = await RawClient.ready(simulator.port)
    await tell(simulator, "deafness", on=False)
    client.post(body)
    assert await client.call("Host.ping2") is True
    await tell(simulator, "deafness", on=True)
    client.post(body)
    client.post(ping())
    await until(lambda: simulator.process.rpc.deaf)
    other = await RawClient.ready(simulator.port)
    other.post(ping())
    await asyncio.sleep(0.1)
    assert not [f for f in (*client.frames, *other.frames) if b"true" in f.body]


async def test_a_batch_of_two_is_executed_and_never_answered(simulator: Simulator) -> None:
    client = await RawClient.ready(simulator.port)
    requests = [
        {"jsonrpc": "2.0", "method": "Image.delete", "params": deletion(), "id": new_id()}
        for _ in range(2)
    ]
    client.post(requests)
    await until(lambda: len(simulator.process.tasks.tasks) == 2)
    assert await client.call("Host.ping2") is True
    assert not client.frames


async def test_a_scalar_and_text_that_is_not_utf8_are_answered_without_id(
    simulator: Simulator,
) -> None:
    client = await RawClient.ready(simulator.port)
    client.subscribe(RESPONSES)
    client.post(5)
    client.post(b'{"jsonrpc": "2.0", "method": "\xff"}')
    assert await client.call("Host.ping2") is True
    codes = [json.loads(f.body)["error"] for f in client.frames]
    assert [e["code"] for e in codes] == [-32603, -32603, -32700]
    assert codes[0]["message"] == "Internal JSON-RPC error"


@pytest.mark.parametrize("request_id", ["", 0, -1, 2.5, True])
async def test_unusual_request_ids_come_back_unchanged(
    simulator: Simulator, request_id: Any
) -> None:
    client = await RawClient.ready(simulator.port)
    client.request("Host.ping2", {}, request_id)
    frame = await client.take(lambda f: f.command == "MESSAGE")
    answer = json.loads(frame.body)["id"]
    assert (answer, type(answer)) == (request_id, type(request_id))


async def test_the_same_id_in_flight_on_two_connections_misleads_the_answers(
    simulator: Simulator,
) -> None:
    await tell(simulator, "slow", seconds=0.1)
    first, second = await RawClient.ready(simulator.port), await RawClient.ready(simulator.port)
    second.subscribe(RESPONSES)
    first.request("Host.getAllTasksStatuses", {}, 1)
    await asyncio.sleep(0.05)
    second.request("Host.getAllTasksStatuses", {}, 1)
    places = [
        (await second.take(lambda f: f.command == "MESSAGE")).get("destination") for _ in range(2)
    ]
    assert places == [second.destination, RESPONSES]
    assert not first.frames


async def test_everybody_who_subscribed_to_a_destination_gets_the_answer(
    simulator: Simulator,
) -> None:
    first = await RawClient.ready(simulator.port)
    second = await RawClient.ready(simulator.port, destination=first.destination)
    number = first.request("Host.ping2", {})
    assert await first.answer(number) is True
    assert await second.answer(number) is True


async def test_missing_parameters_are_named_as_python_names_them(simulator: Simulator) -> None:
    client = await RawClient.ready(simulator.port)
    wanted = {
        "Image.delete": "Image.__init__() missing 3 required positional arguments: "
        "'UUID', 'spUUID', and 'sdUUID'",
        "StoragePool.spmStop": "StoragePool.__init__() missing 1 required positional "
        "argument: 'UUID'",
    }
    for method, reason in wanted.items():
        with pytest.raises(FaultError, match="-32603") as caught:
            await client.call(method)
        assert reason in str(caught.value)
    incomplete = {k: v for k, v in deletion().items() if k not in ("postZero", "force")}
    with pytest.raises(FaultError, match=r"Image.delete\(\) missing 2 .* 'postZero' and 'force'"):
        await client.call("Image.delete", **incomplete)


async def test_requests_beyond_eight_and_eighty_get_1100_and_are_not_executed(
    simulator: Simulator,
) -> None:
    await tell(simulator, "slow", seconds=0.2)
    client = await RawClient.ready(simulator.port)
    numbers = [client.request("Image.delete", deletion()) for _ in range(100)]
    codes: list[int | None] = []
    for number in numbers:
        try:
            await client.answer(number)
            codes.append(None)
        except FaultError as error:
            codes.append(error.code)
    assert codes == [None] * 88 + [1100] * 12
    assert len(simulator.process.tasks.tasks) == 88


async def test_a_list_of_ten_thousand_tasks_is_complete(tmp_path: Path) -> None:
    changes = {"max_tasks": 20_000}
    async with Simulator(settings(tmp_path, **changes)) as simulator:
        client = await RawClient.ready(simulator.port)
        for _ in range(125):
            numbers = [client.request("Volume.create", creation()) for _ in range(80)]
            for number in numbers:
                await client.answer(number)
        found = await client.statuses()
        assert len(found) == 10_000
        assert all(name == status["taskID"] for name, status in found.items())


async def test_tls_wants_a_certificate_of_its_own_ca(tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    ca.generate_ca(own)
    ca.generate_ca(foreign)
    authority = ca.make_authority("another")
    assert (own / "client-key.pem").stat().st_mode & 0o077 == 0
    async with Simulator(settings(tmp_path / "disk", tls_directory=own)) as simulator:
        files = TlsFiles(own / "ca.pem", own / "client-cert.pem", own / "client-key.pem")
        async with VdsmClient(Address("127.0.0.1", simulator.port), tls=files) as client:
            assert (await client.pool.get_spm_status(POOL)).spm_id == 1
        ca.make_certificate(authority, "x", server=False).write(own, "other")
        for certificate in (foreign / "client", own / "other", None):
            context = ssl.create_default_context(cafile=own / "ca.pem")
            if certificate is not None:
                context.load_cert_chain(f"{certificate}-cert.pem", f"{certificate}-key.pem")
            stranger = await RawClient.connect(simulator.port, tls=context)
            assert await stranger.closed() in ("eof", "reset")
        plain = await RawClient.connect(simulator.port)
        plain.writer.write(b"CONNECT\naccept-version:1.2\n\n\0")
        assert await plain.closed() == "reset"
        async with VdsmClient(Address("127.0.0.1", simulator.port), tls=files) as client:
            await client.host.ping()


async def test_tls_ends_a_silent_connection_before_and_after_the_handshake(tmp_path: Path) -> None:
    own = tmp_path / "own"
    ca.generate_ca(own)
    changes = {"tls_directory": own, "detection_seconds": 0.3}
    async with Simulator(settings(tmp_path / "disk", **changes)) as simulator:
        silent = await RawClient.connect(simulator.port)
        assert await silent.closed() == "eof"
        context = ssl.create_default_context(cafile=own / "ca.pem")
        context.load_cert_chain(own / "client-cert.pem", own / "client-key.pem")
        silent = await RawClient.connect(simulator.port, tls=context)
        assert await silent.closed() == "eof"


async def test_an_expired_client_certificate_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    authority = ca.make_authority("test")
    ca.write_certificate(authority.certificate, own / "ca.pem")
    ca.make_certificate(authority, "127.0.0.1", server=True).write(own, "server")
    ca.make_certificate(authority, "old", server=False, expired=True).write(own, "client")
    async with Simulator(settings(tmp_path / "disk", tls_directory=own)) as simulator:
        context = ssl.create_default_context(cafile=own / "ca.pem")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(own / "client-cert.pem", own / "client-key.pem")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await RawClient.connect(simulator.port, tls=context)


@pytest.mark.parametrize("name", ["../../elsewhere", "", "a/b", "x\0y", 5])
async def test_an_id_that_is_not_a_uuid_never_becomes_a_path(
    simulator: Simulator, name: Any
) -> None:
    client = await RawClient.ready(simulator.port)
    for method, params in (
        ("Volume.create", {**creation(), "storagedomainID": name}),
        ("Image.delete", {**deletion(), "storagedomainID": name}),
        ("Image.delete", {**deletion(), "imageID": name}),
        ("Volume.create", {**creation(), "volumeID": name}),
        ("StoragePool.connect", {"storagepoolID": name, "hostID": 1, "scsiKey": ""}),
    ):
        with pytest.raises(FaultError) as caught:
            await client.call(method, **params)
        assert caught.value.code in (358, 1000)
    assert await client.statuses() == {}
    assert {path.name for path in simulator.settings.directory.iterdir()} == {
        POOL,
        "execution-log.jsonl",
    }
