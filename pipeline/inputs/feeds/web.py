"""Documents over HTTPS, each bounded in time and size, from the host that was named and from no other.

Redirects are not followed. The proxy is that of the environment for HTTPS (HTTPS_PROXY, NO_PROXY), as the SDKs have it;
plain HTTP stays on this machine.
"""

import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import quote, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, getproxies

from pipeline.inputs.feeds.feed import FeedFault
from pipeline.providers.bounds import READ_S, one_line
from pipeline.security.addresses import is_loopback

MOST_BYTES: Final = 32 * 1024**2
"""Of an answer when it is unpacked: a page of 5,000 SKUs of GCP has some 8 MB."""
MOST_PAGES: Final = 200
"""GCP's Compute Engine has some ten; Azure's of one machine, one."""
CHUNK: Final = 64 * 1024
GZIP: Final = 31
"""zlib's window bits for a gzip stream."""
_SAFE: Final = "%/:?&=$'(),+~!*@;[]"
_PORTS: Final = {"https": 443, "http": 80}


def url_fault(url: str) -> str | None:
    """What is wrong with the address of a feed, or None: https, or http on this machine's loopback."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return f"is no URL: {url[:80]!r}"
    if parts.username is not None or parts.password is not None:
        return "must not have a password: it would be in logs"
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
        return f"must be https://host/…, or http on the loopback, got {url[:80]!r}"
    return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def following(base: str, link: str) -> str:
    """The address of a next page.

    Raises:
        FeedFault: it is at another host than the first.
    """
    fault = url_fault(link)
    if fault is None and _origin(link) != _origin(base):
        fault = f"is at another host: {link[:80]!r}"
    if fault is not None:
        raise FeedFault(f"its next page {fault}")
    return quote(link, safe=_SAFE)


def get(url: str, until_s: float, headers: Mapping[str, str] | None = None) -> bytes:
    """A document.

    Args:
        url: as `url_fault` takes it.
        until_s: monotonic seconds.
        headers: of the request.

    Raises:
        FeedFault: no answer in time, another status than 200, a redirect, or more than MOST_BYTES.
    """
    sent = {"Accept-Encoding": "gzip", "User-Agent": "leadtime", **(headers or {})}
    request = Request(url, headers=sent)  # noqa: S310 — its scheme is checked, and the opener has no other
    opener = OpenerDirector()  # without what follows redirects and opens files
    proxies = {scheme: proxy for scheme, proxy in getproxies().items() if scheme == "https"}
    for handler in (ProxyHandler(proxies), HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    try:
        with opener.open(request, timeout=max(0.05, min(READ_S, _left(until_s)))) as answer:
            if 300 <= answer.status < 400:
                location = str(answer.headers.get("Location"))[:80]
                raise FeedFault(f"redirects to {location!r}, which is not followed: give the address itself")
            if answer.status != 200:
                raise FeedFault(f"answers with status {answer.status}")
            return _body(answer, until_s)
    except (OSError, HTTPException, ValueError, zlib.error) as error:
        raise FeedFault(f"no answer: {one_line(error)}") from None


def _left(until_s: float) -> float:
    left = until_s - time.monotonic()
    if left <= 0:
        raise FeedFault("answers too slowly")
    return left


def _body(answer: HTTPResponse, until_s: float) -> bytes:
    encoding = (answer.headers.get("Content-Encoding") or "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise FeedFault(f"answers in an encoding that was not asked for: {encoding[:40]!r}")
    unpacked, body = zlib.decompressobj(GZIP) if encoding == "gzip" else None, bytearray()
    left = math.inf if answer.length is None else answer.length
    while left > 0 and (chunk := answer.read1(CHUNK)):
        _left(until_s)
        left -= len(chunk)
        body += unpacked.decompress(chunk, MOST_BYTES + 1 - len(body)) if unpacked is not None else chunk
        if len(body) > MOST_BYTES:
            raise FeedFault(f"answers more than {MOST_BYTES // 1024**2} MiB")
    if 0 < left < math.inf or (unpacked is not None and not unpacked.eof):
        raise FeedFault("its answer ends early")
    return bytes(body)


def document(data: bytes) -> dict[str, Any]:
    """A JSON object; numbers with a point are texts, so that none is rounded.

    Raises:
        FeedFault: it is none.
    """
    try:
        value: Any = json.loads(data, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FeedFault("answers what is no JSON object")
    return value


def rows(page: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects that a page lists under a key.

    Raises:
        FeedFault: there is no such list.
    """
    listed: Any = page.get(key)
    if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
        raise FeedFault(f"answers without a list {key}")
    return listed


def numbered() -> Iterator[int]:
    """Numbers of pages.

    Raises:
        FeedFault: there are more than MOST_PAGES.
    """
    yield from range(MOST_PAGES)
    raise FeedFault(f"its pages do not end: {MOST_PAGES} were read")
