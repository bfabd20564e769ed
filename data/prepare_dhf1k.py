"""Turn the released DHF1K files into the tree that the programs read, one folder per video.

    python data/prepare_dhf1k.py SOURCE                          # everything in SOURCE/video, into data/DHF1K
    python data/prepare_dhf1k.py SOURCE --videos 1-20 601-605    # a part; run again with more, nothing is done twice

SOURCE is the folder with DHF1K's own names in it:

    video/001.AVI .. 999.AVI, 1000.AVI
    annotation/0001/maps/0001.png            density, 8 bits
    annotation/0001/fixation/0001.png        fixations, 0 or 255 (or only fixation/maps/0001.mat)
    exportdata_train/P01/P01_Trail001.txt    raw gaze, needed only where annotation/ is not there

and OUT/{train,val,test}/0001/{images,maps,fixation}/0001.png is what comes out: videos 1-600, 601-700 and 701-1000. The
last 300 get images only, as their annotation is withheld. A video's annotation.json says how its maps were made.

A video is written into OUT/.partial and renamed when it is whole: interrupt a run at any time, and run it again.
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

SPLITS = {"train": range(1, 601), "val": range(601, 701), "test": range(701, 1001)}
RULES = ("grid", "points")
SCREEN = (900, 1440)  # (H, W) of the screen the observers looked at, pixels; the video filled its width
FPS = 30              # of all DHF1K videos
SIGMA = 12.74         # pixels: a Gaussian of FWHM 30 px, at the 640 x 360 px of DHF1K
PNG_LEVEL = 4         # zlib: files 12 % larger than at level 6, in half the time
SAMPLE = np.dtype([("time", np.int64), ("x", np.float64), ("y", np.float64), ("fixation", bool)])
COLUMNS = {"time": "Time", "x": "L POR X [px]", "y": "L POR Y [px]", "event": "L Event Info"}
VIDEO_ERRORS = (FileNotFoundError, ValueError)  # the fault of one video; a full disk is not, and stops the run


# Raw gaze to fixation and density maps

def read_gaze(path: Path) -> np.ndarray:
    """Read one observer's gaze during one video, a tab-separated text file with one header line.

    Args:
        path: such as `exportdata_train/P01/P01_Trail002.txt`.

    Returns:
        One record per sample, of dtype SAMPLE: `time` in microseconds (any origin), `x` and `y` in pixels of the
        screen, `fixation` whether the eye tracker's event begins with "F".

    Raises:
        ValueError: a column or a number is missing, or there is no sample; with file and line.
    """
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = next(file, "").rstrip("\r\n").split("\t")
        places = gaze_columns(header, path)
        samples = [gaze_sample(line.rstrip("\r\n").split("\t"), places, f"{path}, line {number}")
                   for number, line in enumerate(file, start=2) if line.strip()]
    if not samples:
        raise ValueError(f"{path}: expected gaze samples, found a header only. Fetch the file again, or move it away.")
    return np.array(samples, dtype=SAMPLE)


def gaze_columns(header: list[str], path: Path) -> dict[str, int]:
    """Where the columns that we need are in a line; other columns are allowed, in any order."""
    missing = [name for name in COLUMNS.values() if name not in header]
    if missing:
        raise ValueError(f"{path}, line 1: expected the tab-separated columns {list(COLUMNS.values())}, but {missing} "
                         f"is not among {header}. Is this a gaze file of DHF1K's exportdata_train?")
    return {key: header.index(name) for key, name in COLUMNS.items()}


def gaze_sample(fields: list[str], places: dict[str, int], where: str) -> tuple[int, float, float, bool]:
    """One record of dtype SAMPLE from the fields of one line; `where` is named in errors."""
    if len(fields) <= max(places.values()):
        raise ValueError(f"{where}: expected at least {max(places.values()) + 1} tab-separated fields, found "
                         f"{len(fields)}: {fields}.")
    try:
        time, x, y = int(fields[places["time"]]), float(fields[places["x"]]), float(fields[places["y"]])
    except ValueError as error:
        raise ValueError(f"{where}: expected a whole number of microseconds and two numbers of pixels: "
                         f"{error}.") from error
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"{where}: expected a finite gaze position, found x = {x}, y = {y}.")
    return time, x, y, fields[places["event"]].startswith("F")


def round_half_away(values: np.ndarray) -> np.ndarray:
    """Round to whole numbers, halves away from zero as the published maps need it (NumPy rounds them to even)."""
    return (np.sign(values) * np.floor(np.abs(values) + 0.5)).astype(np.int64)


def locate_gaze(gaze: np.ndarray, num_frames: int, size: tuple[int, int]) -> tuple[np.ndarray, dict[str, int]]:
    """Find the frame and the pixel of each fixation sample of one observer, as DHF1K's authors did.

    The video filled the width of the screen and was letter-boxed. Pixels count from 1, and the published rule drops
    those of the last column and row too (x >= W, y >= H). A sample belongs to frame k, from 1, if k - 1 < FPS * seconds
    < k, counted from the observer's first sample: one exactly on a boundary (the first one is) belongs to none. Whole
    numbers keep that exact.

    Args:
        gaze: records of dtype SAMPLE, from `read_gaze`.
        num_frames: frames of the video; later samples are dropped.
        size: (H, W) of the video, pixels.

    Returns:
        (n, 3) integers (frame, row, column), all from 0, by ascending frame; and how many samples were `used`, or
        dropped as `not_fixation`, `off_video` (beside the picture) or `off_time` (after the last frame or on a
        boundary), each counted once.
    """
    height, width = size
    scale = width / SCREEN[1]
    margin = (SCREEN[0] - height / scale) / 2  # the black bar above the video, pixels of the screen
    x, y = round_half_away(scale * gaze["x"]), round_half_away(scale * (gaze["y"] - margin))
    frame, rest = np.divmod(FPS * (gaze["time"] - gaze["time"][:1]), 1_000_000)
    fixation = gaze["fixation"]
    on_video = (x > 0) & (x < width) & (y > 0) & (y < height)
    in_time = (frame >= 0) & (frame < num_frames) & (rest > 0)
    used = fixation & on_video & in_time
    counts = {"used": used, "not_fixation": ~fixation, "off_video": fixation & ~on_video,
              "off_time": fixation & on_video & ~in_time}
    points = np.stack([frame, y - 1, x - 1], axis=1)[used]
    return points[np.argsort(points[:, 0], kind="stable")], {name: int(mask.sum()) for name, mask in counts.items()}


def gaze_to_fixations(observers: Sequence[np.ndarray], num_frames: int, size: tuple[int, int],
                      rule: str = "grid") -> Iterator[np.ndarray]:
    """Make the fixation map of each frame from the gaze of all observers, one frame at a time.

    Args:
        observers: one array of `read_gaze` per observer.
        num_frames: frames of the video.
        size: (H, W) of the video, pixels.
        rule: "points" sets the pixels that were looked at. "grid" sets all combinations of one observer's rows and
            columns within a frame: the published maps were made so (by a statement that indexes with two lists), and
            show 2 to 3 times the pixels.

    Returns:
        An iterator over `num_frames` maps, (H, W) bool.

    Raises:
        ValueError: unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"expected a fixation rule among {RULES}, got {rule!r}.")
    points = [locate_gaze(gaze, num_frames, size)[0] for gaze in observers]
    starts = [np.searchsorted(p[:, 0], np.arange(num_frames + 1)) for p in points]
    in_frame = ([p[s[k]:s[k + 1], 1:] for p, s in zip(points, starts)] for k in range(num_frames))
    return (mark_fixations(pixels, size, rule) for pixels in in_frame)


