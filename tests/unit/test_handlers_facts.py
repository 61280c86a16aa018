"""What is measured in a picture, and which pictures are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageDraw

from app.handlers.describe.colours import name_of, to_oklab
from app.handlers.describe.facts import Facts, Measured, measure
from app.handlers.describe.sentence import alt_text
from app.tasks.handlers import DoNotRetry
from tests.handler_doubles import picture_bytes

MEGAPIXEL = 1_000_000


def measured(data: bytes, *, limit_pixels: int = 100 * MEGAPIXEL, **options: Any) -> Measured:
    return measure(io.BytesIO(data), limit_pixels=limit_pixels, **options)


def facts_of(picture: Image.Image, kind: str = "PNG", **options: Any) -> Facts:
    return measured(picture_bytes(picture, kind, **options)).facts


def plain(colour: str = "#808080", size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def exif_of(**tags: Any) -> Image.Exif:
    exif = Image.Exif()
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for name, value in tags.items():
        (details if name.startswith("DateTime") else exif)[ExifTags.Base[name]] = value
    return exif


def png_declaring(width: int, height: int) -> bytes:
    """A PNG whose header promises pixels that the file does not hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "grey"),
        ((200, 30, 40), "red"),
        ((0, 128, 0), "green"),
        ((30, 50, 25), "dark green"),
        ((60, 120, 216), "blue"),
        ((135, 206, 235), "light blue"),
        ((15, 20, 50), "dark blue"),
        ((255, 165, 0), "orange"),
        ((139, 90, 43), "brown"),
        ((128, 0, 128), "purple"),
        ((255, 192, 203), "pink"),
        ((0, 128, 128), "teal"),
        ((194, 178, 128), "beige"),
    ],
)
def test_a_colour_gets_the_name_that_people_give_it(rgb: tuple[int, int, int], name: str) -> None:
    assert name_of(rgb) == name


def test_oklab_of_red_is_the_published_value() -> None:
    assert to_oklab((255, 0, 0)) == pytest.approx((0.62796, 0.22486, 0.12585), abs=1e-4)


def test_main_colours_come_with_their_shares_largest_first() -> None:
    picture = plain("#c81e28", (100, 100))
    ImageDraw.Draw(picture).rectangle((0, 0, 99, 29), fill="#ffffff")
    red, white = facts_of(picture).main_colours
    assert (red.name, red.hex, white.name) == ("red", "#c81e28", "white")
    assert (red.share, white.share) == pytest.approx((0.7, 0.3), abs=0.01)


@pytest.mark.parametrize(
    ("colour", "word"),
    [("#000000", "very dark"), ("#404040", "dark"), ("#808080", "medium"), ("#f8f8f8", "very bright")],
)
def test_brightness_has_a_word(colour: str, word: str) -> None:
    assert facts_of(plain(colour)).brightness.word == word


def test_contrast_is_low_for_one_tone_and_high_for_black_and_white() -> None:
    halves = plain("#000000", (80, 80))
    ImageDraw.Draw(halves).rectangle((0, 0, 39, 79), fill="#ffffff")
    assert facts_of(plain()).contrast.word == "low"
    assert facts_of(halves).contrast.word == "high"
    assert facts_of(halves).contrast.value == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("size", "word"),
    [((60, 40), "landscape"), ((40, 60), "portrait"), ((50, 50), "square"), ((90, 30), "panorama")],
)
def test_orientation_follows_the_sides(size: tuple[int, int], word: str) -> None:
    assert facts_of(plain(size=size)).orientation == word


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "PNG", "AVIF"])
def test_a_picture_that_exif_turns_is_measured_as_it_is_seen(kind: str) -> None:
    lying = plain("#c81e28", (64, 48))
    ImageDraw.Draw(lying).rectangle((0, 0, 31, 47), fill="#2864dc")
    upright = measured(picture_bytes(lying, kind, exif=exif_of(Orientation=6)))
    assert (upright.facts.width, upright.facts.height, upright.facts.orientation) == (48, 64, "portrait")
    assert upright.reduced.size == (48, 64)
    # Tag value 6: the file's left side is the viewer's top.
    red, _, blue = upright.reduced.convert("RGB").getpixel((24, 8))  # type: ignore[misc]
    assert blue > red


def test_camera_and_time_come_from_exif_without_naming_the_maker_twice() -> None:
    exif = exif_of(Make="Canon", Model="Canon EOS 80D", DateTimeOriginal="2024:05:03 10:22:31")
    facts = facts_of(plain(), "JPEG", exif=exif)
    assert facts.exif.camera == "Canon EOS 80D"
    assert facts.exif.taken_at == "2024-05-03T10:22:31"


def test_text_from_exif_is_made_printable_and_short() -> None:
    facts = facts_of(plain(), "JPEG", exif=exif_of(Make="Evil\x1b[31m\n", Model="x" * 500))
    assert facts.exif.camera is not None
    assert facts.exif.camera.isprintable()
    assert len(facts.exif.camera) < 130


