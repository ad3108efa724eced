"""``vastai.serverless.server.worker``: the configuration classes and the worker, as lenient as files written for it expect."""

import logging
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final

import pyworker.config
import pyworker.worker
from pyworker.config import DEFAULT_WORKLOAD, BenchmarkConfig
from pyworker.official.data_types import ApiPayload, EndpointHandler, JsonDataException, LogAction
from pyworker.settings import Settings

__all__ = [
    "DEFAULT_WORKLOAD",
    "ApiPayload",
    "BenchmarkConfig",
    "EndpointHandler",
    "HandlerConfig",
    "JsonDataException",
    "LogAction",
    "LogActionConfig",
    "Worker",
    "WorkerConfig",
]

log = logging.getLogger(__name__)

PERF_FILE: Final = ".has_benchmark"
"""In the current folder: its first line is perf, and no benchmark is run."""


@dataclass
class LogActionConfig(pyworker.config.LogActionConfig):
    """The same, which also says itself as pairs."""

    @property
    def log_actions(self) -> list[tuple[LogAction, str]]:
        named = (
            (LogAction.ModelLoaded, self.on_load),
            (LogAction.ModelError, self.on_error),
            (LogAction.Info, self.on_info),
        )
        return [(action, pattern) for action, patterns in named for pattern in patterns]


@dataclass
class HandlerConfig(pyworker.config.HandlerConfig):
    """The same, whose ``healthcheck`` may be empty."""

    def __post_init__(self) -> None:
        self.healthcheck = path_or_none(self.healthcheck)
        super().__post_init__()


@dataclass
class WorkerConfig(pyworker.config.WorkerConfig):
    """The same, whose port may be text, and whose health path may be empty or lack its slash."""

    def __post_init__(self) -> None:
        port: Any = self.model_server_port
        if isinstance(port, str):
            self.model_server_port = int(port) if port.isdecimal() else (port or None)  # type: ignore[assignment] # named by the check
        self.model_healthcheck_url = path_or_none(self.model_healthcheck_url)
        self.model_log_file = self.model_log_file or None
        super().__post_init__()


def path_or_none(text: Any) -> Any:
    """A health path as files write it: empty for none, its slash left out."""
    if not text:
        return None
    if isinstance(text, str) and not text.startswith(("/", "http://", "https://")):
        return f"/{text}"
    return text


class Worker(pyworker.worker.Worker):
    """The same, whose perf a file may pin."""

    def __init__(self, config: pyworker.config.WorkerConfig) -> None:
        super().__init__(config, settings=pinned(Settings.from_env()))


def pinned(settings: Settings) -> Settings:
    """``settings`` with the perf that `PERF_FILE` names, if there is one and the environment names none."""
    if settings.benchmark_perf is not None:
        return settings
    path = Path(PERF_FILE).resolve()
    try:
        with path.open() as file:
            line = file.readline().strip()
    except OSError:
        return settings
    try:
        perf = float(line)
    except ValueError:
        perf = 0.0
    if not isfinite(perf) or perf <= 0:
        log.warning("%s names no perf: its first line is %r, and must be a number above 0", path, line[:100])
        return settings
    return replace(settings, benchmark_perf=perf, perf_pinned_by=str(path))