def mark_fixations(observers: Iterable[np.ndarray], size: tuple[int, int], rule: str) -> np.ndarray:
    """The (H, W) bool map of one frame from each observer's (n, 2) pixels (row, column), from 0.

    The rules are those of `gaze_to_fixations`.
    """
    fixations = np.zeros(size, dtype=bool)
    for pixels in observers:
        rows, columns = pixels[:, 0], pixels[:, 1]
        fixations[np.ix_(rows, columns) if rule == "grid" else (rows, columns)] = True
    return fixations


def density_map(fixations: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Blur a fixation map into a density map: a Gaussian, zero outside the frame, divided by the frame's maximum.

    Args:
        fixations: (H, W) bool, or counts.
        sigma: of the Gaussian (cut off at 4 sigma), pixels. 12.74 is DHF1K's, at 640 x 360.

    Returns:
        (H, W) uint8; the maximum is 255, or 0 if there is no fixation.
    """
    reach = 2 * math.ceil(4 * sigma) + 1
    density = cv2.GaussianBlur(fixations.astype(np.float64), (reach, reach), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.floor(255 * density / max(density.max(), np.finfo(np.float64).tiny) + 0.5).astype(np.uint8)


# Files

def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half written."""
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def encode_png(image: np.ndarray) -> bytes:
    """The PNG file of an (H, W, 3) BGR or (H, W) image, uint8, or of an (H, W) bool map (0 or 255)."""
    image = image.astype(np.uint8) * 255 if image.dtype == bool else image
    done, content = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape}, {image.dtype} as PNG.")
    return content.tobytes()


