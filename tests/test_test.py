import csv
import hashlib
import json
import math
import shutil
import sys
import unicodedata

import cv2
import numpy as np
import pytest
import torch
from conftest import TESTS, TINY, few_channels, needs_bfloat16
from parity import fill
from PIL import Image

import test as evaluation
import utils
from baselines import SMCF, STSConvNet
from baselines.smcf import vsod_scores
from dataloader import find_videos, imresize, open_video
from loss import MEASURES, measures
from model import RecSalNet
from predict import saliency_maps, to_8_bit
from videos.annotation import read_density, read_fixations, read_mask
from videos.images import read_frame, read_image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = RecSalNet(**TINY)
    torch.save(model.state_dict(), folder / "RecSalNet.pth")
    (folder / "RecSalNet.json").write_text(json.dumps({"configuration": model.config}))
    return folder / "RecSalNet.pth"


@pytest.fixture(scope="module")
def short_set(tiny_set, tmp_path_factory):
    """Its videos, 8 frames of each; read-only for tests."""
    late = lambda folder, names: [name for name in names if name.endswith(".png") and int(name[:-4]) > 8]
    return shutil.copytree(tiny_set, tmp_path_factory.mktemp("short") / "tiny", ignore=late)


def run(data, weights, out, *flags):
    return evaluation.main(evaluation.arguments().parse_args(["--data", str(data), "--weights", str(weights), "--out", str(out), "--device", "cpu", *flags]))


def score_files(data, maps, out, *flags):
    folders = map(str, maps if isinstance(maps, tuple) else (maps,))
    return evaluation.main(evaluation.arguments().parse_args(["--data", str(data), "--predictions", *folders, "--out", str(out), "--device", "cpu", *flags]))


@pytest.fixture(scope="module")
def scored(tiny_set, weights_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    run(tiny_set, weights_file, out, "--centre-baseline")
    return out / "tiny_val_RecSalNet_float"


def row(video, **values):
    return {"method": "M", "video": video, "frame": "0001", **dict.fromkeys(MEASURES, 0.0), **values}


# Averages

def test_frames_where_a_measure_is_undefined_are_left_out_of_it_and_counted():
    summary = evaluation.summarise([row("a", cc=1.0), row("a", cc=math.nan), row("b", cc=0.4)])
    assert summary["frame_average"]["cc"] == pytest.approx(0.7)
    assert summary["left_out"] == {**dict.fromkeys(MEASURES, 0), "cc": 1} and summary["frames"] == 3 and summary["videos"] == 2


def test_the_average_over_videos_weighs_a_long_video_like_a_short_one():
    summary = evaluation.summarise([row("long", nss=1.0), row("long", nss=1.0), row("long", nss=1.0), row("short", nss=3.0)])
    assert summary["frame_average"]["nss"] == pytest.approx(1.5) and summary["video_average"]["nss"] == pytest.approx(2.0)


def test_a_measure_defined_nowhere_is_nan_and_null_in_json(tmp_path):
    details = {"notes": [], "protocol": "float", "protocol_means": "m", "data": "d", "split": "s", "methods": {"M": {}}}
    text = evaluation.report([row("a", s_auc=math.nan)], tmp_path, details)
    assert "| 0.0000 | - | 0.0000 |" in text and "| M | left out of 1 frames | 0 | 0 | 1 | 0 | 0 | 0 |" in text
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["M"]["frame_average"]["s_auc"] is None


def test_the_centre_gaussian_is_symmetric_and_one_sigma_wide_at_a_quarter():
    gaussian = evaluation.centre_gaussian((41, 81))
    assert gaussian[20, 40] == 1 and torch.equal(gaussian, gaussian.flip(0, 1))
    assert gaussian[20, 40 + 20].item() == pytest.approx(math.exp(-0.5 * (20 / 20.25) ** 2))


# Which data

def test_another_dataset_is_scored_on_its_own_split_short_videos_included(ucf_set, weights_file, tmp_path, capsys):
    run(ucf_set, weights_file, tmp_path, "--dataset", "ucf-sports")
    assert f"{ucf_set}, testing: 2 videos, 40 frames, 40 annotated" in capsys.readouterr().out
    folder, = tmp_path.iterdir()
    assert folder.name == f"{ucf_set.name}_testing_RecSalNet_float"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["split"] == "testing" and scores["scores"]["RecSalNet"]["frames"] == 40  # a map for every frame, of videos of 20
    assert sorted(path.name for path in (folder / "RecSalNet" / "Kick-004").iterdir())[0] == "Kick_004_0001.png"


@pytest.mark.parametrize("flags, expected", [((), ("data/DHF1K", "val")), (("--dataset", "hollywood2"), ("data/Hollywood-2", "testing")),
                                             (("--dataset", "diem"), ("data/DIEM", "test")), (("--dataset", "ucf-sports", "--split", "all"), ("data/UCF-Sports", "all"))])
def test_a_datasets_name_says_where_it_is_and_what_is_scored(flags, expected, monkeypatch):
    def stop(root, split, **options):
        raise FileNotFoundError(f"{root}, {split}")
    monkeypatch.setattr(evaluation, "find_videos", stop)
    with pytest.raises(FileNotFoundError, match="^" + ", ".join(expected) + "$"):
        evaluation.main(evaluation.arguments().parse_args(list(flags)))


def test_videos_of_dhf1k_are_divided_by_their_numbers_where_there_are_no_folders(short_set, weights_file, tmp_path, capsys):
    for number, video in zip((600, 601), (short_set / "train").iterdir()):
        shutil.copytree(video / "images", tmp_path / "set" / "frames" / str(number))
        shutil.copytree(video, tmp_path / "set" / "annotation" / f"{number:04d}", ignore=shutil.ignore_patterns("images"))
    run(tmp_path / "set", weights_file, tmp_path / "out")
    assert f"{tmp_path / 'set'}, val: 1 videos" in capsys.readouterr().out


def test_predictions_may_have_other_zeros_than_the_frames(tiny_set, tmp_path):
    video = sorted((tiny_set / "val").iterdir())[0]
    (maps := tmp_path / "maps" / video.name).mkdir(parents=True)
    for path in (video / "maps").iterdir():
        shutil.copy(path, maps / f"{int(path.stem)}.png")
    shutil.copytree(video, tmp_path / "set" / "val" / video.name)
    score_files(tmp_path / "set", tmp_path / "maps", tmp_path / "out")
    folder, = (tmp_path / "out").iterdir()
    assert json.loads((folder / "scores.json").read_text())["scores"]["maps"]["frame_average"]["cc"] == pytest.approx(1)


def test_numbers_and_lists_choose_videos_and_name_the_run(short_set, weights_file, tmp_path):
    (tmp_path / "set").mkdir()
    for video in (short_set / "val").iterdir():
        shutil.copytree(video, tmp_path / "set" / video.name)
    (tmp_path / "mine.txt").write_text("005\n")
    run(tmp_path / "set", weights_file, tmp_path / "out", "--split", "4-4")
    run(tmp_path / "set", weights_file, tmp_path / "out", "--split", str(tmp_path / "mine.txt"))
    videos = {folder.name: [path.name for path in (folder / "RecSalNet").iterdir()] for folder in (tmp_path / "out").iterdir()}
    assert videos == {"set_4-4_RecSalNet_float": ["004"], "set_mine_RecSalNet_float": ["005"]}


# The other frames of shuffled AUC

def make_fixations(folder, points, size=(4, 8)):
    for number, (y, x) in enumerate(points, start=1):
        fixations = np.zeros(size, np.uint8)
        fixations[y, x] = 255
        for kind, content in (("images", np.zeros((*size, 3), np.uint8)), ("maps", fixations), ("fixation", fixations)):
            path = folder / kind / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)


def union_of(others, video, index, size=(4, 8)):
    return others.union(others.draw(video, index), size)


