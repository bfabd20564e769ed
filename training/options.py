"""The command line of train.py; the defaults of training are the networks' own recipes.

How to add a flag for training, or for an argument of a network: docs/extending.md.
"""
import argparse
import inspect
import math
import os
from dataclasses import replace
from pathlib import Path

from baselines import MODELS
from baselines.loading import OWN_DATASETS, default_folder, model_argument
from loss import GRADIENTS, KL_OVER, LABELS, SIGNS, TERMS, Recipe
from utils import at_least, default_in_words, device_arguments, positive
from videos.optical_flow import PICTURES, flow_arguments
from videos.splits import DATASET_FOLDERS, DATASETS, of_datasets

# Arguments of networks: of each of these flags, the network's own default holds unless it is given.
NETWORK = {name for model in MODELS.values() for name in inspect.signature(model).parameters}


def arguments(description: str | None = None) -> argparse.ArgumentParser:
    """The parser of train.py's command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    model_argument(parser)
    data_arguments(parser.add_argument_group("data"))
    network_arguments(parser.add_argument_group("network (the defaults are the papers', or those of --weights)"))
    training_arguments(parser.add_argument_group("training (the defaults are the network's own recipe)"))
    signs = " ".join(f"{'+-'[SIGNS[name] < 0]} {name} {LABELS[name]}" for name in TERMS)
    terms = parser.add_argument_group(f"objective: loss = {signs.removeprefix('+ ')}")
    for name in TERMS:
        terms.add_argument(f"--{name}-weight", action=TermWeight, dest="loss_weights", const=name, type=finite,
                           metavar=f"{name.upper()}_WEIGHT",
                           help=f"weight of {LABELS[name]} ({of_recipes('loss_weights', name)})")
    terms.add_argument("--kl-over", choices=KL_OVER,
                       help="what both maps of KL are divided by the sum of: each sample, or the whole batch, as if it "
                            f"were one map ({of_recipes('kl_over')})")
    flow_arguments(parser)
    run_arguments(parser.add_argument_group("run folder"))
    device_arguments(parser, "bfloat16 on CUDA, else float32", "autocast")
    return parser


def data_arguments(group) -> None:
    onoff = argparse.BooleanOptionalAction
    group.add_argument("--dataset", choices=list(DATASETS), nargs="+", action="extend",
                       help="what to train on, one or several, whose split names are known; folder: your own "
                            f"({OWN_DATASETS})")
    group.add_argument("--data", type=Path, nargs="+", action="extend", metavar="FOLDER",
                       help=f"its folder, or theirs, in any tree of data/README.md (default: {DATASET_FOLDERS})")
    group.add_argument("--train-split", metavar="SPLIT",
                       help="what to train on: a folder below --data, a list of names (.txt), numbers such as 1-600, "
                            f"or all ({of_datasets('train')})")
    validation = group.add_mutually_exclusive_group()
    validation.add_argument("--val-split", metavar="SPLIT",
                            help="what to choose weights by; of datasets without a validation set the test set, as "
                                 f"the papers do ({of_datasets('val')})")
    validation.add_argument("--hold-out", type=share, metavar="SHARE",
                            help="choose weights by this share of the training videos, which are then not trained on, "
                                 "such as 0.1 (default: none)")
    group.add_argument("--frame-size", type=at_least(16), nargs=2, metavar=("H", "W"),
                       help="size the network sees, in pixels, multiples of 32, of 16 for SalEMA and its siblings "
                            "(default: the paper's, such as 224 384)")
    group.add_argument("--frame-stride", type=at_least(1),
                       help="frames of the video from one frame of a clip to the next (default: 1)")
    group.add_argument("--cache", type=Path, metavar="DIR",
                       help="keep the frames at the network's size there, uncompressed (105 GB for DHF1K at "
                            "224 x 384), and read clips from it many times faster; made on demand, and again where "
                            "frames have changed (default: none)")
    group.add_argument("--flip", action=onoff, help=f"mirror half of the training clips ({of_recipes('flip')})")
    group.add_argument("--zoom", type=share_or_none, metavar="SHARE",
                       help="recurrent networks: make a clip of a still picture by panning and zooming through it, "
                            f"leaving out this share of its sides at most; 0: one frame ({of_recipes('zoom')})")
    group.add_argument("--skip-bad", action=onoff, default=False,
                       help="leave out unreadable videos and clips, counted and reported, instead of stopping "
                            "(default: off)")
    workers = min(4, os.cpu_count() or 1)
    group.add_argument("--workers", type=at_least(0), default=workers,
                       help="processes that decode clips; 0: none besides this one (default: 4 or the number of "
                            f"cores, here {workers})")


def network_arguments(group) -> None:
    files = {model.start_file.name for model in MODELS.values() if model.start_file}
    start = group.add_mutually_exclusive_group()
    start.add_argument("--weights", metavar="FILE",
                       help="weights of the whole network to start from, for fine-tuning: a path, or an https URL as "
                            "in test.py (default: none)")
    start.add_argument("--encoder-weights", default="auto", metavar="{auto,torchvision,none,FILE}",
                       help="pretrained weights to start from; auto: the network's own file if it lies in "
                            f"saved_models/ ({', '.join(sorted(files))}), else torchvision's, downloaded, where it has "
                            "some; FILE#KEY: one of several state dicts in a file (default: auto)")
    group.add_argument("--num-recursions", type=at_least(0),
                       help="K, passes through the recursive block (default: 2; recsal_lite: 1)")
    group.add_argument("--patch-norm", action=argparse.BooleanOptionalAction,
                       help="LayerNorm after the patch embedding; the authors have none (default: off)")
    group.add_argument("--width", type=at_least(8),
                       help="channels of the decoder, a multiple of 8 (default: 192; recsal_lite: 48)")
    group.add_argument("--embed-dim", type=at_least(1), help="channels of the encoder's first stage (default: 96)")
    group.add_argument("--depths", type=at_least(1), nargs=4,
                       help="blocks in each stage of the encoder (default: 2 2 18 2)")
    group.add_argument("--num-heads", type=at_least(1), nargs=4,
                       help="attention heads in each stage (default: 3 6 12 24)")
    group.add_argument("--drop-path", type=float,
                       help="stochastic depth of the encoder's last block, a probability (default: 0.2)")
    group.add_argument("--alpha", type=alpha,
                       help="SalEMA: learnt, or a constant; the new frame's share is its sigmoid (default: learnt)")
    group.add_argument("--ema-loc", action=OneOrSeveral, type=at_least(0), nargs="+", metavar="LAYER",
                       help="SalEMA: the layer that is averaged, or two (default: 30)")
    group.add_argument("--residual", action=argparse.BooleanOptionalAction,
                       help="SalEMA, SalCLSTM30: add what goes into the layer with the state to what comes out "
                            "(default: off)")
    group.add_argument("--dropout", action=argparse.BooleanOptionalAction,
                       help="SalEMA: drop half of the averaged layer's channels (default: off)")
    group.add_argument("--output-share", type=positive,
                       help="RecSal-Lite: the new frame's share in the moving average of its output, up to 1, which is "
                            "no average (default: 0.3)")
    group.add_argument("--flow-kind", choices=list(PICTURES),
                       help="two-stream networks: how flow becomes a picture, its x, y and length, or a colour wheel "
                            "(default: components)")
    group.add_argument("--trunk-width", type=at_least(4),
                       help="SMCF: channels of its trunks' stems, a multiple of 4 (default: 64)")
    group.add_argument("--trunk-blocks", type=at_least(1), nargs=4,
                       help="SMCF: blocks in each level of its trunks (default: 3 4 6 3, ResNet-50)")


def training_arguments(group) -> None:
    stages = list(dict.fromkeys(stage for model in MODELS.values() for stage in model.stages))
    group.add_argument("--train-type", choices=stages,
                       help="stage of a network that is trained in several (smcf): frames as both inputs, flow as "
                            "both, each as itself, starting from both stages before, which lie in "
                            "RUN_DIR/pretrain-rgb and RUN_DIR/pretrain-flow (default: finetune)")
    group.add_argument("--keep-flow-stage", action=argparse.BooleanOptionalAction, default=False,
                       help="finetune: parts that see nothing but the flow start from pretrain-flow; the authors' "
                            "start from pretrain-rgb, as all others do (default: off)")
    group.add_argument("--scales", type=positive, nargs="+",
                       help="of --frame-size, in multiples of 32 pixels; each batch is trained on at every one "
                            f"({of_recipes('scales')})")
    group.add_argument("--epochs", type=at_least(1),
                       help="epochs, each one clip of every video, or all of it where a state is carried, shared out "
                            f"where there are several processes ({of_recipes('epochs')})")
    group.add_argument("--lr", type=positive,
                       help=f"learning rate, the same however many processes there are ({of_recipes('lr')})")
    group.add_argument("--batch-size", type=at_least(1),
                       help="clips in a forward pass, of each process where there are several "
                            f"({of_recipes('batch_size')})")
    group.add_argument("--accumulate", type=at_least(1), help=f"batches of a step ({of_recipes('accumulate')})")
    group.add_argument("--gradients", choices=GRADIENTS,
                       help="whether a step's gradients are averaged over its clips or summed over its batches "
                            f"({of_recipes('gradients')})")
    group.add_argument("--activation-checkpointing", action=argparse.BooleanOptionalAction, default=False,
                       help="less memory for more time: recompute activations in the backward pass (default: off)")
    group.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                       help="let PyTorch compile the network for training steps, which takes minutes, and once more "
                            "where an epoch's last batch is shorter; meant for GPUs (default: off)")
    group.add_argument("--val-every", type=at_least(0),
                       help="epochs from one validation to the next; the last is always validated; 0: none, keep the "
                            f"last weights ({of_recipes('val_every')})")
    group.add_argument("--warmup", type=at_least(0), metavar="STEPS",
                       help="first steps over which the learning rate rises linearly; for starts from random weights "
                            f"({of_recipes('warmup')})")
    group.add_argument("--thaw", action=argparse.BooleanOptionalAction,
                       help="recurrent networks: freeze the pretrained part at first and train it later, SalEMA's from "
                            f"its end towards its front ({of_recipes('thaw')})")
    group.add_argument("--seed", type=at_least(0), default=0,
                       help="seed of initial weights, clips and stochastic depth (default: 0)")
    group.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=False,
                       help="only operations that give the same bits in every run; on a CPU training does so anyway "
                            "(default: off)")


def run_arguments(group) -> None:
    group.add_argument("--run-dir", type=Path,
                       help="gets RecSalNet.pth (best weights), RecSalNet.json, last.pt and log.jsonl "
                            "(default: saved_models; of another network or other datasets than its own, a folder of "
                            "their names in it)")
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue the run in --run-dir exactly where it stopped")
    again.add_argument("--overwrite", action="store_true",
                       help="start over in a --run-dir that holds a run or weights, and replace them")
    group.add_argument("--tensorboard", action=argparse.BooleanOptionalAction, default=True,
                       help="curves in RUN_DIR/tensorboard, where TensorBoard is installed (default: on)")


class TermWeight(argparse.Action):
    """Collects --kl-weight 1, --cc-weight 2 and the like as {"kl": 1.0, "cc": 2.0}; the flag's `const` is the term."""

    def __call__(self, parser, namespace, value, flag=None) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), self.const: value})


