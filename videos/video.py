"""A video as frames with their annotation, paired by name, and what is wrong with the names.

A frame and its annotation share a name; nothing is paired by position or by counting.
"""
import itertools
import re
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from videos.names import files_in, frame_key, images_in, natural, natural_key
from videos.splits import find_video_folders
from videos.trees import TREE, TREES, VideoFolders


@dataclass(frozen=True)
class Video:
    """A video as a folder of frames, and the annotation of those frames that have one.

    Attributes:
        name: the folder's name.
        frames: the frames in order of time.
        maps: a frame's stem -> its density map.
        fixations: a frame's stem -> its fixation map, image, .mat or .csv; empty where there are only density maps.
        masks: a frame's stem -> the mask of its salient objects.
    """
    name: str
    frames: tuple[Path, ...]
    maps: dict[str, Path] = field(default_factory=dict)
    fixations: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)

    def is_annotated(self, index: int) -> bool:
        """Whether the frame of this index has a density map, and a fixation map if the video has any."""
        stem = self.frames[index].stem
        return stem in self.maps and (stem in self.fixations or not self.fixations)

    def annotated(self) -> list[int]:
        """Indices of the frames for which `is_annotated` holds."""
        return [i for i in range(len(self.frames)) if self.is_annotated(i)]

    def masked(self) -> list[int]:
        """Indices of the frames with a mask."""
        return [i for i, path in enumerate(self.frames) if path.stem in self.masks]

    def like(self, frame: Path) -> Path:
        """The picture that has the size of a frame's fixation map: its density map, or the frame."""
        return self.maps.get(frame.stem, frame)


