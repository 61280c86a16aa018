"""A draft of an alt text from facts alone: it says what is measured and guesses nothing."""

from __future__ import annotations

from datetime import datetime

from app.handlers.describe.facts import Facts

MOSTLY_SHARE = 0.55
TOLD_COLOURS = 3
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
TOLD_BRIGHTNESS = {"very dark": "very dark", "dark": "dark", "very bright": "very bright"}


def alt_text(facts: Facts) -> str:
    """One sentence, such as "Landscape photograph, 4032 x 3024 pixels, mostly dark green and grey; taken
    on 3 May 2024 with a Canon EOS 80D."."""
    parts = [_kind(facts), f"{facts.width} x {facts.height} pixels", _colours(facts), _light(facts)]
    origin = _origin(facts)
    return ", ".join(part for part in parts if part) + (f"; {origin}" if origin else "") + "."


def _kind(facts: Facts) -> str:
    noun = "photograph" if facts.exif.camera else "picture"
    shape = {"panorama": "wide"}.get(facts.orientation, facts.orientation)
    if facts.frames > 1:
        return f"Animated {shape} {noun} of {facts.frames} frames"
    return f"{shape.capitalize()} {noun}" + (" with transparent parts" if facts.has_transparency else "")


def _colours(facts: Facts) -> str:
    named = facts.main_colours[:TOLD_COLOURS]
    if not named:
        return ""
    for told in (1, 2):
        if sum(colour.share for colour in named[:told]) >= MOSTLY_SHARE:
            return f"mostly {_listed([colour.name for colour in named[:told]])}"
    return f"in {_listed([colour.name for colour in named])}"


def _light(facts: Facts) -> str:
    word = TOLD_BRIGHTNESS.get(facts.brightness.word)
    return f"{word} overall" if word and facts.main_colours else ""


def _origin(facts: Facts) -> str:
    when = f"on {_date(facts.exif.taken_at)}" if facts.exif.taken_at else ""
    camera = f"with {_article(facts.exif.camera)} {facts.exif.camera}" if facts.exif.camera else ""
    return " ".join(part for part in ("taken", when, camera) if part) if when or camera else ""


def _date(taken_at: str) -> str:
    day = datetime.fromisoformat(taken_at)
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _article(name: str) -> str:
    return "an" if name[0].lower() in "aeio" else "a"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
