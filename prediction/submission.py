"""The maps of DHF1K's test set, packed for the benchmark's organisers."""
import zipfile
from pathlib import Path

from PIL import Image

import utils
from prediction.record import read_description

TEST_SET = [f"{number:04d}" for number in range(701, 1001)]


def check_test_set(names: list[str]) -> None:
    """Raise a ValueError unless the videos are those of the test set; DHF1K's own files have three digits, 701.AVI."""
    numbered = [f"{int(name):04d}" if name.isdecimal() else name for name in names]
    if sorted(numbered) != TEST_SET:
        missing, other = sorted(set(TEST_SET) - set(numbered)), sorted(set(numbered) - set(TEST_SET))
        raise ValueError("--submission needs the 300 videos 0701 to 1000 of DHF1K's test set, in folders or files of "
                         f"these names; missing: {len(missing)}, the first {missing[:3]}; not of the set: "
                         f"{len(other)}, the first {other[:3]}")


def pack_submission(out: Path, names: list[str], archive_path: Path, method: str) -> int:
    """Zip the maps as METHOD/VIDEO/FRAME.png, after checking names, counts and mode; returns the number of maps.

    Raises:
        ValueError: it is not the whole test set, or a video's maps are not one 8-bit PNG for each of its frames.
    """
    check_test_set(names)
    maps = [path for name in sorted(names, key=int) for path in checked_maps(out, name)]
    # Stored, not compressed: PNG is compressed already.
    with utils.atomic_path(archive_path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for path in maps:
            file.write(path, f"{method}/{int(path.parent.name):04d}/{path.name}")
    return len(maps)


def checked_maps(out: Path, name: str) -> list[Path]:
    """The maps of one video, from 0001.png to the number of its frames, each with one channel of 8 bits."""
    frames = (read_description(out, name) or {}).get("frames") or {}
    maps = sorted((out / name).glob("*.png"))
    expected = [f"{number:04d}" for number in range(1, len(frames) + 1)]
    if not frames or [path.stem for path in maps] != expected:
        first, last = (maps[0].name, maps[-1].name) if maps else ("none", "none")
        raise ValueError(f"video {name}: expected the maps 0001.png to {len(frames):04d}.png in {out / name}, "
                         f"one for each frame; there are {len(maps)}: {first} to {last}")
    for path in maps:
        with Image.open(path) as image:
            if image.mode != "L":
                raise ValueError(f"{path} must be an 8-bit grey picture, its mode is {image.mode}")
    return maps
