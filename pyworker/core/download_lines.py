"""What the newest lines of a model server's log say of its progress: bytes downloaded, weights loaded.

Known are the bars of Hugging Face and everything else that uses tqdm, vLLM's and SGLang's checkpoint shards, llama.cpp's
row of dots, and ``ollama pull``. Only the newest lines are looked at: each bar's last state is what counts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

_UNITS: Final = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SIZE: Final = r"(?P<{0}>[\d.]+) ?(?P<{0}_unit>[kKMGT]?)i?B?"

_SHARDS: Final = re.compile(
    r"checkpoint shards:\s+(?P<percent>\d+)% Completed \| (?P<done>\d+)/(?P<total>\d+)"
)
_TQDM: Final = re.compile(
    r"(?P<name>[^|\r\n]*?):\s+(?P<percent>\d+)%\|[^|]*\|\s*"
    + _SIZE.format("done")
    + "/"
    + _SIZE.format("total")
    + r" \[[^\],]*(?:,\s*(?P<rate>[\d.]+) ?(?P<rate_unit>[kKMGT]?)i?B/s)?"
)
_OLLAMA: Final = re.compile(
    r"pulling (?P<name>[0-9a-f]{8,})\S*\s+(?P<percent>\d+)%.*?"
    + _SIZE.format("done")
    + "/"
    + _SIZE.format("total")
    + r"(?:\s+(?P<rate>[\d.]+) ?(?P<rate_unit>[kKMGT]?)i?B/s)?"
)
_OLLAMA_DONE: Final = re.compile(
    r"pulling (?P<name>[0-9a-f]{8,})\S*\s+100%[^\d]*" + _SIZE.format("total") + r"\s*$"
)
_DOTS: Final = re.compile(r"^\.{3,100}$")


class Kind(Enum):
    """What is under way."""

    DOWNLOAD = "download"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the log says: ``done`` of ``total`` in bytes (or in shards, or dots: then ``counts``), bytes per second if told."""

    kind: Kind
    done: float
    total: float
    rate: float | None = None
    counts: bool = False

    @property
    def percent(self) -> float:
        return 100 * self.done / self.total if self.total else 0.0


def reading(lines: Iterable[str]) -> Reading | None:
    """The newest progress in ``lines`` (oldest first); bars of several files at once are added up."""
    files: dict[str, Reading] = {}
    newest: Reading | None = None
    for line in lines:
        found = _loading(line)
        if found is not None:
            newest = found
            continue
        named = _downloading(line)
        if named is not None:
            name, newest = named
            files[name] = newest
    if newest is None or newest.kind is Kind.LOAD or newest.counts:
        return newest
    return _sum([one for one in files.values() if not one.counts])


def _loading(line: str) -> Reading | None:
    shards = _SHARDS.search(line)
    if shards is not None:
        return Reading(Kind.LOAD, float(shards["done"]), float(shards["total"]), counts=True)
    if _DOTS.match(line):  # llama.cpp writes a hundred of them, one a percent
        return Reading(Kind.LOAD, float(len(line)), 100.0, counts=True)
    return None


def _downloading(line: str) -> tuple[str, Reading] | None:
    done_with = _OLLAMA_DONE.search(line)
    if done_with is not None:
        total = float(done_with["total"]) * _UNITS[done_with["total_unit"]]
        return done_with["name"], Reading(Kind.DOWNLOAD, total, total)
    found = _OLLAMA.search(line) or _TQDM.search(line)
    if found is None:
        return None
    done, total = (float(found[one]) * _UNITS[found[one + "_unit"]] for one in ("done", "total"))
    in_bytes = bool(found["total_unit"]) or found["rate"] is not None
    rate = float(found["rate"]) * _UNITS[found["rate_unit"]] if found["rate"] else None
    return found["name"].strip(), Reading(Kind.DOWNLOAD, done, total, rate, counts=not in_bytes)


def _sum(files: list[Reading]) -> Reading:
    going = [one.rate for one in files if one.rate is not None and one.done < one.total]
    return Reading(
        Kind.DOWNLOAD,
        sum(one.done for one in files),
        sum(one.total for one in files),
        sum(going) if going else None,
    )
