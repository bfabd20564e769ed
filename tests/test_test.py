import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import TESTS, TINY
from parity import fill
from PIL import Image

import test as evaluation
from dataloader import find_videos, open_video, read_density, read_fixations, read_frame
from loss import MEASURES, measures
from model import RecSalNet
from predict import saliency_maps, to_8_bit


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = RecSalNet(**TINY)
    torch.save(model.state_dict(), folder / "RecSalNet.pth")
    (folder / "RecSalNet.json").write_text(json.dumps({"configuration": model.config}))
    return folder / "RecSalNet.pth"


def run(data, weights, out, *flags):
    return evaluation.main(evaluation.arguments().parse_args(["--data", str(data), "--weights", str(weights), "--out", str(out), "--device", "cpu", *flags]))


@pytest.fixture(scope="module")
def scored(tiny_set, weights_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    run(tiny_set, weights_file, out, "--centre-baseline")
    return out / "tiny_val"


def row(video, **values):
    return {"video": video, "frame": "0001", **dict.fromkeys(MEASURES, 0.0), **values}


# Averages

def test_frames_where_a_measure_is_undefined_are_left_out_of_it_and_counted():
    summary = evaluation.summarise([row("a", cc=1.0), row("a", cc=math.nan), row("b", cc=0.4)])
    assert summary["frame_average"]["cc"] == pytest.approx(0.7)
    assert summary["left_out"] == {**dict.fromkeys(MEASURES, 0), "cc": 1} and summary["frames"] == 3 and summary["videos"] == 2


def test_the_average_over_videos_weighs_a_long_video_like_a_short_one():
    summary = evaluation.summarise([row("long", nss=1.0), row("long", nss=1.0), row("long", nss=1.0), row("short", nss=3.0)])
    assert summary["frame_average"]["nss"] == pytest.approx(1.5) and summary["video_average"]["nss"] == pytest.approx(2.0)


def test_a_measure_defined_nowhere_is_nan_and_null_in_json(tmp_path):
    rows = [{**row("a", s_auc=math.nan), "baseline": None}]
    details = {"notes": [], "protocol": "p", "device": "cpu", "precision": "float32", "data": "d", "split": "s"}
    text = evaluation.report(rows, "M", tmp_path, details)
    assert "nan" in text and "s-AUC 1" in text
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["M"]["frame_average"]["s_auc"] is None


def test_the_centre_gaussian_is_symmetric_and_one_sigma_wide_at_a_quarter():
    gaussian = evaluation.centre_gaussian((41, 81))
    assert gaussian[20, 40] == 1 and torch.equal(gaussian, gaussian.flip(0, 1))
    assert gaussian[20, 40 + 20].item() == pytest.approx(math.exp(-0.5 * (20 / 20.25) ** 2))


# The other frames of shuffled AUC

def make_fixations(folder, points, size=(4, 8)):
    for number, (y, x) in enumerate(points, start=1):
        fixations = np.zeros(size, np.uint8)
        fixations[y, x] = 255
        for kind, content in (("images", np.zeros((*size, 3), np.uint8)), ("maps", fixations), ("fixation", fixations)):
            path = folder / kind / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)


def test_other_fixations_come_from_other_videos_at_this_frames_size(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 3)
    make_fixations(tmp_path / "val" / "b", [(3, 7)] * 3, size=(4, 8))
    videos = find_videos(tmp_path, "val")
    others = evaluation.OtherFixations(videos, seed=0)
    assert not others.same_video
    assert np.argwhere(others.draw(videos[0], 0, (8, 16))).tolist() == [[7, 15]]  # the corner stays the corner
    assert np.argwhere(others.draw(videos[1], 2, (4, 8))).tolist() == [[0, 0]]


