import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, needs_bfloat16
from PIL import Image
from score_runs import density_as_maps, frame_scores, row, run, score_files, score_small, small_set, union_of
from torch import nn

import test as evaluation
import utils
from baselines import MODELS
from loss import MEASURES, measures
from model import RecSalNet
from prediction.engine import saliency_maps
from saliency_model import WindowModel, prepare_frame
from scoring.figures import draw_examples, side_by_side
from scoring.methods import Method
from scoring.other_fixations import OtherFixations
from scoring.report import grouped
from scoring.scorers import Scorer
from videos.annotation import read_density, read_fixations
from videos.images import read_frame
from videos.video import find_videos

# Which data

@pytest.fixture(scope="module")
def on_ucf(ucf_set, weights_file, tmp_path_factory):
    """The folder of a run on UCF-Sports, and what it printed; read-only for tests."""
    out, printed = tmp_path_factory.mktemp("on_ucf"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(ucf_set, weights_file, out, "--dataset", "ucf-sports")
    folder, = out.iterdir()
    return folder, printed.getvalue()


def test_another_dataset_is_scored_on_its_own_split_short_videos_included(on_ucf, ucf_set):
    folder, printed = on_ucf
    assert f"{ucf_set}, testing: 2 videos, 40 frames, 40 annotated" in printed
    assert folder.name == f"{ucf_set.name}_testing_RecSalNet_float"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["split"] == "testing" and scores["scores"]["RecSalNet"]["frames"] == 40  # a map for every frame, of videos of 20
    assert sorted(path.name for path in (folder / "RecSalNet" / "Kick-004").iterdir())[0] == "Kick_004_0001.png"


@pytest.mark.parametrize("flags, expected", [((), ("data/DHF1K", "val")), (("--dataset", "hollywood2"), ("data/Hollywood-2", "testing")),
                                             (("--dataset", "diem"), ("data/DIEM", "test")), (("--dataset", "gaze-images"), ("data/gaze", "osie-test")), (("--dataset", "ucf-sports", "--split", "all"), ("data/UCF-Sports", "all"))])
def test_a_datasets_name_says_where_it_is_and_what_is_scored(flags, expected, monkeypatch):
    def stop(root, split, **options):
        raise FileNotFoundError(f"{root}, {split}")
    monkeypatch.setattr(evaluation, "find_videos", stop)
    with pytest.raises(FileNotFoundError, match="^" + ", ".join(expected) + "$"):
        evaluation.main(evaluation.arguments().parse_args(list(flags)))


def test_still_images_with_points_are_scored_set_by_set_each_in_a_run_of_its_own(no_figures, tmp_path):
    """Density maps predict themselves: CC and SIM are 1; three pixels are fixated of the four points, and all are found."""
    density = np.zeros((12, 16), np.uint8)
    density[2, 3], density[7, 7], density[11, 15] = 255, 200, 150
    for name in ("osie-1", "osie-2", "eyecrowd-1", "eyecrowd-2", "sun500-1", "sun500-2"):
        folder, stem = tmp_path / "gaze" / name, name.partition("-")[2]
        for kind, picture in (("images", np.stack([density] * 3, axis=2)), ("maps", density), ("fixation", None)):
            (folder / kind).mkdir(parents=True)
            if picture is not None:
                Image.fromarray(picture).save(folder / kind / f"{stem}.png")
        (folder / "fixation" / f"{stem}.csv").write_text("x,y,observer\n3.2,2.5,0\n3.9,2.0,1\n7,7,0\n15,11,1\n")
        shutil.copytree(folder / "maps", tmp_path / "maps" / name)
        with (tmp_path / "gaze" / f"{name[:-2]}-test.txt").open("a") as file:
            file.write(f"{name}\n")
    score_files(tmp_path / "gaze", tmp_path / "maps", tmp_path / "out", "--dataset", "gaze-images")
    runs = {folder.name: json.loads((folder / "scores.json").read_text()) for folder in (tmp_path / "out").iterdir()}
    assert sorted(runs) == [f"gaze_{part}-test_maps_dhf1k" for part in ("eyecrowd", "osie", "sun500")]
    for scores in runs.values():
        averages = scores["scores"]["maps"]["frame_average"]
        assert scores["scores"]["maps"]["frames"] == 2 and averages["cc"] == pytest.approx(1) and averages["sim"] == pytest.approx(1)
        flat = density.flatten().astype(float)
        assert averages["nss"] == pytest.approx(((np.array([255, 200, 150]) - flat.mean()) / flat.std(ddof=1)).mean())
        assert averages["auc_j"] == pytest.approx(1, abs=0.01) and all(np.isfinite(averages[name]) for name in MEASURES)


def test_videos_of_dhf1k_are_divided_by_their_numbers_where_there_are_no_folders(only_scores, short_set, weights_file, tmp_path, capsys):
    for number, video in zip((600, 601), (short_set / "train").iterdir()):
        shutil.copytree(video / "images", tmp_path / "set" / "frames" / str(number))
        shutil.copytree(video, tmp_path / "set" / "annotation" / f"{number:04d}", ignore=shutil.ignore_patterns("images"))
    run(tmp_path / "set", weights_file, tmp_path / "out")
    assert f"{tmp_path / 'set'}, val: 1 videos" in capsys.readouterr().out


def test_numbers_and_lists_choose_videos_and_name_the_run(only_scores, short_set, weights_file, tmp_path):
    (tmp_path / "set").mkdir()
    for video in (short_set / "val").iterdir():
        shutil.copytree(video, tmp_path / "set" / video.name)
    (tmp_path / "mine.txt").write_text("005\n")
    run(tmp_path / "set", weights_file, tmp_path / "out", "--split", "4-4")
    run(tmp_path / "set", weights_file, tmp_path / "out", "--split", str(tmp_path / "mine.txt"))
    videos = {folder.name: [path.name for path in (folder / "RecSalNet").iterdir()] for folder in (tmp_path / "out").iterdir()}
    assert videos == {"set_4-4_RecSalNet_float": ["004"], "set_mine_RecSalNet_float": ["005"]}


# The whole program

def test_every_frame_gets_an_eight_bit_map_of_its_own_size(short_scored, short_set):
    for video in find_videos(short_set, "val"):
        written = sorted((short_scored / "RecSalNet" / video.name).iterdir())
        assert [p.name for p in written] == [p.name for p in video.frames]
        picture = Image.open(written[0])
        assert (picture.mode, picture.size) == ("L", (80, 45))


def expected_scores(videos, index, saliency):
    others, stem = OtherFixations(videos, 0), videos[0].frames[index].stem
    targets = read_density(videos[0].maps[stem]), read_fixations(videos[0].fixations[stem]), union_of(others, videos[0], index, saliency.shape)
    return {name: value.item() for name, value in measures(saliency[None], *(torch.from_numpy(t)[None] for t in targets)).items()}


def test_by_default_scores_are_those_of_the_maps_before_quantisation(short_scored, short_set, weights_file):
    videos = find_videos(short_set, "val")
    saliency = list(saliency_maps(RecSalNet.from_pretrained(weights_file), [read_frame(p) for p in videos[0].frames[:6]]))[5]
    assert frame_scores(short_scored)["004", videos[0].frames[5].stem] == pytest.approx(expected_scores(videos, 5, saliency), abs=1e-6)


def test_the_benchmarks_protocol_scores_the_saved_maps_and_needs_no_model_for_it(only_scores, short_set, weights_file, tmp_path, short_scored):
    run(short_set, weights_file, tmp_path, "--protocol", "dhf1k")
    by_model = tmp_path / "tiny_val_RecSalNet_dhf1k"
    score_files(short_set, short_scored / "RecSalNet", tmp_path / "p")
    by_files = tmp_path / "p" / "tiny_val_RecSalNet_dhf1k"
    assert (by_model / "per_frame.csv").read_text() == (by_files / "per_frame.csv").read_text()
    videos = find_videos(short_set, "val")
    stored = torch.from_numpy(np.array(Image.open(by_model / "RecSalNet" / "004" / videos[0].frames[5].name)))
    written = frame_scores(by_model)["004", videos[0].frames[5].stem]
    assert written == pytest.approx(expected_scores(videos, 5, stored), abs=1e-6)
    assert written["kl"] != pytest.approx(frame_scores(short_scored)["004", videos[0].frames[5].stem]["kl"], abs=1e-3)
    content = json.loads((by_files / "scores.json").read_text())
    assert content["protocol"] == "dhf1k" and content["methods"]["RecSalNet"]["predictions"] == str(short_scored / "RecSalNet") and content["precision"] is None


def test_sampled_frames_are_the_only_ones_scored_and_the_number_is_said(only_scores, short_set, short_scored, tmp_path, capsys):
    score_files(short_set, short_scored / "RecSalNet", tmp_path, "--sample-frames", "6", "--run-name", "some")
    assert "6 of 16 annotated frames were drawn at random" in capsys.readouterr().out
    assert len(frame_scores(tmp_path / "some")) == 6
    score_files(short_set, short_scored / "RecSalNet", tmp_path, "--sample-frames", "6", "--run-name", "others", "--seed", "1")
    assert frame_scores(tmp_path / "some").keys() != frame_scores(tmp_path / "others").keys()
    content = json.loads((tmp_path / "some" / "scores.json").read_text())
    assert content["sample_frames"] == 6 and content["scores"]["RecSalNet"]["frames"] == 6


def test_scores_of_an_earlier_run_are_replaced_only_when_told(only_scores, short_set, short_scored, tmp_path):
    score_files(short_set, short_scored / "RecSalNet", tmp_path)
    with pytest.raises(FileExistsError, match=r"tiny_val_RecSalNet_dhf1k/scores.json would be replaced: --overwrite .*--run-name NAME"):
        score_files(short_set, short_scored / "RecSalNet", tmp_path, "--seed", "7")
    score_files(short_set, short_scored / "RecSalNet", tmp_path, "--seed", "7", "--overwrite")
    assert json.loads((tmp_path / "tiny_val_RecSalNet_dhf1k" / "scores.json").read_text())["seed"] == 7


@pytest.mark.parametrize("kind, spoil, reason", [
    ("fixation", lambda x: 255 - x, "is not a fixation map: 99.5% of its pixels are fixated"),
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


def test_a_set_without_annotation_cannot_be_compared_with_maps(short_set, short_scored, tmp_path):
    shutil.copytree(next((short_set / "val").iterdir()) / "images", tmp_path / "set" / "val" / "0701" / "images")
    with pytest.raises(ValueError, match="no annotation in .*set/val: nothing to score. A frame is scored that has a density map"):
        score_files(tmp_path / "set", short_scored / "RecSalNet", tmp_path / "out")


@pytest.mark.parametrize("flag", ["--run-name", "--method"])
def test_names_that_leave_their_folder_are_refused(flag, capsys):
    for name in ("../elsewhere", "..", "a/b"):
        with pytest.raises(SystemExit):
            evaluation.arguments().parse_args([flag, name])
        assert "must be a name, not a path" in capsys.readouterr().err


def test_a_process_waits_for_the_others_however_long_before_it_hands_over_its_scores(monkeypatch):
    calls, scorer = [], Scorer(OtherFixations([], 0), "float", torch.device("cpu"))
    method = Method("M", None, scorer, None)
    monkeypatch.setattr(utils, "barrier", lambda: calls.append("wait"))
    monkeypatch.setattr(utils, "all_gather", lambda value: (calls.append("gather"), [value])[1])
    evaluation.gather_finished(method, [], None)
    assert method.finished == [] and calls == ["wait", "gather", "gather"]  # rows, and counts


# Several methods

@pytest.fixture(scope="module")
def compared(short_set, weights_file, short_scored, tmp_path_factory):
    """Two networks, the second one with another number of recursions."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copy(weights_file, folder / "other.pth")
    (folder / "other.json").write_text(json.dumps({"configuration": {**TINY, "num_recursions": 1}}))
    evaluation.main(evaluation.arguments().parse_args(["--data", str(short_set), "--weights", str(weights_file), str(folder / "other.pth"), "--method", "two", "one",
                                                       "--out", str(folder), "--device", "cpu"]))
    return folder / "tiny_val_two+one_float"


def test_several_methods_come_into_one_table_with_the_centre_gaussian_last_each_as_if_alone(compared, short_scored):
    content, alone = (json.loads((folder / "scores.json").read_text()) for folder in (compared, short_scored))
    assert list(content["scores"]) == ["two", "one", "centre Gaussian"]
    assert content["scores"]["two"] == alone["scores"]["RecSalNet"] and content["scores"]["centre Gaussian"] == alone["scores"]["centre Gaussian"]
    assert content["scores"]["one"]["frame_average"]["cc"] != content["scores"]["two"]["frame_average"]["cc"]
    assert content["methods"]["one"]["gflop"] < content["methods"]["two"]["gflop"]
    assert all((compared / name / "004" / "0003.png").is_file() for name in ("one", "two"))


def test_the_table_says_what_each_network_costs(compared):
    text = (compared / "scores.md").read_text()
    assert "| method | parameters (M) | GFLOP a map | frames/s |" in text and text.count("| one |") == 4 and text.count("| two |") == 4


def test_the_comparison_shows_frames_beside_each_methods_map(compared, short_set):
    rows = grouped([{"method": name, "video": video, "frame": f"{number:04d}", "cc": 0.5} for name in ("two", "one") for video in ("004", "005") for number in (2, 3, 4)], "method")
    figure = pytest.importorskip("matplotlib.figure").Figure()
    draw_examples(side_by_side(rows), find_videos(short_set, "val"), {name: compared / name for name in ("two", "one")}, figure)
    assert [axis.get_title() for axis in figure.axes[:4]] == ["004\nframe 0002", "density", "two, CC 0.5000", "one, CC 0.5000"] and len(figure.axes) == 24
    assert np.array_equal(figure.axes[7].images[0].get_array(), np.array(Image.open(compared / "one" / "004" / "0003.png")))
    assert [of_method["two"]["frame"] for _, of_method in side_by_side({"two": [row("a", frame=str(n)) for n in range(60)]})] == ["5", "15", "25", "35", "45", "55"]
    assert {"comparison.png", "distributions.png"} <= {path.name for path in compared.iterdir()} and not (compared / "best_and_worst.png").exists()


def test_several_folders_of_maps_are_compared_too(only_scores, compared, short_set, tmp_path):
    score_files(short_set, (compared / "one", compared / "two"), tmp_path)
    content = json.loads((tmp_path / "tiny_val_one+two_dhf1k" / "scores.json").read_text())
    assert list(content["scores"]) == ["one", "two", "centre Gaussian"] and "GFLOP" not in (tmp_path / "tiny_val_one+two_dhf1k" / "scores.md").read_text()


def test_a_video_that_one_method_lacks_is_scored_for_none(only_scores, compared, short_set, tmp_path):
    shutil.copytree(compared / "one" / "004", tmp_path / "part" / "004")
    score_files(short_set, (compared / "two", tmp_path / "part"), tmp_path, "--skip-bad")
    content = json.loads((tmp_path / "tiny_val_two+part_dhf1k" / "scores.json").read_text())
    assert content["scores"]["two"]["videos"] == content["scores"]["part"]["videos"] == content["scores"]["centre Gaussian"]["videos"] == 1
    assert any("1 of 2 videos scored" in note for note in content["notes"])


def test_notes_on_maps_count_those_of_scored_videos_only(only_scores, compared, short_set, tmp_path):
    shutil.copytree(compared / "one", tmp_path / "grey")
    for path in (tmp_path / "grey" / "005").iterdir():
        Image.new("L", (40, 20), 7).save(path)
    score_files(short_set, tmp_path / "grey", tmp_path)
    assert any("Constant maps: 8 of 16" in note for note in json.loads((tmp_path / "tiny_val_grey_dhf1k" / "scores.json").read_text())["notes"])
    shutil.copytree(compared / "one" / "004", tmp_path / "part" / "004")
    score_files(short_set, (tmp_path / "grey", tmp_path / "part"), tmp_path, "--skip-bad")
    notes = json.loads((tmp_path / "tiny_val_grey+part_dhf1k" / "scores.json").read_text())["notes"]
    assert not any("Constant" in note or "resized" in note for note in notes)


@pytest.mark.parametrize("flags, said", [
    (["--model", "recsalnet", "recsalnet", "--weights", "a"], "names 2 networks and --weights 1 files"), (["--weights", "{w}", "{w}"], "give each a name of its own with --method"),
    (["--weights", "{w}", "--method", "a", "b"], "1 methods are compared, called a, b"), (["--weights", "{w}", "--method", "centre Gaussian"], "name of its own"),
    (["--predictions", "x", "--model", "salema"], "no effect on the files of --predictions"), (["--model", "salema", "--weights", "{w}"], "does not hold SalEMA"),
])
def test_methods_that_cannot_be_told_apart_or_do_not_fit_are_refused(only_scores, short_set, weights_file, tmp_path, flags, said):
    with pytest.raises(ValueError, match=said):
        evaluation.main(evaluation.arguments().parse_args(["--data", str(short_set), "--out", str(tmp_path), "--device", "cpu", *(flag.format(w=weights_file) for flag in flags)]))


def test_an_earlier_runs_maps_are_replaced_only_when_told(only_scores, short_set, weights_file, tmp_path):
    (tmp_path / "tiny_val_RecSalNet_float" / "RecSalNet" / "004").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="tiny_val_RecSalNet_float/RecSalNet would be replaced"):
        run(short_set, weights_file, tmp_path)


def test_a_precision_for_stored_maps_is_refused(short_set, short_scored, tmp_path):
    with pytest.raises(ValueError, match="--precision, .* are of a network"):
        score_files(short_set, short_scored / "RecSalNet", tmp_path, "--precision", "bfloat16")


def test_weights_and_predictions_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        evaluation.arguments().parse_args(["--weights", "a.pth", "--predictions", "maps"])
    assert "not allowed with" in capsys.readouterr().err


# Speed

def test_batches_and_approximations_are_recorded_with_the_scores(only_scores, short_set, weights_file, tmp_path, short_scored):
    run(short_set, weights_file, tmp_path, "--batch-size", "8", "--interpolate", "3", "--frame-size", "32", "32", "--run-name", "fast")
    content, exact = (json.loads((folder / "scores.json").read_text()) for folder in (tmp_path / "fast", short_scored))
    fast, slow = (scores["methods"]["RecSalNet"] for scores in (content, exact))
    assert (fast["batch_size"], fast["interpolate"], slow["batch_size"], slow["interpolate"]) == (8, 3, 1, 1)
    assert "APPROXIMATION: one frame in 3" in (tmp_path / "fast" / "scores.md").read_text()
    assert fast["configuration"]["frame_size"] == [32, 32] and "frames of 32 x 32 (H x W) pixels" in (tmp_path / "fast" / "scores.md").read_text()
    assert content["scores"]["RecSalNet"]["frame_average"]["cc"] != exact["scores"]["RecSalNet"]["frame_average"]["cc"]


class Brightest(WindowModel):
    """A network of windows that is traced at once: a mixture of the three channels, each at its brightest in 32 frames."""
    known_by = ("mixture.weight",)

    def __init__(self, frame_size=(32, 64)):
        super().__init__(frame_size, prepare_frame)
        self.mixture = nn.Conv2d(3, 1, 1)

    def forward(self, clip):
        return self.mixture(clip.amax(2))[:, 0].sigmoid()


def test_scores_of_a_compiled_network_are_the_same(only_scores, short_set, tmp_path, compilations, monkeypatch):
    monkeypatch.setitem(MODELS, "brightest", Brightest)
    torch.save(Brightest().state_dict(), tmp_path / "Brightest.pth")
    for name, flags in (("exact", ()), ("compiled", ("--compile",))):
        run(short_set, tmp_path / "Brightest.pth", tmp_path, "--model", "brightest", "--dataset", "dhf1k", *flags, "--run-name", name)
    compiled, exact = (json.loads((tmp_path / name / "scores.json").read_text())["scores"]["Brightest"]["frame_average"] for name in ("compiled", "exact"))
    assert compilations.frame_count == 1 and compiled == pytest.approx(exact, abs=1e-4)


# Robustness

def test_a_set_without_annotation_gets_maps_and_no_scores(only_scores, short_set, weights_file, tmp_path, capsys):
    source = next((short_set / "val").iterdir())
    shutil.copytree(source / "images", tmp_path / "set" / "test" / "0701" / "images")
    run(tmp_path / "set", weights_file, tmp_path / "out", "--split", "test")
    assert "nothing to score" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "set_test_RecSalNet_float" / "RecSalNet" / "0701").iterdir())) == len(list((source / "images").iterdir()))
    assert not (tmp_path / "out" / "set_test_RecSalNet_float" / "scores.json").exists()


def test_frames_without_annotation_are_counted(only_scores, short_set, weights_file, tmp_path, capsys):
    shutil.copytree(short_set, tmp_path / "set")
    folder = next((tmp_path / "set" / "val").iterdir())
    (folder / "maps" / "0003.png").unlink()
    run(tmp_path / "set", weights_file, tmp_path / "out")
    assert "1 of 16 frames have no annotation" in capsys.readouterr().out


def test_an_unreadable_video_stops_or_is_skipped_and_said(only_scores, short_set, weights_file, tmp_path, capsys):
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


def test_an_unreadable_fixation_map_costs_its_own_video_and_no_other(only_scores, short_set, weights_file, tmp_path, capsys):
    shutil.copytree(short_set, tmp_path / "set")
    (tmp_path / "set" / "val" / "004" / "fixation" / "0002.png").write_bytes(b"half")
    run(tmp_path / "set", weights_file, tmp_path / "b", "--skip-bad")
    assert "average over 1 videos |" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "b" / "set_val_RecSalNet_float" / "RecSalNet").iterdir()] == ["005"]


def test_bfloat16_on_a_cpu_without_instructions_for_it_is_refused(short_set, weights_file, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.utils, "computes_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match="--precision bfloat16: this CPU has no instructions for it.*--force-bfloat16"):
        run(short_set, weights_file, tmp_path, "--precision", "bfloat16")


@needs_bfloat16
def test_seed_and_precision_change_what_is_scored_and_are_recorded(only_scores, ucf_set, weights_file, tmp_path, on_ucf):
    plain = json.loads((on_ucf[0] / "scores.json").read_text())
    run(ucf_set, weights_file, tmp_path, "--dataset", "ucf-sports", "--seed", "5", "--precision", "bfloat16")
    other = json.loads((tmp_path / on_ucf[0].name / "scores.json").read_text())
    assert (other["seed"], other["precision"], plain["seed"], plain["precision"]) == (5, "bfloat16", 0, "float32")
    changed = {name for name in MEASURES if other["scores"]["RecSalNet"]["frame_average"][name] != plain["scores"]["RecSalNet"]["frame_average"][name]}
    assert changed == set(MEASURES)
