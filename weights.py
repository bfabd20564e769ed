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
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import utils

LISTED = 5  # names an error message spells out
# Of DataParallel and SWA, torch.compile, Lightning and other classes.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
SAVE_STATE_DICT = 'In the program that it comes from, save a state dict: torch.save(model.state_dict(), "weights.pth")'


def read_weights(source: str | Path, own: Collection[str] = ()) -> tuple[dict[str, Tensor], dict]:
    """Read the entries of a weight file, whatever its authors wrapped around them.

    Args:
        source: a `.safetensors` file, or one of `torch.save`: a state dict, or a dict that holds one, under any key or
            two. `FILE#KEY` chooses among several. Or an https URL, see `find_file`. Names may carry the `PREFIXES` of
            wrappers, in any order.
        own: names of the network's own, some or all: once the entries have one of them, no more prefixes are removed.

    Returns:
        Names and tensors, on the CPU; and the network's configuration, from the `.json` beside the file, from within a
        `last.pt`, or from a `.safetensors` file's metadata; empty where none is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as tensors and plain types (`weights_only`), or holds no state dict, or several;
            the message lists them.
    """
    path, key = find_file(source)
    content = read_checkpoint(path)
    configuration = read_configuration(path.with_suffix(".json")) or stored_configuration(path, content)
    found = state_dicts(content)
    bare = {name: without_prefixes(entries, own) for name, entries in found.items()}
    fitting = {name: entries for name, entries in found.items() if not set(own).isdisjoint(bare[name])}
    found = fitting if fitting and not key else found  # beside the network there may be others' entries
    listed = ", ".join(f"{name} ({len(entries)} entries)" for name, entries in found.items())
    if key and key not in found:
        if "" in found:
            raise ValueError(f"{path} holds no state dict {key}: it is one itself, give the file without #KEY")
        raise ValueError(f"{path} holds no state dict {key}: "
                         + (f"expected one of {listed}" if found else f"got {describe(content)}"))
    if not found:
        raise ValueError(f"{path} holds no state dict: expected names and tensors, got {describe(content)}")
    if len(found) > 1 and not key:
        raise ValueError(f"{path} holds {len(found)} state dicts, {listed}: choose one with FILE#KEY, such as "
                         f"{path}#{max(found, key=lambda name: len(found[name]))}")
    return bare[key or next(iter(found))], configuration


def state_dicts(content, name: str = "", depth: int = 4) -> dict[str, dict[str, Tensor]]:
    """What a file's content holds that can be weights: names and tensors, with an array of numbers among them.

    Args:
        content: what was read.
        name: the keys that lead to it, joined by dots.
        depth: how many more keys are followed; never those of optimisers.

    Returns:
        Keys, joined by dots, and state dicts; "" of a content that is one itself.
    """
    if not isinstance(content, dict):
        return {}
    named = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    if named and any(value.is_floating_point() and value.ndim for value in content.values()):
        return {name: content}
    followed = {key: part for key, part in content.items() if isinstance(key, str) and not key.startswith("optimizer")}
    parts = [state_dicts(part, f"{name}.{key}" if name else key, depth - 1) for key, part in followed.items() if depth]
    return {key: entries for part in parts for key, entries in part.items()}


