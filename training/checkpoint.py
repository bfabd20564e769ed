"""last.pt as it is read: brought up to date, and refused where it is damaged or belongs to another run."""
import json
import math
from pathlib import Path

from torch import Tensor

import utils
from saliency_model import Carried, SaliencyModel, map_state
from training.progress import Progress, check_kinds
from weights import describe, read_checkpoint


def read_last(path: Path) -> dict:
    """Read a last.pt, also one that an earlier version wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a last.pt, or damaged; the message names the part.
    """
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: {path} does not exist; start the run without --resume")
    stored = read_checkpoint(path)
    needed = {"model", "optimizer", "random", "recipe", "configuration", "epoch", "best_cc", "progress"}
    if not isinstance(stored, dict) or not needed <= stored.keys():
        raise ValueError(f"{path} is not a last.pt of train.py: expected {sorted(needed)}, got {describe(stored)}")
    stored = up_to_date(stored)
    kinds = {"model": dict, "optimizer": dict, "recipe": dict, "configuration": dict, "epoch": int,
             "best_cc": (float, type(None)), "progress": (dict, type(None)), "steps": int, "carried": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(stored[name], kind)]
    wrong += [name for name in ("recipe", "configuration") if not wrong and not is_plain(stored[name])]
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} is not what train.py writes")
    Progress.check(stored["progress"], stored["carried"], path)
    if not all(is_state(carried["state"]) for carried in stored["carried"]):
        raise ValueError(f"{path}, carried is damaged: its state does not consist of floating-point tensors")
    numbers = {name: stored[name] or 0 for name in ("epoch", "best_cc", "steps")}
    numbers |= {name: value for name, value in (stored["progress"] or {}).items() if isinstance(value, (int, float))}
    wrong = [name for name, value in numbers.items() if math.isnan(value) or (value < 0 and name != "best_cc")]
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} cannot be {numbers[wrong[0]]}")
    for state in stored["random"]:
        state = {**state, "cuda": []} if isinstance(state, dict) else state  # another machine has other GPUs
        check_kinds(state, {**utils.random_state(), "cuda": []}, f"{path}, random")
    for name in ("random", "carried"):
        if len(stored[name]) != stored["recipe"]["processes"]:
            raise ValueError(f"{path} is damaged: it holds {len(stored[name])} {name} states of "
                             f"{stored['recipe']['processes']} processes")
    return stored


def up_to_date(stored: dict) -> dict:
    """The content of a last.pt with what earlier versions did not write."""
    random = stored["random"] if isinstance(stored["random"], list) else [stored["random"]]
    stored = {"steps": 0, **stored, "random": random}
    stored = {"carried": [vars(Carried())] * len(stored["random"]), **stored}
    if isinstance(stored["progress"], dict):
        stored["progress"] = {"steps": stored["steps"], "carried": None, **stored["progress"]}
    if isinstance(stored["recipe"], dict):
        weights = stored["recipe"].get("objective")
        terms = {"objective": {"bce": 0.0, **weights}} if isinstance(weights, dict) else {}
        stored["recipe"] = {"processes": 1, "warmup": 0, "zoom": 0.0, "thaw": False, **stored["recipe"], **terms}
    return stored


def is_plain(content) -> bool:
    """Whether it is a dict of nothing but what JSON can hold."""
    try:
        return isinstance(content, dict) and json.dumps(content) is not None
    except (TypeError, ValueError, RecursionError):
        return False


def check_recipe(stored: dict, given: dict) -> None:
    """Raise a ValueError that names every value in which the two differ; what a run started from no longer matters."""
    compared = stored.keys() - {"weights", "encoder_weights"}  # an earlier version may lack some
    changed = [f"{name} was {stored[name]}, is {value}" for name, value in given.items()
               if name in compared and stored[name] != value]
    if changed:
        raise ValueError(f"--resume continues a run exactly, but {'; '.join(changed)}. Give the same options, or start "
                         "another run in another --run-dir")


def check_carried(state, model: SaliencyModel, source: Path) -> None:
    """Raise a ValueError if the state that a run carried from clip to clip does not fit its network."""
    if state is None:
        return
    found, needed = map_state(lambda t: tuple(t.shape), state), model.state_shapes()
    if found != needed:
        raise ValueError(f"{source} is damaged: it carries a state of shapes {found} from clip to clip, "
                         f"{type(model).__name__} one of {needed}")


def is_state(content) -> bool:
    """Whether it is None, a tensor of floating-point numbers, or several of those."""
    if isinstance(content, (list, tuple)):
        return all(map(is_state, content))
    return content is None or (isinstance(content, Tensor) and content.is_floating_point())
