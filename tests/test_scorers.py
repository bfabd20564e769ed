import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from score_runs import make_fixations, scores_of

from prediction.outputs import to_8_bit
from scoring.other_fixations import OtherFixations
from scoring.scorers import Scorer, centre_gaussian, read_annotation
from videos.annotation import read_density
from videos.resizing import imresize
from videos.video import open_video

CPU = torch.device("cpu")


def test_the_centre_gaussian_is_symmetric_and_one_sigma_wide_at_a_quarter():
    gaussian = centre_gaussian((41, 81))
    assert gaussian[20, 40] == 1 and torch.equal(gaussian, gaussian.flip(0, 1))
    assert gaussian[20, 40 + 20].item() == pytest.approx(math.exp(-0.5 * (20 / 20.25) ** 2))


def test_maps_are_scored_in_batches_of_one_size_and_rows_stay_in_order(tmp_path):
    """A video whose annotation changes its size in the middle."""
    make_fixations(tmp_path / "val" / "a", [(0, 0), (1, 1), (2, 2)])
    make_fixations(tmp_path / "later", [(0, 0)] * 5, size=(6, 6))
    for kind in ("images", "maps", "fixation"):
        for number in (4, 5):
            shutil.copy(tmp_path / "later" / kind / f"{number:04d}.png", tmp_path / "val" / "a" / kind)
    video = open_video(tmp_path / "val" / "a")
    maps = [torch.rand(read_density(video.maps[video.frames[i].stem]).shape, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    rows = {size: Scorer(OtherFixations([video], 0), "float", CPU, baseline=True, batch_size=size)(video, range(5), maps, "M") for size in (1, 2, 16)}
    assert [(r["method"], r["frame"]) for r in rows[1]] == [(method, f"000{i}") for method in ("M", "centre Gaussian") for i in range(1, 6)]
    for size in (2, 16):
        assert all(many == pytest.approx(one, nan_ok=True) for many, one in zip(map(scores_of, rows[size]), map(scores_of, rows[1])))


def test_a_map_of_another_size_is_resized_to_its_annotation_and_counted(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 2, size=(40, 60))
    video = open_video(tmp_path / "val" / "a")
    scorer = Scorer(OtherFixations([video], 0), "dhf1k", CPU)
    saliency = torch.arange(600).mul(37).remainder(256).to(torch.uint8).view(20, 30)
    large, small = (scorer(video, [0], [x], "M")[0] for x in (imresize(saliency, (40, 60)), saliency))
    assert scores_of(small) == pytest.approx(scores_of(large), nan_ok=True) and scorer.resized == {"a": 1}


def test_annotation_of_two_sizes_is_an_error(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 2)
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "val" / "a" / "fixation" / "0001.png")
    with pytest.raises(ValueError, match=r"density and fixation map of frame 0001 of video a differ in size.*4 x 8.*6 x 6"):
        read_annotation(open_video(tmp_path / "val" / "a"), 0)


@pytest.mark.parametrize("protocol, sim", [("float", math.nan), ("dhf1k", 0.0)])
def test_similarity_with_an_all_zero_density_is_zero_in_the_benchmarks_protocol_only(tmp_path, protocol, sim):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 2)
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(tmp_path / "val" / "a" / "maps" / "0001.png")
    video = open_video(tmp_path / "val" / "a")
    ramp = torch.arange(32, 0, -1.0).view(4, 8)                             # highest at (0, 0), where the other density is
    scores = Scorer(OtherFixations([video], 0), protocol, CPU, baseline=True)(video, [0, 1], [ramp, ramp], "M")
    assert [s["method"] for s in scores] == ["M", "M", "centre Gaussian", "centre Gaussian"]
    assert [s["sim"] for s in scores[::2]] == pytest.approx([sim, sim], nan_ok=True)
    assert math.isnan(scores[0]["cc"]) and scores[1]["sim"] > 0


@pytest.mark.parametrize("protocol", ["float", "dhf1k"])
def test_the_baseline_is_scored_like_a_map_of_the_protocol(tmp_path, protocol):
    make_fixations(tmp_path / "val" / "a", [(1, 5), (2, 2)], size=(9, 12))
    video = open_video(tmp_path / "val" / "a")
    gaussian = centre_gaussian((9, 12))
    expected = torch.from_numpy(to_8_bit(gaussian)) if protocol == "dhf1k" else gaussian
    score = Scorer(OtherFixations([video], 0), protocol, CPU, baseline=True)
    noise = torch.rand(9, 12, generator=torch.Generator().manual_seed(0))
    assert scores_of(score(video, [0], [noise], "M")[1]) == pytest.approx(scores_of(score(video, [0], [expected], "M")[0]))


def test_resizing_a_map_that_is_not_rounded_keeps_kl_defined(tmp_path):
    """The cubic kernel undershoots beside an edge; below 0 the logarithm would be NaN."""
    make_fixations(tmp_path / "val" / "a", [(5, 5), (2, 2)], size=(40, 60))
    video = open_video(tmp_path / "val" / "a")
    edge = torch.zeros(20, 30)
    edge[:, 15:] = 1
    assert imresize(edge, (40, 60)).min() < 0
    assert math.isfinite(Scorer(OtherFixations([video], 0), "float", CPU)(video, [0], [edge], "M")[0]["kl"])
