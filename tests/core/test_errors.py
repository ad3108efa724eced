"""Refusals: status and body."""

from pyworker.core import errors


def test_a_refusal_is_one_error_string() -> None:
    assert errors.QueueFull("full", retry_after=3.0).body() == {"error": "full"}
    assert errors.InvalidSession().body() == {"error": "invalid session"}


def test_invalid_fields_are_their_own_body() -> None:
    refusal = errors.InvalidRequest({"payload": "field missing"})

    assert refusal.body() == {"payload": "field missing"}
    assert str(refusal) == "invalid fields: payload"


def test_json_data_exception_carries_its_message() -> None:
    assert errors.JsonDataException({"a": "bad"}).message == {"a": "bad"}
