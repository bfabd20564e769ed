"""Train a saliency network. With no argument: RecSal-Net by the paper's recipe, on data/DHF1K.

    python train.py
    python train.py --resume
    python train.py --dataset ucf-sports --weights saved_models/RecSalNet.pth         # fine-tuning
    python train.py --dataset dhf1k hollywood2 ucf-sports --cache cache               # on several datasets
    python train.py --model tased_net                                                 # another network, by its own recipe
    torchrun --nproc-per-node 4 train.py --batch-size 2                               # on 4 GPUs: steps of 8 clips
"""
import argparse
import contextlib
import functools
import inspect
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchvision.models import get_weight
from tqdm import tqdm

import utils
from baselines import MODELS
from baselines.loading import compile_network, default_folder, flow_for, model_argument, print_configuration
from baselines.optical_flow import PICTURES, FlowSource, flow_arguments
from dataloader import (
    DATASET_FOLDERS,
    DATASETS,
    SAME_SPLIT,
    ClipDataset,
    FrameCache,
    Video,
    VideoClips,
    clip_loader,
    dataset_folder,
    find_videos,
    inventory,
    naming_deaths,
    readable,
)
from loss import KL_OVER, LABELS, OBJECTIVES, SIGNS, TERMS, cc, kldiv, l1, nss, objective, similarity
from saliency_model import AllMaps, Carried, SaliencyModel, map_state
from utils import (
    at_least,
    choose_precision,
    device_arguments,
    keep_freed_memory,
    positive,
    precision_context,
    select_device,
)
from weights import describe, load_entries, read_checkpoint, read_weights, torchvision_weights

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
GRADIENTS = ("averaged", "summed")                                         # of the batches of a step
# Flags whose defaults are the chosen network's recipe, and arguments of networks.
RECIPE = ("lr", "batch_size", "accumulate", "gradients", "epochs", "val_every", "flip", "scales", "kl_over")
# What weights are chosen by, and what is logged beside it; the AUCs, and the measures of salient objects, are test.py's.
VALIDATION = {"density": {"cc": cc, "kl": kldiv, "nss": nss, "sim": similarity}, "mask": {"cc": cc, "mae": l1}}
NETWORK = ("num_recursions", "frame_size", "frame_stride", "width", "embed_dim", "depths", "num_heads", "patch_norm", "drop_path",
           "alpha", "ema_loc", "residual", "dropout", "flow_kind", "trunk_width", "trunk_blocks")
STOPPED, TERMINATED = 130, 143                                             # exit codes of a run stopped by Ctrl-C, by SIGTERM


# One epoch, one validation

@dataclass(frozen=True)
class Steps:
    """How the steps of the optimiser are made.

    Attributes:
        compute_terms: what the network's `for_objective` returned, density, fixations -> terms with "loss".
        precision: "float32" or "bfloat16" (autocast), of the forward pass.
        accumulate: batches of a step.
        gradients: "averaged" over all maps of a step, or "summed" over its batches.
        milestones, gamma: after so many steps, the rate of groups that are "scheduled" is multiplied by gamma.
        decay_epochs: and after every so many epochs; None for never.
        warmup: over so many first steps, all rates rise linearly to their full values.
        scales: of the frame size; a batch is taken at each, one after the other.
    """
    compute_terms: Callable[..., dict]
    precision: str = "float32"
    accumulate: int = 1
    gradients: str = "averaged"
    milestones: tuple[int, ...] = ()
    gamma: float = 1.0
    decay_epochs: int | None = None
    warmup: int = 0
    scales: tuple[float, ...] = (1.0,)

    def decays(self, steps: int, epochs: int) -> int:
        """How often the rate has been multiplied by gamma after so many steps and whole epochs."""
        return sum(steps >= milestone for milestone in self.milestones) + (epochs // self.decay_epochs if self.decay_epochs else 0)

    def warmup_factor(self, steps: int) -> float:
        """The share of their full values that rates have after so many steps."""
        return min(1.0, (steps + 1) / self.warmup) if self.warmup else 1.0


def train_one_epoch(model: nn.Module, loader: DataLoader, steps: Steps, optimizer: Optimizer, progress: dict, stop: "StopRequest") -> bool:
    """Train on what is left of an epoch, stopping between optimiser steps when asked to.

    Several processes make each step together, on the mean over all their maps; one that has none takes part all the same.

    Args:
        model: on its device, as `for_training` wraps it; set to train mode here.
        loader: of batches; its sampler starts where `progress` says.
        steps: how they are made.
        optimizer: over the model's parameters.
        progress: of `new_progress`, this process's, updated in place after each optimiser step.
        stop: says whether the user asked to stop.

    Returns:
        Whether the epoch was finished.

    Raises:
        FloatingPointError: the loss is not finite; the message says on which (video, frame), with all terms.
        ValueError: a clip cannot be read, or every clip of the epoch was skipped.
    """
    model.train()
    started = time.perf_counter()
    epoch = loader.batch_sampler.epoch + 1
    batches = at_scales(readable(loader), steps.scales, skip=progress["batches"] % len(steps.scales))
    bar = tqdm(total=progress["length"] - progress["batches"], desc=f"epoch {epoch}", unit="batch", leave=False, disable=utils.hide_bar())
    for group in groups(batches, steps.accumulate, progress):
        used = [batch for batch in group if "clip" in batch]
        count, maps = utils.all_reduce_sum([len(used), sum(len(batch["density"]) for batch in used)])
        optimizer.zero_grad(set_to_none=True)
        if count:
            backward(model, used, maps, steps, progress)
        if maps:
            set_rates(optimizer, steps.gamma ** steps.decays(progress["steps"], loader.batch_sampler.epoch), steps.warmup_factor(progress["steps"]))
            optimizer.step()
            progress["steps"] += 1
        note_skipped(progress, group)
        progress["batches"] += len(group)
        bar.update(len(group))
        if any(utils.all_reduce_sum([stop.requested])):                          # asked of one process, met by all after the same step
            stop.requested = True
            break
    bar.close()
    progress["seconds"] += time.perf_counter() - started
    finished, (trained, skipped) = progress["batches"] >= progress["length"], utils.all_reduce_sum([progress["clips"], progress["skipped"]])
    if finished:
        progress["carried"] = Carried()
    if finished and not trained:
        raise ValueError(f"all {skipped:.0f} clips of epoch {epoch} were skipped: nothing to train on")
    return finished


def at_scales(batches: Iterator[dict], scales: tuple[float, ...], skip: int = 0) -> Iterator[dict]:
    """Each batch once for every scale, which stands in it; without the first `skip`. What a batch lacks is told once."""
    scaled = ({**batch, "scale": scale, "skipped": [] if number else batch["skipped"]} for batch in batches for number, scale in enumerate(scales))
    return itertools.islice(scaled, skip, None)


def set_rates(optimizer: Optimizer, factor: float, warmup_factor: float = 1.0) -> None:
    """Set the learning rates of the next step: all are their first ones times `warmup_factor`, those of "scheduled" groups times a factor too."""
    for group in optimizer.param_groups:
        if "initial_lr" in group:                                          # missing: of an earlier version
            group["lr"] = group["initial_lr"] * warmup_factor * (factor if group.get("scheduled") else 1)


def backward(model: nn.Module, batches: list[dict], maps: float, steps: Steps, progress: dict) -> None:
    """Gradients of the loss of a step, of which other processes may have some batches.

    Args:
        model: as in `train_one_epoch`; the gradients are in its parameters, the same in all processes.
        batches: this process's, with clips; may be empty.
        maps: how many are compared in all processes.
        steps, progress: as in `train_one_epoch`.
    """
    for batch in batches[:-1]:
        with model.no_sync() if utils.world_size() > 1 else contextlib.nullcontext():  # gradients travel once a step
            loss_share(model, batch, maps, steps, progress).backward()
    last = loss_share(model, batches[-1], maps, steps, progress) if batches else nothing_of(model, steps.precision)
    last.backward()


def loss_share(model: nn.Module, batch: dict, maps: float, steps: Steps, progress: dict) -> Tensor:
    """What a batch adds to the loss of a step on so many `maps`; its terms are added to the progress."""
    terms, count = forward_terms(model, batch, steps.compute_terms, steps.precision, progress["carried"]), len(batch["density"])
    if count:
        add_terms(progress["sums"], terms, count)
    progress["clips"] += count
    share = count / max(1, maps) if steps.gradients == "averaged" else 1
    return terms["loss"] * (share * utils.world_size())                 # processes' gradients are averaged, not added


def nothing_of(model: nn.Module, precision: str) -> Tensor:
    """A loss without a gradient, for a process that has no clip of a step: the others wait for it."""
    network, device = unwrap(model), next(model.parameters()).device
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training]
    for norm in norms:                                                     # whose averages this is nothing for
        norm.eval()
    with precision_context(precision, device):
        outputs = model(*network.blank())
    for norm in norms:
        norm.train()
    return sum(output.sum() for output in network.loss_outputs(outputs)) * 0


