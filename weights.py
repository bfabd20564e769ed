"""Weight files of every format, read safely, and named plainly where they are refused."""
import hashlib
import json
import pickle
import re
import shutil
import struct
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import utils

LISTED = 5                                                                 # names an error message spells out


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read the entries of a weight file, whatever its authors wrapped around them.

    Args:
        path: a `.safetensors` file, or one of `torch.save`: a state dict, or one under `state_dict`, `model_state_dict` or
            `model`; names may carry DataParallel's `module.`. Or its https URL, see `local_file`.

    Returns:
        Names and tensors, on the CPU; and the network's configuration, from the `.json` beside the file, from within a
        `last.pt`, or from a `.safetensors` file's metadata; empty where none is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as tensors and plain types (`weights_only`), or holds no state dict.
    """
    path = local_file(path)
    content = read_checkpoint(path)
    configuration = read_configuration(path.with_suffix(".json")) or stored_configuration(path, content)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in content.items()):
        raise ValueError(f"{path} holds no state dict: expected names and tensors, got {describe(content)}")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): t for name, t in content.items()}
    return dict(content), configuration


def local_file(source: str | Path) -> Path:
    """The path of a file that may lie on the web.

    Args:
        source: a path, returned as it is; or an https URL, downloaded once to PyTorch's cache (`torch.hub.get_dir()`). A URL
            that ends in `#sha256=HEX` names the file's checksum, which is then checked each time.

    Raises:
        ValueError: the checksum is another, or the URL is not https.
        OSError: it could not be downloaded.
    """
    url, _, fragment = str(source).partition("#")
    if "://" not in url:
        return Path(source)
    expected = fragment.removeprefix("sha256=").lower()
    if not url.startswith("https://") or (fragment and not re.fullmatch("[0-9a-f]{64}", expected)):
        raise ValueError(f"{source}: expected https://HOST/NAME, or https://HOST/NAME#sha256=HEX with 64 digits")
    # Named after its address too: two files called model.pth may come from two places.
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{Path(urllib.parse.urlparse(url).path).name}"
    if path.is_file():
        check_sha256(path, expected, url)
        return path
    with utils.atomic_path(path) as temporary:
        download(url, temporary)
        check_sha256(temporary, expected, url)
    return path


def download(url: str, path: Path) -> None:
    """Fetch a file; an OSError names the address."""
    try:
        with urllib.request.urlopen(url) as response, path.open("wb") as file:
            print(f"downloading {url}")
            shutil.copyfileobj(response, file)
            promised = response.headers.get("Content-Length")
        if promised is not None and path.stat().st_size != int(promised):
            raise OSError(f"it was cut off after {path.stat().st_size} of {promised} bytes")
    except OSError as error:
        raise OSError(f"could not download {url}: {error}. Fetch it elsewhere and give its path") from error


def torchvision_weights(weights) -> dict[str, Tensor]:
    """The entries of torchvision's weights (a `WeightsEnum`), from its cache or the internet; an OSError names the address."""
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise OSError(f"{weights.url} could not be downloaded ({error})") from error


def check_sha256(path: Path, expected: str, url: str) -> None:
    """Raise a ValueError where a file has another checksum than `expected`, unless that is empty."""
    if expected and utils.sha256(path) != expected:
        raise ValueError(f"{url} has sha256 {utils.sha256(path)}, expected {expected}: it is another file, or damaged ({path})")


def read_checkpoint(path: str | Path):
    """Read what `torch.save` wrote, tensors and plain types only, or a `.safetensors` file, to the CPU."""
    path = Path(path)
    if not path.is_file():
        held = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"no weight file {path}: it {held}. No weights come with this repository: give the authors' with --weights FILE, or "
                                "make some: train.py, or `make demo` (saved_models/demo/RecSalNet.pth). saved_models/README.md says what can be read")
    check_archive(path)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OverflowError,
            struct.error, zipfile.BadZipFile) as error:
        # PyTorch goes on to recommend unsafe loading; of what is no such file at all, its KeyErrors say nothing.
        said = "it is none" if isinstance(error, (LookupError, TypeError)) else str(error).strip()
        reason = re.split(r"\.\s", said)[0].rstrip(".") or type(error).__name__
        raise ValueError(f"{path} ({path.stat().st_size} bytes) cannot be read as a PyTorch weight file of tensors and plain types: {reason}. "
                         "Was it interrupted while it was written or downloaded, or is it another kind of file?") from error
    for name, t in tensors_in(content):
        if t.is_sparse or t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise ValueError(f"{path}: {name} claims more values than the file holds: it is no file that train.py, or a network's authors, wrote")
    return content


def tensors_in(content, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists, with the names that lead to them."""
    if isinstance(content, Tensor):
        yield name, content
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, (list, tuple)) else ()
    for key, part in parts:
        yield from tensors_in(part, f"{name}.{key}" if name else str(key))


def check_archive(path: Path) -> None:
    """Refuse a ZIP archive, as `torch.save` writes, that would unpack to more than it is: PyTorch compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return                                                             # another format, or for PyTorch to complain about
    if unpacked > path.stat().st_size:
        raise ValueError(f"{path} would unpack from {path.stat().st_size} to {unpacked} bytes: it is no file that PyTorch wrote")


def stored_configuration(path: Path, content) -> dict:
    """The network's configuration from within a weight file; empty where it holds none."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("configuration", "{}")
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"the metadata of {path} should hold the network's configuration as JSON, but it is {text[:80]!r}") from error
    stored = content.get("configuration") if isinstance(content, dict) else None
    return dict(stored) if isinstance(stored, dict) else {}


def save_safetensors(entries: dict[str, Tensor], configuration: dict, path: Path) -> None:
    """Write weights as `.safetensors`, with the configuration that `read_weights` finds in its metadata; atomically."""
    content = save({name: t.contiguous() for name, t in entries.items()}, metadata={"configuration": json.dumps(configuration)})
    with utils.atomic_path(path) as temporary:                                   # save_file would make a file that only its owner can read
        temporary.write_bytes(content)


def describe(content) -> str:
    """What a file turned out to hold, for an error message."""
    if isinstance(content, dict):
        return f"a dict with {len(content)} entries such as {list(content)[:LISTED]}"
    return f"a {type(content).__name__}"


def load_entries(module: nn.Module, entries: dict[str, Tensor], source: str) -> None:
    """Load a state dict strictly; raises as `check_entries` does."""
    check_entries(module, entries, source)
    module.load_state_dict(entries)


def check_entries(module: nn.Module, entries: dict[str, Tensor], source: str) -> None:
    """Compare a state dict with what a module expects.

    Raises:
        ValueError: entries are missing, left over or of another shape: the message names them.
    """
    expected = module.state_dict()
    problems = {
        "missing": [name for name in expected if name not in entries],
        "left over": [name for name in entries if name not in expected],
        "of another shape": [f"{name} {tuple(entries[name].shape)}, expected {tuple(t.shape)}" for name, t in expected.items()
                             if name in entries and entries[name].shape != t.shape],
    }
    lines = [f"{len(names)} {kind}: {', '.join(names[:LISTED])}{', ..' if len(names) > LISTED else ''}" for kind, names in problems.items() if names]
    if lines:
        raise ValueError(f"the weights of {source} do not fit {type(module).__name__}: " + "; ".join(lines))


def read_configuration(path: Path) -> dict:
    """The network's configuration from a `.json` beside a weight file; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return dict(utils.read_json(path)["configuration"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} should describe the weights beside it and hold a \"configuration\", but cannot be read: {error!r}. "
                         "Delete it to use the paper's configuration") from error