def test_a_place_in_exif_is_never_reported() -> None:
    exif = exif_of(Make="Canon", Model="Canon EOS 80D")
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    facts = facts_of(plain(), "JPEG", exif=exif)
    assert "52" not in repr(facts.exif)
    assert "GPS" not in repr(facts)


# Pillow warns while it opens such a file.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_hide_the_picture() -> None:
    broken = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + b"\xff" * 40
    assert facts_of(plain(), "JPEG", exif=broken).exif.camera is None


def test_only_pixels_that_are_seen_count() -> None:
    picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    ImageDraw.Draw(picture).rectangle((0, 0, 19, 39), fill="#c81e28")
    facts = facts_of(picture)
    assert facts.has_transparency
    assert [(colour.name, colour.share) for colour in facts.main_colours] == [("red", 1.0)]
    assert facts.brightness.word == "dark"


def test_a_picture_with_nothing_to_see_has_no_colours() -> None:
    facts = facts_of(Image.new("RGBA", (40, 40), (0, 0, 0, 0)))
    assert facts.main_colours == []
    assert alt_text(facts) == "Square picture with transparent parts, 40 x 40 pixels."


def test_an_opaque_picture_with_an_alpha_channel_is_not_transparent() -> None:
    assert not facts_of(Image.new("RGBA", (40, 40), (9, 9, 9, 255))).has_transparency


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_frames_of_an_animation_are_counted(kind: str) -> None:
    frames = [plain(colour) for colour in ("#c81e28", "#2864dc", "#30a030")]
    facts = facts_of(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert facts.frames == 3
    assert alt_text(facts).startswith("Animated landscape picture of 3 frames, 60 x 40 pixels")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16", "I", "F"])
def test_every_pixel_format_is_measured(mode: str) -> None:
    kind = {"CMYK": "JPEG", "F": "TIFF", "I": "TIFF"}.get(mode, "PNG")
    facts = facts_of(Image.new(mode, (30, 20)), kind)
    assert (facts.format, facts.width, facts.height) == (kind, 30, 20)


def test_sixteen_bit_greys_keep_their_brightness() -> None:
    assert facts_of(Image.new("I;16", (30, 20), 32_768)).brightness.value == pytest.approx(0.5, abs=0.02)


def test_the_alt_text_says_what_the_facts_say() -> None:
    picture = plain("#1e3c28", (90, 60))
    ImageDraw.Draw(picture).rectangle((0, 0, 89, 19), fill="#808080")
    exif = exif_of(Make="Canon", Model="Canon EOS 80D", DateTimeOriginal="2024:05:03 10:22:31")
    assert alt_text(facts_of(picture, exif=exif)) == (
        "Landscape photograph, 90 x 60 pixels, mostly dark green, dark overall;"
        " taken on 3 May 2024 with a Canon EOS 80D."
    )


def test_the_alt_text_names_three_colours_when_none_prevails() -> None:
    picture = plain("#c81e28", (90, 90))
    pen = ImageDraw.Draw(picture)
    for left, colour in ((0, "#2864dc"), (23, "#30a030"), (46, "#ffe61e")):
        pen.rectangle((left, 0, left + 22, 89), fill=colour)
    assert ", in " in alt_text(facts_of(picture))


def test_the_reduced_copy_fits_the_asked_size() -> None:
    assert max(measured(picture_bytes(plain(size=(900, 300))), reduce_to_pixels=128).reduced.size) == 128


@pytest.mark.parametrize(
    "data", [b"", b"no picture at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xff\xd8\xff"]
)
def test_what_is_no_picture_is_refused_for_good(data: bytes) -> None:
    with pytest.raises(DoNotRetry, match="not a picture that we can read"):
        measured(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_picture_that_is_cut_short_is_refused_for_good(kind: str, part: float) -> None:
    data = picture_bytes(Image.effect_noise((200, 200), 80).convert("RGB"), kind)
    with pytest.raises(DoNotRetry, match=r"cut short|not a picture"):
        measured(data[: int(len(data) * part)])


@pytest.mark.parametrize("size", [(10_001, 10_000), (15_000, 15_000), (2_000_000, 2_000)])
def test_a_declared_size_above_the_limit_is_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(DoNotRetry, match="more than 100 megapixels"):
        measured(png_declaring(*size))


def test_the_limit_itself_is_allowed() -> None:
    picture = picture_bytes(plain(size=(100, 100)))
    assert measured(picture, limit_pixels=10_000).facts.megapixels == 0.01
    with pytest.raises(DoNotRetry, match="megapixels"):
        measured(picture, limit_pixels=9_999)


def test_a_failing_disk_is_no_damaged_picture() -> None:
    class FailingFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        measure(FailingFile(picture_bytes(plain())), limit_pixels=MEGAPIXEL)
