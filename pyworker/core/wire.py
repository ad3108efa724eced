"""The only file that knows a JSON field name, both directions.

Names on the wire stay as they are, odd spellings included (``num_requests_recieved``).
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from pyworker.core.errors import InvalidRequest

PROTOCOL_VERSION: Final = "1.1.0"
"""What the engine compares; it treats an unknown one as an error. Not our release number."""

STATUS_PATH: Final = "/worker_status/"
DELETE_PATH: Final = "/delete_requests/"
PUBKEY_PATH: Final = "/pubkey/"
GRANT_HEADER: Final = "X-Auth-Data"
SESSION_HEADER: Final = "X-Session-Id"

MAX_COST: Final = 1e9
"""Largest ``cost`` of a grant. It is not signed, and feeds the same sums as loads do."""

DEFAULT_SESSION_LIFETIME: Final = 60.0
_MISSING: Final = "missing parameter"


# What a client sends...


class _Auth(msgspec.Struct):
    """``auth_data`` before anything but ``url`` and ``signature`` is looked at."""

    url: Any = msgspec.UNSET
    signature: Any = msgspec.UNSET
    cost: Any = msgspec.UNSET
    endpoint: Any = msgspec.UNSET
    reqnum: Any = msgspec.UNSET
    request_idx: Any = msgspec.UNSET


class _Envelope(msgspec.Struct):
    auth_data: msgspec.Raw
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    session_id: Any = None


class Grant(msgspec.Struct, frozen=True):
    """What the engine allowed: one request (or more) of ``cost`` load on the worker at ``url``."""

    url: str
    signature: str
    cost: float
    endpoint: str
    reqnum: int
    request_idx: int


class Envelope:
    """A client's request with its payload kept as the bytes it came in.

    Until the signature holds only `url` and `signature` may be used; then `grant` checks the rest.
    """

    __slots__ = ("_auth", "_auth_raw", "payload", "session_id", "signature", "url")

    def __init__(self, auth: _Auth, auth_raw: bytes, payload: bytes | None, session_id: Any) -> None:
        self._auth = auth
        self._auth_raw = auth_raw
        self.payload = payload
        self.session_id = session_id
        self.url: str = auth.url if isinstance(auth.url, str) else ""
        self.signature: str = auth.signature if isinstance(auth.signature, str) else ""

    def auth_data(self) -> dict[str, Any]:
        """The whole ``auth_data`` as the client sent it: what a session is compared by. Raises `InvalidRequest`."""
        try:
            found: dict[str, Any] = _loads(self._auth_raw)
        except (ValueError, RecursionError) as error:  # a number of 5000 digits, a thousand brackets
            raise InvalidRequest({"auth_data": "invalid JSON"}) from error
        return found

    def request_idx(self) -> int | None:
        """The index the engine knows the request by, if it is one."""
        index = self._auth.request_idx
        return index if _is_index(index) else None

    def cost(self) -> float:
        """The load the engine was told, 0 where that is no number."""
        return _number(self._auth.cost) or 0.0

    def grant(self, *, signed: bool = True) -> Grant:
        """The checked grant; with ``signed`` false (UNSECURED) missing fields get defaults.

        Raises `InvalidRequest` with one entry for each field that is missing or wrong.
        """
        auth = self._auth
        cost = _number(auth.cost)
        good = cost is not None and isinstance(auth.endpoint, str) and _is_index(auth.reqnum)
        if not good or not _is_index(auth.request_idx) or self.payload is None or self.session_id is not None:
            self._require(cost, signed=signed)
        return Grant(
            self.url,
            self.signature,
            cost or 0.0,
            auth.endpoint if isinstance(auth.endpoint, str) else "",
            auth.reqnum if _is_index(auth.reqnum) else 0,
            auth.request_idx,
        )

    def _require(self, cost: float | None, *, signed: bool) -> None:
        """Raises `InvalidRequest` unless all fields are good."""
        auth = self._auth
        wrong: dict[str, str] = {}
        if signed or auth.cost is not msgspec.UNSET:
            _note(wrong, "cost", auth.cost, cost is not None, "a number, 0 to 1e9")
        if signed or auth.endpoint is not msgspec.UNSET:
            _note(wrong, "endpoint", auth.endpoint, isinstance(auth.endpoint, str), "a string")
        if signed or auth.reqnum is not msgspec.UNSET:
            _note(wrong, "reqnum", auth.reqnum, _is_index(auth.reqnum), "a whole number, 0 or more")
        _note(
            wrong, "request_idx", auth.request_idx, _is_index(auth.request_idx), "a whole number, 0 or more"
        )
        problems: dict[str, Any] = {"auth_data": wrong} if wrong else {}
        if self.payload is None:
            problems["payload"] = "field missing"
        if self.session_id is not None and not isinstance(self.session_id, str):
            problems["session_id"] = "must be a string or null"
        if problems:
            raise InvalidRequest(problems)


_Index = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class GoodAuth(msgspec.Struct, gc=False):
    """An ``auth_data`` of which every field is as it must be, except for what `good_cost` has to look at."""

    url: str
    signature: str
    cost: str | float
    endpoint: str
    reqnum: _Index
    request_idx: _Index

    def good_cost(self) -> float | None:
        """The load the engine was told; None where that is no cost."""
        return _number(self.cost)


class GoodEnvelope(msgspec.Struct, gc=False):
    """A signed request outside of sessions of which every field is as it must be; ``payload`` is raw JSON."""

    auth_data: GoodAuth
    payload: msgspec.Raw
    session_id: None = None


_good_envelope_decoder = msgspec.json.Decoder(GoodEnvelope)


def good_envelope(body: bytes) -> GoodEnvelope | None:
    """Read a request body, if nothing about it is unusual; None: `parse_envelope` knows what it is."""
    try:
        return _good_envelope_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


_envelope_decoder = msgspec.json.Decoder(_Envelope)
_auth_decoder = msgspec.json.Decoder(_Auth)


def parse_envelope(body: bytes, *, signed: bool = True) -> Envelope:
    """Read a request body in one pass; the payload stays raw.

    Raises `InvalidRequest` for what is not JSON, not an object, or has no usable ``auth_data``
    (with ``signed``: no string ``url`` and ``signature`` in it).
    """
    try:
        parsed = _envelope_decoder.decode(body)
        auth = _auth_decoder.decode(parsed.auth_data)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidRequest(_why_no_envelope(body)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest({"error": "invalid JSON"}) from error
    payload = None if parsed.payload is msgspec.UNSET else bytes(parsed.payload)
    return _checked(Envelope(auth, bytes(parsed.auth_data), payload, parsed.session_id), auth, signed=signed)


def parse_grant_header(header: str, session_id: str | None, *, signed: bool = True) -> Envelope:
    """Read the grant of an ``X-Auth-Data`` header: base64 of the JSON ``auth_data``; the body is the payload.

    Raises `InvalidRequest` as `parse_envelope` does.
    """
    try:
        raw = base64.b64decode(header, validate=True)
        auth = _auth_decoder.decode(raw)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidRequest({"auth_data": f"{GRANT_HEADER} is not base64 of a JSON object"}) from error
    return _checked(Envelope(auth, raw, b"", session_id), auth, signed=signed)


def _checked(envelope: Envelope, auth: _Auth, *, signed: bool) -> Envelope:
    wrong: dict[str, str] = {}
    for name, value in (("url", auth.url), ("signature", auth.signature)):
        if signed or value is not msgspec.UNSET:
            _note(wrong, name, value, isinstance(value, str), "a string")
    if wrong:
        raise InvalidRequest({"auth_data": wrong})
    return envelope


def _why_no_envelope(body: bytes) -> dict[str, Any]:
    """Name what `_Envelope` could not be read from."""
    try:
        parsed = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.ValidationError, RecursionError):
        return {"error": "the body must be one JSON object"}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"error": "invalid JSON"}
    if "auth_data" not in parsed:
        missing = {"auth_data": "field missing"}
        return missing if "payload" in parsed else {**missing, "payload": "field missing"}
    return {"auth_data": "must be an object"}


def _note(wrong: dict[str, str], name: str, value: Any, good: bool, wanted: str) -> None:  # noqa: FBT001 - internal
    if value is msgspec.UNSET:
        wrong[name] = _MISSING
    elif not good:
        wrong[name] = f"must be {wanted}"


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _number(value: Any) -> float | None:
    """A cost: it arrives as a string or a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number <= MAX_COST else None


