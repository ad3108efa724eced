"""The parts of a run: the model server, the engine, the load, the peers as they are wanted, and timed rounds over them."""

import http.client
import shutil
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.certificate import make_certificate
from benchmarks.children import Broken, Child, LoadProcess, end_all, free_port, python
from benchmarks.jobs import Job, Result
from benchmarks.peers import STARTS, Peer, Place
from pyworker.local_engine.keys import Keys

READY_WITHIN: Final = 40.0
"""Seconds a peer may take to answer: the official worker fetches its key with growing pauses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured: rounds over all peers, seconds of a timed round, and how far the sweeps go."""

    rounds: int = 5
    seconds: float = 1.2
    stream_rounds: int = 3
    memory_streams: tuple[int, ...] = (1000, 8000)
    sweep_streams: tuple[int, ...] = (1, 10, 100, 1000, 8000)
    sweep_bodies: tuple[int, ...] = (2**10, 2**14, 2**18, 2**22, 2**26)


QUICK: Final = Effort(
    rounds=2,
    seconds=0.4,
    stream_rounds=1,
    memory_streams=(1000,),
    sweep_streams=(1, 10, 100, 1000),
    sweep_bodies=(2**10, 2**14, 2**18, 2**22),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A timed round: what came back, and the CPU seconds that the peer's processes used for it."""

    result: Result
    cpu: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A peer that could not be measured in a case."""

    case: str
    peer: str
    why: str


@dataclass(slots=True)
class Bench:
    """What cases are given. Peers are started when first wanted and stay for the run."""

    effort: Effort
    place: Place
    load: LoadProcess
    beside: LoadProcess
    """A second one, for what is asked beside the first's load."""
    wanted: Sequence[str]
    tell: Callable[[str], None]
    failures: list[Failure] = field(default_factory=list)
    case: str = ""
    _running: dict[tuple[str, bool], Peer | None] = field(default_factory=dict)

    def peers(self, *names: str, tls: bool = False) -> list[Peer]:
        """Those of ``names`` that are wanted and run."""
        found = [self._peer(name, tls=tls) for name in names if name in self.wanted]
        return [peer for peer in found if peer is not None]

    def _peer(self, name: str, *, tls: bool) -> Peer | None:
        if (name, tls) not in self._running:
            try:
                self._running[name, tls] = self.start(name, tls=tls)
            except Broken as error:
                self.failed(name, str(error))
                self._running[name, tls] = None
        return self._running[name, tls]

    def start(self, name: str, *, tls: bool = False) -> Peer:
        """A fresh peer that answers; whoever asks for it ends it. Raises `Broken`."""
        peer = STARTS[name](self.place, tls=tls)
        try:
            _until_it_answers(peer)
        except Broken:
            if peer.child is not None:
                end_all([peer.child])
            raise
        return peer

    def failed(self, peer: str, why: str) -> None:
        self.failures.append(Failure(self.case, peer, why))
        self.tell(f"{self.case}: {peer} failed: {why}")

    def rounds(
        self, peers: Sequence[Peer], job_for: Callable[[Peer], Job], *, rounds: int | None = None
    ) -> dict[str, list[Sample]]:
        """Timed rounds, interleaved over ``peers``: whatever else the machine does hits all alike.

        A peer that fails is left out of the rest of its case.
        """
        samples: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
        left = list(peers)
        for number in range(rounds or self.effort.rounds):
            turn = number % max(1, len(left))
            for peer in [*left[turn:], *left[:turn]]:
                try:
                    samples[peer.name].append(self.timed(peer, job_for(peer)))
                except Broken as error:
                    self.failed(peer.name, str(error))
                    left.remove(peer)
        return samples

    def timed(self, peer: Peer, job: Job, sample: Callable[[], None] | None = None) -> Sample:
        """One timed round. Raises `Broken`."""
        self.load.prepare(job)
        before = peer.cpu()
        result = self.load.go(job, sample)
        if peer.settle:
            time.sleep(peer.settle)
        return Sample(result, peer.cpu() - before)

    def cpu_within(self, peer: Peer, seconds: float) -> float:
        """CPU seconds that ``peer`` uses in the next ``seconds``."""
        before = peer.cpu()
        time.sleep(seconds)
        return peer.cpu() - before

    @contextmanager
    def fresh(self, name: str) -> Iterator[Peer]:
        """A peer that nothing has been asked yet, for as long as the context lasts. Raises `Broken`."""
        peer = self.start(name)
        try:
            yield peer
        finally:
            assert peer.child is not None
            end_all([peer.child])

    @contextmanager
    def holding(self, job: Job) -> Iterator[Result]:
        """While the context lasts all of ``job``'s connections are open, each with the beginning of an answer."""
        self.load.prepare(job)
        try:
            yield self.load.go(job)
        finally:
            self.load.let_go()

    def end(self) -> None:
        """End all peers, side by side."""
        end_all(
            [peer.child for peer in self._running.values() if peer is not None and peer.child is not None]
        )
        self._running.clear()


@contextmanager
def bench(effort: Effort, wanted: Sequence[str], tell: Callable[[str], None]) -> Iterator[Bench]:
    """Everything that a run needs; all of it is gone when the context is left, however it is left."""
    with ExitStack() as stack:
        stack.enter_context(_sigterm_is_ctrl_c())
        folder = Path(tempfile.mkdtemp(prefix="pyworker-benchmark-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        children: list[Child] = []
        stack.callback(lambda: end_all(children))

        def child(*words: str | Path, log: str, pipes: bool = False) -> None:
            children.append(python(*words, log=folder / log, pipes=pipes))

        model_port, engine_port = free_port(), free_port()
        model_log = folder / "model.log"
        child("-m", "benchmarks.upstream", str(model_port), model_log, log="upstream.log", pipes=True)
        keys = Keys.load(folder / "engine")
        child(
            "-m", "pyworker", "engine", "--port", str(engine_port), "--data-dir", folder / "engine", log="engine.log"
        )  # fmt: skip
        certificate, key = folder / "cert.pem", folder / "key.pem"
        make_certificate(certificate, key)
        place = Place(
            folder, model_port, model_log, f"http://127.0.0.1:{engine_port}", keys, certificate, key
        )
        load, beside = LoadProcess(folder / "load.log"), LoadProcess(folder / "beside.log")
        children += [load.child, beside.child]
        for port, one in ((model_port, children[0]), (engine_port, children[1])):
            _until_it_listens(port, one)
        made = Bench(effort=effort, place=place, load=load, beside=beside, wanted=wanted, tell=tell)
        stack.callback(made.end)
        yield made


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """SIGTERM unwinds what is open, as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _until_it_listens(port: int, child: Child) -> None:
    _until(lambda: _status(port, "GET", "/health", b"", {}, tls=False) > 0, child, "does not listen")


def _until_it_answers(peer: Peer) -> None:
    """Wait for the model server's answer through ``peer``. Raises `Broken` when it does not come."""
    ask = peer.small()
    body = (ask.lead.replace("%(n)d", "123456789") + ask.tail).encode()

    def answers() -> bool:
        return _status(peer.port, "POST", ask.path, body, ask.headers, tls=peer.tls) == http.HTTPStatus.OK

    _until(answers, peer.child, "does not answer a signed request with 200")


def _until(condition: Callable[[], bool], child: Child | None, otherwise: str) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if child is not None:
            child.tree()  # raises when it has ended
        if time.monotonic() > deadline:
            raise Broken(
                f"{otherwise} within {READY_WITHIN:g} s" + (f"; {child.last_words()}" if child else "")
            )
        time.sleep(0.05)


def _status(port: int, method: str, path: str, body: bytes, headers: dict[str, str], *, tls: bool) -> int:
    """The status of an answer; 0 when there is none."""
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=ssl._create_unverified_context())  # noqa: S323, SLF001 - its certificate was made a moment ago
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    )
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
