"""What the files of a dataset hold: an inventory in one line, and everything that is wrong (`dataloader.py check`)."""
import collections
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from utils import in_threads
from videos.annotation import Annotation, examine_density, examine_fixations, examine_mask, remarks_on_density
from videos.images import IMAGE_SUFFIXES, read_frame
from videos.names import frame_key
from videos.splits import all_video_folders, check_folder, find_video_folders, split_aliases, splits_of
from videos.trees import VideoFolders
from videos.video import (
    ANNOTATIONS,
    Problem,
    Video,
    list_video,
    no_annotation_message,
    no_fixations_message,
    point_files,
)

SHORT = 32  # frames; a video with fewer is called short


# In one line

def inventory(videos: list[Video], look_at: int = 2000) -> str:
    """What was found, in one line.

    The numbers of videos, frames, annotated frames, those without any fixation, and short videos; where there are
    masks, of videos, frames, and frames with a mask. Where there are any, also of frames with only a density map, and
    of doubtful fixation maps or masks.

    Args:
        videos: from `find_videos`.
        look_at: at most so many fixation maps or masks are read, evenly spread, to count the empty and doubtful ones.
    """
    masks = [(video.masks[video.frames[i].stem],) for video in videos for i in video.masked()]
    annotated = [(video, video.frames[i]) for video in videos for i in video.annotated()]
    fixated = [(video.fixations[frame.stem], video.like(frame)) for video, frame in annotated if video.fixations]
    files = masks or fixated
    seen = [files[round(place)] for place in np.linspace(0, len(files) - 1, min(look_at, len(files)))]
    glance_at = functools.partial(glance, examine_mask if masks else examine_fixations)
    empty, doubtful, interpreted = np.sum([Glance(), *in_threads(glance_at, seen)], axis=0)
    of_seen = f" of {len(seen)} looked at" if len(seen) < len(files) else ""
    parts = [f"{len(videos)} videos", f"{sum(len(video.frames) for video in videos)} frames"]
    if masks:
        parts.append(f"{len(masks)} with masks")
    else:
        parts += [f"{len(annotated)} annotated", f"{empty}{of_seen} without fixation",
                  f"{sum(len(video.frames) < SHORT for video in videos)} videos shorter than {SHORT} frames"]
        parts += [f"{len(annotated) - len(fixated)} with a density map alone"] if len(fixated) < len(annotated) else []
    for count, how in ((doubtful, "a doubtful"), (interpreted, "an interpreted")):
        if count:
            parts.append(f"{count}{of_seen} with {how} {'mask' if masks else 'fixation map'} (python dataloader.py "
                         "check says how)")
    return ", ".join(parts)


class Glance(NamedTuple):
    """Whether a file of annotation is empty, is doubtful, or had to be interpreted."""
    empty: bool = False
    doubtful: bool = False
    interpreted: bool = False


def glance(examine: Callable[..., Annotation], files: tuple[Path, ...]) -> Glance:
    """Examine a file of annotation; one that cannot be read is left to those who need its content."""
    try:
        values, remarks = examine(*files)
    except (OSError, ValueError):
        return Glance()
    kinds = {remark.kind for remark in remarks}
    return Glance(not values.any(), bool(kinds - {"interpreted"}), "interpreted" in kinds)


# Everything that is wrong

def check_dataset(root: Path, split: str | None = None, numbers: dict[str, range] | None = None,
                  needed: tuple[str, ...] = ()) -> dict:
    """Everything that is wrong with a dataset, in names and in content.

    Args:
        root: the dataset's folder.
        split: as in `find_video_folders`; None for every split that there is.
        numbers: as in `DatasetInfo`.
        needed: splits without which training would fail; looked for where no `split` is given.

    Returns:
        {"path"; "splits": for each {"split", "tree", "videos", "frames", "annotated", "without_fixation", "masked",
        "shorter_than_32"}; "problems": for each {"split", "kind", "fatal", "video", "files", "message"}, fatal where
        training or scoring would stop; "trainable": whether no split that is needed, or asked for, has a fatal one}.

    Raises:
        FileNotFoundError: there is no such folder, or no such split.
    """
    check_folder(root)
    splits, vital = [], set(needed)
    problems = [(name, problem) for name in (() if split else needed) for problem in missing_split(root, name, numbers)]
    for name in [split] if split else splits_of(root, numbers or {}):
        try:
            videos, not_found = find_video_folders(root, name, numbers), []
        except (OSError, ValueError) as error:
            if split:
                raise
            kind = "missing" if isinstance(error, OSError) else "extra"
            videos, not_found = [], [Problem(kind, True, "", (root,), str(error))]
        is_needed = bool(split) or name == "all" or not needed or not set(needed).isdisjoint(split_aliases(name))
        counts, found = check_split(videos, is_needed)
        vital |= {name} if is_needed else set()
        splits.append({"split": name, "tree": videos[0].tree.used_by if videos else None, **counts})
        problems += [(name, problem) for problem in [*found, *not_found]]
    described = [{"split": name, "kind": problem.kind, "fatal": problem.fatal, "video": problem.video,
                  "files": list(map(str, problem.files)), "message": problem.message} for name, problem in problems]
    trainable = not any(problem.fatal for name, problem in problems if name in vital)
    return {"path": str(root), "splits": splits, "problems": described, "trainable": trainable}


