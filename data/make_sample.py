"""Write a small generated set of videos to try the programs on: with gaze, or with masks of salient objects.

    python data/make_sample.py                      # 200 + 6 videos with gaze into data/sample, in seconds
    python data/make_sample.py --out data/tiny --train-videos 2 --val-videos 1 --frames 12 --size 90 160
    python data/make_sample.py --kind vsod   # 20 + 6 videos and 100 stills with masks into data/vsod_sample, in seconds

Bright objects move over grey, panning textures, others stand still. The set can be learnt in minutes, from motion and
colour together, and shows whether the programs work. Scores on it say nothing about real videos.

gaze: in the tree of the prepared DHF1K. Simulated observers mostly follow the fast objects of high contrast, hardly
those that stand still, and now and then look at the centre or anywhere.
vsod: for video salient object detection, in the tree of SMCF's authors: TrainSet_RGB/{Imgs,GTs} (stills),
TrainSet_Video/{Imgs,ground-truth} (the frames of all sequences in one folder) and
TestSet/sample/SEQUENCE/{Frame,ground-truth}. Masks are 255 where a moving object is seen, else 0; objects that stand
still are not in them, so a frame alone is not enough. Objects are faster, so that optical flow shows them; pictures of
flow are not written.

The same flags give the same files, byte for byte with the same library versions; asking for more videos leaves the
earlier ones as they were.
"""

import argparse
import functools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from prepare_dhf1k import SIGMA, at_least_one, density_map, encode_png, write_atomically
from scenes import VSOD_SPEED, fixation_maps, make_scene, simulate_gaze
from tqdm import tqdm

GENERATOR = 1                                                # goes up when the same flags give other files
FINISHED, STARTED = "sample.json", "sample.json.unfinished"  # markers with the flags: folders that we may replace
MIN_SIZE = 32                                                # pixels; objects get lost below
JPEG_QUALITY = 95                                            # OpenCV's own default
# Flags in a marker.
MARKED = ("kind", "generator", "train_videos", "val_videos", "frames", "size", "observers", "stills", "seed")
GAZE_SORTS = ("images", "maps", "fixation")
# {} is a sequence, * the number of a frame.
VSOD_FILES = {"train": ("TrainSet_Video/Imgs/{}_*.jpg", "TrainSet_Video/ground-truth/{}_*.png"),
              "val": ("TestSet/sample/{}/Frame/*.jpg", "TestSet/sample/{}/ground-truth/*.png")}
STILL_FILES = ("TrainSet_RGB/Imgs/still_*.jpg", "TrainSet_RGB/GTs/still_*.png")
DEFAULTS = {"gaze": {"out": Path("data/sample"), "train_videos": 200, "val_videos": 6, "observers": 17},
            "vsod": {"out": Path("data/vsod_sample"), "train_videos": 20, "val_videos": 6, "stills": 100}}


@dataclass(frozen=True)
class Part:
    """One video of a set, or its stills.

    Attributes:
        files: paths below the set's folder, one for each sort of picture, with * for the number.
        pictures: makes them: for each number the files' contents, in the order of `files`.
    """

    files: tuple[str, ...]
    pictures: Callable[[], Iterator[tuple[str, tuple[bytes, ...]]]]


def find_parts(flags: dict) -> dict[str, Part]:
    """The parts of the set with these flags, by names such as "val/025".

    Raises:
        AttributeError, KeyError, TypeError: they are not the flags of a set.
    """
    return {"gaze": gaze_parts, "vsod": vsod_parts}[flags.get("kind", "gaze")](flags)


def numbered_videos(flags: dict) -> Iterator[tuple[str, int, list[int]]]:
    """Split, number and random seed of each video; the seed does not depend on how many videos there are before it."""
    for which, (split, first) in enumerate((("train", 1), ("val", flags["train_videos"] + 1))):
        for i in range(flags[f"{split}_videos"]):
            yield split, first + i, [flags["seed"], which, i]


def gaze_parts(flags: dict) -> dict[str, Part]:
    """The videos of a set with gaze, which are folders."""
    names = {f"{split}/{number:03d}": start for split, number, start in numbered_videos(flags)}
    content = {name: flags[name] for name in ("frames", "size", "observers")}
    files = {name: tuple(f"{name}/{sort}/*.png" for sort in GAZE_SORTS) for name in names}
    return {name: Part(files[name], functools.partial(gaze_pictures, start, **content))
            for name, start in names.items()}


def vsod_parts(flags: dict) -> dict[str, Part]:
    """The sequences of a set with masks, and its stills."""
    names = {(split, f"s{number:03d}"): start for split, number, start in numbered_videos(flags)}
    content = {name: flags[name] for name in ("frames", "size")}
    parts = {}
    for (split, name), start in names.items():
        files = tuple(file.format(name) for file in VSOD_FILES[split])
        parts[f"{split}/{name}"] = Part(files, functools.partial(vsod_pictures, start, **content))
    stills = functools.partial(still_pictures, flags["seed"], flags["stills"], **content)
    return {**parts, "stills": Part(STILL_FILES, stills)}


