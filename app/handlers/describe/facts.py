"""What can be measured in a picture without understanding it.

The size is judged from the header, before a pixel is decoded: a file of some kilobytes can declare
gigabytes of pixels.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO

from PIL import ExifTags, Image, ImageStat, UnidentifiedImageError

from app.handlers.describe.colours import NamedColour, main_colours
from app.tasks.handlers import DoNotRetry

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
ANIMATED_FORMATS = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
# One picture of several in a file, as many phones write it: to people it is a JPEG.
SHOWN_FORMATS = {"MPO": "JPEG"}

SAMPLE_SIDE_PIXELS = 64
MOST_COLOURS = 5
LEAST_SHARE = 0.04
# EXIF 2.32, tag 274: how the file's picture becomes the viewer's.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset({5, 6, 7, 8})
PANORAMA_RATIO = 2.0
SQUARE_TOLERANCE = 0.02
OPAQUE_ALPHA = 128

BRIGHTNESS_WORDS = (
    (0.15, "very dark"),
    (0.35, "dark"),
    (0.65, "medium"),
    (0.85, "bright"),
    (1.01, "very bright"),
)
CONTRAST_WORDS = ((0.1, "low"), (0.25, "medium"), (1.01, "high"))

_DAMAGED = (SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Graded:
    """A number from 0 to 1 and the word for it."""

    word: str
    value: float


@dataclass(frozen=True, slots=True)
class Exif:
    """`taken_at` is what the camera's clock showed, in ISO 8601 without a zone. Places are never read."""

    taken_at: str | None = None
    camera: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Width and height are those a viewer sees: after the rotation that EXIF asks for."""

    format: str
    width: int
    height: int
    orientation: str
    megapixels: float
    main_colours: list[NamedColour]
    brightness: Graded
    contrast: Graded
    has_transparency: bool
    frames: int
    exif: Exif = field(default_factory=Exif)


@dataclass(frozen=True, slots=True)
class Measured:
    """The facts, and the picture upright and reduced, in RGB or RGBA."""

    facts: Facts
    reduced: Image.Image


def measure(file: IO[bytes], *, limit_pixels: int, reduce_to_pixels: int = 256) -> Measured:
    """Measure a picture; its reduced copy fits a square with sides of `reduce_to_pixels`.

    Raises `DoNotRetry` if the file is no picture, a damaged one, or larger than `limit_pixels`;
    `OSError` with an errno when the disk fails.
    """
    Image.MAX_IMAGE_PIXELS = limit_pixels
    with _plain_errors(limit_pixels), Image.open(file, formats=FORMATS) as picture:
        if picture.width * picture.height > limit_pixels:
            raise Image.DecompressionBombError
        name = picture.format or "unknown"
        exif, turn = _read_exif(picture)
        width, height = picture.size
        if turn in SIDEWAYS:
            width, height = height, width
        frames = int(getattr(picture, "n_frames", 1)) if name in ANIMATED_FORMATS else 1
        reduced = _upright(_reduced(picture, reduce_to_pixels), turn)
    return Measured(_facts(reduced, name, width, height, frames, exif), reduced)


@contextmanager
def _plain_errors(limit_pixels: int) -> Iterator[None]:
    try:
        yield
    except _TOO_LARGE:
        megapixels = limit_pixels / 1_000_000
        raise DoNotRetry(
            f"The picture has more than {megapixels:g} megapixels, the largest we open."
        ) from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS[:-1])
        raise DoNotRetry(f"This file is not a picture that we can read ({known} or {FORMATS[-1]}).") from None
    except MemoryError:
        raise DoNotRetry("The picture needs more memory than the worker may use.") from None
    except OSError as error:
        # Pillow's own have no number: only those of the system can go away by themselves.
        if error.errno is not None:
            raise
        raise DoNotRetry("The picture is damaged or cut short.") from None
    except _DAMAGED:
        raise DoNotRetry("The picture is damaged or cut short.") from None


def _read_exif(picture: Image.Image) -> tuple[Exif, int]:
    """What EXIF tells, and the turn it asks for; 0 is none."""
    try:
        notes = picture.getexif()
        # Pillow turns a TIFF itself.
        turn = 0 if picture.format == "TIFF" else notes.get(ExifTags.Base.Orientation)
        return Exif(_taken_at(notes), _camera(notes)), turn if isinstance(turn, int) else 0
    except (OSError, *_DAMAGED):
        # A picture with unreadable notes is still a picture.
        return Exif(), 0


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    # A JPEG decoder can leave out what a small copy does not show: 20 times faster for 12 megapixels.
    picture.draft(None, (side, side))
    picture.load()
    reduced = _eight_bit(picture)
    reduced.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=2.0)
    return reduced.convert("RGBA" if reduced.has_transparency_data else "RGB")


def _upright(picture: Image.Image, turn: int) -> Image.Image:
    return picture.transpose(TURNS[turn]) if turn in TURNS else picture


def _eight_bit(picture: Image.Image) -> Image.Image:
    """A copy that can be reduced: palettes resolved, 16 bits per channel brought down to 8."""
    if picture.mode == "P":
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return (
        picture.convert("RGB")
        if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV", "F", "1")
        else picture.copy()
    )


def _facts(reduced: Image.Image, name: str, width: int, height: int, frames: int, exif: Exif) -> Facts:
    sample = reduced.copy()
    sample.thumbnail((SAMPLE_SIDE_PIXELS, SAMPLE_SIDE_PIXELS), Image.Resampling.BOX)
    brightness, contrast = _light(sample)
    return Facts(
        format=SHOWN_FORMATS.get(name, name),
        width=width,
        height=height,
        orientation=orientation(width, height),
        megapixels=round(width * height / 1_000_000, 2),
        main_colours=main_colours(_visible_pixels(sample), most=MOST_COLOURS, least_share=LEAST_SHARE),
        brightness=_graded(brightness, BRIGHTNESS_WORDS),
        contrast=_graded(contrast, CONTRAST_WORDS),
        has_transparency=_is_transparent(reduced),
        frames=frames,
        exif=exif,
    )


def orientation(width: int, height: int) -> str:
    """square, panorama, landscape or portrait."""
    if abs(width - height) <= SQUARE_TOLERANCE * max(width, height):
        return "square"
    if width >= PANORAMA_RATIO * height:
        return "panorama"
    return "landscape" if width > height else "portrait"


def _is_transparent(picture: Image.Image) -> bool:
    if picture.mode != "RGBA":
        return False
    least, _ = picture.getchannel("A").getextrema()
    return bool(least < 255)  # type: ignore[operator]


def _visible_pixels(sample: Image.Image) -> list[tuple[int, int, int]]:
    data = sample.convert("RGBA").tobytes()
    channels = zip(data[0::4], data[1::4], data[2::4], data[3::4], strict=True)
    return [(red, green, blue) for red, green, blue, alpha in channels if alpha >= OPAQUE_ALPHA]


def _light(sample: Image.Image) -> tuple[float, float]:
    """Mean and twice the standard deviation of the visible parts' luma (ITU-R BT.601), each 0 to 1."""
    mask = (
        sample.getchannel("A").point(lambda alpha: 255 * (alpha >= OPAQUE_ALPHA))
        if sample.mode == "RGBA"
        else None
    )
    statistics = ImageStat.Stat(sample.convert("L"), mask)
    if not statistics.count[0]:
        return 1.0, 0.0
    return statistics.mean[0] / 255, min(1.0, 2 * statistics.stddev[0] / 255)


def _graded(value: float, words: tuple[tuple[float, str], ...]) -> Graded:
    return Graded(next(word for below, word in words if value < below), round(value, 3))


def _taken_at(notes: Image.Exif) -> str | None:
    details = notes.get_ifd(ExifTags.IFD.Exif)
    text = details.get(ExifTags.Base.DateTimeOriginal) or details.get(ExifTags.Base.DateTimeDigitized)
    try:
        taken = datetime.strptime(str(text)[:19], "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007 - a camera knows no zone
    except ValueError:
        return None
    return taken.isoformat()


def _camera(notes: Image.Exif) -> str | None:
    make, model = _words(notes.get(ExifTags.Base.Make)), _words(notes.get(ExifTags.Base.Model))
    if not model:
        return make or None
    # "NIKON CORPORATION" makes the "NIKON D750": the model's name often begins with the maker's.
    if not make or model.lower().startswith(make.split()[0].lower()):
        return model
    return f"{make} {model}"


def _words(value: object) -> str:
    """Text as a file claims it, made safe to show: printable, one line, at most 60 characters."""
    if not isinstance(value, str):
        return ""
    printable = "".join(character if character.isprintable() else " " for character in value)
    return re.sub(r"\s+", " ", printable).strip()[:60].strip()
