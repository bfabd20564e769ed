"""Train a saliency network. With no argument: RecSal-Net by the paper's recipe, on data/DHF1K.

    python train.py
    python train.py --resume
    python train.py --dataset ucf-sports --weights saved_models/RecSalNet.pth # fine-tuning
    python train.py --dataset dhf1k hollywood2 ucf-sports --cache cache       # on several datasets
    python train.py --model tased_net                                         # another network, by its own recipe
    torchrun --nproc-per-node 4 train.py --batch-size 2                       # on 4 GPUs: steps of 8 clips
"""
import argparse
import contextlib
import math
import sys
import time
from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

import utils
from baselines import MODELS
from baselines.loading import compile_network, flow_for, print_configuration
from dataloader import clip_loader, explain_worker_deaths, readable
from loss import Recipe, cc, kldiv, l1, nss, similarity
from saliency_model import Carried
from training.checkpoint import read_last
from training.log import log_epoch, open_tensorboard, shown_cc
from training.optimizer import make_optimizer, set_rates
from training.options import NETWORK, arguments, chosen_recipe, default_run_dir
from training.progress import Progress, Stopped, StopRequest
from training.run import Run, clear_run, is_restart_of, place_of_run, record_launch, run_files
from training.sets import (
    at_scale,
    at_scales,
    choose_sources,
    describe_data,
    fingerprint,
    make_sets,
    prepare_frames,
    training_videos,
)
from training.start import check_abilities, initialise_weights, make_model
from utils import choose_precision, keep_freed_memory, precision_context, select_device
from videos.prepared import FrameCache

# What validation measures: weights are chosen by CC, the others are logged. AUCs and the measures of salient objects
# are test.py's.
VALIDATION = {"density": {"cc": cc, "kl": kldiv, "nss": nss, "sim": similarity}, "mask": {"cc": cc, "mae": l1}}
STOPPED, TERMINATED = 130, 143  # exit codes after Ctrl-C, after SIGTERM


# One epoch, one validation

def train_one_epoch(model: nn.Module, module: nn.Module, loader: DataLoader, recipe: Recipe, precision: str,
                    optimizer: Optimizer, progress: Progress, stop: StopRequest) -> bool:
    """Train on what is left of an epoch, stopping between optimiser steps when asked to.

    Several processes make each step together, on the mean over all their maps; one without clips takes part too.

    Args:
        model: a `SaliencyModel`, on its device; set to train mode here.
        module: what `for_training` made of it.
        loader: of batches; its sampler starts where `progress` says.
        recipe: the objective, and how steps are made.
        precision: "float32" or "bfloat16" (autocast), of the forward pass.
        optimizer: over the model's parameters.
        progress: this process's, updated in place after each optimiser step.
        stop: says whether the user asked to stop.

    Returns:
        Whether the epoch was finished.

    Raises:
        FloatingPointError: the loss is not finite; the message says on which (video, frame), with all terms.
        ValueError: a clip cannot be read, or every clip of the epoch was skipped.
    """
    module.train()
    device = next(model.parameters()).device
    started, epochs = time.perf_counter(), loader.batch_sampler.epoch
    stream = at_scales(readable(loader), recipe.scales, skip=progress.batches % len(recipe.scales))
    bar = tqdm(total=progress.length - progress.batches, desc=f"epoch {epochs + 1}", unit="batch", leave=False,
               disable=utils.hide_bar())
    while loaded := progress.next_batches(stream, recipe.accumulate):
        batches = [batch for batch in loaded if "clip" in batch]  # some hold nothing but skipped clips
        count, maps = utils.all_reduce_sum([len(batches), sum(len(batch["density"]) for batch in batches)])
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            # Several processes average their gradients once a step, in the backward pass of its last batch.
            with contextlib.nullcontext() if utils.world_size() == 1 or batch is batches[-1] else module.no_sync():
                density = at_scale(batch["density"].to(device, non_blocking=True), batch["scale"])
                with precision_context(precision, device):
                    inputs = [at_scale(x, batch["scale"]) for x in model.batch_inputs(batch, device)]
                    outputs = model.training_outputs(module, inputs, batch, progress.carried)
                if len(density):
                    terms = recipe.compute_terms(model.for_objective(outputs), density, batch.get("fixations"))
                    refuse_non_finite(terms, batch)
                    progress.add_terms(terms, len(density))
                else:
                    terms = {"loss": outputs.sum()}                   # 0: no frame of the clip is annotated
                weight = len(density) / max(1, maps) if recipe.gradients == "averaged" else 1
                loss = terms["loss"] * (weight * utils.world_size())  # DistributedDataParallel divides by it
                loss.backward()
                del inputs, outputs, terms, loss                      # or their memory is held during the step
        if count and not batches:
            zero_loss(model, module, precision).backward()            # the other processes wait for gradients
        if maps:
            decay = recipe.gamma ** recipe.decays(progress.steps, epochs)
            set_rates(optimizer, decay, recipe.warmup_factor(progress.steps))
            optimizer.step()
            progress.steps += 1
        progress.skipped += report_skipped(loaded)
        progress.batches += len(loaded)
        bar.update(len(loaded))
        if any(utils.all_reduce_sum([stop.requested])):  # all processes stop after the same step
            stop.requested = True
            break
    bar.close()
    progress.seconds += time.perf_counter() - started
    trained, skipped = utils.all_reduce_sum([progress.clips, progress.skipped])
    if progress.batches < progress.length:
        return False
    progress.carried = Carried()
    if not trained:
        raise ValueError(f"all {skipped:.0f} clips of epoch {epochs + 1} were skipped: nothing to train on")
    return True


