"""The most likely cause in a log, by lines that real model servers write."""

import pytest

from pyworker.core.causes import cause
from pyworker.core.redact import MAX_EXCERPT

LINES = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "too little memory"),
    ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "too little memory"),
    ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "HF_TOKEN"),
    ("OSError: [Errno 28] No space left on device", "disk is full"),
    ("E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 18080", "port is taken"),
    ("OSError: [Errno 98] Address already in use", "port is taken"),
    ("huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'", "no such model"),
    ("E gguf_init_from_file: failed to open GGUF file '/x.gguf' (No such file or directory)", "a file it needs"),
    ("tensor 'token_embd.weight' data is not within the file bounds, model is corrupted or incomplete", "damaged"),
    ("requests.exceptions.ConnectionError: Max retries exceeded with url: /api/models", "cannot be reached"),
    ("RuntimeError: The NVIDIA driver on your system is too old", "the driver"),
    ("error: invalid argument: --nosuch", "an option it does not know"),
    ("ModuleNotFoundError: No module named 'torchvision'", "a module is missing"),
    ("Memory cgroup out of memory: Killed process 123 (python)", "RAM"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words"), LINES)
def test_a_known_trouble_has_words(line: str, words: str) -> None:
    found = cause(["loading", line, "RuntimeError: Engine core initialization failed. See root cause above."])

    assert found is not None
    assert words in found.words
    assert found.line == line


def test_what_only_sounds_like_trouble_is_quoted() -> None:
    found = cause(["Exception: first", "ValueError: second " + "xx " * 200, "bye"])

    assert found is not None
    assert str(found).startswith("its log tells of an error (log: ValueError: second xx")
    assert len(found.line) == MAX_EXCERPT


def test_what_is_quoted_has_no_secret() -> None:
    found = cause(["401 Client Error for url: https://hub/api?token=abcdefg, HF_TOKEN=hf_abcdefgh12345678"])

    assert found is not None
    assert found.line == "401 Client Error for url: https://hub/api?token=***, HF_TOKEN=***"


def test_no_trouble_no_cause() -> None:
    assert cause(["INFO loading", "0 warnings, all terrific"]) is None
    assert cause([]) is None