def for_training(network: nn.Module, idle_parameters: bool = False) -> nn.Module:
    """The network as `train_one_epoch` wants it.

    Args:
        network: on its device.
        idle_parameters: whether some get no gradient at times, for which several processes must look.
    """
    model = network.training_module()
    return DistributedDataParallel(model, find_unused_parameters=idle_parameters) if utils.world_size() > 1 else model


def unwrap(model: nn.Module) -> nn.Module:
    """The network without what `for_training` wraps around it."""
    model = model.module if isinstance(model, DistributedDataParallel) else model
    return model.network if isinstance(model, AllMaps) else model


def groups(batches: Iterator[dict], size: int, progress: dict) -> Iterator[list[dict]]:
    """Batches in groups of up to `size`; the time it takes to wait for them is added up."""
    while True:
        asked = time.perf_counter()
        group = list(itertools.islice(batches, size))
        progress["waited"] += time.perf_counter() - asked
        if not group:
            return
        yield group


def forward_terms(model: nn.Module, batch: dict, compute_terms: Callable[..., dict], precision: str,
                  carried: Carried) -> dict:
    """One forward pass: the terms of a batch, with a finite "loss"; of a clip without annotation, a loss of nothing."""
    network, device = unwrap(model), next(model.parameters()).device
    density = at_scale(batch["density"].to(device, non_blocking=True), batch.get("scale", 1))
    with precision_context(precision, device):
        inputs = [at_scale(x, batch.get("scale", 1)) for x in network.batch_inputs(batch, device)]
        outputs = network.training_outputs(model, inputs, batch, carried)
    if not len(density):
        return {"loss": outputs.sum()}
    terms = compute_terms(network.for_objective(outputs), density, batch.get("fixations"))  # fixations are listed on the CPU
    if not torch.isfinite(terms["loss"]):
        values = {name: float(torch.as_tensor(value).detach()) for name, value in terms.items()}
        where = list(zip(batch["video"], batch["frame"]))
        raise FloatingPointError(f"loss is {values['loss']} on (video, frame) {where}: {values}. Lower --lr, or try --precision float32")
    return terms


def at_scale(x: Tensor, scale: float) -> Tensor:
    """(.., H, W) at a scale, bilinearly, corners aligned; both sides become multiples of 32."""
    if scale == 1:
        return x
    size = [max(32, 32 * round(n * scale / 32)) for n in x.shape[-2:]]
    channels = x if x.ndim == 4 else x[:, None]
    return F.interpolate(channels, size=size, mode="bilinear", align_corners=True).view(*x.shape[:-2], *size)


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader, precision: str) -> dict[str, float]:
    """Mean measures over validation clips, or groups, at the annotation's full resolution (the authors' protocol).

    Returns:
        {"cc", "kl", "nss", "sim"}, or {"cc", "mae"} of networks that learn masks: means over the clips where each is defined, NaN where
        none is; {"clips", "skipped"}: how many were measured, and how many could not be read. The same in all processes, each of which
        measures its share.

    Raises:
        ValueError: a clip cannot be read, or none could.
    """
    model.eval()
    device = next(model.parameters()).device
    measured = VALIDATION[model.target]
    values, progress = {name: [] for name in measured}, new_progress(len(loader))
    for batch in tqdm(readable(loader), desc="validation", total=len(loader), unit="clip", leave=False, disable=utils.hide_bar()):
        note_skipped(progress, [batch])
        if "clip" not in batch:
            continue
        density = batch["density"].to(device)
        with precision_context(precision, device):
            outputs = model.forward(*model.batch_inputs(batch, device))    # not compiled, even with --compile
        output = model.main_output(outputs)
        saliency = model.finish(output[-1:], density.shape[1:])                # of a group, its last frame's
        for name, measure in measured.items():
            values[name].append(measure(saliency, batch["fixations"] if measure is nss else density))
    return mean_values({name: [float(value) for value in torch.cat(column)] if column else [] for name, column in values.items()},
                       progress["skipped"])


def mean_values(values: dict[str, list[float]], skipped: int) -> dict[str, float]:
    """`validate`'s result from this process's values: sums and counts of all processes make the means."""
    defined = {name: [value for value in column if not math.isnan(value)] for name, column in values.items()}
    counts = utils.all_reduce_sum([len(values["cc"]), skipped, *map(len, defined.values())])
    sums = utils.all_reduce_sum([math.fsum(column) for column in defined.values()])
    if not counts[0]:
        raise ValueError(f"all {counts[1]:.0f} validation clips were skipped: no measure to choose weights by")
    means = {name: total / count if count else math.nan for name, total, count in zip(defined, sums, counts[2:])}
    return {**means, "clips": int(counts[0]), "skipped": int(counts[1])}


# Sums of terms over an epoch

def add_terms(sums: dict[str, float], terms: dict[str, Tensor | int], count: int) -> None:
    """Add a batch's terms times its samples; "samples" counts those, "kl_left_out" and so on the undefined ones."""
    sums["samples"] = sums.get("samples", 0) + count
    means = [name for name in terms if not name.endswith("_left_out")]
    values = dict(zip(means, torch.stack([terms[name].detach() for name in means]).tolist()))  # one wait for the GPU
    for name, value in terms.items():
        sums[name] = sums.get(name, 0) + (values[name] * count if name in values else value)


def mean_terms(sums: dict[str, float]) -> dict[str, float]:
    """Means: of the loss over all samples, of each term over the samples where it is defined."""
    terms = [name for name in sums if name != "samples" and not name.endswith("_left_out")]
    counted = {name: sums["samples"] - sums.get(f"{name}_left_out", 0) for name in terms}
    return {name: sums[name] / count if count else float("nan") for name, count in counted.items()}


def combined(progress: dict) -> dict:
    """The progress of all processes together: clips and sums added up, time as the first one's."""
    parts = utils.all_gather({**progress, "carried": None})                 # each process keeps its own
    sums = {name: sum(part["sums"].get(name, 0) for part in parts) for name in {name: None for part in parts for name in part["sums"]}}
    return {**parts[0], "sums": sums, **{name: sum(part[name] for part in parts) for name in ("clips", "skipped")}}


def note_skipped(progress: dict, batches: list[dict]) -> None:
    """Count and show the clips that --skip-bad left out."""
    for message in (message for batch in batches for message in batch["skipped"]):
        tqdm.write(f"skipped: {message}", file=sys.stdout if utils.is_main() else sys.stderr)  # the others' stdout is shut
        progress["skipped"] += 1


def new_progress(length: int, steps: int = 0) -> dict:
    """Where an epoch stands: batches used of `length`, maps compared, clips skipped, sums of terms, seconds in all and waiting for clips;
    the optimiser's steps since the run began; what a network carries."""
    return {"batches": 0, "length": length, "clips": 0, "skipped": 0, "sums": {}, "seconds": 0.0, "waited": 0.0, "steps": steps,
            "carried": Carried()}


class Stopped(Exception):
    """The user asked to stop while nothing had to be finished first."""


