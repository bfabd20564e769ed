"""Annotation from its files: density maps, fixations, masks of salient objects; and predicted maps, checked alike.

Annotation is data: colours, an alpha channel and a palette are never turned into grey levels silently. What cannot be
read as what it claims to be is a ValueError; how the rest was read, and what is doubtful in it, are its remarks.
"""
import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
import scipy.sparse

from utils import mistaken_for
from videos.images import check_size, decode, open_image, read_image

COLOURED = 16  # levels between channels: JPEG adds none to a grey picture, the palest heat map has 32
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")  # Pillow's, that have an alpha channel
LOSSY = ("JPEG", "MPO", "WEBP")  # Pillow's names of formats that change levels (WebP may)
HALF = 128  # of 255: fixations in lossy formats are at it or above, objects of masks above it
INSTANCES = 32  # a mask of levels up to here numbers its objects; DAVIS 2017 has ten of them at most
CROWDED, FULL = 0.1, 0.5  # shares of fixated pixels: doubtful (DHF1K's are 0.001), and no fixation map
MAT_VARIABLES = ("I", "eyeMap")  # which holds the fixations: DHF1K's, DIEM's
MAT_NUMBERS = ("double", "single", "logical", "sparse", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
               "uint64")
HDF5 = b"\x89HDF\r\n\x1a\n"  # begins a .mat of v7.3, after 512 bytes of text


class Remark(NamedTuple):
    """What a reader of scores must know about a file of annotation: how it was read, or what is doubtful in it.

    Attributes:
        kind: a key of `video.PROBLEMS`.
        reason: in words that are the same for every file that it holds for.
        finding: the same with the numbers of this file; empty where there are none.
    """
    kind: str
    reason: str
    finding: str = ""


class Annotation(NamedTuple):
    """What a file holds, (H, W), and the remarks on it."""
    values: np.ndarray
    remarks: list[Remark]


class Levels(NamedTuple):
    """A picture's grey levels, (H, W) uint8, Pillow's name of its format, and the remarks on how they were read."""
    values: np.ndarray
    format: str
    remarks: list[Remark]


# Values alone

def read_density(path: Path) -> np.ndarray:
    """A density map, (H, W) float32 in [0, 1]."""
    return examine_density(path).values


def read_mask(path: Path) -> np.ndarray:
    """The mask of salient objects, (H, W) uint8, of `examine_mask`."""
    return examine_mask(path).values


def read_fixations(path: Path, like: Path | None = None) -> np.ndarray:
    """A fixation map, (H, W) bool, of `examine_fixations`."""
    return examine_fixations(path, like).values


def read_prediction(path: Path) -> np.ndarray:
    """A predicted map, (H, W) uint8."""
    return grey_levels(path, "map").values


# Values with the remarks on them, for scores and for `check`

def examine_density(path: Path) -> Annotation:
    """A density map, (H, W) float32 in [0, 1]; a ValueError where it cannot be read, or is not a grey picture."""
    levels = grey_levels(path, "density map")
    return Annotation(levels.values.astype(np.float32) / 255, levels.remarks)


def remarks_on_density(density: np.ndarray, fixations: np.ndarray | None) -> list[Remark]:
    """What is doubtful in a density map, (H, W), beside its fixation map, (H, W) bool, if there is one."""
    nobody_looked = fixations is not None and not fixations.any() and not density.any()  # as it should be
    if density.min() != density.max() or nobody_looked:
        return []
    reason = "a density map of one value has no CC, and no KL or SIM if it is zero: left out there"
    return [Remark("constant", reason)]


