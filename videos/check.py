"""What the files of a dataset hold: an inventory in one line, and everything that is wrong (`python dataloader.py check`)."""
import collections
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils import in_threads
from videos.annotation import (
    Annotation,
    examine_density,
    examine_fixations,
    examine_mask,
    remarks_on_density,
)
from videos.images import IMAGE_SUFFIXES, read_frame
from videos.splits import all_places, check_folder, find_places, splits_of, usual_names
from videos.trees import VideoFolders
from videos.video import ANNOTATIONS, Problem, Video, density_only, list_video, no_annotation


def inventory(videos: list[Video], look_at: int = 2000, short: int = 32) -> str:
    """What was found, in one line: videos, frames, how many are annotated, how many of those have no fixation, short videos.

    Where there are masks: videos, frames, how many have one. Where there are any, also how many frames have a density
    map alone, and how many fixation maps or masks are doubtful.

    Args:
        videos: of `find_videos`.
        look_at: fixation maps or masks to read, evenly spread over all, to count the empty and the doubtful ones.
        short: a video with fewer frames is short.
    """
    masks = [(video.masks[video.frames[i].stem],) for video in videos for i in video.masked()]
    annotated = [(video, video.frames[i]) for video in videos for i in video.annotated()]
    fixated = [(video.fixations[frame.stem], video.like(frame)) for video, frame in annotated if video.fixations]
    files = masks or fixated
    seen = [files[round(place)] for place in np.linspace(0, len(files) - 1, min(look_at, len(files)))]
    examine = functools.partial(look, examine_mask if masks else examine_fixations)
    empty, doubtful, interpreted = np.sum([(False, False, False), *in_threads(examine, seen)], axis=0)
    of_seen = f" of {len(seen)} looked at" if len(seen) < len(files) else ""
    parts = [f"{len(videos)} videos", f"{sum(len(video.frames) for video in videos)} frames"]
    if masks:
        parts.append(f"{len(masks)} with masks")
    else:
        parts += [f"{len(annotated)} annotated", f"{empty}{of_seen} without fixation",
                  f"{sum(len(video.frames) < short for video in videos)} videos shorter than {short} frames"]
        parts += [f"{len(annotated) - len(fixated)} with a density map alone"] if len(fixated) < len(annotated) else []
    for count, how in ((doubtful, "doubtful"), (interpreted, "interpreted")):
        if count:
            parts.append(f"{count}{of_seen} with {'an' if how == 'interpreted' else 'a'} {how} "
                         f"{'mask' if masks else 'fixation map'} (python dataloader.py check says how)")
    return ", ".join(parts)


def look(examine: Callable[..., Annotation], files: tuple[Path, ...]) -> tuple[bool, bool, bool]:
    """Whether an annotation is empty, doubtful, or interpreted; whoever needs one that cannot be read reports it."""
    try:
        values, remarks = examine(*files)
    except (OSError, ValueError):
        return False, False, False
    kinds = {remark.kind for remark in remarks}
    return not values.any(), bool(kinds - {"interpreted"}), "interpreted" in kinds


def check_dataset(root: Path, split: str | None = None, numbers: dict[str, range] | None = None, needed: tuple[str, ...] = ()) -> dict:
    """Everything that is wrong with a dataset, names and content.

    Args:
        root: the dataset's folder.
        split: of `find_places`; None for every split that there is.
        numbers: of `DatasetInfo`.
        needed: splits without which training would fail; looked for where no `split` is given.

    Returns:
        {"path"; "splits": of each {"split", "tree", "videos", "frames", "annotated", "without_fixation", "masked", "shorter_than_32"};
        "problems": of each {"split", "kind", "fatal", "video", "files", "message"}, fatal where training or scoring would stop;
        "trainable": whether none in a split that is needed, or asked for, is fatal}.

    Raises:
        FileNotFoundError: there is no such folder, or no such split.
    """
    check_folder(root)
    splits, vital = [], set(needed)
    problems = [(name, problem) for name in (() if split else needed) for problem in unusable(root, name, numbers)]
    for name in [split] if split else splits_of(root, numbers or {}):
        try:
            places, unknown = find_places(root, name, numbers), []
        except (OSError, ValueError) as error:
            if split:
                raise
            places, unknown = [], [Problem("missing" if isinstance(error, OSError) else "extra", True, "", (root,), str(error))]
        counts, found = check_split(places, is_needed := bool(split) or name == "all" or not needed or bool(set(usual_names(name)) & set(needed)))
        vital |= {name} if is_needed else set()
        splits.append({"split": name, "tree": places[0].tree.used_by if places else None, **counts})
        problems += [(name, problem) for problem in [*found, *unknown]]
    described = [{"split": name, "kind": p.kind, "fatal": p.fatal, "video": p.video, "files": list(map(str, p.files)), "message": p.message}
                 for name, p in problems]
    return {"path": str(root), "splits": splits, "problems": described, "trainable": not any(p.fatal for name, p in problems if name in vital)}


def unusable(root: Path, split: str, numbers: dict[str, range] | None) -> list[Problem]:
    """The problem that a split which training needs is not there; none where it is, or nothing is."""
    try:
        if all_places(root):
            find_places(root, split, numbers)
    except FileNotFoundError as error:
        message = f"{error}. Training asks for it, unless --train-split or --val-split names another, or --hold-out takes training videos for it"
        return [Problem("missing", True, "", (root,), message)]
    except (OSError, ValueError):
        return []                                                          # reported where the files are read
    return []