class OneOrSeveral(argparse.Action):
    """One value as it is, several as a tuple."""

    def __call__(self, parser, namespace, values, flag=None) -> None:
        setattr(namespace, self.dest, tuple(values) if len(values) > 1 else values[0])


def finite(text: str) -> float:
    """An argparse type: a finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return value


def share(text: str) -> float:
    """An argparse type: a number between 0 and 1, both excluded."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def share_or_none(text: str) -> float:
    """An argparse type: a number from 0 on, below 1."""
    return 0.0 if float(text) == 0 else share(text)


def alpha(text: str) -> float | str:
    """An argparse type: "learnt" or a number."""
    return text if text == "learnt" else finite(text)


def of_recipes(field: str, term: str | None = None) -> str:
    """The default of a flag in words: the networks' own values of a field, or of a term of their objectives."""
    values = {name: getattr(model.recipe, field) for name, model in MODELS.items()}
    values = {name: value[term] if term else value for name, value in values.items()}
    values = {name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}
    return default_in_words(values)


def chosen_recipe(own: Recipe, given: dict) -> Recipe:
    """A network's own recipe with the fields that the user gave instead; `loss_weights` may have some terms only.

    Raises:
        ValueError: one is meaningless for this network.
    """
    weights = given.get("loss_weights", {})
    foreign = [f"--{name}-weight" for name in weights] + ["--kl-over"] * ("kl_over" in given)
    if own.loss != "maps" and foreign:
        raise ValueError(f"{', '.join(foreign)}: for objectives that compare maps by several terms; this network's is "
                         f'"{own.loss}", which has none to weigh')
    if own.loss == "maps" and "scales" in given:
        raise ValueError("--scales is for networks that learn from masks: fixations cannot be resized")
    return replace(own, **{**given, "loss_weights": {**own.loss_weights, **weights}})


def default_run_dir(model: str, datasets: list[str]) -> Path:
    """Where `default_weights` looks, for the network's own dataset.

    For others a folder in it, so that the weights to fine-tune stay where they are.
    """
    return default_folder(model) / ("" if datasets == [MODELS[model].dataset] else "+".join(datasets))
