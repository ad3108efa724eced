"""What keeps the engine from taking a report, in words that say where to look."""

import errno
import socket
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_OTHER_HOST: Final = frozenset({62, 64})
_REFUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_CERTIFICATE: Final = {
    _EXPIRED: "its TLS certificate has expired",
    _NOT_YET_VALID: "its TLS certificate is not valid yet: is this machine's clock right?",
}


def words(error: Exception) -> str:
    """Why there was no answer."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"no TLS: {_reason(error.os_error)}; does this address speak https?"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unconnected(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection before it answered"
    if isinstance(error, OSError):
        return f"the connection broke before it answered ({_reason(error)})"
    return str(error) or type(error).__name__


def _unconnected(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved (DNS: {_reason(error)})"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return f"no way to it: {_reason(error)}"
    return _reason(error)


def _certificate(error: Exception) -> str:
    code = getattr(error, "verify_code", None)
    if code in _CERTIFICATE:
        return _CERTIFICATE[code]
    if code in _OTHER_HOST:
        return f"its TLS certificate is for another host ({_reason(error)})"
    return f"its TLS certificate is not trusted ({_reason(error)})"


def _reason(error: object) -> str:
    """The library's own words, without its name and line number."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    return str(getattr(error, "strerror", None) or error)


def status_words(status: int) -> str:
    """What an answer that is no success means."""
    if status in _REFUSES:
        return f"status {status}: it does not accept this worker; is MASTER_TOKEN right?"
    if status == HTTPStatus.NOT_FOUND:
        return f"status {status}: no engine answers at this address; look at REPORT_ADDR"
    return f"status {status}"