def gaze_pictures(start: list[int], frames: int, size: tuple[int, int],
                  observers: int) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """Number, frame, density map and fixation map of a video's frames."""
    rng = np.random.default_rng(start)
    scene = make_scene(rng, frames, size)
    gaze = simulate_gaze(rng, scene.things, scene.background, observers)
    for t, fixations in enumerate(fixation_maps(gaze, size)):
        density = density_map(fixations, SIGMA * size[1] / 640)  # sigma scales with the width
        yield f"{t + 1:04d}", (encode_png(scene.frame(t)), encode_png(density), encode_png(fixations))


def vsod_pictures(start: list[int], frames: int, size: tuple[int, int]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """Number, frame and mask of a sequence's frames."""
    scene = make_scene(np.random.default_rng(start), frames, size, VSOD_SPEED)
    for t in range(len(scene.shifts)):
        yield f"{t:05d}", (encode_jpeg(scene.frame(t)), encode_png(scene.mask(t)))


def still_pictures(seed: int, count: int, frames: int,
                   size: tuple[int, int]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """Number, picture and mask of stills: one frame each of sequences that are not in the set."""
    for i in range(count):
        rng = np.random.default_rng([seed, 2, i])
        scene = make_scene(rng, frames, size, VSOD_SPEED)
        t = rng.integers(len(scene.shifts))
        yield f"{i:05d}", (encode_jpeg(scene.frame(t)), encode_png(scene.mask(t)))


def encode_jpeg(image: np.ndarray) -> bytes:
    """The JPEG file of an (H, W, 3) BGR image, uint8."""
    done, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape}, {image.dtype} as JPEG.")
    return content.tobytes()


def read_marker(out: Path) -> dict:
    """The content of the marker in a folder: {"flags", and if finished "videos": frames of each}.

    Returns:
        {} if the folder is empty or does not exist.

    Raises:
        ValueError: something else is in the folder.
    """
    marker = next((out / name for name in (FINISHED, STARTED) if (out / name).is_file()), None)
    if marker is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there and was not written by this program (no {FINISHED} in it): choose another "
                         "--out.")
    if marker is None:
        return {}
    try:
        content = json.loads(marker.read_text())
        find_parts(content["flags"])  # any other program's file fails here
        return content
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{marker} is not a marker that this program wrote: choose another --out.") from error


def take_stock(out: Path, flags: dict) -> tuple[Counter, list[Path], list[Path]]:
    """What the folders of a set hold.

    Returns:
        How many files there are of each of the set's `Part.files`; everything that belongs to the set (these files,
        half-written ones, and folders of flow that programs keep beside frames, flow_METHOD); and everything else.
    """
    patterns = {file for part in find_parts(flags).values() for file in part.files}
    counts, ours, others = Counter(), [], []
    folders = set_folders(flags)
    for path in (path for folder in folders if (out / folder).is_dir() for path in (out / folder).iterdir()):
        name = path.relative_to(out).as_posix()
        whole = re.sub(r"/\.([^/]+)\.partial$", r"/\1", name)  # as `write_atomically` calls it
        pattern = re.sub(r"\d+(\.\w+)$", r"*\1", whole)
        if pattern in patterns:
            counts[pattern] += whole == name
            ours.append(path)
        elif path.name.startswith("flow_") and path.is_dir() and not path.is_symlink():
            ours.append(path)
        elif name not in folders:
            others.append(path)
    return counts, ours, others


def set_folders(flags: dict) -> list[str]:
    """The folders of a set, below its own; each comes before those that it holds."""
    files = {PurePosixPath(file) for part in find_parts(flags).values() for file in part.files}
    return sorted({str(folder) for file in files for folder in file.parents} - {"."})


def is_done(out: Path, flags: dict, overwrite: bool) -> bool:
    """Whether the set is there as asked for; a ValueError if another one is and must not be overwritten."""
    marker = read_marker(out)
    if overwrite or not marker:
        return False
    if marker["flags"] != flags:
        raise ValueError(f"{out} holds another set: it was made with {marker['flags']}, and {flags} is asked for. "
                         f"Choose another --out, or give --overwrite to replace it.")
    if "videos" not in marker:
        return False
    counts = take_stock(out, flags)[0]
    damaged = [name for name, part in find_parts(flags).items()
               if any(counts[file] != marker["videos"].get(name) for file in part.files)]
    if damaged:
        raise ValueError(f"{out} has lost frames of {damaged} since it was written: give --overwrite to write it "
                         "again.")
    return True


