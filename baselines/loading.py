"""The network that --model and --weights name: its weights, loading and compiling it, where its flow comes from."""
import inspect
from pathlib import Path

import torch
from torch import nn

from baselines import MODELS
from saliency_model import OtherNetworkError, SaliencyModel
from utils import PRECISIONS, default_in_words, float32_is_float32
from videos.optical_flow import AUTO, FlowSource

OWN_DATASETS = default_in_words({name: model.dataset for name, model in MODELS.items()})  # for --help


def model_argument(group, **options) -> None:
    """The flag --model; with `nargs` among the options of `add_argument`, it takes several networks."""
    what = "networks, one or several" if "nargs" in options else "the network"
    options = {"default": "recsalnet", "help": f"{what} (default: recsalnet)", **options}
    group.add_argument("--model", choices=list(MODELS), **options)


def default_weights(name: str) -> Path:
    """Where the weights of a network, a key of `MODELS`, are.

    Those train.py wrote, else its authors' file, else those included in this repository.

    Raises:
        FileNotFoundError: there are none; the message names the network whose weights are included.
    """
    check_name(name)
    model = MODELS[name]
    own = default_folder(name) / f"{model.__name__}.pth"
    authors = Path("saved_models") / (model.authors_file or own.name)
    found = next((path for path in (own, authors, model.shipped_weights) if path and path.is_file()), None)
    if found:
        return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
    if model.shipped_weights:
        raise FileNotFoundError(f"no weights of {model.__name__}: neither {own} nor {model.shipped_weights}, which "
                                "belongs to this repository, is there. Restore it, or give --weights FILE")
    included = ", ".join(key for key, other in MODELS.items() if other.shipped_weights)
    raise FileNotFoundError(f"no weight file {own}: it does not exist. saved_models/README.md says which file "
                            f"{model.__name__} takes and where it is published (--weights FILE); train.py makes one. "
                            f"Weights are included of {included} alone: --model {included} makes maps right away. It "
                            f"is not {model.__name__} but a small network of ours, trained on still pictures with "
                            "human gaze, not on videos")


def default_folder(name: str) -> Path:
    """The run folder of a key of `MODELS`; the first one's is saved_models itself."""
    return Path("saved_models") / ("" if name == next(iter(MODELS)) else name)


def load_model(weights: str | Path, device: torch.device, precision: str = "float32", compiled: bool = False,
               frame_size: tuple[int, int] | None = None, name: str = "recsalnet") -> nn.Module:
    """Load a network for inference, in eval mode; turns TF32 off.

    Args:
        weights: path or https URL of the weight file.
        device: where to compute.
        precision: "float32" or "bfloat16".
        compiled: let PyTorch compile the network.
        frame_size: (H, W) that the network sees frames at, if not the one it was trained at.
        name: a key of `MODELS`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an argument is wrong, or the file holds no weights of this network.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    check_name(name)
    try:
        model = MODELS[name].from_pretrained(weights, frame_size)
    except OtherNetworkError as error:
        owner = next((key for key, other in MODELS.items() if other.known_by and other.is_held_by(error.entries)), None)
        if owner is None:
            raise
        raise ValueError(f"{error}. It is a file of {owner}: give --model {owner}") from error
    float32_is_float32()
    model = (model.bfloat16() if precision == "bfloat16" else model).to(device)
    if compiled:
        compile_network(model)
    return model


def check_name(name: str) -> None:
    """Raise a ValueError that lists the networks where there is none of this name."""
    if name not in MODELS:
        raise ValueError(f"model must be one of {list(MODELS)}, got {name!r}")


def compile_network(model: nn.Module, backend: str = "inductor") -> None:
    """Have PyTorch compile the network at its first clip, for clips of one shape; an eager pass builds masks first."""
    if "compile" not in model.abilities:
        raise ValueError(f"--compile is for networks of windows: {type(model).__name__} goes through a video in pieces "
                         "of any length")
    training = model.training
    with torch.no_grad():
        model.eval()(*model.blank())
    model.train(training).compile(dynamic=False, backend=backend)


def print_configuration(model: nn.Module, weights: str | Path) -> None:
    """Print the configuration that a weight file belongs to, as far as it differs from the paper's."""
    if not model.is_described:
        print(f"no configuration in or beside {weights}: what its entries do not tell, such as the frame size, "
              "is assumed to be the network's default")
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(model)).parameters.items()}
    changed = [f"{name} {value}" for name, value in model.config.items()
               if name != "frame_size" and value != defaults[name]
               and tuple(value if isinstance(value, list) else ()) != defaults[name]]
    size = model.config["frame_size"]
    frames = f"frames of {size[0]} x {size[1]}" if size else "frames of their own sizes"
    print(", ".join([f"{weights}: {type(model).__name__}", frames, *changed]))


def flow_for(model: SaliencyModel, source: str, keep: bool, raft_weights: str | None, device: torch.device,
             strict: bool = False) -> FlowSource | None:
    """Where a network's flow comes from; None where it needs none, or not in this stage of its training.

    Args:
        model: the network.
        source, keep, raft_weights: the flags of `flow_arguments`.
        device: where flow is computed.
        strict: whether the flags are an error for networks without flow.
    """
    if strict and not type(model).needs_flow and (source != AUTO or raft_weights):
        raise ValueError(f"--flow and --raft-weights are for networks of optical flow: {type(model).__name__} takes "
                         "none")
    return FlowSource(source, model.flow_picture, keep, raft_weights, device.type) if model.needs_flow else None
