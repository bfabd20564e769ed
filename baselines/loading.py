"""The network that --model and --weights name: its weight file, loaded, described and compiled; and where its flow comes from."""
import inspect
from pathlib import Path

import torch
from torch import nn

from baselines import MODELS
from baselines.optical_flow import AUTO, FlowSource
from saliency_model import SaliencyModel
from utils import PRECISIONS, float32_is_float32


def model_argument(group, **options) -> None:
    """The flag that says which network."""
    group.add_argument("--model", choices=list(MODELS), **{"default": "recsalnet", **options},
                       help=f"{'networks, one or several' if 'nargs' in options else 'the network'} (default: recsalnet)")


def default_weights(name: str) -> Path:
    """Where the weights of a key of `MODELS` are: what train.py wrote (the first one's in saved_models itself), else its authors' file there."""
    own = default_folder(name) / f"{MODELS[name].__name__}.pth"
    authors = Path("saved_models") / (MODELS[name].authors_file or own.name)
    return authors if authors.is_file() and not own.is_file() else own


def default_folder(name: str) -> Path:
    """The run folder of a key of `MODELS`."""
    return Path("saved_models") / ("" if name == next(iter(MODELS)) else name)


def load_model(weights: str | Path, device: torch.device, precision: str = "float32", compiled: bool = False,
               frame_size: tuple[int, int] | None = None, name: str = "recsalnet") -> nn.Module:
    """The network, a key of `MODELS`, of a weight file (path or https URL), in eval mode on the device, in a precision for inference."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    if name not in MODELS:
        raise ValueError(f"model must be one of {list(MODELS)}, got {name!r}")
    model = MODELS[name].from_pretrained(weights, frame_size)
    float32_is_float32()
    model = (model.bfloat16() if precision == "bfloat16" else model).to(device)
    if compiled:
        compile_network(model)
    return model


def compile_network(model: nn.Module, backend: str = "inductor") -> None:
    """Let PyTorch compile the network, for clips of one shape, at its first clip; one eager pass before builds the masks."""
    if "compile" not in model.abilities:
        raise ValueError(f"--compile is for networks of windows: {type(model).__name__} goes through a video in pieces of any length")
    training = model.training
    with torch.no_grad():
        model.eval()(*model.blank())
    model.train(training).compile(dynamic=False, backend=backend)


def print_configuration(model: nn.Module, weights: str | Path) -> None:
    """Print what a weight file turned out to hold: the configuration as far as it is not the paper's."""
    if not model.is_described:
        print(f"no configuration in or beside {weights}: what its entries do not tell, such as the frame size, is assumed to be the paper's")
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(model)).parameters.items()}
    changed = [f"{name} {value}" for name, value in model.config.items() if name != "frame_size" and value != defaults[name]
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
        raise ValueError(f"--flow and --raft-weights are for networks of optical flow: {type(model).__name__} takes none")
    return FlowSource(source, model.flow_picture, keep, raft_weights, device.type) if model.needs_flow else None
