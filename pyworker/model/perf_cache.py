"""The benchmark's result in the work folder: the next start with the same model on the same GPU need not measure anew."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

from pyworker.core.benchmark import Result
from pyworker.files import write_whole

log = logging.getLogger(__name__)

FORMAT: Final = "pyworker-perf-1"
KEPT: Final = 20
"""Results in the file: of the models and settings that were run last in this folder."""


@dataclass(frozen=True, slots=True)
class PerfKey:
    """What a result holds for. Any change of it is measured anew."""

    handler: str
    benchmark: str
    model: str
    device: str
    model_server: str

    @property
    def digest(self) -> str:
        """The key as it stands in the file: it may hold a command line, which is nobody's business."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


class PerfCache:
    """Results by key, in the file at ``path``. Its methods block: call them in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, key: PerfKey) -> Result | None:
        """The result kept for ``key``; None as well for a file that is missing, empty or not ours."""
        return _result(self._entries().get(key.digest))

    def keep(self, key: PerfKey, result: Result) -> None:
        """Write it down, whole or not at all. A folder that cannot be written to costs a line in the log."""
        entries = {name: entry for name, entry in self._entries().items() if name != key.digest}
        entries[key.digest] = {
            "handler": key.handler,
            "device": key.device,
            "model": key.model,
            **asdict(result),
        }
        newest = dict(list(entries.items())[-KEPT:])
        text = json.dumps({"format": FORMAT, "results": newest}, indent=1)
        try:
            write_whole(self.path, text)
        except OSError as error:
            log.warning(
                "the benchmark's result is not kept: path=%s why=%s", self.path, error.strerror or error
            )

    def _entries(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("kept benchmark results cannot be read: path=%s why=%s", self.path, error)
            return {}
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            log.warning("kept benchmark results are not ours: path=%s", self.path)
            return {}
        entries = content.get("results")
        return entries if isinstance(entries, dict) else {}


def _result(entry: Any) -> Result | None:
    """The result in an entry of the file, which anyone may have edited."""
    try:
        found = Result(
            perf=float(entry["perf"]),
            median=float(entry["median"]),
            best=float(entry["best"]),
            spread=float(entry["spread"]),
            runs=tuple(float(one) for one in entry["runs"]),
            concurrency=int(entry["concurrency"]),
            p50=float(entry["p50"]),
            p95=float(entry["p95"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    good = all(isfinite(one) and one > 0 for one in (found.perf, found.median, found.best))
    return found if good and found.concurrency > 0 else None