def examine_mask(path: Path) -> Annotation:
    """The mask of salient objects, (H, W) uint8, objects above 128.

    Grey levels stay as they are. Small ones are numbers of objects: 0 and 1, or 0, 1, 2 .., become 0 and 255. So do the
    indices of a palette of objects whose first colour alone is black (DAVIS 2017). Where colours are constant, alpha
    is the mask.

    Raises:
        ValueError: it cannot be read, or is in colour, or transparent where it is not black.
    """
    mask, picture_format, remarks = grey_levels(path, "mask", means_alpha=True, means_indices=True)
    is_lossy, highest = picture_format in LOSSY, int(mask.max())
    if highest == 1 or (1 < highest <= INSTANCES and not is_lossy):
        if highest > 1:
            remarks.append(Remark("interpreted", f"a mask whose levels are all {INSTANCES} or below: taken as object "
                                                 "numbers, all above 0 is object"))
        mask = np.where(mask > 0, 255, 0).astype(np.uint8)
    elif not is_lossy and len(np.unique(mask)) <= INSTANCES:
        bright = (mask > HALF).sum()
        if 0 < bright < (mask > 0).sum() - bright:  # borders of objects are grey too, but small
            remarks.append(Remark("mask", f"a mask of several levels, most of it not above {HALF}, where objects are: "
                                          "are the others objects too?"))
    lowest, highest = int(mask.min()), int(mask.max())
    if lowest == highest:
        covered = "nothing" if highest <= HALF else "all"
        remarks.append(Remark("constant", f"a mask of one value, {lowest}: {covered} of the frame is object"))
    elif highest <= HALF:
        remarks.append(Remark("mask", f"a mask that is nowhere above {HALF}, where objects are: none is scored there",
                              f"the brightest level of a mask is {highest}, objects are what is above {HALF}: none is "
                              "scored there"))
    if ((mask > lowest + 16) & (mask < highest - 16)).mean() > 0.5:  # a JPEG is not quite of two levels either
        remarks.append(Remark("mask", "a mask that is mostly grey, neither dark nor bright: is it one?",
                              f"most pixels of a mask are grey, between its darkest level, {lowest}, and its "
                              f"brightest, {highest}: is it one?"))
    return Annotation(mask, remarks)


def examine_fixations(path: Path, like: Path | None = None) -> Annotation:
    """A fixation map, (H, W) bool: what is above zero is fixated; in a JPEG, what is at half of 255 or above.

    Args:
        path: an image, or a .mat file with the variable I (in DIEM eyeMap), or a .csv file of points (`read_points`).
        like: a picture of the same size, its density map or frame, by which a variable of another name is found; points
            need it.

    Raises:
        ValueError: it cannot be read, is in colour, or has so many fixations that it must be something else.
    """
    if path.suffix.lower() == ".csv":
        return Annotation(read_points(path, like), [])
    if path.suffix.lower() == ".mat":
        values, remarks = read_mat(path, like)
        picture_format = ""
    else:
        values, picture_format, remarks = grey_levels(path, "fixation map", means_alpha=True)
    is_lossy = picture_format in LOSSY
    of_two_levels = bool(((values == 0) | (values == values.max())).all())
    exact = of_two_levels and (picture_format == "WEBP" or values.max() in (0, 255))  # as a lossy format may keep it
    fixated = values > 0
    if is_lossy and not exact:
        fixated = values >= HALF
        nowhere = "" if fixated.any() else ", which is nowhere"
        remarks.append(Remark("fixations", "a fixation map in a format that changes levels (JPEG or WebP): fixated is "
                                           f"what is at {HALF} of 255 or above{nowhere}"))
    elif not of_two_levels:
        remarks.append(Remark("fixations", "more than two values in a fixation map: all above zero count as fixated"))
    share = fixated.mean()
    is_grey = not of_two_levels and not is_lossy
    if share > FULL or (share > CROWDED and is_grey):
        question = ("are these coordinates?" if path.suffix.lower() == ".mat" and values.shape[1] in (2, 3) else
                    "is it a density map?" if is_grey else "is it inverted?")
        raise ValueError(f"{path} is not a fixation map: {share:.1%} of its pixels are fixated, where recordings have "
                         f"less than one in a hundred; {question} Save what was looked at as 255 and all else as 0")
    if share > CROWDED:
        doubt = "of a fixation map are fixated: are they discs around fixations, or is it another picture?"
        remarks.append(Remark("fixations", f"more than {CROWDED:.0%} {doubt}", f"{share:.1%} {doubt}"))
    return Annotation(fixated, remarks)


