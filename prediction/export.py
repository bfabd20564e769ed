"""Networks for other programs: torch.export, ONNX, safetensors."""
import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import utils
from baselines import MODELS
from saliency_model import RecurrentModel, SaliencyModel, map_state
from weights import save_safetensors

EXPORTABLE = "2.6"  # torch.export of PyTorch 2.4 fails on the authors' names in state dicts


def export(model: SaliencyModel, path: Path) -> str:
    """Write the network for other programs, and compare its output there with PyTorch's; returns the result as text.

    Args:
        model: in eval mode, float32, on the CPU.
        path: `.pt2` (torch.export) or `.onnx`, of any batch size B: from a clip (B, 3, 32, H, W), normalised, to the
            map (B, h, w); of a recurrent network from a frame (B, 3, H, W) and the state, all zeros before the first
            frame, to its map and the new state. Or `.safetensors`: the weights, with the configuration in the file's
            metadata.

    Raises:
        ValueError: the suffix is another one, the network cannot be exported and the suffix is not `.safetensors`, or
            the outputs differ by more than 1e-4.
        ModuleNotFoundError: ONNX needs the packages onnx and onnxscript.
    """
    if path.suffix == ".safetensors":
        save_safetensors(model.state_dict(), model.config, path)
        return "weights and configuration"
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--export {path}: the name must end in .pt2, .onnx or .safetensors")
    if "export" not in model.abilities:
        able = ", ".join(name for name, other in MODELS.items() if "export" in other.abilities)
        raise ValueError(f"--export to {path.suffix} is for {able}: {type(model).__name__} cannot be exported. Its "
                         "weights can be written as .safetensors")
    if path.suffix == ".onnx" and model.onnx_differs:
        raise ValueError(f"{type(model).__name__}'s maps from ONNX differ by more than rounding: export it as .pt2, "
                         "which is exact, or .safetensors")
    if torch.__version__ < EXPORTABLE:
        raise ValueError(f"--export to {path.suffix} needs PyTorch {EXPORTABLE} or newer, this is {torch.__version__}")
    module, examples = (FrameStep(model) if model.carries_state else model), export_examples(model)
    first, *state = examples[0]
    name, signature = ("frame", "and state -> map and state") if state else ("clip", "-> map")
    signature = f"{name} {tuple(first.shape[1:])} {signature}"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about its own formats
        # Each in a batch of its own: rounding may move TASED-Net's maxima.
        expected = [tensors_of(module(*inputs)) for inputs in examples]
        batch = torch.export.Dim("batch")
        program = torch.export.export(module, examples[0], dynamic_shapes=map_state(lambda t: {0: batch}, examples[0]))
        with utils.atomic_path(path) as temporary:
            outputs = {".pt2": export_pt2, ".onnx": export_onnx}[path.suffix](program, examples, temporary)
            if outputs is None:
                return f"{signature}; NOT compared with PyTorch's output: onnxruntime is not installed"
            pairs = [pair for found, ours in zip(outputs, expected) for pair in zip(found, ours, strict=True)]
            error = max(relative_error(found, ours) for found, ours in pairs)
            if not error <= 1e-4:
                raise ValueError(f"the exported network's output differs from PyTorch's by {error:.2g}, more than "
                                 f"1e-4: {path} was not written")
    return f"{signature}; differs from PyTorch's output by {error:.1g} at most"


class FrameStep(nn.Module):
    """A recurrent network as other programs run it: a frame and the state in, its map and the new state out."""

    def __init__(self, network: RecurrentModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        maps, state = self.network.maps(frame[:, :, None], state)
        return maps[:, 0], state


@torch.no_grad()
def export_examples(model: SaliencyModel) -> list[tuple]:
    """Inputs to trace a network with, of a batch of two, and to compare it with PyTorch's, of two and of one.

    Of a recurrent network the first are before any frame, where the state is zeros, the second after one.
    """
    length = 1 if model.carries_state else model.clip_len
    clip = torch.randn(2, 3, length, *model.config["frame_size"], generator=torch.Generator().manual_seed(0))
    if not model.carries_state:
        return [(clip,), (clip[:1],)]
    before, after = map_state(torch.zeros_like, model.maps(clip)[1]), model.maps(clip[:1])[1]
    return [(clip[:, :, 0], before), (clip[1:, :, 0], after)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, of values above 1 (features in a state reach 20) relative to the largest value."""
    return ((found - expected).abs().max() / max(1.0, expected.abs().max().item())).item()


def tensors_of(values) -> list[Tensor]:
    """The tensors of nested tuples, in order."""
    return [values] if isinstance(values, Tensor) else [t for part in values for t in tensors_of(part)]


def export_pt2(program: torch.export.ExportedProgram, examples: list[tuple], path: Path) -> list[list[Tensor]]:
    """Write a program with torch.export, read it again, and return its outputs for the examples."""
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return [tensors_of(module(*inputs)) for inputs in examples]


def export_onnx(program: torch.export.ExportedProgram, examples: list[tuple], path: Path) -> list[list[Tensor]] | None:
    """Write a program as ONNX, and return its outputs for the examples; None where onnxruntime is missing."""
    if importlib.util.find_spec("onnxscript") is None:
        raise ModuleNotFoundError("ONNX needs packages of its own: pip install \".[onnx]\"")
    _, *state = tensors_of(examples[0])
    names = ["frame" if state else "clip", *(f"state_{number}" for number in range(1, len(state) + 1))]
    torch.onnx.export(program, examples[0], str(path), dynamo=True, external_data=False, input_names=names,
                      output_names=["saliency", *(f"new_{name}" for name in names[1:])], verbose=False)
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = [dict(zip(names, (t.numpy() for t in tensors_of(inputs)))) for inputs in examples]
    return [[torch.from_numpy(output) for output in session.run(None, feed)] for feed in feeds]
