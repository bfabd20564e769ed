"""A page in the browser: drop a video, watch where people look, scrub through its frames. Works offline.

    pip install ".[app]"
    PYTHONPATH=. python examples/app.py                                                  # RecSal-Lite
    PYTHONPATH=. python examples/app.py --weights saved_models/RecSalNet.pth
"""
import argparse
import bisect
import tempfile
from pathlib import Path

import av
import gradio as gr
import numpy as np

from baselines.loading import model_argument
from predict import Predictor, predict_source
from prediction.outputs import output_path
from prediction.sources import Source
from utils import at_least, keep_freed_memory
from videos.decoding import timed_frames


def predict_overlay(predictor: Predictor, video: str | None, folder: Path, progress: gr.Progress) -> Path:
    """Write the overlay of an uploaded video to a new folder; a user's mistake is shown on the page."""
    if not video:
        raise gr.Error("Drop a video first.", print_exception=False)
    source = Source(Path(video))
    progress(0, desc="reading the video")
    try:
        out = Path(tempfile.mkdtemp(dir=folder))
        predict_source(predictor.model, source, out, ["overlay"], predictor.options)
    except (OSError, ValueError, av.FFmpegError) as error:
        raise gr.Error(str(error), print_exception=False) from error
    return output_path(out, source.name, "overlay")


def times_of(overlay: Path) -> list[float]:
    """The times of an overlay's frames, in seconds."""
    return [seconds for seconds, _ in timed_frames(overlay)]


def frame_at(overlay: str | None, times: list[float], seconds: float) -> np.ndarray | None:
    """The overlay's frame that is shown at a time."""
    if not overlay:
        return None
    shown = times[max(0, bisect.bisect_right(times, seconds + 1e-3) - 1)]
    return next(frame for _, frame in timed_frames(overlay, max(0.0, shown - 1e-3)))


def build(predictor: Predictor, folder: Path) -> gr.Blocks:
    """The page."""
    # Gradio reads the default of `progress`.
    def run(video: str | None, progress: gr.Progress = gr.Progress(track_tqdm=True)) -> tuple:  # noqa: B008
        overlay = predict_overlay(predictor, video, folder, progress)
        found = times_of(overlay)
        slider = gr.Slider(0, round(max(found[-1], 0.01), 2), value=0, step=0.01, interactive=True)
        return str(overlay), slider, frame_at(str(overlay), found, 0.0), found

    with gr.Blocks(title="Where do people look?", analytics_enabled=False) as page:
        gr.Markdown("# Where do people look?\nDrop a video. Red is where people look most, as "
                    f"{type(predictor.model).__name__} predicts it.")
        times = gr.State([0.0])
        with gr.Row():
            video, overlay = gr.Video(label="Video", sources=["upload"]), gr.Video(label="Overlay", interactive=False)
        button = gr.Button("Predict", variant="primary")
        slider = gr.Slider(0, 1, value=0, label="Scrub: time in seconds", interactive=False)
        picture = gr.Image(label="Frame", interactive=False)
        button.click(run, video, [overlay, slider, picture, times])
        slider.input(frame_at, [overlay, times, slider], picture)
    return page


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model_argument(parser, default=None, help="the network (default: recsal_lite; with --weights recsalnet)")
    parser.add_argument("--weights",
                        help="weight file or https URL (default: that of predict.py; with neither, RecSal-Lite's)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
                        help="where to compute (default: auto)")
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to serve at; 0.0.0.0 opens it to the network (default: 127.0.0.1)")
    parser.add_argument("--port", type=at_least(1), default=7860, help="port to serve at (default: 7860)")
    return parser


def main(args: argparse.Namespace) -> None:
    keep_freed_memory()
    model = args.model or ("recsalnet" if args.weights else "recsal_lite")
    predictor = Predictor(args.weights, args.device, model=model)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # Gradio's own come from the internet
    with tempfile.TemporaryDirectory() as folder:
        build(predictor, Path(folder)).launch(server_name=args.host, server_port=args.port,
                                              theme=gr.themes.Default(**fonts), allowed_paths=[folder])


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError) as error:
        parser.exit(2, f"app.py: error: {error}\n")
