"""Names for colours, by perceptual distance.

Distances are Euclidean in OKLab (Björn Ottosson, "A perceptual color space for image processing", 2020,
https://bottosson.github.io/posts/oklab/), with lightness counting half: people name a lit and a shaded
part of one thing alike, and a grey is no green however close its lightness is.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

Rgb = tuple[int, int, int]
Lab = tuple[float, float, float]

LIGHTNESS_WEIGHT = 0.5
# Colours are named after rounding to this many steps per channel, so that names can be remembered.
STEPS_PER_CHANNEL = 32

PALETTE: dict[str, tuple[str, ...]] = {
    "black": ("#000000", "#161616"),
    "dark grey": ("#3c3c3c", "#505050"),
    "grey": ("#808080", "#6e6e6e"),
    "light grey": ("#b4b4b4", "#d0d0d0"),
    "white": ("#ffffff", "#f2f2f2"),
    "cream": ("#fdf6d8", "#f6ead0"),
    "beige": ("#d9c7a0", "#c8b48c"),
    "brown": ("#8b5a2b", "#7a4a26", "#a5703c"),
    "dark brown": ("#4a2f18", "#33200f"),
    "red": ("#e02020", "#c81e28"),
    "dark red": ("#8b1018", "#5c0c12"),
    "orange": ("#ff8c1a", "#f07020"),
    "peach": ("#ffc8a0", "#f5b890"),
    "yellow": ("#ffe61e", "#f5d030"),
    "gold": ("#d4a520", "#b8860b"),
    "olive": ("#7a7a28", "#5c5c20"),
    "light green": ("#96e08c", "#b4e6a0"),
    "green": ("#30a030", "#50b848", "#18e818"),
    "dark green": ("#1e5a28", "#14401c", "#38562a"),
    "turquoise": ("#40d0c8", "#28b4aa"),
    "teal": ("#107878", "#0a5a5c"),
    "light blue": ("#96c8f0", "#b4dcf5"),
    "blue": ("#2864dc", "#3c8ce6", "#2040ff"),
    "dark blue": ("#142864", "#1e3c8c", "#0c1a40"),
    "purple": ("#7828a0", "#501470", "#6e4070"),
    "mauve": ("#9d5f74", "#b08094"),
    "lilac": ("#b496dc", "#d2bef0"),
    "magenta": ("#d228a0", "#e650c8"),
    "pink": ("#ffb4c8", "#f58cb4"),
}


@dataclass(frozen=True, slots=True)
class NamedColour:
    """`hex` is the mean of the pixels that have the name; `share` is their part of the picture, 0 to 1."""

    name: str
    hex: str
    share: float


def to_oklab(rgb: Rgb) -> Lab:
    """OKLab of an sRGB colour (channels 0 to 255): lightness 0 to 1, then green-red and blue-yellow."""
    red, green, blue = (_linear(channel / 255) for channel in rgb)
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    medium = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def _linear(channel: float) -> float:
    """IEC 61966-2-1: the light that an sRGB channel (0 to 1) stands for."""
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def _rgb(hex_text: str) -> Rgb:
    red, green, blue = bytes.fromhex(hex_text.removeprefix("#"))
    return red, green, blue


_SAMPLES = [(to_oklab(_rgb(sample)), name) for name, samples in PALETTE.items() for sample in samples]


@functools.cache
def name_of(rgb: Rgb) -> str:
    """The palette's nearest name."""
    wanted = to_oklab(rgb)
    return min(_SAMPLES, key=lambda sample: _distance(sample[0], wanted))[1]


def _distance(one: Lab, other: Lab) -> float:
    """Squared, which is enough to compare."""
    lightness, green_red, blue_yellow = (a - b for a, b in zip(one, other, strict=True))
    return LIGHTNESS_WEIGHT * lightness**2 + green_red**2 + blue_yellow**2


def main_colours(pixels: list[Rgb], *, most: int, least_share: float) -> list[NamedColour]:
    """The colours with the largest shares, largest first; empty for no pixels."""
    sums: dict[str, list[int]] = {}
    counts: Counter[str] = Counter()
    for rgb, count in Counter(pixels).items():
        name = name_of(_rounded(rgb))
        counts[name] += count
        total = sums.setdefault(name, [0, 0, 0])
        for channel in range(3):
            total[channel] += rgb[channel] * count
    return [
        NamedColour(name, _hex(sums[name], count), round(count / len(pixels), 3))
        for name, count in counts.most_common(most)
        if count >= least_share * len(pixels)
    ]


def _rounded(rgb: Rgb) -> Rgb:
    size = 256 // STEPS_PER_CHANNEL
    # The middle of a step, but the two ends stay pure, or nothing would be black or white.
    red, green, blue = (
        255 if channel >= 256 - size else 0 if channel < size else channel // size * size + size // 2
        for channel in rgb
    )
    return red, green, blue


def _hex(total: list[int], count: int) -> str:
    return "#" + "".join(f"{round(channel / count):02x}" for channel in total)
