"""The peers: how each is started, what it is asked with, and why one is left out."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.children import ROOT, Broken, Child, free_port, python
from benchmarks.jobs import ANSWER, ROUTES, SMALL, SMALL_ANSWER, STREAM, UPLOAD, Ask
from pyworker.local_engine.keys import Keys

MASTER_TOKEN: Final = "benchmark"  # noqa: S105 - of an engine that lives for one run
OFFICIAL_PYTHON: Final = ROOT / ".venv-sdk" / "bin" / "python"

REPORTS: Final = 1.1
"""Seconds within which a worker has told the engine of all that was: its cost belongs to the round."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where peers run: a folder for their files, the model server, the engine, a certificate."""

    folder: Path
    model_port: int
    model_log: Path
    engine_url: str
    keys: Keys
    certificate: Path
    key: Path


@dataclass(slots=True)
class Peer:
    """A peer that runs. ``settle`` is how long after a round its work goes on, in seconds."""

    name: str
    port: int
    sign: Callable[[str], str]
    child: Child | None = None
    tls: bool = False
    settle: float = 0.0

    def cpu(self) -> float:
        return self.child.cpu() if self.child is not None else 0.0

    def _auth(self, number: str) -> str:
        url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"
        auth = {
            "signature": self.sign(url),
            "cost": "100",
            "endpoint": "local",
            "reqnum": "#",
            "request_idx": "#",
            "url": url,
        }
        return json.dumps(auth).replace('"#"', number)

    # What it is asked: all peers the very same...

    def _envelope(self, path: str, payload: Mapping[str, Any], **expected: int) -> Ask:
        before, after = (
            json.dumps(payload).split("#fill#") if "#fill#" in str(payload) else (json.dumps(payload), "")
        )
        headers = {
            "Accept": "*/*",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": "benchmark",
            "Authorization": "Bearer an-api-key",
            "Content-Type": "application/json",
        }
        fill = expected.pop("fill", 0)
        lead = f'{{"auth_data": {self._auth("%(n)d")}, "session_id": null, "payload": {before}'
        tail = f"{after}}}"
        return Ask(
            path=f"{path}?api_key=an-api-key", headers=headers, lead=lead, fill=fill, tail=tail, **expected
        )

    def small(self) -> Ask:
        return self._envelope(SMALL, _chat(), answer=SMALL_ANSWER)

    def stream(self, events: int, pause: float) -> Ask:
        """Server-sent events, one each ``pause`` seconds."""
        return self._envelope(
            STREAM, _chat(stream=True, plan=f"sse {events} {round(pause * 1000)}"), events=events
        )

    def answer(self, size: int) -> Ask:
        return self._envelope(ANSWER, _chat(plan=f"bytes {size}"), answer=size)

    def envelope_up(self, size: int) -> Ask:
        return self._envelope(UPLOAD, {"image": "#fill#"}, fill=size, answer=SMALL_ANSWER)

    def raw_up(self, size: int) -> Ask:
        grant = base64.b64encode(self._auth("123456789").encode()).decode()
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Auth-Data": grant,
            "User-Agent": "benchmark",
        }
        return Ask(path=UPLOAD, headers=headers, fill=size, answer=SMALL_ANSWER)


def _chat(**more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "In one sentence, what is a lighthouse for?"}
    return {"model": "benchmark", "messages": [message], "max_tokens": 256, "temperature": 0.7, **more}


# How they are started...


def start_pyworker(place: Place, *, tls: bool) -> Peer:
    """A worker as shipped: signatures, accounts, journal, reports, default logging. Only perf is pinned."""
    port, folder = free_port(), _folder(place, "pyworker", tls=tls)
    env = {
        **_instance(place, port, number=7, tls=tls),
        "WORKSPACE_DIR": str(folder),
        "BENCHMARK_PERF": "1000",
        "MODEL_SERVER_PORT": str(place.model_port),
        "MODEL_SERVER_LOG": str(place.model_log),
        "SSL_CERT_FILE": str(place.certificate),
        "SSL_KEY_FILE": str(place.key),
    }
    file = Path(__file__).with_name("pyworker_worker.py")
    child = python("-m", "pyworker", "run", file, log=folder / "pyworker.log", env=env)
    return Peer("pyworker", port, place.keys.sign, child, tls=tls, settle=REPORTS)


def start_aiohttp(place: Place, *, tls: bool) -> Peer:
    assert not tls, "the aiohttp proxy is not compared over TLS"
    port, folder = free_port(), _folder(place, "aiohttp", tls=tls)
    model = f"http://127.0.0.1:{place.model_port}"
    child = python("-m", "benchmarks.aiohttp_proxy", str(port), model, log=folder / "aiohttp.log")
    return Peer("aiohttp", port, place.keys.sign, child)


