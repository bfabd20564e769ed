"""Frames to a network's size with OpenCV, as the authors of several networks do it."""
import cv2
import numpy as np
import torch
from torch import Tensor


def resize_frame(frame: np.ndarray, size: tuple[int, int], interpolation: int = cv2.INTER_AREA) -> Tensor:
    """Bring a frame, or a picture of flow, to a size.

    Args:
        frame: (H, W, 3) uint8, RGB.
        size: (h, w).
        interpolation: one of OpenCV's; INTER_LINEAR does not antialias.

    Returns:
        (3, h, w) uint8, RGB.
    """
    return torch.from_numpy(cv2.resize(frame, (size[1], size[0]), interpolation=interpolation)).permute(2, 0, 1)
