"""Optical flow between a video's frames, as arrays and as pictures, made on demand and kept on disk.

How ours is made: between each frame and the next one, at the frames' own size, by OpenCV's DIS (preset medium, on grey
frames) or by torchvision's RAFT; the last frame repeats the flow before it, and the flow of a single frame is zero.
Published flow images were made by other methods (FlowNet2, Brox), so maps made from ours may differ from the papers'.

    python -m baselines.optical_flow frames/ --method dis  # frames/flow_dis/0001-DIGEST.npy .., as pictures: --pictures
"""
import argparse
from pathlib import Path

import cv2
from tqdm import tqdm

import utils
from videos.optical_flow import METHODS, PICTURES, FlowFolder, FlowSource, raft_argument
from videos.video import list_frames


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FRAMES", help="folders of frames")
    parser.add_argument("--method", choices=list(METHODS), default="dis", help="(default: dis)")
    raft_argument(parser)
    parser.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cpu",
                        help="where RAFT computes (default: cpu)")
    parser.add_argument("--pictures", choices=list(PICTURES),
                        help="write FRAMES/flow_METHOD_PICTURES/FRAME.png too (default: none)")
    return parser


def main(args: argparse.Namespace) -> None:
    source = FlowSource(args.method, raft_weights=args.raft_weights, device=args.device)
    for folder in args.folders:
        made = FlowFolder(list_frames(folder), args.method, source.make)
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
