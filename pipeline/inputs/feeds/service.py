"""Pulls prices every so often until it is stopped."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.errors import LeadtimeError
from pipeline.inputs.feeds.files import Feeds, read_feeds
from pipeline.inputs.feeds.pull import Pulled, pull
from pipeline.logs import get_logger
from pipeline.settings import Settings

MOST_EVERY_S: Final = 86_400
"""As LEADTIME_FEEDS_EVERY_S has it."""
_LOG = get_logger()


def run(
    settings: Settings,
    file: Path,
    every_s: float,
    stop: threading.Event,
    done: Callable[[Pulled], None] = lambda _: None,
) -> None:
    """Pull at once and then every so often. The file is read anew each time; what fails is logged, and prices stand.

    A file that cannot be followed ends nothing: it may be in the middle of an edit, and whoever supervises this would
    end with it. Until it can be, feeds are those of the last one that could.

    Args:
        settings: of the installation.
        file: feeds file.
        every_s: seconds from the end of one pull to the beginning of the next.
        stop: ends it.
        done: called with each pull.
    """
    feeds: Feeds | None = None
    if settings.price_max_age_s is not None and every_s > settings.price_max_age_s / 2:
        _LOG.warning(
            "prices become stale between two pulls", every_s=every_s, price_max_age_s=settings.price_max_age_s
        )
    while not stop.is_set():
        try:
            feeds = read_feeds(file, settings.gcp_api_key)
        except LeadtimeError as error:
            _LOG.warning("feeds file not read", error=str(error))
        try:
            pulled = pull(settings, feeds, stop=stop) if feeds is not None else None
        except LeadtimeError as error:
            pulled = None
            _LOG.warning("no prices pulled", error=str(error))
        if pulled is not None and not stop.is_set():
            for offer, fault in pulled.changes.faults.items():
                _LOG.warning("price not followed", offer=offer, reason=fault)
            done(pulled)
        stop.wait(every_s)
