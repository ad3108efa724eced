"""One family of refusals, each with the HTTP status its client gets.

Whatever ends a request early is raised as a `Refusal`; the layer that answers needs no second table.
"""

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """A request that gets an error of ours instead of the model server's answer.

    ``retry_after`` (seconds) becomes the header of that name; ``headers`` are sent besides.
    """

    status = 500

    def __init__(
        self, reason: str, *, retry_after: float | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object the client gets."""
        return {"error": self.reason}


class BadSignature(Refusal):
    """The grant's signature is false, or was given for another worker."""

    status = 401


class NotByThisKey(BadSignature):
    """The signature could be one for our URL, but by another key than the engine's as we know it."""


class WrongToken(Refusal):
    """The master token is missing or wrong."""

    status = 401


class Forbidden(Refusal):
    """Asked by a page in a browser, which has no business here."""

    status = 403


class NoSuchRoute(Refusal):
    status = 404


class WrongMethod(Refusal):
    status = 405


class TooSlow(Refusal):
    """The client took too long to send what it announced."""

    status = 408


class InvalidSession(Refusal):
    status = 410

    def __init__(self) -> None:
        super().__init__("invalid session")


class TooLarge(Refusal):
    status = 413


class BadHttp(Refusal):
    """A request, or the framing of its body, is not HTTP as it is spoken here."""

    status = 400


class UnsupportedBody(Refusal):
    status = 415


class InvalidRequest(Refusal):
    """Fields missing or wrong: one entry a field, as protocol.md words it."""

    status = 422

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(str(fields.get("error", "invalid fields: " + ", ".join(sorted(fields)))))
        self.fields = dict(fields)

    def body(self) -> dict[str, Any]:
        return self.fields


class QueueFull(Refusal):
    """The wait would be, or was, longer than the handler allows."""

    status = 429


class HandlerFailed(Refusal):
    """The handler's own code raised."""

    status = 500


class ModelUnreachable(Refusal):
    """The model server refused, or broke off before it answered."""

    status = 502


class NoSuchSession(Refusal):
    """Asked about by id, it is not open: the session routes' answer (a request inside one gets `InvalidSession`)."""

    status = 400


class TooManySessions(Refusal):
    status = 429


class NotReady(Refusal):
    """Still loading, errored, or draining."""

    status = 503


class ModelTimeout(Refusal):
    """One of the model server's clocks ran out before it answered."""

    status = 504


class AnswerBroken(Exception):
    """The model server's answer ended before its end. Its head is gone to the client already, or may be."""


class AnswerTimeout(AnswerBroken):
    """One of the model server's clocks ran out before the end of its answer."""


class JsonDataException(Exception):
    """Raised by a handler's ``request_parser`` (or payload class) for a bad payload: ``{field: what is wrong}``."""

    def __init__(self, json_msg: Any) -> None:
        super().__init__(json_msg)
        self.message = json_msg
