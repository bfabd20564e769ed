"""Pictures from their files, upright; and the pictures of a file that holds several."""
import contextlib
import hashlib
import math
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from utils import mistaken_for

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 2 ** 26                       # of a frame or a map: 8192 x 8192
READING = 2                                # raise it when files give other pixels:
                                                                           # caches made from them are then made again
ANIMATED = ("PNG", "WEBP", "TIFF", "GIF")  # formats whose pictures are a video's frames


class Orientation(NamedTuple):
    """How a stored picture is turned upright: rows and columns are swapped first, then either may be reversed."""
    transposed: bool = False
    upside_down: bool = False  # the rows are reversed
    mirrored: bool = False     # the columns are

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A stored picture, (H, W) or (H, W, 3), upright."""
        picture = picture.swapaxes(0, 1) if self.transposed else picture
        return np.ascontiguousarray(picture[::-1 if self.upside_down else 1, ::-1 if self.mirrored else 1])


EXIF_ORIENTATIONS = {
    1: Orientation(), 2: Orientation(mirrored=True),
    3: Orientation(upside_down=True, mirrored=True), 4: Orientation(upside_down=True),
    5: Orientation(transposed=True), 6: Orientation(transposed=True, mirrored=True),
    7: Orientation(transposed=True, upside_down=True, mirrored=True), 8: Orientation(transposed=True, upside_down=True),
}


def read_image(path: Path, mode: str) -> np.ndarray:
    """Decode an image to mode "RGB", (H, W, 3), or "L", (H, W), uint8, upright; errors as `open_image` and `decode`."""
    with open_image(path) as image:
        return decode(image, mode)


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An opened image, for its mode, its palette and `decode`.

    Raises:
        ValueError: it cannot be read, here or in the block; or it holds several pictures. The message has its path.
    """
    try:
        with Image.open(path) as image:
            check_size(path, *image.size)
            numbers = picture_numbers(image)
            if len(numbers) > 1:
                raise ValueError(f"it holds {len(numbers)} pictures, as a video does, where one is expected: "
                                 "save them one by one")
            image.seek(numbers[0])
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {path} is gone: it was there when its folder was listed") from error
    except Exception as error:  # Pillow raises many kinds on a damaged file; all mean the same here
        mistaken = mistaken_for(path)
        reason = f"it {mistaken}" if mistaken else error
        raise ValueError(f"cannot read image {path} ({path.stat().st_size} bytes): {reason}") from error


def decode(image: Image.Image, mode: str) -> np.ndarray:
    """The current picture of an opened file, in a mode of Pillow's, (H, W) or (H, W, channels) uint8, upright.

    Raises:
        ValueError: it does not have 8 bits a channel.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels are of mode {image.mode}, expected 8 bits a channel: save it so")
    image.load()  # turns a TIFF upright, and drops its tag
    try:
        orientation = EXIF_ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation), Orientation())
    except (SyntaxError, struct.error, AttributeError, KeyError, OSError, TypeError, ValueError):
        orientation = Orientation()  # as viewers do where EXIF is damaged
    return orientation.apply(np.array(image.convert(mode)))


def check_size(path: Path, width: int, height: int) -> None:
    """Raise a ValueError for a picture larger than any frame, before memory is allocated for it."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path} claims {height} x {width} pixels (H x W), more than the {MAX_PIXELS} that any frame "
                         "or map may have")


def read_frame(path: Path) -> np.ndarray:
    """A frame, (H, W, 3) uint8, RGB."""
    return read_image(path, "RGB")


# Several pictures in one file

def picture_numbers(image: Image.Image) -> list[int]:
    """The numbers, for `seek`, of those pictures of an opened file that can be a video's frames; at least one.

    Not among them are the second picture of a phone's JPEG, the smaller copies and masks among a TIFF file's pages, and
    what an animated PNG shows to programs that know no animations.
    """
    count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
    if image.format == "TIFF" and count > 1:
        return [number for number in range(count) if not is_copy(image, number)] or [0]
    return list(range(1 if getattr(image, "default_image", False) and count > 1 else 0, count))


def is_copy(image: Image.Image, number: int) -> bool:
    """Whether a TIFF file's page is a smaller copy, or a mask, of another (bits 0 and 2 of the tag NewSubfileType)."""
    image.seek(number)
    return bool(image.tag_v2.get(254, 0) & 0b101)


def is_animation(path: Path) -> bool:
    """Whether a file is a video for `timed_pictures`: an animated PNG or WebP, or a TIFF file of several pages.

    GIFs are left to FFmpeg, which does not read all of the others, unless they have the suffix of a picture.
    """
    try:
        with Image.open(path) as image:
            return (image.format != "GIF" or path.suffix.lower() in IMAGE_SUFFIXES) and len(picture_numbers(image)) > 1
    except Exception:  # Pillow raises many kinds on what is not a picture; whoever reads the file reports it
        return False


def timed_pictures(path: Path, fps: float, start: float = 0.0,
                   end: float = math.inf) -> Iterator[tuple[float, float, np.ndarray]]:
    """The pictures of a file for which `is_animation` holds, or those of a part of it.

    Args:
        path: the file.
        fps: pictures a second where the file does not say how long a picture is shown, as TIFF cannot.
        start, end: seconds; pictures that begin at start <= time < end are given.

    Yields:
        When the picture begins and ends, in seconds, and the picture, (H, W, 3) uint8, RGB, upright.

    Raises:
        ValueError: a picture cannot be read (raised after those before it), or none is in this part.
    """
    count, number, seconds = 0, 0, Fraction(0)  # exact, or parts would be a picture off
    try:
        with Image.open(path) as image:
            for number in picture_numbers(image):
                image.seek(number)
                check_size(path, *image.size)
                picture = decode(image, "RGB")  # only then is a WebP's duration known
                lasts = Fraction(image.info.get("duration") or 0) / 1000 or 1 / Fraction(fps)
                begins, seconds = float(seconds), seconds + lasts
                if begins >= end:
                    break
                if begins >= start:
                    count += 1
                    yield begins, float(seconds), picture
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises many kinds on a damaged file; all mean the same here
        raise ValueError(f"cannot read picture {number + 1} of {path} ({path.stat().st_size} bytes): {error}; "
                         "maps of the pictures before are whole") from error
    if not count:
        until = f"second {end:g}" if end < math.inf else "its end"
        raise ValueError(f"{path} has no picture from second {start:g} to {until}; it ends at second "
                         f"{float(seconds):.2f}")


# Digests for the names of files that are made from frames and kept

def digest(content: bytes) -> str:
    """A short digest of some bytes, 12 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:12]


def state_digest(frames: Iterable[Path], *made_by: str) -> str:
    """A short digest of the state of some frames (names, sizes, times of change) and of the way we read them.

    Args:
        frames: image files.
        made_by: what else the files that are kept depend on, such as weights.
    """
    stated = [(path.name, path.stat()) for path in frames]
    lines = [f"reading {READING}", *made_by, *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stated)]
    return digest("\n".join(lines).encode())