def missing_split(root: Path, split: str, numbers: dict[str, range] | None) -> list[Problem]:
    """The problem that a split which training needs is missing; none where it exists, or where there is no video."""
    try:
        if all_video_folders(root):
            find_video_folders(root, split, numbers)
    except FileNotFoundError as error:
        return [Problem("missing", True, "", (root,),
                        f"{error}. Training asks for it, unless --train-split or --val-split names another, or "
                        "--hold-out takes training videos for it")]
    except (OSError, ValueError):
        return []  # reported where the files are read
    return []


def check_split(videos: list[VideoFolders], need_annotation: bool) -> tuple[dict, list[Problem]]:
    """Counts of some videos, and everything that is wrong with them.

    A test set needs no annotation, unless some of its videos have it.
    """
    names = ("videos", "frames", "annotated", "without_fixation", "masked", "shorter_than_32")
    counts = collections.Counter(dict.fromkeys(names, 0))
    listed = [list_video(folders) for folders in videos]
    problems = stray_files(videos, [video for video, _ in listed])
    is_annotated = need_annotation or any(video.annotated() or video.masked() for video, _ in listed)
    for folders, (video, found) in zip(videos, tqdm(listed, desc="checking", unit="video", disable=None)):
        problems += found
        kind = folders.tree.annotation
        if video.frames and not ANNOTATIONS[kind](video):
            problems.append(Problem("missing", is_annotated, video.name, folders.folders()[1:2],
                                    no_annotation_message(video, folders, kind)))
        elif kind == "density" and video.annotated() and not video.fixations:
            lost = any(other.fixations for other, _ in listed)  # not in a set that has only density maps
            problems.append(Problem("missing", lost, video.name, folders.fixations[:1],
                                    no_fixations_message(video, folders)))
        empty, more = check_files(video)
        problems += more
        counts.update({"videos": 1, "frames": len(video.frames), "annotated": len(video.annotated()),
                       "without_fixation": empty, "masked": len(video.masked()),
                       "shorter_than_32": int(0 < len(video.frames) < SHORT)})
    if counts["annotated"] and counts["annotated"] == counts["without_fixation"]:
        problems.append(Problem("constant", False, "", (videos[0].fixations[0],),
                                "no fixation map of this split has a fixation: there is nothing to learn from"))
    return dict(counts), problems


def stray_files(videos: list[VideoFolders], listed: list[Video]) -> list[Problem]:
    """Files in the folders of videos that are neither images, nor .mat files, nor the points (.csv) of a frame.

    Args:
        videos: the folders of each video.
        listed: the video in each of them.
    """
    owners, points = {}, set()
    for folders, video in zip(videos, listed):
        places = [place for folder in folders.fixations for place in (folder, folder / "maps")]
        owners |= dict.fromkeys([*folders.folders(), *places], "" if folders.files else folders.name)
        keys = {frame_key(path.stem) for path in video.frames}
        points |= {path for place in places for path in point_files(place, keys)}
    problems = []
    for folder, name in owners.items():
        present = folder.iterdir() if folder.is_dir() else ()
        stray = sorted(p for p in present if p.is_file() and not p.name.startswith(".")
                       and p.suffix.lower() not in {*IMAGE_SUFFIXES, ".mat"} and p not in points)
        if stray:
            message = f"{named_files(stray)}: neither an image nor a .mat file, nor the points (.csv) of a frame"
            problems.append(Problem("extra", False, name, tuple(stray), message))
    return problems


