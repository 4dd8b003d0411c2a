"""How calls end: result, refusal, unknown, not sent; late answers; deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from pyatm.vdsm import (
    Answered,
    Backoff,
    BadAnswer,
    ClientSettings,
    ConnectionSettings,
    HibernationVolumes,
    HostUnreachable,
    LateAnswer,
    NotSent,
    NotSpm,
    PeerSilent,
    PoolNotConnected,
    ProtocolViolation,
    QueueFull,
    Refused,
    Sending,
    SpmStatus,
    Starting,
    StopPending,
    TaskNotFinished,
    TaskStatus,
    TaskUnknown,
    Unknown,
    VdsmClient,
    outcome,
)
from tests.protocol.scripted import Peer, ScriptedVdsm, closed_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUICK = ClientSettings(timeout=10, slow_timeout=10, backoff=Backoff(first=0.01, longest=0.05))


@pytest.fixture
async def vdsm() -> AsyncIterator[ScriptedVdsm]:
    async with ScriptedVdsm() as server:
        yield server


@contextlib.asynccontextmanager
async def connected(
    vdsm: ScriptedVdsm, settings: ClientSettings = QUICK, **options: Any
) -> AsyncIterator[tuple[VdsmClient, Peer]]:
    async with VdsmClient(vdsm.address, settings=settings, **options) as client:
        peer = await vdsm.welcome()
        await client.connect()
        yield client, peer


async def test_the_private_destination_is_subscribed_before_the_first_request(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(client.host.ping())
        asked = await peer.asked()
        assert asked.frame.get("reply-to") == peer.reply_to
        assert str(uuid.UUID(peer.reply_to, version=4)) == peer.reply_to
        peer.answer(asked, True)
        await call


async def test_connect_offers_exactly_version_1_2_and_sends_no_host_header(
    vdsm: ScriptedVdsm,
) -> None:
    async with VdsmClient(vdsm.address):
        connect = (await (await vdsm.accept()).welcome())[0]
        assert connect.headers == (("accept-version", "1.2"), ("heart-beat", "10000,10000"))


async def test_a_request_is_one_object_with_a_fresh_uuid4_and_named_parameters(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm) as (client, peer):
        ids: set[str] = set()
        for _ in range(20):
            call = asyncio.create_task(client.call("Task.getInfo", {"taskID": "x"}))
            asked = await peer.asked()
            assert set(json.loads(asked.frame.body)) == {"jsonrpc", "method", "params", "id"}
            assert str(uuid.UUID(asked.id, version=4)) == asked.id
            ids.add(asked.id)
            peer.answer(asked, {})
            await call
        assert len(ids) == 20


async def test_a_correlation_id_travels_as_a_header_and_is_escaped(vdsm: ScriptedVdsm) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(client.call("Host.ping2", correlation_id="flow:1\\2"))
        asked = await peer.asked()
        assert asked.frame.get("ovirtCorrelationId") == "flow:1\\2"
        assert b"ovirtCorrelationId:flow\\c1\\\\2\n" in peer.received
        peer.answer(asked, True)
        assert await call is True


async def test_answers_are_matched_by_id_whatever_their_order(vdsm: ScriptedVdsm) -> None:
    async with connected(vdsm) as (client, peer):
        calls = [asyncio.create_task(client.call("X.y", {"n": n})) for n in range(10)]
        asked = [await peer.asked() for _ in calls]
        for request in reversed(asked):
            peer.answer(request, request.params["n"])
        assert await asyncio.gather(*calls) == list(range(10))


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (654, NotSpm),
        (309, PoolNotConnected),
        (401, TaskUnknown),
        (410, TaskNotFinished),
        (411, StopPending),
        (12345, Refused),
    ],
)
async def test_a_refusal_carries_vdsms_code_and_text_in_a_named_error(
    vdsm: ScriptedVdsm, code: int, named: type[Refused]
) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(client.task.clear("t"))
        peer.refuse(await peer.asked(), code, "what VDSM says")
        with pytest.raises(named) as raised:
            await call
        assert type(raised.value) is named
        assert (raised.value.code, raised.value.message) == (code, "what VDSM says")


async def test_a_lost_connection_ends_every_call_in_flight_as_unknown_at_once(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm, ClientSettings(timeout=3600)) as (client, peer):
        calls = [asyncio.create_task(outcome(client.host.ping())) for _ in range(5)]
        for _ in calls:
            await peer.asked()
        peer.close()
        async with asyncio.timeout(10):
            ended = await asyncio.gather(*calls)
        assert [type(end) for end in ended] == [Unknown] * 5
        assert "closed" in str(ended[0])


async def test_a_reset_connection_is_unknown_for_a_creating_verb_and_is_not_repeated(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(client.create_task("Image.delete", {"imageID": "i"}))
        await peer.asked()
        peer.reset()
        with pytest.raises(Unknown):
            await call
        again = await vdsm.welcome()
        ping = asyncio.create_task(client.host.ping())
        asked = await again.asked()
        assert asked.method == "Host.ping2"  # and not Image.delete once more
        again.answer(asked, True)
        await ping


async def test_a_late_answer_on_the_next_connection_settles_the_request(
    vdsm: ScriptedVdsm,
) -> None:
    heard: list[LateAnswer] = []
    async with connected(vdsm, on_late_answer=heard.append) as (client, peer):
        call = asyncio.create_task(
            client.create_task("Image.delete", {}, correlation_id="task 7 of mine")
        )
        asked = await peer.asked()
        peer.close()
        with pytest.raises(Unknown) as raised:
            await call
        assert raised.value.answer is None
        again = await vdsm.welcome()
        assert again.reply_to == peer.reply_to  # or VDSM would route the answer nowhere
        again.answer(asked, "the-task-id")
        assert await raised.value.wait(10) == Answered("the-task-id")
        assert raised.value.answer == Answered("the-task-id")
        assert heard == [
            LateAnswer(asked.id, "Image.delete", "task 7 of mine", Answered("the-task-id"))
        ]


async def test_a_late_answer_after_the_deadline_settles_the_request_even_if_it_is_a_refusal(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm) as (client, peer):
        with pytest.raises(Unknown) as raised:
            await client.create_task("Image.delete", {}, timeout=0.05)
        peer.refuse(await peer.asked(), 654, "Not SPM: ()")
        late = await raised.value.wait(10)
        assert isinstance(late, NotSpm)


async def test_the_late_answer_of_a_cancelled_call_is_still_heard(vdsm: ScriptedVdsm) -> None:
    heard: asyncio.Queue[LateAnswer] = asyncio.Queue()
    async with connected(vdsm, on_late_answer=heard.put_nowait) as (client, peer):
        call = asyncio.create_task(client.create_task("Image.delete", {}))
        asked = await peer.asked()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        peer.answer(asked, "id")
        async with asyncio.timeout(10):
            assert (await heard.get()).answer == Answered("id")


async def test_a_failing_listener_for_late_answers_does_not_cost_the_connection(
    vdsm: ScriptedVdsm,
) -> None:
    def fail(_: LateAnswer) -> None:
        raise RuntimeError("a defect of the caller")

    async with connected(vdsm, on_late_answer=fail) as (client, peer):
        with pytest.raises(Unknown) as raised:
            await client.call("X.y", timeout=0.05)
        peer.answer(await peer.asked(), 1)
        assert await raised.value.wait(10) == Answered(1)
        ping = asyncio.create_task(client.host.ping())
        peer.answer(await peer.asked(), True)
        await ping
        assert client.state.connects == 1


async def test_only_so_many_unanswered_requests_are_remembered(vdsm: ScriptedVdsm) -> None:
    settings = ClientSettings(timeout=0.05, late_answers=2)
    async with connected(vdsm, settings) as (client, peer):
        ended = [await outcome(client.call("X.y", {"n": n})) for n in range(3)]
        for asked in [await peer.asked() for _ in range(3)]:
            peer.answer(asked, asked.params["n"])
        assert isinstance(ended[0], Unknown)
        assert isinstance(ended[2], Unknown)
        assert await ended[2].wait(10) == Answered(2)
        assert await ended[0].wait(10) is None


async def test_a_call_ends_at_its_deadline_although_heart_beats_go_on(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(vdsm.address, settings=QUICK) as client:
        peer = await vdsm.welcome("1000,1000")
        beating = asyncio.create_task(beat(peer))
        with pytest.raises(Unknown, match=r"no answer in 1\.5 s"):
            await client.call("Host.ping2", timeout=1.5)
        with pytest.raises(Unknown):
            await client.call("Host.ping2", timeout=0.1)
        assert client.state.connected
        assert client.state.unanswered == 2  # how a deaf VDSM shows
        beating.cancel()


async def beat(peer: Peer) -> None:
    while True:
        await peer.write(b"\n")
        await asyncio.sleep(0.2)


async def test_a_refused_connection_is_not_sent(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(closed_port(), settings=QUICK) as client:
        ended = await outcome(client.create_task("Image.delete", {}))
        assert isinstance(ended, NotSent)
        assert isinstance(ended.__cause__, HostUnreachable)
        with pytest.raises(HostUnreachable, match="refused"):
            await client.connect()


async def test_without_connection_in_time_a_call_is_not_sent(vdsm: ScriptedVdsm) -> None:
    async with VdsmClient(vdsm.address, settings=QUICK) as client:
        peer = await vdsm.accept()  # and says nothing
        with pytest.raises(NotSent):
            await client.call("Host.ping2", timeout=0.1)
        await peer.connect()
        peer.writer.write_eof()
        assert await peer.reader.read() == b""  # not one byte of the request


async def test_requests_beyond_the_limit_wait_and_are_not_sent_at_their_deadline(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm, ClientSettings(timeout=30, max_in_flight=2)) as (client, peer):
        calls = [asyncio.create_task(client.call("X.y", {"n": n})) for n in range(4)]
        first = [await peer.asked(), await peer.asked()]
        late = await outcome(client.call("X.y", timeout=0.05))
        assert isinstance(late, NotSent)
        assert client.state.in_flight == 2
        for request in first:
            peer.answer(request, 0)
        for request in [await peer.asked(), await peer.asked()]:
            peer.answer(request, 0)
        assert await asyncio.gather(*calls) == [0] * 4


async def test_a_call_that_became_too_late_to_be_sent_is_not_sent(vdsm: ScriptedVdsm) -> None:
    async with connected(vdsm) as (client, peer):
        sending = Sending(send_by=time.monotonic() - 0.001)
        late = await outcome(client.image.delete("i", pool_id="p", domain_id="d", sending=sending))
        assert isinstance(late, NotSent)
        ping = asyncio.create_task(client.host.ping())
        assert (await peer.asked()).method == "Host.ping2"
        ping.cancel()


@pytest.mark.parametrize(("code", "named"), [(99, Starting), (1100, QueueFull)])
async def test_starting_and_queue_full_are_retried_with_a_new_id_until_the_deadline(
    vdsm: ScriptedVdsm, code: int, named: type[Refused]
) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(client.create_task("Image.delete", {"imageID": "i"}))
        first = await peer.asked()
        peer.refuse(first, code, "nothing was executed")
        second = await peer.asked()
        assert second.id != first.id
        assert second.params == first.params
        peer.answer(second, "id")
        assert await call == "id"
        call = asyncio.create_task(client.create_task("Image.delete", {}, timeout=0.05))
        peer.refuse(await peer.asked(), code, "nothing was executed")
        with pytest.raises(named):
            await call


@pytest.mark.parametrize("code", [309, 401, 654, 851, 100])
async def test_no_other_refusal_is_retried(vdsm: ScriptedVdsm, code: int) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(client.create_task("Image.delete", {}))
        peer.refuse(await peer.asked(), code, "no")
        with pytest.raises(Refused):
            await call


async def test_an_answer_of_the_wrong_shape_is_a_bad_answer_which_is_unknown(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm) as (client, peer):
        for result in (None, True, "", [], {}):
            call = asyncio.create_task(client.create_task("Image.delete", {}))
            peer.answer(await peer.asked(), result)
            with pytest.raises(BadAnswer, match="a task id"):
                await call
        for body in ("{}", '{"error": 5}', '{"error": {"code": "x"}}', '{"error": {"code": true}}'):
            call = asyncio.create_task(client.host.ping())
            asked = await peer.asked()
            text = json.dumps({"jsonrpc": "2.0", "id": asked.id} | json.loads(body))
            peer.send(peer.message(text.encode()))
            with pytest.raises(BadAnswer):
                await call
        assert client.state.connects == 1
        assert issubclass(BadAnswer, Unknown)


async def test_errors_without_id_and_foreign_answers_concern_nobody(vdsm: ScriptedVdsm) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(client.call("X.y"))
        asked = await peer.asked()
        common = "jms.topic.vdsm_responses"
        error = b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "no"}}'
        peer.send(peer.message(error, common))
        peer.send(peer.message(b"not JSON, but meant for somebody else", common))
        peer.answer("someone-elses-id", 5)
        peer.send(peer.message(b'{"jsonrpc": "2.0", "method": "|virt|VM_status|x", "params": {}}'))
        await asyncio.sleep(0.05)
        assert not call.done()
        peer.answer(asked, "mine")
        assert await call == "mine"


async def test_a_body_that_is_not_json_rpc_ends_the_connection_in_a_named_error(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(outcome(client.host.ping()))
        await peer.asked()
        peer.send(peer.message(b"[1, 2"))
        assert isinstance(await call, Unknown)
        await vdsm.welcome()
        assert isinstance(client.state.last_error, ProtocolViolation)


async def test_an_error_frame_leaves_the_connection_usable(vdsm: ScriptedVdsm) -> None:
    async with connected(vdsm) as (client, peer):
        await peer.write(b"ERROR\ncontent-length:26\n\nSubscription not available\0")
        call = asyncio.create_task(client.host.ping())
        peer.answer(await peer.asked(), True)
        await call


async def test_the_listing_is_available_as_it_came_and_parsed(vdsm: ScriptedVdsm) -> None:
    entry = {"taskID": "t1", "taskState": "finished", "taskResult": "success", "code": 0}
    listing = {"t1": entry | {"message": "1 jobs completed successfully"}, "t2": entry}
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(client.host.get_all_tasks_statuses())
        peer.answer(await peer.asked(), listing)
        statuses = await call
        assert statuses.raw == json.dumps(listing)
        assert statuses.for_jsonb() == statuses.raw
        # t2 has no message: left out, and t1 is not lost with it
        wanted = TaskStatus("t1", "finished", "success", 0, "1 jobs completed successfully")
        assert statuses.parse() == {"t1": wanted}
        call = asyncio.create_task(client.host.get_all_tasks_statuses())
        peer.answer(await peer.asked(), [])
        with pytest.raises(BadAnswer):
            await call


async def test_characters_that_jsonb_cannot_hold_are_replaced_and_nothing_else(
    vdsm: ScriptedVdsm,
) -> None:
    messages = {
        "a \udcff b": "a \ufffd b",
        "nul \0 here": "nul \ufffd here",
        "pair \U0001f600": "pair \U0001f600",
        "not an escape \\u0000 \\udc00": "not an escape \\u0000 \\udc00",
        "high \ud800 alone": "high \ufffd alone",
    }
    async with connected(vdsm) as (client, peer):
        for message, wanted in messages.items():
            entry = {"taskID": "t", "taskState": "running", "taskResult": "", "code": 0}
            call = asyncio.create_task(client.host.get_all_tasks_statuses())
            peer.answer(await peer.asked(), {"t": entry | {"message": message}})
            assert json.loads((await call).for_jsonb())["t"]["message"] == wanted


async def test_typed_verbs_send_the_parameters_that_vdsm_accepts(vdsm: ScriptedVdsm) -> None:
    spm = {"spmStatus": "SPM", "spmLver": 3, "spmId": 1}
    volumes = HibernationVolumes("sd", "sp", "mi", "mv", "ci", "cv")
    expected: list[tuple[Any, str, dict[str, Any], Any, Any]] = []
    async with connected(vdsm) as (client, peer):
        expected = [
            (client.host.ping(), "Host.ping2", {}, True, None),
            (client.host.get_all_tasks_info(), "Host.getAllTasksInfo", {}, {}, {}),
            (client.task.stop("t"), "Task.stop", {"taskID": "t"}, True, None),
            (client.task.revert("t"), "Task.revert", {"taskID": "t"}, True, None),
            (client.task.clear("t"), "Task.clear", {"taskID": "t"}, True, None),
            (
                client.pool.get_spm_status("p"),
                "StoragePool.getSpmStatus",
                {"storagepoolID": "p"},
                spm,
                SpmStatus("SPM", 3, 1),
            ),
            (client.pool.spm_stop("p"), "StoragePool.spmStop", {"storagepoolID": "p"}, True, None),
            (
                client.image.delete("i", pool_id="p", domain_id="d"),
                "Image.delete",
                {
                    "imageID": "i",
                    "storagepoolID": "p",
                    "storagedomainID": "d",
                    "postZero": "false",
                    "discard": False,
                    "force": "false",
                },
                "id",
                "id",
            ),
            (
                client.vm.hibernate("v", volumes),
                "VM.hibernate",
                {"vmID": "v", "hibernationVolHandle": "sd,sp,mi,mv,ci,cv"},
                True,
                None,
            ),
        ]
        for call, method, params, result, returned in expected:
            task = asyncio.ensure_future(call)
            asked = await peer.asked()
            assert (asked.method, asked.params) == (method, params)
            peer.answer(asked, result)
            assert await task == returned


async def test_parameters_that_json_cannot_hold_are_a_value_error_before_anything_is_sent(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm) as (client, peer):
        with pytest.raises(ValueError, match=r"X\.y: params"):
            await client.call("X.y", {"n": float("nan")})
        with pytest.raises(ValueError, match="method"):
            await client.call("")
        ping = asyncio.create_task(client.host.ping())
        peer.answer(await peer.asked(), True)
        await ping


async def test_closing_the_client_ends_everything_and_later_calls_are_not_sent(
    vdsm: ScriptedVdsm,
) -> None:
    async with connected(vdsm) as (client, peer):
        call = asyncio.create_task(outcome(client.host.ping()))
        await peer.asked()
        await client.close()
        ended = await call
        assert isinstance(ended, Unknown)
        assert await ended.wait(10) is None
        assert isinstance(await outcome(client.host.ping()), NotSent)
        await client.close()


async def test_a_silent_host_is_given_up_when_it_breaks_its_promise(vdsm: ScriptedVdsm) -> None:
    settings = ClientSettings(connection=ConnectionSettings(beat_tolerance=1.5))
    async with VdsmClient(vdsm.address, settings=settings) as client:
        peer = await vdsm.welcome("1000,0")
        ended = await outcome(client.host.ping())
        assert isinstance(ended, Unknown)
        assert isinstance(ended.__cause__, PeerSilent)
        await peer.closed()
