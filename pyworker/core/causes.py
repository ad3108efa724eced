"""The most likely cause in a model server's last lines, in words that say what to do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pyworker.core.redact import excerpt


@dataclass(frozen=True, slots=True)
class Cause:
    """What it looks like, and an excerpt of the line that says so."""

    words: str
    line: str

    def __str__(self) -> str:
        return f"{self.words} (log: {self.line})"


_KNOWN: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (
            (
                r"cuda out of memory|outofmemoryerror|hip out of memory|not enough (gpu|device) memory"
                r"|no available memory for the cache blocks|unable to allocate cuda|cudaMalloc failed"
            ),
            "the GPU has too little memory: a smaller or quantised model, a shorter context, or a bigger GPU",
        ),
        (
            r"gated repo|access to model .* is restricted|401 client error|invalid (user|hf) token|403 forbidden",
            "the model hub refuses: HF_TOKEN is missing, wrong, or has no access to this model",
        ),
        (r"no space left on device|disk quota exceeded", "the disk is full: rent the instance with more"),
        (
            r"address already in use|couldn't bind|failed to bind|only one usage of each socket",
            "its port is taken: another server, or one of an earlier start, still runs",
        ),
        (
            (
                r"repository not found|repo id must be in the form|is not a valid model identifier"
                r"|is not a local folder|pull model manifest: file does not exist"
            ),
            "there is no such model: look at MODEL_NAME",
        ),
        (
            r"failed to open gguf|model path does not exist|no such file or directory",
            "a file it needs is not there: look at the path",
        ),
        (
            r"corrupted or incomplete|safetensors_rust|invalid header|unexpected eof|checksum mismatch",
            "a model file is damaged: delete it and download it again",
        ),
        (
            (
                r"temporary failure in name resolution|name or service not known|connecttimeout|max retries exceeded"
                r"|network is unreachable|localentrynotfounderror|we couldn't connect to"
            ),
            "the network or the model hub cannot be reached",
        ),
        (
            (
                r"cuda driver version is insufficient|no cuda-capable device|nvidia driver on your system|no kernel image"
                r"|libcuda\.so|failed to initialize nvml|torch is not able to use gpu"
            ),
            "the GPU cannot be used: the driver and the image's CUDA do not fit, or there is none",
        ),
        (
            r"invalid argument: -|unrecognized arguments|error: argument |unexpected argument '",
            "its command line has an option it does not know",
        ),
        (
            r"modulenotfounderror|importerror|cannot open shared object file",
            "its installation is not whole: a module is missing",
        ),
        (
            r"oom-killer|out of memory: killed|^killed$|signal 9|sigkill",
            "it was killed: the instance has too little memory (RAM)",
        ),
    )
)
_TELLING: Final = re.compile(r"\b(error|exception|fatal|failed|traceback)\b|Error:", re.IGNORECASE)


def cause(lines: Sequence[str]) -> Cause | None:
    """The newest known trouble in ``lines`` (oldest first), else the newest line that sounds like one."""
    for line in reversed(lines):
        for pattern, words in _KNOWN:
            if found := pattern.search(line):
                return Cause(words, excerpt(line, around=found[0]))
    for line in reversed(lines):
        if found := _TELLING.search(line):
            return Cause("its log tells of an error", excerpt(line, around=found[0]))
    return None
