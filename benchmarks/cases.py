"""What is measured, one function a case: rows of figures, with the goals that hold for ours."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final

from benchmarks.bench import Bench, Sample
from benchmarks.goals import Bound, Goal, Row
from benchmarks.jobs import NOTHING, Ask, Job
from benchmarks.peers import REPORTS, Peer
from benchmarks.plot import Panel

ALL: Final = ("pyworker", "aiohttp", "nginx", "official")

SMALL_GOALS: Final = (
    Goal(Bound(0.40, "aiohttp"), Bound(0.5, "aiohttp")),
    Goal(Bound(0.05, "official")),
    Goal(Bound(3, "nginx")),
)

MIB: Final = 2**20
LARGEST: Final = 64 * MIB

GROWTH_RATE: Final = 5000
"""Events a second that the streams of `growth` have among them."""

GROWTH_WINDOW: Final = 2.0

STREAMS: Final = 200
EVENTS: Final = 50
EVENT_PAUSE: Final = 0.02
STREAMS_EACH: Final = 2
"""Streams one after another on each connection. They begin evenly over the time that one lasts, as clients come: so all
are open together from there to the last stream's begin, and new ones come all the while."""

Case = Callable[[Bench], list[Row]]


def per(
    samples: Mapping[str, Sequence[Sample]], count: Callable[[Sample], float], scale: float = 1e6
) -> dict[str, list[float]]:
    """CPU of each round ÷ what was done in it; microseconds unless ``scale`` says otherwise. No process, no figure."""
    return {
        peer: [one.cpu * scale / count(one) for one in found]
        for peer, found in samples.items()
        if peer != "direct"
    }


def answers(sample: Sample) -> float:
    return sample.result.answers


def events(sample: Sample) -> float:
    return sample.result.events


def small_32(bench: Bench) -> list[Row]:
    """Small JSON requests, 32 connections that ask all the time."""
    return _small(bench, "small-32", 32)


def small_256(bench: Bench) -> list[Row]:
    """Small JSON requests, 256 connections that ask all the time."""
    return _small(bench, "small-256", 256)


def _small(bench: Bench, name: str, connections: int) -> list[Row]:
    def job(peer: Peer) -> Job:
        small = peer.small()
        return Job(
            port=peer.port, ask=small, warm=small, connections=connections, seconds=bench.effort.seconds
        )

    samples = bench.rounds(bench.peers(*ALL), job)
    return [Row(name, "CPU per request", "µs", per(samples, answers), SMALL_GOALS)]


def sse_200(bench: Bench) -> list[Row]:
    """200 streams of 50 events, one each 20 ms, setting each up included."""
    samples = bench.rounds(bench.peers(*ALL, "direct"), _streams, rounds=bench.effort.stream_rounds)
    firsts = {peer: [one.result.first_p50 * 1e3 for one in found] for peer, found in samples.items()}
    return [
        Row(
            "sse-200",
            "CPU per chunk",
            "µs",
            per(samples, events),
            [Goal(Bound(1.0, "nginx"), Bound(0.65, "aiohttp"))],
        ),
        Row("sse-200", "first chunk p50", "ms", firsts, [Goal(Bound(2, "nginx"))]),
    ]


def _streams(peer: Peer, *, tls: bool = False) -> Job:
    return Job(
        port=peer.port,
        ask=peer.stream(EVENTS, EVENT_PAUSE),
        warm=peer.small(),
        tls=tls,
        connections=STREAMS,
        each=STREAMS_EACH,
        spread=EVENTS * EVENT_PAUSE,
    )


def answer_1m(bench: Bench) -> list[Row]:
    """Answers of 1 MiB, 4 connections that ask all the time."""
    samples = bench.rounds(bench.peers(*ALL), lambda peer: _large(bench, peer, peer.answer(MIB)))
    goal = Goal(Bound(1.3, "nginx"), Bound(0.6, "aiohttp"))
    return [Row("answer-1m", "CPU per answer", "µs", per(samples, answers), [goal])]