def decode_payload(raw: bytes) -> Any:
    """The payload as Python values, for a handler that wants to look at it. Raises `InvalidRequest`."""
    try:
        return _loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest({"payload": "invalid JSON"}) from error


def _loads(raw: bytes) -> Any:
    """What JSON says. Raises ValueError, RecursionError; also for what Python alone calls JSON: NaN, other than UTF-8."""
    return json.loads(raw.decode(), parse_constant=_no_number)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def encode(value: Any) -> bytes:
    """JSON bytes of plain values and wire structs."""
    return msgspec.json.encode(value)


def encode_payload(value: Any) -> bytes:
    """JSON bytes of a payload a handler changed: like `encode`, but numbers JSON has no word for raise ValueError."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: JSON can say it, UTF-8 cannot
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def canonical(value: Any) -> bytes:
    """One spelling of a JSON value, for comparing two of them whole. Raises `InvalidRequest` for one too deep to be written."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError as error:
        raise InvalidRequest({"session_auth": "nested too deeply"}) from error


# Sessions...


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """The payload of /session/create. ``lifetime`` in seconds."""

    lifetime: float
    on_close_route: str | None
    on_close_payload: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class SessionCall:
    """The body of /session/get, /session/health and /session/end."""

    session_id: str
    session_auth: Any


