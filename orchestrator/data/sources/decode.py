"""From encoded bytes to pixels as viewers show them, and to squares as ADM cuts them.

ADM: Dhariwal and Nichol, 2021.
"""

import gzip
import io
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from orchestrator.config.data import PrepareConfig

MOST_PIXELS = 1 << 26
"""8192 x 8192, four bytes each while they are decoded; also of what a very long image would be resized to."""
STRIP_PIXELS = 1 << 22
BACKGROUND = (255, 255, 255)
"""What transparent pixels are laid upon."""
ORIENTATION = 0x0112
SIXTEEN_BITS, EIGHT_BITS = 65535, 255
TURNED, FLATTENED, FIRST_FRAME, CONVERTED, SCALED = (
    "turned by EXIF", "transparent, on white", "animated, first frame", "from a colour profile to sRGB",
    "more than 8 bits, scaled",
)  # fmt: skip
BROKEN_PROFILE = "colour profile that cannot be read, ignored"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_SWAP_SIDES = (
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)  # fmt: skip
UNKNOWN = "no image of a known format"
_SAY_ORIENTATION = ("exif", "XML:com.adobe.xmp", "xmp")
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


class TooLargeError(ValueError):
    """An image that would take more memory than any real one."""


@dataclass(frozen=True)
class Decoding:
    """How encoded images become pixels. It is part of a dataset's metadata."""

    exif_orientation: bool = True
    icc_profiles: bool = True
    transparency: str = "on white"
    deep_colours: str = "scaled to 8 bits"

    @staticmethod
    def of(config: PrepareConfig) -> "Decoding":
        """The decoding that a config sets."""
        return Decoding(config.exif_orientation, config.icc_profiles)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Cut out the centre square of an image, at ``size``.

    The shorter side is halved with a box filter while it is at least twice the size. Then it is resized
    bicubically.

    Raises:
        TooLargeError: the image is so long that resizing it would take too much memory.
    """
    # As center_crop_arr in ADM's guided_diffusion/image_datasets.py, so that scores can be compared.
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > MOST_PIXELS:
        raise TooLargeError(f"it is {image.width}x{image.height}, and would be {width}x{height} pixels")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode_image(
    content: bytes, size: int, channels: int, decoding: Decoding | None = None
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Encoded bytes -> uint8 ``[C, size, size]``, and what had to be done to them.

    Raises:
        OSError, ValueError, SyntaxError: the bytes are no complete image.
    """
    image, remarks = open_image(content, "RGB" if channels == 3 else "L", decoding or Decoding())
    pixels = np.asarray(centre_crop(image, size), dtype=np.uint8)
    return (pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]), remarks


def open_image(content: bytes, mode: str, decoding: Decoding) -> tuple[Image.Image, list[str]]:
    """Decode an image into ``mode``, L or RGB, as a viewer shows it; and say what had to be done.

    Raises:
        OSError, ValueError, SyntaxError: the bytes are no complete image, or one beyond ``MOST_PIXELS``.
    """
    if content.startswith(b"\x1f\x8b"):  # ImageNet holds JPEGs that are compressed once more.
        content = _unzipped(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(content))
            with opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise TooLargeError(f"it is {opened.width}x{opened.height}")
                return _converted(opened, mode, decoding)
    except Image.DecompressionBombError as error:
        raise TooLargeError(str(error)) from error
    except UnidentifiedImageError as error:
        raise ValueError(UNKNOWN) from error
    except (OSError, ValueError, SyntaxError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever they stumble over.
        raise ValueError(f"{type(error).__name__}: {error}") from error


def size_of(start: bytes, decoding: Decoding) -> tuple[int, int]:
    """Width and height that an image's first bytes tell, turned as it will be.

    Raises:
        OSError, ValueError, SyntaxError: they are no image's, or of one beyond ``MOST_PIXELS``.
    """
    if start.startswith(b"\x1f\x8b"):
        start = zlib.decompressobj(31).decompress(start, 1 << 20)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(start)) as image:
                is_turned = decoding.exif_orientation and _turn_of(image) in _SWAP_SIDES
                return image.size[::-1] if is_turned else image.size
    except Image.DecompressionBombError as error:
        raise TooLargeError(str(error)) from error
    except UnidentifiedImageError as error:
        raise ValueError(UNKNOWN) from error


