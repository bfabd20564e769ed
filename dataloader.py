"""From disk or video file to clips: finding videos, pairing frames with annotation, decoding, moving to the network's size.

Every tree that the published loaders expect is recognised (`TREES`, data/README.md). A frame and its annotation share a
name; nothing is paired by position or by a number that was counted.

    python dataloader.py check data/DHF1K           # everything that is wrong with a dataset, at once
"""
import argparse
import collections
import contextlib
import errno
import functools
import glob
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info
from tqdm import tqdm

import utils
from utils import in_threads
from videos.annotation import (
    Annotation,
    examine_density,
    examine_fixations,
    examine_mask,
    read_density,
    read_fixations,
    read_mask,
    remarks_on_density,
)
from videos.images import IMAGE_SUFFIXES, READING, read_frame

TREE = "expected tree: ROOT/SPLIT/VIDEO/{images,maps,fixation}/NAME.png, or another of those in data/README.md"


# Datasets and their trees

@dataclass(frozen=True)
class DatasetInfo:
    """What a published dataset calls its parts.

    Attributes:
        folder: where it lies unless --data says otherwise; None where it must say.
        train, val, test: the splits to train on, to choose weights by, and to score.
        numbers: split -> the numbers of its videos, for trees that have no folder for each split.
        stages: stage of training -> the split to train on, where that is another one.
    """
    folder: Path | None
    train: str
    val: str
    test: str
    numbers: dict[str, range] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)


DATASETS = {
    "dhf1k": DatasetInfo(Path("data/DHF1K"), "train", "val", "val", {"train": range(1, 601), "val": range(601, 701), "test": range(701, 1001)}),
    # These four have no validation set: papers choose weights by the test set, as we do unless some of the training set is held out.
    "hollywood2": DatasetInfo(Path("data/Hollywood-2"), "training", "testing", "testing"),
    "ucf-sports": DatasetInfo(Path("data/UCF-Sports"), "training", "testing", "testing"),
    "diem": DatasetInfo(Path("data/DIEM"), "train", "test", "test"),
    "vsod": DatasetInfo(Path("data/VSOD"), "TrainSet_Video", "TestSet/DAVIS", "TestSet/DAVIS",  # salient objects: masks, no fixations
                  stages={"pretrain-rgb": "TrainSet_RGB"}),
    "folder": DatasetInfo(None, "train", "val", "val"),                          # anybody's, in any of the trees
}
DATASET_FOLDERS = ", ".join(f"{name} {known.folder}" for name, known in DATASETS.items() if known.folder)  # for --help
SAME_SPLIT = ({"train", "training"}, {"val", "valid", "validation"}, {"test", "testing"})
LISTS = ("{}.txt", "fold_lists/DIEM_list_{}_fps.txt")                      # below a dataset's folder: the names of a split's videos
# Folders that are no data, in lower case; hidden ones are none either.
JUNK = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "#recycle", "#snapshot", "system volume information"}


@dataclass(frozen=True)
class Tree:
    """Where the folders of frames, density maps, fixation maps and masks of a video are, which {video} stands for.

    All are images; fixation maps may be .mat files instead, there or in a folder maps below. A tree has masks, or density and
    fixation maps. Without {video}, a folder holds the files of several videos, which their names tell apart. {set}
    stands for a folder of any name: a dataset, of several beside each other.
    """
    used_by: str
    frames: str
    maps: str | None = None
    fixations: tuple[str, ...] = ()                                        # the first that has a frame's fixations counts
    masks: tuple[str, ...] = ()                                            # and of these the first that has its mask

    @property
    def annotation(self) -> str:
        """What its frames are annotated with, a key of `ANNOTATIONS`."""
        return "mask" if self.masks else "density"

    def patterns(self) -> tuple[str, ...]:
        """All of them, frames first."""
        return self.frames, *([self.maps] if self.maps else []), *self.fixations, *self.masks

    def place(self, name: str, folders: dict[str, Path], files: dict[Path, list[Path]] | None = None) -> "VideoFolders":
        """The place of a video; folders: which one each pattern stands for; files: of `VideoFolders`."""
        fixations, masks = (tuple(folders[pattern] for pattern in patterns) for patterns in (self.fixations, self.masks))
        return VideoFolders(name, folders[self.frames], folders.get(self.maps), fixations, self, masks, files)


BESIDE = ("annotation/{video}/maps", ("annotation/{video}/fixation", "annotation/{video}/fixations"))
MASKS = ("ground-truth", "GT", "GTs")
TREES = (
    Tree("RecSal-Net, TMFI-Net, ViNet, Hollywood-2, UCF-Sports", "{video}/images", "{video}/maps", ("{video}/fixation", "{video}/fixations")),
    Tree("TASED-Net", "video/{video}", *BESIDE),
    Tree("UNISAL", "annotation/{video}/images", *BESIDE),
    Tree("STSANet, HD2S", "frames/{video}", *BESIDE),
    Tree("SalEMA", "frames/{video}", "maps/{video}", ("fixations/{video}", "fixation/{video}")),
    Tree("DIEM and the other sets of STAViS", "video_frames/{set}/{video}", "annotations/{set}/{video}/maps",
         ("annotations/{set}/{video}",)),
    Tree("test sets of SMCF and others: DAVIS, DAVSOD, FBMS, MCL, SegTrack-V2", "{video}/Frame", masks=tuple("{video}/" + name for name in MASKS)),
    Tree("training sets of SMCF and others, frames of all videos in one folder", "Imgs", masks=MASKS),
    Tree("training sets of SMCF and others, a folder for each video", "Imgs/{video}", masks=tuple(name + "/{video}" for name in MASKS)),
)