def without_prefixes(entries: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The entries without the `PREFIXES` that all of them carry, or all of the network's; `own` as of `read_weights`.

    What carries none then, while the network's own do, is another module's (a criterion's, a metric's) and is left out.
    """
    entries = dict(entries)
    while not any(name in entries for name in own):
        if all(name.startswith("module.") or name == "n_averaged" for name in entries):
            entries.pop("n_averaged", None)  # SWA's count of averaged models, beside its module
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in entries)), None)
        if prefix is None:
            break
        entries = {name.removeprefix(prefix): t for name, t in entries.items()}
    if own and set(own).isdisjoint(entries):
        bare = {name: re.sub(f"^({'|'.join(map(re.escape, PREFIXES))})+", "", name) for name in entries}
        kept = {bare[name]: t for name, t in entries.items() if bare[name] != name}
        if not set(own).isdisjoint(kept) and len(kept) == sum(bare[name] != name for name in entries):
            return kept
    return entries


def find_file(source: str | Path) -> tuple[Path, str]:
    """The weight file that a path or an address names, and what is to be taken of it.

    Args:
        source: a path, or FILE#KEY; or an https URL, downloaded once to PyTorch's cache (`torch.hub.get_dir()`).
            `URL#sha256=HEX` names the file's checksum, which is then checked each time; `URL#KEY` and
            `URL#sha256=HEX#KEY` choose as FILE#KEY does.

    Returns:
        The path, and KEY, "" where none is given. A file whose own name has a # is found by it.

    Raises:
        ValueError: the checksum is another, or the URL is not https.
        OSError: it could not be downloaded.
    """
    url, _, fragment = str(source).partition("#")
    if "://" not in url:
        file, _, key = str(source).rpartition("#")
        return (Path(file), key) if Path(file).is_file() and not Path(source).is_file() else (Path(source), "")
    checksum, _, key = fragment.partition("#") if fragment.startswith("sha256=") else ("", "", fragment)
    expected = checksum.removeprefix("sha256=").lower()
    if not url.startswith("https://") or (checksum and not re.fullmatch("[0-9a-f]{64}", expected)):
        raise ValueError(f"{source}: expected https://HOST/NAME, or https://HOST/NAME#sha256=HEX with 64 digits")
    # Named after its address too: two files called model.pth may come from two places.
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{Path(urllib.parse.urlparse(url).path).name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        check_sha256(path, expected, url)
        return path, key
    with utils.atomic_path(path) as temporary:
        download(url, temporary)
        check_sha256(temporary, expected, url)
    return path, key


def local_file(source: str | Path) -> Path:
    """The path of a weight file that may lie on the web; `source` and errors as of `find_file`."""
    return find_file(source)[0]


def sha256_of(source: str | Path) -> str:
    """What tells weights from others: the file's sha256, with #KEY where one of its state dicts is chosen."""
    path, key = find_file(source)
    return f"{utils.sha256(path)}#{key}" if key else utils.sha256(path)


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
    """The entries of torchvision's weights (a `WeightsEnum`), cached or downloaded; an OSError names the address."""
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise OSError(f"{weights.url} could not be downloaded ({error})") from error


def check_sha256(path: Path, expected: str, url: str) -> None:
    """Raise a ValueError where a file has another checksum than `expected`, unless that is empty."""
    if expected and utils.sha256(path) != expected:
        raise ValueError(f"{url} has sha256 {utils.sha256(path)}, expected {expected}: it is another file, or damaged "
                         f"({path})")


def read_checkpoint(path: str | Path):
    """Read what `torch.save` wrote, tensors and plain types only, or a `.safetensors` file, to the CPU."""
    path = Path(path)
    if not path.is_file():
        held = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"no weight file {path}: it {held}. saved_models/README.md says which files each "
                                "network takes and where they are published; train.py makes some, or `make demo` "
                                "(saved_models/demo/RecSalNet.pth)")
    if mistaken := utils.mistaken_for(path):
        raise ValueError(f"{path} cannot be read as a weight file: it {mistaken}")
    check_archive(path)
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError,
            TypeError, OverflowError, struct.error, zipfile.BadZipFile) as error:
        said = str(error).strip()
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
        foreign = re.search(r"GLOBAL (\S+)", said)  # as weights_only names what it does not build
        if foreign:
            reason = f"it holds an object of the class {foreign[1]}, and making one could run its code"
            remedy = SAVE_STATE_DICT
        elif "Unsupported operand" in said and is_pickle:
            reason, remedy = "it is a pickle that torch.save did not write", SAVE_STATE_DICT
        else:  # PyTorch's KeyErrors say nothing, and its other messages go on to recommend unsafe loading
            said = "it is none" if isinstance(error, (LookupError, TypeError)) else said
            reason = re.split(r"\.\s", said)[0].rstrip(".") or type(error).__name__
            remedy = "Was it interrupted while it was written or downloaded, or is it another kind of file?"
        raise ValueError(f"{path} ({path.stat().st_size} bytes) cannot be read as a PyTorch weight file of tensors and "
                         f"plain types: {reason}. {remedy}") from error
    for name, t in tensors_in(content):
        if t.is_sparse or t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise ValueError(f"{path}: {name} claims more values than the file holds: it is not a file that train.py, "
                             "or a network's authors, wrote")
    return content