def remove_set(out: Path) -> None:
    """Remove the set in a folder, finished or not; a ValueError, and nothing is removed, if anything else is there."""
    marker = read_marker(out)
    if not marker:
        return
    _, ours, others = take_stock(out, marker["flags"])
    if others:
        raise ValueError(f"{out} holds {[str(p) for p in others[:3]]}, not written by this program: move it away "
                         "(nothing was removed).")
    if (out / FINISHED).is_file():
        os.replace(out / FINISHED, out / STARTED)  # so that an interrupted removal can be taken up
    for path in ours:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in reversed(set_folders(marker["flags"])):
        if (out / folder).is_dir():
            (out / folder).rmdir()
    (out / STARTED).unlink()


def write_part(out: Path, part: Part) -> int:
    """Write the pictures of a part; returns how many of each sort."""
    count = 0
    for file in part.files:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
    for number, contents in part.pictures():
        for file, content in zip(part.files, contents):
            write_atomically(out / file.replace("*", number), content)
        count += 1
    return count


def make_sample(out: Path, flags: dict) -> dict[str, int]:
    """Write the whole set, with a marker that says whether it is finished; returns the frames of each part."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / STARTED, json.dumps({"flags": flags}, indent=2).encode())
    videos = {name: write_part(out, part) for name, part in tqdm(find_parts(flags).items(), unit="video", disable=None)}
    write_atomically(out / FINISHED, json.dumps({"flags": flags, "videos": videos}, indent=2).encode())
    (out / STARTED).unlink()
    return videos


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(DEFAULTS), default="gaze",
                        help="gaze: for saliency prediction; vsod: with masks, for video salient object detection "
                             "(default: %(default)s)")
    files = parser.add_argument_group("files")
    files.add_argument("--out", type=Path, help=f"folder that gets the set ({by_kind('out')})")
    files.add_argument("--overwrite", action="store_true",
                       help="replace a set that this program wrote there before (default: refuse)")
    content = parser.add_argument_group("content")
    content.add_argument("--train-videos", type=at_least_one, metavar="N",
                         help=f"videos to train on ({by_kind('train_videos')})")
    content.add_argument("--val-videos", type=at_least_one, metavar="N",
                         help=f"videos in val/; vsod: sequences in TestSet/sample/ ({by_kind('val_videos')})")
    content.add_argument("--frames", type=at_least_one, default=40, metavar="N",
                         help="frames per video, give or take a sixth; vsod: 2 or more (default: %(default)s)")
    content.add_argument("--size", type=at_least_one, nargs=2, default=[90, 160], metavar=("H", "W"),
                         help="height and width of the frames, pixels (default: 90 160)")
    content.add_argument("--observers", type=at_least_one, metavar="N",
                         help=f"simulated observers per video ({by_kind('observers')})")
    content.add_argument("--stills", type=at_least_one, metavar="N",
                         help=f"pictures in TrainSet_RGB/ ({by_kind('stills')})")
    content.add_argument("--seed", type=int, default=0,
                         help="another number, another set; from 0 (default: %(default)s)")
    return parser


def by_kind(name: str) -> str:
    """A flag's defaults, for its help: "default: gaze 200, vsod 20"; "vsod only, default: 100"."""
    of = {kind: defaults[name] for kind, defaults in DEFAULTS.items() if name in defaults}
    if len(of) == 1:
        return "{} only, default: {}".format(*next(iter(of.items())))
    return "default: " + ", ".join(f"{kind} {default}" for kind, default in of.items())


def set_flags(args: argparse.Namespace) -> dict:
    """Everything that determines a set, as in its marker; a ValueError for what no set of this kind can have."""
    defaults, values = DEFAULTS[args.kind], {**vars(args), "generator": GENERATOR}
    for name in ("observers", "stills"):
        if name not in defaults and values[name] is not None:
            raise ValueError(f"--{name} has no effect on --kind {args.kind}: leave it out.")
    if args.seed < 0:
        raise ValueError(f"expected a --seed from 0, got {args.seed}.")
    if min(args.size) < MIN_SIZE:
        raise ValueError(f"expected a --size of at least {MIN_SIZE} x {MIN_SIZE} pixels, got {args.size[0]} x "
                         f"{args.size[1]}.")
    if args.kind == "vsod" and args.frames < 2:
        raise ValueError(f"expected --frames of at least 2 for --kind vsod, got {args.frames}: nothing moves in a "
                         "single one.")
    values.update({name: default for name, default in defaults.items() if values[name] is None})
    if args.kind == "gaze":
        del values["kind"]  # sets with gaze are older than the word
    return {name: values[name] for name in MARKED if values.get(name) is not None}


def main(args: argparse.Namespace) -> None:
    flags, out = set_flags(args), args.out or DEFAULTS[args.kind]["out"]
    if is_done(out, flags, args.overwrite):
        print(f"{out}: the set is already there, with the same flags")
        return
    if args.overwrite:
        remove_set(out)
    videos = make_sample(out, flags)
    stills = videos.pop("stills", 0)
    print(f"{out}: {flags['train_videos']} + {flags['val_videos']} videos written ({sum(videos.values())} frames)"
          + (f", and {stills} stills" if stills else ""))


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError) as error:
        parser.exit(2, f"make_sample.py: error: {error}\n")
