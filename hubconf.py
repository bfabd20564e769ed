"""For `torch.hub.load(REPOSITORY, "recsalnet", weights=...)`, from any directory, whatever its own files are called.

The modules here have names such as `utils`, which a caller's own may have too. They are loaded under other names
(`recsalnet_utils`), and the plain names are restored.
"""
import importlib.util
import sys
from pathlib import Path

dependencies = ["torch", "einops", "safetensors", "numpy", "PIL"]


def load_privately(names: tuple[str, ...]) -> dict:
    """Name -> module of this repository; each may import those before it by their plain names."""
    theirs, modules = {name: sys.modules.get(name) for name in names}, {}
    try:
        for name in names:
            known = sys.modules.get(f"recsalnet_{name}")
            if known is not None and Path(known.__file__).parent == Path(__file__).parent:
                modules[name] = sys.modules[name] = known  # the same classes, or pickling would fail
                continue
            spec = importlib.util.spec_from_file_location(f"recsalnet_{name}", Path(__file__).parent / f"{name}.py")
            modules[name] = sys.modules[spec.name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
    finally:
        for name, module in theirs.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
    return modules


MODULES = ("utils", "weights", "loss", "saliency_model", "swin_transformer", "model")
RecSalNet = load_privately(MODULES)["model"].RecSalNet


def recsalnet(weights: str, frame_size: tuple[int, int] | None = None) -> RecSalNet:
    """The network of a weight file, in eval mode, on the CPU: a clip (B, 3, 32, H, W) -> maps (B, H, W) in (0, 1).

    Args:
        weights: path or https URL (`#sha256=HEX`: checked) of a weight file.
        frame_size: (H, W) to resize frames to, instead of the one the network was trained at.
    """
    return RecSalNet.from_pretrained(weights, frame_size)