def dataset_folder(dataset: str, data: Path | None) -> Path:
    """Where a dataset lies: --data if it is given."""
    folder = data or DATASETS[dataset].folder
    if folder is None:
        raise ValueError(f"--dataset {dataset} is a folder of your own: say which with --data FOLDER")
    return folder


@dataclass(frozen=True)
class VideoFolders:
    """The folders of a video's frames, density maps, fixation maps and masks, which need not exist, and the tree that has them there.

    Attributes:
        maps: None in a tree that has none.
        files: in folders that several videos share, which images of each folder are this one's; None where all are.
    """
    name: str
    frames: Path
    maps: Path | None
    fixations: tuple[Path, ...]
    tree: Tree = TREES[0]
    masks: tuple[Path, ...] = ()
    files: dict[Path, list[Path]] | None = None

    @property
    def set(self) -> str | None:
        """Which of the sets that a tree holds beside each other it belongs to; None where a tree holds one."""
        return self.frames.parent.name if "{set}" in self.tree.frames else None

    def folders(self) -> tuple[Path, ...]:
        """All of them, that of the frames first."""
        return self.frames, *([self.maps] if self.maps else []), *self.fixations, *self.masks

    def images(self, folder: Path) -> list[Path]:
        """This video's images in one of its folders, in no order."""
        return images_in(folder) if self.files is None else self.files.get(folder, [])


def find_places(root: Path, split: str, numbers: dict[str, range] | None = None) -> list[VideoFolders]:
    """Where the videos of a split are, in natural order of their names, whatever the tree.

    Args:
        root: the dataset's folder.
        split: a folder below it, such as train or TestSet/DAVIS (train and training, val and validation, test and testing are the
            same); or a list of names, SPLIT.txt below it or any path that ends in .txt; or numbers of videos, such as "601-700";
            or one of the sets that a tree holds, such as Coutrot_db1 of STAViS; or a key of `numbers`; or "all".
        numbers: of `DatasetInfo`.

    Returns:
        At least one.

    Raises:
        FileNotFoundError: no such dataset or split, or nothing in it.
        ValueError: a name occurs twice.
    """
    check_folder(root)
    folder = next((below for name in usual_names(split) if (below := folder_called(root, name)).is_dir()), None)
    listed = split_list(root, split)
    if folder is not None and (recognise(folder) or not recognise(root)):  # a folder 601 may be a split, or a video
        places = [place for base in bases_below(folder) or [folder] for place in places_in(base)]
        refuse_doubles(place.name for place in places)
        return places
    places = all_places(root)
    if places and listed is not None:
        return named(places, listed)
    written = re.fullmatch(r"(\d+)(?:-(\d+))?", split)                     # "601-700", or "601"
    if written:
        wanted = range(int(written[1]), int(written[2] or written[1]) + 1)
    else:
        wanted = numbers.get(split, range(0)) if numbers and bases(root) == [root] else range(0)
    chosen = [p for p in places if split in ("all", p.set) or (p.name.isdecimal() and int(p.name) in wanted)]
    if not chosen:
        raise FileNotFoundError(nothing_in(root, split, places))
    refuse_doubles(place.name for place in chosen)
    return chosen


def check_folder(root: Path) -> None:
    """Raise a FileNotFoundError where there is no such dataset."""
    if not root.is_dir():
        raise FileNotFoundError(f"no dataset {root}: {'it is a file, unpack it' if root.exists() else 'the folder does not exist'}. data/README.md "
                                "says what may lie there; `python data/prepare_dhf1k.py` prepares DHF1K, `python data/make_sample.py` makes a small "
                                "set in data/sample (--kind vsod: one of objects with masks, in data/vsod_sample)")


def folder_called(parent: Path, name: str) -> Path:
    """The folder of a name below another, whatever the Unicode form of its name on disk; it need not exist."""
    exact = parent / name
    if exact.is_dir():
        return exact
    return next((folder for folder in folders_in(parent) if one_form(folder.name) == one_form(name)), exact)


def one_form(name: str) -> str:
    """A name in the Unicode form in which names are compared, NFC: macOS stores letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def usual_names(split: str) -> tuple[str, ...]:
    """What a split is called, its own name first."""
    return split, *sorted(next((names for names in SAME_SPLIT if split in names), set()) - {split})


def split_list(root: Path, split: str) -> Path | None:
    """The file that lists a split's videos, under its own name or another usual one, if there is one."""
    files = [Path(split), root / split] if split.endswith(".txt") else [root / file.format(name) for name in usual_names(split) for file in LISTS]
    file = next((path for path in files if path.is_file()), None)
    if file is None and split.endswith(".txt"):
        raise FileNotFoundError(f"no list {split}: there is no such file, neither here nor in {root}")
    return file


def named(places: list[VideoFolders], file: Path) -> list[VideoFolders]:
    """The videos that a list names, one a line: the whole line, or its first word where other columns follow."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"the list {file} is no text in UTF-8: {error}") from error
    # A list of STAViS is of the set that its name begins with: Coutrot_db1_list_train_1_fps.txt.
    places = [place for place in places if place.set and file.name.startswith(f"{place.set}_")] or places
    known = {number_key(place.name) for place in places}
    names = [line if number_key(line) in known else line.split()[0] for line in lines]
    missing = [name for name in names if number_key(name) not in known]
    if missing or not names:
        reason = f"{len(missing)} of which are not there, the first {missing[0]!r}" if missing else "a name in each line was expected"
        raise FileNotFoundError(f"{file} lists {len(names)} videos: {reason}. There are {len(places)}, {places[0].name} to {places[-1].name}")
    wanted = set(map(number_key, names))
    chosen = [place for place in places if number_key(place.name) in wanted]
    refuse_doubles(number_key(place.name) for place in chosen)
    return chosen


def refuse_doubles(names: Iterable[str]) -> None:
    """Raise a ValueError where a video's name occurs twice: results are kept under it."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} videos share their name with another, such as {twice[0]}: choose a split, or rename one")