def envelope_1m(bench: Bench) -> list[Row]:
    """JSON envelopes of 1 MiB, which have to be looked at before they go on."""
    samples = bench.rounds(bench.peers(*ALL), lambda peer: _large(bench, peer, peer.envelope_up(MIB)))
    return [
        Row("envelope-1m", "CPU per upload", "µs", per(samples, answers), [Goal(Bound(2, "aiohttp"))]),
    ]


def raw_1m(bench: Bench) -> list[Row]:
    """Bodies of 1 MiB with the grant in a header, and how much memory larger ones take."""
    peers = bench.peers("pyworker", "aiohttp", "nginx")
    samples = bench.rounds(peers, lambda peer: _large(bench, peer, peer.raw_up(MIB)))
    grown = {
        peer.name: [_peak_memory(bench, peer, LARGEST) / _peak_memory(bench, peer, MIB)] for peer in peers
    }
    return [
        Row("raw-1m", "CPU per upload", "µs", per(samples, answers), [Goal(Bound(1.3, "nginx"))]),
        Row("raw-1m", "peak memory, bodies of 64 MiB", "x that of 1 MiB", grown, [Goal(Bound(1.1))]),
    ]


def _large(bench: Bench, peer: Peer, ask: Ask) -> Job:
    return Job(port=peer.port, ask=ask, warm=peer.small(), connections=4, seconds=bench.effort.seconds)


def _peak_memory(bench: Bench, peer: Peer, size: int) -> float:
    child = peer.child
    assert child is not None
    seen = [child.rss()]
    job = Job(port=peer.port, ask=peer.raw_up(size), warm=peer.small(), connections=4, each=3)
    bench.timed(peer, job, lambda: seen.append(child.rss()))
    return max(seen)


def latency_1(bench: Bench) -> list[Row]:
    """Small JSON requests one after another on one connection: what a proxy adds to each."""

    def job(peer: Peer) -> Job:
        small = peer.small()
        return Job(port=peer.port, ask=small, warm=small, connections=1, seconds=bench.effort.seconds)

    samples = bench.rounds(bench.peers(*ALL, "direct"), job)
    direct = median(one.result.latency_p50 for one in samples.get("direct", []) or [Sample(NOTHING, 0.0)])
    added = {
        peer: [(one.result.latency_p50 - direct) * 1e6 for one in found]
        for peer, found in samples.items()
        if peer != "direct"
    }
    return [Row("latency-1", "added p50", "µs", added, [Goal(Bound(2, "nginx"))])]


def tls_small_32(bench: Bench) -> list[Row]:
    """Small JSON requests over TLS, 32 connections."""

    def job(peer: Peer) -> Job:
        small = peer.small()
        return Job(
            port=peer.port, ask=small, warm=small, connections=32, seconds=bench.effort.seconds, tls=True
        )

    samples = bench.rounds(bench.peers("pyworker", "nginx", tls=True), job)
    return [Row("tls-small-32", "CPU per request", "µs", per(samples, answers), [Goal(Bound(3, "nginx"))])]


def tls_sse_200(bench: Bench) -> list[Row]:
    """The streams of `sse_200` over TLS."""
    peers = bench.peers("pyworker", "nginx", tls=True)
    samples = bench.rounds(peers, lambda peer: _streams(peer, tls=True), rounds=bench.effort.stream_rounds)
    return [Row("tls-sse-200", "CPU per chunk", "µs", per(samples, events), [Goal(Bound(1.3, "nginx"))])]


def memory(bench: Bench) -> list[Row]:
    """Resident memory of a fresh peer at rest, and what each open stream adds to it."""
    idle: dict[str, list[float]] = {}
    streams: dict[int, dict[str, list[float]]] = {count: {} for count in bench.effort.memory_streams}
    for name in (name for name in ("pyworker", "aiohttp", "nginx") if name in bench.wanted):
        for count in bench.effort.memory_streams:
            with bench.fresh(name) as peer:
                assert peer.child is not None
                before = peer.child.rss()
                idle.setdefault(name, []).append(before / MIB)
                with bench.holding(_silent(peer, count)):
                    streams[count][name] = [(peer.child.rss() - before) / count / 1024]
    rows = [Row("memory", "idle", "MiB", idle, [Goal(Bound(60))])]
    goal = Goal(Bound(20), Bound(25))
    return rows + [Row("memory", f"a stream of {n}", "KiB", found, [goal]) for n, found in streams.items()]


