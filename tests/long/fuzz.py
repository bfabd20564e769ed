"""Feed damaged and malicious files to the programs' own entry points, in one warm process: exit code 1 if one does more than say what is wrong.

    PYTHONPATH=. .venv/bin/python tests/long/fuzz.py                         # 3600 files: 6 minutes on 2 CPU cores
    PYTHONPATH=. .venv/bin/python tests/long/fuzz.py --only 1234             # one of them again

Whole files of every kind (PNG, JPEG, its EXIF, MAT, MAT 7.3, a mask in a palette, a fixation map in alpha, AVI, MP4, its
display matrix, animated PNG and WebP, TIFF of several pages, weights, also in wrappings that people have, the JSON beside weights, the JSON of a prediction,
a map to score, the state and the record of a run, the flow of a frame) are changed at random places, pictures also in
mode, palette and alpha. A file may turn out to be readable. Else an error that the program reports
must say so, within 30 seconds, and no output may be left under its final name. If the process itself dies, the file is named and the next one goes to a new process.
"""
import argparse
import contextlib
import faulthandler
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import h5py
import numpy as np
import scipy.io
import torch
from PIL import ExifTags, Image

import predict
import test as evaluation
import train
from baselines import optical_flow
from dataloader import ClipDataset
from model import RecSalNet
from utils import at_least
from videos.check import check_dataset
from videos.video import find_videos

NETWORK = {"frame_size": (32, 64), "width": 16, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
KINDS = ("png", "jpg", "mat", "mat73", "palette", "alpha", "avi", "mp4", "pth", "json", "description", "map", "last",
         "record", "flow", "exif", "matrix", "apng", "webp", "tif", "wrapped")
SUFFIXES = {"exif": "jpg", "matrix": "mp4", "apng": "png", "mat73": "mat", "alpha": "png",
            "wrapped": "pth"}  # of kinds called otherwise
PLACES = {"exif": (b"Exif", 80), "matrix": (b"tkhd", 92)}                  # kinds of which some bytes from a word on are changed alone
TEXT = ("json", "description", "record")
VALUES = (None, -1, 10 ** 12, 1e308, float("nan"), True, "../../escaped", b"", [], {}, [[]], torch.zeros(0), torch.zeros(1, 2, 3), torch.tensor(-1))
SIZES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00", b"\x00\x01\x00\x00")
WORDS = (b"1e999", b"-1", b"99999999999999999999", b"null", b"[[[[[[[[]]]]]]]]", b"\"../../escaped\"", b"{}", b"true", b"NaN", b"\"\"")


def make_files(folder: Path) -> None:
    """One whole file of every kind, and what they need around them."""
    generator, shape = np.random.default_rng(0), (48, 64)
    video = folder / "set" / "train" / "v"
    for kind in ("images", "maps", "fixation"):
        (video / kind).mkdir(parents=True)
    for number in range(1, 4):
        Image.fromarray(generator.integers(0, 256, (*shape, 3), np.uint8)).save(video / "images" / f"{number}.png")
        Image.fromarray(generator.integers(0, 256, shape, np.uint8)).save(video / "maps" / f"{number}.png")
        scipy.io.savemat(video / "fixation" / f"{number}.mat", {"I": (generator.random(shape) < 0.01).astype(np.uint8)}, do_compression=number == 2)
    shutil.copy(video / "images" / "2.png", folder / "whole.png")
    Image.open(folder / "whole.png").save(folder / "whole.jpg")
    shutil.copy(video / "fixation" / "2.mat", folder / "whole.mat")
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation], tags[ExifTags.Base.Software] = 6, "a phone"
    Image.open(folder / "whole.png").save(folder / "whole.exif", "JPEG", exif=tags)
    pictures = [Image.fromarray(generator.integers(0, 256, (*shape, 3), np.uint8)) for _ in range(4)]
    for kind, form in (("apng", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
        pictures[0].save(folder / f"whole.{kind}", form, save_all=True, append_images=pictures[1:], **({} if kind == "tif" else {"duration": 40, "exif": tags}))
    fixations = generator.random(shape) < 0.01
    with h5py.File(folder / "whole.mat73", "w") as file:
        file.create_dataset("I", data=fixations.T.astype(np.uint8), chunks=(16, 16), compression="gzip")
    colours = np.full((*shape, 3), 255, np.uint8)
    Image.fromarray(np.dstack([colours, 255 * fixations.astype(np.uint8)])).save(folder / "whole.alpha", format="PNG")
    mask = Image.fromarray(generator.integers(0, 3, shape, np.uint8))
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    mask.save(folder / "whole.palette", format="PNG", transparency=0)
    for part, suffix, picture in (("Frame", "jpg", "whole.jpg"), ("GT", "png", "whole.palette")):
        (folder / "masks" / "train" / "v" / part).mkdir(parents=True)
        for number in range(1, 4):
            shutil.copy(folder / picture, folder / "masks" / "train" / "v" / part / f"{number}.{suffix}")
    for suffix, codec in (("avi", "mpeg4"), ("mp4", "libx264")):
        with av.open(str(folder / f"whole.{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = *shape, "yuv420p"
            for _ in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(generator.integers(0, 256, (*shape, 3), np.uint8), format="rgb24")))
            container.mux(stream.encode(None))
    shutil.copy(folder / "whole.mp4", folder / "whole.matrix")
    torch.manual_seed(0)
    model = RecSalNet(**NETWORK)
    torch.save(model.state_dict(), folder / "whole.pth")
    shutil.copy(folder / "whole.pth", folder / "whole.wrapped")
    (folder / "whole.json").write_text(json.dumps({"configuration": model.config}))
    run_predict(folder / "set" / "train" / "v" / "images", folder / "out", folder / "whole.pth", "--save", "png", "npz")
    shutil.copy(folder / "out" / "images.json", folder / "whole.description")
    shutil.copy(video / "maps" / "2.png", folder / "whole.map")
    run_train(folder / "set", folder / "run", "--epochs", "1", "--encoder-weights", "none", *network_flags())
    shutil.copy(folder / "run" / "last.pt", folder / "whole.last")
    shutil.copy(folder / "run" / "run.json", folder / "whole.record")
    frames = shutil.copytree(folder / "set" / "train" / "v" / "images", folder / "frames")
    run_flow(frames)
    flow, = (frames / "flow_dis").glob("2-*.npy")
    shutil.copy(flow, folder / "whole.flow")


def network_flags() -> list[str]:
    """NETWORK as train.py's arguments."""
    return [text for name, value in NETWORK.items()
            for text in (f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,)))]