def nothing_in(root: Path, split: str, places: list[VideoFolders]) -> str:
    """Why no video of a split was found, and what could be asked for instead."""
    present = ", ".join(natural(p.name for p in root.iterdir() if not p.name.startswith("."))[:10]) or "nothing"
    if files_in(root / "video", {".avi"}):
        return (f"{root} is DHF1K as released, its videos not yet decoded: run `python data/prepare_dhf1k.py {root}`, "
                "and give the folder that it makes (data/DHF1K)")
    if not places:
        return f"no videos in {root} (it holds {present}); {TREE}"
    numbered = ", \"601-700\" those with these numbers" if places[0].name.isdecimal() else ""
    splits = ", ".join([base.relative_to(root).as_posix() for base in bases(root) if base != root] + sets_of(places))
    others = f"Its splits are {splits}" if splits else "It is not divided into splits"
    above = f". Or give the folder above, {root.resolve().parent}" if is_split(root.resolve()) else ""
    return (f"no split \"{split}\" in {root}: no folder of that name, and no list {split}.txt ({root} holds {present}). {others}: give another, "
            f"or the --dataset whose splits are called so; \"all\" takes all {len(places)} videos, {places[0].name} to {places[-1].name}"
            f"{numbered}{above}")


def all_places(root: Path) -> list[VideoFolders]:
    """The videos of all splits of a dataset."""
    return [place for base in bases(root) for place in places_in(base)]


def sets_of(places: list[VideoFolders]) -> list[str]:
    """The sets that videos belong to, of a tree that holds several beside each other."""
    return natural({place.set for place in places if place.set})


def bases(root: Path) -> list[Path]:
    """The folders that a tree begins in: those of its splits, or the dataset's own, or whichever are below."""
    below = by_name(folders_in(root))
    splits = [folder for folder in below if is_split(folder) and recognise(folder)]
    return splits or ([root] if recognise(root) else [base for folder in below for base in bases_below(folder)])


def bases_below(folder: Path) -> list[Path]:
    """The folder, if a tree begins in it, or those in it in which a tree of masks does: TestSet/DAVIS, TestSet/FBMS."""
    if recognise(folder):
        return [folder]
    trees = {deeper: recognise(deeper) for deeper in by_name(folders_in(folder))}
    return [deeper for deeper, tree in trees.items() if tree and tree.masks]


def by_name(folders: list[Path]) -> list[Path]:
    """Folders in natural order."""
    return sorted(folders, key=lambda folder: natural_key(folder.name))


def is_split(folder: Path) -> bool:
    """Whether a folder is called as splits usually are."""
    return any(folder.name in names for names in SAME_SPLIT)


def recognise(base: Path) -> Tree | None:
    """The tree that begins in a folder: of those that have frames there, the one with most folders of annotation."""
    found = {tree: places_of(base, tree) for tree in TREES}
    folders = lambda place: sum(folder.is_dir() for folder in place.folders()[1:])
    having_frames = [tree for tree, places in found.items() if any(place.images(place.frames) for place in places)]
    return max(having_frames, key=lambda tree: sum(map(folders, found[tree])), default=None)


def places_in(base: Path) -> list[VideoFolders]:
    """The videos below a folder that a tree begins in; if none does, its folders."""
    places = places_of(base, recognise(base) or TREES[0])
    if not places:
        raise FileNotFoundError(f"no videos in {base}: it holds no folders; {TREE}")
    return places


def places_of(base: Path, tree: Tree) -> list[VideoFolders]:
    """The videos of a folder in a given tree: one for each name that frames or any annotation has."""
    if "{video}" not in tree.frames:
        return shared_places(base, tree)
    above, several, _ = tree.frames.partition("{set}")
    sets = [folder.name for folder in by_name(folders_in(base / above))] if several else [""]
    return [place for name in sets for place in places_of_set(base, tree, name)]


def places_of_set(base: Path, tree: Tree, name_of_set: str) -> list[VideoFolders]:
    """The same of one of the sets that a tree holds beside each other, of another tree all."""
    below_base = {pattern: pattern.replace("{set}", name_of_set) for pattern in tree.patterns()}
    parents = {pattern: base / path.partition("{video}")[0] for pattern, path in below_base.items()}
    key = one_form if len(set(parents.values())) == 1 else number_key      # 001 in one folder may be 0001 in another
    below = {pattern: [folder.name for folder in folders_in(parent)] for pattern, parent in parents.items()}
    for names in below.values():
        refuse_doubles(map(key, names))
    called = {pattern: {key(name): name for name in names} for pattern, names in below.items()}
    places = []
    for video in dict.fromkeys(video for names in called.values() for video in names):
        name = next(names[video] for names in called.values() if video in names)  # frames come first
        places.append(tree.place(name, {pattern: base / below_base[pattern].replace("{video}", names.get(video, name))
                                        for pattern, names in called.items()}))
    return sorted(places, key=lambda place: natural_key(place.name))


def shared_places(base: Path, tree: Tree) -> list[VideoFolders]:
    """The videos of folders that hold the images of several: one for each `sequence_name`, numbers alone are one called like `base`."""
    folders, files = {pattern: base / pattern for pattern in tree.patterns()}, collections.defaultdict(lambda: collections.defaultdict(list))
    for folder in folders.values():
        for path in images_in(folder):
            files[sequence_name(path.stem) or base.resolve().name][folder].append(path)
    return [tree.place(name, folders, dict(files[name])) for name in natural(files)]