def refuse_non_finite(terms: dict[str, Tensor | int], batch: dict) -> None:
    """Raise a FloatingPointError with the batch's clips and all terms where the loss is not finite."""
    if not torch.isfinite(terms["loss"]):
        values = {name: float(torch.as_tensor(value).detach()) for name, value in terms.items()}
        where = list(zip(batch["video"], batch["frame"]))
        raise FloatingPointError(f"loss is {values['loss']} on (video, frame) {where}: {values}. Lower --lr, or try "
                                 "--precision float32")


def zero_loss(model: nn.Module, module: nn.Module, precision: str) -> Tensor:
    """A loss whose gradients are zero, for a process that has no clip of a step: the others wait for it."""
    norms = [layer for layer in model.modules()
             if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training]
    for norm in norms:  # their averages must not see the zeros
        norm.eval()
    with precision_context(precision, next(model.parameters()).device):
        outputs = module(*model.blank())
    for norm in norms:
        norm.train()
    return sum(output.sum() for output in model.loss_outputs(outputs)) * 0


def for_training(model: nn.Module, idle_parameters: bool = False) -> nn.Module:
    """The module whose forward pass `train_one_epoch` calls; with several processes, in DistributedDataParallel.

    Args:
        model: on its device.
        idle_parameters: whether some parameters get no gradient in some steps; DistributedDataParallel must find them.
    """
    module = model.training_module()
    return DistributedDataParallel(module, find_unused_parameters=idle_parameters) if utils.world_size() > 1 else module


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader, precision: str) -> dict[str, float]:
    """Mean measures over validation clips, or groups, at the annotation's full resolution (the authors' protocol).

    Returns:
        {"cc", "kl", "nss", "sim"}, or {"cc", "mae"} of networks that learn masks: means over the clips where each is
        defined, NaN where none is; {"clips", "skipped"}: how many were measured, and how many could not be read. Each
        process measures its share of the clips; all return the same.

    Raises:
        ValueError: a clip cannot be read, or none could.
    """
    model.eval()
    device, measured, skipped = next(model.parameters()).device, VALIDATION[model.target], 0
    values = {name: [] for name in measured}
    for batch in tqdm(readable(loader), desc="validation", total=len(loader), unit="clip", leave=False,
                      disable=utils.hide_bar()):
        skipped += report_skipped([batch])
        if "clip" not in batch:
            continue
        density = batch["density"].to(device)
        with precision_context(precision, device):
            outputs = model.forward(*model.batch_inputs(batch, device))  # not compiled, even with --compile
        output = model.main_output(outputs)
        saliency = model.finish(output[-1:], density.shape[1:])          # of a group, its last frame's
        for name, measure in measured.items():
            values[name].append(measure(saliency, batch["fixations"] if measure is nss else density))
    return mean_values({name: torch.cat(column).tolist() if column else [] for name, column in values.items()}, skipped)


