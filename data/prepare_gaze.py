"""Turn three sets of still images with recorded gaze, as released, into one tree that the programs read.

    python data/prepare_gaze.py --osie DIR --eyecrowd DIR --sun500 DIR    # one, two or three sets, into data/gaze

Each DIR is the folder of the repository that publishes the set:

    --osie      NUS-VIP/predicting-human-gaze-beyond-pixels    data/stimuli/*.jpg, data/eye/fixations.mat
    --eyecrowd  NUS-VIP/saliency-in-crowd                      data/stimuli/*.jpg, data/eye/fixations.mat
    --sun500    Yanakz/Scene                                   data/stimuli/*.jpg, data/tidy/fixations.mat

An image becomes a video of one frame, called by its set and its name, such as osie-1001:

    OUT/osie-1001/images/1001.jpg      as released, or smaller: --longer-side
    OUT/osie-1001/fixation/1001.csv    x,y,observer: a line for each fixation, in pixels of this image; all from 0
    OUT/osie-1001/maps/1001.png        density, 8 bits
    OUT/osie-1001/annotation.json      sizes, and how many fixations were used and dropped

The density is made of the number of fixations in each pixel: a Gaussian of sigma 0.032 of the image's width, cut off at
4 sigma, zero outside the image, divided by the image's maximum. Fixations outside the image are dropped and counted.

Beside them lie lists of names: train.txt and test.txt, split as data/gaze_test.txt says; osie-test.txt and so on, the
test images of one set; and, to choose settings without looking at the test images, val.txt, every fifth training image
of each set, and fit.txt, the others.

A video is written into OUT/.partial and renamed when it is whole: interrupt a run at any time, and run it again. What
is there already is kept; other sets are added to it.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
from PIL import Image
from prepare_dhf1k import density_map, encode_png, remove_empty, write_atomically
from tqdm import tqdm

SIGMA = 0.032         # of the density's Gaussian, in widths of the image
JPEG_QUALITY = 95
MAX_OUTSIDE = 0.05    # share of a set's fixations; with x and y of SUN500 swapped it is 0.08
VAL_STEP = 5          # every fifth training image is for choosing settings
TEST_LIST = Path(__file__).with_name("gaze_test.txt")


# The released files: for each image its name, and its fixations, (n, 3): x, y, observer

def read_structs(path: Path, images: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The fixations of OSIE and EyeCrowd: a cell array of structs with `img` and `subjects`."""
    for number, entry in enumerate(cells(load_fixations(path))):
        where = f"image {number + 1} of {path}"
        name = str(np.squeeze(field_of(entry, "img", where)))
        points = []
        for observer, subject in enumerate(cells(field_of(entry, "subjects", where))):
            x, y = (np.ravel(field_of(subject, field, where)).astype(float) for field in ("fix_x", "fix_y"))
            if len(x) != len(y):
                raise ValueError(f"{where}, {name}: observer {observer} has {len(x)} values in fix_x and {len(y)} in "
                                 "fix_y, expected as many. Fetch the file again")
            points.append(with_observer(x, y, observer))
        yield name, np.concatenate([np.empty((0, 3)), *points])


def read_table(path: Path, images: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The fixations of SUN500: a cell array, images in the order of their names x observers, of rows y, x, .."""
    table = load_fixations(path)
    if table.ndim != 2 or len(table) != len(images):
        raise ValueError(f"{path} holds a cell array of {' x '.join(map(str, table.shape))}, and there are "
                         f"{len(images)} images: expected a row for each of them. Fetch the images and the file again")
    for name, row in zip(images, table):
        points = []
        for observer, values in enumerate(row):
            values = np.asarray(values, dtype=float)
            if values.size and (values.ndim != 2 or values.shape[1] < 2):
                raise ValueError(f"{path}: observer {observer} of {name} has an array of "
                                 f"{' x '.join(map(str, values.shape))}, expected n x 2 or more columns: y, x, ..")
            y, x = values[:, :2].T if values.size else np.empty((2, 0))
            points.append(with_observer(x, y, observer))
        yield name, np.concatenate([np.empty((0, 3)), *points])


def with_observer(x: np.ndarray, y: np.ndarray, observer: int) -> np.ndarray:
    """The rows x, y, observer of one observer."""
    return np.stack([x, y, np.full(len(x), observer)], axis=1)


def load_fixations(path: Path) -> np.ndarray:
    """The cell array `fixations` of a .mat file."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: give the folder of the released repository, which holds it")
    try:
        variables = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises many kinds on a damaged file; all mean the same here
        raise ValueError(f"cannot read {path} ({path.stat().st_size} bytes) as a file of MATLAB's: {error}. Fetch it "
                         "again") from error
    fixations = variables.get("fixations")
    if fixations is None or fixations.dtype != object or not fixations.size:
        there = [name for name in variables if not name.startswith("__")]
        raise ValueError(f"{path} has no cell array `fixations` (it holds {there}). Is it the released file?")
    return fixations