def sequence_name(stem: str) -> str:
    """A frame's name without the number that it ends in: bear of bear_00012."""
    return re.sub(r"[ _.-]*\d+$", "", one_form(stem))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in no order; none where it does not exist.

    Hidden ones, unfinished ones (.partial) and `JUNK` do not count.
    """
    present = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return [p for p in present if not p.name.startswith(".") and p.suffix != ".partial" and p.name.lower() not in JUNK]


def files_in(folder: Path, suffixes: set[str]) -> list[Path]:
    """The files in a folder with one of the suffixes, in no order; none where it does not exist. Hidden ones do not count."""
    return [p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")] if folder.is_dir() else []


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, in no order; none where it does not exist."""
    return files_in(folder, IMAGE_SUFFIXES)


def number_key(name: str) -> str:
    """What names have in common that differ in Unicode form, or in zeros before the number at their end: 1, 001."""
    return re.sub(r"(?<!\d)0+(?=\d+$)", "", one_form(name))


def frame_key(stem: str) -> str:
    """What the names of a frame and of its annotation have in common: DIEM has img_00001, eyeMap_00001 and fixMap_00001."""
    return number_key(re.sub(r"^(img|eyeMap|fixMap)_", "", stem))


def natural_key(name: str) -> list:
    """Sorts frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def natural(names: Iterable[str]) -> list[str]:
    """Names in natural order."""
    return sorted(names, key=natural_key)


# Videos

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


# Moving maps to another size

def resize_density(density: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a density map to (H, W), bilinearly."""
    return cv2.resize(density, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask, (h, w) uint8, to (H, W) as frames are, with PIL's antialiased bilinear filter."""
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def imresize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to (H, W) as MATLAB's imresize does by default: bicubic, antialiased, mirrored at the borders.

    Args:
        image: (h, w); of uint8, each of the two passes is rounded to 8 bits, as there.

    Returns:
        (H, W), uint8 for uint8, else float64.

    Source: Keys 1981 (the kernel, a = -0.5); imresize's documentation. Pillow's bicubic has the same kernel and differs at the borders.
    """
    rows, columns = (torch.from_numpy(resize_weights(*lengths)).to(image.device) for lengths in zip(image.shape, size))
    passes = [lambda x: rows @ x, lambda x: x @ columns.T]
    if size[1] / image.shape[1] < size[0] / image.shape[0]:                # the axis that shrinks most goes first
        passes.reverse()
    resized = image.double()
    for resize_one_axis in passes:
        resized = resize_one_axis(resized)
        if image.dtype == torch.uint8:
            resized = (resized + 0.5).floor().clamp(0, 255)
    return resized.to(torch.uint8) if image.dtype == torch.uint8 else resized


@functools.lru_cache(maxsize=16)
def resize_weights(length: int, wanted: int) -> np.ndarray:
    """What each of `wanted` pixels takes from each of `length`, (wanted, length) float64; rows sum to one."""
    scale = wanted / length
    shrink = min(scale, 1)                                                 # when shrinking, the kernel is as much wider
    reach = 2 / shrink
    centre = (np.arange(wanted) + 0.5) / scale - 0.5                       # in pixels of the source
    index = np.floor(centre - reach)[:, None].astype(int) + np.arange(math.ceil(2 * reach) + 2)
    weight = cubic(shrink * (centre[:, None] - index))
    index = index % (2 * length)                                           # mirrored: .. 1 0 0 1 .. n-1 n-1 ..
    weights = np.zeros((wanted, length))
    np.add.at(weights, (np.arange(wanted)[:, None], np.minimum(index, 2 * length - 1 - index)), weight / weight.sum(1, keepdims=True))
    return weights


def cubic(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel, a = -0.5."""
    x = np.abs(x)
    return np.where(x <= 1, 1.5 * x ** 3 - 2.5 * x ** 2 + 1, np.where(x <= 2, -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2, 0))


def move_fixations(fixations: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Move a fixation map to (H, W) point by point: each fixated pixel goes to the pixel its centre falls into.

    No fixation is lost and none invented; two that fall into one pixel are one in a bool map.
    """
    row, column = np.nonzero(fixations)
    moved = np.zeros(size, dtype=bool)
    moved[(2 * row + 1) * size[0] // (2 * fixations.shape[0]), (2 * column + 1) * size[1] // (2 * fixations.shape[1])] = True
    return moved


# Clips

class ClipDataset(Dataset):
    """Clips with the density and fixation map of their last frame.

    Item (epoch, index) is a function of (seed, epoch, index) alone, so an interrupted run can be continued without
    any state of the loader. A clip of 32 frames decodes 32 frames, one density map and one fixation map.

    Args:
        videos: of `find_videos`, each with an annotated frame.
        prepare: frame (H, W, 3) uint8 -> (3, h, w) uint8; a model's `prepare`.
        clip_len: frames of a clip; at the start of a video the first frame is repeated in front.
        frame_stride: frames of the video from one frame of a clip to the next.
        size: (H, W) of the maps; None leaves each as it is on disk (batches of 1 then).
        every: None for one random clip per video and epoch (training); a number for all clips that end `every` frames
            apart, the first at frame `clip_len` (validation).
        flip: mirror half of the clips, annotation and all.
        skip_bad: whether `readable` leaves unreadable clips out instead of stopping.
        cache: prepared frames on disk, made by the same `prepare`; videos that it does not hold are decoded.
        flow: pictures of the frames' optical flow, `optical_flow.FlowSource`; then items have "flow" too, prepared as frames are.
        masks: whether annotation is masks of salient objects instead of density and fixation maps.
        group: batches are filled up to multiples of this, with their own samples once more.
    """

    def __init__(self, videos: list[Video], prepare: Callable[[np.ndarray], Tensor], clip_len: int = 32, frame_stride: int = 1,
                 size: tuple[int, int] | None = None, every: int | None = None, flip: bool = False, seed: int = 0, skip_bad: bool = False,
                 cache: "FrameCache | None" = None, flow=None, masks: bool = False, group: int = 1) -> None:
        if flip and flow is not None:
            raise ValueError("clips with pictures of optical flow cannot be mirrored (--flip): turned around, the picture is one of another flow")
        self.videos, self.prepare, self.size, self.seed, self.cache = videos, prepare, size, seed, cache
        self.flow, self.masks, self.group = flow, masks, group
        self.clip_len, self.frame_stride, self.flip, self.skip_bad = clip_len, frame_stride, flip, skip_bad
        self.reading: Reading | None = None                                # of the loader's processes, if it has any
        self.span = (clip_len - 1) * frame_stride + 1                      # frames of the video that a clip covers
        # (video, index of a possible last frame): all of a video's in training, one an item in validation.
        self.items = [(video, ends) for video in videos for ends in self.last_frames(video, every)]

    def last_frames(self, video: Video, every: int | None) -> list[list[int]]:
        """The possible last frames of each of a video's items: whole clips where there are any."""
        annotated = video.masked() if self.masks else video.annotated()
        if every is None:
            return [[i for i in annotated if i >= self.span - 1] or annotated[-1:]]
        chosen = set(range(self.span - 1, len(video.frames), every))
        return [[i] for i in annotated if i in chosen] or [annotated[-1:]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """One sample.

        Args:
            key: (epoch, index).

        Returns:
            clip (3, clip_len, h, w) uint8, for the model's `normalise`, flow of the same shape if wanted, density (H, W) float32 in [0, 1],
            fixations (H, W) bool, video and frame: names. With `masks`, density is the mask and there are no fixations.
            Of a video with density maps alone, no pixel is fixated.
            Where a file cannot be read, {"skipped": why}: an error raised here would lose its type on the way from a
            loader process. `readable` raises it.
        """
        epoch, index = key
        draw = np.random.default_rng((self.seed, epoch, index))
        video, ends = self.items[index]
        last, mirrored = int(draw.choice(ends)), self.flip and draw.random() < 0.5
        try:
            return self.sample(video, last, mirrored)
        except (OSError, ValueError) as error:
            return {"skipped": str(error)}

    def read(self, reader: Callable[[Path], np.ndarray], path: Path) -> np.ndarray:
        """What `reader` makes of a file, whose name stands in `reading` meanwhile: it may be what kills a loader process."""
        if self.reading is not None:
            self.reading.note(path)
        return reader(path)

    def sample(self, video: Video, last: int, mirrored: bool) -> dict:
        """The clip that ends at frame `last` (an index), with that frame's maps."""
        indices = [max(0, last - back * self.frame_stride) for back in reversed(range(self.clip_len))]
        tensors = {"clip": self.frames(video, indices), **self.maps(video, last)}
        if self.flow is not None:
            pictures = self.flow.pictures(video.frames)
            tensors["flow"] = torch.stack([self.prepare(pictures[i]) for i in indices], dim=1)
        return {**flipped(tensors, mirrored), "video": video.name, "frame": video.frames[last].stem}

    def frames(self, video: Video, indices: list[int]) -> Tensor:
        """The prepared frames of these indices, (3, len(indices), h, w) uint8."""
        if self.cache and self.cache.holds(video):
            return self.cache.clip(video, indices)
        return decoded_clip(video, indices, lambda path: self.prepare(self.read(read_frame, path)))

    def maps(self, video: Video, index: int) -> dict[str, Tensor]:
        """Density and fixations of a frame, both (H, W); or its mask, as the density."""
        stem = video.frames[index].stem
        if self.masks:
            mask = self.read(read_mask, video.masks[stem])
            return {"density": torch.from_numpy(mask if self.size is None else resize_mask(mask, self.size)).float() / 255}
        density = self.read(read_density, video.maps[stem])
        if video.fixations:
            fixations = self.read(functools.partial(read_fixations, like=video.maps[stem]), video.fixations[stem])
            check_same_size(density, fixations, video, stem)
        else:
            fixations = np.zeros(density.shape, dtype=bool)                # NSS is undefined there, and left out
        if self.size is not None:
            density, fixations = resize_density(density, self.size), move_fixations(fixations, self.size)
        return {"density": torch.from_numpy(density), "fixations": torch.from_numpy(fixations)}

    def batches(self, batch_size: int, shuffle: bool) -> "EpochBatches":
        """The sampler of this process's share."""
        return EpochBatches(len(self), batch_size, shuffle, self.seed, utils.rank(), utils.world_size())

    def collate(self, samples: list[dict]) -> dict:
        """Stack samples to a batch; "skipped" lists why others were left out, and a batch may hold nothing else."""
        good = [sample for sample in samples if "skipped" not in sample]
        good = [good[i % len(good)] for i in range(len(good) + -len(good) % self.group)]
        batch = default_collate(good) if good else {}
        return {**batch, "skipped": [sample["skipped"] for sample in samples if "skipped" in sample]}


class VideoClips(ClipDataset):
    """All frames of each video up to its last annotated one, in clips to be taken one after the other, with the maps of every annotated frame.

    For training networks that carry a state from clip to clip. Whether a video is mirrored is a function of (seed, epoch, video)
    alone, and the same for all its clips.

    Args:
        videos, prepare, clip_len, size, flip, seed, skip_bad, cache: as of `ClipDataset`; a video's last clip may be shorter.
    """

    def __init__(self, videos: list[Video], prepare: Callable[[np.ndarray], Tensor], clip_len: int, size: tuple[int, int], **others) -> None:
        super().__init__(videos, prepare, clip_len, size=size, **others)
        self.items = [(number, first) for number, video in enumerate(videos) for first in range(0, video.annotated()[-1] + 1, clip_len)]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """One clip.

        Args:
            key: (epoch, index).

        Returns:
            clip (3, T, h, w) uint8 with T up to `clip_len`; annotated (T,) bool, which of its frames are; density (A, H, W)
            float32 in [0, 1] and fixations (A, H, W) bool of those; video and frame: a name for each of those; number: the video's;
            first: the clip's first frame (an index).
            Where a file cannot be read, {"skipped": why}, as of `ClipDataset`.
        """
        epoch, index = key
        number, first = self.items[index]
        mirrored = self.flip and np.random.default_rng((self.seed, epoch, number)).random() < 0.5
        try:
            return {**self.sample(self.videos[number], first, mirrored), "number": number, "first": first}
        except (OSError, ValueError) as error:
            return {"skipped": str(error)}

    def sample(self, video: Video, first: int, mirrored: bool) -> dict:
        """The clip that begins at frame `first` (an index)."""
        indices = range(first, min(first + self.clip_len, len(video.frames)))
        annotated = [i for i in indices if video.is_annotated(i)]
        maps = [self.maps(video, i) for i in annotated]
        none = {"density": torch.zeros(0, *self.size), "fixations": torch.zeros(0, *self.size, dtype=torch.bool)}
        stacked = {name: torch.stack([each[name] for each in maps]) if maps else none[name] for name in none}
        tensors = flipped({"clip": self.frames(video, list(indices)), **stacked}, mirrored)
        return {**tensors, "annotated": torch.tensor([i in annotated for i in indices]),
                "video": [video.name] * len(annotated), "frame": [video.frames[i].stem for i in annotated]}

    def batches(self, batch_size: int, shuffle: bool) -> "VideoBatches":
        """The sampler of this process's videos; a batch is one clip."""
        if batch_size != 1:
            raise ValueError(f"a batch must be 1 clip where a state is carried from clip to clip of a video, got {batch_size}: leave --batch-size "
                             "at 1, and make steps of several clips with --accumulate")
        starts = [index for index, (_, first) in enumerate(self.items) if first == 0]
        clips = [list(range(start, end)) for start, end in itertools.pairwise([*starts, len(self.items)])]
        return VideoBatches(clips, shuffle, self.seed, utils.rank(), utils.world_size())

    def collate(self, samples: list[dict]) -> dict:
        """A batch of one clip, (1, 3, T, h, w), its maps as they are; or of none, and "skipped" lists why."""
        clips = [{**sample, "clip": sample["clip"][None]} for sample in samples if "skipped" not in sample]
        return {**(clips[0] if clips else {}), "skipped": [sample["skipped"] for sample in samples if "skipped" in sample]}


def flipped(tensors: dict[str, Tensor], mirrored: bool) -> dict[str, Tensor]:
    """Clip and maps, left to right if `mirrored`."""
    return {name: t.flip(-1) for name, t in tensors.items()} if mirrored else tensors


def decoded_clip(video: Video, indices: list[int], read: Callable[[Path], Tensor]) -> Tensor:
    """The clip of these frames, (3, len(indices), h, w) uint8; each is read, and brought to size, once."""
    prepared = {i: read(video.frames[i]) for i in sorted(set(indices))}
    return torch.stack([prepared[i] for i in indices], dim=1)


def check_same_size(density: np.ndarray, fixations: np.ndarray, video: Video, stem: str) -> None:
    """Raise a ValueError where the two maps of a frame differ in size."""
    if density.shape != fixations.shape:
        raise ValueError(f"density and fixation map of frame {stem} of video {video.name} differ in size: {video.maps[stem]} is "
                         f"{density.shape[0]} x {density.shape[1]}, {video.fixations[stem]} is {fixations.shape[0]} x {fixations.shape[1]} (H x W)")


class EpochBatches(Sampler):
    """Yields batches, lists of (epoch, index): shuffled by (seed, epoch) in training, in order in validation.

    Several processes take `batch_size` items each of every batch: together they see each item once, in as many batches. Of a
    last batch that is too small for all, some get fewer, or an empty list.
    Set `epoch` before each pass, and `start` to the number of batches that an interrupted pass had already used.
    """

    def __init__(self, length: int, batch_size: int, shuffle: bool, seed: int = 0, process: int = 0, processes: int = 1) -> None:
        self.length, self.shuffle, self.seed, self.process, self.processes = length, shuffle, seed, process, processes
        self.together = batch_size * processes
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length) if self.shuffle else range(self.length)
        for first in range(self.start * self.together, self.length, self.together):
            yield [(self.epoch, int(index)) for index in order[first:first + self.together][self.process::self.processes]]

    def __len__(self) -> int:
        return -(-self.length // self.together) - self.start


class VideoBatches(Sampler):
    """Yields the clips of a video one after the other, [(epoch, index)], and videos in an order of (seed, epoch).

    Each video is taken by the process that has the fewest clips so far. Processes that run out of clips get empty lists, so that
    all have as many. `epoch` and `start` are as of `EpochBatches`.

    Args:
        clips: of each video the indices of its clips.
        shuffle: whether to shuffle the videos.
    """

    def __init__(self, clips: list[list[int]], shuffle: bool, seed: int = 0, process: int = 0, processes: int = 1) -> None:
        self.clips, self.shuffle, self.seed, self.process, self.processes = clips, shuffle, seed, process, processes
        self.epoch = self.start = 0

    def shares(self) -> list[list[int]]:
        """The clips of each process in this epoch."""
        number = len(self.clips)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(number) if self.shuffle else range(number)
        shares = [[] for _ in range(self.processes)]
        for video in order:
            min(shares, key=len).extend(self.clips[video])
        return shares

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        shares = self.shares()
        own = shares[self.process]
        for position in range(self.start, max(map(len, shares))):
            yield [(self.epoch, index) for index in own[position:position + 1]]

    def __len__(self) -> int:
        return max(map(len, self.shares())) - self.start


def clip_loader(dataset: ClipDataset, batch_size: int, workers: int, shuffle: bool) -> DataLoader:
    """A loader of this process's share of each batch; its batch sampler is the dataset's."""
    batches = dataset.batches(batch_size, shuffle)
    dataset.reading = Reading(workers) if workers else None
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=dataset.collate, pin_memory=torch.cuda.is_available(),
                      persistent_workers=workers > 0, prefetch_factor=4 if workers else None, worker_init_fn=start_worker,
                      generator=torch.Generator())                         # else each pass would draw from training's random numbers


def start_worker(worker: int) -> None:
    """Loader processes share the cores, so OpenCV gets one thread in each; and how a run stops is the main process's to say."""
    cv2.setNumThreads(0)
    reading = get_worker_info().dataset.reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *unused: os._exit(0) if reading.over.item() else None)  # a scheduler sends it to all, Python in the end
    reading.begin()


class Reading:
    """What each loader process reads at the moment, in memory that outlives it.

    Args:
        workers: their number.
    """

    def __init__(self, workers: int) -> None:
        self.processes = torch.zeros(workers, dtype=torch.int64).share_memory_()
        self.paths = torch.zeros(workers, 4096, dtype=torch.uint8).share_memory_()
        self.over = torch.zeros((), dtype=torch.bool).share_memory_()      # whether the main process needs them no more

    def begin(self) -> None:
        """Called in a loader process when it starts."""
        self.processes[get_worker_info().id] = os.getpid()

    def note(self, path: Path) -> None:
        """Called in a loader process before it reads a file."""
        name = os.fsencode(path)[:4095] + b"\0"
        self.paths[get_worker_info().id, :len(name)] = torch.frombuffer(bytearray(name), dtype=torch.uint8)

    def of(self, process: int) -> str:
        """The file that a loader process read last; empty if it read none."""
        return next((os.fsdecode(bytes(path.tolist()).partition(b"\0")[0]) for number, path in zip(self.processes.tolist(), self.paths)
                     if number == process), "")


@contextlib.contextmanager
def naming_deaths(*loaders: DataLoader) -> Iterator[None]:
    """Turn the RuntimeError about a loader process that died, which may come at any moment, into a ChildProcessError with its file.

    After the block, however it ends, loader processes may be ended.
    """
    try:
        yield
    except RuntimeError as error:
        died = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
        if not died:
            raise
        read = [loader.dataset.reading.of(int(process)) for loader in loaders if loader.dataset.reading for process in died[1].split(",")]
        raise ChildProcessError(f"a loader process died while it read {' and '.join(filter(None, read)) or 'its first file'}: {error}. "
                                "Is that file damaged, or did memory run out (fewer --workers)?") from error
    finally:
        for reading in filter(None, (loader.dataset.reading for loader in loaders)):
            reading.over.fill_(True)


def readable(loader: DataLoader) -> Iterator[dict]:
    """The batches of a `clip_loader`; the first unreadable clip is a ValueError unless its dataset says `skip_bad`."""
    for batch in loader:
        if batch["skipped"] and not loader.dataset.skip_bad:
            raise ValueError(f"{batch['skipped'][0]}. To go on without such clips: --skip-bad")
        yield batch


# Prepared frames on disk

class FrameCache:
    """Frames at the network's size, one memory-mapped file (T, 3, h, w) uint8 a video: the same tensors as decoding gives, sooner.

    A file's name holds a digest of the names, sizes and times of change of the video's frames and of how they are read, and its
    folder's one of what `prepare` does to a test picture. So a file for other sources, or for another network, is never taken; it is made anew.

    Args:
        folder: holds the caches of any number of datasets and sizes; it may be deleted at any time between runs.
        prepare: frame (H, W, 3) uint8 -> (3, h, w) uint8; a model's `prepare`.
    """

    def __init__(self, folder: Path, prepare: Callable[[np.ndarray], Tensor]) -> None:
        prepared = prepare(np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)).numpy()
        self.prepare, self.shape = prepare, prepared.shape
        self.folder = folder / f"{prepared.shape[1]}x{prepared.shape[2]}-{digest(prepared.tobytes())}"
        self.files = {}                                                    # a video's first frame -> file; several videos may share a folder

    def holds(self, video: Video) -> bool:
        """Whether `build` has been asked for this video, and could read it."""
        return video.frames[0] in self.files

    def clip(self, video: Video, indices: list[int]) -> Tensor:
        """The clip of these frames, (3, len(indices), h, w) uint8."""
        frames = np.load(self.files[video.frames[0]], mmap_mode="r")
        return torch.from_numpy(frames[indices]).transpose(0, 1).contiguous()

    def build(self, videos: list[Video], workers: int = 4, skip_bad: bool = False) -> None:
        """Write the files that are not there or no longer true, with a progress bar.

        Interrupted at any time, it leaves whole files only, and the next call goes on with the others.

        Args:
            videos: to hold.
            workers: threads that decode.
            skip_bad: leave out videos with an unreadable frame instead of stopping: their clips are decoded, and skipped one by one.

        Raises:
            OSError: they do not fit the disk, or it cannot be written to.
            ValueError: a frame cannot be read.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"the folder for prepared frames (--cache) cannot be made: {error.strerror}", str(self.folder)) from error
        utils.remove_leftovers(self.folder, ["*"], older_than=3600)        # of an hour ago: others may be preparing
        missing = []
        for first, video in {video.frames[0]: video for video in videos}.items():
            with leaving_out(video, skip_bad):
                file = self.folder / f"{self.prefix(video)}{state_digest(video.frames)}.npy"
                if self.is_whole(file, video):
                    self.files[first] = file
                else:
                    missing.append((first, video, file))
        self.check_space([video for _, video, _ in missing])
        total = sum(len(video.frames) for _, video, _ in missing)
        with tqdm(desc=f"preparing frames in {self.folder}", total=total, unit="frame", disable=None) as bar:
            for first, video, file in missing:
                with leaving_out(video, skip_bad):
                    self.write(video, file, workers, bar)
                    self.files[first] = file

    def prefix(self, video: Video) -> str:
        """What the names of a video's files begin with, whatever state its frames are in: its name, and where it lies."""
        name = os.fsencode(video.name)[:150].decode(errors="ignore")       # a file's name may have 255 bytes
        return f"{name}-{digest(os.fsencode(video.frames[0].parent.resolve()))}-"

    def is_whole(self, file: Path, video: Video) -> bool:
        """Whether a video's file is there, with the beginning and the length it should have."""
        header = self.header(video)
        if not file.is_file() or file.stat().st_size != len(header) + self.bytes_of(video):
            return False
        with file.open("rb") as content:
            return content.read(len(header)) == header

    def bytes_of(self, video: Video) -> int:
        return len(video.frames) * math.prod(self.shape)

    def header(self, video: Video) -> bytes:
        """What a .npy file begins with."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (len(video.frames), *self.shape)})
        return header.getvalue()

    def check_space(self, videos: list[Video]) -> None:
        """Say how much these videos need; an OSError if that is not there."""
        needed, free = sum(map(self.bytes_of, videos)), shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed for prepared frames, {free / 1e6:.0f} MB are free", str(self.folder))
        if videos:
            print(f"{self.folder}: {needed / 1e6:.0f} MB of prepared frames to write, {len(videos)} videos")

    def write(self, video: Video, file: Path, workers: int, bar: tqdm) -> None:
        """Decode a video into its file, frame by frame (into a mapped one, a full disk would be a crash)."""
        with utils.atomic_path(file) as temporary, temporary.open("wb") as out:
            out.write(self.header(video))
            for frame in in_threads(lambda path: self.prepare(read_frame(path)), video.frames, workers):
                if frame.shape != self.shape:
                    raise RuntimeError(f"prepare gave a frame of shape {tuple(frame.shape)}, expected {self.shape} for frames of any size")
                out.write(frame.numpy().tobytes())
                bar.update()
            utils.to_disk(out)
        for older in set(self.folder.glob(f"{glob.escape(self.prefix(video))}*.npy")) - {file}:
            older.unlink(missing_ok=True)


@contextlib.contextmanager
def leaving_out(video: Video, skip_bad: bool) -> Iterator[None]:
    """Leave a video that cannot be read out of the cache, and say so; or stop, and say how not to."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if not skip_bad:
            raise ValueError(f"{error}. To go on without the clips it is in: --skip-bad") from error
        tqdm.write(f"not prepared, its clips will be decoded: video {video.name}: {error}")


