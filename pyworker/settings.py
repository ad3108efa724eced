"""What the instance says: the one reader of the environment → frozen `Settings`.

Every variable has one row in `VARIABLES`; README's settings table is checked against it.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pyworker.core.benchmark import Statistic
from pyworker.core.log_lines import LineScanner
from pyworker.core.redact import excerpt
from pyworker.core.signature import Origin

DEFAULT_ENGINE: Final = "https://run.vast.ai"
LOCAL_ENGINE: Final = "http://127.0.0.1:8080"
LOCAL_WORKSPACE: Final = ".pyworker"
WORKER_PORT: Final = 3000
MIN_JOURNAL: Final = 16 * 1024
MAX_JOURNAL: Final = 2**30

_T = TypeVar("_T")


class SettingsError(ValueError):
    """Settings missing or malformed; ``problems`` has one sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting: its name, what it means, its unit, what holds without it, and how its text is read."""

    name: str
    meaning: str
    read: Callable[[str], Any]
    default: str = ""
    unit: str = ""
    secret: bool = False


def _text(text: str) -> str:
    return text


def _flag(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError("must be 0 or more")
    return number


def _journal_size(text: str) -> int:
    if not MIN_JOURNAL <= int(text) <= MAX_JOURNAL:
        raise ValueError(f"must be {MIN_JOURNAL} to {MAX_JOURNAL} (bytes)")
    return int(text)


def _port(text: str) -> int:
    if not 0 < int(text) < 2**16:
        raise ValueError("must be a port, 1 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number <= 0:
        raise ValueError("must be more than 0")
    return number


def _lines(text: str) -> tuple[str, ...]:
    lines = tuple(line for line in text.splitlines() if line.strip())
    try:
        LineScanner(info=lines)
    except ValueError as error:
        raise ValueError(f"must be log patterns, one a line: {error}") from error
    return lines


def _path_or_url(text: str) -> str:
    if not text.startswith(("/", "http://", "https://")):
        raise ValueError("must be a path that starts with /, or a URL")
    return text


def _urls(text: str) -> tuple[str, ...]:
    urls = tuple(url.strip().rstrip("/") for url in text.split(",") if url.strip())
    for url in urls:
        if url != "*":
            Origin.of(url)
    return urls


def _log_format(text: str) -> str:
    if text not in {"text", "json"}:
        raise ValueError("must be text or json")
    return text


def _log_level(text: str) -> str:
    if text.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return text.upper()


VARIABLES: Final = (
    Variable("CONTAINER_ID", "the instance's id; without it the worker is in local mode", _whole, "0"),
    Variable("MASTER_TOKEN", "secret shared with the engine", _text, secret=True),
    Variable(
        "REPORT_ADDR",
        "base URLs of the engine, comma-separated, tried in order; in local mode the local engine's",
        _urls,
        f"{DEFAULT_ENGINE} ({LOCAL_ENGINE} in local mode)",
    ),
    Variable("WORKER_PORT", "public port the worker listens on", _port, str(WORKER_PORT)),
    Variable(
        "WORKER_HTTP_PORT",
        "plain HTTP port for programs on the instance, loopback only",
        _port,
        "WORKER_PORT + 1",
    ),
    Variable("ADMIN_PORT", "port of status and health pages, loopback only", _port, "WORKER_PORT + 2"),
    Variable("PUBLIC_IPADDR", "the instance's public address", _text, "127.0.0.1 in local mode"),
    Variable(
        "VAST_TCP_PORT_<WORKER_PORT>",
        "public port that leads to WORKER_PORT",
        _port,
        "WORKER_PORT in local mode",
    ),
    Variable("USE_SSL", "serve TLS on the public port", _flag, "false (on_start.sh on an instance: true)"),
    Variable("SSL_CERT_FILE", "certificate (PEM)", Path, "/etc/instance.crt"),
    Variable("SSL_KEY_FILE", "its private key (PEM)", Path, "/etc/instance.key"),
    Variable("UNSECURED", "true turns the signature check off", _flag, "false"),
    Variable("ALLOWED_URLS", "further URLs a grant may name, comma-separated; * for any", _urls),
    Variable("MODEL_LOG", "log file of the model server; wins over the handler's", _text),
    Variable(
        "MODEL_HEALTH_ENDPOINT",
        "health path (or URL) of the model server; wins over the handler's",
        _path_or_url,
    ),
    Variable(
        "MODEL_LOAD_LOG_MSG", "log patterns, one a line, that mean loaded; win over the handler's", _lines
    ),
    Variable(
        "MODEL_ERROR_LOG_MSGS", "log patterns, one a line, that mean failed; win over the handler's", _lines
    ),
    Variable(
        "MODEL_INFO_LOG_MSGS",
        "log patterns, one a line, worth a line of ours; win over the handler's",
        _lines,
    ),
    Variable("MODEL_NAME", "model the handler and the model server serve", _text),
    Variable(
        "WORKSPACE_DIR", "folder of logs and state", Path, f"/workspace ({LOCAL_WORKSPACE} in local mode)"
    ),
    Variable("BENCHMARK_PERF", "pins perf: no benchmark is run", _seconds, unit="load/s"),
    Variable("BENCHMARK_STATISTIC", "median or max over the runs", Statistic, "median"),
    Variable("BENCHMARK_BUDGET", "no further benchmark run is begun after this time", _seconds, "60", "s"),
    Variable("LOAD_TIMEOUT", "not ready after this time is reported as an error", _seconds, "1800", "s"),
    Variable(
        "LOAD_STALL_TIMEOUT",
        "so is a load without a log line, disk growth or change of GPU memory for this time",
        _seconds,
        "600",
        "s",
    ),
    Variable(
        "SERVE_STALL_TIMEOUT",
        "requests in flight and no byte of any answer for this time: the model server must prove itself",
        _seconds,
        "120",
        "s",
    ),
    Variable(
        "MODEL_SIZE_GB",
        "what loading the model downloads, in 10^9 bytes: gives percent and time left",
        _seconds,
        unit="GB",
    ),
    Variable(
        "DRAIN_TIMEOUT", "how long running requests may take to finish on SIGTERM", _seconds, "300", "s"
    ),
    Variable(
        "JOURNAL_MAX_SIZE",
        "size of the journal, 48 bytes for each request in flight or not acknowledged; past it the oldest ends are given up",
        _journal_size,
        str(5 * 2**20),
        "bytes",
    ),
    Variable("MAX_BODY_SIZE", "largest request body", _whole, str(256 * 2**20), "bytes"),
    Variable("MAX_QUEUE_LENGTH", "most requests that wait in one lane; more get a 429", _whole, "1000"),
    Variable(
        "MAX_CONNECTIONS",
        "most open connections of clients; past it an idle one makes room, or the new one gets a 503",
        _whole,
        "what the limit of open files allows, 10000 at most",
    ),
    Variable("SESSION_MAX_LIFETIME", "no session lives longer, however busy", _seconds, "21600", "s"),
    Variable(
        "SESSION_CALLBACK_ORIGINS",
        "where a session's on_close_route may lead besides the model server: origins, comma-separated",
        _urls,
    ),
    Variable(
        "FORCE_UPDATE_FILE", "what POST /pyworker/update leaves for the start script", Path, "/.force_update"
    ),
    Variable("PYWORKER_LOG_LEVEL", "DEBUG, INFO, WARNING or ERROR", _log_level, "INFO"),
    Variable("PYWORKER_LOG_FORMAT", "text or json", _log_format, "text"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the environment says, read once and checked at once. Sizes in bytes, times in seconds."""

    local: bool
    container_id: int
    master_token: str = field(repr=False)
    report_addrs: tuple[str, ...]
    worker_port: int
    http_port: int
    admin_port: int
    public_url: str
    use_ssl: bool
    ssl_cert_file: Path
    ssl_key_file: Path
    unsecured: bool
    allowed_urls: tuple[str, ...]
    model_log: str | None
    model_health: str | None
    load_patterns: tuple[str, ...] | None
    error_patterns: tuple[str, ...] | None
    info_patterns: tuple[str, ...] | None
    model_name: str
    workspace: Path
    benchmark_perf: float | None
    perf_pinned_by: str = "BENCHMARK_PERF"
    benchmark_statistic: Statistic
    benchmark_budget: float
    load_timeout: float
    load_stall_timeout: float
    serve_stall_timeout: float
    model_size_gb: float | None
    drain_timeout: float
    journal_max_size: int
    max_body_size: int
    max_queue_length: int
    max_connections: int | None
    session_max_lifetime: float
    session_callback_origins: tuple[str, ...]
    force_update_file: Path
    log_level: str
    log_format: str
    given: tuple[str, ...]
    """Names of the variables that were set."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read ``environ`` (default: the process'). Raises `SettingsError` that names everything wrong at once."""
        reader = _Reader(os.environ if environ is None else environ)
        local = not reader.has("CONTAINER_ID")
        port = reader.get("WORKER_PORT", WORKER_PORT)
        use_ssl = reader.get("USE_SSL", False)
        public_url = _public_url(reader, local=local, port=port, use_ssl=use_ssl)
        settings = cls(
            local=local,
            container_id=reader.get("CONTAINER_ID", 0),
            master_token=reader.get("MASTER_TOKEN", ""),
            report_addrs=reader.get("REPORT_ADDR", (LOCAL_ENGINE if local else DEFAULT_ENGINE,)),
            worker_port=port,
            http_port=reader.get("WORKER_HTTP_PORT", port + 1),
            admin_port=reader.get("ADMIN_PORT", port + 2),
            public_url=public_url,
            use_ssl=use_ssl,
            ssl_cert_file=reader.get("SSL_CERT_FILE", Path("/etc/instance.crt")),
            ssl_key_file=reader.get("SSL_KEY_FILE", Path("/etc/instance.key")),
            unsecured=reader.get("UNSECURED", False),
            allowed_urls=reader.get("ALLOWED_URLS", ()),
            model_log=reader.get("MODEL_LOG", None),
            model_health=reader.get("MODEL_HEALTH_ENDPOINT", None),
            load_patterns=reader.get("MODEL_LOAD_LOG_MSG", None),
            error_patterns=reader.get("MODEL_ERROR_LOG_MSGS", None),
            info_patterns=reader.get("MODEL_INFO_LOG_MSGS", None),
            model_name=reader.get("MODEL_NAME", ""),
            workspace=reader.get("WORKSPACE_DIR", Path(LOCAL_WORKSPACE if local else "/workspace")),
            benchmark_perf=reader.get("BENCHMARK_PERF", None),
            benchmark_statistic=reader.get("BENCHMARK_STATISTIC", Statistic.MEDIAN),
            benchmark_budget=reader.get("BENCHMARK_BUDGET", 60.0),
            load_timeout=reader.get("LOAD_TIMEOUT", 1800.0),
            load_stall_timeout=reader.get("LOAD_STALL_TIMEOUT", 600.0),
            serve_stall_timeout=reader.get("SERVE_STALL_TIMEOUT", 120.0),
            model_size_gb=reader.get("MODEL_SIZE_GB", None),
            drain_timeout=reader.get("DRAIN_TIMEOUT", 300.0),
            journal_max_size=reader.get("JOURNAL_MAX_SIZE", 5 * 2**20),
            max_body_size=reader.get("MAX_BODY_SIZE", 256 * 2**20),
            max_queue_length=reader.get("MAX_QUEUE_LENGTH", 1000),
            max_connections=reader.get("MAX_CONNECTIONS", None),
            session_max_lifetime=reader.get("SESSION_MAX_LIFETIME", 21600.0),
            session_callback_origins=reader.get("SESSION_CALLBACK_ORIGINS", ()),
            force_update_file=reader.get("FORCE_UPDATE_FILE", Path("/.force_update")),
            log_level=reader.get("PYWORKER_LOG_LEVEL", "INFO"),
            log_format=reader.get("PYWORKER_LOG_FORMAT", "text"),
            given=tuple(variable.name for variable in VARIABLES if reader.has(variable.name)),
        )
        ports = (settings.worker_port, settings.http_port, settings.admin_port)
        if len(set(ports)) < len(ports):
            reader.problems.append(f"WORKER_PORT, WORKER_HTTP_PORT and ADMIN_PORT must differ, not {ports}")
        if reader.problems:
            raise SettingsError(reader.problems)
        return settings