def test_other_fixations_come_from_other_videos_at_this_frames_size(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 3)
    make_fixations(tmp_path / "val" / "b", [(3, 7)] * 3, size=(4, 8))
    videos = find_videos(tmp_path, "val")
    others = evaluation.OtherFixations(videos, seed=0)
    assert not others.same_video
    assert np.argwhere(union_of(others, videos[0], 0, (8, 16))).tolist() == [[7, 15]]  # the corner stays the corner
    assert np.argwhere(union_of(others, videos[1], 2)).tolist() == [[0, 0]]


def test_rescaled_coordinates_are_rounded_to_the_nearest_pixel(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)])
    make_fixations(tmp_path / "val" / "b", [(1, 5)])                       # of rows 0 to 3 and columns 0 to 7
    videos = find_videos(tmp_path, "val")
    assert np.argwhere(union_of(evaluation.OtherFixations(videos, seed=0), videos[0], 0, (6, 11))).tolist() == [[2, 7]]  # 1.67 and 7.14


def test_ten_other_frames_are_drawn_reproducibly_and_by_seed(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)])
    make_fixations(tmp_path / "val" / "b", [(y, x) for y in range(4) for x in range(8)])
    videos = find_videos(tmp_path, "val")
    drawn = [evaluation.OtherFixations(videos, seed).draw(videos[0], 0) for seed in (0, 0, 1)]
    assert [len(set(d)) for d in drawn] == [10, 10, 10] and {video for video, _ in drawn[0]} == {"b"}
    assert drawn[0] == drawn[1] and set(drawn[0]) != set(drawn[2])
    assert evaluation.OtherFixations(videos, 0).union(drawn[0], (4, 8)).sum() == 10


def test_a_single_video_is_compared_with_its_own_other_frames(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, x) for x in range(5)])
    others = evaluation.OtherFixations(videos := find_videos(tmp_path, "val"), seed=0)
    assert others.same_video
    assert np.argwhere(union_of(others, videos[0], 2))[:, 1].tolist() == [0, 1, 3, 4]


def test_frames_are_sampled_over_all_videos_reproducibly_and_by_seed(tmp_path):
    for name in "ab":
        make_fixations(tmp_path / "val" / name, [(0, 0)] * 30)
    videos = find_videos(tmp_path, "val")
    chosen = [evaluation.choose_frames(videos, 20, seed) for seed in (0, 0, 1)]
    assert [sum(map(len, c.values())) for c in chosen] == [20] * 3 and all(chosen[0].values())
    assert chosen[0] == chosen[1] != chosen[2]
    assert evaluation.choose_frames(videos, 60, 0) == evaluation.choose_frames(videos, None, 0) == {"a": list(range(30)), "b": list(range(30))}


# Scoring

def test_maps_are_scored_in_batches_of_one_size_and_rows_stay_in_order(tmp_path):
    """A video whose annotation changes its size in the middle."""
    make_fixations(tmp_path / "val" / "a", [(0, 0), (1, 1), (2, 2)])
    make_fixations(tmp_path / "later", [(0, 0)] * 5, size=(6, 6))
    for kind in ("images", "maps", "fixation"):
        for number in (4, 5):
            shutil.copy(tmp_path / "later" / kind / f"{number:04d}.png", tmp_path / "val" / "a" / kind)
    video = open_video(tmp_path / "val" / "a")
    maps = [torch.rand(read_density(video.maps[video.frames[i].stem]).shape, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    rows = {size: evaluation.Scorer(evaluation.OtherFixations([video], 0), "float", CPU, baseline=True, batch_size=size)(video, range(5), maps, "M") for size in (1, 2, 16)}
    assert [(r["method"], r["frame"]) for r in rows[1]] == [(method, f"000{i}") for method in ("M", "centre Gaussian") for i in range(1, 6)]
    for size in (2, 16):
        assert all(many == pytest.approx(one, nan_ok=True) for many, one in zip(map(scores_of, rows[size]), map(scores_of, rows[1])))


def scores_of(row):
    return {name: row[name] for name in MEASURES}


def test_a_map_of_another_size_is_resized_to_its_annotation_and_counted(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 2, size=(40, 60))
    video = open_video(tmp_path / "val" / "a")
    scorer = evaluation.Scorer(evaluation.OtherFixations([video], 0), "dhf1k", CPU)
    saliency = torch.arange(600).mul(37).remainder(256).to(torch.uint8).view(20, 30)
    large, small = (scorer(video, [0], [x], "M")[0] for x in (imresize(saliency, (40, 60)), saliency))
    assert scores_of(small) == pytest.approx(scores_of(large), nan_ok=True) and scorer.resized == {"a": 1}


def test_annotation_of_two_sizes_is_an_error(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 2)
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "val" / "a" / "fixation" / "0001.png")
    with pytest.raises(ValueError, match=r"density and fixation map of frame 0001 of video a differ in size.*4 x 8.*6 x 6"):
        evaluation.read_annotation(open_video(tmp_path / "val" / "a"), 0)


@pytest.mark.parametrize("protocol, sim", [("float", math.nan), ("dhf1k", 0.0)])
def test_similarity_with_an_all_zero_density_is_zero_in_the_benchmarks_protocol_only(tmp_path, protocol, sim):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 2)
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(tmp_path / "val" / "a" / "maps" / "0001.png")
    video = open_video(tmp_path / "val" / "a")
    ramp = torch.arange(32, 0, -1.0).view(4, 8)                             # highest at (0, 0), where the other density is
    scores = evaluation.Scorer(evaluation.OtherFixations([video], 0), protocol, CPU, baseline=True)(video, [0, 1], [ramp, ramp], "M")
    assert [s["method"] for s in scores] == ["M", "M", "centre Gaussian", "centre Gaussian"]
    assert [s["sim"] for s in scores[::2]] == pytest.approx([sim, sim], nan_ok=True)
    assert math.isnan(scores[0]["cc"]) and scores[1]["sim"] > 0


@pytest.mark.parametrize("protocol", ["float", "dhf1k"])
def test_the_baseline_is_scored_like_a_map_of_the_protocol(tmp_path, protocol):
    make_fixations(tmp_path / "val" / "a", [(1, 5), (2, 2)], size=(9, 12))
    video = open_video(tmp_path / "val" / "a")
    gaussian = evaluation.centre_gaussian((9, 12))
    expected = torch.from_numpy(to_8_bit(gaussian)) if protocol == "dhf1k" else gaussian
    score = evaluation.Scorer(evaluation.OtherFixations([video], 0), protocol, CPU, baseline=True)
    noise = torch.rand(9, 12, generator=torch.Generator().manual_seed(0))
    assert scores_of(score(video, [0], [noise], "M")[1]) == pytest.approx(scores_of(score(video, [0], [expected], "M")[0]))


def test_resizing_a_map_that_is_not_rounded_keeps_kl_defined(tmp_path):
    """The cubic kernel undershoots beside an edge; below 0 the logarithm would be NaN."""
    make_fixations(tmp_path / "val" / "a", [(5, 5), (2, 2)], size=(40, 60))
    video = open_video(tmp_path / "val" / "a")
    edge = torch.zeros(20, 30)
    edge[:, 15:] = 1
    assert imresize(edge, (40, 60)).min() < 0
    assert math.isfinite(evaluation.Scorer(evaluation.OtherFixations([video], 0), "float", CPU)(video, [0], [edge], "M")[0]["kl"])


# The whole program

def test_every_frame_gets_an_eight_bit_map_of_its_own_size(scored, tiny_set):
    for video in find_videos(tiny_set, "val"):
        written = sorted((scored / "RecSalNet" / video.name).iterdir())
        assert [p.name for p in written] == [p.name for p in video.frames]
        picture = Image.open(written[0])
        assert (picture.mode, picture.size) == ("L", (80, 45))


