"""JSON-RPC bodies: what is written, and generated nonsense that is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyatm.vdsm import jsonrpc
from pyatm.vdsm.errors import MalformedMessageError

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@given(st.text(min_size=1), st.dictionaries(st.text(max_size=5), values, max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_request_is_always_one_object_with_a_text_id(method: str, params: dict) -> None:
    body = json.loads(jsonrpc.request(method, params, "an-id"))
    assert body == {"jsonrpc": "2.0", "method": method, "params": params, "id": "an-id"}


@given(st.binary(max_size=200) | values.map(lambda v: json.dumps(v).encode()))
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_a_message_or_a_malformed_message(body: bytes) -> None:
    try:
        found = jsonrpc.message(body)
    except MalformedMessageError:
        return
    assert isinstance(found, jsonrpc.Answer | jsonrpc.Event)


@given(
    st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0")},
        optional={"id": values, "result": values, "error": values, "method": values},
    )
)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_object_of_any_shape_is_read_as_the_specification_says(fields: dict) -> None:
    try:
        found = jsonrpc.message(json.dumps(fields).encode())
    except MalformedMessageError:
        assert isinstance(fields.get("id"), list | dict) or isinstance(
            fields.get("method"), bool | int | list | dict
        )
        return
    if isinstance(found, jsonrpc.Event):
        assert found.method == fields["method"]
    elif found.code is not None:
        assert fields["error"]["code"] == found.code
    elif found.result is not None:
        assert json.loads(found.result) == fields["result"]
        assert fields.get("error") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"jsonrpc": "1.0", "id": "a", "result": 1}',
        b'{"id": "a", "result": 1}',
        b'{"jsonrpc": "2.0", "id": ["a"], "result": 1}',
        b'{"jsonrpc": "2.0", "result": NaN}',
        b'{"jsonrpc": "2.0", "result": ' + b"[" * 1_000_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_json_rpc_object_is_a_malformed_message(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        jsonrpc.message(body)


def test_a_huge_answer_is_not_taken_apart_to_find_its_id() -> None:
    result = json.dumps({f"{n:036}": {"code": 0, "message": "x" * 100} for n in range(100_000)})
    body = f'{{"jsonrpc": "2.0", "id": "a", "result": {result}}}'.encode()
    found = jsonrpc.message(body)
    assert isinstance(found, jsonrpc.Answer)
    assert found.request_id == "a"
    assert found.result == result.encode()


def test_a_huge_error_text_is_shortened() -> None:
    error = {"code": 1, "message": "x" * 1_000_000}
    found = jsonrpc.message(json.dumps({"jsonrpc": "2.0", "id": "a", "error": error}).encode())
    assert isinstance(found, jsonrpc.Answer)
    assert len(found.message) == jsonrpc.MESSAGE_LIMIT
