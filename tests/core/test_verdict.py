"""One sentence, and the evidence for it."""

from dataclasses import replace

import pytest

from pyworker.core.lifecycle import State
from pyworker.core.progress import Picture, Stage
from pyworker.core.verdict import MAX_LINE, Facts, HealthFacts, LogFacts, ProofFacts, Signal, verdict

LOG = LogFacts("/var/log/m.log", ("model loaded",), ("starting", "shards 1/4"), still_for=3.0)
HEALTH = HealthFacts("/health", ok=False, said="status 503", age=0.3)
PROOF = ProofFacts()
FACTS = Facts(
    state=State.LOADING,
    error="",
    seconds_in_state=30.0,
    seconds_left=1770.0,
    picture=Picture(Stage.START, 0.0, 0.0),
    moved="log still for 3 s",
    log=LOG,
    health=HEALTH,
    proof=PROOF,
    benchmark="",
    key="",
)
OOM = "torch.OutOfMemoryError: CUDA out of memory."


def line(**changes: object) -> str:
    return verdict(replace(FACTS, **changes)).line  # type: ignore[arg-type] # any field


def signal(name: str, **changes: object) -> Signal:
    found = verdict(replace(FACTS, **changes)).signals  # type: ignore[arg-type] # any field
    return next(one for one in found if one.name == name)


def test_loading_says_what_it_waits_for() -> None:
    assert line() == (
        "waiting for the model server: no loaded line in its log and no 200 from its health route yet"
    )
    assert line(log=replace(LOG, lines=()), health=None) == (
        "waiting for the model server: no log at /var/log/m.log yet"
    )
    assert line(log=None, health=None) == "waiting for the model server: no sign of it yet"


def test_a_download_says_how_far_it_is() -> None:
    picture = Picture(Stage.DOWNLOAD, 2.5e9, 1e8, 5e9, 50.0, 25.0)

    assert line(picture=picture).endswith("yet (downloading, 50 % of 5 GB, 100 MB/s, 25 s left)")


def test_proving_says_what_the_request_got() -> None:
    assert line(state=State.PROVING) == "the proving request has not succeeded yet: it is under way"
    assert line(state=State.PROVING, proof=None) == line(state=State.PROVING)
    assert line(state=State.PROVING, proof=ProofFacts(3, "POST /x answered 503: Loading model", 0.1)) == (
        "the proving request has not succeeded yet: POST /x answered 503: Loading model (3 tries)"
    )
    assert line(state=State.PROVING, proof=ProofFacts(1, "no", 0.1)).endswith("yet: no")


def test_the_rest_of_the_way() -> None:
    assert line(state=State.BENCHMARKING) == "measuring perf"
    assert line(state=State.BENCHMARKING, benchmark="run 2 of 8") == "measuring perf: run 2 of 8"
    assert line(state=State.CONFIRMING, key="not fetched yet") == (
        "waiting for the engine's public key (not fetched yet) and a 200 from health route /health (status 503)"
    )
    assert line(state=State.CONFIRMING, health=None) == "waiting for the last confirmation"
    assert line(state=State.READY) == ""
    assert line(state=State.DRAINING) == "finishing what runs, then leaving"


def test_the_cause_from_the_log_is_named_once() -> None:
    log = replace(LOG, lines=("starting", OOM, "bye"))

    assert line(log=log).endswith(
        "; most likely the GPU has too little memory: a smaller or quantised model, a shorter context, or a bigger GPU "
        f"(log: {OOM})"
    )
    assert line(state=State.ERRORED, error=f"log: {OOM}", log=log) == f"log: {OOM}"
    assert verdict(replace(FACTS, state=State.READY, log=log)).cause is None


def test_the_line_fits_into_an_answer() -> None:
    assert len(line(state=State.ERRORED, error="x" * 5000)) == MAX_LINE


def test_every_signal_has_value_age_and_what_would_turn_it_green() -> None:
    assert signal("progress") == Signal(
        "progress",
        good=False,
        value="starting; log still for 3 s; 30 min of LOAD_TIMEOUT left",
        age=30.0,
        wants="the next stage",
    )
    assert signal("loaded line") == Signal(
        "loaded line",
        good=False,
        value="last line: shards 1/4",
        age=3.0,
        wants="a line that has 'model loaded'",
    )
    assert signal("health route /health") == Signal(
        "health route /health", good=False, value="status 503", age=0.3, wants="status 200"
    )
    assert not signal("proving request").good
    assert signal("benchmark").value == "not begun"
    assert signal("engine's public key").good


def test_signals_turn_green() -> None:
    ready = {"state": State.READY, "seconds_left": None, "log": replace(LOG, loaded=5.0)}

    assert signal("loaded line", **ready) == Signal(
        "loaded line", good=True, value="seen", age=5.0, wants="a line that has 'model loaded'"
    )
    assert signal("proving request", **ready).value == "succeeded"
    assert signal("benchmark", **ready) == Signal(
        "benchmark", good=True, value="done", age=None, wants="runs that succeed"
    )
    assert signal("progress", **ready).good
    assert "LOAD_TIMEOUT" not in signal("progress", **ready).value


@pytest.mark.parametrize(
    ("proof", "value"),
    [
        (ProofFacts(), "not sent yet"),
        (ProofFacts(2, "status 503", 1.0), "status 503"),
        (ProofFacts(asking_for=12.0), "sent; the present one waits for 12 s"),
        (ProofFacts(2, "status 503", 1.0, asking_for=12.0), "status 503; the present one waits for 12 s"),
    ],
)
def test_the_proving_request_as_a_signal(proof: ProofFacts, value: str) -> None:
    assert signal("proving request", state=State.PROVING, proof=proof).value == value


def test_only_what_there_is_is_a_signal() -> None:
    found = verdict(replace(FACTS, log=None, health=None, proof=None, blocked="TLS certificate: missing"))

    assert [one.name for one in found.signals] == ["progress", "benchmark", "engine's public key", "instance"]
    assert signal("loaded line", log=LogFacts("/m.log", ())) == Signal(
        "loaded line", good=False, value="/m.log is not there, or empty", age=None, wants="no line"
    )
