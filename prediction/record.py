"""VIDEO.json, the record of how a video's outputs were made.

With it an interrupted run is continued, and no file that predict.py did not write is replaced.
"""
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import utils
from prediction.outputs import OUTPUTS, output_path
from prediction.sources import Source


class Plan(NamedTuple):
    """How much of a video an earlier run has done.

    Attributes:
        done: number of maps that are kept; this run continues after them.
        complete: whether nothing is left to do.
    """
    done: int
    complete: bool = False


def plan(source: Source, out: Path, kinds: list[str], settings: dict, overwrite: bool, skip_existing: bool) -> Plan:
    """Find out how much an earlier run with the same settings has done.

    Args:
        source, out, kinds: the video, the folder, and the kinds of output that are asked for.
        settings: everything that the maps depend on.
        overwrite: ignore an earlier run's outputs.
        skip_existing: keep them, and continue after them.

    Raises:
        FileExistsError: outputs exist that no earlier run wrote, or neither `overwrite` nor `skip_existing` is set.
        ValueError: an earlier run had other settings.
    """
    path, stored = description(out, source.name), read_description(out, source.name)
    ours = stored["kinds"] if stored else []
    foreign = [file for kind in kinds if kind not in ours for file in files_of(out, source.name, kind)]
    if path.exists() and not stored:
        foreign.append(path)
    if foreign:
        raise FileExistsError(f"{foreign[0]} is there, and {path} does not say that this program wrote it: "
                              "move it away, or choose another --out")
    if overwrite or stored is None:
        return Plan(0)
    if not skip_existing:
        raise FileExistsError(f"{path} says that {source.name} was predicted already: --skip-existing keeps what is "
                              "there and goes on after it, --overwrite replaces it")
    earlier = stored["settings"]
    changed = [f"{name} was {earlier.get(name)}, is {value}"
               for name, value in settings.items() if earlier.get(name) != value]
    if changed:
        raise ValueError(f"{path}: {source.name} was predicted otherwise: {'; '.join(changed)}. "
                         "Give --overwrite, the same options as then, or another --out")
    present = maps_present(source, out, kinds, stored["frames"], settings["every"])
    # Interpolated maps depend on those before.
    return Plan(0) if settings["interpolate"] > 1 and not present.complete else present


def maps_present(source: Source, out: Path, kinds: list[str], frames: dict[str, float] | None, every: int) -> Plan:
    """Count the maps before the first missing one, as far as a run can continue after them.

    Args:
        source, out, kinds, every: what is asked for.
        frames: the names of all frames that have maps if an earlier run was finished, else None.
    """
    names = frames or itertools.islice(source.names(), 0, None, every)
    per_frame = [kind for kind in kinds if OUTPUTS[kind].per_frame]
    whole = [output_path(out, source.name, kind) for kind in kinds if not OUTPUTS[kind].per_frame]

    def is_there(name: str) -> bool:
        return all((output_path(out, source.name, kind) / f"{name}.{kind}").exists() for kind in per_frame)

    done = sum(1 for _ in itertools.takewhile(is_there, names)) if per_frame else 0
    if frames and all(path.exists() for path in whole) and (done == len(frames) or not per_frame):
        return Plan(len(frames), complete=True)
    return Plan(0 if whole else done)  # a file of all frames cannot be continued


def description(out: Path, name: str) -> Path:
    """The file that describes a video's outputs."""
    return out / f"{name}.json"


def read_description(out: Path, name: str) -> dict | None:
    """An earlier run's description of a video's outputs; None if there is none, or the file is another program's."""
    path = description(out, name)
    try:
        stored = utils.read_json(path) if path.exists() else {}
    except ValueError:
        return None
    kinds = stored.get("kinds")
    is_ours = (isinstance(stored.get("settings"), dict)
               and isinstance(kinds, list) and all(isinstance(kind, str) and kind in OUTPUTS for kind in kinds)
               and isinstance(stored.get("frames", ...), (dict, type(None))))  # null: the run was interrupted
    return stored if is_ours else None


def files_of(out: Path, name: str, kind: str) -> list[Path]:
    """A video's existing outputs of one kind."""
    path = output_path(out, name, kind)
    return sorted(path.glob(f"*.{kind}")) if OUTPUTS[kind].per_frame else [path] * path.exists()


def clear(out: Path, name: str) -> None:
    """Remove all outputs of a video that an earlier run wrote, as its description says."""
    stored = read_description(out, name)
    if stored:
        for file in [file for kind in stored["kinds"] for file in files_of(out, name, kind)]:
            file.unlink()
        description(out, name).unlink()


@contextlib.contextmanager
def described(out: Path, name: str, kinds: list[str], about: dict) -> Iterator[dict[str, float]]:
    """Describe a video's outputs while they are written, so that an interrupted run can be continued, and afterwards.

    Args:
        out: folder.
        name: the video's.
        kinds: of output that are written now; those of an earlier run are described too.
        about: what else the description says.

    Yields:
        A dict to fill with the time in seconds of each frame that has a map, by its name.
    """
    earlier = read_description(out, name)
    about = {**about, "kinds": sorted({*kinds, *(earlier["kinds"] if earlier else [])})}
    times = {}
    utils.write_json(description(out, name), {**about, "frames": None})
    try:
        yield times
    except BaseException:
        if not any(files_of(out, name, kind) for kind in about["kinds"]):
            description(out, name).unlink()  # nothing was written
        raise
    frames = {frame: round(seconds, 6) for frame, seconds in times.items()}
    utils.write_json(description(out, name), {**about, "frames": frames})


def check_names(sources: list[Source]) -> None:
    """Raise a ValueError where the outputs of two sources would have one name."""
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        same = [str(source.path) for source in sources if source.name == twice[0]]
        raise ValueError(f"several inputs are called {twice[0]}, their maps would be mixed: {same}. "
                         "Predict them into different --out folders")


def check_outputs(sources: list[Source], out: Path) -> None:
    """Raise a ValueError where outputs would replace an input, or be written among its frames."""
    inputs = {path.resolve(): source for source in sources for path in (source.path, source.path / "images")}
    for source in sources:
        for path in (description(out, source.name), *(output_path(out, source.name, kind) for kind in OUTPUTS)):
            if path.resolve() in inputs:
                raise ValueError(f"the outputs of {source.path} would be written over or into the input "
                                 f"{inputs[path.resolve()].path}: choose another --out")
