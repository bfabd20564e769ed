"""A training run and its folder: weights, last.pt, log, and run.json, which lists its launches."""
import json
import math
import os
import shlex
import shutil
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

import utils
from saliency_model import SaliencyModel
from training.checkpoint import check_carried, check_recipe
from training.optimizer import load_optimizer
from training.progress import Progress
from weights import load_entries


class Run:
    """A training run: the model, its optimiser, and where it stands; written to and read from `last.pt`.

    Args:
        model: to train; its class's name names the weight file.
        optimizer: over the model's parameters.
        folder: the run folder.
        recipe: plain values that the course of the run depends on; a resumed run must have the same.
        data: what it is trained on, for the description of its weights.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path, recipe: dict, data: dict) -> None:
        self.model, self.optimizer, self.folder, self.recipe, self.data = model, optimizer, folder, recipe, data
        self.epoch = self.steps = 0            # finished epochs, and their steps
        self.best_cc: float | None = None      # of the validations so far
        self.progress: Progress | None = None  # of the running epoch
        self.weights, self.last = run_files(folder, type(model))

    def save(self) -> None:
        """Write everything that resuming needs to last.pt; all processes must call this, the main one writes."""
        progress = self.progress and self.progress.combined().record()
        random = utils.all_gather(utils.random_state())
        carried = utils.all_gather((self.progress or Progress(0)).record_carried())
        if utils.is_main():
            utils.save_checkpoint({
                "model": dict(self.model.state_dict()), "optimizer": self.optimizer.state_dict(), "random": random,
                "recipe": self.recipe, "configuration": self.model.config, "epoch": self.epoch,
                "best_cc": self.best_cc, "progress": progress, "steps": self.steps, "carried": carried,
            }, self.last)

    def restore(self, stored: dict) -> None:
        """Continue from what `read_last` read."""
        check_recipe(stored["recipe"], self.recipe)
        self.recipe = stored["recipe"]
        load_entries(self.model, stored["model"], str(self.last))
        load_optimizer(self.optimizer, stored["optimizer"], self.last)
        utils.set_random_state(stored["random"][utils.rank()])
        self.epoch, self.best_cc, self.steps = stored["epoch"], stored["best_cc"], stored["steps"]
        carried = stored["carried"][utils.rank()]
        check_carried(carried["state"], self.model, self.last)
        if utils.is_main():
            trim_log(self.folder / "log.jsonl", self.epoch)
        if stored["progress"]:
            self.progress = Progress.restored(stored["progress"], carried)

    def keep_weights(self, scores: dict | None) -> None:
        """Write the present weights as the run's result, and their description beside them (main process only)."""
        if not utils.is_main():
            return
        samples, apart = "frames" if self.model.clip_len == 1 else "clips", self.model.validated_every
        protocol = f"{samples} {apart} frames apart, full resolution, finished as for scoring, mean over clips"
        utils.save_checkpoint(dict(self.model.state_dict()), self.weights)
        utils.write_json(self.weights.with_suffix(".json"), {
            "model": type(self.model).__name__, "configuration": self.model.config, "epoch": self.epoch,
            "validation": scores, "protocol": protocol if scores else None, "data": self.data, "recipe": self.recipe,
            "device": next(self.model.parameters()).device.type, "revision": utils.revision(),
            "versions": utils.versions(),
        })

    def consider(self, scores: dict) -> None:
        """Keep the weights if their mean CC is the best so far; an undefined CC is only better than no validation."""
        value = -math.inf if math.isnan(scores["cc"]) else scores["cc"]
        if self.best_cc is None or value > self.best_cc:
            self.best_cc = value
            self.keep_weights(scores)


def run_files(folder: Path, model_class: type) -> tuple[Path, Path]:
    """A run's best weights, and the state that it resumes from."""
    return folder / f"{model_class.__name__}.pth", folder / "last.pt"


def place_of_run(folder: Path, model_class: type[SaliencyModel],
                 asked: str | None) -> tuple[str | None, Path, dict[str, Path]]:
    """The stage, and the folder, of a run whose network may be trained in stages.

    Args:
        folder: the last stage's; the other stages have folders in it.
        asked: a stage; by default the last one.

    Returns:
        The stage, None for networks without stages; its run folder; and if it is the last one, the weight files of the
        stages before, by their names.
    """
    if asked and asked not in model_class.stages:
        raise ValueError(f"--train-type {asked} is for networks that are trained in stages: {model_class.__name__} is "
                         "not")
    *before, last = model_class.stages or [None]
    if (asked or last) != last:
        return asked, folder / asked, {}
    return last, folder, {stage: run_files(folder / stage, model_class)[0] for stage in before}


def clear_run(folder: Path) -> None:
    """Remove what an earlier run would mix into a new one: its log, its curves, and the state to resume.

    Its weights stay until the first ones of the new run replace them.
    """
    for name in ("last.pt", "log.jsonl", "run.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def trim_log(path: Path, epoch: int) -> None:
    """Remove from a log what a killed run wrote after its last.pt: epochs that are trained again, and half a line."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    try:
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] <= epoch]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, move it away: a line records no epoch ({error!r})") from error
    if kept != lines:
        utils.write_text(path, "".join(kept))


def launcher() -> str | None:
    """What started this process; it stays the same when torchrun restarts its processes after a failure.

    None where the system does not tell. A process id alone would not do: torchrun has the same one in every container.
    """
    try:
        started = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.getppid()} {started}"
    except (OSError, IndexError):
        return None


def launchers() -> list[str]:
    """What started the processes of this run: one launcher for each machine that tells."""
    return sorted({name for name in utils.all_gather(launcher()) if name})


def read_launches(record: Path) -> list[dict]:
    """The launches in a run.json; none if it is missing or damaged, for training does not depend on it."""
    try:
        launches = utils.read_json(record).get("launches") if record.is_file() else None
    except ValueError as error:
        print(f"warning: {error}; a new one is written")
        launches = None
    return [launch for launch in launches if isinstance(launch, dict)] if isinstance(launches, list) else []


def is_restart_of(record: Path) -> bool:
    """Whether torchrun restarted the processes of the run that a run.json describes, because one of them failed.

    It did if one of the launchers is the same: rank 0 may be on another machine now.
    """
    present = launchers() if "TORCHELASTIC_RESTART_COUNT" in os.environ else []
    launches = read_launches(record) if utils.is_main() and present else []
    before = launches[-1].get("launchers") if launches else None
    return utils.all_gather(isinstance(before, list) and not set(present).isdisjoint(map(str, before)))[0]


def record_launch(run: Run, device: torch.device) -> None:
    """Add this launch to run.json, from which the run could be repeated; all processes must call this.

    Half-written files of a killed launch are removed.
    """
    started_by = launchers()
    if not utils.is_main():
        return
    utils.remove_leftovers(run.folder, ["last.pt", f"{type(run.model).__name__}.*", "*.json*"])
    path = run.folder / "run.json"
    earlier = read_launches(path)
    launch = {"date": utils.now(), "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
              "folder": os.getcwd(), "launchers": started_by, "epoch": run.epoch, "revision": utils.revision(),
              "versions": utils.versions(), "hardware": utils.hardware(device)}
    utils.write_json(path, {"data": run.data, "recipe": run.recipe, "launches": [*earlier, launch]})
