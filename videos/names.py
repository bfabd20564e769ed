"""Folders, files and their names: which count, which belong together, and in which order they come."""
import collections
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from videos.images import IMAGE_SUFFIXES

# Folders that computers add and that hold no data, in lower case.
JUNK = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "#recycle", "#snapshot", "system volume information"}


# What is in a folder

def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in no order; none where it does not exist.

    Hidden ones, unfinished ones (.partial) and `JUNK` do not count.
    """
    present = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return [p for p in present if not p.name.startswith(".") and p.suffix != ".partial" and p.name.lower() not in JUNK]


def files_in(folder: Path, suffixes: set[str]) -> list[Path]:
    """The files in a folder with these suffixes, in no order, without hidden ones; none where it does not exist."""
    present = folder.iterdir() if folder.is_dir() else ()
    return [p for p in present if p.suffix.lower() in suffixes and not p.name.startswith(".")]


def images_in(folder: Path) -> list[Path]:
    """The images in a folder, in no order; none where it does not exist."""
    return files_in(folder, IMAGE_SUFFIXES)


def folder_called(parent: Path, name: str) -> Path:
    """The folder of this name below another, whatever the Unicode form of its name on disk; it need not exist."""
    exact = parent / name
    if exact.is_dir():
        return exact
    return next((folder for folder in folders_in(parent) if nfc(folder.name) == nfc(name)), exact)


# Names that belong together

def nfc(name: str) -> str:
    """A name in the Unicode form in which we compare names: macOS stores letters and their accents separately."""
    return unicodedata.normalize("NFC", name)


def number_key(name: str) -> str:
    """The same for names that differ only in Unicode form, or in zeros before the number at their end: 1, 001."""
    return re.sub(r"(?<!\d)0+(?=\d+$)", "", nfc(name))


def frame_key(stem: str) -> str:
    """The same for a frame and its annotation: DIEM has img_00001, eyeMap_00001 and fixMap_00001."""
    return number_key(re.sub(r"^(img|eyeMap|fixMap)_", "", stem))


def sequence_name(stem: str) -> str:
    """A frame's name without the number at its end: bear for bear_00012."""
    return re.sub(r"[ _.-]*\d+$", "", nfc(stem))


def refuse_duplicates(names: Iterable[str]) -> None:
    """Raise a ValueError where two videos have the same name: results are kept under it."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} videos share their name with another, such as {twice[0]}: "
                         "choose a split, or rename one")


# Natural order

def natural_key(name: str) -> list:
    """Sorts frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def natural(names: Iterable[str]) -> list[str]:
    """Names in natural order."""
    return sorted(names, key=natural_key)


def by_name(folders: list[Path]) -> list[Path]:
    """Folders in natural order of their names."""
    return sorted(folders, key=lambda folder: natural_key(folder.name))