class StopRequest:
    """Turns Ctrl-C, and the SIGTERM of schedulers, into a request that is met after the running step; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.requested, self.terminated, self.interruptible = False, False, False

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def handle(self, number: int, *unused) -> None:
        self.requested, self.terminated = True, number == signal.SIGTERM
        signal.signal(signal.SIGINT, self.previous[signal.SIGINT])
        if self.interruptible:
            raise Stopped
        tqdm.write("stopping after this step" + ("" if self.terminated else "; Ctrl-C again to stop at once"))

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What can be interrupted: within, and at its beginning, a request raises `Stopped`."""
        self.interruptible = True
        try:
            if self.requested:
                raise Stopped
            yield
        finally:
            self.interruptible = False

    def __exit__(self, *unused) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


# Setting up

def initialise(model: nn.Module, weights: str, earlier: dict[str, Path] | None = None, keep_flow_stage: bool = False) -> str:
    """Fill what a network starts from with pretrained weights; returns what they were, for the log.

    Args:
        model: the network.
        weights: "auto" (what the stages before have written, else its file where that is in saved_models/, else torchvision's),
            "torchvision", "none", or a file.
        earlier: of the last of several stages, the weights of those before, by their names.
        keep_flow_stage: of `SMCF.load_stages`.

    Raises:
        FileNotFoundError: there are none; the message says what to do.
        ValueError: the file is another one, or this network starts from nothing pretrained.
    """
    file = model.start_file
    if earlier and weights == "auto":
        return from_stages(model, earlier, keep_flow_stage)
    if weights == "none" or (weights == "auto" and file is None):
        model.init_from_scratch()
        return "none, random initialisation"
    if weights == "auto":
        weights = str(file) if file.is_file() else "torchvision"
    entries, source = download_start(model) if weights == "torchvision" else (read_weights(weights, model.state_dict())[0], weights)
    return f"{source}, unused: {', '.join(model.load_start(entries, source)) or 'nothing'}"


def from_stages(model: nn.Module, earlier: dict[str, Path], keep_flow_stage: bool) -> str:
    """Start a network's last stage from what the stages before have learnt; returns what that was."""
    missing = [name for name, path in earlier.items() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"no weights of the stage {missing[0]}: {earlier[missing[0]]} does not exist. Train it first, with --train-type "
                                f"{missing[0]} and the same --run-dir; or start this stage from random weights with --encoder-weights none, or from "
                                "a whole network with --weights FILE")
    rgb, flow = (read_weights(path, model.state_dict())[0] for path in earlier.values())
    kept = model.load_stages(flow, rgb, " and ".join(map(str, earlier.values())), keep_flow_stage)
    return f"{', '.join(map(str, earlier.values()))}; {len(kept)} entries of the flow stage"


def download_start(model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """What torchvision has for a network to start from, from its cache or the internet."""
    reason = "torchvision has none for it"
    if model.start_download:
        weights = get_weight(model.start_download)
        try:
            return torchvision_weights(weights), f"torchvision's {weights}"
        except OSError as error:
            reason = str(error)
    raise FileNotFoundError(f"no encoder weights for {type(model).__name__}: {model.start_file} is not there, and {reason}. Fetch them elsewhere and "
                            "give their path as --encoder-weights FILE, or start from random weights with --encoder-weights none")


def make_model(name: str, weights: str | None, stored: dict | None, network: dict) -> nn.Module:
    """The network to train: a new one, that of a weight file, or that of a run to resume.

    Args:
        name: a key of `MODELS`.
        weights: the file, if it is one's.
        stored: what `read_last` read, if a run is resumed.
        network: arguments that the user gave.

    Raises:
        ValueError: the network has no such argument.
    """
    takes = {key: set(inspect.signature(model).parameters) for key, model in MODELS.items()}
    foreign = [argument for argument in network if argument not in takes[name]]
    if foreign:
        owners = [key for key in takes if foreign[0] in takes[key]]
        raise ValueError(f"--{foreign[0].replace('_', '-')} is an argument of {', '.join(owners)}, not of {name}")
    if stored:
        return MODELS[name].built_for({**stored["configuration"], **network}, stored["model"], "last.pt")
    model = MODELS[name].from_pretrained(weights, **network) if weights else MODELS[name](**network)
    if model.config["frame_size"] is None:                                 # frames of a batch need one size
        return make_model(name, weights, stored, {**network, "frame_size": model.nominal_size})
    forgotten = takes[name] - model.config.keys()
    if forgotten:                                                          # its weight files would lack them
        raise ValueError(f"{MODELS[name].__name__} must pass its arguments {', '.join(sorted(forgotten))} to super().__init__, for its config")
    return model


def make_optimizer(model: nn.Module, lr: float) -> Optimizer:
    """The recipe's optimiser over the model's groups of parameters; each remembers its first learning rate."""
    groups = [{**group, "initial_lr": group["lr"]} for group in model.parameter_groups(lr)]
    fused = next(model.parameters()).device.type != "mps"
    return OPTIMIZERS[model.recipe.optimizer](groups, lr=lr, fused=fused, **model.recipe.optimizer_options)


@dataclass(frozen=True)
class DataSource:
    """A dataset to train on: which (a key of `DATASETS`), where, and the splits to train on and to choose weights by (None: no split)."""
    dataset: str
    folder: Path
    train_split: str
    val_split: str | None

    def videos(self, split: str, skip_bad: bool, annotation: str = "density",
               need_fixations: bool = True) -> list[Video]:
        """The videos of a split with this annotation, and a line that says what was found; with --skip-bad, a line for each left out."""
        skipped = [] if skip_bad else None
        videos = find_videos(self.folder, split, skipped=skipped, numbers=DATASETS[self.dataset].numbers,
                             annotation=annotation, need_fixations=need_fixations)
        for message in skipped or []:
            print(f"skipped: {message}")
        print(f"{self.folder}, {split}: {inventory(videos)}" + (f"; {len(skipped)} videos skipped" if skipped else ""))
        return videos


def choose_sources(datasets: list[str], data: list[Path] | None, train_split: str | None, val_split: str | None,
                   validated: bool = True, stage: str | None = None) -> list[DataSource]:
    """What to train on, in a stage of training; one name counts for all folders, and a split that is given for all datasets.

    Raises:
        ValueError: as many names as folders were expected, or a folder.
    """
    datasets = datasets * len(data) if data and len(datasets) == 1 else datasets
    if data and len(data) != len(datasets):
        raise ValueError(f"--dataset names {len(datasets)} datasets and --data {len(data)} folders: give one folder for each, in the same order")
    known = [(name, DATASETS[name], folder) for name, folder in zip(datasets, data or [None] * len(datasets))]
    return [DataSource(name, dataset_folder(name, folder), train_split or about.stages.get(stage, about.train),
                       (val_split or about.val) if validated else None) for name, about, folder in known]


def training_videos(sources: list[DataSource], skip_bad: bool, hold_out: float | None, seed: int,
                    annotation: str = "density", need_fixations: bool = True) -> tuple[list[Video], list[Video]]:
    """The videos to train on, and those to choose weights by: of each source its own."""
    train_videos, val_videos = [], []
    for source in sources:
        own, others = source.videos(source.train_split, skip_bad, annotation, need_fixations), []
        if hold_out:
            own, others = held_out(own, hold_out, seed, shots=source.dataset == "hollywood2")
            print(f"{source.folder}: {len(others)} of those videos are held out to choose weights by: {', '.join(video.name for video in others)}")
        elif source.val_split:
            others = validation_videos(source, skip_bad, annotation, need_fixations)
        train_videos, val_videos = train_videos + own, val_videos + others
    warn_of_doubles(train_videos, val_videos)
    return train_videos, val_videos


def describe_data(sources: list[DataSource], hold_out: float | None, val_videos: list[Video]) -> dict:
    """What a run is trained on, for the description of its weights."""
    held = {"hold_out": hold_out, "held_out": [video.name for video in val_videos]} if hold_out else {}
    return {"datasets": [{**vars(source), "folder": str(source.folder)} for source in sources], **held}


def warn_of_doubles(train_videos: list[Video], val_videos: list[Video]) -> None:
    """Say where a video is trained on twice in an epoch, or both trained on and validated on."""
    trained, validated = ([video.frames[0].resolve() for video in videos] for videos in (train_videos, val_videos))
    twice, both = len(trained) - len(set(trained)), len(set(trained) & set(validated))
    if twice or both:
        print(f"mind: {twice} videos are trained on more than once an epoch, {both} are trained on and choose the weights")


def held_out(videos: list[Video], share: float, seed: int, shots: bool = False) -> tuple[list[Video], list[Video]]:
    """Videos to train on, and a share of them, drawn at random, not to; with `shots`, those of one film (NAME_1, NAME_2) stay together."""
    film = lambda video: re.sub(r"_\d+$", "", video.name) if shots else video.name
    films = sorted({film(video) for video in videos})
    count = round(share * len(films))
    if not 0 < count < len(films):
        raise ValueError(f"--hold-out {share:g} of {len(films)} {'films' if shots else 'videos'} is {count}: at least one must be held out, "
                         "and one must be left")
    chosen = set(np.random.default_rng(seed).permutation(films)[:count].tolist())
    return [video for video in videos if film(video) not in chosen], [video for video in videos if film(video) in chosen]


def validation_videos(source: DataSource, skip_bad: bool, annotation: str = "density",
                      need_fixations: bool = True) -> list[Video]:
    """The videos of the validation split, and what to do where there are none."""
    if source.val_split in SAME_SPLIT[-1]:
        print(f"{source.folder}: weights are chosen by the test set, as in the papers, so scores on it flatter; "
              "--hold-out 0.1 takes training videos instead")
    try:
        return source.videos(source.val_split, skip_bad, annotation, need_fixations)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. To choose weights by a tenth of the training videos: --hold-out 0.1. To train without validation: "
                                "--val-every 0, which keeps the last epoch's weights instead of the best") from error


