"""Durations as people write them: "2 hours", "90m", "1h30m", "1 day and 12 hours", or ISO 8601 "PT2H"."""

from __future__ import annotations

import re
from datetime import timedelta

LONGEST = timedelta(days=30)
TEXT_LIMIT = 100

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PART = re.compile(
    r"(?P<number>\d{1,9}(?:\.\d{1,6})?)\s*"
    r"(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])(?:\s|,|and\b)*"
)
_ISO = re.compile(r"p(?:(\d+)d)?(?:t(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?)?")


def parse_duration(text: str) -> timedelta:
    """The duration that the text names. Raises `ValueError` with a sentence for anything else.

    Longer than zero and at most 30 days.
    """
    words = text.strip().lower()
    if not words or len(words) > TEXT_LIMIT:
        raise ValueError("must be a duration such as 2 hours, 90m, 1h30m or PT2H")
    duration = _from_iso(words) if words.startswith("p") else _from_words(words)
    if not timedelta(0) < duration <= LONGEST:
        raise ValueError(f"must be longer than zero and at most {LONGEST.days} days")
    return duration


def _from_words(words: str) -> timedelta:
    total, position = timedelta(0), 0
    while position < len(words):
        part = _PART.match(words, position)
        if part is None:
            raise ValueError("must be a duration with its unit, such as 2 hours, 90m, 1h30m or PT2H")
        total += timedelta(**{_UNITS[part["unit"][0]]: float(part["number"])})
        position = part.end()
    return total


def _from_iso(words: str) -> timedelta:
    match = _ISO.fullmatch(words)
    if match is None or not any(match.groups()) or any(len(number or "") > 9 for number in match.groups()):
        raise ValueError("must be an ISO 8601 duration of days, hours, minutes and seconds, such as PT2H")
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
