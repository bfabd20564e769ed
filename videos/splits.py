"""Datasets and their splits: which videos a folder, a list, numbers or the name of a set stand for."""
import re
from dataclasses import dataclass, field
from pathlib import Path

from utils import default_in_words
from videos.names import by_name, files_in, folder_called, folders_in, natural, number_key, refuse_duplicates
from videos.trees import TREE, VideoFolders, recognise, videos_below


@dataclass(frozen=True)
class DatasetInfo:
    """How a published dataset is divided.

    Attributes:
        folder: where it is unless --data says otherwise; None where --data must say.
        train, val, test: the splits to train on, to choose weights by, and to score.
        numbers: split -> the numbers of its videos, for trees that have no folder for each split.
        stages: stage of training -> the split to train on, where it is not `train`.
        shots: whether videos NAME_1, NAME_2 .. are shots of one film, which --hold-out keeps together.
        test_parts: the parts of `test` to score instead, each in a run of its own, where it is of several sets.
    """
    folder: Path | None
    train: str
    val: str
    test: str
    numbers: dict[str, range] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    shots: bool = False
    test_parts: tuple[str, ...] = ()

    def scored(self) -> tuple[str, ...]:
        """The splits to score, each in a run of its own."""
        return self.test_parts or (self.test,)


DATASETS = {
    "dhf1k": DatasetInfo(Path("data/DHF1K"), "train", "val", "val",
                         {"train": range(1, 601), "val": range(601, 701), "test": range(701, 1001)}),
    # The next four have no validation set: papers choose weights by the test set, and so do we, unless some of the
    # training set is held out.
    "hollywood2": DatasetInfo(Path("data/Hollywood-2"), "training", "testing", "testing", shots=True),
    "ucf-sports": DatasetInfo(Path("data/UCF-Sports"), "training", "testing", "testing"),
    "diem": DatasetInfo(Path("data/DIEM"), "train", "test", "test"),
    # Salient objects: masks, no fixations.
    "vsod": DatasetInfo(Path("data/VSOD"), "TrainSet_Video", "TestSet/DAVIS", "TestSet/DAVIS",
                        stages={"pretrain-rgb": "TrainSet_RGB"}),
    # Still images of three sets: averages over all would describe none of them. `val` is a part of `train`, `fit` the
    # rest.
    "gaze-images": DatasetInfo(Path("data/gaze"), "train", "val", "test",
                               test_parts=("osie-test", "eyecrowd-test", "sun500-test")),
    "folder": DatasetInfo(None, "train", "val", "val"),  # anybody's own, in any of the trees
}
DATASET_FOLDERS = ", ".join(f"{name} {info.folder}" for name, info in DATASETS.items() if info.folder)  # for --help

SAME_SPLIT = ({"train", "training"}, {"val", "valid", "validation"}, {"test", "testing"})
NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")  # a split by its videos' numbers: "601-700", or "601"
LISTS = ("{}.txt", "fold_lists/DIEM_list_{}_fps.txt")  # in a dataset's folder: a split's videos


def of_datasets(role: str) -> str:
    """The default of a flag in words: the datasets' own splits for a role, "train", "val" or "test"."""
    splits = {name: info.scored() if role == "test" else [getattr(info, role)] for name, info in DATASETS.items()}
    return default_in_words({name: " ".join(names) for name, names in splits.items()})


def dataset_folder(dataset: str, data: Path | None) -> Path:
    """The folder of a dataset: --data if it is given."""
    folder = data or DATASETS[dataset].folder
    if folder is None:
        raise ValueError(f"--dataset {dataset} is a folder of your own: say which with --data FOLDER")
    return folder


# The videos of a split

def find_video_folders(root: Path, split: str, numbers: dict[str, range] | None = None) -> list[VideoFolders]:
    """The folders of a split's videos, in natural order of their names, whatever the tree.

    Args:
        root: the dataset's folder.
        split: a folder below it, such as train or TestSet/DAVIS (train and training, val and validation, test and
            testing mean the same); or a list of names, SPLIT.txt below it or any path that ends in .txt; or numbers of
            videos, such as "601-700"; or one of the sets that a tree holds, such as Coutrot_db1 of STAViS; or a key of
            `numbers`; or "all".
        numbers: as in `DatasetInfo`.

    Returns:
        At least one.

    Raises:
        FileNotFoundError: there is no such dataset or split, or nothing in it.
        ValueError: two videos have the same name.
    """
    check_folder(root)
    folder = next((below for name in split_aliases(split) if (below := folder_called(root, name)).is_dir()), None)
    listed = split_list(root, split)
    if folder is not None and (recognise(folder) or not recognise(root)):  # a folder 601 may be a split, or a video
        videos = [video for base in bases_below(folder) or [folder] for video in videos_below(base)]
        refuse_duplicates(video.name for video in videos)
        return videos
    videos = all_video_folders(root)
    if videos and listed is not None:
        return listed_videos(videos, listed)
    written = NUMBERS.fullmatch(split)
    if written:
        wanted = range(int(written[1]), int(written[2] or written[1]) + 1)
    else:
        wanted = numbers.get(split, range(0)) if numbers and bases(root) == [root] else range(0)
    chosen = [v for v in videos if split in ("all", v.set) or (v.name.isdecimal() and int(v.name) in wanted)]
    if not chosen:
        raise FileNotFoundError(no_videos_message(root, split, videos))
    refuse_duplicates(video.name for video in chosen)
    return chosen


def all_video_folders(root: Path) -> list[VideoFolders]:
    """The folders of the videos of all splits of a dataset."""
    return [video for base in bases(root) for video in videos_below(base)]