def make_sets(model: nn.Module, train_videos: list[Video], val_videos: list[Video], flip: bool, seed: int,
              skip_bad: bool, cache: FrameCache | None, flow: FlowSource | None = None) -> tuple[ClipDataset, ClipDataset]:
    """What is trained on, at the network's size, and what is validated on, at full resolution.

    Training takes one clip of each video; where a state is carried, all its clips; where frames go through in groups, every annotated frame
    alone, so that a group's frames are unrelated ones.
    """
    common = {"prepare": model.prepare, "seed": seed, "skip_bad": skip_bad, "cache": cache, "flow": flow,
              "masks": model.target == "mask"}
    own = {"size": tuple(model.config["frame_size"]), "flip": flip}
    if model.carries_state:
        train_set = VideoClips(train_videos, clip_len=model.clip_len, **common, **own)
    else:
        train_set = ClipDataset(train_videos, **model.sampling, **common, **own)
    val_set = ClipDataset(val_videos, clip_len=model.clip_len, frame_stride=model.frame_stride, every=model.validated_every,
                          **common)
    return train_set, val_set


# The run

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
        self.epoch = self.steps = 0                                        # finished epochs, and steps of the optimiser until then
        self.best_cc: float | None = None                                  # of the validations so far
        self.progress: dict | None = None                                  # of the running epoch
        self.weights, self.last = run_files(folder, type(model))

    def save(self) -> None:
        """Write everything that continuing needs to last.pt; all processes call this, and the first one writes."""
        progress, random = self.progress and combined(self.progress), utils.all_gather(utils.random_state())
        carried = self.progress["carried"] if self.progress else Carried()
        # On the CPU, for another machine may lack this one's GPU.
        carried = utils.all_gather(vars(replace(carried, state=map_state(Tensor.cpu, carried.state))))
        if utils.is_main():
            utils.save_checkpoint({
                "model": dict(self.model.state_dict()), "optimizer": self.optimizer.state_dict(), "random": random, "recipe": self.recipe,
                "configuration": self.model.config, "epoch": self.epoch, "best_cc": self.best_cc, "progress": progress,
                "steps": self.steps, "carried": carried,
            }, self.last)

    def restore(self, stored: dict) -> None:
        """Continue from what `read_last` read."""
        check_recipe(stored["recipe"], self.recipe)
        self.recipe = stored["recipe"]
        load_entries(self.model, stored["model"], str(self.last))
        load_optimizer(self.optimizer, stored["optimizer"], self.last)
        utils.set_random_state(stored["random"][utils.rank()])
        self.epoch, self.best_cc, self.progress, self.steps = stored["epoch"], stored["best_cc"], stored["progress"], stored["steps"]
        if utils.is_main():
            trim_log(self.folder / "log.jsonl", self.epoch)
        if self.progress and not utils.is_main():                         # sums are all in the first one's
            self.progress = {**new_progress(self.progress["length"], self.progress["steps"]), "batches": self.progress["batches"]}
        if self.progress:
            self.progress["carried"] = Carried(**stored["carried"][utils.rank()])
            check_carried(self.progress["carried"].state, self.model, self.last)

    def keep_weights(self, scores: dict | None) -> None:
        """Write the present weights as the run's result, and beside them what they are; of several processes, the first one does."""
        if not utils.is_main():
            return
        samples, apart = "frames" if self.model.clip_len == 1 else "clips", self.model.validated_every
        utils.save_checkpoint(dict(self.model.state_dict()), self.weights)
        utils.write_json(self.weights.with_suffix(".json"), {
            "model": type(self.model).__name__, "configuration": self.model.config, "epoch": self.epoch, "validation": scores,
            "protocol": f"{samples} {apart} frames apart, full resolution, finished as for scoring, mean over clips" if scores else None,
            "data": self.data, "recipe": self.recipe,
            "device": next(self.model.parameters()).device.type, "revision": utils.revision(), "versions": utils.versions(),
        })

    def consider(self, scores: dict) -> None:
        """Keep the weights if their mean CC is the best so far; an undefined one beats only none at all."""
        value = -math.inf if math.isnan(scores["cc"]) else scores["cc"]
        if self.best_cc is None or value > self.best_cc:
            self.best_cc = value
            self.keep_weights(scores)


def load_optimizer(optimizer: Optimizer, stored: dict, source: Path) -> None:
    """Load an optimiser's state; a ValueError where it is not that of these parameters (fused ones would write beside them)."""
    check_groups(stored.get("param_groups"), optimizer.state_dict()["param_groups"], source)
    try:
        optimizer.load_state_dict(stored)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"the optimiser's state in {source} cannot be read: {error!r}") from error
    wrong = [name for p, state in optimizer.state.items() for name, value in (state.items() if isinstance(state, dict) else [(str(state), state)])
             if not isinstance(value, Tensor) or value.shape != (() if name == "step" else p.shape) or not value.is_contiguous()
             or not value.is_floating_point()]
    if wrong:
        raise ValueError(f"the optimiser's state in {source} does not fit the network: {len(wrong)} entries, the first {wrong[0]}")


def check_groups(stored, fresh: list[dict], source: Path) -> None:
    """Raise a ValueError where an optimiser's groups of parameters are not those of this run; rates may differ, and another PyTorch may name more."""
    if not isinstance(stored, list) or len(stored) != len(fresh) or not all(map(is_plain, stored)):
        raise ValueError(f"the optimiser's state in {source} cannot be read: it has no {len(fresh)} groups of parameters")
    for group, like in zip(stored, fresh):
        other = [name for name in like if name in group and name != "lr" and group[name] != like[name]]
        if other or not isinstance(group.get("lr"), float):
            raise ValueError(f"the optimiser's state in {source} is not this run's: {', '.join(other) or 'lr'} of a group of parameters differ")


def check_kinds(stored, like, where: str) -> None:
    """Raise a ValueError where a part of a run's state is not of the kind that this run's is: dicts of the same names, lists as long, and so on.

    Args:
        stored: from a file.
        like: nested dicts and lists of plain values and tensors.
        where: which part, of which file.
    """
    number = isinstance(like, (int, float)) and not isinstance(like, bool)
    same = isinstance(stored, (int, float)) and not isinstance(stored, bool) if number else type(stored) is type(like)
    if isinstance(like, dict):
        same = same and like.keys() == stored.keys()
    elif isinstance(like, list):
        same = same and len(like) == len(stored)
    elif isinstance(like, Tensor):
        same = same and like.dtype == stored.dtype and like.shape == stored.shape
    if not same:
        raise ValueError(f"{where} is damaged: expected a {type(like).__name__} such as train.py writes, got {str(stored)[:80]}")
    for name in like if isinstance(like, dict) else range(len(like)) if isinstance(like, list) else ():
        check_kinds(stored[name], like[name], f"{where}, {name}")