def check_split(places: list[VideoFolders], need_annotation: bool) -> tuple[dict, list[Problem]]:
    """Counts, and everything that is wrong, of some videos; a test set needs no annotation, unless some of its videos have it."""
    counts = collections.Counter(dict.fromkeys(("videos", "frames", "annotated", "without_fixation", "masked", "shorter_than_32"), 0))
    listed, problems = [list_video(place) for place in places], strays(places)
    is_annotated = need_annotation or any(video.annotated() or video.masked() for video, _ in listed)
    for place, (video, found) in zip(places, tqdm(listed, desc="checking", unit="video", disable=None)):
        problems += found
        kind = place.tree.annotation
        if video.frames and not ANNOTATIONS[kind](video):
            problems.append(Problem("missing", is_annotated, video.name, place.folders()[1:2], no_annotation(video, place, kind)))
        elif kind == "density" and video.annotated() and not video.fixations:
            lost = any(other.fixations for other, _ in listed)             # in a set of density maps alone, none is
            problems.append(Problem("missing", lost, video.name, place.fixations[:1], density_only(video, place)))
        empty, more = check_files(video)
        problems += more
        counts.update({"videos": 1, "frames": len(video.frames), "annotated": len(video.annotated()), "without_fixation": empty,
                       "masked": len(video.masked()), "shorter_than_32": int(0 < len(video.frames) < 32)})
    if counts["annotated"] and counts["annotated"] == counts["without_fixation"]:
        problems.append(Problem("constant", False, "", (places[0].fixations[0],),
                                "no fixation map of this split has a fixation: there is nothing to learn from"))
    return dict(counts), problems


def strays(places: list[VideoFolders]) -> list[Problem]:
    """Files that are neither images nor .mat among those of videos."""
    owners, problems = {folder: "" if place.files else place.name for place in places for folder in place.folders()}, []
    for folder, video in owners.items():
        stray = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")
                       and p.suffix.lower() not in {*IMAGE_SUFFIXES, ".mat"}) if folder.is_dir() else []
        if stray:
            problems.append(Problem("extra", False, video, tuple(stray), f"{named_files(stray)}: neither an image nor a .mat file"))
    return problems


def check_files(video: Video) -> tuple[int, list[Problem]]:
    """Read all files of a video: how many frames have an annotation without a fixation, and what is wrong."""
    empty, sizes, findings = 0, collections.defaultdict(list), []
    for index, (size, no_fixation, found) in enumerate(in_threads(functools.partial(check_frame, video), range(len(video.frames)))):
        empty += no_fixation
        findings += found
        sizes[size].append(video.frames[index])
    sizes.pop(None, None)
    if len(sizes) > 1:
        usual = max(sizes, key=lambda size: len(sizes[size]))
        findings += [("size", False, f"frames differ in size from the {usual[0]} x {usual[1]} (H x W) of the others: each is resized by itself", path)
                     for size, paths in sizes.items() if size != usual for path in paths]
    grouped = collections.defaultdict(list)
    for kind, fatal, what, path in findings:
        grouped[kind, fatal, what].append(path)
    return empty, [Problem(kind, fatal, video.name, tuple(paths), what if kind == "unreadable" else f"{named_files(paths)}: {what}")
                   for (kind, fatal, what), paths in grouped.items()]


def named_files(paths: list[Path]) -> str:
    return f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"


def check_frame(video: Video, index: int) -> tuple[tuple[int, int] | None, bool, list[tuple[str, bool, str, Path]]]:
    """Read a frame and its annotation: the frame's (H, W), whether its fixation map is empty, and findings.

    A finding is kind, fatal, what is wrong, and the file.
    """
    path = video.frames[index]
    files = {"frame": path, "density": video.maps.get(path.stem), "fixations": video.fixations.get(path.stem),
             "mask": video.masks.get(path.stem)}
    readers = {"frame": lambda file: Annotation(read_frame(file), []), "density": examine_density,
               "fixations": lambda file: examine_fixations(file, video.like(path)), "mask": examine_mask}
    content, found = {}, []
    for kind, file in files.items():
        try:
            if file:
                content[kind], remarks = readers[kind](file)
                found += [(remark.kind, False, remark.finding or remark.reason, file) for remark in remarks]
        except (OSError, ValueError) as error:
            found.append(("unreadable", True, str(error), file))
    if "density" in content:
        remarks = remarks_on_density(content["density"], content.get("fixations"))
        found += [(remark.kind, False, remark.reason, files["density"]) for remark in remarks]
    found += [(kind, fatal, what, files[at_fault]) for kind, fatal, what, at_fault in check_sizes(content)]
    is_empty = "fixations" in content and not content["fixations"].any()
    return content["frame"].shape[:2] if "frame" in content else None, is_empty, found


def check_sizes(content: dict[str, np.ndarray]) -> Iterator[tuple[str, bool, str, str]]:
    """Findings in the sizes of a frame and its annotation, as of `check_frame`, a key of `content` for the file."""
    size = {kind: f"{array.shape[0]} x {array.shape[1]}" for kind, array in content.items()}
    if "density" in size and size.get("fixations", size["density"]) != size["density"]:
        yield "size", True, f"the density map is {size['density']}, the fixation map {size['fixations']}", "density"
    for kind, name in (("density", "density map"), ("mask", "mask")):
        if kind in size and size.get("frame", size[kind]) != size[kind]:
            yield "size", False, f"the {name} is {size[kind]}, the frame {size['frame']}: each is resized by itself", kind


def print_check(report: dict) -> None:
    """The outcome of `check_dataset` for people."""
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