def check_folder(root: Path) -> None:
    """Raise a FileNotFoundError where there is no such dataset."""
    if not root.is_dir():
        reason = "it is a file, unpack it" if root.exists() else "the folder does not exist"
        raise FileNotFoundError(f"no dataset {root}: {reason}. data/README.md says what may lie there; `python "
                                "data/prepare_dhf1k.py` prepares DHF1K, `python data/prepare_gaze.py` still images "
                                "with gaze, `python data/make_sample.py` makes a small set in data/sample (--kind "
                                "vsod: one of objects with masks, in data/vsod_sample)")


def split_aliases(split: str) -> tuple[str, ...]:
    """The usual names of a split, its own first."""
    return split, *sorted(next((names for names in SAME_SPLIT if split in names), set()) - {split})


def split_list(root: Path, split: str) -> Path | None:
    """The file that lists a split's videos, under any of the split's usual names; None where there is none."""
    if split.endswith(".txt"):
        files = [Path(split), root / split]
    else:
        files = [root / file.format(name) for name in split_aliases(split) for file in LISTS]
    file = next((path for path in files if path.is_file()), None)
    if file is None and split.endswith(".txt"):
        raise FileNotFoundError(f"no list {split}: there is no such file, neither here nor in {root}")
    return file


def listed_videos(videos: list[VideoFolders], file: Path) -> list[VideoFolders]:
    """The videos that a list names, one a line: the whole line, or its first word where other columns follow."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"the list {file} is not text in UTF-8: {error}") from error
    # The name of one of STAViS's lists begins with that of its set: Coutrot_db1_list_train_1_fps.txt.
    videos = [video for video in videos if video.set and file.name.startswith(f"{video.set}_")] or videos
    known = {number_key(video.name) for video in videos}
    names = [line if number_key(line) in known else line.split()[0] for line in lines]
    missing = [name for name in names if number_key(name) not in known]
    if missing or not names:
        reason = (f"{len(missing)} of which are not there, the first {missing[0]!r}" if missing else
                  "a name in each line was expected")
        raise FileNotFoundError(f"{file} lists {len(names)} videos: {reason}. There are {len(videos)}, "
                                f"{videos[0].name} to {videos[-1].name}")
    wanted = set(map(number_key, names))
    chosen = [video for video in videos if number_key(video.name) in wanted]
    refuse_duplicates(number_key(video.name) for video in chosen)
    return chosen


def no_videos_message(root: Path, split: str, videos: list[VideoFolders]) -> str:
    """Why a split has no videos, and what could be asked for instead; `videos` are those of all splits."""
    present = ", ".join(natural(p.name for p in root.iterdir() if not p.name.startswith("."))[:10]) or "nothing"
    if files_in(root / "video", {".avi"}):
        return (f"{root} is DHF1K as released, its videos not yet decoded: run `python data/prepare_dhf1k.py {root}`, "
                "and give the folder that it makes (data/DHF1K)")
    if not videos:
        return f"no videos in {root} (it holds {present}); {TREE}"
    numbered = ", \"601-700\" those with these numbers" if videos[0].name.isdecimal() else ""
    splits = ", ".join([base.relative_to(root).as_posix() for base in bases(root) if base != root] + sets_of(videos))
    others = f"Its splits are {splits}" if splits else "It is not divided into splits"
    above = f". Or give the folder above, {root.resolve().parent}" if is_split(root.resolve()) else ""
    reason = f"no folder of that name, and no list {split}.txt ({root} holds {present})"
    if NUMBERS.fullmatch(split):
        reason = f"no video has such a number, and {reason}"
    return (f"no split \"{split}\" in {root}: {reason}. {others}: give another, or the --dataset whose splits are "
            f"called so; \"all\" takes all {len(videos)} videos, {videos[0].name} to "
            f"{videos[-1].name}{numbered}{above}")


# The splits of a dataset

def bases(root: Path) -> list[Path]:
    """The folders in which trees begin: those of the dataset's splits, or its own, or any below it."""
    below = by_name(folders_in(root))
    splits = [folder for folder in below if is_split(folder) and recognise(folder)]
    return splits or ([root] if recognise(root) else [base for folder in below for base in bases_below(folder)])


def bases_below(folder: Path) -> list[Path]:
    """The folder, if a tree begins in it, or those in it in which a tree of masks does: TestSet/DAVIS, TestSet/FBMS."""
    if recognise(folder):
        return [folder]
    trees = {below: recognise(below) for below in by_name(folders_in(folder))}
    return [below for below, tree in trees.items() if tree and tree.masks]


def is_split(folder: Path) -> bool:
    """Whether a folder has the usual name of a split."""
    return any(folder.name in names for names in SAME_SPLIT)


def sets_of(videos: list[VideoFolders]) -> list[str]:
    """The sets that videos belong to, in a tree that holds several."""
    return natural({video.set for video in videos if video.set})


def splits_of(root: Path, numbers: dict[str, range]) -> list[str]:
    """The splits of a dataset: folders, else lists, else those that `numbers` divides its videos into, else "all"."""
    try:
        found = bases(root)
    except ValueError:  # two videos have one name, as reading says
        return ["all"]
    if found != [root]:
        splits = {base.relative_to(root).as_posix() for base in found}
        return natural(splits | {folder.name for folder in folders_in(root) if is_split(folder)}) or ["all"]
    videos = videos_below(root)
    listed = [name for name in sorted(set().union(*SAME_SPLIT))
              if any((root / file.format(name)).is_file() for file in LISTS)]
    sets = sets_of(videos)
    if len(sets) > 1:
        return listed + sets
    present = {int(video.name) if video.name.isdecimal() else None for video in videos}
    parts = [name for name, part in numbers.items() if not present.isdisjoint(part)]
    divided = present <= {number for part in numbers.values() for number in part}
    return listed or (parts if divided else ["all"])