def check_carried(state, model: SaliencyModel, source: Path) -> None:
    """Raise a ValueError where the state that a run carried from clip to clip has other shapes than its network's."""
    if state is None:
        return
    found, needed = map_state(lambda t: tuple(t.shape), state), model.state_shapes()
    if found != needed:
        raise ValueError(f"{source} is damaged: it carries a state of shapes {found} from clip to clip, "
                         f"{type(model).__name__} one of {needed}")


def read_last(path: Path) -> dict:
    """The content of a last.pt, of one that an earlier version wrote too."""
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: {path} does not exist; start the run without --resume")
    stored = read_checkpoint(path)
    needed = {"model", "optimizer", "random", "recipe", "configuration", "epoch", "best_cc", "progress"}
    if not isinstance(stored, dict) or not needed <= stored.keys():
        raise ValueError(f"{path} is no last.pt of train.py: expected {sorted(needed)}, got {describe(stored)}")
    stored = up_to_date(stored)
    kinds = {"model": dict, "optimizer": dict, "recipe": dict, "configuration": dict, "epoch": int, "best_cc": (float, type(None)),
             "progress": (dict, type(None)), "steps": int, "carried": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(stored[name], kind)]
    wrong += [name for name in ("recipe", "configuration") if not wrong and not is_plain(stored[name])]
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} is not what train.py writes")
    if stored["progress"] is not None:
        check_kinds({**stored["progress"], "sums": {}, "carried": None}, {**new_progress(0), "carried": None}, f"{path}, progress")
        check_kinds(stored["progress"].get("sums"), dict.fromkeys(stored["progress"]["sums"], 0.0), f"{path}, progress")
    numbers = {name: stored[name] or 0 for name in ("epoch", "best_cc", "steps")} | (stored["progress"] or {}) | {"sums": 0, "carried": 0}
    wrong = [name for name, value in numbers.items() if math.isnan(value) or (value < 0 and name != "best_cc")]
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} cannot be {numbers[wrong[0]]}")
    for carried in stored["carried"]:
        check_kinds({**carried, "state": None} if isinstance(carried, dict) else carried, vars(Carried()), f"{path}, carried")
        if not is_state(carried["state"]):
            raise ValueError(f"{path}, carried is damaged: its state is no tensors of numbers")
    for state in stored["random"]:
        check_kinds({**state, "cuda": []} if isinstance(state, dict) else state, {**utils.random_state(), "cuda": []}, f"{path}, random")
    for name in ("random", "carried"):
        if len(stored[name]) != stored["recipe"]["processes"]:
            raise ValueError(f"{path} is damaged: it holds {len(stored[name])} {name} states of {stored['recipe']['processes']} processes")
    return stored


def is_state(content) -> bool:
    """Whether it is None, a tensor of floating-point numbers, or several of those."""
    if isinstance(content, (list, tuple)):
        return all(map(is_state, content))
    return content is None or (isinstance(content, Tensor) and content.is_floating_point())


def up_to_date(stored: dict) -> dict:
    """The content of a last.pt with what earlier versions did not write."""
    stored = {"steps": 0, **stored, "random": stored["random"] if isinstance(stored["random"], list) else [stored["random"]]}
    stored = {"carried": [vars(Carried())] * len(stored["random"]), **stored}
    if isinstance(stored["progress"], dict):
        stored["progress"] = {"steps": stored["steps"], "carried": None, **stored["progress"]}
    if isinstance(stored["recipe"], dict):
        weights = stored["recipe"].get("objective")
        terms = {"objective": {"bce": 0.0, **weights}} if isinstance(weights, dict) else {}
        stored["recipe"] = {"processes": 1, "warmup": 0, **stored["recipe"], **terms}
    return stored


def is_plain(content) -> bool:
    """Whether it is a dict that holds nothing but what JSON can."""
    try:
        return isinstance(content, dict) and json.dumps(content) is not None
    except (TypeError, ValueError, RecursionError):
        return False


def run_files(folder: Path, model_class: type) -> tuple[Path, Path]:
    """Where a run keeps its best weights, and what it continues from."""
    return folder / f"{model_class.__name__}.pth", folder / "last.pt"


