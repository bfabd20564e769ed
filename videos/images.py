"""Pictures from their files."""
import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 2 ** 26                                                       # of a frame or a map: 8192 x 8192


def read_image(path: Path, mode: str) -> np.ndarray:
    """Decode an image to mode "RGB", (H, W, 3), or "L", (H, W), uint8; an unreadable one is a ValueError with its path."""
    with open_image(path) as image:
        return decode(image, mode)


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image to `decode`, whose mode and palette can be asked; errors meanwhile become ValueErrors with its path."""
    try:
        with Image.open(path) as image:
            check_size(path, *image.size)
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {path} is gone: it was there when its folder was listed") from error
    except Exception as error:  # Pillow raises many kinds on a damaged file; all mean the same here
        raise ValueError(f"cannot read image {path} ({path.stat().st_size} bytes): {error}") from error


def decode(image: Image.Image, mode: str) -> np.ndarray:
    """The pixels of an opened image in a mode of Pillow's, (H, W) or (H, W, channels) uint8."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels are of mode {image.mode}, expected 8 bits a channel: save it so")
    return np.array(image.convert(mode))


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse a picture that is larger than any frame, before memory is taken for it."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path} claims {height} x {width} pixels (H x W), more than the {MAX_PIXELS} that any frame or map may have")


def read_frame(path: Path) -> np.ndarray:
    """A frame, (H, W, 3) uint8, RGB."""
    return read_image(path, "RGB")