def mean_values(values: dict[str, list[float]], skipped: int) -> dict[str, float]:
    """`validate`'s result from the values of this process and, through sums and counts, of all others."""
    defined = {name: [value for value in column if not math.isnan(value)] for name, column in values.items()}
    counts = utils.all_reduce_sum([len(values["cc"]), skipped, *map(len, defined.values())])
    sums = utils.all_reduce_sum([math.fsum(column) for column in defined.values()])
    if not counts[0]:
        raise ValueError(f"all {counts[1]:.0f} validation clips were skipped: no measure to choose weights by")
    means = {name: total / count if count else math.nan for name, total, count in zip(defined, sums, counts[2:])}
    return {**means, "clips": int(counts[0]), "skipped": int(counts[1])}


def report_skipped(batches: list[dict]) -> int:
    """Show the clips that --skip-bad left out, and count them."""
    messages = [message for batch in batches for message in batch["skipped"]]
    for message in messages:
        tqdm.write(f"skipped: {message}", file=sys.stdout if utils.is_main() else sys.stderr)  # others have no stdout
    return len(messages)


# The run, from set-up to the last epoch

def fit(run: Run, train_loader: DataLoader, val_loader: DataLoader | None, recipe: Recipe, precision: str, writer,
        stop: StopRequest) -> bool:
    """Train until the recipe's epochs are finished; returns False if the user stopped it before.

    Args:
        run: starts, or continues in the middle of an epoch.
        train_loader: of batches to train on.
        val_loader: of clips to choose weights by; None keeps the last weights.
        recipe: the objective, how steps are made, how many epochs.
        precision: as in `train_one_epoch`.
        writer: TensorBoard's, or None.
        stop: the user's wish to stop.
    """
    sampler = train_loader.batch_sampler
    module = for_training(run.model, recipe.thaw or run.model.has_idle_parameters)
    with contextlib.suppress(Stopped), stop, explain_worker_deaths(train_loader, *filter(None, [val_loader])):
        while run.epoch < recipe.epochs and not any(utils.all_reduce_sum([stop.requested])):
            started = time.time()
            sampler.epoch, sampler.start = run.epoch, 0
            run.progress = run.progress or Progress(len(sampler) * len(recipe.scales), run.steps)
            sampler.start = run.progress.batches // len(recipe.scales)
            if recipe.thaw:
                run.model.thaw(run.epoch + 1)
            if not train_one_epoch(run.model, module, train_loader, recipe, precision, run.optimizer, run.progress,
                                   stop):
                run.save()  # in the middle of the epoch
                break
            scores, last = None, run.epoch + 1 == recipe.epochs
            if val_loader is not None and (last or (run.epoch + 1) % recipe.val_every == 0):
                run.save()  # a request to stop interrupts validation
                stop.requested = any(utils.all_reduce_sum([stop.requested]))
                with stop.at_once():
                    scores = validate(run.model, val_loader, precision)
            seconds = time.time() - started
            progress, run.progress = run.progress.combined(), None
            run.epoch, run.steps = run.epoch + 1, progress.steps
            if scores is not None:
                run.consider(scores)
            elif val_loader is None:
                run.keep_weights(None)
            if utils.is_main():
                log_epoch(run, progress, scores, seconds, writer)
            run.save()
    return run.epoch >= recipe.epochs


