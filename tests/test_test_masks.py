import json
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import few_channels
from PIL import Image
from score_runs import density_as_maps, score_small, small_set

import test as evaluation
from baselines.smcf import SMCF
from baselines.stsnet import STSConvNet
from scoring import methods
from scoring.salient_objects import vsod_scores
from videos.annotation import read_mask
from videos.images import read_image
from videos.video import find_videos


@pytest.fixture(scope="module")
def smcf_file(tmp_path_factory):
    torch.manual_seed(0)
    model = SMCF(frame_size=(32, 64), trunk_width=4, trunk_blocks=(1, 1, 1, 1))
    path = tmp_path_factory.mktemp("smcf") / "SMCF.pth"
    torch.save(model.state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps({"configuration": model.config}))
    return path


@pytest.fixture(scope="module")
def by_masks(short_vsod_set, smcf_file, weights_file, tmp_path_factory):
    """SMCF and RecSal-Net, scored by masks."""
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    out = tmp_path_factory.mktemp("masks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "gflop", lambda model: 1.0)                 # counting takes longer than all the rest
        run_on(short_vsod_set, "--split", "TestSet/sample", "--model", "smcf", "recsalnet", "--weights", smcf_file, weights_file, "--out", out, "--no-keep-flow", "--run-name", "both")
    return out / "both"


def run_on(data, *flags):
    evaluation.main(evaluation.arguments().parse_args(["--data", str(data), "--device", "cpu", *map(str, flags)]))


def test_networks_are_scored_by_masks_with_the_measures_of_their_field(by_masks, short_vsod_set):
    scores = json.loads((by_masks / "scores.json").read_text())
    assert list(scores["scores"]) == ["SMCF", "RecSalNet", "centre Gaussian"] and scores["protocol"] == "masks"
    videos = find_videos(short_vsod_set, "TestSet/sample", annotation="mask")
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


def test_masks_themselves_as_maps_have_the_best_scores_also_at_another_size(only_scores, short_vsod_set, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    for video in (short_vsod_set / "TestSet" / "sample").iterdir():
        (tmp_path / "maps" / video.name).mkdir(parents=True)
        for path in (video / "ground-truth").iterdir():
            mask = Image.open(path)
            mask.resize((2 * mask.width, 2 * mask.height), Image.Resampling.NEAREST).save(tmp_path / "maps" / video.name / path.name)
    run_on(short_vsod_set, "--split", "TestSet/sample", "--predictions", tmp_path / "maps", "--out", tmp_path / "out", "--run-name", "a", "--dataset", "vsod")
    scores = json.loads((tmp_path / "out" / "a" / "scores.json").read_text())
    assert scores["scores"]["maps"]["frame_average"]["mae"] < 1e-9 and scores["scores"]["maps"]["frame_average"]["max_f"] == pytest.approx(1)
    assert any("resized" in note for note in scores["notes"])


def test_masks_in_a_palette_and_of_numbers_are_scored_as_masks_and_that_is_said(no_figures, short_vsod_set, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    palette, numbers = "a mask in a palette: every index above 0 is taken for an object", "taken as object numbers, all above 0 is object"
    for video in (short_vsod_set / "TestSet" / "sample").iterdir():
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


def test_the_frames_with_masks_that_count_are_all_or_those_within_each_sequence(no_figures, short_vsod_set, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    videos = find_videos(short_vsod_set, "TestSet/sample", annotation="mask")
    for video in videos:
        shutil.copytree(short_vsod_set / "TestSet" / "sample" / video.name / "ground-truth", tmp_path / "maps" / video.name)
        for number in (0, -1):                                             # the first and the last map are all wrong
            path = tmp_path / "maps" / video.name / f"{video.frames[number].stem}.png"
            Image.fromarray(255 - np.array(Image.open(path))).save(path)
    scores = {}
    for name, flags in (("default", ()), ("all", ("--mask-frames", "all")), ("inner", ("--mask-frames", "inner"))):
        run_on(short_vsod_set, "--split", "TestSet/sample", "--predictions", tmp_path / "maps", "--out", tmp_path / "out", "--run-name", name, "--dataset", "vsod", *flags)
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


def test_several_splits_are_runs_of_their_own(only_scores, short_vsod_set, smcf_file, tmp_path, capsys):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    run_on(short_vsod_set, "--split", "TestSet/sample", "TrainSet_Video", "--model", "smcf", "--weights", smcf_file, "--out", tmp_path, "--no-keep-flow", "--sample-frames", "3")
    for split in ("TestSet_sample", "TrainSet_Video"):
        assert json.loads((tmp_path / f"vsod_{split}_SMCF_masks" / "scores.json").read_text())["scores"]["SMCF"]["frames"] == 3
    run_on(short_vsod_set, "--split", "TestSet/sample", "TrainSet_Video", "--model", "smcf", "--weights", smcf_file, "--out", tmp_path, "--no-keep-flow", "--run-name", "mine")
    assert (tmp_path / "mine" / "TrainSet_Video" / "scores.md").is_file() and (tmp_path / "mine" / "TestSet_sample" / "SMCF" / "s003").is_dir()


def test_the_library_is_asked_for_before_anything_is_computed(short_vsod_set, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "py_sod_metrics", None)
    with pytest.raises(ModuleNotFoundError, match=r"\.\[vsod\]"):
        run_on(short_vsod_set, "--split", "TestSet/sample", "--model", "smcf", "--weights", tmp_path / "none.pth", "--out", tmp_path)


@pytest.mark.parametrize("flags, said", [(("--protocol", "float"), "--protocol float is for maps that are scored by fixations"), (("--flow", "raft", "--model", "recsalnet"), "but recsalnet take none")])
def test_what_makes_no_sense_with_masks_is_refused(short_vsod_set, weights_file, tmp_path, flags, said):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    with pytest.raises(ValueError, match=said):
        run_on(short_vsod_set, "--split", "TestSet/sample", "--weights", weights_file, "--out", tmp_path, *flags)


def test_smcf_is_looked_for_on_its_own_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no dataset data/VSOD"):
        evaluation.main(evaluation.arguments().parse_args(["--model", "smcf"]))


def test_networks_of_flow_stand_in_the_same_table_as_the_others(no_figures, tiny_set, smcf_file, tmp_path):
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


def test_what_is_skipped_of_a_split_is_said_of_that_split_only(only_scores, short_vsod_set, smcf_file, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    shutil.copytree(short_vsod_set, tmp_path / "set")
    (tmp_path / "set" / "TestSet" / "sample" / "s004" / "Frame" / "00002.jpg").write_bytes(b"damaged")
    run_on(tmp_path / "set", "--split", "TestSet/sample", "TrainSet_Video", "--model", "smcf", "--weights", smcf_file, "--out", tmp_path, "--no-keep-flow", "--skip-bad", "--run-name", "a")
    skipped = [json.loads((tmp_path / "a" / split / "scores.json").read_text())["skipped"] for split in ("TestSet_sample", "TrainSet_Video")]
    assert len(skipped[0]) == 1 and "s004" in skipped[0][0] and skipped[1] == []


def test_two_splits_that_would_share_a_folder_are_refused(only_scores, short_vsod_set, smcf_file, tmp_path):
    pytest.importorskip("py_sod_metrics", reason="pip install \".[vsod]\"")
    shutil.copytree(short_vsod_set / "TestSet" / "sample", tmp_path / "set" / "X" / "Y")
    shutil.copytree(short_vsod_set / "TestSet" / "sample", tmp_path / "set" / "X_Y")
    with pytest.raises(ValueError, match="two of the splits X/Y, X_Y would be written to"):
        run_on(tmp_path / "set", "--split", "X/Y", "X_Y", "--model", "smcf", "--weights", smcf_file, "--out", tmp_path)
