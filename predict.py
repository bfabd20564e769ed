"""Any video or folder of frames -> one saliency map per frame, as pictures, arrays or videos.

    python predict.py clip.mp4 frames/ "holiday/*.mov" --save png overlay --out saliency
    python predict.py clip.mp4 --model tased_net --weights TASED_updated.pt
    python predict.py --export RecSalNet.onnx
"""
import argparse
import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import utils
from baselines import MODELS
from baselines.loading import default_weights, flow_for, load_model, model_argument, print_configuration
from prediction.engine import default_batch_size, engine_arguments, predictions, saliency_maps
from prediction.export import export
from prediction.outputs import OUTPUTS, check_kinds, output_path
from prediction.record import check_names, check_outputs, clear, described, plan
from prediction.sources import Source, find_sources, usable
from prediction.submission import check_test_set, pack_submission
from saliency_model import FIRST_FRAMES, EngineOptions, SaliencyModel
from utils import (
    BoundedExecutor,
    at_least,
    choose_precision,
    device_arguments,
    keep_freed_memory,
    positive,
    select_device,
)
from videos.decoding import FFMPEG_ERRORS
from videos.images import READING
from videos.optical_flow import Flow, FlowSource, flow_arguments
from weights import sha256_of


class Predictor:
    """Saliency maps of anybody's video, from Python.

        for seconds, saliency in Predictor("saved_models/RecSalNet.pth").predict_video("clip.mp4"):
            ...                                                            # saliency: (H, W) float32 in (0, 1), NumPy

    Args:
        weights: path or https URL of a weight file (`find_file`); default: saved_models/RecSalNet.pth, or the model's.
        device: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda" or "mps".
        precision: "float32" or "bfloat16"; default bfloat16 on CUDA, else float32.
        force_bfloat16: allow bfloat16 on a CPU without instructions for it, hundreds of times slower than float32.
        frame_size: (H, W) that the network sees frames at, if not the one it was trained at.
        compiled: let PyTorch compile the network at its first clip.
        model: a key of `baselines.MODELS`.
        options: those of `EngineOptions`: batch_size, every, interpolate, first_frames, scene_cuts, resize.

    It turns TF32 off for the whole process.

    Raises:
        FileNotFoundError: there is no such weight file.
        ValueError: the file holds no weights of this network, there is no such device, or it is a CPU without
            instructions for bfloat16.
    """

    def __init__(self, weights: str | Path | None = None, device: str = "auto", precision: str | None = None, *,
                 force_bfloat16: bool = False, frame_size: tuple[int, int] | None = None, compiled: bool = False,
                 model: str = "recsalnet", **options) -> None:
        self.device = select_device(device)
        precision = choose_precision(precision, self.device, force_bfloat16)
        self.model = load_model(weights or default_weights(model), self.device, precision, compiled, frame_size, model)
        self.options = EngineOptions(**{"batch_size": default_batch_size(self.model), **options})

    def predict_video(self, path: str | Path, start: float = 0.0, end: float = math.inf, fps: float = 25.0,
                      flow: FlowSource | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """Predict the maps of a video file, or of a folder of frames.

        Args:
            path: the file or folder.
            start, end: in seconds; frames outside are left out.
            fps: frames a second of a folder.
            flow: where optical flow comes from, for networks that need it; default: made by DIS.

        Yields:
            Each frame's time in seconds, and its map, (H, W) float32 in [0, 1].
        """
        source = Source(Path(path), fps, start, end)
        source.check()
        for prediction in predictions(self.model, source, self.options, flow=flow):
            yield prediction.seconds, prediction.saliency.cpu().numpy()

    def predict_frames(self, frames: Iterable[np.ndarray],
                       flows: Iterable[np.ndarray] | Flow | None = None) -> Iterator[np.ndarray]:
        """A map, (H, W) float32 in [0, 1], for each frame, (H, W, 3) uint8, RGB; `flows` as in `saliency_maps`."""
        return (saliency.cpu().numpy() for saliency in saliency_maps(self.model, frames, flows, self.options))


def predict_source(model: SaliencyModel, source: Source, out: Path, kinds: Iterable[str] = ("png",),
                   options: EngineOptions | None = None, done: int = 0,
                   flow: FlowSource | None = None) -> dict[str, float]:
    """Write the outputs of one video.

    Args:
        model: as for `saliency_maps`.
        source: the video.
        out: folder; the names in it are those of `OUTPUTS`.
        kinds: keys of `OUTPUTS`.
        options: how to go through the video; default: exactly.
        done: maps that are there already.
        flow: as for `predictions`.

    Returns:
        The time in seconds of each frame that has a map, by its name.
    """
    options = options or EngineOptions()
    times, total = {}, source.expected_frames()
    total = total and -(-total // options.every)
    with contextlib.ExitStack() as stack:
        writes = [stack.enter_context(OUTPUTS[kind].open(output_path(out, source.name, kind), source))
                  for kind in kinds]
        lanes = [stack.enter_context(BoundedExecutor(OUTPUTS[kind].threads)) for kind in kinds]
        maps = predictions(model, source, options, done, times, flow)
        for prediction in tqdm(maps, desc=source.name, unit="frame", initial=done, total=total, disable=None):
            for lane, write in zip(lanes, writes):
                lane(write, prediction)
    return times


# The command line

def seconds(text: str) -> float:
    """An argparse type: a time as seconds, MM:SS or HH:MM:SS."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = [math.nan]
    if not all(0 <= part < math.inf for part in parts):
        raise argparse.ArgumentTypeError(f"must be a time, 0 or more, in seconds or as MM:SS, got {text}")
    return sum(part * 60 ** power for power, part in enumerate(reversed(parts)))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", metavar="INPUT",
                        help="video file, folder of frames, folder of either, or a pattern such as \"clips/*.mp4\"")
    model_argument(parser)
    parser.add_argument("--weights",
                        help="weight file: a path, or an https URL, which is downloaded once (URL#sha256=HEX: and "
                             "checked); FILE#KEY: one of several state dicts in it; a .json beside it, or the metadata "
                             "of a .safetensors file, is read for the configuration (default: "
                             "saved_models/RecSalNet.pth, saved_models/MODEL/CLASS.pth for the others, or their "
                             "authors' file; recsal_lite's is included)")
    parser.add_argument("--export", type=Path, metavar="FILE",
                        help="write the network as FILE.pt2 (torch.export) or FILE.onnx, or its weights as "
                             "FILE.safetensors (default: none)")
    output_arguments(parser.add_argument_group("output"))
    video_arguments(parser.add_argument_group("video"))
    flow_arguments(parser)
    engine_arguments(parser)
    device_arguments(parser, "bfloat16 on CUDA, else float32")
    return parser


def output_kind(text: str) -> str:
    """An argparse type: a key of `OUTPUTS`."""
    if text not in OUTPUTS:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(OUTPUTS)}; if it is an INPUT, put it before "
                                         "--save")
    return text


def output_arguments(group) -> None:
    kinds = "; ".join(f"{kind}: {output.help}" for kind, output in OUTPUTS.items())
    group.add_argument("--out", type=Path, default=Path("saliency"),
                       help="folder for all outputs, and VIDEO.json with the frames' times (default: saliency)")
    group.add_argument("--save", nargs="+", type=output_kind, default=["png"], metavar="KIND",
                       help=f"{kinds} (default: png)")
    existing = group.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true",
                          help="replace the outputs of an earlier run (default: off)")
    existing.add_argument("--skip-existing", action="store_true",
                          help="keep them, and continue after them, as after an interrupted run (default: off)")
    group.add_argument("--submission", type=Path, metavar="FILE.zip",
                       help="pack the maps of DHF1K's test set, METHOD/VIDEO/FRAME.png, for the benchmark's organisers "
                            "(default: none)")
    group.add_argument("--method",
                       help="name of the method in the submission (default: the model's class, such as RecSalNet)")


def video_arguments(group) -> None:
    group.add_argument("--start", type=seconds, default=0.0, metavar="TIME",
                       help="start there, in seconds or MM:SS; earlier frames are not seen either (default: 0)")
    group.add_argument("--end", type=seconds, default=math.inf, metavar="TIME",
                       help="stop before this time (default: the video's end)")
    group.add_argument("--fps", type=positive, default=25.0,
                       help="frames a second of a folder of frames, or of a TIFF file's pages (default: 25)")
    group.add_argument("--every", type=at_least(1), default=1, metavar="N",
                       help="maps of every N-th frame only; the network still sees all (default: 1)")
    group.add_argument("--skip-bad", action=argparse.BooleanOptionalAction, default=False,
                       help="report and leave out videos that cannot be read to their end, instead of stopping "
                            "(default: off)")
    group.add_argument("--first-frames", choices=FIRST_FRAMES,
                       help="what fills the window before the first frame: that frame, as RecSal-Net's authors do, or "
                            "the frames after it in reverse, as TASED-Net's (default: the model's own)")
    group.add_argument("--resize", action=argparse.BooleanOptionalAction, default=True,
                       help="bring maps to the frame's size; --no-resize leaves them at the network's, as TASED-Net's "
                            "and SalEMA's authors save theirs (default: on)")
    group.add_argument("--scene-cuts", action=argparse.BooleanOptionalAction, default=False,
                       help="restart, as at the first frame, where the picture changes suddenly (default: off)")


def main(args: argparse.Namespace) -> None:
    if not args.inputs and (args.submission or not args.export):
        raise ValueError("nothing to do: give a video, a folder of frames or videos, or --export FILE; "
                         "--help lists everything")
    if any(Path(text).is_dir() and Path(text).resolve() == args.out.resolve() for text in args.inputs):
        raise ValueError(f"--out {args.out} is an input: its outputs would be taken for videos the next time. "
                         "Choose another --out")
    kinds = list(dict.fromkeys(args.save))
    check_kinds(kinds, args.resize)
    if args.every > 1 and args.interpolate > 1:
        raise ValueError("--every leaves out the maps that --interpolate draws: choose one")
    if args.submission and ("png" not in kinds or args.every > 1 or args.start or args.end < math.inf):
        raise ValueError("--submission needs the maps of all frames as PNG: give --save png, without --every, --start "
                         "and --end")
    sources = find_sources(args.inputs, fps=args.fps, start=args.start, end=args.end,
                           stills=MODELS[args.model].takes_stills)
    check_names(sources)
    check_outputs(sources, args.out)
    if args.submission:
        check_test_set([source.name for source in sources])
    if not args.overwrite:
        utils.refuse_to_replace(filter(None, [args.export, args.submission]), "--overwrite replaces it")
    sources = usable(sources, args.skip_bad)  # reported before anything is computed
    weights = args.weights or default_weights(args.model)
    if args.export:
        model = load_model(weights, torch.device("cpu"), frame_size=args.frame_size, name=args.model)
        print_configuration(model, weights)
        print(f"{args.export}: {export(model, args.export)}")
    if args.inputs and not sources:
        raise ValueError("every input was skipped: nothing was predicted")
    if not sources:
        return

    device = select_device(args.device)
    precision = choose_precision(args.precision, device, args.force_bfloat16)
    keep_freed_memory()
    model = load_model(weights, device, precision, args.compile, args.frame_size, args.model)
    print_configuration(model, weights)
    if args.first_frames and not model.first_frames:
        raise ValueError(f"--first-frames is for networks of windows: {type(model).__name__}'s first map needs "
                         "no frame before")
    flow = flow_for(model, args.flow, args.keep_flow, args.raft_weights, device, strict=True)
    exact = {"every": args.every, "interpolate": args.interpolate,
             "first_frames": args.first_frames or model.first_frames,
             "scene_cuts": args.scene_cuts, "resize": args.resize}
    options = EngineOptions(batch_size=args.batch_size or default_batch_size(model), **exact)
    # What the maps depend on: outputs of a run with other settings are not continued.
    settings = {"model": type(model).__name__, "configuration": model.config, "weights_sha256": sha256_of(weights),
                "frame_size": model.config["frame_size"], "flow": flow and flow.describe(),
                "precision": precision, "reading": READING,
                "start": args.start, "end": args.end if args.end < math.inf else None, **exact}
    run = {"model": type(model).__name__, "weights": str(weights), "configuration": model.config, "device": device.type,
           "revision": utils.revision(), "versions": utils.versions(), "date": utils.now()}
    how = [f"{device.type}, {precision}"]
    if args.interpolate > 1:
        how.append(f"APPROXIMATION: one frame in {args.interpolate} was predicted")
    if args.frame_size:
        how.append(f"APPROXIMATION: frames seen at {args.frame_size}")

    all_settings = [{**settings, "input": source.identity()} for source in sources]
    plans = [plan(source, args.out, kinds, own, args.overwrite, args.skip_existing)
             for source, own in zip(sources, all_settings)]  # all, before anything is removed
    skipped = 0
    for source, own, (done, complete) in zip(sources, all_settings, plans):
        if complete:
            print(f"{source.path}: everything is there already")
            continue
        if args.overwrite:
            clear(args.out, source.name)
        about = {**run, "source": str(source.path), "settings": own}
        try:
            with described(args.out, source.name, kinds, about) as times:
                times.update(predict_source(model, source, args.out, kinds, options, done, flow))
        except ValueError as error:
            if not args.skip_bad:
                raise
            print(f"skipped: {error}")
            skipped += 1
            continue
        kept = f" ({done} of them from an earlier run)" if done else ""
        places = ", ".join(dict.fromkeys(str(output_path(args.out, source.name, kind)) for kind in kinds))
        print(f"{source.path}: {len(times)} map{'s' * (len(times) != 1)}{kept} in {places} ({'; '.join(how)})")
        if len(times) * args.every < (needed := model.lookahead(args.first_frames)):
            print(f"{source.path}: fewer frames than {needed}: the first one fills the windows that do not fit "
                  "time-reversed")
    if skipped == len(sources):
        raise ValueError("every input was skipped: nothing was predicted to its end")
    if args.submission:
        method = args.method or type(model).__name__
        count = pack_submission(args.out, [source.name for source in sources], args.submission, method)
        print(f"{args.submission}: {count} maps of {len(sources)} videos")


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError, ModuleNotFoundError, *FFMPEG_ERRORS, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"predict.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "predict.py: interrupted; what is written is whole, and the same command with "
                         "--skip-existing, without --overwrite, continues\n")