def mutate(content: bytes, moments: random.Random, text: bool) -> bytes:
    """Change a few places, or cut something off or out."""
    content = bytearray(content)
    for _ in range(moments.choice((1, 1, 2, 5, 20))):
        place, length = moments.randrange(len(content) + 1), moments.choice((1, 2, 8, 64, 1000))
        change = moments.choice(("overwrite", "size", "cut off", "cut out", "repeat", "insert"))
        if change == "overwrite":
            content[place:place + length] = moments.randbytes(min(length, len(content) - place))
        elif change == "size":
            content[place:place + 4] = moments.choice(WORDS if text else SIZES)
        elif change == "cut off" and moments.random() < 0.3:
            del content[place:]
        elif change == "cut out":
            del content[place:place + length]
        elif change == "repeat":
            content[place:place] = content[place:place + length] * moments.choice((1, 3))
        else:
            content[place:place] = moments.choice(WORDS if text else SIZES)
    return bytes(content)


def replace_value(content: bytes, moments: random.Random) -> bytes:
    """Put something else in the place of a value of a JSON file."""
    text = content.decode()
    places = [i for i, sign in enumerate(text) if sign in ":[,"]
    place = moments.choice(places) + 1
    end = min((i for i in (text.find(sign, place) for sign in ",]}") if i >= 0), default=len(text))
    return (text[:place] + moments.choice(WORDS).decode() + text[end:]).encode()


def replace_entry(content: bytes, moments: random.Random) -> bytes:
    """Put something else in the place of an entry, at any depth, of what `torch.save` wrote."""
    stored = torch.load(io.BytesIO(content), weights_only=True)
    holder = stored
    while True:
        key = moments.choice(list(holder)) if isinstance(holder, dict) else moments.randrange(len(holder))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or moments.random() < 0.3:
            break
        holder = holder[key]
    holder[key] = moments.choice(VALUES)
    changed = io.BytesIO()
    torch.save(stored, changed)
    return changed.getvalue()


