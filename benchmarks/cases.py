"""What is measured, one function a case: rows of figures, with the goals that hold for ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.bench import Bench, Sample
from benchmarks.goals import Bound, Goal, Row
from benchmarks.jobs import Job
from benchmarks.peers import Peer

ALL: Final = ("pyworker", "aiohttp", "nginx", "official")

SMALL_GOALS: Final = (
    Goal(Bound(0.40, "aiohttp"), Bound(0.5, "aiohttp")),
    Goal(Bound(0.05, "official")),
    Goal(Bound(3, "nginx")),
)

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

    def job(peer: Peer) -> Job:
        return Job(
            port=peer.port,
            ask=peer.stream(EVENTS, EVENT_PAUSE),
            warm=peer.small(),
            connections=STREAMS,
            each=STREAMS_EACH,
            spread=EVENTS * EVENT_PAUSE,
        )

    samples = bench.rounds(bench.peers(*ALL, "direct"), job, rounds=bench.effort.stream_rounds)
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


def answer_1m(bench: Bench) -> list[Row]:
    """Answers of 1 MiB, 4 connections that ask all the time."""

    def job(peer: Peer) -> Job:
        return Job(
            port=peer.port,
            ask=peer.answer(2**20),
            warm=peer.small(),
            connections=4,
            seconds=bench.effort.seconds,
        )

    samples = bench.rounds(bench.peers(*ALL), job)
    goal = Goal(Bound(1.3, "nginx"), Bound(0.6, "aiohttp"))
    return [Row("answer-1m", "CPU per answer", "µs", per(samples, answers), [goal])]


CASES: Final[dict[str, Case]] = {
    "small-32": small_32,
    "small-256": small_256,
    "sse-200": sse_200,
    "answer-1m": answer_1m,
}
