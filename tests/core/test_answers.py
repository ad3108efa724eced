"""What an answer with status 200 really is."""

import pytest

from pyworker.core.answers import error_inside, first_line, kind_of
from pyworker.core.redact import MAX_EXCERPT


@pytest.mark.parametrize(
    "content",
    [
        b'data: {"choices":[]}\n\ndata: {"error":{"code":500,"message":"x"}}\n\n',
        b'data: {"error": {"message": "EngineCore encountered an issue."}}\n\ndata: [DONE]\n\n',
        b'data:{"error":"Request failed during generation","error_type":"generation"}\n\n',
        b'{"error":{"message":"Loading model","code":503}}',
        b'{ "error" : "model not found" }',
    ],
    ids=["llama_cpp", "vllm", "tgi", "object", "spaces"],
)
def test_an_error_inside_is_told(content: bytes) -> None:
    assert '"error"' in error_inside(content)


@pytest.mark.parametrize(
    "content",
    [
        b'{"id":"x","error":null,"output":[]}',
        b'{"error":null,"result":1}',
        b'data: {"error": null, "done": true}\n\n',
        b'{"error":"","result":1}',
        b'data: {"choices":[{"delta":{"content":"{\\"error\\":1}"}}]}\n\n',
        b"",
    ],
    ids=["openai_responses", "null", "spaced_null", "empty", "quoted_by_the_model", "nothing"],
)
def test_what_is_no_error_is_not_taken_for_one(content: bytes) -> None:
    assert error_inside(content) == ""


def test_first_line() -> None:
    assert first_line(b"\n\n  out of memory \nmore") == "out of memory"
    assert len(first_line(b"x " * 10_000)) == MAX_EXCERPT
    assert first_line(b'{"api_key": "abc"}') == '{"api_key": "***"}'


def test_kind() -> None:
    assert kind_of("Text/Event-Stream; charset=utf-8") == "text/event-stream"
