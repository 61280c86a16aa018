"""Four small pictures, painted by formulas: something to describe on the first run, without a download.

The same version of Pillow paints the same bytes every time.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

CAMERA_MAKER = "Twintrack"
CAMERA = "Twintrack sample"
# Painted larger and reduced at the end: that is what makes the edges smooth.
OVERSAMPLING = 2
ROTATE_90 = 6  # EXIF tag 274: the viewer turns the picture by 90 degrees


def generate(folder: Path) -> list[Path]:
    """Write the sample pictures that `folder` does not have yet, and return the paths of all.

    A picture appears complete or not at all. Raises `OSError` when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (paint, taken_at) in SAMPLE_PICTURES.items():
        if not (folder / name).exists():
            _save(paint(), folder / name, taken_at)
    return [folder / name for name in SAMPLE_PICTURES]


def sunset() -> Image.Image:
    """An orange evening sky over three ranges of hills."""
    picture = _gradient(960, 640, [(0.0, (62, 48, 110)), (0.45, (226, 110, 92)), (0.75, (255, 196, 120))])
    _glow(picture, (640, 400), 70, (255, 244, 196))
    draw = _pen(picture)
    hills = [(430, 34, (142, 74, 98)), (490, 46, (84, 46, 84)), (560, 38, (38, 26, 56))]
    for number, (height, swing, colour) in enumerate(hills):
        _hill(draw, picture.width, picture.height, height, swing, colour, seed=number)
    return _reduced(picture)


def harbour() -> Image.Image:
    """Three sailing boats of triangles on a blue sea."""
    picture = _gradient(960, 640, [(0.0, (120, 186, 232)), (0.55, (216, 236, 246))])
    draw = _pen(picture)
    _box(draw, (0, 352, 960, 640), (36, 96, 168))
    randomness = random.Random(7)
    for _ in range(90):
        x, y = randomness.randrange(960), randomness.randrange(372, 636)
        _box(draw, (x, y, x + randomness.randrange(14, 60), y + 2), (96, 152, 208))
    _box(draw, (0, 300, 250, 352), (98, 116, 96))
    for x, height, colour in ((40, 120, (206, 92, 70)), (98, 84, (240, 216, 170)), (160, 104, (186, 70, 60))):
        _house(draw, x, 352, height, colour)
    _boat(draw, 420, 470, 1.0, (224, 70, 54))
    _boat(draw, 700, 420, 0.6, (250, 250, 244))
    _boat(draw, 620, 560, 1.3, (250, 190, 60))
    return _reduced(picture)


def lighthouse() -> Image.Image:
    """A lighthouse at night, upright: the file holds it lying, and EXIF says so."""
    picture = _gradient(480, 720, [(0.0, (8, 12, 36)), (0.7, (28, 44, 92)), (1.0, (44, 66, 112))])
    draw = _pen(picture)
    randomness = random.Random(11)
    for _ in range(140):
        x, y = randomness.randrange(480), randomness.randrange(460)
        _box(draw, (x, y, x + 1, y + 1), (200, 206, randomness.randrange(200, 256)))
    beam = Image.new("RGB", picture.size)
    _polygon(_pen(beam), [(240, 214), (0, 96), (0, 250)], (110, 104, 60))
    picture = ImageChops.add(picture, beam.filter(ImageFilter.GaussianBlur(6)))
    draw = _pen(picture)
    _polygon(draw, [(0, 720), (0, 640), (150, 580), (330, 584), (480, 660), (480, 720)], (16, 20, 30))
    for band in range(6):
        top, inset = 250 + band * 56, 6 * (6 - band)
        colour = (196, 52, 48) if band % 2 == 0 else (232, 230, 222)
        _polygon(
            draw,
            [(184 + inset, top), (296 - inset, top), (302 - inset, top + 56), (178 + inset, top + 56)],
            colour,
        )
    _box(draw, (216, 196, 264, 250), (250, 226, 130))
    _polygon(draw, [(206, 196), (240, 160), (274, 196)], (150, 38, 38))
    return _reduced(picture).transpose(Image.Transpose.ROTATE_90)


def balloons() -> Image.Image:
    """Four balloons on a transparent ground."""
    picture = Image.new("RGBA", (640 * OVERSAMPLING, 640 * OVERSAMPLING), (0, 0, 0, 0))
    draw = _pen(picture)
    spots = [
        (180, 210, (222, 60, 70)),
        (330, 150, (250, 204, 60)),
        (460, 250, (60, 130, 220)),
        (310, 300, (90, 180, 90)),
    ]
    for x, y, _ in spots:
        _line(draw, [(x, y), (x * 0.4 + 190, 470), (320, 610)], (120, 120, 124))
    for x, y, colour in spots:
        _ellipse(draw, (x - 84, y - 104, x + 84, y + 104), colour)
        _polygon(draw, [(x - 12, y + 116), (x + 12, y + 116), (x, y + 98)], colour)
        light: Colour = (min(255, colour[0] + 70), min(255, colour[1] + 70), min(255, colour[2] + 70))
        _ellipse(draw, (x - 48, y - 72, x - 14, y - 24), light)
    return _reduced(picture)