def start_nginx(place: Place, *, tls: bool) -> Peer:
    port, folder = free_port(), _folder(place, "nginx", tls=tls)
    config = folder / "nginx.conf"
    config.write_text(_nginx_conf(place, port, folder, tls=tls))
    command = [_nginx() or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(config)]
    child = Child(command, log=folder / "nginx.log", cwd=folder, env={})
    return Peer("nginx", port, place.keys.sign, child, tls=tls)


def start_official(place: Place, *, tls: bool) -> Peer:
    assert not tls, "the official worker reads its certificate where only an instance has it"
    port, folder = free_port(), _folder(place, "official", tls=tls)
    (folder / ".has_benchmark").write_text("1000")
    file = Path(__file__).with_name("official_worker.py")
    command: list[str | Path] = [OFFICIAL_PYTHON, file, str(place.model_port), place.model_log, *ROUTES]
    child = Child(
        command, log=folder / "official.log", cwd=folder, env=_instance(place, port, number=8, tls=tls)
    )
    return Peer("official", port, place.keys.sign, child, settle=REPORTS)


def start_direct(place: Place, *, tls: bool) -> Peer:
    """No proxy at all."""
    assert not tls, "the model server speaks plain HTTP"
    return Peer("direct", place.model_port, place.keys.sign)


STARTS: Final[dict[str, Callable[..., Peer]]] = {
    "pyworker": start_pyworker,
    "aiohttp": start_aiohttp,
    "nginx": start_nginx,
    "official": start_official,
    "direct": start_direct,
}


def _folder(place: Place, name: str, *, tls: bool) -> Path:
    for number in range(100):
        folder = place.folder / f"{name}{'-tls' if tls else ''}-{number}"
        if not folder.exists():
            folder.mkdir()
            return folder
    raise Broken(f"{name} was started a hundred times")


def _instance(place: Place, port: int, *, number: int, tls: bool) -> dict[str, str]:
    """The environment that an instance gives a worker."""
    return {
        "CONTAINER_ID": str(number + 100 * tls),
        "MASTER_TOKEN": MASTER_TOKEN,
        "REPORT_ADDR": place.engine_url,
        "WORKER_PORT": str(port),
        "PUBLIC_IPADDR": "127.0.0.1",
        f"VAST_TCP_PORT_{port}": str(port),
        "USE_SSL": "true" if tls else "false",
    }


def _nginx() -> str | None:
    return shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")


def _nginx_conf(place: Place, port: int, folder: Path, *, tls: bool) -> str:
    """One worker process, as its manual advises for each kind of traffic: no buffering of streams, nor of uploads."""
    user = "user root;" if os.geteuid() == 0 else ""
    secure = f"ssl_certificate {place.certificate}; ssl_certificate_key {place.key};" if tls else ""
    spools = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
        {user} daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {folder}/nginx.pid;
        events {{ worker_connections 19000; }}
        http {{
            access_log off; {spools}
            keepalive_timeout 75s; keepalive_requests 100000000;
            client_max_body_size 0;
            upstream model {{ server 127.0.0.1:{place.model_port}; keepalive 1024; keepalive_requests 100000000; }}
            server {{
                listen 127.0.0.1:{port} backlog=4096 {"ssl" if tls else ""}; {secure}
                proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 600s;
                proxy_buffers 16 64k; proxy_buffer_size 16k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
                location / {{ proxy_pass http://model; }}
                location {STREAM} {{ proxy_pass http://model; proxy_buffering off; }}
                location {UPLOAD} {{ proxy_pass http://model; proxy_request_buffering off; client_body_buffer_size 128k; }}
            }}
        }}
    """


# Which there are, and in what version...


def versions() -> dict[str, str]:
    """What each peer is, or ``left out: why``."""
    return {
        "pyworker": _said(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], "unknown version"),
        "aiohttp": _version_of_aiohttp(),
        "nginx": _nginx_version(),
        "official": _official_version(),
        "direct": "no proxy",
    }


def _version_of_aiohttp() -> str:
    import aiohttp  # noqa: PLC0415 - for its version alone

    return f"aiohttp {aiohttp.__version__}"


def _nginx_version() -> str:
    found = _nginx()
    return _said([found, "-v"], "left out: it does not run") if found else "left out: nginx is not installed"


def _official_version() -> str:
    if not OFFICIAL_PYTHON.exists():
        return "left out: .venv-sdk is not there (tests/run.sh makes it)"
    code = "import importlib.metadata as m; print('vastai', m.version('vastai'))"
    return _said([str(OFFICIAL_PYTHON), "-c", code], "left out: .venv-sdk has no vastai")


def _said(command: list[str], otherwise: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - our own
    except (OSError, subprocess.SubprocessError):
        return otherwise
    return (done.stdout or done.stderr).strip().removeprefix("nginx version: ") or otherwise
