"""Following a log on a real file system through whatever becomes of it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pyworker.core.log_lines import LineScanner, LogEvent
from pyworker.model.log_tail import LogTail


class Heard:
    """Collects what a tail tells, with the time it told it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.at: list[float] = []
        self._news = asyncio.Event()

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(event.line)
        self.at.append(time.monotonic())
        self._news.set()

    async def until(self, *lines: str) -> None:
        """Wait until exactly these lines were told."""
        async with asyncio.timeout(5):
            while len(self.lines) < len(lines):
                self._news.clear()
                await self._news.wait()

        assert self.lines == list(lines)


@asynccontextmanager
async def tailing(path: Path) -> AsyncIterator[tuple[LogTail, Heard]]:
    heard = Heard()
    tail = LogTail(path, scanner=LineScanner(loaded=["loaded"]), on_event=heard)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tail.run())
        try:
            yield tail, heard
        finally:
            task.cancel()


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "model.log"


async def test_what_was_there_and_what_comes(log: Path) -> None:
    append(log, b"loaded 1\nother\n")
    async with tailing(log) as (tail, heard):
        await heard.until("loaded 1")
        append(log, b"loaded 2\n")
        await heard.until("loaded 1", "loaded 2")

        assert tail.last_lines == ["loaded 1", "other", "loaded 2"]
        assert tail.bytes_read == 24


async def test_a_file_and_a_folder_that_come_later(tmp_path: Path) -> None:
    log = tmp_path / "later" / "model.log"
    async with tailing(log) as (_, heard):
        await asyncio.sleep(0)
        log.parent.mkdir()
        append(log, b"loaded\n")
        await heard.until("loaded")


async def test_a_line_in_two_writes(log: Path) -> None:
    async with tailing(log) as (tail, heard):
        append(log, b"loa")
        async with asyncio.timeout(5):
            while tail.bytes_read < 3:
                await asyncio.sleep(0.005)
        append(log, b"ded\n")
        await heard.until("loaded")


async def test_a_last_line_without_end(log: Path) -> None:
    append(log, b"loaded")
    async with tailing(log) as (_, heard):
        await heard.until("loaded")


async def test_rotated_by_rename_the_rest_of_the_old_file_is_read_first(log: Path) -> None:
    append(log, b"loaded 1\n")
    async with tailing(log) as (_, heard):
        await heard.until("loaded 1")
        append(log, b"loaded 2\n")
        log.rename(log.with_suffix(".old"))
        append(log, b"loaded 3\n")
        await heard.until("loaded 1", "loaded 2", "loaded 3")


async def test_truncated_in_place(log: Path) -> None:
    append(log, b"loaded 1 and more to make it long\n")
    async with tailing(log) as (_, heard):
        await heard.until("loaded 1 and more to make it long")
        log.write_bytes(b"loaded 2\n")
        await heard.until("loaded 1 and more to make it long", "loaded 2")


async def test_a_symlink_that_is_turned_elsewhere(tmp_path: Path) -> None:
    one, two, log = tmp_path / "1.log", tmp_path / "2.log", tmp_path / "model.log"
    append(one, b"loaded 1\n")
    append(two, b"loaded 2\n")
    log.symlink_to(one)
    async with tailing(log) as (_, heard):
        await heard.until("loaded 1")
        log.with_suffix(".new").symlink_to(two)
        log.with_suffix(".new").rename(log)
        await heard.until("loaded 1", "loaded 2")


@pytest.mark.parametrize("kind", ["folder", "fifo"])
async def test_no_file_in_its_place_is_waited_out_with_one_warning(
    log: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "folder":
        log.mkdir()
    else:
        os.mkfifo(log)
    async with tailing(log) as (_, heard):
        async with asyncio.timeout(5):
            while not caplog.records:
                await asyncio.sleep(0.005)
        if kind == "folder":
            log.rmdir()
        else:
            log.unlink()
        append(log, b"loaded\n")
        await heard.until("loaded")

    assert ["it is no regular file"] == [
        record.getMessage().rpartition("why=")[2] for record in caplog.records
    ]


async def test_a_loaded_line_is_told_within_milliseconds(log: Path) -> None:
    log.touch()
    delays = []
    async with tailing(log) as (_, heard):
        await asyncio.sleep(0.3)  # the watch is set up
        for number in range(1, 6):
            wrote = time.monotonic()
            append(log, b"loaded\n")
            await heard.until(*["loaded"] * number)
            delays.append(heard.at[-1] - wrote)
            await asyncio.sleep(0.05)

    assert sorted(delays)[2] < 0.1  # 20 ms on a quiet machine


async def test_without_file_system_events_it_looks_by_itself(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> object:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("watchfiles.awatch", none_left)
    async with tailing(log) as (_, heard):
        append(log, b"loaded\n")
        await heard.until("loaded")
