"""Optical flow between a video's frames, as arrays and as pictures, made on demand and kept on disk.

How ours is made: between each frame and the next one, at the frames' own size, by OpenCV's DIS (preset medium, on grey frames) or by
torchvision's RAFT; the last frame repeats the flow before it, and the flow of a single frame is zero. Published flow images were made by
other methods (FlowNet2, Brox), so maps made from ours may differ from the papers'.

    python -m baselines.optical_flow frames/ --method dis              # frames/flow_dis/0001.npy .., and as pictures: --pictures
"""
import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models.optical_flow import Raft_Small_Weights, raft_small
from torchvision.utils import flow_to_image
from tqdm import tqdm

import utils
from dataloader import list_frames, read_frame

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]


def dis_flow() -> Flow:
    """OpenCV's DIS: fast, needs no weights. Source: Kroeger et al., ECCV 2016."""
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = lambda frame: cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return lambda frame, following: estimator.calc(grey(frame), grey(following), None)


def raft_flow(weights: str | Path | None = None, device: str = "cpu") -> Flow:
    """torchvision's RAFT (small). Source: Teed, Deng, ECCV 2020.

    Args:
        weights: a file of torchvision's; None: torchvision's own, from its cache or the internet.
        device: where to compute.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: they are none of RAFT's.
    """
    model = raft_small().eval().to(device)
    utils.load_entries(model, utils.read_weights(weights)[0] if weights else downloaded_raft(), str(weights or "torchvision's RAFT"))
    return functools.partial(estimate, model)


def downloaded_raft() -> dict[str, torch.Tensor]:
    """The weights of torchvision's small RAFT."""
    try:
        return utils.torchvision_weights(Raft_Small_Weights.DEFAULT)
    except OSError as error:
        raise FileNotFoundError(f"no weights of RAFT: {error}. Fetch it elsewhere and give its path, or take --method dis, "
                                "which needs none") from error


@torch.no_grad()
def estimate(model: torch.nn.Module, frame: np.ndarray, following: np.ndarray) -> np.ndarray:
    """RAFT's flow, at sizes that it can halve three times, brought back to the frame's."""
    (height, width), like = frame.shape[:2], next(model.parameters())
    size = [max(128, round(n / 8) * 8) for n in (height, width)]           # its correlations need 16 x 16 places
    pair = [F.interpolate(torch.from_numpy(x.copy()).permute(2, 0, 1)[None].to(like) / 127.5 - 1, size=size, mode="bilinear", antialias=True)
            for x in (frame, following)]
    flow = F.interpolate(model(*pair)[-1], size=(height, width), mode="bilinear")[0]
    scale = torch.tensor([width / size[1], height / size[0]], device=like.device).view(2, 1, 1)
    return (flow * scale).permute(1, 2, 0).cpu().numpy()


METHODS = {"dis": dis_flow, "raft": raft_flow}


def flows(frames: Iterable[np.ndarray], flow: Flow) -> Iterator[np.ndarray]:
    """The flow from each frame to the next one; one for each frame, the last one repeated.

    Args:
        frames: (H, W, 3) uint8, RGB, of one size; a frame of another size begins anew, with zeros where nothing follows.
        flow: of `METHODS`.

    Yields:
        (H, W, 2) float32: how far each pixel moves, in pixels to the right and down.
    """
    last = None
    for frame, following in itertools.pairwise(itertools.chain(frames, [None])):
        if following is not None and following.shape == frame.shape:
            last = flow(frame, following)
        elif last is None or last.shape[:2] != frame.shape[:2]:
            last = np.zeros((*frame.shape[:2], 2), np.float32)
        yield last


def components(flow: np.ndarray) -> np.ndarray:
    """A flow, (H, W, 2), as a picture, (H, W, 3) uint8: x, y and magnitude, each times 16 plus 128, rounded, clipped to 0 .. 255."""
    if np.isnan(flow).any():
        raise ValueError(f"parts of a flow of {flow.shape[0]} x {flow.shape[1]} are not numbers")
    channels = np.dstack([flow, np.hypot(flow[..., 0], flow[..., 1])])
    return np.clip(np.rint(channels * 16 + 128), 0, 255).astype(np.uint8)


def wheel(flow: np.ndarray) -> np.ndarray:
    """A flow, (H, W, 2), as a picture, (H, W, 3) uint8: the direction as colour, the length, for the picture's longest, as saturation."""
    picture = flow_to_image(torch.from_numpy(np.ascontiguousarray(flow)).permute(2, 0, 1).float())
    return picture.permute(1, 2, 0).numpy()


PICTURES = {"components": components, "wheel": wheel}


class FlowFolder:
    """The flow of a folder of frames, kept in files beside them: FOLDER/flow_METHOD/FRAME.npy, (H, W, 2) float16, in pixels.

    Args:
        folder: of the frames.
        method: a key of `METHODS`.
        make: makes a flow; the default is that method's, when the first one is missing.
    """

    def __init__(self, folder: Path, method: str = "dis", make: Flow | None = None) -> None:
        self.frames, self.place, self.method, self.make = list_frames(folder), folder / f"flow_{method}", method, make

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each frame's flow, (H, W, 2) float32; what is missing, or older than its frames, is made and written first."""
        last = len(self.frames) - 1
        for index, path in enumerate(self.frames):
            file = self.place / f"{path.stem}.npy"
            pair = self.frames[min(index, max(0, last - 1)):][:2]          # the last frame repeats the flow before
            if not file.is_file() or file.stat().st_mtime_ns < max(frame.stat().st_mtime_ns for frame in pair):
                self.write(file, pair)
            yield np.load(file).astype(np.float32)

    def write(self, file: Path, pair: list[Path]) -> None:
        """Make a flow and write it, atomically."""
        self.make = self.make or METHODS[self.method]()
        flow = next(flows(map(read_frame, pair), self.make))
        with utils.atomic_path(file) as temporary, temporary.open("wb") as out:
            np.save(out, flow.astype(np.float16))                          # to 0.016 pixels at 32: less than any method is wrong by


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FRAMES", help="folders of frames")
    parser.add_argument("--method", choices=list(METHODS), default="dis", help="(default: dis)")
    parser.add_argument("--raft-weights", metavar="FILE", help="of torchvision's small RAFT (default: downloaded)")
    parser.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cpu", help="where RAFT computes (default: cpu)")
    parser.add_argument("--pictures", choices=list(PICTURES), help="write FRAMES/flow_METHOD_PICTURES/FRAME.png too (default: none)")
    return parser


def main(args: argparse.Namespace) -> None:
    make = functools.partial(raft_flow, args.raft_weights, args.device) if args.method == "raft" else dis_flow
    for folder in args.folders:
        made = FlowFolder(folder, args.method, make())
        for frame, flow in zip(tqdm(made.frames, desc=folder.name, unit="frame", disable=None), made):
            if args.pictures:
                path = folder / f"flow_{args.method}_{args.pictures}" / f"{frame.stem}.png"
                with utils.atomic_path(path) as temporary:
                    picture = cv2.cvtColor(PICTURES[args.pictures](flow), cv2.COLOR_RGB2BGR)
                    temporary.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        print(f"{made.place}: flow of {len(made.frames)} frames by {args.method}")


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError) as error:
        parser.exit(2, f"optical_flow.py: error: {error}\n")
