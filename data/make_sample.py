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
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

GENERATOR = 1                       # goes up when the same flags give other files
FINISHED, STARTED = "sample.json", "sample.json.unfinished"     # markers with the flags: folders that we may replace
MIN_SIZE = 32                       # pixels; objects get lost below
DIAMETER = (0.12, 0.18)             # of an object, in widths of the frame, as all lengths below
SPEED = (0.001, 0.004)              # of a moving object, per frame: an eighth of the width in half a second to two
VSOD_SPEED = (0.005, 0.02)          # the same with masks: a pixel or more at 160, or optical flow would hardly show it
TURN = 0.3                          # in radii: how near to the border the centre of an object comes before it turns
PAN = 0.005                         # of the background, per frame, at most
NUM_MOVING = (0.6, 0.3, 0.1)        # shares of videos with one, two and three moving objects
STILL_SHARE = 0.6                   # videos with an object that stands still and gets little gaze: motion has to count
CIRCLE_SHARE = 0.3                  # moving objects that circle; the others bounce at the borders
LATE_SHARE = 0.3                    # moving objects, but for a video's first, that enter from outside during it
STILL_INTEREST = 0.03               # of an object that stands still, where the slowest moving one has 0.1
LOOK_CENTRE, LOOK_ANYWHERE = 0.06, 0.03     # share of looks that go near the centre (centre bias), or anywhere
NEW_LOOK, NEW_LOOK_AT_ENTRY = 1 / 15, 1 / 4     # chance of a saccade per frame, ordinarily and while something enters
SAMPLES = 3                         # gaze samples of one observer per frame
JITTER = 0.025                      # standard deviation of samples around the gaze: people look at all of an object
LOST_SHARE = 0.02                   # frames without any fixation, as in DHF1K
JPEG_QUALITY = 95                   # OpenCV's own default
# Flags in a marker.
MARKED = ("kind", "generator", "train_videos", "val_videos", "frames", "size", "observers", "stills", "seed")
GAZE_SORTS = ("images", "maps", "fixation")
# {} is a sequence, * the number of a frame.
VSOD_FILES = {"train": ("TrainSet_Video/Imgs/{}_*.jpg", "TrainSet_Video/ground-truth/{}_*.png"),
              "val": ("TestSet/sample/{}/Frame/*.jpg", "TestSet/sample/{}/ground-truth/*.png")}
STILL_FILES = ("TrainSet_RGB/Imgs/still_*.jpg", "TrainSet_RGB/GTs/still_*.png")
DEFAULTS = {"gaze": {"out": Path("data/sample"), "train_videos": 200, "val_videos": 6, "observers": 17},
            "vsod": {"out": Path("data/vsod_sample"), "train_videos": 20, "val_videos": 6, "stills": 100}}


# What is seen

@dataclass(frozen=True)
class Thing:
    """One object: outline (n, 2) around (0, 0), diameter in pixels, BGR colour, and path (T, 2) of (x, y) in pixels."""

    outline: np.ndarray
    diameter: float
    colour: np.ndarray
    path: np.ndarray

    @property
    def speed(self) -> np.ndarray:
        """(T,) pixels per frame; that of the first frame is the second's."""
        steps = np.linalg.norm(np.diff(self.path, axis=0), axis=1)
        return np.concatenate([steps[:1], steps]) if len(steps) else np.zeros(1)

    @property
    def moves(self) -> bool:
        """Whether it is ever elsewhere than at first."""
        return bool((self.path != self.path[0]).any())

    def visible(self, size: tuple[int, int]) -> np.ndarray:
        """(T,) bool: whether its centre is within the frame."""
        return ((self.path >= 0) & (self.path < (size[1], size[0]))).all(axis=1)

    def fill(self, image: np.ndarray, t: int, scale: float, colour: tuple) -> None:
        """Fill its outline in frame t, scaled, in an image (H, W) or (H, W, 3) uint8; the border is anti-aliased."""
        corners = 16 * (self.path[t] + scale * self.diameter / 2 * self.outline)
        cv2.fillPoly(image, [np.round(corners).astype(np.int32)], colour, cv2.LINE_AA, shift=4)


