import json
import shutil

import pytest
import torch
from runs import broken_copy, log_of, run, same, train_model, train_smcf, weights_of

import train
from training.sets import at_scale, at_scales, choose_sources, held_out
from videos.video import Video


@pytest.mark.parametrize("flags, expected", [
    ("--dataset hollywood2", [("hollywood2", "data/Hollywood-2", "training", "testing")]),
    ("--dataset ucf-sports --data U", [("ucf-sports", "U", "training", "testing")]),
    ("--dataset diem", [("diem", "data/DIEM", "train", "test")]),
    ("--dataset folder --data A B --train-split all", [("folder", "A", "all", "val"), ("folder", "B", "all", "val")]),
    ("--dataset dhf1k --data A --dataset ucf-sports --data B", [("dhf1k", "A", "train", "val"), ("ucf-sports", "B", "training", "testing")]),
    ("--dataset dhf1k ucf-sports --data A B", [("dhf1k", "A", "train", "val"), ("ucf-sports", "B", "training", "testing")]),
])
def test_a_datasets_name_says_where_it_is_and_what_its_splits_are_called(flags, expected):
    args = train.arguments().parse_args(flags.split())
    sources = choose_sources(args.dataset, args.data, args.train_split, args.val_split)
    assert [(s.dataset, str(s.folder), s.train_split, s.val_split) for s in sources] == expected


@pytest.mark.parametrize("flags, said", [("--dataset folder", "say which with --data"), ("--dataset dhf1k diem --data A", "names 2 datasets and --data 1 folders"),
                                         ("--dataset dhf1k diem --data A B C", "names 2 datasets and --data 3 folders")])
def test_names_without_folders_are_an_error(flags, said):
    args = train.arguments().parse_args(flags.split())
    with pytest.raises(ValueError, match=said):
        choose_sources(args.dataset, args.data, args.train_split, args.val_split)


def test_videos_of_dhf1k_are_divided_by_their_numbers_where_there_are_no_folders(tiny_set, tmp_path, capsys):
    for number, video in zip((1, 2, 600, 601, 701), [*(tiny_set / "train").iterdir(), *(tiny_set / "val").iterdir()]):
        shutil.copytree(video / "images", tmp_path / "set" / "frames" / str(number))
        if number != 701:
            shutil.copytree(video, tmp_path / "set" / "annotation" / f"{number:04d}", ignore=shutil.ignore_patterns("images"))
    run(tmp_path / "set", tmp_path / "run", "--epochs", "1")
    out = capsys.readouterr().out
    assert f"{tmp_path / 'set'}, train: 3 videos" in out and f"{tmp_path / 'set'}, val: 1 videos" in out


def test_nothing_is_prepared_before_everything_else_is_in_order(tiny_set, tmp_path):
    for flags in (("--resume",), ("--encoder-weights", str(tmp_path / "absent.pth"))):
        with pytest.raises(FileNotFoundError):
            run(tiny_set, tmp_path / "run", "--cache", str(tmp_path / "cache"), *flags)
    assert not list(tmp_path.glob("cache/*/*"))


def test_bad_videos_are_skipped_with_prepared_frames_too(tiny_set, tmp_path):
    data = broken_copy(tiny_set, tmp_path)
    run(data, tmp_path / "b", "--skip-bad", "--epochs", "1", "--cache", str(tmp_path / "cache"))
    assert log_of(tmp_path / "b")[0]["skipped"] == 1 and len(list(tmp_path.glob("cache/*/*.npy"))) == 4