# What a network learns from -> the indices of a video's frames that have it. "density" also requires that a video has
# fixation maps; for "density alone" they are optional.
ANNOTATIONS = {"density": Video.annotated, "density alone": Video.annotated, "mask": Video.masked}


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a video on disk.

    Attributes:
        kind: a key of `PROBLEMS`.
        fatal: whether training or scoring would stop at it.
        video: its name.
        files: the files at fault; at least one.
        message: what is wrong, where, and what to do.
    """
    kind: str
    fatal: bool
    video: str
    files: tuple[Path, ...]
    message: str

    def error(self) -> OSError | ValueError:
        """The exception to raise where it must not be passed over."""
        return (FileNotFoundError if self.kind == "missing" else ValueError)(self.message)


PROBLEMS = {
    "missing": "files that should be there", "extra": "files that belong to nothing",
    "unreadable": "damaged files, or of another kind", "size": "frames, maps or masks of different sizes",
    "constant": "density maps or masks of one value",
    "fixations": "fixation maps of more than two values, in JPEG, or with very many fixations",
    "mask": "masks that are mostly neither black nor white, or nowhere bright",
    "interpreted": "annotation in an alpha channel, a palette, numbers of objects, a variable of another name",
    "order": "names that other programs would sort differently",
}


# Finding videos

def find_videos(root: Path, split: str, need_annotation: bool = True, skipped: list[str] | None = None,
                numbers: dict[str, range] | None = None, annotation: str = "density") -> list[Video]:
    """All videos of a split, in natural order of their names.

    Args:
        root, split, numbers: as in `find_video_folders`.
        need_annotation: whether a video without any annotated frame is refused.
        skipped: None to raise at the first problem; a list to leave such videos out and append what was wrong.
        annotation: what then counts as annotation, a key of `ANNOTATIONS`.

    Returns:
        At least one video.

    Raises:
        FileNotFoundError: there is no such dataset or split, nothing is in it, or something is missing from a video.
        ValueError: another problem of a video.
    """
    videos = []
    for folders in find_video_folders(root, split, numbers):
        try:
            videos.append(open_folders(folders, need_annotation, annotation))
        except (OSError, ValueError) as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    if not videos:
        raise FileNotFoundError(f"no usable video in {root / split}: all {len(skipped)} were skipped, "
                                f"the first because {skipped[0]}")
    return videos


def open_video(folder: Path, need_annotation: bool = True) -> Video:
    """The video in a folder with images/, maps/ and fixation/; raises as `find_videos` does."""
    folders = {pattern: folder.parent / pattern.format(video=folder.name) for pattern in TREES[0].patterns()}
    return open_folders(TREES[0].video_folders(folder.name, folders), need_annotation)


def open_folders(folders: VideoFolders, need_annotation: bool = True, annotation: str = "density") -> Video:
    """The video in these folders; raises the first problem at which training would stop."""
    video, problems = list_video(folders)
    for problem in problems:
        if problem.fatal:
            raise problem.error()
    if need_annotation and not ANNOTATIONS[annotation](video):
        raise FileNotFoundError(no_annotation_message(video, folders, annotation))
    if need_annotation and annotation == "density" and not video.fixations:
        raise FileNotFoundError(no_fixations_message(video, folders))
    return video


def no_fixations_message(video: Video, folders: VideoFolders) -> str:
    """What to do with a video that has density maps and no fixation map."""
    return (f"no fixation maps for video {video.name}: {len(video.maps)} of its {len(video.frames)} frames have a "
            f"density map in {folders.maps}, and none has a fixation map in "
            f"{' or '.join(map(str, folders.fixations))}. The objective's NSS needs them: give --nss-weight 0 to train "
            "without. test.py scores such a video by CC, SIM and KL")


def no_annotation_message(video: Video, folders: VideoFolders, annotation: str) -> str:
    """Why a video has none of the annotation that is needed, and what to do."""
    count = len(video.frames)
    if (annotation == "mask") != bool(folders.tree.masks):  # the network learns from something else
        needed, there, example = "density and fixation maps", "masks", "dhf1k"
        if annotation == "mask":
            needed, there, example = there, needed, "vsod"
        return (f"no {needed} for video {video.name}: the network needs {needed}, but {folders.frames} is of a dataset "
                f"of {there} (its tree: {folders.tree.used_by}). Choose a network that learns from {there}, or a "
                f"dataset of {needed}, such as --dataset {example}; their trees: data/README.md")
    if annotation == "mask":
        return (f"no masks for video {video.name}: of {count} frames in {folders.frames} none has one in "
                f"{' or '.join(map(str, folders.masks))}. A frame and its mask have the same name; "
                "for videos without masks use predict.py")
    remedy = "Videos 701-1000 of DHF1K have no public annotation: use predict.py for those"
    if video.fixations and not video.maps:
        remedy = "`python -m data.make_maps` makes density maps from fixation maps"
    return (f"no annotation for video {video.name}: of {count} frames in {folders.frames} none has both a density map "
            f"in {folders.maps} ({len(video.maps)} files) and a fixation map in {folders.fixations[0]} "
            f"({len(video.fixations)} files). {remedy}; {TREE}")


# Pairing a video's files, and what is wrong with their names

def list_video(folders: VideoFolders) -> tuple[Video, list[Problem]]:
    """A video's frames, each with its annotation if it has any, and everything that is wrong with the names."""
    problems = []
    frames = by_key(folders, "frames", [folders.images(folders.frames)], problems)
    maps = by_key(folders, "density maps", [images_in(folders.maps)] if folders.maps else [], problems)
    reverse = list(reversed(folders.fixations))  # a later group takes precedence
    places = [folder / below for below in ("maps", ".") for folder in reverse]
    groups = [*(point_files(folder, frames) for folder in places), *(files_in(folder, {".mat"}) for folder in places),
              *(images_in(folder) for folder in reverse)]
    fixations = by_key(folders, "fixation maps", groups, problems)
    masks = by_key(folders, "masks", [folders.images(folder) for folder in reversed(folders.masks)], problems)
    if not frames:
        problems.append(Problem("missing", True, folders.name, (folders.frames,), no_frames_message(folders)))
        return Video(folders.name, ()), problems
    annotation = (maps, fixations, masks)
    paired = ({frames[key].stem: path for key, path in found.items() if key in frames} for found in annotation)
    video = Video(folders.name, in_order(frames), *paired)
    if not folders.files:  # numbers of unrelated stills mean nothing
        problems += [*gaps(video, strict=folders.tree.annotation == "density"), *doubtful_order(video)]
    extra = tuple(found[key] for found in annotation for key in natural(found.keys() - frames.keys()))
    if extra:
        first, last = video.frames[0], video.frames[-1]
        problems.append(Problem("extra", True, video.name, extra,
                                f"annotation without frame in video {video.name}: {len(extra)} files, the first "
                                f"{extra[0]}; {first.parent} holds {len(video.frames)} frames, {first.name} to "
                                f"{last.name}"))
    return video, problems + frames_without_annotation(video)


def point_files(folder: Path, frames: Container[str]) -> list[Path]:
    """The .csv files in a folder that are named like a frame, by the frames' keys; others may be anybody's notes."""
    return [path for path in files_in(folder, {".csv"}) if frame_key(path.stem) in frames]


def by_key(folders: VideoFolders, kind: str, groups: list[list[Path]], problems: list[Problem],
           key: Callable[[str], str] = frame_key) -> dict[str, Path]:
    """A video's files of one kind, by the key of their stem.

    Args:
        folders: the video's.
        kind: what the files are, for messages.
        groups: the files; those of a later group replace those of an earlier one.
        problems: gets a problem for every two files in one group that have the same key.
        key: stem -> key.
    """
    found = {}
    for files in groups:
        group = {}
        for path in sorted(files, key=lambda path: path.name):
            first = group.setdefault(key(path.stem), path)
            if first != path:
                message = f"two {kind} share a name in {path.parent}: {first.name} and {path.name}; remove one"
                problems.append(Problem("extra", True, folders.name, (first, path), message))
        found |= group
    return found


