"""Pixels are what viewers show."""

import gzip

import numpy as np
import pytest
from PIL import Image, ImageCms

from orchestrator.data.sources import decode
from orchestrator.data.sources.decode import Decoding, TooLargeError, decode_image
from tests.unit.orchestrator.data.sources.making import encoded

HALF = np.full((8, 8), 32768, np.uint16)
SPLIT = Image.new("RGB", (8, 8))
SPLIT.paste((255, 255, 255), (0, 4, 8, 8))  # white below
COLOURS = Image.new("RGB", (8, 8), (200, 100, 50))


def colour_of(content: bytes, **options: object) -> tuple[int, ...]:
    pixels, _ = decode_image(content, 8, 3, Decoding(**options))  # type: ignore[arg-type]
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 8, 8)
    return tuple(int(value) for value in pixels[:, 0, 0])


@pytest.mark.parametrize(
    ("name", "content", "colour"),
    [
        ("16 bits", encoded(Image.fromarray(HALF)), (128, 128, 128)),
        ("16 bits, TIFF", encoded(Image.fromarray(HALF), "TIFF"), (128, 128, 128)),
        ("floats to 1", encoded(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"), (128,) * 3),
        ("floats to 255", encoded(Image.fromarray(np.full((8, 8), 64, np.float32)), "TIFF"), (64,) * 3),
        ("black floats", encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), (0, 0, 0)),
        ("alpha", encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), (255, 255, 255)),
        ("half alpha", encoded(Image.new("LA", (8, 8), (100, 128))), (177, 177, 177)),
        ("opaque alpha", encoded(Image.new("RGBA", (8, 8), (5, 6, 7, 255))), (5, 6, 7)),
        ("palette", encoded(Image.new("RGB", (8, 8), (5, 6, 7)).convert("P", palette=1)), (5, 6, 7)),
        ("transparent palette", encoded(COLOURS.quantize(2), transparency=0), (255, 255, 255)),
        ("transparent colour", encoded(COLOURS, transparency=(200, 100, 50)), (255, 255, 255)),
        ("transparent grey", encoded(Image.new("L", (8, 8), 9), transparency=9), (255, 255, 255)),
        ("transparent 16 bits", encoded(Image.fromarray(HALF), transparency=32768), (255, 255, 255)),
        ("CMYK", encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (254, 0, 0)),
        ("one bit", encoded(Image.new("1", (8, 8), 1)), (255, 255, 255)),
        ("animated", encoded(Image.new("RGB", (8, 8), (9, 9, 9)), "GIF", save_all=True,
                             append_images=[Image.new("RGB", (8, 8), (200, 0, 0))]), (9, 9, 9)),
        ("progressive", encoded(Image.new("RGB", (8, 8), (9, 9, 9)), "JPEG", progressive=True), (9, 9, 9)),
        ("compressed once more", gzip.compress(encoded(COLOURS)), (200, 100, 50)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_colours_are_those_that_are_seen(name: str, content: bytes, colour: tuple[int, ...]) -> None:
    assert max(abs(a - b) for a, b in zip(colour_of(content), colour, strict=True)) <= 1


def with_orientation(value: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(SPLIT, kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_photos_stand_as_exif_says(kind: str) -> None:
    pixels, remarks = decode_image(with_orientation(3, kind), 8, 3)
    assert pixels[0, 0, 4] > 200 and pixels[0, 7, 4] < 50
    assert remarks == [decode.TURNED]
    assert colour_of(with_orientation(3, kind), exif_orientation=False)[0] < 50
    assert decode_image(with_orientation(1, kind), 8, 3)[1] == []


@pytest.mark.parametrize("orientation", range(2, 9))
def test_all_orientations_are_pillows(orientation: int) -> None:
    from PIL import ImageOps

    corner = Image.new("L", (8, 8))
    corner.putpixel((1, 2), 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(corner, exif=exif)
    with Image.open(__import__("io").BytesIO(content)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(decode_image(content, 8, 1)[0][0], expected)


def profile(swap: bool) -> bytes:
    """The profile of sRGB, or one whose red and green are exchanged and whose name says nothing."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if swap:
        content = content.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")
        content = content.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))
    return content


def test_colour_profiles_are_converted_to_srgb() -> None:
    swapped = encoded(COLOURS, icc_profile=profile(swap=True))
    red, green, _ = colour_of(swapped)
    assert red < green  # seen through the profile, 200 is green
    assert colour_of(swapped, icc_profiles=False) == (200, 100, 50)
    assert colour_of(encoded(COLOURS, icc_profile=profile(swap=False))) == (200, 100, 50)
    pixels, remarks = decode_image(encoded(COLOURS, icc_profile=b"no profile"), 8, 3)
    assert tuple(pixels[:, 0, 0]) == (200, 100, 50) and remarks == [decode.BROKEN_PROFILE]


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.new("1", (30_000, 30_000))),  # a few kilobytes that take gigabytes
        encoded(Image.new("1", (9_500, 9_500))),
        encoded(Image.new("1", (2, 1_500_000)), "TIFF"),  # would be 48 million rows of 64
    ],
    ids=["bomb", "large", "long"],
)
def test_absurd_sizes_are_refused_before_they_are_decoded(content: bytes) -> None:
    with pytest.raises(TooLargeError):
        decode_image(content, 64, 3)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", encoded(COLOURS)[:44],
     encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"),
     encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF"),
     encoded(Image.fromarray(np.full((8, 8), -1, np.float32)), "TIFF")],
    ids=["empty", "text", "cut short", "NaN", "beyond 16 bits", "negative"],
)  # fmt: skip
def test_what_nobody_can_show_is_no_image(content: bytes) -> None:
    with pytest.raises((OSError, ValueError, SyntaxError)) as raised:
        decode_image(content, 8, 3)
    assert "0x" not in str(raised.value)  # The same list whenever it is made.


def test_large_images_are_converted_in_strips_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0)
    deep = Image.fromarray(numbers.integers(0, 65535, (37, 53), np.uint16))
    layered = Image.fromarray(numbers.integers(0, 255, (37, 53, 4), np.uint8))
    contents = [encoded(deep), encoded(layered), encoded(layered, icc_profile=profile(swap=True))]
    whole = [decode_image(content, 16, 3) for content in contents]
    monkeypatch.setattr(decode, "STRIP_PIXELS", 200)
    for content, (pixels, remarks) in zip(contents, whole, strict=True):
        again, said = decode_image(content, 16, 3)
        assert np.array_equal(again, pixels) and said == remarks