def tensors_in(content, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists, with the names that lead to them."""
    if isinstance(content, Tensor):
        yield name, content
    parts = dict(enumerate(content)) if isinstance(content, (list, tuple)) else content
    for key, part in parts.items() if isinstance(parts, dict) else ():
        yield from tensors_in(part, f"{name}.{key}" if name else str(key))


def check_archive(path: Path) -> None:
    """Refuse a ZIP archive that holds a program, or would unpack to more: `torch.save` compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            scripted = any(entry.filename.endswith("/constants.pkl") for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return  # another format, or for PyTorch to complain about
    if scripted:
        raise ValueError(f"{path} is a TorchScript archive, which is a program, no weight file. {SAVE_STATE_DICT}")
    if unpacked > path.stat().st_size:
        raise ValueError(f"{path} would unpack from {path.stat().st_size} to {unpacked} bytes: it is not a file that "
                         "PyTorch wrote")


def stored_configuration(path: Path, content) -> dict:
    """The network's configuration from within a weight file; empty where it holds none."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("configuration", "{}")
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"the metadata of {path} should hold the network's configuration as JSON, but it is "
                             f"{text[:80]!r}") from error
    stored = content.get("configuration") if isinstance(content, dict) else None
    return dict(stored) if isinstance(stored, dict) else {}


def save_safetensors(entries: dict[str, Tensor], configuration: dict, path: Path,
                     about: dict[str, str] | None = None) -> None:
    """Write weights as `.safetensors`, with the configuration that `read_weights` finds in its metadata; atomically.

    Args:
        entries: names and tensors.
        configuration: of the network, in plain values.
        path: the file.
        about: further texts for the metadata.
    """
    content = save({name: t.contiguous() for name, t in entries.items()},
                   metadata={"configuration": json.dumps(configuration), **(about or {})})
    with utils.atomic_path(path) as temporary:  # save_file would make a file that only its owner can read
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


def load_pretrained_part(module: nn.Module, names: dict[str, str], entries: dict[str, Tensor], part: str,
                         source: str) -> list[str]:
    """Fill a part of a network from a file whose entries have other names.

    Args:
        module: what the part belongs to; what `names` does not list stays as it is.
        names: ours -> the file's.
        entries: of the file.
        part: what it should hold, for the error message.
        source: where it comes from, for the error message.

    Returns:
        The names of the entries that have no place here.

    Raises:
        ValueError: an entry is missing, or of another shape; the message names it. Nothing is changed then.
    """
    # Files of PyTorch before 0.4.1 have no counters, and with a constant momentum nothing depends on them.
    wanted = list(dict.fromkeys(names.values()))  # several of ours may share one of theirs
    missing = [theirs for theirs in wanted if theirs not in entries and not theirs.endswith(".num_batches_tracked")]
    if missing:
        raise ValueError(f"{source} does not hold the whole {part}: {len(missing)} of {len(wanted)} entries are "
                         f"missing, the first {missing[0]}; it is {describe(entries)}")
    found = {ours: entries[theirs] for ours, theirs in names.items() if theirs in entries}
    load_entries(module, {**module.state_dict(), **found}, source)
    return [name for name in entries if name not in set(wanted)]


def check_entries(module: nn.Module, entries: dict[str, Tensor], source: str) -> None:
    """Compare a state dict with what a module expects.

    Raises:
        ValueError: entries are missing, left over or of another shape: the message names them.
    """
    expected = module.state_dict()
    problems = {
        "missing": [name for name in expected if name not in entries],
        "left over": [name for name in entries if name not in expected],
        "of another shape": [f"{name} {tuple(entries[name].shape)}, expected {tuple(t.shape)}"
                             for name, t in expected.items() if name in entries and entries[name].shape != t.shape],
    }
    lines = [f"{len(names)} {kind}: {', '.join(names[:LISTED])}{', ..' if len(names) > LISTED else ''}"
             for kind, names in problems.items() if names]
    if lines:
        raise ValueError(f"the weights of {source} do not fit {type(module).__name__}: " + "; ".join(lines))


def read_configuration(path: Path) -> dict:
    """The network's configuration from a `.json` beside a weight file; empty where there is no such file."""
    if not path.is_file():
        return {}
    if mistaken := utils.mistaken_for(path):
        raise ValueError(f"{path} should describe the weights beside it: it {mistaken}")
    try:
        return dict(utils.read_json(path)["configuration"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} should describe the weights beside it and hold a \"configuration\", but cannot be "
                         f"read: {error!r}. Delete it to use the paper's configuration") from error