# Pictures

def grey_levels(path: Path, name: str, means_alpha: bool = False, means_indices: bool = False) -> Levels:
    """The grey levels of a picture that is data.

    Args:
        path: its file.
        name: what it is, for messages.
        means_alpha: whether, where the colours are constant, the alpha channel is what was meant.
        means_indices: whether the indices of a coloured palette number objects, from 1; they become 0 and 255.

    Raises:
        ValueError: it cannot be read, or its colours or its alpha channel say something that grey levels cannot.
    """
    with open_image(path) as image:
        has_alpha = image.mode in ALPHA_MODES or "transparency" in image.info
        grey, picture_format = decode(image, "L"), image.format or ""
        if image.mode in ("1", "L") and not has_alpha:
            return Levels(grey, picture_format, [])
        colours = decode(image, "RGB")  # (H, W, 3)
        alpha = decode(image, "RGBA")[..., 3] if has_alpha else np.full_like(grey, 255)
        indices = decode(image, "P") if image.mode == "P" else None
        palette = image.getpalette() if image.mode == "P" else []
    red, green, blue = (colours[..., channel] for channel in range(3))
    differences = (np.maximum(x, green) - np.minimum(x, green) for x in (red, blue))
    in_colour = max(int(difference.max()) for difference in differences) > COLOURED
    in_colour |= picture_format not in LOSSY and bool((colours.any(-1) & (grey == 0)).any())  # too dark to become grey
    remarks = []
    if means_indices and indices is not None:
        used = np.unique(indices)
        is_grey_scale = all(palette[3 * index:3 * index + 3] == [index] * 3 for index in used.tolist())
        numbers_objects = in_colour or (not is_grey_scale and len(used) <= INSTANCES)
        if palette[:3] == [0, 0, 0] and numbers_objects and grey[indices > 0].all():  # 0 alone is black
            objects = np.where(indices > 0, 255, 0).astype(np.uint8)
            reason = f"a {name} in a palette: every index above 0 is taken for an object"
            return Levels(objects, picture_format, [Remark("interpreted", reason)])
        if palette[:3] != [0, 0, 0]:
            remarks.append(Remark("mask", f"a {name} in a palette whose first colour is not black: what is bright is "
                                          "taken for an object, whatever its index"))
    if (alpha < 255).any():
        is_constant = (colours == colours[0, 0]).all()
        if is_constant and means_alpha:
            return Levels(alpha, picture_format, [Remark("interpreted", f"a {name} whose colours are constant: its "
                                                                        "alpha channel is taken for it")])
        if is_constant or colours[alpha < 255].any():  # else it is black there, whatever alpha says
            raise ValueError(f"{path} has an alpha channel that is not opaque: expected a grey {name}, and whether it "
                             "is in the colours or in alpha cannot be told. Save it as a grey picture of 8 bits, "
                             "without alpha")
    if in_colour:
        raise ValueError(f"{path} is in colour: expected a grey {name}. What colours stand for, of a heat map or of "
                         f"objects, cannot be told from them; save the {name} itself, as a grey picture of 8 bits")
    return Levels(grey, picture_format, remarks)


# Points

class Point(NamedTuple):
    """A fixation: x and y in pixels of its picture, from 0, and the observer, None where the file does not say."""
    x: float
    y: float
    observer: str | None


