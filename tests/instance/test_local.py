"""Local mode with everything real: llama.cpp's server, engine, worker, and the script from an empty folder."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from pyworker.instance import demo_model
from pyworker.instance.demo_model import Unavailable, check_cpu
from tests.instance.local_run import LocalRun, local_run
from tests.system import eventually, free_port

ROOT = Path(__file__).parents[2]


def left_behind(run: LocalRun, children: dict[str, psutil.Process]) -> list[str]:
    """Processes and ports that outlived a run."""
    left = [
        name
        for name, child in children.items()
        if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    ]
    for port in (run.model_port, run.engine_port, run.worker_port, run.worker_port + 2):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                left.append(f"port {port}")
    return left


@pytest.mark.timeout(120)
async def test_it_shows_the_whole_system_working_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    async with local_run(tmp_path) as run:
        await run.until_printed("Ctrl-C")
        children = run.children()

        assert sorted(children) == ["engine", "model server", "worker"]
        for stage in (
            "worker proving",
            "worker benchmarking",
            "the engine says the worker is Ready: perf",
            "Try next",
        ):
            assert stage in run.printed
        answer = run.printed.split("model  ")[1].split("[")[0].strip()
        assert len(answer) > 20

        run.process.send_signal(signal.SIGINT)

        assert await run.ended() == 0
        assert left_behind(run, children) == []
        assert "left: everything is reported" in (tmp_path / "worker.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "engine", "engine.log", "engine_key.pem", "journal", "lock", "model.log", "perf.json", "worker.log",
    ]  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", ["model server", "engine", "worker"])
async def test_a_killed_part_is_named_in_one_line_and_everything_ends(tmp_path: Path, victim: str) -> None:
    async with local_run(tmp_path) as run:
        await run.until_printed("Ctrl-C")
        children = run.children()
        children[victim].kill()

        assert await run.ended() == 1
        [line] = [line for line in run.printed.splitlines() if line.startswith("error:")]
        assert line.startswith(f"error: {victim} (pid {children[victim].pid}) killed by SIGKILL")
        assert left_behind(run, children) == []


@pytest.mark.timeout(120)
async def test_kill_9_of_the_supervisor_leaves_nothing_either(tmp_path: Path) -> None:
    async with local_run(tmp_path) as run:
        await run.until_printed("Ctrl-C")
        children = run.children()
        run.process.kill()
        await run.ended()
        await eventually(lambda: not left_behind(run, children), within=20)


@pytest.mark.timeout(60)
async def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with local_run(tmp_path) as run:
        await run.until_printed("model server  http")
        async with local_run(tmp_path) as second:
            assert await second.ended() == 1

        assert f"error: another local mode runs in {tmp_path}" in second.printed


@pytest.mark.timeout(120)
async def test_a_model_server_that_dies_while_loading_is_named(tmp_path: Path) -> None:
    async with local_run(tmp_path) as run:
        await run.until_printed("worker loading|worker starting")
        await eventually(lambda: "model server" in run.children())
        run.children()["model server"].kill()

        assert await run.ended() == 1
        assert "error: model server" in run.printed


@pytest.mark.timeout(60)
@pytest.mark.parametrize("option", ["--worker-port", "--engine-port", "--model-port"])
async def test_a_taken_port_is_named_with_who_holds_it(tmp_path: Path, option: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        async with local_run(tmp_path, option, str(port)) as run:
            assert await run.ended() == 1

    [line] = [line for line in run.printed.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: port {port} (")
    assert f"is taken by pid {os.getpid()} (" in line
    assert option in line
    assert not (tmp_path / "worker.log").exists()


def test_a_cpu_without_avx2_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu sse2 avx\nbugs\t\t: x\n")
    with pytest.raises(Unavailable, match="no AVX2"):
        check_cpu(cpuinfo)

    cpuinfo.write_text("flags\t\t: fpu avx2\nbugs\t\t: x\n")
    check_cpu(cpuinfo)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    check_cpu(tmp_path / "nosuch")


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_model, "MODEL_FILE", "nosuch.gguf")
    with pytest.raises(Unavailable, match="nosuch.gguf is missing"):
        demo_model.model_file()

    monkeypatch.setattr(demo_model, "MODEL_PACKAGE", "no_such_package")
    with pytest.raises(Unavailable, match="no_such_package is not installed"):
        demo_model.model_file()


# The script...


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout as a stranger gets it: tracked files only."""
    folder = tmp_path_factory.mktemp("clone") / "pyworker"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(
        b"\0"
    )
    for name in filter(None, files):
        target = folder / name.decode()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name.decode(), target)
    return folder


def script(clone: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: os.environ[name] for name in os.environ if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}
    return subprocess.run(
        ["bash", str(clone / "on_start.sh"), *options],
        env={**clean, **environ}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def ports() -> list[str]:
    return [
        "--worker-port",
        str(free_port()),
        "--engine-port",
        str(free_port()),
        "--model-port",
        str(free_port()),
    ]


@pytest.mark.timeout(900)
def test_the_script_from_an_empty_folder_again_and_half_made(clone: Path) -> None:
    first = script(clone, "--once", *ports())

    assert first.returncode == 0, first.stdout + first.stderr
    assert "Making the Python environment" in first.stdout
    assert "downloading xllamacpp" in first.stdout
    assert "the engine says the worker is Ready" in first.stdout
    assert "Try next" in first.stdout

    second = script(clone, "--once", *ports())

    assert second.returncode == 0, second.stdout + second.stderr
    assert "Making the Python environment" not in second.stdout

    [package] = (clone / ".venv" / "lib").glob("python*/site-packages/xllamacpp")
    shutil.rmtree(package)
    repaired = script(clone, "--once", *ports())

    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert "Making the Python environment" in repaired.stdout


def test_without_python_or_network_the_cause_is_one_line(clone: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(clone, alone, ignore=shutil.ignore_patterns(".venv"))
    index = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    alone_in_the_world = {"PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": "/dev/null"}
    ended = script(alone, "--once", **index, **alone_in_the_world)

    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: the package index cannot be reached: is this machine on the network?")
    assert not (alone / ".venv" / ".complete").exists()

    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for tool in ("bash", "dirname", "cat", "cksum", "env"):
        (bin_folder / tool).symlink_to(shutil.which(tool) or "")
    ended = script(alone, PATH=str(bin_folder), HOME=str(tmp_path))

    assert ended.returncode == 1
    assert "error: no Python 3.11 or newer found" in ended.stderr