def cells(values: np.ndarray) -> Iterator[np.ndarray]:
    """What a cell array, or an array of structs, holds."""
    return (values[index] for index in np.ndindex(values.shape))


def field_of(struct: np.ndarray, name: str, where: str) -> np.ndarray:
    """A field of one struct, as scipy reads it: an array of one element, or that element."""
    if struct.dtype.names is None or name not in struct.dtype.names or struct.size != 1:
        raise ValueError(f"{where}: expected a struct with the field {name}, found {struct.dtype.names or struct!r}. "
                         "Is it the released file?")
    return np.ravel(struct[name])[0] if struct.shape else struct[name]


class ReleasedSet(NamedTuple):
    """How a set is released: its repository, its file of fixations and what reads it, and whom to name."""
    repository: str
    fixations: str
    read: Callable[[Path, list[str]], Iterator[tuple[str, np.ndarray]]]
    authors: str


SETS = {
    "osie": ReleasedSet(
        "NUS-VIP/predicting-human-gaze-beyond-pixels", "data/eye/fixations.mat", read_structs,
        "Xu, Jiang, Wang, Kankanhalli, Zhao: Predicting human gaze beyond pixels. Journal of Vision, 2014"),
    "eyecrowd": ReleasedSet(
        "NUS-VIP/saliency-in-crowd", "data/eye/fixations.mat", read_structs,
        "Jiang, Xu, Zhao: Saliency in crowd. ECCV 2014"),
    "sun500": ReleasedSet("Yanakz/Scene", "data/tidy/fixations.mat", read_table, "Liang, Hu. 2015"),
}
ATTRIBUTION = """Still images with recorded gaze, written by data/prepare_gaze.py of RecSal-Net.

The gaze data are published under the MIT licence. The photographs belong to their owners: do not redistribute them.

"""


# Images with their fixations

class Still(NamedTuple):
    """An image as released, and where people looked.

    Attributes:
        name: of its video, such as osie-1001.
        image: its file.
        size: (H, W), pixels.
        points: (n, 3) x, y in pixels of the image from 0, within it, and the observer.
        outside: how many fixations were dropped, since they are not within it.
    """
    name: str
    image: Path
    size: tuple[int, int]
    points: np.ndarray
    outside: int