def clear_run(folder: Path) -> None:
    """Remove what an earlier run would mix into a new one: its log, its curves, and the state to resume. Its best
    weights stay until the first better ones replace them."""
    for name in ("last.pt", "log.jsonl", "run.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def trim_log(path: Path, epoch: int) -> None:
    """Remove from a log what a killed run had written after its last.pt: epochs that are trained again, and half a line."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    try:
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] <= epoch]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, move it away: a line is no record of an epoch ({error!r})") from error
    if kept != lines:
        utils.write_text(path, "".join(kept))


def fingerprint(videos: list[Video]) -> str:
    """Tells one set of videos from another by names, frame counts, and the sizes of the first and last frame's files."""
    listed = "\n".join(f"{video.name} {len(video.frames)} {len(video.annotated() or video.masked())} {sizes(video)}" for video in videos)
    return f"{len(videos)} videos, {sum(len(v.frames) for v in videos)} frames, crc {zlib.crc32(listed.encode()):08x}"


def sizes(video: Video) -> list[int]:
    """Bytes of the files of a video's first and last frame: reading them all would take as long as an epoch."""
    kinds = (video.frames, *(list(files.values()) for files in (video.maps, video.fixations, video.masks)))
    return [path.stat().st_size for paths in kinds if paths for path in (paths[0], paths[-1])]


def check_recipe(stored: dict, given: dict) -> None:
    """Raise a ValueError that names every value in which the two differ; what a run started from no longer matters."""
    changed = [f"{name} was {stored.get(name)}, is {value}" for name, value in given.items()
               if name in stored and stored[name] != value and name not in ("weights", "encoder_weights")]  # missing: of an earlier version
    if changed:
        raise ValueError(f"--resume continues a run exactly, but {'; '.join(changed)}. "
                         "Give the same options, or start another run in another --run-dir")


def fit(run: Run, train_loader: DataLoader, val_loader: DataLoader | None, steps: Steps, epochs: int, val_every: int, thaw: bool, writer,
        stop: StopRequest) -> bool:
    """Train until `epochs` epochs are finished; returns False where the user stopped it before."""
    batches = train_loader.batch_sampler
    model = for_training(run.model, thaw or run.model.has_idle_parameters)
    with contextlib.suppress(Stopped), stop, naming_deaths(train_loader, *filter(None, [val_loader])):
        while run.epoch < epochs and not any(utils.all_reduce_sum([stop.requested])):  # all stop after the same epoch
            started = time.time()
            batches.epoch, batches.start = run.epoch, 0
            run.progress = run.progress or new_progress(len(batches) * len(steps.scales), run.steps)
            batches.start = run.progress["batches"] // len(steps.scales)
            if thaw:
                run.model.thaw(run.epoch + 1)
            if not train_one_epoch(model, train_loader, steps, run.optimizer, run.progress, stop):
                run.save()                                                 # in the middle of the epoch
                break
            validation_due = val_loader is not None and (run.epoch + 1 == epochs or (run.epoch + 1) % (val_every or 1) == 0)
            scores = validate_for(run, val_loader, steps.precision, stop) if validation_due else None
            finish_epoch(run, scores, val_loader is not None, time.time() - started, writer)
    return run.epoch >= epochs


def validate_for(run: Run, loader: DataLoader, precision: str, stop: StopRequest) -> dict:
    """`validate`, which takes long, and is interrupted by a request to stop: the trained epoch is in last.pt before."""
    run.save()
    stop.requested = any(utils.all_reduce_sum([stop.requested]))
    with stop.at_once():
        return validate(run.model, loader, precision)


def finish_epoch(run: Run, scores: dict | None, validated: bool, seconds: float, writer) -> None:
    """Keep the best weights, or the last ones of a run that is not `validated`, log, and write last.pt."""
    progress, run.progress = combined(run.progress), None
    run.epoch, run.steps = run.epoch + 1, progress["steps"]
    if scores is not None:
        run.consider(scores)
    elif not validated:
        run.keep_weights(None)
    if utils.is_main():
        log_epoch(run, progress, scores, seconds, writer)
    run.save()


def log_epoch(run: Run, progress: dict, scores: dict | None, seconds: float, writer) -> None:
    """One line on the screen, one in log.jsonl, one point a curve in TensorBoard."""
    terms = mean_terms(progress["sums"])
    left_out = {name: count for name, count in progress["sums"].items() if name.endswith("_left_out")}
    speed = {"clips_per_second": progress["clips"] / progress["seconds"], "data_wait": progress["waited"] / progress["seconds"]}
    print(epoch_line(run, terms, left_out, progress["skipped"], scores, seconds, speed), flush=True)
    val = {f"val_{name}": value for name, value in (scores or {}).items()}
    record = {"epoch": run.epoch, **terms, **left_out, "skipped": progress["skipped"], **val, "seconds": round(seconds, 3),
              **{name: round(value, 4) for name, value in speed.items()}}
    utils.append_log(run.folder / "log.jsonl", record)
    if writer is not None:
        for name, value in {**terms, **val}.items():
            writer.add_scalar(f"val/{name[4:]}" if name in val else f"train/{name}", value, run.epoch)
        writer.flush()


def epoch_line(run: Run, terms: dict, left_out: dict, skipped: int, scores: dict | None, seconds: float, speed: dict) -> str:
    """The line of an epoch: mean terms, what was left out, validation, time, and how fast training was."""
    parts = [f"epoch {run.epoch}", *(f"{LABELS.get(name, name)} {value:.4f}" for name, value in terms.items())]
    samples = run.model.samples
    undefined = ", ".join(f"{LABELS[name.removesuffix('_left_out')]} {count}" for name, count in left_out.items() if count)
    parts += [f"({samples} left out as undefined: {undefined})"] if undefined else []
    parts += [f"{skipped} clips skipped"] if skipped else []
    if scores is not None:
        measured = " ".join(f"{LABELS[name]} {scores[name]:.4f}" for name in VALIDATION[run.model.target])
        skipped_too = f" ({scores['skipped']} skipped)" if scores["skipped"] else ""
        parts.append(f"| validation on {scores['clips']} clips{skipped_too}: {measured} (best CC {shown_cc(run.best_cc)})")
    return "  ".join([*parts, f"| {seconds:.1f} s, {speed['clips_per_second']:.3g} {samples}/s, {speed['data_wait']:.0%} waiting for clips"])


def shown_cc(value: float) -> str:
    """The best mean CC in words; minus infinity stands for none that is defined."""
    return f"{value:.4f}" if math.isfinite(value) else "undefined, for all maps are constant"


def open_tensorboard(folder: Path, wanted: bool):
    """A TensorBoard writer, or None where it is not wanted or not installed."""
    if not wanted or not utils.is_main():
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard curves: it is not installed (pip install tensorboard)")
        return None
    return SummaryWriter(folder / "tensorboard")


# The command line

def finite(text: str) -> float:
    """An argparse type: a number that is one."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return value


def share(text: str) -> float:
    """An argparse type: a number between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model_argument(parser)
    data_arguments(parser.add_argument_group("data"))
    network_arguments(parser.add_argument_group("network (the defaults are the papers', or those of --weights)"))
    training_arguments(parser.add_argument_group("training (the defaults are the network's own recipe)"))
    signs = " ".join(f"{'+-'[SIGNS[name] < 0]} {name} {LABELS[name]}" for name in TERMS)
    terms = parser.add_argument_group(f"objective: loss = {signs.removeprefix('+ ')}")
    for name in TERMS:
        terms.add_argument(f"--{name}-weight", type=finite, help=f"weight of {LABELS[name]} ({of_recipes('loss_weights', name)})")
    terms.add_argument("--kl-over", choices=KL_OVER, help="what both maps of KL are divided by the sum of: each sample, or the whole batch, as if it "
                                                          f"were one map ({of_recipes('kl_over')})")
    flow_arguments(parser)
    run_arguments(parser.add_argument_group("run folder"))
    device_arguments(parser, "bfloat16 on CUDA, else float32", "autocast")
    return parser


def of_recipes(*keys: str) -> str:
    """The default of a flag in words: the first network's, and those that differ from it."""
    values = {name: functools.reduce(lambda value, key: value[key], keys, vars(model.recipe)) for name, model in MODELS.items()}
    values = {name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}
    usual = values[next(iter(MODELS))]
    others = {value: ", ".join(name for name in values if values[name] == value) for value in values.values() if value != usual}
    return "; ".join([f"default: {usual}", *(f"{names}: {value}" for value, names in others.items())])


def data_arguments(group) -> None:
    onoff = argparse.BooleanOptionalAction
    group.add_argument("--dataset", choices=list(DATASETS), nargs="+", action="extend",
                       help="what to train on, one or several, whose split names are known; folder: your own (default: dhf1k; of smcf vsod)")
    group.add_argument("--data", type=Path, nargs="+", action="extend", metavar="FOLDER",
                       help=f"where each lies, in any tree of data/README.md (default: {DATASET_FOLDERS})")
    group.add_argument("--train-split", metavar="SPLIT",
                       help="what to train on: a folder below --data, a list of names (.txt), numbers such as 1-600, or all "
                            "(default: train; hollywood2 and ucf-sports: training)")
    validation = group.add_mutually_exclusive_group()
    validation.add_argument("--val-split", metavar="SPLIT",
                            help="what to choose weights by (default: val; datasets that have none: the test set, as the papers do)")
    validation.add_argument("--hold-out", type=share, metavar="SHARE",
                            help="choose weights by this share of the training videos, which are then not trained on, such as 0.1 (default: none)")
    group.add_argument("--frame-size", type=at_least(16), nargs=2, metavar=("H", "W"),
                       help="size the network sees, in pixels, multiples of 32, of 16 for the recurrent ones (default: the paper's, such as 224 384)")
    group.add_argument("--frame-stride", type=at_least(1),
                       help="frames of the video from one frame of a clip to the next (default: 1)")
    group.add_argument("--cache", type=Path, metavar="DIR",
                       help="keep the frames at the network's size there, uncompressed (105 GB for DHF1K at 224 x 384), and read clips from it many "
                            "times faster; made on demand, and anew where frames have changed (default: none)")
    group.add_argument("--flip", action=onoff, help=f"mirror half of the training clips ({of_recipes('flip')})")
    group.add_argument("--skip-bad", action=onoff, default=False,
                       help="leave out unreadable videos and clips, counted and reported, instead of stopping (default: off)")
    workers = min(4, os.cpu_count() or 1)
    group.add_argument("--workers", type=at_least(0), default=workers,
                       help=f"processes that decode clips; 0: none besides this one (default: 4 or the number of cores, here {workers})")


def network_arguments(group) -> None:
    start = group.add_mutually_exclusive_group()
    start.add_argument("--weights", metavar="FILE",
                       help="weights of the whole network to start from, for fine-tuning: a path, or an https URL as in test.py (default: none)")
    start.add_argument("--encoder-weights", default="auto", metavar="{auto,torchvision,none,FILE}",
                       help="pretrained weights to start from; auto: the network's own file if it lies in saved_models/ "
                            f"({', '.join(sorted({model.start_file.name for model in MODELS.values() if model.start_file}))}), "
                            "else torchvision's, downloaded, where it has some; FILE#KEY: one of several state dicts in a file (default: auto)")
    group.add_argument("--num-recursions", type=at_least(0), help="K, passes through the recursive block (default: 2)")
    group.add_argument("--patch-norm", action=argparse.BooleanOptionalAction,
                       help="LayerNorm after the patch embedding; the authors have none (default: off)")
    group.add_argument("--width", type=at_least(8), help="channels of the decoder, a multiple of 8 (default: 192)")
    group.add_argument("--embed-dim", type=at_least(1), help="channels of the encoder's first stage (default: 96)")
    group.add_argument("--depths", type=at_least(1), nargs=4, help="blocks in each stage of the encoder (default: 2 2 18 2)")
    group.add_argument("--num-heads", type=at_least(1), nargs=4, help="attention heads in each stage (default: 3 6 12 24)")
    group.add_argument("--drop-path", type=float,
                       help="stochastic depth of the encoder's last block, a probability (default: 0.2)")
    group.add_argument("--alpha", type=alpha, help="SalEMA: learnt, or a constant; the new frame's share is its sigmoid (default: learnt)")
    group.add_argument("--ema-loc", type=at_least(0), nargs="+", metavar="LAYER", help="SalEMA: the layer that is averaged, or two (default: 30)")
    group.add_argument("--residual", action=argparse.BooleanOptionalAction,
                       help="SalEMA, SalCLSTM30: add what goes into the layer with the state to what comes out (default: off)")
    group.add_argument("--dropout", action=argparse.BooleanOptionalAction, help="SalEMA: drop half of the averaged layer's channels (default: off)")
    group.add_argument("--flow-kind", choices=list(PICTURES),
                       help="two-stream networks: how flow becomes a picture, its x, y and length, or a colour wheel (default: components)")
    group.add_argument("--trunk-width", type=at_least(4), help="SMCF: channels of its trunks' stems, a multiple of 4 (default: 64)")
    group.add_argument("--trunk-blocks", type=at_least(1), nargs=4, help="SMCF: blocks in each level of its trunks (default: 3 4 6 3, ResNet-50)")
    group.add_argument("--thaw", action=argparse.BooleanOptionalAction, default=False,
                       help="train the pretrained part of a recurrent network from its end towards its front, all of it from epoch 5 (default: off)")


def alpha(text: str) -> float | str:
    """An argparse type: "learnt" or a number."""
    return text if text == "learnt" else finite(text)


def training_arguments(group) -> None:
    group.add_argument("--train-type", choices=list(dict.fromkeys(stage for model in MODELS.values() for stage in model.stages)),
                       help="stage of a network that is trained in several (smcf): frames as both inputs, flow as both, each as itself, starting "
                            "from both stages before, which lie in RUN_DIR/pretrain-rgb and RUN_DIR/pretrain-flow (default: finetune)")
    group.add_argument("--keep-flow-stage", action=argparse.BooleanOptionalAction, default=False,
                       help="finetune: parts that see nothing but the flow start from pretrain-flow; the authors' start from pretrain-rgb, as all "
                            "others do (default: off)")
    group.add_argument("--scales", type=positive, nargs="+",
                       help="of --frame-size, in multiples of 32 pixels; each batch is trained on at every one "
                            f"({of_recipes('scales')})")
    group.add_argument("--epochs", type=at_least(1),
                       help="epochs, each one clip of every video, or all of it where a state is carried, shared out where there are several "
                            f"processes ({of_recipes('epochs')})")
    group.add_argument("--lr", type=positive,
                       help=f"learning rate, the same however many processes there are ({of_recipes('lr')})")
    group.add_argument("--batch-size", type=at_least(1),
                       help=f"clips in a forward pass, of each process where there are several ({of_recipes('batch_size')})")
    group.add_argument("--accumulate", type=at_least(1), help=f"batches of a step ({of_recipes('accumulate')})")
    group.add_argument("--gradients", choices=GRADIENTS,
                       help=f"whether a step's gradients are averaged over its clips or summed over its batches ({of_recipes('gradients')})")
    group.add_argument("--activation-checkpointing", action=argparse.BooleanOptionalAction, default=False,
                       help="less memory for more time: recompute activations in the backward pass (default: off)")
    group.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                       help="let PyTorch compile the network for training steps, which takes minutes, and once more where an epoch's last batch "
                            "is shorter; meant for GPUs (default: off)")
    group.add_argument("--val-every", type=at_least(0),
                       help="epochs from one validation to the next; the last is always validated; 0: none, keep the last weights "
                            f"({of_recipes('val_every')})")
    group.add_argument("--warmup", type=at_least(0), default=0, metavar="STEPS",
                       help="first steps over which the learning rate rises linearly; for starts from random weights (default: 0)")
    group.add_argument("--seed", type=at_least(0), default=0, help="of initial weights, clips and stochastic depth (default: 0)")
    group.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=False,
                       help="only operations that give the same bits in every run; on a CPU training does so anyway (default: off)")


