"""Datasets and their splits: which videos are asked for, by a folder, a list, numbers, or the name of a set."""
import re
from dataclasses import dataclass, field
from pathlib import Path

from videos.names import (
    by_name,
    files_in,
    folder_called,
    folders_in,
    natural,
    number_key,
    refuse_doubles,
)
from videos.trees import TREE, VideoFolders, places_in, recognise


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


def dataset_folder(dataset: str, data: Path | None) -> Path:
    """Where a dataset lies: --data if it is given."""
    folder = data or DATASETS[dataset].folder
    if folder is None:
        raise ValueError(f"--dataset {dataset} is a folder of your own: say which with --data FOLDER")
    return folder


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


def is_split(folder: Path) -> bool:
    """Whether a folder is called as splits usually are."""
    return any(folder.name in names for names in SAME_SPLIT)


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