def read_points(path: Path, like: Path | None) -> np.ndarray:
    """The pixels that the points of a .csv file lie in, (H, W) bool; one where several lie is set once.

    Args and errors are those of `located_points`.
    """
    points, size = located_points(path, like)
    fixated = np.zeros(size, dtype=bool)
    for x, y, _ in points:
        fixated[int(y), int(x)] = True
    return fixated


def located_points(path: Path, like: Path | None) -> tuple[list[Point], tuple[int, int]]:
    """The points of a .csv file, all within their picture, and the picture's size (H, W).

    Args:
        path: lines of x,y, in pixels of the picture from 0, the corner of its first pixel, below a header that names
            the columns. They may come in any order, and others between them. No lines: nobody looked.
        like: the picture, of (H, W) pixels.

    Raises:
        ValueError: a column is missing, or a line has no numbers there, or its point lies outside the picture. The
            message has file and line.
    """
    if like is None:
        raise ValueError(f"{path} holds points: they are pixels of a picture, its density map or frame, and none is "
                         "given")
    points, (height, width) = [], read_image(like, "L").shape
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            if header.count("x") != 1 or header.count("y") != 1:
                found = f"this file {mistaken}" if (mistaken := mistaken_for(path)) else ", ".join(header) or "nothing"
                raise ValueError(f"{path}, line 1: expected a header with one column x and one column y, as in "
                                 f"x,y,observer, found: {found}")
            columns = header.index("x"), header.index("y")
            place = header.index("observer") if header.count("observer") == 1 else None
            for fields in filter(None, lines):
                where = f"{path}, line {lines.line_num}"
                try:
                    x, y = (float(fields[column]) for column in columns)
                except (IndexError, ValueError):
                    x = y = math.nan
                if not (math.isfinite(x) and math.isfinite(y)):
                    raise ValueError(f"{where}: expected two numbers, x and y, in the columns {columns[0] + 1} and "
                                     f"{columns[1] + 1}, found {', '.join(fields)}")
                if not (0 <= x < width and 0 <= y < height):
                    raise ValueError(f"{where}: x = {x:g}, y = {y:g} is outside {like}, {height} x {width} (H x W): "
                                     "expected pixels of this picture, from 0. Are x and y swapped, or of another "
                                     "size? Leave out points beside the picture")
                observer = fields[place].strip() if place is not None and place < len(fields) else ""
                points.append(Point(x, y, observer or None))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"fixations {path} is gone: it was there when its folder was listed") from error
    except (UnicodeDecodeError, csv.Error) as error:
        reason = f"it {mistaken}" if (mistaken := mistaken_for(path)) else f"it is not text in UTF-8: {error}"
        raise ValueError(f"cannot read fixations {path}: {reason}") from error
    return points, (height, width)


# MATLAB's files

class Variable(NamedTuple):
    """A variable of a .mat file: its shape as MATLAB has it, () if not a matrix; and its class, such as double."""
    shape: tuple[int, ...]
    kind: str


