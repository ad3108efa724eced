"""What every test gets: no blocking call of ours on the event loop, and a clean environment."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
import uvloop
from blockbuster import blockbuster_ctx

from pyworker.settings import VARIABLES

pytest_plugins = ["tests.system"]


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call that pyworker makes on the event loop fails the test."""
    with blockbuster_ctx("pyworker") as blocker:
        # One small local read each, at the start or by hand of the operating system's cache:
        for name in ("os.stat", "os.path.abspath", "io.BufferedReader.read"):
            if name in blocker.functions:
                blocker.functions[name].deactivate()
        yield


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that the worker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own environment reaches a test."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    for name in ("BACKEND", "MODEL_SERVER_CMD", "MODEL_SERVER_URL", "MODEL_SERVER_PORT"):
        monkeypatch.delenv(name, raising=False)