def frame_files(folder: Path, suffix: str) -> list[Path]:
    """The files of one kind in a folder, sorted, without hidden ones, which some systems leave beside each file."""
    return sorted(p for p in folder.glob(f"*{suffix}") if not p.name.startswith(".")) if folder.is_dir() else []


def remove_empty(folder: Path) -> None:
    """Remove a folder and its subfolders where they are empty; what another run is writing in them stays."""
    for path in (*folder.glob("*"), folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def check_names(files: Sequence[Path], num_frames: int, what: str) -> None:
    """Raise ValueError unless the files are named 0001 to `num_frames`, without gaps; `what` says whose they are."""
    expected, found = [f"{k:04d}" for k in range(1, num_frames + 1)], [p.stem for p in files]
    if found == expected:
        return
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    raise ValueError(
        f"{what}: {num_frames} frames were decoded, so {num_frames} files 0001 to {num_frames:04d} were expected, but "
        f"there are {len(found)} (missing: {missing[:3] or 'none'}, unexpected: {unexpected[:3] or 'none'}). "
        f"Fetch the video or its annotation again, or leave such videos out with --skip-bad."
    )


def copy_frames(files: Sequence[Path], folder: Path) -> None:
    """Copy annotation files into a new folder; a PNG without its end (a broken download) is a ValueError."""
    folder.mkdir()
    for file in files:
        content = file.read_bytes()
        if not content or (file.suffix == ".png" and b"IEND" not in content[-64:]):
            raise ValueError(f"{file} is empty or cut short ({len(content)} bytes). Unpack or fetch it again.")
        (folder / file.name).write_bytes(content)


# One video

@dataclass(frozen=True)
class Job:
    """What is to be done for one video; `source` is "released", "raw" or "none", `rule` None unless raw."""

    video: Path       # SOURCE/video/002.AVI
    folder: Path      # OUT/train/0002, not there before all of it is
    unfinished: Path  # OUT/.partial/train/0002
    source: str
    rule: str | None
    annotation: Path        # SOURCE/annotation/0002
    gaze: tuple[Path, ...]  # one file per observer


def prepare_video(job: Job) -> dict:
    """Write the folder of one video, or check the one that is there.

    Returns:
        {"written": whether it was written now, "frames": number of frames}.

    Raises:
        FileNotFoundError, ValueError: something is wrong with this video's files.
    """
    if job.folder.exists():
        return {"written": False, "frames": check_present(job)}
    shutil.rmtree(job.unfinished, ignore_errors=True)  # of a run that was interrupted
    job.unfinished.mkdir(parents=True)
    try:
        num_frames, size = extract_frames(job.video, job.unfinished / "images")
        facts = annotate(job, num_frames, size)
        write_atomically(job.unfinished / "annotation.json", (json.dumps(facts, indent=2) + "\n").encode())
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(job.unfinished, job.folder)
    finally:
        shutil.rmtree(job.unfinished, ignore_errors=True)
    return {"written": True, "frames": num_frames}


def check_present(job: Job) -> int:
    """The number of frames in an existing folder; a ValueError unless it is whole and made as it would be now."""
    facts = read_facts(job.folder)
    if (facts["source"], facts["rule"]) != (job.source, job.rule):
        raise ValueError(f"{job.folder} is there with annotation {facts['source']!r}, rule {facts['rule']!r}, but "
                         f"{job.source!r}, {job.rule!r} is asked for. Remove the folder, choose another --out, or give "
                         "--annotation and --fixation-rule.")
    for kind, suffix in facts["files"].items():
        count = len(frame_files(job.folder / kind, suffix))
        if count != facts["frames"]:
            raise ValueError(f"{job.folder / kind} holds {count} files, but had {facts['frames']} when it was written. "
                             f"Remove {job.folder} and run this again.")
    return facts["frames"]


def read_facts(folder: Path) -> dict:
    """The annotation.json of a finished folder; ValueError if this program did not write the folder."""
    path = folder / "annotation.json"
    try:
        facts = json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError:
        facts = {}
    if not {"source", "rule", "frames", "files"} <= set(facts):
        raise ValueError(f"{folder} is there, but was not written by this program (expected its annotation.json in "
                         f"it). Move it away or choose another --out.")
    return facts


def extract_frames(video: Path, folder: Path) -> tuple[int, tuple[int, int]]:
    """Decode a video into folder/0001.png and so on; the frames are counted while decoding, since headers lie.

    Returns:
        Number of frames, and their size (H, W).
    """
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise ValueError(f"{video} ({video.stat().st_size} bytes) could not be opened as a video. Fetch it again.")
    folder.mkdir()
    number, size = 0, (0, 0)
    while (read := capture.read())[0]:
        number, size = number + 1, read[1].shape[:2]
        (folder / f"{number:04d}.png").write_bytes(encode_png(read[1]))
    capture.release()
    if number == 0:
        raise ValueError(f"{video} ({video.stat().st_size} bytes) was opened, but not one frame could be decoded. "
                         "Fetch it again.")
    return number, size


def annotate(job: Job, num_frames: int, size: tuple[int, int]) -> dict:
    """Add maps/ and fixation/ to an unfinished folder, unless the annotation is withheld.

    Returns:
        The content of annotation.json.
    """
    facts = {"source": job.source, "rule": job.rule, "frames": num_frames, "size": list(size),
             "files": {"images": ".png"}}
    if job.source == "released":
        kinds = copy_released(job.annotation, job.unfinished, num_frames)
        return {**facts, "files": {**facts["files"], **kinds}}
    if job.source == "raw":
        details = rebuild(job.gaze, job.unfinished, num_frames, size, job.rule)
        return {**facts, "files": {**facts["files"], "maps": ".png", "fixation": ".png"}, **details}
    return facts


def copy_released(annotation: Path, folder: Path, num_frames: int) -> dict[str, str]:
    """Copy the released maps and fixations of one video; returns the file suffix of each kind."""
    maps, fixations = frame_files(annotation / "maps", ".png"), released_fixations(annotation / "fixation")
    check_names(maps, num_frames, f"video {annotation.name}, density maps in {annotation / 'maps'}")
    check_names(fixations, num_frames, f"video {annotation.name}, fixation maps in {annotation / 'fixation'}")
    copy_frames(maps, folder / "maps")
    copy_frames(fixations, folder / "fixation")
    return {"maps": ".png", "fixation": fixations[0].suffix}


def released_fixations(folder: Path) -> list[Path]:
    """The fixation maps of a video: PNG files, or where there are none the .mat files, which say the same."""
    return frame_files(folder, ".png") or frame_files(folder / "maps", ".mat") or frame_files(folder, ".mat")


def rebuild(gaze: Sequence[Path], folder: Path, num_frames: int, size: tuple[int, int], rule: str) -> dict:
    """Make the maps of one video from raw gaze; sigma stays at the published pixels whatever the size.

    Returns:
        What they were made from, for annotation.json.
    """
    observers = [read_gaze(path) for path in gaze]
    (folder / "maps").mkdir()
    (folder / "fixation").mkdir()
    for number, fixations in enumerate(gaze_to_fixations(observers, num_frames, size, rule), start=1):
        (folder / "fixation" / f"{number:04d}.png").write_bytes(encode_png(fixations))
        (folder / "maps" / f"{number:04d}.png").write_bytes(encode_png(density_map(fixations)))
    counts = [locate_gaze(samples, num_frames, size)[1] for samples in observers]
    samples = {name: sum(c[name] for c in counts) for name in counts[0]}
    return {"sigma_px": SIGMA, "observers": len(observers), "samples": samples}


# Which videos, and what is there for them

def find_videos(source: Path) -> tuple[dict[int, Path], int]:
    """The videos in SOURCE/video by number, and how many other files are there (not NNN.AVI)."""
    folder = source / "video"
    if not folder.is_dir():
        present = sorted(p.name for p in source.iterdir())[:5] if source.is_dir() else "no such folder"
        raise FileNotFoundError(f"expected DHF1K's videos in {folder}, which is not there ({source}: {present}). "
                                f"SOURCE is the folder that holds video/ and annotation/: see data/README.md.")
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    videos = {}
    for path in (p for p in files if re.fullmatch(r"\d+\.avi", p.name.lower())):
        if int(path.stem) in videos:
            raise ValueError(f"{path} and {videos[int(path.stem)]} are the same video. Remove one of them.")
        videos[int(path.stem)] = path
    if not videos:
        raise FileNotFoundError(f"expected videos 001.AVI to 1000.AVI in {folder}, found "
                                f"{[p.name for p in files[:5]] or 'nothing'}.")
    return videos, len(files) - len(videos)


def find_gaze(source: Path, number: int) -> tuple[Path, ...]:
    """The raw gaze files of one video, one per observer; their video number has three digits or four."""
    observers = sorted((source / "exportdata_train").glob("P*"))
    names = dict.fromkeys((f"{number:03d}", f"{number:04d}"))
    files = [p / f"{p.name}_Trail{name}.txt" for p in observers for name in names]
    files = [path for path in files if path.is_file()]
    if len({path.parent for path in files}) < len(files):
        raise ValueError(f"video {number:04d}: two gaze files of one observer among {[str(path) for path in files]}. "
                         "Remove one of them.")
    return tuple(files)


def choose_split(number: int, split: str) -> str:
    """The published split of a video for "auto", else the one asked for."""
    named = [name for name, numbers in SPLITS.items() if number in numbers] if split == "auto" else [split]
    if not named:
        raise ValueError(f"video {number} belongs to no split of DHF1K (1-1000). Give --split.")
    return named[0]


def choose_source(released: bool, raw: bool, annotation: str, where: str) -> str:
    """Which annotation a video gets, "released" or "raw": the one asked for, and for "auto" the first that is there."""
    present = [name for name, there in (("released", released), ("raw", raw)) if there]
    wanted = present[:1] if annotation == "auto" else [annotation]
    if not wanted or wanted[0] not in present:
        raise FileNotFoundError(
            f"{where}: --annotation {annotation} found no such annotation (there is: "
            f"{' and '.join(present) or 'none'}). Expected annotation/NNNN/maps and /fixation, or "
            "exportdata_train/P*/P*_TrailNNN.txt. For images alone give --split test."
        )
    return wanted[0]


def plan_video(number: int, videos: dict[int, Path], source: Path, out: Path, annotation: str, rule: str,
               split: str) -> Job:
    """Find out what is to be done for one video, so that missing files are reported before hours of decoding."""
    if number not in videos:
        raise FileNotFoundError(f"video {number} was asked for, but {source / 'video'} has no {number:03d}.AVI "
                                f"(it holds {len(videos)} videos, {min(videos)} to {max(videos)}).")
    split, name = choose_split(number, split), f"{number:04d}"
    released, gaze, origin = source / "annotation" / name, (), "none"
    if split != "test":
        gaze = find_gaze(source, number)
        origin = choose_source(released.is_dir(), bool(gaze), annotation, f"video {name} in {source}")
    return Job(video=videos[number], folder=out / split / name, unfinished=out / ".partial" / split / name,
               source=origin, rule=rule if origin == "raw" else None, annotation=released, gaze=gaze)


# All videos

def attempt(function: partial) -> dict | Exception:
    """What the function returns, or what is wrong with its video."""
    try:
        return function()
    except VIDEO_ERRORS as error:
        return error


def run_all(functions: Sequence[partial], workers: int) -> Iterator[dict | Exception]:
    """Call the functions, in order or in several processes; spawned, as OpenCV's threads do not survive a fork."""
    if workers == 1:
        yield from map(attempt, functions)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(attempt, functions)


def keep_good(results: Iterable, bad: list[str], skip_bad: bool) -> list:
    """The results that are not errors; an error is added to `bad` if `skip_bad`, else raised."""
    good = []
    for result in results:
        if not isinstance(result, Exception):
            good.append(result)
        elif skip_bad:
            bad.append(str(result))
        else:
            raise result
    return good


def video_range(text: str) -> range:
    """The numbers of "601" or "1-600"."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    numbers = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
    if not numbers:
        raise argparse.ArgumentTypeError(f"expected a number or an ascending range such as 1-600, got {text!r}")
    return numbers


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = parser.add_argument_group("files")
    files.add_argument("source", type=Path, metavar="SOURCE",
                       help="folder that holds video/ and annotation/ (or exportdata_train/)")
    files.add_argument("--out", type=Path, default=Path("data/DHF1K"),
                       help="folder that gets train/, val/ and test/ (default: %(default)s)")
    videos = parser.add_argument_group("videos")
    videos.add_argument("--videos", type=video_range, nargs="+", metavar="N[-M]",
                        help="numbers and ranges of videos, such as 1-600 650 (default: all that SOURCE/video holds)")
    videos.add_argument("--split", choices=["auto", *SPLITS], default="auto",
                        help="where to put them; auto: 1-600 train, 601-700 val, 701-1000 test (default: %(default)s)")
    videos.add_argument("--skip-bad", action="store_true",
                        help="go on after a video whose files are missing or do not agree; they are listed at the "
                             "end, and the exit code is 1 (default: stop at the first)")
    videos.add_argument("--workers", type=at_least_one, default=1, metavar="N",
                        help="number of videos that are prepared at the same time, in a process each (default: "
                             "%(default)s)")
    annotation = parser.add_argument_group("annotation")
    annotation.add_argument("--annotation", choices=["auto", "released", "raw"], default="auto",
                            help="copy the released maps, or make them from raw gaze; auto: the released maps where "
                            "there are any (default: %(default)s)")
    annotation.add_argument("--fixation-rule", choices=RULES, default="grid",
                            help="for raw gaze; grid: as published, all combinations of one observer's x's and y's "
                                 "within a frame; points: the pixels looked at (default: %(default)s)")
    return parser


def main(args: argparse.Namespace) -> int:
    videos, ignored = find_videos(args.source)
    numbers = sorted({n for numbers in args.videos for n in numbers} if args.videos else videos)
    bad = []
    plans = (partial(plan_video, number, videos, args.source, args.out, args.annotation, args.fixation_rule, args.split)
             for number in numbers)
    jobs = keep_good(map(attempt, plans), bad, args.skip_bad)
    results = run_all([partial(prepare_video, job) for job in jobs], args.workers)
    done = keep_good(tqdm(results, total=len(jobs), unit="video", disable=None), bad, args.skip_bad)
    remove_empty(args.out / ".partial")
    written = [result for result in done if result["written"]]
    print(f"{args.out}: {len(written)} videos written ({sum(r['frames'] for r in written)} frames), "
          f"{len(done) - len(written)} were there already, {len(bad)} bad ones skipped")
    if ignored:
        print(f"{ignored} files in {args.source / 'video'} are not NNN.AVI and were left out")
    for reason in bad:
        print(f"skipped: {reason}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    parser = arguments()
    try:
        sys.exit(main(parser.parse_args()))
    except (OSError, ValueError) as error:
        parser.exit(2, f"prepare_dhf1k.py: error: {error}\n")