def test_ten_other_frames_are_drawn_reproducibly_and_by_seed(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)])
    make_fixations(tmp_path / "val" / "b", [(y, x) for y in range(4) for x in range(8)])
    videos = find_videos(tmp_path, "val")
    drawn = [evaluation.OtherFixations(videos, seed).draw(videos[0], 0, (4, 8)) for seed in (0, 0, 1)]
    assert [d.sum() for d in drawn] == [10, 10, 10]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_a_single_video_is_compared_with_its_own_other_frames(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, x) for x in range(5)])
    others = evaluation.OtherFixations(videos := find_videos(tmp_path, "val"), seed=0)
    assert others.same_video
    assert np.argwhere(others.draw(videos[0], 2, (4, 8)))[:, 1].tolist() == [0, 1, 3, 4]


# The whole program

def test_every_frame_gets_an_eight_bit_map_of_its_own_size(scored, tiny_set):
    for video in find_videos(tiny_set, "val"):
        written = sorted((scored / "RecSalNet" / video.name).iterdir())
        assert [p.name for p in written] == [p.name for p in video.frames]
        picture = Image.open(written[0])
        assert (picture.mode, picture.size) == ("L", (80, 45))


def test_scores_are_those_of_the_maps_before_quantisation(scored, tiny_set, weights_file):
    videos = find_videos(tiny_set, "val")
    video, others = videos[0], evaluation.OtherFixations(videos, 0)
    stem = video.frames[5].stem
    saliency = list(saliency_maps(RecSalNet.from_pretrained(weights_file), [read_frame(p) for p in video.frames[:6]]))[5]
    targets = read_density(video.maps[stem]), read_fixations(video.fixations[stem]), others.draw(video, 5, (45, 80))
    expected = {name: value.item() for name, value in measures(saliency[None], *(torch.from_numpy(t)[None] for t in targets)).items()}
    frame = evaluation.frame_rows(video, 5, saliency, others, baseline=False)
    assert {name: frame[name] for name in MEASURES} == pytest.approx(expected)


def test_tables_hold_six_measures_both_averages_the_baseline_and_the_protocol(scored):
    content = json.loads((scored / "scores.json").read_text())
    assert content["scores"].keys() == {"RecSalNet", "centre Gaussian"}
    for summary in content["scores"].values():
        for average in ("frame_average", "video_average"):
            assert summary[average].keys() == MEASURES.keys() and all(math.isfinite(v) for v in summary[average].values())
    assert content["scores"]["RecSalNet"]["left_out"]["nss"] == 2          # one frame without fixations in each video
    assert {"protocol", "seed", "device", "precision", "versions", "revision", "configuration", "weights"} <= content.keys()
    text = (scored / "scores.md").read_text()
    assert "AUC-J" in text and "centre Gaussian" in text and "2 videos" in text and "float32" in text
    with (scored / "per_video.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["video"] for r in rows] == ["004", "005"] and all(0 < float(r["auc_j"]) < 1 for r in rows)
    assert sum(float(r["cc"]) for r in rows) / 2 == pytest.approx(content["scores"]["RecSalNet"]["video_average"]["cc"], abs=1e-5)


def test_every_frame_is_decoded_once(tiny_set, weights_file, tmp_path, monkeypatch):
    opened = []
    real = evaluation.read_frame
    monkeypatch.setattr(evaluation, "read_frame", lambda path: (opened.append(path), real(path))[1])
    run(tiny_set, weights_file, tmp_path)
    assert len(opened) == len(set(opened)) == sum(len(v.frames) for v in find_videos(tiny_set, "val"))


def test_a_set_without_annotation_gets_maps_and_no_scores(tiny_set, weights_file, tmp_path, capsys):
    source = next((tiny_set / "val").iterdir())
    shutil.copytree(source / "images", tmp_path / "set" / "test" / "0701" / "images")
    run(tmp_path / "set", weights_file, tmp_path / "out", "--split", "test")
    assert "nothing to score" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "set_test" / "RecSalNet" / "0701").iterdir())) == len(list((source / "images").iterdir()))
    assert not (tmp_path / "out" / "set_test" / "scores.json").exists()


