"""How a request ended."""

from enum import Enum


class Outcome(Enum):
    """How a request ended, in the wire's words."""

    SERVED = "Success"
    FAILED = "Error"
    CANCELLED = "Cancelled"
    REJECTED = "Rejected"

    __hash__ = object.__hash__  # Enum's own runs in Python, and every request is looked up by its outcome