def parse_session_request(raw: bytes) -> SessionRequest:
    """Read the payload of a session to be opened. Raises `InvalidRequest`."""
    payload = _object(raw, "payload")
    lifetime = payload.get("lifetime", DEFAULT_SESSION_LIFETIME)
    route = payload.get("on_close_route")
    on_close = payload.get("on_close_payload")
    wrong = {}
    if isinstance(lifetime, str) or (_number(lifetime) or 0) <= 0:
        wrong["lifetime"] = "must be a number of seconds, more than 0"
    if not (route is None or isinstance(route, str)):
        wrong["on_close_route"] = "must be a string or null"
    if not (on_close is None or isinstance(on_close, dict)):
        wrong["on_close_payload"] = "must be an object or null"
    elif not _can_be_sent(on_close):
        wrong["on_close_payload"] = "has text that is not Unicode, or is nested too deeply"
    if wrong:
        raise InvalidRequest({"payload": wrong})
    return SessionRequest(float(lifetime), route or None, on_close)


def _can_be_sent(on_close: dict[str, Any] | None) -> bool:
    """What cannot be told to a model server at close must be refused at the start."""
    try:
        on_close_body("", on_close)
    except (ValueError, RecursionError):
        return False
    return True


def parse_session_call(raw: bytes) -> SessionCall:
    """Read what a session is asked with. Raises `InvalidRequest`."""
    body = _object(raw, "error")
    wrong = {}
    if not isinstance(body.get("session_id"), str):
        wrong["session_id"] = "must be a string" if "session_id" in body else "field missing"
    if "session_auth" not in body:
        wrong["session_auth"] = "field missing"
    if wrong:
        raise InvalidRequest(wrong)
    return SessionCall(body["session_id"], body["session_auth"])


def session_opened(session_id: str, expiration: float) -> dict[str, Any]:
    """Answer of /session/create; ``expiration`` in Unix seconds."""
    return {"session_id": session_id, "expiration": expiration}


def session_told(
    session_id: str, auth_data: Any, request: SessionRequest, *, expiration: float, created_at: float
) -> dict[str, Any]:
    """Answer of /session/get; times in Unix seconds."""
    return {
        "session_id": session_id,
        "auth_data": auth_data,
        "lifetime": request.lifetime,
        "expiration": expiration,
        "created_at": created_at,
        "on_close_route": request.on_close_route,
        "on_close_payload": request.on_close_payload,
    }


def session_ended(session_id: str) -> dict[str, Any]:
    """Answer of /session/end."""
    return {"ended": True, "removed_session": session_id}


def on_close_body(session_id: str, payload: dict[str, Any] | None) -> bytes:
    """What ``on_close_route`` is POSTed."""
    return encode({**(payload or {}), "session_id": session_id})


def _object(raw: bytes, name: str) -> dict[str, Any]:
    try:
        found = _loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest({name: "invalid JSON"}) from error
    if not isinstance(found, dict):
        raise InvalidRequest({name: "must be one JSON object"})
    return found


# What the signature covers...


def signed_message(url: str) -> bytes:
    """The text under a grant's signature: the URL alone, so it is the same for every request to one worker."""
    return json.dumps({"url": url}, indent=4, sort_keys=True).encode()


# What the worker tells the engine...


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST `STATUS_PATH`. Units: load, load per second (perf), GiB, seconds."""

    id: int
    mtoken: str
    loadtime: float
    cur_load: float
    rej_load: float
    new_load: float
    max_perf: float
    cur_perf: float
    num_requests_working: int
    num_requests_recieved: int
    error_msg: str
    additional_disk_usage: float
    disk_usage: float
    working_request_idxs: tuple[int, ...]
    url: str
    version: str = PROTOCOL_VERSION
    cur_capacity: float = 0
    max_capacity: float = 0


class EndedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `DeleteRequests`. Times are Unix seconds, 0 where never reached."""

    request_idx: int
    success: bool
    status: str
    entered_queue_at: float
    work_started_at: float
    work_completed_at: float


class DeleteRequests(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST `DELETE_PATH`: requests that ended."""

    worker_id: int
    mtoken: str
    requests: tuple[EndedRequest, ...]


# What the engine says, as the local engine and clients of ours read and write it...


class RouteRequest(msgspec.Struct, kw_only=True):
    """Body of POST /route/."""

    endpoint: str
    api_key: str = ""
    cost: float | str = 100.0
    request_idx: int | None = None
    replay_timeout: float | None = None


class RouteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of /route/ when a worker is free: the ``auth_data`` of the request to come."""

    url: str
    request_idx: int
    reqnum: int
    signature: str
    cost: str
    endpoint: str


class RouteWaiting(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of /route/ when no worker is free: no ``url`` key at all."""

    request_idx: int
    status: str
