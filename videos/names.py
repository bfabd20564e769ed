"""Folders, files and their names: which count, which belong together, and in which order they come."""
import collections
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from videos.images import IMAGE_SUFFIXES

# Folders that are no data, in lower case; hidden ones are none either.
JUNK = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "#recycle", "#snapshot", "system volume information"}


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in no order; none where it does not exist.

    Hidden ones, unfinished ones (.partial) and `JUNK` do not count.
    """
    present = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return [p for p in present if not p.name.startswith(".") and p.suffix != ".partial" and p.name.lower() not in JUNK]


def folder_called(parent: Path, name: str) -> Path:
    """The folder of a name below another, whatever the Unicode form of its name on disk; it need not exist."""
    exact = parent / name
    if exact.is_dir():
        return exact
    return next((folder for folder in folders_in(parent) if one_form(folder.name) == one_form(name)), exact)


def files_in(folder: Path, suffixes: set[str]) -> list[Path]:
    """The files in a folder with one of the suffixes, in no order; none where it does not exist. Hidden ones do not count."""
    return [p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")] if folder.is_dir() else []


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, in no order; none where it does not exist."""
    return files_in(folder, IMAGE_SUFFIXES)


def one_form(name: str) -> str:
    """A name in the Unicode form in which names are compared, NFC: macOS stores letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def number_key(name: str) -> str:
    """What names have in common that differ in Unicode form, or in zeros before the number at their end: 1, 001."""
    return re.sub(r"(?<!\d)0+(?=\d+$)", "", one_form(name))


def frame_key(stem: str) -> str:
    """What the names of a frame and of its annotation have in common: DIEM has img_00001, eyeMap_00001 and fixMap_00001."""
    return number_key(re.sub(r"^(img|eyeMap|fixMap)_", "", stem))


def sequence_name(stem: str) -> str:
    """A frame's name without the number that it ends in: bear of bear_00012."""
    return re.sub(r"[ _.-]*\d+$", "", one_form(stem))


def natural_key(name: str) -> list:
    """Sorts frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def natural(names: Iterable[str]) -> list[str]:
    """Names in natural order."""
    return sorted(names, key=natural_key)


def by_name(folders: list[Path]) -> list[Path]:
    """Folders in natural order."""
    return sorted(folders, key=lambda folder: natural_key(folder.name))


def refuse_doubles(names: Iterable[str]) -> None:
    """Raise a ValueError where a video's name occurs twice: results are kept under it."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} videos share their name with another, such as {twice[0]}: choose a split, or rename one")
