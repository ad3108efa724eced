"""Reading what clients send: auth first, everything else named for what is wrong with it."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.errors import InvalidRequest
from pyworker.core.wire import (
    DeleteRequests,
    EndedRequest,
    Grant,
    SessionCall,
    SessionRequest,
    WorkerStatus,
    canonical,
    decode_payload,
    encode,
    encode_payload,
    good_envelope,
    on_close_body,
    parse_envelope,
    parse_grant_header,
    parse_session_call,
    parse_session_request,
    session_ended,
    session_opened,
    session_told,
    signed_message,
)

AUTH = {
    "signature": "c2ln",
    "cost": "256",
    "endpoint": "my-endpoint",
    "reqnum": 17,
    "request_idx": 4711,
    "url": "http://1.2.3.4:40123",
}


def body(**changes: Any) -> bytes:
    return json.dumps(
        {"auth_data": AUTH, "session_id": None, "payload": {"prompt": "hi"}, **changes}
    ).encode()


def refusal(raw: bytes, *, signed: bool = True) -> dict[str, Any]:
    with pytest.raises(InvalidRequest) as caught:
        parse_envelope(raw, signed=signed).grant(signed=signed)
    assert caught.value.status == 422
    return caught.value.body()


def test_a_whole_envelope() -> None:
    envelope = parse_envelope(body())

    assert envelope.grant() == Grant("http://1.2.3.4:40123", "c2ln", 256.0, "my-endpoint", 17, 4711)
    assert envelope.payload == b'{"prompt": "hi"}'
    assert envelope.session_id is None
    assert envelope.request_idx() == 4711


@pytest.mark.parametrize(
    "raw",
    [
        b'{"n": 123456789012345678901234567890, "f": 1e400, "a": 1, "a": 2}',
        '{"text": "søster 😀"}'.encode(),
        b'{ "spaced" :  [1,2 , 3] }',
    ],
    ids=["numbers_and_duplicates", "utf8", "spaces"],
)
def test_the_payload_is_the_bytes_the_client_wrote(raw: bytes) -> None:
    envelope = parse_envelope(b'{"auth_data": %b, "payload": %b}' % (json.dumps(AUTH).encode(), raw))

    assert envelope.payload == raw


def test_unknown_fields_are_ignored() -> None:
    raw = body(auth_data={**AUTH, "new": [1]}, more={"x": 1})

    assert parse_envelope(raw).grant().request_idx == 4711


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", {"error": "invalid JSON"}),
        (b"{", {"error": "invalid JSON"}),
        (b'{"auth_data": 5, "x', {"error": "invalid JSON"}),
        (b"\xff\xfe", {"error": "invalid JSON"}),
        (b'{"payload": {}} x', {"error": "invalid JSON"}),
        (rb'{"auth_data": {}, "payload": "\ud800"}', {"error": "invalid JSON"}),
        (b"null", {"error": "the body must be one JSON object"}),
        (b"5", {"error": "the body must be one JSON object"}),
        (b"[]", {"error": "the body must be one JSON object"}),
        (b"{}", {"auth_data": "field missing", "payload": "field missing"}),
        (b'{"payload": {}}', {"auth_data": "field missing"}),
        (b'{"auth_data": null, "payload": {}}', {"auth_data": "must be an object"}),
        (b'{"auth_data": {}}', {"auth_data": {"url": "missing parameter", "signature": "missing parameter"}}),
        (
            b'{"auth_data": {"url": 5, "signature": null}}',
            {"auth_data": {"url": "must be a string", "signature": "must be a string"}},
        ),
    ],
)
def test_what_is_refused_before_the_signature(raw: bytes, expected: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_envelope(raw)

    assert caught.value.body() == expected


_ANY = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
)
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "url": st.text(max_size=5) | _ANY,
        "signature": st.text(max_size=5) | _ANY,
        "cost": st.sampled_from(["256", "-1", "x", "1e9", "1e10", 5, 0.5]) | _ANY,
        "endpoint": st.text(max_size=5) | _ANY,
        "reqnum": st.integers(0, 2**64) | _ANY,
        "request_idx": st.integers(-1, 2**64) | _ANY,
        "more": _ANY,
    },
)


@given(_FIELDS, st.sets(st.sampled_from(sorted(AUTH))), st.none() | _ANY, st.booleans())
def test_the_short_way_takes_just_what_the_long_way_finds_good(
    changes: dict[str, Any], missing: set[str], session: Any, has_payload: bool
) -> None:
    auth = {key: value for key, value in {**AUTH, **changes}.items() if key not in missing}
    whole = {"auth_data": auth, "session_id": session, "payload": {"a": [1]}}
    raw = json.dumps(whole if has_payload else {"auth_data": auth}).encode()
    found = good_envelope(raw)
    cost = found.auth_data.good_cost() if found is not None else None
    try:
        envelope = parse_envelope(raw)
        grant = envelope.grant()
    except InvalidRequest:
        assert found is None or cost is None
        return
    if session is not None and has_payload:
        assert found is None
        return
    assert found is not None
    good = found.auth_data
    assert (good.url, good.signature, cost, good.endpoint, good.reqnum, good.request_idx) == (
        grant.url, grant.signature, grant.cost, grant.endpoint, grant.reqnum, grant.request_idx,
    )  # fmt: skip
    assert bytes(found.payload) == envelope.payload


@pytest.mark.parametrize("field", ["reqnum", "request_idx"])
@pytest.mark.parametrize("value", [-1, 2**63, 1.0, True, "1", None])
def test_the_short_way_takes_no_index_that_is_none(field: str, value: Any) -> None:
    assert good_envelope(body()) is not None
    assert good_envelope(body(auth_data={**AUTH, field: value})) is None


def test_deep_nesting_is_refused() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000

    assert refusal(b'{"auth_data": ' + deep + b"}")["error"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("cost", "x", "must be a number, 0 to 1e9"),
        ("cost", -1, "must be a number, 0 to 1e9"),
        ("cost", True, "must be a number, 0 to 1e9"),
        ("cost", [1], "must be a number, 0 to 1e9"),
        ("cost", 1e300, "must be a number, 0 to 1e9"),
        ("cost", "nan", "must be a number, 0 to 1e9"),
        ("cost", "1e999", "must be a number, 0 to 1e9"),
        ("endpoint", 5, "must be a string"),
        ("reqnum", "17", "must be a whole number, 0 or more"),
        ("reqnum", 1.5, "must be a whole number, 0 or more"),
        ("request_idx", {}, "must be a whole number, 0 or more"),
        ("request_idx", True, "must be a whole number, 0 or more"),
        ("request_idx", -1, "must be a whole number, 0 or more"),
        ("request_idx", 2**70, "must be a whole number, 0 or more"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any, expected: str) -> None:
    assert refusal(body(auth_data={**AUTH, field: value})) == {"auth_data": {field: expected}}


def test_everything_wrong_is_named_at_once() -> None:
    raw = json.dumps({"auth_data": {"url": "u", "signature": "s", "cost": "1"}, "session_id": 5}).encode()
    missing = "missing parameter"

    assert refusal(raw) == {
        "auth_data": {"endpoint": missing, "reqnum": missing, "request_idx": missing},
        "payload": "field missing",
        "session_id": "must be a string or null",
    }


@pytest.mark.parametrize(
    ("cost", "expected"),
    [("256", 256.0), (256, 256.0), (0.5, 0.5), ("0", 0.0)],
    ids=["text", "whole", "half", "zero"],
)
def test_cost_comes_as_text_or_number(cost: Any, expected: float) -> None:
    assert parse_envelope(body(auth_data={**AUTH, "cost": cost})).grant().cost == expected


def test_a_cost_too_large_for_a_float_is_refused() -> None:
    raw = body().replace(b'"256"', b"1" + b"0" * 400)

    with pytest.raises(InvalidRequest):
        parse_envelope(raw).grant()


def test_unsecured_needs_only_the_index() -> None:
    raw = body(auth_data={"request_idx": 1, "url": "http://x"})

    assert parse_envelope(raw, signed=False).grant(signed=False) == Grant("http://x", "", 0.0, "", 0, 1)
    assert refusal(body(auth_data={}), signed=False) == {"auth_data": {"request_idx": "missing parameter"}}
    assert refusal(body(auth_data={"request_idx": 1, "reqnum": "x"}), signed=False) == {
        "auth_data": {"reqnum": "must be a whole number, 0 or more"}
    }


def test_an_unusable_index_is_none() -> None:
    assert parse_envelope(body(auth_data={**AUTH, "request_idx": "4711"})).request_idx() is None


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_a_refusal(raw: bytes) -> None:
    try:
        parse_envelope(raw).grant()
    except InvalidRequest as error:
        json.dumps(error.body())


def test_a_grant_in_a_header() -> None:
    envelope = parse_grant_header(base64.b64encode(json.dumps(AUTH).encode()).decode(), None)

    assert envelope.grant().request_idx == 4711


@pytest.mark.parametrize("header", ["", "%%%", "bnVsbA==", "/w==", base64.b64encode(b"[" * 100_000).decode()])
def test_a_bad_grant_header_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_grant_header(header, None)

    assert caught.value.body() == {"auth_data": "X-Auth-Data is not base64 of a JSON object"}


def test_the_signed_text_is_the_reference_s() -> None:
    assert signed_message("http://1.2.3.4:1") == b'{\n    "url": "http://1.2.3.4:1"\n}'


def test_a_payload_goes_through_python_unharmed() -> None:
    value = {"text": "søster", "n": 10**30, "f": 0.1}

    assert decode_payload(encode_payload(value)) == value
    assert "søster".encode() in encode_payload(value)
    with pytest.raises(InvalidRequest):
        decode_payload(b"{")
    with pytest.raises(ValueError, match="JSON"):
        encode_payload({"x": float("inf")})


def test_worker_status_says_every_field_of_the_contract() -> None:
    report = WorkerStatus(
        id=1, mtoken="t", loadtime=0.0, cur_load=1.0, rej_load=2.0, new_load=3.0, max_perf=4.0, cur_perf=5.0,
        num_requests_working=1, num_requests_recieved=2, error_msg="", additional_disk_usage=0.5, disk_usage=9.0,
        working_request_idxs=(7,), url="http://x",
    )  # fmt: skip

    assert json.loads(encode(report)) == {
        "id": 1, "mtoken": "t", "version": "1.1.0", "loadtime": 0.0, "cur_load": 1.0, "rej_load": 2.0, "new_load": 3.0,
        "max_perf": 4.0, "cur_perf": 5.0, "cur_capacity": 0, "max_capacity": 0, "num_requests_working": 1,
        "num_requests_recieved": 2, "error_msg": "", "additional_disk_usage": 0.5, "disk_usage": 9.0,
        "working_request_idxs": [7], "url": "http://x",
    }  # fmt: skip


def test_delete_requests_say_every_field_of_the_contract() -> None:
    end = EndedRequest(
        request_idx=1,
        success=True,
        status="Success",
        entered_queue_at=1.0,
        work_started_at=1.2,
        work_completed_at=3.4,
    )

    assert json.loads(encode(DeleteRequests(worker_id=5, mtoken="t", requests=(end,)))) == {
        "worker_id": 5,
        "mtoken": "t",
        "requests": [
            {
                "request_idx": 1,
                "success": True,
                "status": "Success",
                "entered_queue_at": 1.0,
                "work_started_at": 1.2,
                "work_completed_at": 3.4,
            }
        ],
    }


# Sessions...


def test_the_auth_data_is_kept_whole() -> None:
    envelope = parse_envelope(body(auth_data={**AUTH, "new": [1]}))

    assert envelope.auth_data() == {**AUTH, "new": [1]}
    assert envelope.cost() == 256.0
    assert parse_envelope(body(auth_data={**AUTH, "cost": "x"})).cost() == 0.0
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})


def test_what_a_session_is_opened_with() -> None:
    assert parse_session_request(b"{}") == SessionRequest(60.0, None, None)
    assert parse_session_request(
        b'{"lifetime": 5, "on_close_route": "/x", "on_close_payload": {"a": 1}}'
    ) == (SessionRequest(5.0, "/x", {"a": 1}))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{", {"payload": "invalid JSON"}),
        (b"[]", {"payload": "must be one JSON object"}),
        (b'{"lifetime": "60"}', {"payload": {"lifetime": "must be a number of seconds, more than 0"}}),
        (
            b'{"on_close_route": 1, "on_close_payload": 2}',
            {
                "payload": {
                    "on_close_route": "must be a string or null",
                    "on_close_payload": "must be an object or null",
                }
            },
        ),
    ],
    ids=["json", "list", "lifetime", "callback"],
)
def test_a_session_opened_with_nonsense_is_refused(raw: bytes, expected: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_session_request(raw)

    assert caught.value.body() == expected


def test_what_a_session_is_asked_with() -> None:
    assert parse_session_call(b'{"session_id": "a", "session_auth": {"x": 1}}') == SessionCall("a", {"x": 1})
    for raw, expected in (
        (b"{}", {"session_id": "field missing", "session_auth": "field missing"}),
        (b'{"session_id": 5, "session_auth": 1}', {"session_id": "must be a string"}),
    ):
        with pytest.raises(InvalidRequest) as caught:
            parse_session_call(raw)
        assert caught.value.body() == expected


def test_what_sessions_answer() -> None:
    request = SessionRequest(5.0, "/x", {"a": 1})

    assert session_opened("id", 9.0) == {"session_id": "id", "expiration": 9.0}
    assert session_ended("id") == {"ended": True, "removed_session": "id"}
    assert json.loads(on_close_body("id", {"a": 1})) == {"a": 1, "session_id": "id"}
    assert json.loads(on_close_body("id", None)) == {"session_id": "id"}
    assert session_told("id", AUTH, request, expiration=9.0, created_at=4.0) == {
        "session_id": "id",
        "auth_data": AUTH,
        "lifetime": 5.0,
        "expiration": 9.0,
        "created_at": 4.0,
        "on_close_route": "/x",
        "on_close_payload": {"a": 1},
    }


@pytest.mark.parametrize("extra", [b"9" * 5000, b"[" * 100_000 + b"]" * 100_000], ids=["digits", "deep"])
def test_auth_data_that_python_cannot_hold_is_refused_when_it_is_wanted(extra: bytes) -> None:
    raw = b'{"auth_data": {"url": "u", "signature": "s", "extra": %b}, "payload": {}}' % extra
    try:
        envelope = parse_envelope(raw)
    except InvalidRequest:
        return
    with pytest.raises(InvalidRequest) as caught:
        envelope.auth_data()

    assert caught.value.body() == {"auth_data": "invalid JSON"}


def test_what_is_too_deep_to_be_compared_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest):
        canonical(deep)
    while deep:  # else its own end is too deep, too
        deep = deep.pop()


@pytest.mark.parametrize(
    "raw",
    [b"NaN", b'{"a": Infinity}', b"[-Infinity]", b'"\xed\xa0\x80"', "{}".encode("utf-16"), b"\xef\xbb\xbf{}"],
)
def test_what_only_python_calls_json_is_none(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_payload(raw)


def test_half_a_surrogate_pair_survives_a_handler() -> None:
    raw = b'{"a":"\\ud800"}'

    assert encode_payload(decode_payload(raw)) == raw


def test_a_session_may_not_end_with_what_cannot_be_sent() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_session_request(b'{"on_close_payload": {"a": "\\ud800"}}')

    assert list(caught.value.body()["payload"]) == ["on_close_payload"]