SAMPLE_PICTURES: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "sample-sunset.jpg": (sunset, "2024:05:03 20:41:12"),
    "sample-harbour.png": (harbour, "2024:06:21 11:05:40"),
    "sample-lighthouse.jpg": (lighthouse, "2024:11:09 22:17:03"),
    "sample-balloons.png": (balloons, "2024:08:15 15:30:00"),
}


def _save(picture: Image.Image, path: Path, taken_at: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = CAMERA_MAKER
    exif[ExifTags.Base.Model] = CAMERA
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken_at
    if path.name == "sample-lighthouse.jpg":
        exif[ExifTags.Base.Orientation] = ROTATE_90
    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as unfinished:
        picture.save(
            unfinished, kind, exif=exif, **({"quality": 88} if kind == "JPEG" else {"optimize": True})
        )
    os.chmod(unfinished.name, 0o644)
    os.replace(unfinished.name, path)


def _gradient(width: int, height: int, stops: list[tuple[float, Colour]]) -> Image.Image:
    """A vertical gradient through colours at parts (0 to 1) of the height."""
    column = Image.new("RGB", (1, height * OVERSAMPLING))
    for y in range(column.height):
        column.putpixel((0, y), _between(stops, y / column.height))
    return column.resize((width * OVERSAMPLING, column.height))


def _between(stops: list[tuple[float, Colour]], part: float) -> Colour:
    for (start, first), (end, second) in itertools.pairwise(stops):
        if part <= end:
            weight = (part - start) / (end - start)
            red, green, blue = (round(a + (b - a) * weight) for a, b in zip(first, second, strict=True))
            return red, green, blue
    return stops[-1][1]


def _glow(picture: Image.Image, centre: tuple[int, int], radius: int, colour: Colour) -> None:
    """A disc of light with a soft edge, added to the picture in place."""
    light = Image.new("RGB", picture.size)
    x, y = centre
    for size, strength in ((radius * 2, 0.25), (radius, 1.0)):
        dimmed: Colour = (int(colour[0] * strength), int(colour[1] * strength), int(colour[2] * strength))
        _ellipse(_pen(light), (x - size, y - size, x + size, y + size), dimmed)
        light = light.filter(ImageFilter.GaussianBlur(size / 3 if strength < 1 else 3))
    picture.paste(ImageChops.screen(picture, light))


def _hill(
    draw: ImageDraw.ImageDraw, width: int, height: int, level: int, swing: int, colour: Colour, *, seed: int
) -> None:
    randomness = random.Random(seed)
    waves = [(randomness.uniform(0.003, 0.012), randomness.uniform(0, 6.28)) for _ in range(3)]
    ridge = [
        (
            x,
            level
            - sum(swing / (n + 1) * math.sin(x * pace + phase) for n, (pace, phase) in enumerate(waves)),
        )
        for x in range(0, width // OVERSAMPLING + 1, 2)
    ]
    _polygon(draw, [(0, height), *ridge, (width, height)], colour)


def _house(draw: ImageDraw.ImageDraw, x: int, ground: int, height: int, colour: Colour) -> None:
    top = ground - height
    _box(draw, (x, top, x + 46, ground), colour)
    _polygon(draw, [(x - 5, top), (x + 23, top - 26), (x + 51, top)], (92, 60, 58))
    for row in range(top + 14, ground - 18, 26):
        _box(draw, (x + 9, row, x + 18, row + 12), (250, 232, 170))
        _box(draw, (x + 28, row, x + 37, row + 12), (250, 232, 170))


def _boat(draw: ImageDraw.ImageDraw, x: int, y: int, size: float, sail: Colour) -> None:
    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x + dx * size, y + dy * size) for dx, dy in points]

    _polygon(draw, at((-70, 0), (70, 0), (46, 32), (-46, 32)), (88, 52, 38))
    _polygon(draw, at((-4, -6), (-4, -150), (-66, -6)), sail)
    _polygon(draw, at((4, -6), (4, -128), (52, -6)), (244, 240, 230))
    _line(draw, at((0, 0), (0, -156)), (70, 44, 34))


def _pen(picture: Image.Image) -> ImageDraw.ImageDraw:
    return ImageDraw.Draw(picture)


def _scaled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]


def _polygon(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], colour: Colour) -> None:
    draw.polygon(_scaled(points), fill=colour)


def _line(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], colour: Colour) -> None:
    draw.line(_scaled(points), fill=colour, width=2 * OVERSAMPLING, joint="curve")


def _box(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], colour: Colour) -> None:
    left, top, right, bottom = corners
    draw.rectangle(_scaled([(left, top), (right, bottom)]), fill=colour)


def _ellipse(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], colour: Colour) -> None:
    left, top, right, bottom = corners
    draw.ellipse(_scaled([(left, top), (right, bottom)]), fill=colour)


def _reduced(picture: Image.Image) -> Image.Image:
    return picture.reduce(OVERSAMPLING)
