"""Moving maps to another size: density maps, masks, fixation maps, and predicted maps as MATLAB does."""
import functools
import math

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor


def resize_density(density: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a density map, (h, w) float32, to (H, W), bilinearly."""
    return cv2.resize(density, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask, (h, w) uint8, to (H, W) as frames are, with PIL's antialiased bilinear filter."""
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def imresize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to (H, W) as MATLAB's imresize does by default: bicubic, antialiased, mirrored at the borders.

    Args:
        image: (h, w); if it is uint8, each of the two passes is rounded to 8 bits, as in MATLAB.

    Returns:
        (H, W), uint8 for uint8, else float64.

    Source: Keys 1981 (the kernel, a = -0.5); imresize's documentation. Pillow's bicubic has the same kernel and differs
    at the borders.
    """
    rows, columns = (torch.from_numpy(resize_weights(*lengths)).to(image.device) for lengths in zip(image.shape, size))
    passes = [lambda x: rows @ x, lambda x: x @ columns.T]
    if size[1] / image.shape[1] < size[0] / image.shape[0]:  # the axis that shrinks most goes first
        passes.reverse()
    resized = image.double()
    for resize_one_axis in passes:
        resized = resize_one_axis(resized)
        if image.dtype == torch.uint8:
            resized = (resized + 0.5).floor().clamp(0, 255)
    return resized.to(torch.uint8) if image.dtype == torch.uint8 else resized


@functools.lru_cache(maxsize=16)
def resize_weights(length: int, wanted: int) -> np.ndarray:
    """The matrix that resizes `length` pixels to `wanted`, (wanted, length) float64; its rows sum to one."""
    scale = wanted / length
    shrink = min(scale, 1)                            # shrinking widens the kernel by as much
    reach = 2 / shrink
    centre = (np.arange(wanted) + 0.5) / scale - 0.5  # in pixels of the source
    index = np.floor(centre - reach)[:, None].astype(int) + np.arange(math.ceil(2 * reach) + 2)
    weight = cubic(shrink * (centre[:, None] - index))
    index = index % (2 * length)  # mirrored: .. 1 0 0 1 .. n-1 n-1 ..
    weights = np.zeros((wanted, length))
    source = np.minimum(index, 2 * length - 1 - index)
    np.add.at(weights, (np.arange(wanted)[:, None], source), weight / weight.sum(1, keepdims=True))
    return weights


def cubic(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel, a = -0.5."""
    x = np.abs(x)
    inner, outer = 1.5 * x ** 3 - 2.5 * x ** 2 + 1, -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0))


def move_fixations(fixations: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Move a fixation map, (h, w) bool, to (H, W) point by point: a fixation goes to the pixel its centre falls into.

    No fixation is lost and none invented, but two that fall into one pixel become one.
    """
    row, column = np.nonzero(fixations)
    (height, width), moved = fixations.shape, np.zeros(size, dtype=bool)
    moved[(2 * row + 1) * size[0] // (2 * height), (2 * column + 1) * size[1] // (2 * width)] = True
    return moved