def digest(content: bytes) -> str:
    """Twelve characters that stand for some bytes."""
    return hashlib.sha256(content).hexdigest()[:12]


def state_digest(frames: Iterable[Path], *made_by: str) -> str:
    """Twelve characters that stand for the state of some frames, names, sizes and times of change, and for how they are read.

    Args:
        frames: image files.
        made_by: what else the thing that is kept depends on, such as weights.
    """
    stated = [(path.name, path.stat()) for path in frames]
    lines = [f"reading {READING}", *made_by, *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stated)]
    return digest("\n".join(lines).encode())


# Checking a dataset: python dataloader.py check

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


def splits_of(root: Path, numbers: dict[str, range]) -> list[str]:
    """The splits of a dataset: folders, else lists, else the parts that `numbers` divides its videos into, else "all"."""
    try:
        found = bases(root)
    except ValueError:                                                     # two videos have one name, as find_places will say
        return ["all"]
    if found != [root]:
        splits = {base.relative_to(root).as_posix() for base in found}
        return natural(splits | {folder.name for folder in folders_in(root) if is_split(folder)}) or ["all"]
    places = places_in(root)
    usual = [name for name in sorted(set().union(*SAME_SPLIT)) if any((root / file.format(name)).is_file() for file in LISTS)]
    sets = sets_of(places)
    if len(sets) > 1:
        return usual + sets
    present = {int(place.name) if place.name.isdecimal() else None for place in places}
    parts = [name for name, part in numbers.items() if not present.isdisjoint(part)]
    divided = present <= {number for part in numbers.values() for number in part}
    return usual or (parts if divided else ["all"])


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


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    check = parser.add_subparsers(required=True, metavar="check").add_parser(
        "check", allow_abbrev=False, help="read a dataset, and report everything that is wrong",
        description="Reads a dataset and reports everything that is wrong: " + "; ".join(f"{kind} ({what})" for kind, what in PROBLEMS.items())
                    + ". Errors are what training or scoring would stop at, warnings the rest. Exit code 0 where it can be trained on, 1 where "
                      "training would fail, 2 where there is no such folder, or no such --split.")
    check.add_argument("path", type=Path, metavar="PATH", help="the dataset's folder")
    check.add_argument("--dataset", choices=list(DATASETS), default="dhf1k",
                       help="what train.py would be told: whose splits must be there (default: dhf1k)")
    check.add_argument("--split", help="check this one only: a folder, a list, numbers such as 601-700, or all (default: every split that there is, "
                                       "and whether those that training needs are there)")
    check.add_argument("--json", action="store_true", help="print the report as JSON (default: lines for people)")
    return parser


def main(args: argparse.Namespace) -> int:
    known = DATASETS[args.dataset]
    report = check_dataset(args.path, args.split, known.numbers, (known.train, known.val))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print_check(report)
    return 0 if report["trainable"] else 1


if __name__ == "__main__":
    parser = arguments()
    try:
        parser.exit(main(parser.parse_args()))
    except (OSError, ValueError) as error:
        parser.exit(2, f"dataloader.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "dataloader.py: interrupted\n")