def repaint(content: bytes, moments: random.Random) -> bytes:
    """Store a picture in another mode, with another palette or alpha channel, in another format."""
    picture = Image.open(io.BytesIO(content))
    picture = picture.convert("RGBA").convert(moments.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I")))
    options = {}
    if picture.mode in ("LA", "RGBA") and moments.random() < 0.5:
        picture.putalpha(Image.frombytes("L", picture.size, moments.randbytes(picture.width * picture.height)))
    if picture.mode == "P" and moments.random() < 0.7:
        picture.putpalette(moments.randbytes(3 * moments.choice((1, 2, 3, 255, 256))))
    if picture.mode in ("L", "P", "RGB") and moments.random() < 0.5:
        options["transparency"] = (1, 2, 3) if picture.mode == "RGB" else moments.randrange(256)
    stored, format = io.BytesIO(), "TIFF" if picture.mode == "CMYK" else moments.choice(("PNG", "PNG", "TIFF"))
    picture.save(stored, format=format, **options)
    return stored.getvalue()


def wrapped(content: bytes, moments: random.Random) -> bytes:
    """Put a state dict below prefixes and keys, beside another one, an optimiser's state or an object of a class."""
    entries = torch.load(io.BytesIO(content), weights_only=True)
    beside = ({}, {"epoch": 3, "n_averaged": torch.tensor(3)}, {"ema": {"weight": torch.zeros(2)}}, {"args": argparse.Namespace(lr=1)},
              {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}}, {"": {}, 7: {"weight": torch.zeros(2)}})
    for _ in range(moments.randrange(4)):
        prefix = moments.choice(("module.", "module.", "_orig_mod.", "model.", "net."))
        entries = {prefix + name: value for name, value in entries.items()}
        if moments.random() < 0.2:
            entries["n_averaged"] = torch.tensor(3)                        # which belongs beside "module." only
    for _ in range(moments.choice((0, 1, 1, 2, 3))):
        entries = {moments.choice(("net", "model_state", "state_dict", "a#b.c")): entries, **moments.choice(beside)}
    changed = io.BytesIO()
    torch.save(entries, changed, _use_new_zipfile_serialization=moments.random() < 0.8)
    return changed.getvalue()


def damaged(kind: str, content: bytes, moments: random.Random) -> bytes:
    """A whole file's content, changed: as bytes, or, of what has parts, in one of its parts; what is stored anew may stay whole."""
    again = {"wrapped": wrapped, "palette": repaint, "alpha": repaint}.get(kind)
    if again and (kind == "wrapped" or moments.random() < 0.6):
        content = again(content, moments)
        return content if moments.random() < 0.5 else mutate(content, moments, text=False)
    if moments.random() < 0.6 and kind in (*TEXT, "last"):
        return replace_value(content, moments) if kind in TEXT else replace_entry(content, moments)
    if kind in PLACES:
        word, length = PLACES[kind]
        start = content.index(word)
        return content[:start] + mutate(content[start:start + length], moments, text=False) + content[start + length:]
    return mutate(content, moments, kind in TEXT)


def run_train(data: Path, run_dir: Path, *flags: str) -> None:
    code = train.main(train.arguments().parse_args(["--data", str(data), "--run-dir", str(run_dir), "--val-every", "0", "--workers", "0", "--device", "cpu",
                                                    "--no-tensorboard", *flags]))
    assert code == 0


def run_test(data: Path, maps: Path, out: Path) -> None:
    evaluation.main(evaluation.arguments().parse_args(["--data", str(data), "--split", "train", "--predictions", str(maps), "--out", str(out), "--device", "cpu"]))


def run_predict(source: Path, out: Path, weights: Path, *flags: str) -> None:
    predict.main(predict.arguments().parse_args([str(source), "--out", str(out), "--weights", str(weights), "--device", "cpu", *flags]))


def run_flow(frames: Path, *flags: str) -> None:
    optical_flow.main(optical_flow.arguments().parse_args([str(frames), *flags]))


def read_set(root: Path, annotation: str = "density") -> None:
    """What check and training read."""
    check_dataset(root)
    frame = torch.zeros(3, 2, 2, dtype=torch.uint8)
    for video in find_videos(root, "train", annotation=annotation):
        ClipDataset([video], lambda picture: frame, clip_len=3, masks=annotation == "mask")[0, 0]


def prepare_case(kind: str, content: bytes, whole: Path, case: Path) -> tuple[Callable[[], None], Path]:
    """What to call for a damaged file, and the folder of its outputs."""
    out, weights = case / "out", whole / "whole.pth"
    if kind == "palette":
        masks = shutil.copytree(whole / "masks", case / "masks")
        (masks / "train" / "v" / "GT" / "3.png").write_bytes(content)
        return lambda: read_set(masks, "mask"), out
    if kind in ("png", "jpg", "exif", "mat", "mat73", "alpha"):
        video = shutil.copytree(whole / "set", case / "set") / "train" / "v"
        part = "images" if kind in ("png", "jpg", "exif") else "fixation"
        next((video / part).glob("3.*")).unlink()                          # the frame that a clip of three ends at
        (video / part / f"3.{SUFFIXES.get(kind, kind)}").write_bytes(content)
        if part == "fixation":
            return lambda: read_set(case / "set"), out
        return lambda: run_predict(video / "images", out, weights, "--save", "npz"), out
    if kind == "map":
        maps = shutil.copytree(whole / "set" / "train" / "v" / "maps", case / "method" / "v")
        (maps / "2.png").write_bytes(content)
        return lambda: run_test(whole / "set", case / "method", out), out
    if kind in ("last", "record"):
        shutil.copytree(whole / "run", out)
        (out / {"last": "last.pt", "record": "run.json"}[kind]).write_bytes(content)
        return lambda: run_train(whole / "set", out, "--epochs", "2", "--resume"), out
    if kind == "flow":
        frames = shutil.copytree(whole / "frames", case / "frames")
        next((frames / "flow_dis").glob("2-*.npy")).write_bytes(content)  # copied with its frames' times
        return lambda: run_flow(frames, "--pictures", "wheel"), out
    if kind == "description":
        shutil.copytree(whole / "out", out)
        (out / "images.json").write_bytes(content)
        return lambda: run_predict(whole / "set" / "train" / "v" / "images", out, weights, "--save", "png", "npz", "--overwrite"), out
    path = case / f"case.{SUFFIXES.get(kind, kind)}"
    path.write_bytes(content)
    if kind in ("avi", "mp4", "matrix", "apng", "webp", "tif"):
        return lambda: run_predict(path, out, weights, "--save", "npz", "sheet", "overlay"), out
    if kind == "json":
        shutil.copy(weights, case / "case.pth")
    return lambda: run_predict(whole / "set" / "train" / "v" / "images", out, case / "case.pth", "--save", "npz"), out


