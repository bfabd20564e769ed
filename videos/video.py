"""A video as frames with their annotation, paired by name, and what is wrong with the names.

A frame and its annotation share a name; nothing is paired by position or by a number that was counted.
"""
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from videos.names import files_in, frame_key, images_in, natural, natural_key
from videos.splits import find_places
from videos.trees import TREE, TREES, VideoFolders


@dataclass(frozen=True)
class Video:
    """A video as a folder of frames, and the annotation of those frames that have one.

    Attributes:
        name: the folder's name.
        frames: the frames in order of time.
        maps: a frame's stem -> its density map.
        fixations: a frame's stem -> its fixation map, image or .mat; empty where there are density maps alone.
        masks: a frame's stem -> the mask of its salient objects.
    """
    name: str
    frames: tuple[Path, ...]
    maps: dict[str, Path] = field(default_factory=dict)
    fixations: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)

    def is_annotated(self, index: int) -> bool:
        stem = self.frames[index].stem
        return stem in self.maps and (stem in self.fixations or not self.fixations)

    def annotated(self) -> list[int]:
        """Indices of the frames with a density and a fixation map; with a density map, if the video has no other."""
        return [i for i in range(len(self.frames)) if self.is_annotated(i)]

    def like(self, frame: Path) -> Path:
        """The picture that has the size of a frame's fixation map: its density map, or the frame."""
        return self.maps.get(frame.stem, frame)

    def masked(self) -> list[int]:
        """Indices of the frames with a mask."""
        return [i for i, path in enumerate(self.frames) if path.stem in self.masks]


