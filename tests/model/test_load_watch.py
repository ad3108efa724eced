"""A load that moves, stands still, or takes too long; disk and GPU are the test's."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pyworker.core.lifecycle import Event, Lifecycle
from pyworker.core.log_lines import LineScanner
from pyworker.model.gauges import Gpu, InstanceGauges
from pyworker.model.load_watch import LoadWatch
from pyworker.model.log_tail import LogTail
from tests.system import eventually


class Gauges:
    """An instance whose disk and GPU memory are what the test says."""

    used: float | None = 1e9
    gpu: float | None = None

    def disk(self) -> float | None:
        return self.used

    def gpu_memory(self) -> float | None:
        return self.gpu

    def gpus(self) -> list[Gpu]:
        return []

    def device(self) -> str:
        return "a GPU"


class Told:
    """Hears of failures, and makes the worker errored as the real one does."""

    ready = False

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self.failures: list[str] = []

    def may_retry(self) -> bool:
        return False

    def hint(self) -> None:
        raise AssertionError("nobody asked")

    def fail(self, reason: str) -> None:
        self.failures.append(reason)
        self._lifecycle.handle(Event.FAILED, time.monotonic(), reason=reason)


class Scene:
    """A load watch at work."""

    def __init__(self, tail: LogTail | None = None, *, size: float | None = None, load: float = 60.0) -> None:
        self.lifecycle = Lifecycle(time.monotonic())
        self.told = Told(self.lifecycle)
        self.gauges = Gauges()
        self.watch = LoadWatch(
            lifecycle=self.lifecycle,
            gauges=self.gauges,
            tail=tail,
            size=size,
            load_timeout=load,
            stall_timeout=0.3,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Scene"]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.watch.run(self.told, lambda: "log: shards 3/4"))
            yield self
            task.cancel()

    def move(self, event: Event) -> None:
        self.lifecycle.handle(event, time.monotonic())


async def test_a_load_that_stands_still_is_an_error_that_says_what_was_last_seen() -> None:
    async with Scene().running() as scene:
        await eventually(lambda: scene.told.failures)

    [why] = scene.told.failures

    assert why.startswith("nothing has moved for 0.3 s (LOAD_STALL_TIMEOUT; disk still for 0 s)")
    assert why.endswith(": still starting; last seen: log: shards 3/4")


@pytest.mark.parametrize("what", ["used", "gpu"])
async def test_a_disk_or_a_gpu_that_changes_is_no_stall(what: str) -> None:
    scene = Scene()
    scene.gauges.gpu = 1e9
    async with scene.running():
        for _ in range(6):
            setattr(scene.gauges, what, getattr(scene.gauges, what) + 2e7)
            await asyncio.sleep(0.1)

        assert scene.told.failures == []

        await eventually(lambda: scene.told.failures)

    assert "GPU memory still for " in scene.told.failures[0]


async def test_a_log_that_grows_is_no_stall(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    tail = LogTail(log, scanner=LineScanner(), on_event=lambda _: None)
    async with asyncio.TaskGroup() as group, Scene(tail).running() as scene:
        reading = group.create_task(tail.run())
        for _ in range(6):
            with log.open("a") as file:
                file.write("still here\n")
            await asyncio.sleep(0.1)

        assert scene.told.failures == []

        await eventually(lambda: scene.told.failures)
        reading.cancel()


async def test_a_new_state_is_a_move_and_a_ready_worker_may_stand_still() -> None:
    async with Scene().running() as scene:
        for event in (Event.LOADED, Event.PROVED, Event.MEASURED, Event.CONFIRMED):
            await asyncio.sleep(0.2)
            scene.move(event)
        await asyncio.sleep(0.5)

    assert scene.told.failures == []
    assert [leg.stage.value for leg in scene.watch.progress.legs] == [
        "start", "prove", "benchmark", "confirm", "ready",
    ]  # fmt: skip


async def test_the_boot_budget_ends_a_load_that_moves_for_ever() -> None:
    async with Scene(load=0.5).running() as scene:
        async with asyncio.timeout(5):
            while not scene.told.failures:
                scene.gauges.used = (scene.gauges.used or 0.0) + 2e7
                await asyncio.sleep(0.05)

    assert scene.told.failures[0].startswith("not ready after 0.5 s (LOAD_TIMEOUT): still ")


async def test_a_download_is_told_with_percent_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pyworker.model.load_watch.EVENT_EVERY", 0.2)
    caplog.set_level("INFO", "pyworker")
    async with Scene(size=1e9).running() as scene:
        for _ in range(10):
            await asyncio.sleep(0.1)
            scene.gauges.used = (scene.gauges.used or 0.0) + 5e7
        await eventually(lambda: any(event.picture.percent for event in scene.watch.events))
        told = [event.picture for event in scene.watch.events if event.picture.percent]

    assert told[-1].stage.value == "download"
    assert 0 < (told[-1].left or 0) < 60
    assert any("progress: downloading, " in message for message in caplog.messages)


def test_the_real_gauges_read_the_disk_once_a_file_system(tmp_path: Path) -> None:
    one = InstanceGauges([tmp_path]).disk()
    both = InstanceGauges([tmp_path, tmp_path, tmp_path / "not there"]).disk()

    assert one is not None
    assert both is not None
    assert abs(both - one) < 1e9  # others write, too
    assert InstanceGauges([tmp_path / "not there"]).disk() is None


class _NvmlError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """NVML as on a machine with two GPUs: the library itself needs a driver."""
    fake = ModuleType("pynvml")
    functions = {
        "NVMLError": _NvmlError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda _: "NVIDIA H100",
        "nvmlDeviceGetMemoryInfo": lambda index: SimpleNamespace(used=1e9 * (index + 1)),
    }
    for name, value in functions.items():
        setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_gpus_are_named_and_their_memory_is_added_up(nvml: ModuleType) -> None:
    gauges = InstanceGauges([])

    assert gauges.gpu_memory() == 3e9
    assert gauges.device() == "NVIDIA H100 + NVIDIA H100"


def test_a_gpu_that_fell_off_the_bus_is_none(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: int) -> None:
        raise _NvmlError

    monkeypatch.setattr(nvml, "nvmlDeviceGetHandleByIndex", lost)
    gauges = InstanceGauges([])

    assert gauges.gpu_memory() is None
    assert gauges.device().endswith("CPUs")


def test_without_a_gpu_there_is_no_gpu_memory_and_the_device_is_named_all_the_same() -> None:
    gauges = InstanceGauges([])
    if gauges.gpu_memory() is not None:
        pytest.skip("this machine has a GPU")

    assert gauges.device().endswith("CPUs")