def run_case(number: int, seed: int, whole: Path, folder: Path) -> tuple[str, str]:
    """Feed one file; returns its kind, and what came of it: "read", "refused", or what is wrong with that."""
    moments, kind = random.Random(f"{seed} {number}"), KINDS[number % len(KINDS)]
    content = damaged(kind, (whole / f"whole.{kind}").read_bytes(), moments)
    case = folder / str(number)
    case.mkdir()
    call, out = prepare_case(kind, content, whole, case)
    bystander = folder / "escaped"
    bystander.write_text("of no concern")
    faulthandler.dump_traceback_later(30, exit=True)                       # a hang becomes a death
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            call()
        outcome = "read"
    except (ValueError, OSError, FloatingPointError) as error:             # what the programs report in a line
        had_files = kind in ("description", "last", "record")
        left = list(out.rglob(".*.part")) if had_files else [path for path in out.rglob("*") if path.is_file()]
        outcome = f"left {left} after {error}" if left else "refused" if str(error) else f"{type(error).__name__} without a word"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    if bystander.read_text() != "of no concern":
        outcome = "it changed another's file"
    if outcome in ("read", "refused"):
        shutil.rmtree(case)
    return kind, outcome


def work(numbers: range, seed: int, whole: Path, folder: Path, log: Path, until: float) -> None:
    """Feed files one after the other, noting each before it is read and what came of it."""
    for number in numbers:
        if time.time() > until:
            return
        with log.open("a") as notes:
            notes.write(f"{number} ")
        kind, outcome = run_case(number, seed, whole, folder)
        with log.open("a") as notes:
            notes.write(json.dumps([kind, outcome]) + "\n")


def main(args: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp())
    whole, log = folder / "whole", folder / "log"
    whole.mkdir()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_files(whole)
    number, outcomes, until = 0, {}, time.time() + 60 * args.minutes
    numbers = range(args.files) if args.only is None else range(args.only, args.only + 1)
    while number < len(numbers) and time.time() < until:
        log.write_text("")
        command = [sys.executable, __file__, "--worker", str(numbers[number]), str(numbers[-1] + 1), str(args.seed), str(folder), str(until)]
        ended = subprocess.run(command, capture_output=True, text=True)
        for line in log.read_text().splitlines():
            case, _, outcome = line.partition(" ")
            outcomes[int(case)] = json.loads(outcome) if outcome else [KINDS[int(case) % len(KINDS)], f"the process died ({ended.returncode})"]
            number += 1
        if ended.returncode:
            print(ended.stderr[-3000:])
    kinds = Counter(kind for kind, _ in outcomes.values())
    findings = {case: (kind, outcome) for case, (kind, outcome) in outcomes.items() if outcome not in ("read", "refused")}
    for case, (kind, outcome) in findings.items():
        print(f"file {case} ({kind}), in {folder / str(case)}: {outcome}")
    read = sum(outcome == "read" for _, outcome in outcomes.values())
    print(f"{len(outcomes)} files ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}): {read} readable, "
          f"{len(outcomes) - read - len(findings)} refused with a message, {len(findings)} findings")
    if not findings:
        shutil.rmtree(folder)
    sys.exit(1 if findings or (args.only is None and len(outcomes) < args.files) else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        first, stop, seed, folder, until = sys.argv[2:]
        work(range(int(first), int(stop)), int(seed), Path(folder) / "whole", Path(folder), Path(folder) / "log", float(until))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--files", type=at_least(1), default=3600, help="(default: 3600)")
        parser.add_argument("--minutes", type=float, default=20, help="after which it gives up (default: 20)")
        parser.add_argument("--seed", type=int, default=0, help="of the changes (default: 0)")
        parser.add_argument("--only", type=int, help="the number of one file (default: all)")
        main(parser.parse_args())