def read_mat(path: Path, like: Path | None) -> tuple[np.ndarray, list[Remark]]:
    """The matrix of fixations in a .mat file of any version, (H, W) of numbers from 0, and the remarks on it.

    Args and errors are those of `examine_fixations`.
    """
    remarks = []
    try:
        with path.open("rb") as file:
            beginning = file.read(520)
        variables, load = (open_hdf5 if HDF5 in (beginning[:8], beginning[512:]) else open_scipy)(path)
        name = next((name for name in MAT_VARIABLES if name in variables), None)
        if name is None and like is not None:
            size = read_image(like, "L").shape
            fitting = [name for name, about in variables.items() if about.shape == size and about.kind in MAT_NUMBERS]
            if len(fitting) == 1:
                name, = fitting
                remarks = [Remark("interpreted", f"a fixation map from the variable {name} of its .mat file, the only "
                                                 "matrix there of its frame's size")]
        if name is not None:
            check_size(path, 1, math.prod(variables[name].shape))
            values = load(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"fixation map {path} is gone: it was there when its folder was listed") from error
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot read fixation map {path}: it is of MATLAB's version 7.3 (HDF5), which needs h5py: "
                         "pip install h5py, or save it again in MATLAB with save(.., '-v7')") from error
    except Exception as error:  # scipy and h5py raise many kinds on a damaged file; all mean the same here
        if mistaken := mistaken_for(path):
            raise ValueError(f"cannot read fixation map {path}: it {mistaken}") from error
        raise ValueError(f"cannot read fixation map {path}: {error}; restore the file, or save it again in MATLAB with "
                         "save(.., '-v7')") from error
    if name is None:
        held = ", ".join(f"{name} ({' x '.join(map(str, about.shape)) or 'no matrix'}, {about.kind})"
                         for name, about in variables.items())
        raise ValueError(f"{path} has no variable {' or '.join(MAT_VARIABLES)}, which hold the fixation map in the "
                         ".mat files of DHF1K and DIEM, nor one other matrix alone of its frame's size. It holds "
                         f"{held or 'nothing'}; save the fixation map as I")
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size or values.dtype.kind not in "buif":
        is_array = isinstance(values, np.ndarray)
        got = f"{values.dtype} of shape {values.shape}" if is_array else f"a {variables[name].kind}"
        raise ValueError(f"variable {name} of {path} must be a fixation map (H, W), got {got}")
    if not (values >= 0).all():  # NaN is not
        raise ValueError(f"variable {name} of {path} must be a fixation map, 0 where nobody looked and more elsewhere: "
                         "it holds values below 0, or NaN")
    return values, remarks


def open_scipy(path: Path) -> tuple[dict[str, Variable], Callable[[str], np.ndarray]]:
    """The variables of a .mat file up to version 7, and what loads one by its name; sparse ones become full."""
    def load(name: str) -> np.ndarray:
        values = scipy.io.loadmat(path, variable_names=[name])[name]
        return values.toarray() if scipy.sparse.issparse(values) else values

    return {name: Variable(tuple(map(int, shape)), kind) for name, shape, kind in scipy.io.whosmat(path)}, load


def open_hdf5(path: Path) -> tuple[dict[str, Variable], Callable[[str], np.ndarray | None]]:
    """The same of version 7.3, which stores matrices transposed, and sparse ones as a group of their columns.

    What is not a matrix of numbers is loaded as None. A ModuleNotFoundError where h5py is not installed.
    """
    import h5py  # an extra: needed for these files alone

    def about(item) -> Variable:
        kind = item.attrs.get("MATLAB_class", b"")
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        if "MATLAB_sparse" in item.attrs:  # its number of rows
            return Variable((int(item.attrs["MATLAB_sparse"]), len(item["jc"]) - 1), "sparse")
        if isinstance(item, h5py.Group) or "MATLAB_empty" in item.attrs:
            return Variable((), kind or "struct")
        return Variable(item.shape[::-1], kind or ("double" if item.dtype.kind in "buif" else str(item.dtype)))

    def load(name: str) -> np.ndarray | None:
        with h5py.File(path, "r") as file:
            item, (shape, kind) = file[name], about(file[name])
            if not shape or kind not in MAT_NUMBERS:
                return None
            if kind != "sparse":
                check_size(path, 1, math.prod(item.chunks or ()))  # memory is taken for whole chunks
                return item[()].T
            columns = item["jc"][()].astype(np.int64)              # where each begins among the values
            if not columns[-1]:
                return np.zeros(shape)
            check_size(path, 1, len(item["ir"]))
            values, rows = item["data"][()], item["ir"][()].astype(np.int64)
            sparse = scipy.sparse.csc_matrix((values, rows, columns), shape=shape)
            sparse.check_format()  # of a damaged file, before it is written out
            return sparse.toarray()

    with h5py.File(path, "r") as file:
        return {name: about(item) for name, item in file.items() if not name.startswith("#")}, load  # cells' contents
