"""What may be shown of a text that others wrote: a short excerpt, its secrets masked, nothing in it that moves a cursor.

A model server's log and the bodies of its answers may hold API keys, passwords, signed URLs. Whatever of them is quoted
(to the engine, in status, in a refusal, in a log line of ours) goes through `excerpt`. It masks what looks like a secret or
stands where one is expected; in doubt it masks.
"""

import re
from functools import lru_cache
from typing import Final

MAX_EXCERPT: Final = 200
"""Characters of an excerpt."""

WINDOW: Final = 8192
"""Characters of a text that are looked at."""

MASK: Final = "***"
SHORT: Final = 4
LONGEST_WORD: Final = 24
"""Letters and digits in a row that can still be a word; those of a key have no such bound."""

_ANSI: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]")
_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)

# What stands between a name and its value (`=`, `: `, `" => "`, or of a tuple `', '`), and what a value looks like. The
# whitespace is single by then.
_IS: Final = r"""(?:\\*["']?\ ?(?:=>|[:=])\ ?|\\*["'],\ ?(?=[bu]?\\*["']))"""
_QUOTED: Final = (
    r"""\[[^\]]*\]?|[bruf]?(?:\\{1,8}["'].*?(?=\\["']|$)|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)"""
)
_BARE: Final = r"""(?!\{\\*["'])[^\s&"']*[^\s&"',;)\]}]"""
_NAMES: Final = (
    r"(?:(?:api[_-]?key|access[_-]?key|private[_-]?key|secret|passw(?:or)?d|passphrase|credential|signature|mtoken"
    r"|auth[_-]?data|session[_-]?(?:id|auth)|_pass\b|(?<![a-z])(?:pwd|sig|auth)(?![a-z]))[\w-]{0,24}"
    r"|token(?![a-z])(?:[_-]?(?:value|secret|key|hash))?)"
)

_RULES: Final = tuple(
    re.compile(rule, re.IGNORECASE)
    for rule in (
        r"-----BEGIN [A-Z0-9 ]{1,40}-----(?P<secret>.*?)(?:-----END|$)",
        r"""://(?P<secret>[^\s/"'<>]+)@""",
        rf"(?:authorization|x-auth-data){_IS}(?P<secret>{_QUOTED}|digest .*|(?:[a-z-]{{2,20}} )?{_BARE})",
        rf"\b(?:set-)?cookie{_IS}(?P<secret>{_QUOTED}|.+)",
        rf"(?<!\S)--?[\w-]{{0,24}}(?:key|token|password|secret) (?P<secret>{_QUOTED}|(?!-){_BARE})",
        rf"(?P<name>{_NAMES}){_IS}(?P<secret>{_QUOTED}|{_BARE})",
        r"""\bbearer (?P<secret>[^\s"',;]{6,})""",
        r"\bbasic (?P<secret>(?=[a-z]*[0-9+/=])[a-z0-9+/]{8,}={0,2})",
        r"(?<![a-z0-9])(?P<secret>(?:hf|api_org)_(?:(?=[a-z]*[0-9])[a-z0-9]{6,}|[a-z0-9]{16,}))",
        (
            r"(?<![a-z0-9])(?P<secret>(?:sk|rk|pk|nvapi|glpat|r8|gsk|gh[oprsu]|github_pat|xox[a-z]|npm|pypi|dop_v1|dckr_pat)"
            r"[_-](?:(?=[a-z_-]*[0-9])[a-z0-9_-]{6,}|[a-z0-9_-]{16,}))"
        ),
        r"(?<![a-z0-9])(?P<secret>A(?:KIA|SIA|GPA|ROA|IDA|IPA)[A-Z0-9]{12,}|AIza[a-z0-9_-]{20,})",
        r"(?<![a-z0-9])(?P<secret>[0-9a-f]{32,})",
        r"(?<![a-z0-9_-])(?P<secret>eyJ[a-z0-9_-]{5,}\.[a-z0-9_-]{5,}(?:\.[a-z0-9_-]*)?)",
    )
)
_IN_QUOTES: Final = re.compile(r"""([bruf]?\\{0,8}["'])(.*?)(["'])?""", re.IGNORECASE)
_RUN: Final = re.compile(r"[A-Za-z0-9+/_=-]{32,}")
_APART: Final = re.compile(r"[+/_=-]+")
_PIECE: Final = re.compile(r"[A-Z]+[a-z]*|[a-z]+|[0-9]+")
_COUNT: Final = re.compile(r"[0-9]{1,7}|<.*")


def excerpt(text: str, *, around: str = "", most: int = MAX_EXCERPT) -> str:
    """At most ``most`` characters of ``text``, in one line, without secrets; of a longer one those with ``around`` in them.

    It is never longer than ``text``, and an excerpt of an excerpt is the same again.
    """
    return _excerpt(text[: WINDOW + 1], around, most)


@lru_cache(maxsize=256)  # a line that is a reason is quoted in every 503
def _excerpt(text: str, around: str, most: int) -> str:
    line = _masked(_one_line(text))
    at = line.find(around)
    if at > most // 2 and len(line) > most:
        line = "…" + line[at - most // 4 :]
    if len(line) > most:
        line = line[: most - 1] + "…"
    while (again := _masked(line)) != line:  # what was cut off may have kept a rule from being met
        line = again
    return line


def _one_line(text: str) -> str:
    """Visible characters and single spaces; without the last word where the text was cut in it."""
    visible = _INVISIBLE.sub("", _ANSI.sub("", text[:WINDOW]))
    line = " ".join(visible.split())
    return line[: max(map(line.rfind, " ,;&\"'")) + 1 or None] if len(text) > WINDOW else line


def _masked(line: str) -> str:
    for rule in _RULES:
        line = rule.sub(_mask, line)
    return _RUN.sub(_mask_run, line).strip()


def _mask(found: re.Match[str]) -> str:
    secret = found["secret"]
    if _is_count(found, secret):
        return found[0]
    start, end = (at - found.start() for at in found.span("secret"))
    quoted = _IN_QUOTES.fullmatch(secret)
    opening, inner, closing = quoted.groups("") if quoted is not None else ("", secret, "")
    return found[0][:start] + opening + MASK[: len(inner)] + closing + found[0][end:]


def _is_count(found: re.Match[str], secret: str) -> bool:
    """Of a language model's tokens, not of one that opens doors: `eos_token = 2`, `#new-token: 7`."""
    name = found.groupdict().get("name")
    return name is not None and name.lower() == "token" and _COUNT.fullmatch(secret) is not None


def _mask_run(found: re.Match[str]) -> str:
    run = found[0]
    parts = [part for part in _APART.split(run) if part]
    names_something = "+" not in run and run[-1] != "=" and all(map(_is_word, parts))
    return run if names_something or not parts else MASK


def _is_word(part: str) -> bool:
    """Part of a path or of a model's name, as `Qwen2ForCausalLM`: in a key capitals, small letters and digits change more often."""
    if len(part) <= SHORT or len(part) >= LONGEST_WORD:
        return len(part) <= SHORT
    length_of_pieces = len(part) / len(_PIECE.findall(part))
    return length_of_pieces >= (2.3 if len(part) <= 2 * SHORT else 3.2)