def _unzipped(content: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        inner = stream.read(8 * MOST_PIXELS)
        if stream.read(1):
            raise TooLargeError("it is compressed, and larger than any image")
    return inner


def _converted(image: Image.Image, mode: str, decoding: Decoding) -> tuple[Image.Image, list[str]]:
    remarks = [FIRST_FRAME] if getattr(image, "is_animated", False) else []
    image.load()
    # A PNG may say these after its pixels.
    turn = _turn_of(image) if decoding.exif_orientation else None
    profile = image.info.get("icc_profile") if decoding.icc_profiles else None
    if image.mode == mode and profile is None and turn is None and "transparency" not in image.info:
        return image, remarks
    white = _white_of(image) if image.mode.startswith(("I", "F")) else None

    def convert(piece: Image.Image) -> Image.Image:
        if white is not None:
            piece = _scaled(piece, white, remarks)
        if profile is not None:
            piece = _to_srgb(piece, profile, remarks)
        piece = _flattened(piece, remarks)
        return (piece if piece.mode in ("L", "RGB") else piece.convert("RGB")).convert(mode)

    result = _in_strips(image, convert)
    if turn is not None:
        result = result.transpose(turn)
        remarks.append(TURNED)
    return result, list(dict.fromkeys(remarks))


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image; a large one in strips, for a conversion takes several times its memory."""
    if image.width * image.height <= STRIP_PIXELS:
        return convert(image)
    rows = max(1, STRIP_PIXELS // image.width)
    result: Image.Image | None = None
    for top in range(0, image.height, rows):
        piece = convert(image.crop((0, top, image.width, min(image.height, top + rows))))
        if result is None:
            result = Image.new(piece.mode, image.size)
        result.paste(piece, (0, top))
    assert result is not None
    return result


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    if not any(image.info.get(key) for key in _SAY_ORIENTATION) and image.format not in ("TIFF", "MPO"):
        return None
    try:
        return _TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError):  # EXIF that cannot be read turns nothing.
        return None


def _white_of(image: Image.Image) -> int:
    """The value of white in an image of 16-bit integers or of floats.

    Raises:
        ValueError: nothing says what it is.
    """
    low, high = _extrema(image)
    whites = (1, EIGHT_BITS, SIXTEEN_BITS) if image.mode.startswith("F") else (SIXTEEN_BITS,)
    white = next((white for white in whites if high <= white), None)
    if white is None or not low >= 0:
        raise ValueError(f"its values are {low:g}..{high:g}, and nothing says what is white")
    return white


def _extrema(image: Image.Image) -> tuple[float, float]:
    values = np.asarray(image)
    return float(values.min()), float(values.max())


def _scaled(image: Image.Image, white: int, remarks: list[str]) -> Image.Image:
    """An image of integers or floats as 8-bit grey, black and white where they were."""
    remarks.append(SCALED)
    values = np.asarray(image)
    grey = Image.fromarray(np.rint(values.astype(np.float32) * (EIGHT_BITS / white)).astype(np.uint8))
    if (key := image.info.get("transparency")) is not None and isinstance(key, int):
        alpha = Image.fromarray(np.where(values == key, 0, EIGHT_BITS).astype(np.uint8))
        grey = Image.merge("LA", (grey, alpha))
    return grey


def _to_srgb(image: Image.Image, profile: bytes, remarks: list[str]) -> Image.Image:
    from PIL import ImageCms

    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    plain = image
    if image.mode == "P":
        # A palette's colours are of the profile too.
        plain = image.convert("RGBA" if "transparency" in image.info else "RGB")
        alpha = plain.getchannel("A") if plain.mode == "RGBA" else None
    if plain.mode in ("RGBA", "LA"):
        plain = plain.convert("RGB" if plain.mode == "RGBA" else "L")
    elif plain.mode not in ("RGB", "L", "CMYK", "LAB"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _is_srgb(source) and plain.mode == "RGB":
            return image
        target = ImageCms.createProfile("sRGB")
        # A grey profile cannot be turned into an RGB one's grey; its curve is kept by way of RGB.
        converted = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        remarks.append(BROKEN_PROFILE)
        return image
    assert converted is not None
    converted.info = {}
    if alpha is not None:
        converted.putalpha(alpha)
    remarks.append(CONVERTED)
    return converted


def _is_srgb(profile: Any) -> bool:
    return "sRGB" in (profile.profile.profile_description or "")


def _flattened(image: Image.Image, remarks: list[str]) -> Image.Image:
    """An image laid upon white where it is transparent."""
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema()[0] == EIGHT_BITS:
        return layered.convert("RGB")
    remarks.append(FLATTENED)
    below = Image.new("RGBA", layered.size, (*BACKGROUND, EIGHT_BITS))
    return Image.alpha_composite(below, layered).convert("RGB")