class Finding(NamedTuple):
    """Something that is wrong with one file: as in `Problem`, but for the file's name, which the message leaves out."""
    kind: str
    fatal: bool
    message: str
    file: Path


def check_files(video: Video) -> tuple[int, list[Problem]]:
    """Read all files of a video: how many of its fixation maps have no fixation, and what is wrong."""
    empty, sizes, findings = 0, collections.defaultdict(list), []
    frames = in_threads(functools.partial(check_frame, video), range(len(video.frames)))
    for index, (size, no_fixation, found) in enumerate(frames):
        empty += no_fixation
        findings += found
        sizes[size].append(video.frames[index])
    sizes.pop(None, None)
    if len(sizes) > 1:
        usual = max(sizes, key=lambda size: len(sizes[size]))
        message = (f"frames differ in size from the {usual[0]} x {usual[1]} (H x W) of the others: each is resized by "
                   "itself")
        findings += [Finding("size", False, message, path)
                     for size, paths in sizes.items() if size != usual for path in paths]
    grouped = collections.defaultdict(list)
    for kind, fatal, message, path in findings:
        grouped[kind, fatal, message].append(path)
    return empty, [Problem(kind, fatal, video.name, tuple(paths),
                           message if kind == "unreadable" else f"{named_files(paths)}: {message}")
                   for (kind, fatal, message), paths in grouped.items()]


def named_files(paths: list[Path]) -> str:
    """The first of some files, and how many more there are."""
    return f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"


def check_frame(video: Video, index: int) -> tuple[tuple[int, int] | None, bool, list[Finding]]:
    """Read a frame and its annotation: the frame's (H, W), whether its fixation map is empty, and findings."""
    path = video.frames[index]
    files = {"frame": path, "density": video.maps.get(path.stem), "fixations": video.fixations.get(path.stem),
             "mask": video.masks.get(path.stem)}
    readers = {"frame": lambda file: Annotation(read_frame(file), []), "density": examine_density,
               "fixations": lambda file: examine_fixations(file, video.like(path)), "mask": examine_mask}
    content, findings = {}, []
    for kind, file in files.items():
        try:
            if file:
                content[kind], remarks = readers[kind](file)
                findings += [Finding(remark.kind, False, remark.finding or remark.reason, file) for remark in remarks]
        except (OSError, ValueError) as error:
            findings.append(Finding("unreadable", True, str(error), file))
    if "density" in content:
        remarks = remarks_on_density(content["density"], content.get("fixations"))
        findings += [Finding(remark.kind, False, remark.reason, files["density"]) for remark in remarks]
    findings += check_sizes(content, files)
    is_empty = "fixations" in content and not content["fixations"].any()
    return content["frame"].shape[:2] if "frame" in content else None, is_empty, findings


def check_sizes(content: dict[str, np.ndarray], files: dict[str, Path]) -> Iterator[Finding]:
    """Findings about the sizes of a frame and its annotation, what was read and from which files."""
    size = {kind: f"{array.shape[0]} x {array.shape[1]}" for kind, array in content.items()}
    if "density" in size and size.get("fixations", size["density"]) != size["density"]:
        message = f"the density map is {size['density']}, the fixation map {size['fixations']}"
        yield Finding("size", True, message, files["density"])
    for kind, name in (("density", "density map"), ("mask", "mask")):
        if kind in size and size.get("frame", size[kind]) != size[kind]:
            message = f"the {name} is {size[kind]}, the frame {size['frame']}: each is resized by itself"
            yield Finding("size", False, message, files[kind])


def print_check(report: dict) -> None:
    """Print the outcome of `check_dataset` for people."""
    for split in report["splits"]:
        unsaid = {"split", "tree", *({"annotated", "without_fixation"} if split["masked"] else {"masked"})}
        counts = [f"{value} {name.replace('_', ' ')}" for name, value in split.items() if name not in unsaid]
        print(f"{report['path']}, {split['split']}: {', '.join(counts)} (tree: {split['tree']})")
    for problem in sorted(report["problems"], key=lambda problem: not problem["fatal"]):
        where = f"{problem['split']}/{problem['video']}" if problem["video"] else problem["split"]
        print(f"{'error' if problem['fatal'] else 'warning'}: {problem['kind']}: {where}: {problem['message']}")
    fatal = sum(problem["fatal"] for problem in report["problems"])
    verdict = "this can be trained on" if report["trainable"] else "training would fail"
    print(f"{fatal} errors, {len(report['problems']) - fatal} warnings: {verdict}")
