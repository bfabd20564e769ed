"""Annotation from its files: density maps, fixation maps, masks of salient objects."""
import math
from pathlib import Path

import numpy as np
import scipy.io

from videos.images import check_size, read_image

MAT_VARIABLES = ("I", "eyeMap")                                            # which holds the fixations: DHF1K's, DIEM's


def read_density(path: Path) -> np.ndarray:
    """A density map, (H, W) float32 in [0, 1]."""
    return read_image(path, "L").astype(np.float32) / 255


def read_mask(path: Path) -> np.ndarray:
    """The mask of salient objects, (H, W) uint8: grey levels 0 .. 255; 0 and 255 where its file has 0 and 1."""
    levels = read_image(path, "L")
    return levels * 255 if levels.max() == 1 else levels


def read_fixations(path: Path) -> np.ndarray:
    """A fixation map, (H, W) bool: what is above zero in its file is fixated."""
    return read_fixation_values(path) > 0


def read_fixation_values(path: Path) -> np.ndarray:
    """The numbers of a fixation map, (H, W), from an image or from the variable I (in DIEM eyeMap) of a .mat file."""
    if path.suffix.lower() != ".mat":
        return read_image(path, "L")
    try:
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        name = next((name for name in MAT_VARIABLES if name in shapes), None)
        if name is not None:
            check_size(path, 1, math.prod(map(int, shapes[name])))
            values = scipy.io.loadmat(path, variable_names=[name])[name]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"fixation map {path} is gone: it was there when its folder was listed") from error
    except Exception as error:  # scipy raises many kinds on a damaged file; all mean the same here
        raise ValueError(f"cannot read fixation map {path}: {error}; restore the file") from error
    if name is None:
        raise ValueError(f"{path} has no variable {' or '.join(MAT_VARIABLES)}, which hold the fixation map in the .mat files of DHF1K and DIEM")
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size or values.dtype.kind not in "buif":
        raise ValueError(f"variable {name} of {path} must be a fixation map (H, W), "
                         f"got {getattr(values, 'dtype', type(values))} of shape {np.shape(values)}")
    return values
