"""When each pattern fires in the logs of model servers: by line, through a real tail of a real file."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from handlers.llama import config as llama
from pyworker.core.causes import cause
from pyworker.core.download_lines import Kind, Reading, reading
from pyworker.core.log_lines import LineScanner, LogEvent
from pyworker.model.log_tail import LogTail
from tests.system import eventually

LOGS = Path(__file__).parents[1] / "fixtures" / "logs"


@dataclass(frozen=True)
class Patterns:
    """What a handler for a model server would look for."""

    loaded: tuple[str, ...]
    failed: tuple[str, ...] = ()
    info: tuple[str, ...] = ()


LLAMA = Patterns(
    tuple(llama.log_action_config.on_load),
    tuple(llama.log_action_config.on_error),
    tuple(llama.log_action_config.on_info),
)
VLLM = Patterns(
    ("Application startup complete.",),
    ("RuntimeError: Engine core initialization failed", "re:ERROR .*Traceback"),
    ("Starting to load model",),
)
TGI = Patterns(
    ('"message":"Connected","target":"text_generation_router',),
    ("Error: WebserverFailed", "Error: DownloadError", "Error: ShardCannotStart"),
    ('"message":"Download',),
)
SGLANG = Patterns(("The server is fired up and ready to roll!",))
COMFYUI = Patterns(("To see the GUI go to: ",), ("MetadataIncompleteBuffer", "OSError: [Errno 98]"))
OLLAMA = Patterns(('re:msg="llama runner started in [0-9.]+ seconds"',), (), ("success",))

FIRES = [
    ("llama_server_ready", LLAMA, [("info", 7), ("loaded", 11), ("info", 12)]),
    ("llama_server_no_file", LLAMA, [("info", 7), *[("failed", line) for line in (9, 10, 11, 13, 14, 15, 16, 18)]]),
    ("llama_server_damaged_file", LLAMA, [("info", 7), *[("failed", line) for line in (8, 9, 10, 11, 12, 13, 14, 16)]]),
    ("llama_server_port_taken", LLAMA, [("failed", 9)]),
    ("llama_server_bad_option", LLAMA, [("failed", 1)]),
    ("xllamacpp_ready", LLAMA, [("info", 5), ("info", 6), ("loaded", 9), ("info", 10)]),
    ("vllm_ready", VLLM, [("info", 3), ("loaded", 13)]),
    ("vllm_broken_weights", VLLM, [("info", 2), ("failed", 4), ("failed", 6)]),
    ("vllm_stopped", VLLM, [("loaded", 1)]),
    ("tgi_ready", TGI, [("info", 1), ("loaded", 5)]),
    ("tgi_shard_failed", TGI, [("failed", 4)]),
    ("sglang_ready", SGLANG, [("loaded", 8)]),
    ("comfyui_ready", COMFYUI, [("loaded", 7)]),
    ("comfyui_port_taken", COMFYUI, [("failed", 5)]),
    ("ollama_ready", OLLAMA, [("info", 6), ("loaded", 7)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "patterns", "expected"), FIRES, ids=[name for name, _, _ in FIRES])
async def test_patterns_fire_at_these_lines(
    tmp_path: Path, name: str, patterns: Patterns, expected: list[tuple[str, int]]
) -> None:
    lines = (LOGS / f"{name}.log").read_bytes().splitlines(keepends=True)
    lines = b"".join(lines).replace(b"\r\n", b"\n").split(b"\n")
    log = tmp_path / "model.log"
    log.touch()
    heard: list[LogEvent] = []
    scanner = LineScanner(loaded=patterns.loaded, failed=patterns.failed, info=patterns.info)
    tail = LogTail(log, scanner=scanner, on_event=heard.append)
    fired: list[tuple[str, int]] = []
    for number, line in enumerate(lines, 1):  # as the server wrote it: line by line
        with log.open("ab") as file:
            file.write(line + b"\n")
        await tail.look()
        fired += [(event.mark.name.lower(), number) for event in heard]
        heard.clear()

    assert fired == expected


async def test_every_log_is_held_against_something() -> None:
    named = {name for name, _, _ in FIRES} | {"huggingface_download"}

    assert {path.stem for path in LOGS.glob("*.log")} == named


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama_server_no_file", "a file it needs is not there"),
        ("llama_server_damaged_file", "a model file is damaged"),
        ("llama_server_port_taken", "its port is taken"),
        ("llama_server_bad_option", "its command line has an option"),
        ("vllm_broken_weights", "a model file is damaged"),
        ("tgi_shard_failed", "the GPU has too little memory"),
        ("comfyui_port_taken", "its port is taken"),
    ],
)
def test_the_cause_of_a_failure_is_found(name: str, words: str) -> None:
    found = cause((LOGS / f"{name}.log").read_text().splitlines())

    assert found is not None
    assert found.words.startswith(words)


@pytest.mark.parametrize(
    "name", ["llama_server_ready", "xllamacpp_ready", "vllm_ready", "tgi_ready", "sglang_ready"]
)
def test_a_server_that_came_up_has_no_cause(name: str) -> None:
    assert cause((LOGS / f"{name}.log").read_text().splitlines()) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("huggingface_download", Reading(Kind.DOWNLOAD, 3.36e9, 4.98e9, 140e6)),
        ("vllm_ready", Reading(Kind.LOAD, 2.0, 2.0, counts=True)),
        ("ollama_ready", Reading(Kind.DOWNLOAD, 4.7e9, 4.7e9)),
    ],
)
async def test_progress_is_read_from_the_newest_lines(tmp_path: Path, name: str, expected: Reading) -> None:
    log = tmp_path / "model.log"
    log.write_bytes((LOGS / f"{name}.log").read_bytes())
    tail = LogTail(log, scanner=LineScanner(), on_event=lambda _: None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tail.run())
        await eventually(lambda: tail.bytes_read == log.stat().st_size)
        task.cancel()

    assert reading(tail.last_lines) == expected