ANNOTATIONS = {"density": Video.annotated, "mask": Video.masked}           # what networks learn from, and a video's frames that have it
ANNOTATION_WORDS = {"density": "density and fixation maps", "mask": "masks"}


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a video on disk.

    Attributes:
        kind: a key of `PROBLEMS`.
        fatal: whether training or scoring would stop at it.
        video: its name.
        files: those at fault; at least one.
        message: what is wrong, where, and what to do.
    """
    kind: str
    fatal: bool
    video: str
    files: tuple[Path, ...]
    message: str

    def error(self) -> OSError | ValueError:
        return (FileNotFoundError if self.kind == "missing" else ValueError)(self.message)


PROBLEMS = {
    "missing": "files that should be there", "extra": "files that belong to nothing", "unreadable": "damaged files, or of another kind",
    "size": "frames, maps or masks of different sizes", "constant": "density maps or masks of one value",
    "fixations": "fixation maps of more than two values, in JPEG, or with very many fixations",
    "mask": "masks that are mostly neither black nor white, or nowhere bright",
    "interpreted": "annotation in an alpha channel, a palette, numbers of objects, a variable of another name",
    "order": "names that other programs would sort differently",
}


def find_videos(root: Path, split: str, need_annotation: bool = True, skipped: list[str] | None = None,
                numbers: dict[str, range] | None = None, annotation: str = "density",
                need_fixations: bool = True) -> list[Video]:
    """All videos of a split, in natural order of their names.

    Args:
        root, split, numbers: of `find_places`.
        need_annotation: a video of which no frame is annotated is a problem.
        skipped: None to raise at the first problem; a list to leave such videos out and append what was wrong.
        annotation: what counts as annotation then: "density", a density and a fixation map; "mask", a mask.
        need_fixations: whether a video that has density maps and no fixation map is a problem then.

    Returns:
        At least one video.

    Raises:
        FileNotFoundError: no such dataset or split, nothing in it, or something is missing from a video.
        ValueError: another problem of a video.
    """
    videos = []
    for place in find_places(root, split, numbers):
        try:
            videos.append(open_place(place, need_annotation, annotation, need_fixations))
        except (OSError, ValueError) as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    if not videos:
        raise FileNotFoundError(f"no usable video in {root / split}: all {len(skipped)} were skipped, the first because {skipped[0]}")
    return videos


def open_video(folder: Path, need_annotation: bool = True) -> Video:
    """The video in a folder with images/, maps/ and fixation/; raises as `find_videos` does."""
    folders = {pattern: folder.parent / pattern.format(video=folder.name) for pattern in TREES[0].patterns()}
    return open_place(TREES[0].place(folder.name, folders), need_annotation)


def open_place(place: VideoFolders, need_annotation: bool = True, annotation: str = "density",
               need_fixations: bool = True) -> Video:
    """The video at a place; raises the first problem that would stop training."""
    video, problems = list_video(place)
    for problem in problems:
        if problem.fatal:
            raise problem.error()
    if need_annotation and not ANNOTATIONS[annotation](video):
        raise FileNotFoundError(no_annotation(video, place, annotation))
    if need_annotation and need_fixations and annotation == "density" and not video.fixations:
        raise FileNotFoundError(density_only(video, place))
    return video


def density_only(video: Video, place: VideoFolders) -> str:
    """What can be done with a video that has density maps and no fixation map."""
    return (f"no fixation maps for video {video.name}: {len(video.maps)} of its {len(video.frames)} frames have a "
            f"density map in {place.maps}, and none has a fixation map in {' or '.join(map(str, place.fixations))}. "
            "The objective's NSS needs them: give --nss-weight 0 to train without. test.py scores such a video by CC, "
            "SIM and KL")


def no_annotation(video: Video, place: VideoFolders, annotation: str) -> str:
    """Why a video has none of the annotation that is needed, and what to do."""
    if annotation != place.tree.annotation:                                # a dataset of another kind than the network learns from
        there, example = ANNOTATION_WORDS[place.tree.annotation], {"density": "dhf1k", "mask": "vsod"}[annotation]
        return (f"no {ANNOTATION_WORDS[annotation]} for video {video.name}: the network needs {ANNOTATION_WORDS[annotation]}, but {place.frames} is "
                f"of a dataset of {there} (its tree: {place.tree.used_by}). Choose a network that learns from {there}, or a dataset of "
                f"{ANNOTATION_WORDS[annotation]}, such as --dataset {example}; their trees: data/README.md")
    if annotation == "mask":
        return (f"no masks for video {video.name}: of {len(video.frames)} frames in {place.frames} none has one in "
                f"{' or '.join(map(str, place.masks))}. A frame and its mask have the same name; for videos without masks use predict.py")
    remedy = ("`python -m data.make_maps` makes density maps from fixation maps" if video.fixations and not video.maps else
              "Videos 701-1000 of DHF1K have no public annotation: use predict.py for those")
    return (f"no annotation for video {video.name}: of {len(video.frames)} frames in {place.frames} none has both a density map in {place.maps} "
            f"({len(video.maps)} files) and a fixation map in {place.fixations[0]} ({len(video.fixations)} files). {remedy}; {TREE}")


def list_video(place: VideoFolders) -> tuple[Video, list[Problem]]:
    """A video's frames, each with its annotation if it has any, and everything that is wrong with the names."""
    problems = []
    frames = pick(place, "frames", [place.images(place.frames)], problems)
    maps = pick(place, "density maps", [images_in(place.maps)] if place.maps else [], problems)
    folders = list(reversed(place.fixations))                              # of groups, a later one counts more
    matlab = [files_in(folder / below, {".mat"}) for below in ("maps", ".") for folder in folders]
    fixations = pick(place, "fixation maps", matlab + [images_in(folder) for folder in folders], problems)
    masks = pick(place, "masks", [place.images(folder) for folder in reversed(place.masks)], problems)
    if not frames:
        return Video(place.name, ()), [*problems, Problem("missing", True, place.name, (place.frames,), no_frames(place))]
    video = Video(place.name, in_order(frames), *({frames[key].stem: path for key, path in found.items() if key in frames}
                                                        for found in (maps, fixations, masks)))
    if not place.files:                                                    # else numbers may mean nothing: unrelated pictures share a folder
        problems += [*gaps(video, strict=place.tree.annotation == "density"), *doubtful_order(video)]
    extra = tuple(found[key] for found in (maps, fixations, masks) for key in natural(found.keys() - frames.keys()))
    if extra:
        where = f"{video.frames[0].parent} holds {len(video.frames)} frames, {video.frames[0].name} to {video.frames[-1].name}"
        problems.append(Problem("extra", True, video.name, extra, f"annotation without frame in video {video.name}: {len(extra)} files, "
                                                                  f"the first {extra[0]}; {where}"))
    return video, problems + without_annotation(video)


def pick(place: VideoFolders, kind: str, groups: list[list[Path]], problems: list[Problem], key: Callable[[str], str] = frame_key) -> dict[str, Path]:
    """A stem's key -> file; of two in one group that share their key, one is taken and the other is a problem."""
    picked = {}
    for files in groups:
        group = {}
        for path in sorted(files, key=lambda path: path.name):
            first = group.setdefault(key(path.stem), path)
            if first != path:
                problems.append(Problem("extra", True, place.name, (first, path), f"two {kind} share a name in {path.parent}: "
                                                                                  f"{first.name} and {path.name}; remove one"))
        picked |= group
    return picked