def setting(name: str, default: _T) -> _T:
    """What the instance says about ``name``, for handlers; ``default`` without it, whose type it is read as.

    Raises `SettingsError` for text that is no such value: ``setting("RUNS", 8)`` wants a whole number.
    """
    text = os.environ.get(name)
    if not text:
        return default
    readers: dict[type, Callable[[str], Any]] = {bool: _flag, int: int, float: float, str: str}
    try:
        value: _T = readers[type(default)](text)
    except ValueError as error:
        kind = {bool: "true or false", int: "a whole number"}.get(type(default), "a number")
        raise SettingsError([f"{name}={excerpt(text, most=100)!r}: must be {kind}"]) from error
    return value


class _Reader:
    """Reads variables by their row in `VARIABLES`; collects what is wrong instead of stopping at it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._rows = {variable.name: variable for variable in VARIABLES}
        self.problems: list[str] = []

    def has(self, name: str) -> bool:
        return bool(self._environ.get(name, "").strip())

    def get(self, name: str, default: _T, *, row: str = "") -> _T:
        """The value of ``name``, or ``default`` when it is unset or empty."""
        if not self.has(name):
            return default
        variable = self._rows[row or name]
        text = self._environ[name].strip()
        try:
            value: _T = variable.read(text)
        except ValueError as error:
            shown = "(hidden)" if variable.secret else repr(excerpt(text, most=100))
            self.problems.append(f"{name}={shown}: {_sentence(error, variable)}")
            return default
        return value


def _sentence(error: ValueError, variable: Variable) -> str:
    if str(error).startswith("must be") or "is not an http" in str(error):
        return str(error)
    if variable.read is Statistic:
        return f"must be {' or '.join(item.value for item in Statistic)}"
    return "must be a number" if variable.read is _seconds else "must be a whole number"


def _public_url(reader: _Reader, *, local: bool, port: int, use_ssl: bool) -> str:
    address = reader.get("PUBLIC_IPADDR", "127.0.0.1" if local else "")
    port_name = f"VAST_TCP_PORT_{port}"
    public_port = reader.get(port_name, port if local else 0, row="VAST_TCP_PORT_<WORKER_PORT>")
    if not address:
        reader.problems.append("PUBLIC_IPADDR is not set: clients would not know where this worker is")
    if not public_port and not reader.has(port_name):
        reader.problems.append(
            f"{port_name} is not set: the template must publish port {port} (docker option -p {port}:{port})"
        )
    host = f"[{address}]" if ":" in address else address
    url = f"{'https' if use_ssl else 'http'}://{host}:{public_port}"
    try:
        Origin.of(url)
    except ValueError:
        if address:
            reader.problems.append(f"PUBLIC_IPADDR={address[:100]!r}: must be an address or a host name")
    return url