def frame_scores(folder):
    """(video, frame) -> measures, as written."""
    with (folder / "per_frame.csv").open() as file:
        return {(r["video"], r["frame"]): {name: float(r[name] or "nan") for name in MEASURES} for r in csv.DictReader(file) if r["method"] != "centre Gaussian"}


def expected_scores(videos, index, saliency):
    others, stem = evaluation.OtherFixations(videos, 0), videos[0].frames[index].stem
    targets = read_density(videos[0].maps[stem]), read_fixations(videos[0].fixations[stem]), union_of(others, videos[0], index, saliency.shape)
    return {name: value.item() for name, value in measures(saliency[None], *(torch.from_numpy(t)[None] for t in targets)).items()}


def test_by_default_scores_are_those_of_the_maps_before_quantisation(scored, tiny_set, weights_file):
    videos = find_videos(tiny_set, "val")
    saliency = list(saliency_maps(RecSalNet.from_pretrained(weights_file), [read_frame(p) for p in videos[0].frames[:6]]))[5]
    assert frame_scores(scored)["004", videos[0].frames[5].stem] == pytest.approx(expected_scores(videos, 5, saliency), abs=1e-6)


def test_the_benchmarks_protocol_scores_the_saved_maps_and_needs_no_model_for_it(tiny_set, weights_file, tmp_path, scored):
    run(tiny_set, weights_file, tmp_path, "--protocol", "dhf1k")
    by_model = tmp_path / "tiny_val_RecSalNet_dhf1k"
    score_files(tiny_set, scored / "RecSalNet", tmp_path / "p")
    by_files = tmp_path / "p" / "tiny_val_RecSalNet_dhf1k"
    assert (by_model / "per_frame.csv").read_text() == (by_files / "per_frame.csv").read_text()
    videos = find_videos(tiny_set, "val")
    stored = torch.from_numpy(np.array(Image.open(by_model / "RecSalNet" / "004" / videos[0].frames[5].name)))
    written = frame_scores(by_model)["004", videos[0].frames[5].stem]
    assert written == pytest.approx(expected_scores(videos, 5, stored), abs=1e-6)
    assert written["kl"] != pytest.approx(frame_scores(scored)["004", videos[0].frames[5].stem]["kl"], abs=1e-3)
    content = json.loads((by_files / "scores.json").read_text())
    assert content["protocol"] == "dhf1k" and content["methods"]["RecSalNet"]["predictions"] == str(scored / "RecSalNet") and content["precision"] is None