def no_frames(place: VideoFolders) -> str:
    """Why a video has no frames."""
    if place.files:
        masks = [path for files in place.files.values() for path in files]
        return (f"no frames of video {place.name} in {place.frames}, although it has {len(masks)} masks, the first {min(masks)}. A frame and its "
                "mask have the same name: restore the frames, or remove the masks")
    if place.frames.is_dir():
        return f"no frames in {place.frames}: it holds no images"
    present = ", ".join(natural(p.name for p in place.frames.parent.iterdir())[:10]) if place.frames.parent.is_dir() else ""
    return f"no frames of video {place.name}: {place.frames} does not exist ({place.frames.parent} holds {present or 'nothing'}); {TREE}"


def gaps(video: Video, strict: bool) -> list[Problem]:
    """Frames that are missing between two others, which would make a clip jump.

    Where numbers never go up by one, the video was thinned out on purpose: their smallest step is then the usual one. Datasets of
    masks (not `strict`) were thinned out at any step, to frames that have a mask: gaps are worth a word there.
    """
    numbers = [re.search(r"(\d+)$", path.stem) for path in video.frames]
    pairs = [(a, b, int(second[0]) - int(first[0])) for (a, b), (first, second) in
             zip(itertools.pairwise(video.frames), itertools.pairwise(numbers)) if first and second]
    usual = max(1, min(step for *_, step in pairs)) if len(pairs) > 1 else 1
    jumps = [(before, after) for before, after, step in pairs if step != usual]
    if jumps and not strict:
        before, after = jumps[0]
        return [Problem("missing", False, video.name, tuple(after for _, after in jumps), f"numbers of frames jump in {after.parent}, {len(jumps)} "
                        f"times, first where {after.name} follows {before.name}: these are taken for neighbours, also by optical flow")]
    return [Problem("missing", True, video.name, (after,), f"missing frame in {after.parent}: {after.name} follows {before.name}; "
                    "restore the frames between, or split the video there") for before, after in jumps]


def doubtful_order(video: Video) -> list[Problem]:
    """Names that sort otherwise as text than by their numbers, or that have none."""
    stems = [path.stem for path in video.frames]
    unnumbered = [path for path in video.frames if not re.search(r"\d$", path.stem)]
    reason = ("have no number at their end: they are taken in alphabetical order" if unnumbered and len(stems) > 1 else
              "sort differently as text, as other programs sort: we go by their numbers" if stems != sorted(stems) else None)
    return [Problem("order", False, video.name, tuple(unnumbered) or video.frames[:1],
                    f"the names of frames in {video.frames[0].parent} {reason} ({stems[0]} to {stems[-1]})")] if reason else []


def without_annotation(video: Video) -> list[Problem]:
    """Frames without annotation between those that have it; they are watched, but neither trained on nor scored."""
    having = {*(video.masked() or video.annotated())}
    bare = [path for index, path in enumerate(video.frames) if index not in having]
    if not bare or not having:
        return []
    lacking = "a mask" if video.masks else "a density map or a fixation map"
    return [Problem("missing", False, video.name, tuple(bare), f"{len(bare)} of {len(video.frames)} frames of video {video.name} lack {lacking}, "
                                                               f"the first {bare[0].name}")]


def list_frames(folder: Path) -> list[Path]:
    """The images of a folder in natural order.

    Raises:
        FileNotFoundError: there are none.
        ValueError: two share a name.
    """
    frames = images_by(folder, "frames", str)                              # two that differ in zeros may both be meant
    if not frames:
        raise FileNotFoundError(f"no frames in {folder}: {'it holds no images' if folder.is_dir() else 'the folder does not exist'}")
    return list(in_order(frames))


def images_by(folder: Path, kind: str, key: Callable[[str], str]) -> dict[str, Path]:
    """A stem's key -> image, for a folder that need not exist; a ValueError where two share theirs."""
    problems = []
    images = pick(VideoFolders(folder.name, folder, folder, ()), kind, [images_in(folder)], problems, key)
    if problems:
        raise problems[0].error()
    return images


def in_order(frames: dict[str, Path]) -> tuple[Path, ...]:
    """Frames in natural order."""
    return tuple(sorted(frames.values(), key=lambda path: natural_key(path.stem)))


def check_same_size(density: np.ndarray, fixations: np.ndarray, video: Video, stem: str) -> None:
    """Raise a ValueError where the two maps of a frame differ in size."""
    if density.shape != fixations.shape:
        raise ValueError(f"density and fixation map of frame {stem} of video {video.name} differ in size: {video.maps[stem]} is "
                         f"{density.shape[0]} x {density.shape[1]}, {video.fixations[stem]} is {fixations.shape[0]} x {fixations.shape[1]} (H x W)")