def main(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    utils.seed_everything(args.seed, args.deterministic)
    keep_freed_memory()
    device = select_device(args.device)
    precision = choose_precision(args.precision, device, args.force_bfloat16)
    model_class, datasets = MODELS[args.model], args.dataset or [MODELS[args.model].dataset]
    given = {name: value for name, value in vars(args).items() if value is not None}
    recipe = chosen_recipe(model_class.recipe, {f.name: given[f.name] for f in fields(Recipe) if f.name in given})
    run_dir = args.run_dir or default_run_dir(args.model, datasets)
    stage, run_dir, earlier = place_of_run(run_dir, model_class, args.train_type)
    check_abilities(model_class, thaw=recipe.thaw, activation_checkpointing=args.activation_checkpointing)
    if args.hold_out and not recipe.val_every:
        raise ValueError("--hold-out takes videos to validate on, and --val-every 0, given or of the network's recipe, "
                         "says not to validate: give --val-every 1, or leave out --hold-out")
    if args.keep_flow_stage and not earlier:
        raise ValueError("--keep-flow-stage is for the last stage of a network that is trained in stages: --model smcf "
                         "--train-type finetune")
    restarted = is_restart_of(run_dir / "run.json")
    last = run_files(run_dir, model_class)[1]
    resume = args.resume or utils.all_gather(restarted and last.is_file())[0]
    if not resume and not args.overwrite and not restarted and utils.is_main():
        utils.refuse_to_replace(run_files(run_dir, model_class),
                                "continue with --resume, start over with --overwrite, or choose another --run-dir")

    stored = read_last(last) if resume else None
    network = {name: value for name, value in given.items() if name in NETWORK}
    model = make_model(args.model, args.weights, stored, network)
    if stage:
        model.set_stage(stage)
    # On the CPU: loader processes make it.
    flow = flow_for(model, args.flow, args.keep_flow, args.raft_weights, torch.device("cpu"), strict=True)
    validated = recipe.val_every > 0 and not args.hold_out
    sources = choose_sources(datasets, args.data, args.train_split, args.val_split, validated, stage)
    fixations_matter = recipe.loss == "maps" and recipe.loss_weights["nss"] != 0
    annotation = "density alone" if model.target == "density" and not fixations_matter else model.target
    train_videos, val_videos = training_videos(sources, args.skip_bad, args.hold_out, args.seed, annotation)
    cache = FrameCache(args.cache, model.prepare) if args.cache else None
    train_set, val_set = make_sets(model, train_videos, val_videos, recipe, args.seed, args.skip_bad, cache, flow)
    train_loader = clip_loader(train_set, recipe.batch_size, args.workers, shuffle=True)
    val_loader = clip_loader(val_set, 1, args.workers, shuffle=False) if recipe.val_every else None

    run_dir.mkdir(parents=True, exist_ok=True)  # fails now if it cannot be written
    if args.weights and not stored:
        print_configuration(model, args.weights)
    elif not stored and utils.is_main():  # the others get this process's weights
        print(f"encoder weights: {initialise_weights(model, args.encoder_weights, earlier, args.keep_flow_stage)}")
    if args.activation_checkpointing:
        model.activation_checkpointing = True
    model.to(device)
    record = {  # what the course of the run depends on
        "model": type(model).__name__, **model.config, "processes": utils.world_size(), "precision": precision,
        "train": fingerprint(train_videos), "val": fingerprint(val_videos), **recipe.record(),
        "weights": args.weights, "encoder_weights": args.encoder_weights, "seed": args.seed, "compile": args.compile,
        "deterministic": args.deterministic, "keep_flow_stage": args.keep_flow_stage, "stage": stage,
        "flow": flow and flow.describe(),
    }
    if args.compile:
        compile_network(model)
    data = describe_data(sources, args.hold_out, val_videos)
    run = Run(model, make_optimizer(model, recipe.lr), run_dir, record, data)
    if stored:
        run.restore(stored)
        print(f"resuming after epoch {run.epoch}" + (f" and {run.progress.batches} batches" if run.progress else "")
              + (": all --epochs are done, a higher number continues" if run.epoch >= recipe.epochs else ""))
    elif utils.is_main():
        clear_run(run_dir)
    record_launch(run, device)
    if cache:  # takes long: after all that could fail
        prepare_frames(cache, train_videos + val_videos, args.workers, args.skip_bad)
    stop = StopRequest()
    print(f"training {type(model).__name__} ({sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters) "
          f"at {model.config['frame_size'][0]} x {model.config['frame_size'][1]} on {device.type} in {precision}")
    writer = open_tensorboard(run_dir, args.tensorboard)
    if not fit(run, train_loader, val_loader, recipe, precision, writer, stop):
        print(f"stopped in epoch {run.epoch + 1}; the same command with --resume continues")
        return TERMINATED if stop.terminated else STOPPED
    best = f", best validation CC {shown_cc(run.best_cc)}" if run.best_cc is not None else ""
    print(f"finished {run.epoch} epochs: {run.weights}{best}")
    return 0


if __name__ == "__main__":
    parser = arguments(__doc__)
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
        parser.exit(STOPPED, "train.py: interrupted; the same command continues, with --resume once the run folder has "
                             "a last.pt; prepared frames are kept\n")