def test_several_datasets_are_trained_on_together(tiny_set, ucf_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--epochs", "1", "--dataset", "dhf1k", "ucf-sports", "--data", str(ucf_set))
    stored = torch.load(tmp_path / "last.pt", weights_only=True)["recipe"]
    assert stored["train"].startswith("6 videos") and stored["val"].startswith("4 videos")
    assert log_of(tmp_path)[0]["val_clips"] >= 4
    assert f"{ucf_set}, testing: 2 videos" in capsys.readouterr().out


def test_videos_held_out_are_not_trained_on(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--epochs", "1", "--hold-out", "0.34")
    stored = torch.load(tmp_path / "last.pt", weights_only=True)["recipe"]
    assert stored["train"].startswith("2 videos") and stored["val"].startswith("1 videos")
    assert "1 of those videos are held out" in (out := capsys.readouterr().out)
    data = json.loads((tmp_path / "RecSalNet.json").read_text())["data"]
    assert data["datasets"][0]["val_split"] is None and data["hold_out"] == 0.34 and f"choose weights by: {data['held_out'][0]}\n" in out
    with pytest.raises(ValueError, match="--val-every 0, given or of the network.s recipe, says not to validate"):
        run(tiny_set, tmp_path / "b", "--hold-out", "0.34", "--val-every", "0")
    with pytest.raises(ValueError, match="--hold-out 0.01 of 3 videos is 0"):
        run(tiny_set, tmp_path / "c", "--hold-out", "0.01")


def test_shots_of_a_film_are_held_out_together_and_by_the_seed():
    videos = [Video(f"actioncliptrain{film:05d}_{shot}", ()) for film in range(20) for shot in range(3)]
    own, others = held_out(videos, 0.25, seed=0, shots=True)
    assert len(others) == 15 and sorted(v.name for v in own + others) == sorted(v.name for v in videos)
    assert not {v.name[:-2] for v in own} & {v.name[:-2] for v in others}
    assert [held_out(videos, 0.25, seed, shots=True)[1] == others for seed in (0, 1)] == [True, False]
    assert len(held_out(videos[:3], 0.4, 0)[1]) == 1                 # anybody's clip_1, clip_2 and clip_3 are three videos


@pytest.mark.parametrize("flags, said", [(("--val-split", "train"), "warning: videos that are trained on and choose the weights, too: 3\n"), ((), None)])
def test_videos_that_are_trained_on_and_validated_on_are_said(tiny_set, tmp_path, capsys, flags, said):
    run(tiny_set, tmp_path, "--epochs", "1", *flags)
    out = capsys.readouterr().out
    assert said in out if said else "warning:" not in out


def test_training_from_prepared_frames_is_the_same_training(tiny_set, tmp_path, finished, capsys):
    flags = ("--epochs", "3", "--val-every", "2", "--cache", str(tmp_path / "cache"))
    run(tiny_set, tmp_path / "run", *flags)
    assert "MB of prepared frames to write, 5 videos" in capsys.readouterr().out
    assert same(weights_of(tmp_path / "run"), weights_of(finished)) and len(list(tmp_path.glob("cache/32x64-*/*.npy"))) == 5
    run(tiny_set, tmp_path / "again", "--epochs", "1", "--workers", "1", "--cache", str(tmp_path / "cache"))
    assert "to write" not in capsys.readouterr().out


def test_a_set_without_val_says_what_to_do(tiny_set, tmp_path):
    shutil.copytree(tiny_set / "train", tmp_path / "set" / "train")
    with pytest.raises(FileNotFoundError, match='no split "val".*--hold-out 0.1.*--val-every 0'):
        run(tmp_path / "set", tmp_path / "run")


def test_the_validation_split_is_chosen_by_its_flag(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--epochs", "1", "--val-split", "train")
    assert log_of(tmp_path)[0]["val_clips"] == 3


def test_masks_and_fixations_are_not_mistaken_for_each_other(vsod_set, tiny_set, tmp_path):
    with pytest.raises(FileNotFoundError, match="mask"):
        train_smcf(tiny_set, tmp_path, "--train-split", "train", "--encoder-weights", "none")
    with pytest.raises(FileNotFoundError, match="mask"):
        train_model("recsalnet", vsod_set, tmp_path, "--train-split", "TrainSet_Video", "--val-every", "0")


def test_a_batch_is_taken_at_every_scale_and_a_run_goes_on_between_two():
    batches = [{"clip": number, "skipped": ["bad"] * (number == 1)} for number in range(2)]
    scaled = list(at_scales(iter(batches), (0.75, 1.0)))
    assert [(batch["clip"], batch["scale"]) for batch in scaled] == [(0, 0.75), (0, 1.0), (1, 0.75), (1, 1.0)]
    assert [batch["skipped"] for batch in scaled] == [[], [], ["bad"], []]
    assert [(batch["clip"], batch["scale"]) for batch in at_scales(iter(batches[1:]), (0.75, 1.0), skip=1)] == [(1, 1.0)]


@pytest.mark.parametrize("scale, size", [(1, 352), (0.75, 256), (1.25, 448), (0.01, 32)])
def test_scales_of_352_are_the_papers_sizes(scale, size):
    corners = torch.zeros(2, 3, 352, 352)
    corners[..., 0, 0], corners[..., -1, -1] = 1, 2
    scaled = at_scale(corners, scale)
    assert scaled.shape == (2, 3, size, size) and scaled[0, 0, 0, 0] == 1 and scaled[0, 0, -1, -1] == 2    # corners aligned
    assert at_scale(corners[:, 0], scale).shape == (2, size, size)
