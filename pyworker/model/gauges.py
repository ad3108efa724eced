"""What the instance's disks and GPUs show while a model loads. Everything here may block: call it in a thread."""

import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU now. Memory in bytes; ``utilization`` is the share of the last second or so in which it was busy."""

    index: int
    name: str
    memory: float
    memory_used: float
    utilization: float


class Gauges(Protocol):
    """What is read from the outside. Sizes in bytes, None for what cannot be measured here."""

    def disk(self) -> float | None:
        """Bytes used."""
        ...

    def gpu_memory(self) -> float | None:
        """Bytes used on all GPUs together."""
        ...

    def device(self) -> str:
        """What the model runs on, in words that are the same for the same hardware."""
        ...

    def gpus(self) -> list[Gpu]:
        """Each GPU; empty where there is none, or none that can be read."""
        ...


class InstanceGauges:
    """The real ones: of the file systems of ``folders`` (each counted once), and of the GPUs NVML knows."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [*folders]
        self._nvml: Any = None
        self._tried = False

    def disk(self) -> float | None:
        seen: dict[int, float] = {}
        for folder in self._folders:
            try:
                seen[folder.stat().st_dev] = psutil.disk_usage(str(folder)).used
            except OSError:  # not there yet
                continue
        return sum(seen.values()) if seen else None

    def gpu_memory(self) -> float | None:
        nvml = self._gpus()
        if nvml is None:
            return None
        try:
            return float(sum(nvml.nvmlDeviceGetMemoryInfo(one).used for one in _handles(nvml)))
        except nvml.NVMLError as error:
            log.debug("GPU memory cannot be read: %s", error)
            return None

    def device(self) -> str:
        nvml = self._gpus()
        if nvml is not None:
            try:
                return " + ".join(str(nvml.nvmlDeviceGetName(one)) for one in _handles(nvml))
            except nvml.NVMLError as error:
                log.debug("GPU names cannot be read: %s", error)
        return f"{os.cpu_count()} {platform.machine()} CPUs"

    def gpus(self) -> list[Gpu]:
        nvml = self._gpus()
        if nvml is None:
            return []
        try:
            return [_gpu(nvml, index, one) for index, one in enumerate(_handles(nvml))]
        except nvml.NVMLError as error:
            log.debug("GPUs cannot be read: %s", error)
            return []

    def _gpus(self) -> Any:
        """NVML, where it is installed and there is a device; looked for once."""
        if not self._tried:
            self._tried = True
            try:
                import pynvml  # noqa: PLC0415 - needed on GPU instances alone

                pynvml.nvmlInit()
                self._nvml = pynvml if pynvml.nvmlDeviceGetCount() else None
            except Exception as error:  # noqa: BLE001 - absent package, absent driver, or one of its own errors
                log.debug("no GPU that NVML knows: %s", error)
        return self._nvml


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    return Gpu(index, str(nvml.nvmlDeviceGetName(handle)), float(memory.total), float(memory.used), busy)


def _handles(nvml: Any) -> list[Any]:
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