def test_tables_hold_six_measures_both_averages_the_baseline_and_the_protocol(scored, weights_file):
    content = json.loads((scored / "scores.json").read_text())
    assert content["scores"].keys() == {"RecSalNet", "centre Gaussian"}
    for summary in content["scores"].values():
        for average in ("frame_average", "video_average"):
            assert summary[average].keys() == MEASURES.keys() and all(math.isfinite(v) for v in summary[average].values())
    assert content["scores"]["RecSalNet"]["left_out"]["nss"] == 2          # one frame without fixations in each video
    assert {"protocol", "seed", "device", "precision", "versions", "revision"} <= content.keys()
    about = content["methods"]["RecSalNet"]
    assert {"configuration", "weights", "parameters", "gflop", "frames_per_second"} <= about.keys() and about["frames_per_second"] > 0
    text = (scored / "scores.md").read_text()
    assert "AUC-J" in text and "centre Gaussian" in text and "2 videos" in text and "float32" in text and about["weights_sha256"] in text
    assert about["weights_sha256"] == hashlib.sha256(weights_file.read_bytes()).hexdigest()
    with (scored / "per_video.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["method"], r["video"]) for r in rows] == [(method, video) for method in ("RecSalNet", "centre Gaussian") for video in ("004", "005")]
    rows = rows[:2]
    assert all(0 < float(r["auc_j"]) < 1 for r in rows)
    assert sum(float(r["cc"]) for r in rows) / 2 == pytest.approx(content["scores"]["RecSalNet"]["video_average"]["cc"], abs=1e-5)


def test_the_other_frames_of_every_score_are_listed(scored, tiny_set):
    content = json.loads((scored / "scores.json").read_text())
    assert {video: len(frames) for video, frames in content["other_frames"].items()} == {"004": 36, "005": 38}
    videos = find_videos(tiny_set, "val")
    drawn = evaluation.OtherFixations(videos, 0).draw(videos[0], 6)
    assert content["other_frames"]["004"][videos[0].frames[6].stem] == [f"005/{stem}" for _, stem in drawn]


def test_our_rows_and_the_published_ones_share_a_file_and_no_column(scored):
    ours, published = (scored / "scores.md").read_text().split("## Published")
    assert "hidden **test** set" in published and "not comparable" in published
    assert published.count("\n| ") == 21 and json.loads((scored / "scores.json").read_text())["dataset"] == "dhf1k"
    assert "| RecSal-Net | 0.913 | 0.414 | 0.728 | 0.547 | 3.135 |" in published and "0.913" not in ours


def test_sampled_frames_are_the_only_ones_scored_and_the_number_is_said(tiny_set, scored, tmp_path, capsys):
    score_files(tiny_set, scored / "RecSalNet", tmp_path, "--sample-frames", "20", "--run-name", "some")
    assert "20 of 74 annotated frames were drawn at random" in capsys.readouterr().out
    assert len(frame_scores(tmp_path / "some")) == 20
    score_files(tiny_set, scored / "RecSalNet", tmp_path, "--sample-frames", "20", "--run-name", "others", "--seed", "1")
    assert frame_scores(tmp_path / "some").keys() != frame_scores(tmp_path / "others").keys()
    content = json.loads((tmp_path / "some" / "scores.json").read_text())
    assert content["sample_frames"] == 20 and content["scores"]["RecSalNet"]["frames"] == 20


def test_scores_of_an_earlier_run_are_replaced_only_when_told(tiny_set, scored, tmp_path):
    score_files(tiny_set, scored / "RecSalNet", tmp_path)
    with pytest.raises(FileExistsError, match=r"tiny_val_RecSalNet_dhf1k/scores.json would be replaced: --overwrite .*--run-name NAME"):
        score_files(tiny_set, scored / "RecSalNet", tmp_path, "--seed", "7")
    score_files(tiny_set, scored / "RecSalNet", tmp_path, "--seed", "7", "--overwrite")
    assert json.loads((tmp_path / "tiny_val_RecSalNet_dhf1k" / "scores.json").read_text())["seed"] == 7


def test_maps_of_any_method_and_size_are_scored(tiny_set, tmp_path, capsys):
    """Half the frames' size, in another kind of file: scored as if they had been resized before."""
    for video in find_videos(tiny_set, "val"):
        for frame in video.frames:
            small = imresize(torch.from_numpy(np.array(Image.open(video.maps[frame.stem]))), (30, 50))
            for folder, saliency in (("small", small), ("large", imresize(small, (45, 80)))):
                path = tmp_path / folder / video.name / f"{frame.stem}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(saliency.numpy()).save(path)
    for folder in ("small", "large"):
        score_files(tiny_set, tmp_path / folder, tmp_path / "out")
    assert "Maps resized to their annotation's size: 74 of 74" in capsys.readouterr().out
    small, large = (frame_scores(tmp_path / "out" / f"tiny_val_{folder}_dhf1k") for folder in ("small", "large"))
    assert all(small[frame] == pytest.approx(large[frame], nan_ok=True) for frame in large) and small["004", "0001"]["cc"] > 0.9


def test_stored_maps_that_are_resized_are_rounded_in_the_benchmarks_protocol_only(tiny_set, tmp_path):
    draw = lambda video, index: np.array(Image.open(video.maps[video.frames[index].stem]).resize((40, 22)))
    save_maps(tiny_set, tmp_path / "maps", draw)
    for protocol in ("float", "dhf1k"):
        score_files(tiny_set, tmp_path / "maps", tmp_path, "--protocol", protocol)
    rounded, exact = (frame_scores(tmp_path / f"tiny_val_maps_{protocol}")["004", "0001"] for protocol in ("dhf1k", "float"))
    assert rounded != pytest.approx(exact, abs=1e-9) and rounded == pytest.approx(exact, abs=0.05)
    assert "maps as their files have them" in (tmp_path / "tiny_val_maps_float" / "scores.md").read_text()


def test_missing_maps_are_an_error_that_says_what_is_there_or_a_video_left_out(tiny_set, scored, tmp_path, capsys):
    maps = shutil.copytree(scored / "RecSalNet", tmp_path / "maps")
    (maps / "004" / "0007.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no map for 1 of the 36 frames to score of video 004: expected .*0007.png .or .*, but .*004 holds 0001.png to 0036.png, 35 in all.*1 of 2 videos lack maps; --skip-bad"):
        score_files(tiny_set, maps, tmp_path / "a")
    score_files(tiny_set, maps, tmp_path / "b", "--skip-bad")
    assert "Skipped, 1 of 2 videos scored.** video 004: no map for 1" in capsys.readouterr().out
    assert len(list((maps / "004").iterdir())) == 35                        # the user's own files stay
    with pytest.raises(FileNotFoundError, match="no predictions .*nowhere: the folder does not exist"):
        score_files(tiny_set, tmp_path / "nowhere", tmp_path / "c")


def save_maps(dataset, folder, draw):
    """draw(video, index) -> picture, as prediction of every frame."""
    for video in find_videos(dataset, "val"):
        (folder / video.name).mkdir(parents=True)
        for index, frame in enumerate(video.frames):
            Image.fromarray(draw(video, index)).save(folder / video.name / f"{frame.stem}.png")


def test_constant_maps_are_counted_and_said(tiny_set, tmp_path, capsys):
    generator = np.random.default_rng(0)
    save_maps(tiny_set, tmp_path / "maps", lambda video, index: np.full((45, 80), 7, np.uint8) if index < 3 else generator.integers(0, 256, (45, 80), np.uint8))
    score_files(tiny_set, tmp_path / "maps", tmp_path, "--method", "mine")
    assert "Constant maps: 6 of 74.** CC, SIM, s-AUC and NSS are undefined there" in capsys.readouterr().out
    assert "mine" in json.loads((tmp_path / "tiny_val_mine_dhf1k" / "scores.json").read_text())["scores"]


def test_grey_maps_in_colour_files_are_scored_and_heat_maps_refused(tiny_set, scored, tmp_path):
    stored = lambda video, index: np.array(Image.open(scored / "RecSalNet" / video.name / video.frames[index].name))
    save_maps(tiny_set, tmp_path / "rgb", lambda video, index: np.stack([stored(video, index)] * 3, axis=2))
    save_maps(tiny_set, tmp_path / "heat", lambda video, index: cv2.applyColorMap(stored(video, index), cv2.COLORMAP_JET))
    score_files(tiny_set, tmp_path / "rgb", tmp_path)
    score_files(tiny_set, scored / "RecSalNet", tmp_path, "--method", "grey")
    assert (tmp_path / "tiny_val_rgb_dhf1k" / "per_frame.csv").read_text().replace("rgb", "grey") == (tmp_path / "tiny_val_grey_dhf1k" / "per_frame.csv").read_text()
    with pytest.raises(ValueError, match=r"heat.004.0001.png is in colour: expected a grey map"):
        score_files(tiny_set, tmp_path / "heat", tmp_path)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(evaluation, "figures", lambda *arguments: [])


def small_set(root, frames=4, size=(12, 16), fixation=True):
    """Two videos of small frames with a blob of density that moves, its peak fixated; the density maps are good predictions."""
    for name in ("a", "b"):
        for number in range(1, frames + 1):
            density = np.zeros(size, np.uint8)
            density[number:number + 3, number + 2:number + 5] = 100
            density[number + 1, number + 3] = 255
            pictures = {"images": np.stack([density] * 3, axis=2), "maps": density, **({"fixation": np.where(density == 255, 255, 0)} if fixation else {})}
            for kind, picture in pictures.items():
                path = root / "val" / name / kind / f"{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(path)
    return root


def score_small(data, maps, out, *flags):
    """scores.json of maps, here the density maps themselves."""
    score_files(data, maps, out, "--run-name", "a", "--overwrite", "--dataset", "folder", *flags)
    return json.loads((out / "a" / "scores.json").read_text())


def density_as_maps(data, folder):
    for video in (data / "val").iterdir():
        shutil.copytree(video / "maps", folder / video.name)
    return folder


def test_how_annotation_was_read_and_what_is_doubtful_in_it_is_said_with_the_scores(no_figures, tmp_path, capsys):
    data = small_set(tmp_path / "set")
    maps = density_as_maps(data, tmp_path / "maps")
    whole = score_small(data, maps, tmp_path / "out")
    assert not any("Annotation" in note for note in whole["notes"])
    fixations = data / "val" / "a" / "fixation"
    for path in list(fixations.iterdir())[:3]:                             # as JPEG: the same fixations, but for what is said
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(data / "val" / "b" / "maps" / "0001.png")
    capsys.readouterr()
    scores = score_small(data, maps, tmp_path / "out")
    assert scores["scores"]["maps"]["frame_average"]["nss"] == whole["scores"]["maps"]["frame_average"]["nss"]
    notes = [note for note in scores["notes"] if "Annotation" in note]
    assert notes == ["**Annotation of 3 of 8 frames**: a fixation map in a format that changes levels (JPEG or WebP): fixated is what is at 128 of 255 or above.",
                     "**Annotation of 1 of 8 frames**: a density map of one value has no CC, and no KL or SIM if it is zero: left out there."]
    assert notes[0] in capsys.readouterr().out and notes[1] in (tmp_path / "out" / "a" / "scores.md").read_text()


@pytest.mark.parametrize("kind, spoil, reason", [
    ("fixation", lambda x: 255 - x, "is no fixation map: 99.5% of its pixels are fixated"),
    ("maps", lambda x: np.stack([x, x // 2, 0 * x], axis=2), "is in colour: expected a grey density map"),
    ("maps", lambda x: np.stack([0 * x, 0 * x, 0 * x, x], axis=2), "has an alpha channel that is not opaque"),
])
def test_annotation_that_is_none_stops_the_scores_or_leaves_its_video_out(no_figures, tmp_path, kind, spoil, reason):
    data = small_set(tmp_path / "set")
    maps = density_as_maps(data, tmp_path / "maps")
    path = data / "val" / "a" / kind / "0002.png"
    Image.fromarray(spoil(np.array(Image.open(path)))).save(path)
    with pytest.raises(ValueError, match=reason):
        score_small(data, maps, tmp_path / "out")
    scores = score_small(data, maps, tmp_path / "out", "--skip-bad")
    assert scores["scores"]["maps"]["videos"] == 1 and len(scores["skipped"]) == 1 and reason in scores["skipped"][0]


def test_density_maps_alone_are_scored_by_what_is_defined(no_figures, tmp_path):
    data = small_set(tmp_path / "set")
    maps = density_as_maps(data, tmp_path / "maps")
    whole = score_small(data, maps, tmp_path / "out")["scores"]["maps"]
    shutil.rmtree(data / "val" / "a" / "fixation")
    mixed = score_small(data, maps, tmp_path / "out")
    assert mixed["scores"]["maps"]["left_out"] == {"auc_j": 4, "sim": 0, "s_auc": 4, "cc": 0, "nss": 4, "kl": 0}
    assert "**4 of 8 annotated frames have a density map alone**" in " ".join(mixed["notes"])
    shutil.rmtree(data / "val" / "b" / "fixation")
    alone = score_small(data, maps, tmp_path / "out")
    assert {name: alone["scores"]["maps"]["frame_average"][name] for name in MEASURES} == {
        name: whole["frame_average"][name] if name in ("cc", "sim", "kl") else None for name in MEASURES}
    assert "AUC-J, s-AUC and NSS are undefined there and left out" in " ".join(alone["notes"])


def test_predictions_are_found_in_folders_of_another_unicode_form(no_figures, tmp_path):
    data = small_set(tmp_path / "set")
    (data / "val" / "a").rename(data / "val" / unicodedata.normalize("NFC", "Café"))
    maps = density_as_maps(data, tmp_path / "maps")
    (maps / unicodedata.normalize("NFC", "Café")).rename(maps / unicodedata.normalize("NFD", "Café"))
    assert score_small(data, maps, tmp_path / "out")["scores"]["maps"]["videos"] == 2


def test_a_set_without_annotation_cannot_be_compared_with_maps(tiny_set, scored, tmp_path):
    shutil.copytree(next((tiny_set / "val").iterdir()) / "images", tmp_path / "set" / "val" / "0701" / "images")
    with pytest.raises(ValueError, match="no annotation in .*set/val: nothing to score. A frame is scored that has a density map"):
        score_files(tmp_path / "set", scored / "RecSalNet", tmp_path / "out")


@pytest.mark.parametrize("flag", ["--run-name", "--method"])
def test_names_that_leave_their_folder_are_refused(flag, capsys):
    for name in ("../elsewhere", "..", "a/b"):
        with pytest.raises(SystemExit):
            evaluation.arguments().parse_args([flag, name])
        assert "must be a name, not a path" in capsys.readouterr().err


def test_a_process_waits_for_the_others_however_long_before_it_hands_over_its_scores(monkeypatch):
    calls, scorer = [], evaluation.Scorer(evaluation.OtherFixations([], 0), "float", torch.device("cpu"))
    method = evaluation.Method("M", None, scorer, None)
    monkeypatch.setattr(utils, "barrier", lambda: calls.append("wait"))
    monkeypatch.setattr(utils, "all_gather", lambda value: (calls.append("gather"), [value])[1])
    evaluation.put_together(method, [], None)
    assert method.finished == [] and calls == ["wait", "gather", "gather"]  # rows, and counts


# Several methods

@pytest.fixture(scope="module")
def compared(tiny_set, weights_file, scored, tmp_path_factory):
    """Two networks, the second one with another number of recursions."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copy(weights_file, folder / "other.pth")
    (folder / "other.json").write_text(json.dumps({"configuration": {**TINY, "num_recursions": 1}}))
    evaluation.main(evaluation.arguments().parse_args(["--data", str(tiny_set), "--weights", str(weights_file), str(folder / "other.pth"), "--method", "two", "one",
                                                       "--out", str(folder), "--device", "cpu"]))
    return folder / "tiny_val_two+one_float"


def test_several_methods_come_into_one_table_with_the_centre_gaussian_last_each_as_if_alone(compared, scored):
    content, alone = (json.loads((folder / "scores.json").read_text()) for folder in (compared, scored))
    assert list(content["scores"]) == ["two", "one", "centre Gaussian"]
    assert content["scores"]["two"] == alone["scores"]["RecSalNet"] and content["scores"]["centre Gaussian"] == alone["scores"]["centre Gaussian"]
    assert content["scores"]["one"]["frame_average"]["cc"] != content["scores"]["two"]["frame_average"]["cc"]
    assert content["methods"]["one"]["gflop"] < content["methods"]["two"]["gflop"]
    assert all((compared / name / "004" / "0003.png").is_file() for name in ("one", "two"))


def test_the_table_says_what_each_network_costs(compared):
    text = (compared / "scores.md").read_text()
    assert "| method | parameters (M) | GFLOP a map | frames/s |" in text and text.count("| one |") == 4 and text.count("| two |") == 4


def test_the_comparison_shows_frames_beside_each_methods_map(compared, tiny_set):
    rows = evaluation.grouped([{"method": name, "video": video, "frame": f"{number:04d}", "cc": 0.5} for name in ("two", "one") for video in ("004", "005") for number in (2, 3, 4)], "method")
    figure = pytest.importorskip("matplotlib.figure").Figure()
    evaluation.draw_examples(evaluation.side_by_side(rows), find_videos(tiny_set, "val"), {name: compared / name for name in ("two", "one")}, figure)
    assert [axis.get_title() for axis in figure.axes[:4]] == ["004\nframe 0002", "density", "two, CC 0.5000", "one, CC 0.5000"] and len(figure.axes) == 24
    assert np.array_equal(figure.axes[7].images[0].get_array(), np.array(Image.open(compared / "one" / "004" / "0003.png")))
    assert [of_method["two"]["frame"] for _, of_method in evaluation.side_by_side({"two": [row("a", frame=str(n)) for n in range(60)]})] == ["5", "15", "25", "35", "45", "55"]
    assert {"comparison.png", "distributions.png"} <= {path.name for path in compared.iterdir()} and not (compared / "best_and_worst.png").exists()


def test_several_folders_of_maps_are_compared_too(compared, tiny_set, tmp_path):
    score_files(tiny_set, (compared / "one", compared / "two"), tmp_path)
    content = json.loads((tmp_path / "tiny_val_one+two_dhf1k" / "scores.json").read_text())
    assert list(content["scores"]) == ["one", "two", "centre Gaussian"] and "GFLOP" not in (tmp_path / "tiny_val_one+two_dhf1k" / "scores.md").read_text()


def test_a_video_that_one_method_lacks_is_scored_for_none(compared, tiny_set, tmp_path):
    shutil.copytree(compared / "one" / "004", tmp_path / "part" / "004")
    score_files(tiny_set, (compared / "two", tmp_path / "part"), tmp_path, "--skip-bad")
    content = json.loads((tmp_path / "tiny_val_two+part_dhf1k" / "scores.json").read_text())
    assert content["scores"]["two"]["videos"] == content["scores"]["part"]["videos"] == content["scores"]["centre Gaussian"]["videos"] == 1
    assert any("1 of 2 videos scored" in note for note in content["notes"])


def test_notes_on_maps_count_those_of_scored_videos_only(compared, tiny_set, tmp_path):
    shutil.copytree(compared / "one", tmp_path / "grey")
    for path in (tmp_path / "grey" / "005").iterdir():
        Image.new("L", (40, 20), 7).save(path)
    score_files(tiny_set, tmp_path / "grey", tmp_path)
    assert any("Constant maps: 38 of 74" in note for note in json.loads((tmp_path / "tiny_val_grey_dhf1k" / "scores.json").read_text())["notes"])
    shutil.copytree(compared / "one" / "004", tmp_path / "part" / "004")
    score_files(tiny_set, (tmp_path / "grey", tmp_path / "part"), tmp_path, "--skip-bad")
    notes = json.loads((tmp_path / "tiny_val_grey+part_dhf1k" / "scores.json").read_text())["notes"]
    assert not any("Constant" in note or "resized" in note for note in notes)


@pytest.mark.parametrize("flags, said", [
    (["--model", "recsalnet", "recsalnet", "--weights", "a"], "names 2 networks and --weights 1 files"), (["--weights", "{w}", "{w}"], "give each a name of its own with --method"),
    (["--weights", "{w}", "--method", "a", "b"], "1 methods are compared, called a, b"), (["--weights", "{w}", "--method", "centre Gaussian"], "name of its own"),
    (["--predictions", "x", "--model", "salema"], "no effect on the files of --predictions"), (["--model", "salema", "--weights", "{w}"], "does not hold SalEMA"),
])
def test_methods_that_cannot_be_told_apart_or_do_not_fit_are_refused(tiny_set, weights_file, tmp_path, flags, said):
    with pytest.raises(ValueError, match=said):
        evaluation.main(evaluation.arguments().parse_args(["--data", str(tiny_set), "--out", str(tmp_path), "--device", "cpu", *(flag.format(w=weights_file) for flag in flags)]))


def test_an_earlier_runs_maps_are_replaced_only_when_told(tiny_set, weights_file, tmp_path):
    (tmp_path / "tiny_val_RecSalNet_float" / "RecSalNet" / "004").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="tiny_val_RecSalNet_float/RecSalNet would be replaced"):
        run(tiny_set, weights_file, tmp_path)


def test_a_precision_for_stored_maps_is_refused(tiny_set, scored, tmp_path):
    with pytest.raises(ValueError, match="--precision, .* are of a network"):
        score_files(tiny_set, scored / "RecSalNet", tmp_path, "--precision", "bfloat16")


def test_predictions_that_are_a_file_are_called_one(tiny_set, weights_file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no predictions .*RecSalNet.pth: it is a file; expected a folder with VIDEO/FRAME.png"):
        score_files(tiny_set, weights_file, tmp_path)


def test_weights_and_predictions_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        evaluation.arguments().parse_args(["--weights", "a.pth", "--predictions", "maps"])
    assert "not allowed with" in capsys.readouterr().err


# Speed

def test_batches_and_approximations_are_recorded_with_the_scores(tiny_set, weights_file, tmp_path, scored):
    run(tiny_set, weights_file, tmp_path, "--batch-size", "8", "--interpolate", "3", "--frame-size", "32", "32", "--run-name", "fast")
    content, exact = (json.loads((folder / "scores.json").read_text()) for folder in (tmp_path / "fast", scored))
    fast, slow = (scores["methods"]["RecSalNet"] for scores in (content, exact))
    assert (fast["batch_size"], fast["interpolate"], slow["batch_size"], slow["interpolate"]) == (8, 3, 1, 1)
    assert "APPROXIMATION: one frame in 3" in (tmp_path / "fast" / "scores.md").read_text()
    assert fast["configuration"]["frame_size"] == [32, 32] and "frames of 32 x 32 (H x W) pixels" in (tmp_path / "fast" / "scores.md").read_text()
    assert content["scores"]["RecSalNet"]["frame_average"]["cc"] != exact["scores"]["RecSalNet"]["frame_average"]["cc"]


def test_scores_of_a_compiled_network_are_the_same(short_set, weights_file, tmp_path, compilations):
    shutil.copy(weights_file, tmp_path / "RecSalNet.pth")                  # fewer recursions, for tracing takes as long as the network is deep
    (tmp_path / "RecSalNet.json").write_text(json.dumps({"configuration": {**TINY, "num_recursions": 1}}))
    for name, flags in (("exact", ()), ("compiled", ("--compile",))):
        run(short_set, tmp_path / "RecSalNet.pth", tmp_path, *flags, "--run-name", name)
    compiled, exact = (json.loads((tmp_path / name / "scores.json").read_text())["scores"]["RecSalNet"]["frame_average"] for name in ("compiled", "exact"))
    assert compilations.frame_count == 1 and compiled == pytest.approx(exact, abs=1e-4)


# Figures

def test_best_and_worst_frames_are_of_different_videos_and_ranked():
    rows = [row(video, frame=str(i), cc=cc) for video, scores in {"a": (0.9, 0.8), "b": (0.1, math.nan), "c": (0.5, 0.6), "d": (math.nan,)}.items() for i, cc in enumerate(scores)]
    assert [(kind, r["video"], r["cc"]) for kind, r in evaluation.best_and_worst(rows)] == [
        ("best", "a", 0.9), ("best", "c", 0.6), ("best", "b", 0.1), ("worst", "b", 0.1), ("worst", "c", 0.5), ("worst", "a", 0.8)]


def test_figures_are_drawn_where_matplotlib_is_installed(scored, tiny_set):
    pytest.importorskip("matplotlib")
    assert all(Image.open(scored / name).size[0] >= 900 for name in ("distributions.png", "best_and_worst.png"))


def test_an_example_shows_image_density_and_prediction(scored, tiny_set):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    video = find_videos(tiny_set, "val")[0]
    evaluation.draw_examples([("best", {"M": row("004", frame="0003", cc=0.25)})], [video], {"M": scored / "RecSalNet"}, figure)
    shown = [axis.images[0].get_array() for axis in figure.axes]
    expected = read_frame(video.frames[2]), read_density(video.maps["0003"]), np.array(Image.open(scored / "RecSalNet" / "004" / "0003.png"))
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected))
    assert [axis.get_title() for axis in figure.axes] == ["best: 004\nframe 0003", "density", "M, CC 0.2500"]


def test_distributions_show_every_video(scored):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    evaluation.draw_distributions({"M": [row("a", nss=1.0), row("a", nss=3.0), row("b", nss=5.0), row("c", nss=math.nan)], "N": [row("a", nss=7.0)]}, figure)
    axis = figure.axes[list(MEASURES).index("nss")]
    assert axis.get_title() == "NSS" and [label.get_text() for label in axis.get_xticklabels()] == ["M\n3.5000", "N\n7.0000"]
    points = [sorted(line.get_ydata()) for line in axis.lines if line.get_marker() == "."]
    assert points == [[2.0, 5.0], [7.0]]


def test_without_matplotlib_the_figures_are_skipped_with_one_line(tiny_set, scored, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)            # as if it were not installed
    score_files(tiny_set, scored / "RecSalNet", tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("figures skipped: matplotlib is not installed") == 1
    assert not list(tmp_path.rglob("*.png")) and len(frame_scores(tmp_path / "tiny_val_RecSalNet_dhf1k")) == 74


# Robustness

def test_every_frame_is_decoded_once(short_set, weights_file, tmp_path, monkeypatch):
    opened = []
    real = evaluation.read_frame
    monkeypatch.setattr(evaluation, "read_frame", lambda path: (opened.append(path), real(path))[1])
    monkeypatch.setattr(evaluation, "figures", lambda *_: [])
    run(short_set, weights_file, tmp_path)
    assert len(opened) == len(set(opened)) == sum(len(v.frames) for v in find_videos(short_set, "val"))


def test_a_set_without_annotation_gets_maps_and_no_scores(short_set, weights_file, tmp_path, capsys):
    source = next((short_set / "val").iterdir())
    shutil.copytree(source / "images", tmp_path / "set" / "test" / "0701" / "images")
    run(tmp_path / "set", weights_file, tmp_path / "out", "--split", "test")
    assert "nothing to score" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "set_test_RecSalNet_float" / "RecSalNet" / "0701").iterdir())) == len(list((source / "images").iterdir()))
    assert not (tmp_path / "out" / "set_test_RecSalNet_float" / "scores.json").exists()


def test_frames_without_annotation_are_counted(short_set, weights_file, tmp_path, capsys):
    shutil.copytree(short_set, tmp_path / "set")
    folder = next((tmp_path / "set" / "val").iterdir())
    (folder / "maps" / "0003.png").unlink()
    run(tmp_path / "set", weights_file, tmp_path / "out")
    assert "1 of 16 frames have no annotation" in capsys.readouterr().out


def test_an_unreadable_video_stops_or_is_skipped_and_said(short_set, weights_file, tmp_path, capsys):
    shutil.copytree(short_set, tmp_path / "set")
    (tmp_path / "set" / "val" / "004" / "images" / "0002.png").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot read image .*0002.png"):
        run(tmp_path / "set", weights_file, tmp_path / "a")
    kept = tmp_path / "b" / "set_val_RecSalNet_float" / "RecSalNet" / "004" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("not ours")
    run(tmp_path / "set", weights_file, tmp_path / "b", "--skip-bad", "--overwrite")
    printed = capsys.readouterr().out
    assert "Skipped, 1 of 2 videos scored.** video 004" in printed and "average over 1 videos |" in printed and "have no annotation" not in printed
    assert [p.name for p in kept.parent.iterdir()] == ["notes.txt"] and len(list((kept.parents[1] / "005").iterdir())) == 8


def test_an_unreadable_fixation_map_costs_its_own_video_and_no_other(short_set, weights_file, tmp_path, capsys):
    shutil.copytree(short_set, tmp_path / "set")
    (tmp_path / "set" / "val" / "004" / "fixation" / "0002.png").write_bytes(b"half")
    run(tmp_path / "set", weights_file, tmp_path / "b", "--skip-bad")
    assert "average over 1 videos |" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "b" / "set_val_RecSalNet_float" / "RecSalNet").iterdir()] == ["005"]


def test_bfloat16_on_a_cpu_without_instructions_for_it_is_refused(tiny_set, weights_file, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.utils, "computes_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match="--precision bfloat16: this CPU has no instructions for it.*--force-bfloat16"):
        run(tiny_set, weights_file, tmp_path, "--precision", "bfloat16")


@needs_bfloat16
def test_seed_and_precision_change_what_is_scored_and_are_recorded(tiny_set, weights_file, tmp_path, scored):
    plain = json.loads((scored / "scores.json").read_text())
    run(tiny_set, weights_file, tmp_path, "--seed", "5", "--precision", "bfloat16")
    other = json.loads((tmp_path / "tiny_val_RecSalNet_float" / "scores.json").read_text())
    assert (other["seed"], other["precision"], plain["seed"], plain["precision"]) == (5, "bfloat16", 0, "float32")
    changed = {name for name in MEASURES if other["scores"]["RecSalNet"]["frame_average"][name] != plain["scores"]["RecSalNet"]["frame_average"][name]}
    assert changed == set(MEASURES)


def test_the_programs_maps_with_the_full_networks_weights_are_those_of_the_network(tmp_path, manifest):
    torch.save(fill.weights(manifest, seed=1, gain=1.0), tmp_path / "RecSalNet.pth")
    (tmp_path / "RecSalNet.json").write_text(json.dumps({"configuration": {"frame_size": [64, 96]}}))
    make_fixations(tmp_path / "set" / "val" / "a", [(0, 0)] * 2, size=(40, 60))
    run(tmp_path / "set", tmp_path / "RecSalNet.pth", tmp_path / "out")
    model = RecSalNet.from_pretrained(tmp_path / "RecSalNet.pth")
    with torch.no_grad():
        clip = torch.stack([model.prepare(np.zeros((40, 60, 3), np.uint8))] * 32, dim=1)[None]
        expected = to_8_bit(model.finish(model(model.normalise(clip)), (40, 60))[0])
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "set_val_RecSalNet_float" / "RecSalNet" / "a" / "0002.png")), expected)


def test_a_weight_file_by_fill_gives_the_golden_map_through_the_programs_engine(tmp_path, manifest):
    """The recorded clip's frames go through `saliency_maps` one by one; the 32nd map is that of the whole clip."""
    torch.save(fill.weights(manifest, seed=1, gain=1.0), tmp_path / "RecSalNet.pth")
    recorded = np.load(TESTS / "golden" / "recsalnet_64x96.npz")
    clip = fill.clip(tuple(recorded["shape"]), int(recorded["seed"]))[0]
    model = RecSalNet.from_pretrained(tmp_path / "RecSalNet.pth")
    model.prepare = lambda frame: clip[:, frame[0, 0, 0]]                  # the recorded input is normalised already
    model.normalise = lambda clip: clip
    model.finish = lambda output, size: output
    forward, seen = model.forward, []
    model.forward = lambda clip: (seen.append(clip), forward(clip) if len(seen) == 32 else clip[:, 0, 0])[1]  # one forward is enough
    maps = list(saliency_maps(model, (np.full((1, 1, 3), number, np.uint8) for number in range(32))))
    assert len(maps) == 32
    assert abs(maps[31].numpy() - recorded["saliency"][0]).max() < 1e-5


# Masks of salient objects

@pytest.fixture(scope="module")
def smcf_file(tmp_path_factory):
    torch.manual_seed(0)
    model = SMCF(frame_size=(32, 64), trunk_width=4, trunk_blocks=(1, 1, 1, 1))
    path = tmp_path_factory.mktemp("smcf") / "SMCF.pth"
    torch.save(model.state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps({"configuration": model.config}))
    return path


@pytest.fixture(scope="module")
def by_masks(vsod_set, smcf_file, weights_file, tmp_path_factory):
    """SMCF and RecSal-Net, scored by masks."""
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    out = tmp_path_factory.mktemp("masks")
    run_on(vsod_set, "--split", "TestSet/sample", "--model", "smcf", "recsalnet", "--weights", smcf_file, weights_file, "--out", out, "--no-keep-flow", "--run-name", "both")
    return out / "both"


def run_on(data, *flags):
    evaluation.main(evaluation.arguments().parse_args(["--data", str(data), "--device", "cpu", *map(str, flags)]))


def test_networks_are_scored_by_masks_with_the_measures_of_their_field(by_masks, vsod_set):
    scores = json.loads((by_masks / "scores.json").read_text())
    assert list(scores["scores"]) == ["SMCF", "RecSalNet", "centre Gaussian"] and scores["protocol"] == "masks"
    videos = find_videos(vsod_set, "TestSet/sample", annotation="mask")
    pairs = [(read_image(by_masks / "SMCF" / video.name / f"{path.stem}.png", "L"), read_mask(video.masks[path.stem])) for video in videos for path in video.frames]
    assert len(pairs) == scores["scores"]["SMCF"]["frames"] == sum(len(video.frames) for video in videos)
    assert scores["scores"]["SMCF"]["frame_average"] == pytest.approx(vsod_scores(pairs), rel=1e-9)
    each = [vsod_scores(pairs[:len(videos[0].frames)]), vsod_scores(pairs[len(videos[0].frames):])]
    assert scores["scores"]["SMCF"]["video_average"] == pytest.approx({name: (each[0][name] + each[1][name]) / 2 for name in each[0]}, rel=1e-9)
    assert scores["methods"]["SMCF"]["flow"] == {"source": "auto", "made_by": "dis", "picture": "wheel"} and scores["methods"]["RecSalNet"]["flow"] is None


def test_the_report_on_masks_has_tables_and_figures_of_its_own(by_masks):
    report = (by_masks / "scores.md").read_text()
    assert "| method |  | MAE | max F | adaptive F | S | mean E | max E | adaptive E |" in report and "hidden" not in report and "AUC" not in report
    assert "SMCF: Optical flow: made by DIS, drawn as wheel" in report and "RecSalNet: Optical" not in report
    header, *lines = (by_masks / "per_frame.csv").read_text().splitlines()
    assert header == "method,video,frame,mae,max_f,adaptive_f,s,e,max_e,adaptive_e" and len(lines) == 3 * len(list((by_masks / "SMCF").rglob("*.png")))
    assert all(np.array(Image.open(by_masks / name)).std() > 10 for name in ("comparison.png", "distributions.png"))


def test_masks_themselves_as_maps_have_the_best_scores_also_at_another_size(vsod_set, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    for video in (vsod_set / "TestSet" / "sample").iterdir():
        (tmp_path / "maps" / video.name).mkdir(parents=True)
        for path in (video / "ground-truth").iterdir():
            mask = Image.open(path)
            mask.resize((2 * mask.width, 2 * mask.height), Image.Resampling.NEAREST).save(tmp_path / "maps" / video.name / path.name)
    run_on(vsod_set, "--split", "TestSet/sample", "--predictions", tmp_path / "maps", "--out", tmp_path / "out", "--run-name", "a", "--dataset", "vsod")
    scores = json.loads((tmp_path / "out" / "a" / "scores.json").read_text())
    assert scores["scores"]["maps"]["frame_average"]["mae"] < 1e-9 and scores["scores"]["maps"]["frame_average"]["max_f"] == pytest.approx(1)
    assert any("resized" in note for note in scores["notes"])


def test_masks_in_a_palette_and_of_numbers_are_scored_as_masks_and_that_is_said(no_figures, vsod_set, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    palette, numbers = "a mask in a palette: every index above 0 is taken for an object", "taken as object numbers, all above 0 is object"
    for video in (vsod_set / "TestSet" / "sample").iterdir():
        shutil.copytree(video / "ground-truth", tmp_path / "maps" / video.name)
        shutil.copytree(video / "Frame", tmp_path / "set" / "TestSet" / "sample" / video.name / "Frame")
        for number, path in enumerate(sorted((video / "ground-truth").iterdir())):
            mask = Image.fromarray((np.array(Image.open(path)) > 128).astype(np.uint8) * 2)
            if number:
                mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])           # the first one stays grey
            target = tmp_path / "set" / "TestSet" / "sample" / video.name / "ground-truth" / path.name
            target.parent.mkdir(exist_ok=True)
            mask.save(target)
    run_on(tmp_path / "set", "--split", "TestSet/sample", "--predictions", tmp_path / "maps", "--out", tmp_path / "out", "--run-name", "a", "--dataset", "vsod")
    scores = json.loads((tmp_path / "out" / "a" / "scores.json").read_text())
    frames = scores["scores"]["maps"]["frames"]
    assert scores["scores"]["maps"]["frame_average"]["mae"] < 1e-9 and scores["scores"]["maps"]["frame_average"]["s"] == pytest.approx(1)
    notes = " ".join(scores["notes"])
    assert f"**Annotation of {frames - 2} of {frames} frames**: {palette}" in notes and f"**Annotation of 2 of {frames} frames**: a mask whose levels are all" in notes
    assert numbers in notes


def test_the_frames_with_masks_that_count_are_all_or_those_within_each_sequence(no_figures, vsod_set, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    videos = find_videos(vsod_set, "TestSet/sample", annotation="mask")
    for video in videos:
        shutil.copytree(vsod_set / "TestSet" / "sample" / video.name / "ground-truth", tmp_path / "maps" / video.name)
        for number in (0, -1):                                             # the first and the last map are all wrong
            path = tmp_path / "maps" / video.name / f"{video.frames[number].stem}.png"
            Image.fromarray(255 - np.array(Image.open(path))).save(path)
    scores = {}
    for name, flags in (("default", ()), ("all", ("--mask-frames", "all")), ("inner", ("--mask-frames", "inner"))):
        run_on(vsod_set, "--split", "TestSet/sample", "--predictions", tmp_path / "maps", "--out", tmp_path / "out", "--run-name", name, "--dataset", "vsod", *flags)
        scores[name] = json.loads((tmp_path / "out" / name / "scores.json").read_text())
    frames = sum(len(video.frames) for video in videos)
    assert scores["all"]["scores"] == scores["default"]["scores"] and scores["default"]["mask_frames"] == "all" and scores["inner"]["mask_frames"] == "inner"
    assert scores["all"]["scores"]["maps"]["frames"] == frames and scores["all"]["scores"]["maps"]["frame_average"]["mae"] == pytest.approx(2 * len(videos) / frames)
    assert scores["inner"]["scores"]["maps"]["frames"] == frames - 2 * len(videos) and scores["inner"]["scores"]["maps"]["frame_average"]["mae"] < 1e-9
    said = f"**{2 * len(videos)} of {frames} frames with a mask were not scored**: the first and the last frame of each sequence"
    assert said in " ".join(scores["inner"]["notes"]) and not any("not scored" in note for note in scores["all"]["notes"])


def test_which_frames_with_masks_count_cannot_be_chosen_where_there_are_none(tmp_path):
    data = small_set(tmp_path / "set")
    with pytest.raises(ValueError, match="--mask-frames inner is for masks of salient objects: these videos have none"):
        score_small(data, density_as_maps(data, tmp_path / "maps"), tmp_path / "out", "--mask-frames", "inner")


def test_several_splits_are_runs_of_their_own(vsod_set, smcf_file, tmp_path, capsys):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    run_on(vsod_set, "--split", "TestSet/sample", "TrainSet_Video", "--model", "smcf", "--weights", smcf_file, "--out", tmp_path, "--no-keep-flow", "--sample-frames", "3")
    for split in ("TestSet_sample", "TrainSet_Video"):
        assert json.loads((tmp_path / f"vsod_{split}_SMCF_masks" / "scores.json").read_text())["scores"]["SMCF"]["frames"] == 3
    run_on(vsod_set, "--split", "TestSet/sample", "TrainSet_Video", "--model", "smcf", "--weights", smcf_file, "--out", tmp_path, "--no-keep-flow", "--run-name", "mine")
    assert (tmp_path / "mine" / "TrainSet_Video" / "scores.md").is_file() and (tmp_path / "mine" / "TestSet_sample" / "SMCF" / "s003").is_dir()


def test_the_library_is_asked_for_before_anything_is_computed(vsod_set, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "py_sod_metrics", None)
    with pytest.raises(ModuleNotFoundError, match=r"\.\[vsod\]"):
        run_on(vsod_set, "--split", "TestSet/sample", "--model", "smcf", "--weights", tmp_path / "none.pth", "--out", tmp_path)


@pytest.mark.parametrize("flags, said", [(("--protocol", "float"), "--protocol float is for maps that are scored by fixations"), (("--flow", "raft", "--model", "recsalnet"), "but recsalnet take none")])
def test_what_makes_no_sense_with_masks_is_refused(vsod_set, weights_file, tmp_path, flags, said):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    with pytest.raises(ValueError, match=said):
        run_on(vsod_set, "--split", "TestSet/sample", "--weights", weights_file, "--out", tmp_path, *flags)


def test_smcf_is_looked_for_on_its_own_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no dataset data/VSOD"):
        evaluation.main(evaluation.arguments().parse_args(["--model", "smcf"]))


def test_networks_of_flow_stand_in_the_same_table_as_the_others(tiny_set, smcf_file, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        few_channels(patch)
        model = STSConvNet()
        torch.save(model.state_dict(), tmp_path / "STSConvNet.pth")
        run_on(tiny_set, "--model", "smcf", "stsconvnet", "--dataset", "dhf1k", "--weights", smcf_file, tmp_path / "STSConvNet.pth", "--out", tmp_path, "--no-keep-flow", "--run-name", "a",
               "--sample-frames", "5")
    scores = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert list(scores["scores"]) == ["SMCF", "STSConvNet", "centre Gaussian"] and "auc_j" in scores["scores"]["SMCF"]["frame_average"]
    assert all(scores["methods"][name]["gflop"] > 0 and scores["methods"][name]["frames_per_second"] > 0 for name in ("SMCF", "STSConvNet"))
    assert not list(tiny_set.rglob("flow_*"))


def test_what_is_skipped_of_a_split_is_said_of_that_split_only(vsod_set, smcf_file, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    shutil.copytree(vsod_set, tmp_path / "set")
    (tmp_path / "set" / "TestSet" / "sample" / "s004" / "Frame" / "00002.jpg").write_bytes(b"damaged")
    run_on(tmp_path / "set", "--split", "TestSet/sample", "TrainSet_Video", "--model", "smcf", "--weights", smcf_file, "--out", tmp_path, "--no-keep-flow", "--skip-bad", "--run-name", "a")
    skipped = [json.loads((tmp_path / "a" / split / "scores.json").read_text())["skipped"] for split in ("TestSet_sample", "TrainSet_Video")]
    assert len(skipped[0]) == 1 and "s004" in skipped[0][0] and skipped[1] == []


def test_two_splits_that_would_share_a_folder_are_refused(vsod_set, smcf_file, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    shutil.copytree(vsod_set / "TestSet" / "sample", tmp_path / "set" / "X" / "Y")
    shutil.copytree(vsod_set / "TestSet" / "sample", tmp_path / "set" / "X_Y")
    with pytest.raises(ValueError, match="two of the splits X/Y, X_Y would be written to"):
        run_on(tmp_path / "set", "--split", "X/Y", "X_Y", "--model", "smcf", "--weights", smcf_file, "--out", tmp_path)