def find_stills(name: str, folder: Path) -> list[Still]:
    """The images of a released set with their fixations.

    Raises:
        FileNotFoundError, ValueError: a file is not there, or not as released.
    """
    released, stimuli = SETS[name], folder / "data/stimuli"
    files = {p.name: p for p in sorted(stimuli.glob("*")) if p.suffix.lower() in (".jpg", ".jpeg")
             and not p.name.startswith(".")}
    if not files:
        raise FileNotFoundError(f"no JPEG images in {stimuli}: give --{name} the folder of the repository "
                                f"{released.repository}, which holds data/stimuli and {released.fixations}")
    stills = {}
    for file, points in released.read(folder / released.fixations, list(files)):
        if file not in files or file in stills:
            reason = "it is there twice" if file in stills else f"{stimuli} has {len(files)} images, but not this one"
            raise ValueError(f"{folder / released.fixations} has fixations of the image {file}: {reason}. Fetch the "
                             "repository again")
        height, width = size = image_size(files[file])
        inside = ((points[:, :2] >= 0) & (points[:, :2] < (width, height))).all(axis=1)  # NaN is not
        stills[file] = Still(f"{name}-{files[file].stem}", files[file], size, points[inside], int((~inside).sum()))
    outside = sum(still.outside for still in stills.values())
    total = outside + sum(len(still.points) for still in stills.values())
    if outside > MAX_OUTSIDE * total:
        raise ValueError(f"{outside} of the {total} fixations in {folder / released.fixations} are outside their "
                         f"images, expected {MAX_OUTSIDE:.0%} at most: are x and y swapped, or are the images in "
                         f"{stimuli} of another size than the released ones?")
    if without := [file for file in files if file not in stills]:
        raise ValueError(f"{len(without)} images of {stimuli} have no fixations in {folder / released.fixations}, the "
                         f"first {without[0]}: fetch the repository again, or remove them")
    return list(stills.values())


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image file; a ValueError where it cannot be read, or must be rotated to be upright."""
    try:
        with Image.open(path) as image:
            (width, height), orientation = image.size, image.getexif().get(0x0112, 1)
    except OSError as error:
        raise ValueError(f"cannot read image {path}: {error}. Fetch it again") from error
    if orientation != 1:
        raise ValueError(f"image {path} has EXIF orientation {orientation}, expected 1: whether fixations are in "
                         "pixels of the rotated image cannot be told. Fetch it as released")
    return height, width


def written_size(size: tuple[int, int], longer_side: int) -> tuple[int, int]:
    """(H, W) of the image that is written: at most `longer_side` pixels on its longer side, unless that is 0."""
    scale = min(1, longer_side / max(size)) if longer_side else 1
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def scaled_points(still: Still, size: tuple[int, int]) -> np.ndarray:
    """The fixations, (n, 3), in pixels of the image that is written, in thousandths, within [0, W) x [0, H)."""
    points = still.points.copy()
    for column, after, before in ((0, size[1], still.size[1]), (1, size[0], still.size[0])):
        points[:, column] = np.minimum(np.round(points[:, column] * (after / before), 3), after - 0.001)
    return points


def prepare_still(still: Still, out: Path, longer_side: int) -> bool:
    """Write the folder of one image, or check the one that is there; whether it was written now."""
    folder, unfinished, stem = out / still.name, out / ".partial" / still.name, still.image.stem
    height, width = size = written_size(still.size, longer_side)
    facts = {"set": still.name.partition("-")[0], "image": still.image.name, "size": [height, width],
             "released_size": list(still.size), "fixations": len(still.points), "outside": still.outside,
             "sigma": SIGMA * width}
    files = (f"images/{still.image.name}", f"maps/{stem}.png", f"fixation/{stem}.csv")
    if folder.exists():
        check_present(folder, facts, files)
        return False
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was interrupted
    for file in files:
        (unfinished / file).parent.mkdir(parents=True)
    points = scaled_points(still, size)
    counts = np.zeros(size)
    np.add.at(counts, (points[:, 1].astype(int), points[:, 0].astype(int)), 1)
    lines = ["x,y,observer", *(f"{x:.3f},{y:.3f},{observer:.0f}" for x, y, observer in points)]
    if size == still.size:
        shutil.copyfile(still.image, unfinished / files[0])
    else:
        with Image.open(still.image) as image:
            smaller = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        smaller.save(unfinished / files[0], quality=JPEG_QUALITY)
    (unfinished / files[1]).write_bytes(encode_png(density_map(counts, SIGMA * width)))
    (unfinished / files[2]).write_text("\n".join(lines) + "\n")
    (unfinished / "annotation.json").write_text(json.dumps(facts, indent=2) + "\n")
    os.rename(unfinished, folder)
    return True


def check_present(folder: Path, facts: dict, files: tuple[str, ...]) -> None:
    """Raise a ValueError unless an existing folder is whole and was made as it would be now."""
    path = folder / "annotation.json"
    try:
        present = json.loads(path.read_text()) if path.is_file() else None
    except json.JSONDecodeError:
        present = None
    if not isinstance(present, dict):
        raise ValueError(f"{folder} is there, but was not written by this program (expected its annotation.json in "
                         "it). Move it away or choose another --out")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ValueError(f"{folder} is there without {missing[0]}. Remove the folder and run this again")
    if different := [name for name in facts if present.get(name) != facts[name]]:
        described = ", ".join(f"{name} {present.get(name)} instead of {facts[name]}" for name in different)
        raise ValueError(f"{folder} is there with {described}. Remove the folder, choose another --out, or give the "
                         "--longer-side that it was written with")


# Lists, and whom to name

def write_lists(out: Path, of_test: set[str]) -> dict[str, list[str]]:
    """Write the lists of the images that are in the tree, one name a line; returns them by their names.

    A list that would be empty is not written, and removed. The images named in `of_test` are for the final scores.
    """
    lists = {name: [] for name in ("train", "test", "fit", "val")}
    for set_name in SETS:
        names = sorted(p.parent.name for p in out.glob(f"{set_name}-*/annotation.json"))
        train = [name for name in names if name not in of_test]
        test = lists[f"{set_name}-test"] = [name for name in names if name in of_test]
        lists["train"] += train
        lists["test"] += test
        lists["val"] += train[VAL_STEP - 1::VAL_STEP]
        lists["fit"] += [name for number, name in enumerate(train, start=1) if number % VAL_STEP]
    for name, names in lists.items():
        if names:
            write_atomically(out / f"{name}.txt", "".join(f"{line}\n" for line in names).encode())
        else:
            (out / f"{name}.txt").unlink(missing_ok=True)
    return lists


def write_attribution(out: Path, sets: Iterable[str]) -> None:
    """Write whom to name for these sets, and for those that are in the tree already."""
    there = [name for name in SETS if name in sets or any(out.glob(f"{name}-*/annotation.json"))]
    authors = (f"{name}: {SETS[name].authors}; https://github.com/{SETS[name].repository}\n" for name in there)
    write_atomically(out / "ATTRIBUTION.txt", (ATTRIBUTION + "".join(authors)).encode())


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    released = parser.add_argument_group("released sets, one or several")
    for name, info in SETS.items():
        released.add_argument(f"--{name}", type=Path, metavar="DIR",
                              help=f"folder of the repository {info.repository} (default: none)")
    written = parser.add_argument_group("what is written")
    written.add_argument("--out", type=Path, default=Path("data/gaze"),
                         help="folder of the tree (default: %(default)s)")
    written.add_argument("--longer-side", type=int, default=384, metavar="N",
                         help="pixels; larger images are made smaller, to this length of their longer side, others "
                              "copied as they are; 0: all are copied (default: %(default)s)")
    return parser


def main(args: argparse.Namespace) -> None:
    folders = {name: folder for name in SETS if (folder := getattr(args, name))}
    if not folders:
        raise ValueError(f"no set is given: give one or several of --{' --'.join(SETS)}, each with its folder")
    if args.longer_side < 0:
        raise ValueError(f"--longer-side must be a number of pixels from 1, or 0 for no limit, got {args.longer_side}")
    of_test = set(TEST_LIST.read_text().split())
    sets = {name: find_stills(name, folder) for name, folder in folders.items()}  # before anything is written
    for name, stills in sets.items():
        if not any(still.name in of_test for still in stills):  # another set's would be trained on under this name
            raise ValueError(f"none of the {len(stills)} images in {folders[name]} is one of the test images of {name} "
                             f"that {TEST_LIST.name} lists: is it another set's folder?")
    args.out.mkdir(parents=True, exist_ok=True)
    write_attribution(args.out, sets)
    for name, stills in sets.items():
        written = sum(prepare_still(still, args.out, args.longer_side)
                      for still in tqdm(stills, desc=name, unit="image", disable=None))
        print(f"{name}: {written} images written, {len(stills) - written} were there already, "
              f"{sum(len(still.points) for still in stills)} fixations, "
              f"{sum(still.outside for still in stills)} more were outside their image and dropped")
    remove_empty(args.out / ".partial")
    lists = write_lists(args.out, of_test)
    print(f"{args.out}: {', '.join(f'{len(names)} in {name}.txt' for name, names in lists.items() if names)}")
    for name in sets:
        expected, there = sum(image.startswith(f"{name}-") for image in of_test), len(lists[f"{name}-test"])
        if there < expected:
            print(f"warning: {there} of the {expected} test images of {name} in {TEST_LIST.name} are there: scores on "
                  "this part cannot be compared with those on the whole test list", file=sys.stderr)


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError) as error:
        parser.exit(2, f"prepare_gaze.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "prepare_gaze.py: interrupted; the images written so far are whole, run it again for the "
                         "others\n")