@dataclass(frozen=True)
class Scene:
    """What a video shows.

    Attributes:
        things: its objects, those behind first.
        background: (H, W, 3) uint8.
        shifts: of the background, (T, 2) of (x, y) in pixels.
    """

    things: list[Thing]
    background: np.ndarray
    shifts: np.ndarray

    def frame(self, t: int) -> np.ndarray:
        """Frame t, (H, W, 3) BGR uint8."""
        return draw_frame(self.background, self.shifts[t], self.things, t)

    def mask(self, t: int) -> np.ndarray:
        """(H, W) bool: where frame t shows an object that moves."""
        return draw_mask(self.background.shape[:2], self.things, t)


def make_scene(rng: np.random.Generator, frames: int, size: tuple[int, int],
               speed: tuple[float, float] = SPEED) -> Scene:
    """A random scene; its number of frames is up to a sixth off the one asked for."""
    num_frames = int(frames + rng.integers(-(frames // 6), frames // 6 + 1))
    things, background = make_things(rng, num_frames, size, speed), make_background(rng, size)
    return Scene(things, background, np.round(np.outer(np.arange(num_frames), rng.uniform(-PAN, PAN, 2) * size[1])))


def make_things(rng: np.random.Generator, num_frames: int, size: tuple[int, int],
                speed: tuple[float, float] = SPEED) -> list[Thing]:
    """One to three moving objects, the first of which is there from the start, and perhaps a still one.

    `speed` is in widths of the frame per frame.
    """
    kinds = []
    for _ in range(rng.choice([1, 2, 3], p=NUM_MOVING)):
        enters = bool(kinds) and rng.random() < LATE_SHARE
        kinds.append(enter_path if enters else circle_path if rng.random() < CIRCLE_SHARE else bounce_path)
    if rng.random() < STILL_SHARE:
        kinds.append(still_path)
    things = [make_thing(rng, kind, num_frames, size, speed) for kind in kinds]
    return [things[i] for i in rng.permutation(len(things))]        # any of them may cover the others


def make_thing(rng: np.random.Generator, kind: Callable, num_frames: int, size: tuple[int, int],
               speed: tuple[float, float]) -> Thing:
    """An object of random looks on a path of the given kind, at a random speed between two, in widths per frame."""
    diameter = rng.uniform(*DIAMETER) * size[1]
    hsv = np.uint8([[[rng.integers(180), rng.integers(20, 110), rng.integers(240, 256)]]])  # any hue, but bright
    colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64)
    path = kind(rng, num_frames, size, diameter / 2, rng.uniform(*speed) * size[1])
    return Thing(make_outline(rng), diameter, colour, path)


def make_outline(rng: np.random.Generator) -> np.ndarray:
    """A disc, triangle, square, hexagon or star of radius about 1, turned at random."""
    corners, inner = [(40, 1.0), (3, 1.0), (4, 1.0), (6, 1.0), (10, 0.5)][rng.integers(5)]
    angles = 2 * np.pi * (np.arange(corners) / corners + rng.random())
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def bounce_path(rng: np.random.Generator, num_frames: int, size: tuple[int, int], radius: float,
                speed: float) -> np.ndarray:
    """A straight path, (T, 2) of (x, y) in pixels, that starts within the frame and bounces at its borders."""
    angle = rng.uniform(0, 2 * np.pi)
    velocity = speed * np.array([np.cos(angle), np.sin(angle)])
    return bounce(place(rng, size, TURN * radius), velocity, num_frames, size, radius)


def enter_path(rng: np.random.Generator, num_frames: int, size: tuple[int, int], radius: float,
               speed: float) -> np.ndarray:
    """A path (T, 2) that waits outside the left or right border, enters, and bounces from then on."""
    waits = int(rng.uniform(0.15, 0.4) * num_frames)
    from_left, angle = rng.random() < 0.5, rng.uniform(-np.pi / 4, np.pi / 4)
    start = np.array([-radius if from_left else size[1] + radius, place(rng, size, radius)[1]])
    velocity = speed * np.array([np.cos(angle) if from_left else -np.cos(angle), np.sin(angle)])
    path = bounce(start, velocity, num_frames - waits, size, radius)
    return np.concatenate([np.repeat(path[:1], waits, axis=0), path])


def bounce(position: np.ndarray, velocity: np.ndarray, num_frames: int, size: tuple[int, int],
           radius: float) -> np.ndarray:
    """The path (T, 2) from a position; beyond a border only outward movement is reversed, so that objects can enter."""
    frame, path = np.array([size[1], size[0]]), np.empty((num_frames, 2))
    for t in range(num_frames):
        path[t] = position
        outward = ((position < TURN * radius) & (velocity < 0)) | ((position > frame - TURN * radius) & (velocity > 0))
        velocity = np.where(outward, -velocity, velocity)
        position = position + velocity
    return path


def circle_path(rng: np.random.Generator, num_frames: int, size: tuple[int, int], radius: float,
                speed: float) -> np.ndarray:
    """A path (T, 2) on a circle within the frame, in either direction."""
    orbit = rng.uniform(0.15, 0.32) * size[0]
    angles = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * speed / orbit * np.arange(num_frames)
    return place(rng, size, orbit + radius) + orbit * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def still_path(rng: np.random.Generator, num_frames: int, size: tuple[int, int], radius: float,
               speed: float) -> np.ndarray:
    """The same place (T, 2) all the time."""
    return np.repeat(place(rng, size, radius)[None], num_frames, axis=0)


def place(rng: np.random.Generator, size: tuple[int, int], margin: float) -> np.ndarray:
    """A random position (x, y) in the frame, outside a margin; both in pixels."""
    frame = np.array([size[1], size[0]])
    room = np.maximum(frame - 2 * margin, 0)                       # an object larger than the frame stays in its middle
    return (frame - room) / 2 + room * rng.random(2)


def make_background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A greyish (H, W, 3) uint8 texture that continues over its borders; few levels, so that PNG files stay small."""
    noise = np.zeros(size)
    for scale, weight in ((0.15, 1.0), (0.06, 0.6), (0.025, 0.35)):
        layer = gaussian_filter(rng.standard_normal(size), scale * size[1], mode="wrap")
        noise += weight * (layer - layer.mean()) / layer.std()
    levels = np.round(4 * np.clip(noise / noise.std(), -2.5, 2.5)) / 4
    base, tint = rng.uniform(95, 120) + rng.uniform(-10, 10, 3), rng.uniform(6, 16, 3)
    return np.clip(base + levels[..., None] * tint, 0, 255).astype(np.uint8)


def draw_frame(background: np.ndarray, shift: np.ndarray, things: list[Thing], t: int) -> np.ndarray:
    """Frame t, (H, W, 3) BGR uint8: the background shifted by whole pixels (x, y), and the objects on it."""
    image = np.roll(background, (int(shift[1]), int(shift[0])), axis=(0, 1))
    for thing in things:
        for scale, shade in ((1.0, 0.55), (0.82, 1.0)):             # a dark rim, then the body
            thing.fill(image, t, scale, tuple(shade * thing.colour))
    return image


def draw_mask(size: tuple[int, int], things: list[Thing], t: int) -> np.ndarray:
    """(H, W) bool: pixels at least half covered by moving objects in frame t, where no still object hides them."""
    cover = np.zeros(size, dtype=np.uint8)
    for thing in things:
        thing.fill(cover, t, 1.0, (255 if thing.moves else 0,))
    return cover >= 128


# Who looks at it

def find_interest(things: list[Thing], background: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Contrast x speed where an object is visible, else 0, (T, number of things); about 0.3 for a moving one."""
    contrast = [np.linalg.norm(thing.colour - background.mean(axis=(0, 1))) / 200 for thing in things]
    return np.stack([c * thing.visible(size) * np.maximum(thing.speed / (0.01 * size[1]), STILL_INTEREST)
                     for c, thing in zip(contrast, things)], axis=1)


def watch(rng: np.random.Generator, things: list[Thing], interest: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where one observer looks, (T, 2) of (x, y) in pixels; NaN during saccades. Pursuit lags 2 to 4 frames behind."""
    num_frames, gaze = len(interest), np.full((len(interest), 2), np.nan)
    entering = entries(interest)
    lag, lands = rng.integers(2, 5), 0
    for t in range(num_frames):
        if t == 0 or rng.random() < (NEW_LOOK_AT_ENTRY if entering[t] else NEW_LOOK):
            path = choose_look(rng, things, interest[t], size)
            lands = t + (t > 0) * int(rng.integers(1, 3))
        if t >= lands:
            gaze[t] = path[max(t - lag, 0)]
    return gaze


def entries(interest: np.ndarray) -> np.ndarray:
    """(T,) bool: whether an object has become visible 3 to 8 frames ago, the time it takes to react."""
    appeared = np.zeros(len(interest), dtype=bool)
    appeared[1:] = ((interest[1:] > 0) & (interest[:-1] == 0)).any(axis=1)
    return np.array([appeared[max(t - 8, 0):max(t - 2, 0)].any() for t in range(len(appeared))])


def choose_look(rng: np.random.Generator, things: list[Thing], interest: np.ndarray,
                size: tuple[int, int]) -> np.ndarray:
    """What to look at next, as a path (T, 2): a point of an object, near the centre, or anywhere."""
    frame, dice = np.array([size[1], size[0]], dtype=np.float64), rng.random()
    num_frames = len(things[0].path)
    if dice < LOOK_ANYWHERE:
        return np.tile(rng.uniform(0, frame), (num_frames, 1))
    if dice < LOOK_ANYWHERE + LOOK_CENTRE or not interest.any():
        return np.tile(rng.normal(frame / 2, frame / 8), (num_frames, 1))
    thing = things[rng.choice(len(things), p=interest / interest.sum())]
    return thing.path + rng.normal(0, 0.18 * thing.diameter, 2)


def fixation_maps(gaze: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """One (H, W) bool map per frame from gaze (T, samples, 2) of (x, y); NaN and samples off the frame do not count."""
    for samples in gaze:
        x, y = np.round(samples[~np.isnan(samples).any(axis=1)]).astype(np.int64).T
        inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
        fixations = np.zeros(size, dtype=bool)
        fixations[y[inside], x[inside]] = True
        yield fixations


def simulate_gaze(rng: np.random.Generator, things: list[Thing], background: np.ndarray, observers: int) -> np.ndarray:
    """Gaze samples of all observers, (T, observers * SAMPLES, 2) of (x, y) in pixels; NaN where there is none."""
    size = background.shape[:2]
    interest = find_interest(things, background, size)
    num_frames = len(interest)
    gaze = np.stack([watch(rng, things, interest, size) for _ in range(observers)], axis=1)         # (T, observers, 2)
    gaze = np.repeat(gaze, SAMPLES, axis=1)
    gaze = gaze + rng.normal(0, JITTER * size[1], gaze.shape)
    lost = round(LOST_SHARE * num_frames)
    first = rng.integers(0, num_frames - lost + 1)
    gaze[first:first + lost] = np.nan                                                               # all of them blink
    return gaze


# Files

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
        density = density_map(fixations, SIGMA * size[1] / 640)     # sigma scales with the width
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
        find_parts(content["flags"])                                # any other program's file fails here
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
        whole = re.sub(r"/\.([^/]+)\.partial$", r"/\1", name)       # as `write_atomically` calls it
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
        os.replace(out / FINISHED, out / STARTED)                   # so that an interrupted removal can be taken up
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
        del values["kind"]                                          # sets with gaze are older than the word
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
