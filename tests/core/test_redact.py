"""No secret is quoted, whatever a model server writes; and what is no secret stays readable."""

import base64
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pyworker.core.redact import MAX_EXCERPT, WINDOW, excerpt

SECRET = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8, max_size=40)
PLANTS: list[Callable[[str], str]] = [
    "Authorization: Bearer {}".format,
    "authorization: {}".format,
    "{{'Authorization': 'Basic {}', 'Host': 'x'}}".format,
    "(b'authorization', b'Bearer {}')".format,
    "Cookie: sid={}; theme=dark".format,
    "GET /v1/models?api_key={}&limit=1".format,
    "token={}".format,
    "HF_TOKEN={} MODEL=x".format,
    "--api-key {} --port 80".format,
    "'api_key': ['{}', 'other'],".format,
    '{{"password": "{}"}}'.format,
    '{{"password": "a\\"{}"}}'.format,
    '{{\\"client_secret\\": \\"{}\\"}}'.format,
    "postgres://user:{}@db:5432/x".format,
    "https://{}@github.com/x".format,
    "bearer {}".format,
    "hf_1{}".format,
    "sk-proj-1{}".format,
    "AKIA{:0<16}".format,
    "eyJhbGciOi.{}.sig".format,
    "-----BEGIN RSA PRIVATE KEY-----\\n{}\\n-----END RSA PRIVATE KEY-----".format,
    "-----BEGIN OPENSSH PRIVATE KEY-----\n{}".format,
    "X-Amz-Signature={}".format,
    "session_id={}".format,
    "mtoken: {}".format,
]
AROUND = st.text(st.characters(codec="utf-8", exclude_characters="\x1b"), max_size=30)


@given(SECRET, st.sampled_from(PLANTS), AROUND, AROUND)
def test_no_planted_secret_is_quoted(
    secret: str, plant: Callable[[str], str], before: str, after: str
) -> None:
    assume(secret not in before + after)

    assert secret not in excerpt(f"{before} {plant(secret)} {after}", most=1000)


@given(st.binary(min_size=24, max_size=64))
def test_no_long_key_is_quoted_whatever_its_name(key: bytes) -> None:
    for spelled in (key.hex(), base64.b64encode(key).decode().replace("/", "x").replace("+", "y")):
        assert spelled not in excerpt(f"got {spelled} from it")


def test_hardly_a_key_with_marks_in_it_passes_for_a_path() -> None:
    draw = random.Random(1)  # noqa: S311 - the same keys every time
    keys = [base64.urlsafe_b64encode(draw.randbytes(32)).decode().rstrip("=") for _ in range(2000)]

    assert sum(key in excerpt(f"got {key}") for key in keys) < 20


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "No such file: /root/.cache/huggingface/hub/models--meta-llama--Llama-3.1-8B-Instruct/blobs",
        "loading /workspace/models/Qwen2-5-72B-Instruct-GPTQ-Int4-128g/model-00001-of-00037",
        "failed: DeepSeek-R1-0528-Qwen3-8B-UD-Q4_K_XL.gguf (Qwen2ForCausalLM/Qwen2ForCausalLM)",
        "print_info: EOS token = 2 '<|im_end|>'",
        "Prefill batch. #new-token: 32, #cached-token: 0, token usage: 0.5",
        "max_num_batched_tokens=2048 per-token latency: 5 ms",
        "basic authentication, hf_hub_download, risk-free, tokenizer: fast",
        "================================================",
        "ready 💡 日本語",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(line: str) -> None:
    assert excerpt(line) == line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("GET /x?api_key=abc&model=m HTTP/1.1", "GET /x?api_key=***&model=m HTTP/1.1"),
        ("{'Authorization': 'Bearer abc', 'Host': 'h'}", "{'Authorization': '***', 'Host': 'h'}"),
        ("Namespace(api_key=abcd, host=1)", "Namespace(api_key=***, host=1)"),
        ('"auth": {"user": "x", "password": "y"}', '"auth": {"user": "x", "password": "*"}'),
        ("snapshots/12fd25f77366fa6b3b4b768ec3050bf629380bac/x", "snapshots/***/x"),
        ("https://u:p@host/x", "https://***@host/x"),
        ("\x1b[31mError:\x1b[0m  out\tof \x07memory\x9b\x1b]0;title\x07!", "Error: out of memory!"),
        ("a\u202eb\ud800c\u200bd", "abcd"),
        ("two\nlines", "two lines"),
    ],
)
def test_how_it_is_shown(line: str, shown: str) -> None:
    assert excerpt(line) == shown


@given(st.text() | st.text("=:\"'\\ *.token&@/[]{},;-…", max_size=300), st.integers(1, 300))
def test_it_is_short_one_line_never_longer_and_the_same_again(text: str, most: int) -> None:
    short = excerpt(text, most=most)

    assert len(short) <= min(most, len(text))
    assert short.isprintable() or not short.isascii()
    assert excerpt(short, most=most) == short


def test_of_a_long_line_that_part_is_shown_which_matters() -> None:
    line = "token=secret " + "word " * 300 + "Error: here " + "word " * 300

    assert "Error: here" in excerpt(line, around="Error:")
    assert excerpt(line, around="Error:").startswith("…")
    assert len(excerpt(line, around="Error:")) == MAX_EXCERPT
    assert excerpt(line).startswith("token=*** word")
    assert excerpt(line, around="not there") == excerpt(line)


def test_what_is_cut_off_is_masked_up_to_the_cut() -> None:
    assert excerpt("-----BEGIN A-----secret-----END A-----", most=27) == "-----BEGIN A-----***"


def test_a_word_that_the_window_cuts_is_not_shown() -> None:
    escapes = "\x1b[0m" * 2000

    assert excerpt(escapes + "a" * (WINDOW - len(escapes) - 10) + " hf_1234567890abcdef").endswith("***")
    assert excerpt("x" * WINDOW * 2) == "***"


@pytest.mark.parametrize(
    "part",
    ["x", " ", "\\", "eyJ", "token=", 'password="', "password=\\\\", "\x1b[", "\x1b]", "://", " --", "sk-", "basic ",
     "authorization: a ", "-----BEGIN A-----", "token=["],
)  # fmt: skip
def test_five_megabytes_of_anything_take_no_time(part: str) -> None:
    text = part * (5_000_000 // len(part))
    began = time.process_time()
    excerpt(text)

    assert time.process_time() - began < 0.1