def run_arguments(group) -> None:
    group.add_argument("--run-dir", type=Path,
                       help="gets RecSalNet.pth (best weights), RecSalNet.json, last.pt and log.jsonl "
                            "(default: saved_models; of another network or other datasets than its own, a folder of their names in it)")
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue the run in --run-dir exactly where it stopped")
    again.add_argument("--overwrite", action="store_true",
                       help="start anew in a --run-dir that holds a run or weights, and replace them")
    group.add_argument("--tensorboard", action=argparse.BooleanOptionalAction, default=True,
                       help="curves in RUN_DIR/tensorboard, where TensorBoard is installed (default: on)")


def default_run_dir(model: str, datasets: list[str]) -> Path:
    """Where `default_weights` looks, for the network's own dataset; for others a folder in it, so that the weights to fine-tune stay there."""
    return default_folder(model) / ("" if datasets == [MODELS[model].dataset] else "+".join(datasets))


def launcher() -> str | None:
    """What started this process: the same again where torchrun restarts its processes after a failure; None where that cannot be told.

    A process number alone would not do: torchrun has the same one in every container.
    """
    try:
        started = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.getppid()} {started}"
    except (OSError, IndexError):
        return None


def launchers() -> list[str]:
    """What started the processes of this run: one for each machine, as far as it can be told."""
    return sorted({name for name in utils.all_gather(launcher()) if name})


def read_launches(record: Path) -> list[dict]:
    """The launches of a run.json; none where there is no such file, or it is damaged: it is a record, and no reason not to train."""
    try:
        launches = utils.read_json(record).get("launches") if record.is_file() else None
    except ValueError as error:
        print(f"begun anew: {error}")
        launches = None
    return [launch for launch in launches if isinstance(launch, dict)] if isinstance(launches, list) else []


def is_restart_of(record: Path) -> bool:
    """Whether torchrun has started the processes of the run that a run.json describes anew, because one of them failed.

    It has where one of the launchers is the same: another machine may have the first process now.
    """
    present = launchers() if "TORCHELASTIC_RESTART_COUNT" in os.environ else []
    launches = read_launches(record) if utils.is_main() and present else []
    before = launches[-1].get("launchers") if launches else None
    return utils.all_gather(isinstance(before, list) and not set(present).isdisjoint(map(str, before)))[0]


def record_launch(run: Run, device: torch.device) -> None:
    """Add to run.json, from which the run could be repeated, how it was started this time; of several processes, the first one does.

    What a killed launch left half written is removed.
    """
    started_by = launchers()
    if not utils.is_main():
        return
    utils.remove_leftovers(run.folder, ["last.pt", f"{type(run.model).__name__}.*", "*.json*"])
    path = run.folder / "run.json"
    earlier = read_launches(path)
    launch = {"date": utils.now(), "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "folder": os.getcwd(), "launchers": started_by,
              "epoch": run.epoch,
              "revision": utils.revision(), "versions": utils.versions(), "hardware": utils.hardware(device)}
    utils.write_json(path, {"data": run.data, "recipe": run.recipe, "launches": [*earlier, launch]})


def prepare_frames(cache: FrameCache, videos: list[Video], workers: int, skip_bad: bool) -> None:
    """Fill the cache: the first process of each machine writes, the others then find it there."""
    for turn in (True, False):
        if utils.is_local_main() == turn:
            cache.build(videos, max(1, workers), skip_bad)
        utils.barrier()