def no_frames_message(folders: VideoFolders) -> str:
    """Why a video has no frames, and what to do."""
    name, frames = folders.name, folders.frames
    if folders.files:
        masks = [path for files in folders.files.values() for path in files]
        return (f"no frames of video {name} in {frames}, although it has {len(masks)} masks, the first {min(masks)}. "
                "A frame and its mask have the same name: restore the frames, or remove the masks")
    if frames.is_dir():
        return f"no frames in {frames}: it holds no images"
    present = natural(p.name for p in frames.parent.iterdir())[:10] if frames.parent.is_dir() else []
    return (f"no frames of video {name}: {frames} does not exist ({frames.parent} holds "
            f"{', '.join(present) or 'nothing'}); {TREE}")


def gaps(video: Video, strict: bool) -> list[Problem]:
    """Frames that are missing between two others, which would make a clip jump.

    Where numbers never go up by one, the video was thinned out on purpose: their smallest step is then the usual one.
    Datasets of masks (not `strict`) were thinned out unevenly, to frames with a mask: a gap there is a warning.
    """
    numbers = [re.search(r"(\d+)$", path.stem) for path in video.frames]
    pairs = [(a, b, int(second[0]) - int(first[0])) for (a, b), (first, second) in
             zip(itertools.pairwise(video.frames), itertools.pairwise(numbers)) if first and second]
    usual = max(1, min(step for *_, step in pairs)) if len(pairs) > 1 else 1
    jumps = [(before, after) for before, after, step in pairs if step != usual]
    if jumps and not strict:
        before, after = jumps[0]
        return [Problem("missing", False, video.name, tuple(after for _, after in jumps),
                        f"numbers of frames jump in {after.parent}, {len(jumps)} times, first where {after.name} "
                        f"follows {before.name}: these are taken for neighbours, also by optical flow")]
    return [Problem("missing", True, video.name, (after,),
                    f"missing frame in {after.parent}: {after.name} follows {before.name}; restore the frames between, "
                    "or split the video there") for before, after in jumps]


def doubtful_order(video: Video) -> list[Problem]:
    """Names that sort differently as text than by their numbers, or that have no number."""
    stems = [path.stem for path in video.frames]
    unnumbered = tuple(path for path in video.frames if not re.search(r"\d$", path.stem))
    if unnumbered and len(stems) > 1:
        reason = "have no number at their end: they are taken in alphabetical order"
    elif stems != sorted(stems):
        reason = "sort differently as text, as other programs sort: we go by their numbers"
    else:
        return []
    return [Problem("order", False, video.name, unnumbered or video.frames[:1],
                    f"the names of frames in {video.frames[0].parent} {reason} ({stems[0]} to {stems[-1]})")]


def frames_without_annotation(video: Video) -> list[Problem]:
    """Frames without annotation in a video that has some: networks see them, and they are not trained on nor scored."""
    having = {*(video.masked() or video.annotated())}
    bare = tuple(path for index, path in enumerate(video.frames) if index not in having)
    if not bare or not having:
        return []
    lacking = "a mask" if video.masks else "a density map or a fixation map"
    return [Problem("missing", False, video.name, bare, f"{len(bare)} of {len(video.frames)} frames of video "
                                                        f"{video.name} lack {lacking}, the first {bare[0].name}")]


# Folders of frames or pictures alone

def list_frames(folder: Path) -> list[Path]:
    """The images in a folder, in natural order.

    Raises:
        FileNotFoundError: there are none.
        ValueError: two share a name.
    """
    frames = images_by(folder, "frames", str)  # two that differ in zeros may both be meant
    if not frames:
        reason = "it holds no images" if folder.is_dir() else "the folder does not exist"
        raise FileNotFoundError(f"no frames in {folder}: {reason}")
    return list(in_order(frames))


def images_by(folder: Path, kind: str, key: Callable[[str], str]) -> dict[str, Path]:
    """The images in a folder, which need not exist, by the key of their stem.

    Raises:
        ValueError: two have the same key; the message calls them `kind`.
    """
    problems = []
    images = by_key(VideoFolders(folder.name, folder, folder, ()), kind, [images_in(folder)], problems, key)
    if problems:
        raise problems[0].error()
    return images


def in_order(frames: dict[str, Path]) -> tuple[Path, ...]:
    """Frames in natural order of their stems."""
    return tuple(sorted(frames.values(), key=lambda path: natural_key(path.stem)))


def check_same_size(density: np.ndarray, fixations: np.ndarray, video: Video, stem: str) -> None:
    """Raise a ValueError where the two maps of a frame, (H, W) each, differ in size."""
    if density.shape != fixations.shape:
        sizes = [f"{height} x {width}" for height, width in (density.shape, fixations.shape)]
        raise ValueError(f"density and fixation map of frame {stem} of video {video.name} differ in size: "
                         f"{video.maps[stem]} is {sizes[0]}, {video.fixations[stem]} is {sizes[1]} (H x W)")
