import math
import sys

import numpy as np
import pytest
from PIL import Image
from score_runs import frame_scores, row, score_files

from loss import MEASURES
from scoring.figures import best_and_worst, draw_distributions, draw_examples
from videos.annotation import read_density
from videos.images import read_frame
from videos.video import find_videos


def test_best_and_worst_frames_are_of_different_videos_and_ranked():
    rows = [row(video, frame=str(i), cc=cc) for video, scores in {"a": (0.9, 0.8), "b": (0.1, math.nan), "c": (0.5, 0.6), "d": (math.nan,)}.items() for i, cc in enumerate(scores)]
    assert [(kind, r["video"], r["cc"]) for kind, r in best_and_worst(rows)] == [
        ("best", "a", 0.9), ("best", "c", 0.6), ("best", "b", 0.1), ("worst", "b", 0.1), ("worst", "c", 0.5), ("worst", "a", 0.8)]


def test_figures_are_drawn_where_matplotlib_is_installed(short_scored, short_set):
    pytest.importorskip("matplotlib")
    assert all(Image.open(short_scored / name).size[0] >= 900 for name in ("distributions.png", "best_and_worst.png"))


def test_an_example_shows_image_density_and_prediction(short_scored, short_set):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    video = find_videos(short_set, "val")[0]
    draw_examples([("best", {"M": row("004", frame="0003", cc=0.25)})], [video], {"M": short_scored / "RecSalNet"}, figure)
    shown = [axis.images[0].get_array() for axis in figure.axes]
    expected = read_frame(video.frames[2]), read_density(video.maps["0003"]), np.array(Image.open(short_scored / "RecSalNet" / "004" / "0003.png"))
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected))
    assert [axis.get_title() for axis in figure.axes] == ["best: 004\nframe 0003", "density", "M, CC 0.2500"]


def test_distributions_show_every_video(short_scored):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    draw_distributions({"M": [row("a", nss=1.0), row("a", nss=3.0), row("b", nss=5.0), row("c", nss=math.nan)], "N": [row("a", nss=7.0)]}, figure)
    axis = figure.axes[list(MEASURES).index("nss")]
    assert axis.get_title() == "NSS" and [label.get_text() for label in axis.get_xticklabels()] == ["M\n3.5000", "N\n7.0000"]
    points = [sorted(line.get_ydata()) for line in axis.lines if line.get_marker() == "."]
    assert points == [[2.0, 5.0], [7.0]]


def test_without_matplotlib_the_figures_are_skipped_with_one_line(short_set, short_scored, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)            # as if it were not installed
    score_files(short_set, short_scored / "RecSalNet", tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("figures skipped: matplotlib is not installed") == 1
    assert not list(tmp_path.rglob("*.png")) and len(frame_scores(tmp_path / "tiny_val_RecSalNet_dhf1k")) == 16