def record_of(model: nn.Module, recipe: dict, given: dict, precision: str, train_videos: list[Video], val_videos: list[Video],
              stage: str | None, flow: FlowSource | None) -> dict:
    """What the course of a run depends on, in plain values; `given` are all arguments."""
    return {
        "model": type(model).__name__, **model.config, "processes": utils.world_size(), "objective": recipe["loss_weights"],
        "precision": precision, "train": fingerprint(train_videos), "val": fingerprint(val_videos),
        **{name: recipe[name] for name in RECIPE if name != "epochs"}, "scales": list(recipe["scales"]),
        **{name: given[name] for name in ("weights", "encoder_weights", "seed", "compile", "deterministic", "thaw", "keep_flow_stage", "warmup")},
        "stage": stage, "flow": flow and flow.describe(),
    }


def compute_terms(recipe: dict) -> Callable[..., dict]:
    """The objective of a recipe: outputs, density or mask, and fixations to its terms."""
    if recipe["loss"] != "maps":
        return OBJECTIVES[recipe["loss"]]
    return functools.partial(objective, weights=recipe["loss_weights"], kl_over=recipe["kl_over"])


def chosen_recipe(own: dict, given: dict) -> dict:
    """A network's recipe, with what the user gave instead of it; `given` are all arguments, None where nothing was."""
    weights = {name: given[f"{name}_weight"] for name in TERMS if given[f"{name}_weight"] is not None}
    foreign = [f"--{name}-weight" for name in weights] + ["--kl-over"] * bool(given["kl_over"])
    if own["loss"] != "maps" and foreign:
        raise ValueError(f"{', '.join(foreign)}: for objectives that compare maps by several terms; this network's is \"{own['loss']}\", which has "
                         "none to weigh")
    if own["loss"] == "maps" and given["scales"]:
        raise ValueError("--scales is for networks that learn from masks: fixations cannot be resized")
    return {**own, **{name: given[name] for name in RECIPE if given[name] is not None}, "loss_weights": {**own["loss_weights"], **weights}}


def chosen_network(given: dict) -> dict:
    """The network's arguments that the user gave; one layer of --ema-loc as a number, several as a tuple."""
    network = {name: given[name] for name in NETWORK if given[name] is not None}
    if "ema_loc" in network:
        first, *others = network["ema_loc"]
        network["ema_loc"] = (first, *others) if others else first
    return network


def place_of_run(folder: Path, model_class: type[SaliencyModel], asked: str | None) -> tuple[str | None, Path, dict[str, Path]]:
    """Where a run lives whose network may be trained in stages.

    Args:
        folder: of the last stage, and in it a folder for each of the others.
        asked: a stage; by default the last one.

    Returns:
        The stage, None for networks that have none; its run folder; and of the last stage the weights of those before, by their names.
    """
    if asked and asked not in model_class.stages:
        raise ValueError(f"--train-type {asked} is for networks that are trained in stages: {model_class.__name__} is not")
    *before, last = model_class.stages or [None]
    if (asked or last) != last:
        return asked, folder / asked, {}
    return last, folder, {stage: run_files(folder / stage, model_class)[0] for stage in before}


def check_abilities(model_class: type[SaliencyModel], **wanted: bool) -> None:
    """Raise a ValueError where something is asked of a network that it cannot do."""
    for name, asked in wanted.items():
        if asked and name not in model_class.abilities:
            able = [key for key, model in MODELS.items() if name in model.abilities]
            raise ValueError(f"--{name.replace('_', '-')} is for {', '.join(able)}: {model_class.__name__} cannot do it")


def main(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    utils.seed_everything(args.seed, args.deterministic)
    keep_freed_memory()
    device = select_device(args.device)
    precision = choose_precision(args.precision, device, args.force_bfloat16)
    model_class, datasets = MODELS[args.model], args.dataset or [MODELS[args.model].dataset]
    recipe = chosen_recipe(vars(model_class.recipe), vars(args))
    stage, run_dir, earlier = place_of_run(args.run_dir or default_run_dir(args.model, datasets), model_class, args.train_type)
    check_abilities(model_class, thaw=args.thaw, activation_checkpointing=args.activation_checkpointing)
    if args.hold_out and not recipe["val_every"]:
        raise ValueError("--hold-out takes videos to validate on, and --val-every 0 says not to validate: leave out one of them")
    if args.keep_flow_stage and not earlier:
        raise ValueError("--keep-flow-stage is for the last stage of a network that is trained in stages: --model smcf --train-type finetune")
    restarted = is_restart_of(run_dir / "run.json")
    last = run_files(run_dir, model_class)[1]
    resume = args.resume or utils.all_gather(restarted and last.is_file())[0]
    if not resume and not args.overwrite and not restarted and utils.is_main():
        utils.refuse_to_replace(run_files(run_dir, model_class),
                                "continue with --resume, start anew with --overwrite, or choose another --run-dir")

    stored = read_last(last) if resume else None
    model = make_model(args.model, args.weights, stored, chosen_network(vars(args)))
    if stage:
        model.set_stage(stage)
    flow = flow_for(model, args.flow, args.keep_flow, args.raft_weights, torch.device("cpu"), strict=True)  # made by loader processes
    validated = recipe["val_every"] > 0 and not args.hold_out
    sources = choose_sources(datasets, args.data, args.train_split, args.val_split, validated, stage)
    need_fixations = recipe["loss"] == "maps" and recipe["loss_weights"].get("nss", 0) != 0
    train_videos, val_videos = training_videos(sources, args.skip_bad, args.hold_out, args.seed, model.target,
                                               need_fixations)
    cache = FrameCache(args.cache, model.prepare) if args.cache else None
    train_set, val_set = make_sets(model, train_videos, val_videos, recipe["flip"], args.seed, args.skip_bad, cache, flow)
    train_loader = clip_loader(train_set, recipe["batch_size"], args.workers, shuffle=True)
    val_loader = clip_loader(val_set, 1, args.workers, shuffle=False) if recipe["val_every"] else None

    run_dir.mkdir(parents=True, exist_ok=True)                             # a folder that cannot be written is said now
    if args.weights and not stored:
        print_configuration(model, args.weights)
    elif not stored and utils.is_main():                                  # the others get the first one's weights
        print(f"encoder weights: {initialise(model, args.encoder_weights, earlier, args.keep_flow_stage)}")
    if args.activation_checkpointing:
        model.activation_checkpointing = True
    model.to(device)
    record = record_of(model, recipe, vars(args), precision, train_videos, val_videos, stage, flow)
    if args.compile:
        compile_network(model)
    run = Run(model, make_optimizer(model, recipe["lr"]), run_dir, record, describe_data(sources, args.hold_out, val_videos))
    if stored:
        run.restore(stored)
        print(f"resuming after epoch {run.epoch}" + (f" and {run.progress['batches']} batches" if run.progress else ""))
    elif utils.is_main():
        clear_run(run_dir)
    record_launch(run, device)
    if cache:                                                              # after everything that could have been refused
        prepare_frames(cache, train_videos + val_videos, args.workers, args.skip_bad)
    stop = StopRequest()
    print(f"training {type(model).__name__} ({sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters) "
          f"at {model.config['frame_size'][0]} x {model.config['frame_size'][1]} on {device.type} in {precision}")
    steps = Steps(compute_terms(recipe), precision, warmup=args.warmup, **{name: recipe[name] for name in
                                                       ("accumulate", "gradients", "milestones", "gamma", "decay_epochs", "scales")})
    finished = fit(run, train_loader, val_loader, steps, recipe["epochs"], recipe["val_every"], args.thaw,
                   open_tensorboard(run_dir, args.tensorboard), stop)
    if not finished:
        print(f"stopped in epoch {run.epoch + 1}; the same command with --resume continues")
        return TERMINATED if stop.terminated else STOPPED
    print(f"finished {run.epoch} epochs: {run.weights}" + (f", validation CC {shown_cc(run.best_cc)}" if run.best_cc is not None else ""))
    return 0


if __name__ == "__main__":
    parser = arguments()
    try:
        given = parser.parse_args()
        with utils.process_group(given.device):
            code = main(given)
        parser.exit(code)
    except (OSError, ValueError, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"train.py: error: {error}\n")
    except FloatingPointError as error:
        parser.exit(1, f"train.py: stopped: {error}\n")
    except KeyboardInterrupt:
        parser.exit(STOPPED, "train.py: interrupted; the same command goes on, with --resume once the run folder has a last.pt; "
                             "prepared frames are kept\n")