def _silent(peer: Peer, count: int) -> Job:
    """Streams that say one word and then nothing."""
    return Job(port=peer.port, ask=peer.stream(2, 600.0), warm=peer.small(), connections=count, hold=True)


def beside_300(bench: Bench) -> list[Row]:
    """Small requests one after another, while 300 streams have an event each 20 ms (the official worker opens 100)."""
    waits: dict[str, list[float]] = {}
    for peer in bench.peers("pyworker", "aiohttp", "nginx"):
        streams = Job(
            port=peer.port, ask=peer.stream(10**6, EVENT_PAUSE), warm=peer.small(), connections=300, hold=True
        )
        small = Job(port=peer.port, ask=peer.small(), warm=peer.small(), seconds=5.0, pause=0.005)
        with bench.holding(streams):
            bench.beside.prepare(small)
            waits[peer.name] = [bench.beside.go(small).latency_p99 * 1e3]
    return [Row("beside-300", "p99 of small requests", "ms", waits, [Goal(Bound(20))])]


def growth(bench: Bench) -> list[Row]:
    """Whether a chunk costs the same among thousands of streams, and a byte in a huge body."""
    rows = [_chunks_of(bench, count) for count in bench.effort.sweep_streams]
    for size in bench.effort.sweep_bodies:
        rows += [_bytes_of(bench, "down", size), _bytes_of(bench, "up", size)]
    return rows


def panels_of(rows: Sequence[Row]) -> list[Panel]:
    """The rows of `growth` as pictures, as far as there are any."""
    chunks, bodies = (
        Panel("CPU per chunk, over open streams", {}, {}),
        Panel("CPU per MiB, over bodies", {}, {}),
    )
    for row in rows:
        if row.amount is None:
            continue
        way, amount = row.amount
        panel = chunks if way == "streams" else bodies
        panel.labels[amount] = f"{amount:,}" if way == "streams" else size_of(amount)
        for peer, cost in row.medians.items():
            name = peer if way == "streams" else f"{peer}, {way}"
            panel.lines.setdefault(name, []).append((amount, cost))
    return [panel for panel in (chunks, bodies) if len(panel.labels) > 1]


def _chunks_of(bench: Bench, count: int) -> Row:
    """Streams that have `GROWTH_RATE` events a second among them, however many they are (each at most 1,000)."""
    cost: dict[str, list[float]] = {}
    rate = min(GROWTH_RATE, count * 1000)
    for peer in bench.peers("pyworker", "nginx"):
        ask = peer.stream(10**6, count / rate)
        job = Job(
            port=peer.port,
            ask=ask,
            warm=peer.small(),
            connections=count,
            spread=min(2.0, count / rate),
            hold=True,
        )
        with bench.holding(job):
            time.sleep(REPORTS)  # what setting them up left to do
            used = [bench.cpu_within(peer, GROWTH_WINDOW) for _ in range(3)]
            cost[peer.name] = [one * 1e6 / (GROWTH_WINDOW * rate) for one in used]
    return Row("growth", f"CPU per chunk, {count} streams", "µs", cost, amount=("streams", count))


def _bytes_of(bench: Bench, way: str, size: int) -> Row:
    def job(peer: Peer) -> Job:
        return _large(bench, peer, peer.answer(size) if way == "down" else peer.raw_up(size))

    samples = bench.rounds(bench.peers("pyworker", "nginx"), job, rounds=bench.effort.stream_rounds)
    cost = per(samples, lambda one: one.result.answers * size / MIB)
    return Row("growth", f"CPU per MiB {way}, bodies of {size_of(size)}", "µs", cost, amount=(way, size))


def size_of(size: int) -> str:
    """A size in words."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


CASES: Final[dict[str, Case]] = {
    "small-32": small_32,
    "small-256": small_256,
    "latency-1": latency_1,
    "sse-200": sse_200,
    "answer-1m": answer_1m,
    "envelope-1m": envelope_1m,
    "raw-1m": raw_1m,
    "tls-small-32": tls_small_32,
    "tls-sse-200": tls_sse_200,
    "memory": memory,
    "beside-300": beside_300,
    "growth": growth,
}