def test_frames_without_annotation_are_counted(tiny_set, weights_file, tmp_path, capsys):
    shutil.copytree(tiny_set, tmp_path / "set")
    folder = next((tmp_path / "set" / "val").iterdir())
    (folder / "maps" / "0003.png").unlink()
    run(tmp_path / "set", weights_file, tmp_path / "out")
    assert "1 of 74 frames have no annotation" in capsys.readouterr().out


def test_an_unreadable_video_stops_or_is_skipped_and_said(tiny_set, weights_file, tmp_path, capsys):
    shutil.copytree(tiny_set, tmp_path / "set")
    (tmp_path / "set" / "val" / "004" / "images" / "0002.png").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot read image .*0002.png"):
        run(tmp_path / "set", weights_file, tmp_path / "a")
    run(tmp_path / "set", weights_file, tmp_path / "b", "--skip-bad")
    printed = capsys.readouterr().out
    assert "skipped: video 004" in printed and "| 1 videos |" in printed and "have no annotation" not in printed
    assert [p.name for p in (tmp_path / "b" / "set_val" / "RecSalNet").iterdir()] == ["005"]


def test_an_unreadable_fixation_map_costs_its_own_video_and_no_other(tiny_set, weights_file, tmp_path, capsys):
    shutil.copytree(tiny_set, tmp_path / "set")
    (tmp_path / "set" / "val" / "004" / "fixation" / "0002.png").write_bytes(b"half")
    run(tmp_path / "set", weights_file, tmp_path / "b", "--skip-bad")
    assert "| 1 videos |" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "b" / "set_val" / "RecSalNet").iterdir()] == ["005"]


def test_seed_and_precision_change_what_is_scored_and_are_recorded(tiny_set, weights_file, tmp_path, scored):
    plain = json.loads((scored / "scores.json").read_text())
    run(tiny_set, weights_file, tmp_path, "--seed", "5", "--precision", "bfloat16")
    other = json.loads((tmp_path / "tiny_val" / "scores.json").read_text())
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
        expected = to_8_bit(model.finish(model(clip), (40, 60))[0])
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "set_val" / "RecSalNet" / "a" / "0002.png")), expected)


def test_a_map_of_another_size_than_its_frame_is_an_error(tmp_path):
    make_fixations(tmp_path / "val" / "a", [(0, 0)] * 2)
    video = open_video(tmp_path / "val" / "a")
    with pytest.raises(ValueError, match=r"frame 0001 of video a differs in size from its annotation: frame \(6, 6\), density \(4, 8\)"):
        evaluation.frame_rows(video, 0, torch.zeros(6, 6), evaluation.OtherFixations([video], 0), baseline=False)


def test_a_weight_file_by_fill_gives_the_golden_map_through_the_programs_engine(tmp_path, manifest):
    """The recorded clip's frames go through `saliency_maps` one by one; the 32nd map is that of the whole clip."""
    torch.save(fill.weights(manifest, seed=1, gain=1.0), tmp_path / "RecSalNet.pth")
    recorded = np.load(TESTS / "golden" / "recsalnet_64x96.npz")
    clip = fill.clip(tuple(recorded["shape"]), int(recorded["seed"]))[0]
    model = RecSalNet.from_pretrained(tmp_path / "RecSalNet.pth")
    model.prepare = lambda frame: clip[:, frame[0, 0, 0]]                  # the recorded input is normalised already
    model.finish = lambda output, size: output
    forward, seen = model.forward, []
    model.forward = lambda clip: (seen.append(clip), forward(clip) if len(seen) == 32 else clip[:, 0, 0])[1]  # one forward is enough
    maps = list(saliency_maps(model, (np.full((1, 1, 3), number, np.uint8) for number in range(32))))
    assert len(maps) == 32
    assert abs(maps[31].numpy() - recorded["saliency"][0]).max() < 1e-5
