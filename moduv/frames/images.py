"""Images in and out: RGB, 8 bit, whole or refused."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_bytes
from moduv.frames import jpeg

REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
Picture = str | Path | np.ndarray | Any
"""A path, an array (H, W, 3) uint8 RGB, or a PIL image."""


TIFF = (b"II*\0", b"MM\0*")
LARGEST_FILE = 1 << 30
"""Bytes that a picture may have."""
REMEDY = "replace the file or take it out of the split"


def read_image(path: str | Path, remedy: str = REMEDY, *, shortest: int = 0) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB, turned upright; other forms of pixels are converted.

    Args:
        path: the file.
        remedy: what errors tell the user to do.
        shortest: decode at a half, a quarter or an eighth of the size, while the shorter side keeps so many
            pixels; 0: whole. JPEGs take half the time.

    Raises:
        InputError: when the file is missing, damaged, too large or no image.
    """
    path = Path(path)
    try:
        content = read_bytes(path, remedy, LARGEST_FILE)
    except (FileNotFoundError, ValueError):  # a name that no file can have
        raise InputError(f"{path}: no such image; check the path and the split file.") from None
    return decode_image(content, str(path), remedy, shortest=shortest)


def decode_image(
    content: bytes, name: str, remedy: str = REMEDY, *, shortest: int = 0
) -> np.ndarray:
    """Decode the content of a file, see `read_image`; `name` is what errors call it."""
    image, fault = _decode(content, shortest)
    if image is None:
        raise InputError(f"{name}: the image is {fault}; {remedy}.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode(content: bytes, shortest: int) -> tuple[np.ndarray | None, str]:
    """The pixels (H, W, 3) uint8 BGR of a file; None, and what is wrong with it, where it is not whole."""
    try:
        size = Image.open(io.BytesIO(content)).size  # reads the header alone
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        return None, f"larger than the {limit} million pixels that are read"
    except (OSError, ValueError):
        return None, "not readable as an image"
    is_jpeg = content.startswith(jpeg.START)
    segments = jpeg.read_segments(content) if is_jpeg else []
    if segments is None:
        return None, "truncated"
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), _reduction(min(size), shortest))
    except cv2.error:
        image = None
    if image is not None and content.startswith(TIFF) and not _is_whole_tiff(content):
        return None, "damaged, a part of it does not decode"
    if image is not None and is_jpeg and jpeg.lacks_data(content, segments, image):
        return None, "damaged, a part of its data is missing"
    return image, "not readable as an image"


def _is_whole_tiff(content: bytes) -> bool:
    """Whether all strips of a TIFF decode; OpenCV fills those that do not, and says so on stderr only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(io.BytesIO(content)).load()
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError):
        return False
    return True


def _reduction(side: int, shortest: int) -> int:
    """OpenCV's flag for the smallest decoding whose shorter side, `side` as a whole, keeps `shortest` pixels."""
    for part, flag in REDUCED.items():
        if shortest and side >= part * shortest:
            return flag
    return cv2.IMREAD_COLOR


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image by its header, turned upright; None where it has no header."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # `size` is already turned upright
                width, height = (int(image.tag_v2[tag]) for tag in (IMAGEWIDTH, IMAGELENGTH))
            turned = _orientation(image) > 4
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> int:
    """The orientation of a picture by its EXIF data; 1, upright, where they are broken."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, TypeError, ValueError):
        return 1


def as_image(source: Picture) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB of a path, an array of that form, or a PIL image, turned upright.

    Raises:
        InputError: for a file that is missing or no image, and an array of another form.
    """
    if isinstance(source, str | Path):
        return read_image(source)
    if not isinstance(source, np.ndarray) and hasattr(source, "convert"):
        try:
            upright: Any = ImageOps.exif_transpose(source) if _orientation(source) > 1 else source
            source = np.array(upright.convert("RGB"))
        except OSError as error:
            raise InputError(f"a PIL image does not decode ({error}); give a whole one.") from None
    if not isinstance(source, np.ndarray):
        raise InputError(
            f"an image is given as {type(source).__name__}; give a path, an array (H, W, 3) or a PIL image."
        )
    if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
        raise InputError(
            f"an image is an array {source.shape} of {source.dtype}; give (H, W, 3) uint8 RGB."
        )
    return np.ascontiguousarray(source)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, atomically, in the format of the suffix."""
    path = Path(path)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    try:
        _, content = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        raise InputError(f"{path}: the image could not be encoded; use .jpg or .png.") from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.tobytes())


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, C), averaging when shrinking and bilinear when enlarging."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0] or width < image.shape[1]
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def fitted_size(height: int, width: int, shorter: int, multiple: int) -> tuple[int, int]:
    """Height and width at which the shorter side is `shorter` and the other the nearest `multiple` of pixels."""
    ratio = max(height, width) / min(height, width)
    longer = max(multiple, round(ratio * shorter / multiple) * multiple)
    return (shorter, longer) if height <= width else (longer, shorter)


def small_grey(image: np.ndarray, width: int) -> np.ndarray:
    """A grey image (h, width) uint8 of an RGB one, for measurements that need no detail."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height = max(16, round(width * grey.shape[0] / grey.shape[1]))
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def optical_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Dense optical flow (h, w, 2) in pixels between two grey images (h, w) uint8 (Kroeger et al. 2016)."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return flow.calc(before, after, None)  # type: ignore[call-overload]
