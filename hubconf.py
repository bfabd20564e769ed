"""For `torch.hub.load(REPOSITORY, "recsal_lite")`, whose weights are included, and `"recsalnet", weights=...`.

They work in any directory, whatever its own files are called: the modules here have names such as `utils`, which a
caller's own may have too. They are loaded under other names (`recsalnet_utils`), and the plain names are restored.
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
            path = Path(__file__).parent / f"{name.replace('.', '/')}.py"
            private = f"recsalnet_{name.replace('.', '_')}"
            known = sys.modules.get(private)
            if known is not None and Path(known.__file__) == path:
                modules[name] = sys.modules[name] = known  # the same classes, or pickling would fail
                continue
            spec = importlib.util.spec_from_file_location(private, path)
            modules[name] = sys.modules[private] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
    finally:
        for name, module in theirs.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
    return modules


MODULES = ("utils", "weights", "loss", "saliency_model", "swin_transformer", "model", "baselines.recsal_lite")
LOADED = load_privately(MODULES)
RecSalNet, RecSalLite = LOADED["model"].RecSalNet, LOADED["baselines.recsal_lite"].RecSalLite


def recsal_lite(weights: str | None = None, frame_size: tuple[int, int] | None = None) -> RecSalLite:
    """RecSal-Lite in eval mode, on the CPU: a clip (B, 3, T, H, W) -> maps (B, H / 4, W / 4) in (0, 1).

    `maps(clip, state)` gives those of all frames, and the state to go on with.

    Args:
        weights: as of `recsalnet`; default: those of this repository.
        frame_size: as of `recsalnet`.
    """
    return RecSalLite.from_pretrained(weights or RecSalLite.shipped_weights, frame_size)


def recsalnet(weights: str, frame_size: tuple[int, int] | None = None) -> RecSalNet:
    """The network of a weight file, in eval mode, on the CPU: a clip (B, 3, 32, H, W) -> maps (B, H, W) in (0, 1).

    Args:
        weights: path or https URL (`#sha256=HEX`: checked) of a weight file.
        frame_size: (H, W) to resize frames to, instead of the one the network was trained at.
    """
    return RecSalNet.from_pretrained(weights, frame_size)
