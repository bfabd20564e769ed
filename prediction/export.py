"""Networks for other programs: torch.export, ONNX, safetensors."""
import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import utils
from weights import save_safetensors

EXPORTABLE = "2.6"  # torch.export of PyTorch 2.4 fails on the authors' names in state dicts


def export(model: nn.Module, path: Path) -> str:
    """Write the network for other programs, and compare its output there with PyTorch's; returns the result as text.

    Args:
        model: in eval mode, float32, on the CPU.
        path: `.pt2` (torch.export) or `.onnx`: from a clip (B, 3, 32, H, W), normalised, of any B, to the map
            (B, h, w); or `.safetensors`: the weights, with the configuration in the file's metadata.

    Raises:
        ValueError: the suffix is another one, the network is not one of windows and the suffix not `.safetensors`, or
            the outputs differ by more than 1e-4.
        ModuleNotFoundError: ONNX needs the packages onnx and onnxscript.
    """
    if path.suffix == ".safetensors":
        save_safetensors(model.state_dict(), model.config, path)
        return "weights and configuration"
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--export {path}: the name must end in .pt2, .onnx or .safetensors")
    if "export" not in model.abilities:
        raise ValueError(f"--export to {path.suffix} is for networks of windows: {type(model).__name__} takes "
                         "one frame after the other, or groups. Its weights can be written as .safetensors")
    if path.suffix == ".onnx" and model.onnx_differs:
        raise ValueError(f"{type(model).__name__}'s maps from ONNX differ by more than rounding: export it as .pt2, "
                         "which is exact, or .safetensors")
    if torch.__version__ < EXPORTABLE:
        raise ValueError(f"--export to {path.suffix} needs PyTorch {EXPORTABLE} or newer, this is {torch.__version__}")
    clip = torch.randn(2, 3, model.clip_len, *model.config["frame_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about its own formats
        # Each in a batch of its own: rounding may move TASED-Net's maxima.
        expected = [model(clip), model(clip[:1])]
        program = torch.export.export(model, (clip,), dynamic_shapes={"clip": {0: torch.export.Dim("batch")}})
        with utils.atomic_path(path) as temporary:
            outputs = {".pt2": export_pt2, ".onnx": export_onnx}[path.suffix](program, clip, temporary)
            if outputs is None:
                return (f"clip {tuple(clip.shape[1:])} -> map; NOT compared with PyTorch's output: "
                        "onnxruntime is not installed")
            error = max((output - ours).abs().max().item() for output, ours in zip(outputs, expected))
            if not error <= 1e-4:
                raise ValueError(f"the exported network's output differs from PyTorch's by {error:.2g}, more than "
                                 f"1e-4: {path} was not written")
    return f"clip {tuple(clip.shape[1:])} -> map; differs from PyTorch's output by {error:.1g} at most"


def export_pt2(program: torch.export.ExportedProgram, clip: Tensor, path: Path) -> list[Tensor]:
    """Write a program with torch.export, read it again, and return its outputs for two clips and for one."""
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return [module(clip), module(clip[:1])]


def export_onnx(program: torch.export.ExportedProgram, clip: Tensor, path: Path) -> list[Tensor] | None:
    """Write a program as ONNX, and return its outputs for two clips and for one; None where onnxruntime is missing."""
    if importlib.util.find_spec("onnxscript") is None:
        raise ModuleNotFoundError("ONNX needs packages of its own: pip install \".[onnx]\"")
    torch.onnx.export(program, (clip,), str(path), dynamo=True, external_data=False,
                      input_names=["clip"], output_names=["saliency"], verbose=False)
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {"clip": some.numpy()})[0]) for some in (clip, clip[:1])]
