"""Lines of a model server's log from before a reboot are no news; those of this start are."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from pyworker.instance import old_log
from pyworker.instance.old_log import MARK, put_aside, this_boot
from tests.instance.test_unattended import instance
from tests.system import Model, eventually


def test_only_after_a_boot_of_an_instance_that_has_been_up_before(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    log.write_text("first\n")

    assert not put_aside(log, tmp_path / "work", "boot 1")  # the first boot: all lines are of this start
    assert not put_aside(log, tmp_path / "work", "boot 1")  # the worker was started again
    assert put_aside(log, tmp_path / "work", "boot 2")
    assert log.read_text() == ""
    assert (tmp_path / "model.log.old").read_text() == "first\n"

    log.write_text("second\n")

    assert not put_aside(log, tmp_path / "work", "boot 2")
    assert log.read_text() == "second\n"
    assert put_aside(log, tmp_path / "work", "boot 3")
    assert (tmp_path / "model.log.old").read_text() == "second\n"
    assert not put_aside(log, tmp_path / "work", "boot 4")  # it is empty


def test_who_has_it_open_writes_on(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    put_aside(log, tmp_path, "boot 1")
    with log.open("a") as writer:
        writer.write("old\n")
        writer.flush()

        assert put_aside(log, tmp_path, "boot 2")

        writer.write("new\n")
        writer.flush()

    assert log.read_text() == "new\n"


def test_of_a_large_one_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_log, "MOST", 10)
    log = tmp_path / "model.log"
    put_aside(log, tmp_path, "boot 1")
    log.write_bytes(b"x" * 100 + b"0123456789")

    assert put_aside(log, tmp_path, "boot 2")
    assert (tmp_path / "model.log.old").read_bytes() == b"0123456789"


def test_what_cannot_be_put_aside_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "model.log"
    put_aside(log, tmp_path, "boot 1")
    log.write_text("old\n")
    (tmp_path / "model.log.old").mkdir()

    assert not put_aside(log, tmp_path, "boot 2")
    assert "cannot be put aside" in caplog.text
    assert not put_aside(tmp_path, tmp_path, "boot 3")  # a folder in its place


def test_a_boot_has_a_name() -> None:
    assert len(this_boot().split()) == 2
    assert this_boot() == this_boot()


@pytest.mark.timeout(60)
async def test_stale_lines_do_not_reach_the_worker(engine: Any, model: Model, tmp_path: Path) -> None:
    (tmp_path / MARK).write_text("another boot")
    model.say("error loading model: from before the reboot")
    more = {"MODEL_SERVER_CMD": "", "MODEL_SERVER_PORT": str(model.port), "MODEL_LOG": str(model.log)}
    async with instance(engine, tmp_path, **more) as process:
        await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()

    assert b"model log from before this boot put aside" in log
    assert not any("from before" in report.error_msg for report in engine.reports)
    assert "from before the reboot" in Path(f"{model.log}.old").read_text()
    assert (tmp_path / MARK).read_text() == await asyncio.to_thread(this_boot)
    assert model.log.stat().st_size == 0
