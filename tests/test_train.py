import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TESTS, TINY, TINY_FLAGS, few_channels, needs_bfloat16
from torch import nn

import train
from baselines import MODELS, salema
from baselines.tased_net import TASEDNet
from dataloader import ClipDataset, Video, clip_loader, find_videos
from model import RecSalNet, SaliencyModel, prepare_frame
from swin_transformer import SwinTransformer3D


def flags_for(tiny_set, run_dir, *extra):
    return [*TINY_FLAGS, "--data", str(tiny_set), "--run-dir", str(run_dir), "--lr", "1e-3", "--epochs", "2", "--val-every", "1", *extra]


def run(tiny_set, run_dir, *extra):
    return train.main(train.arguments().parse_args(flags_for(tiny_set, run_dir, *extra)))


def weights_of(run_dir):
    return torch.load(run_dir / "last.pt", weights_only=True)["model"]


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def log_of(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


# The paper's recipe is the default

def test_no_argument_means_the_papers_recipe():
    args = vars(train.arguments().parse_args([]))
    assert train.chosen_recipe(train.MODELS[args["model"]].recipe, args) == {
        "optimizer": "adam", "optimizer_options": {}, "lr": 1e-5, "milestones": (), "gamma": 1.0, "batch_size": 1, "accumulate": 1, "gradients": "averaged", "epochs": 500, "decay_epochs": None,
        "val_every": 3, "flip": False, "scales": (1.0,), "loss": "maps", "kl_over": "sample", "loss_weights": {"kl": 1.0, "cc": 1.0, "nss": 0.1, "sim": 0.0, "l1": 0.0, "bce": 0.0}}
    expected = {"encoder_weights": "auto", "weights": None, "hold_out": None, "cache": None, "model": "recsalnet", "thaw": False}
    assert {name: args[name] for name in expected} == expected
    assert all(args[name] is None for name in train.NETWORK)              # so the network's own defaults hold
    assert RecSalNet().config == {"num_recursions": 2, "frame_size": [224, 384], "frame_stride": 1, "width": 192, "embed_dim": 96, "depths": [2, 2, 18, 2],
                                  "num_heads": [3, 6, 12, 24], "patch_norm": False, "drop_path": 0.2}
    assert args["run_dir"] is args["dataset"] is args["data"] is None      # DHF1K, as the message of the next-but-one test shows
    source, = train.choose_sources(["dhf1k"], args["data"], args["train_split"], args["val_split"])
    assert (str(source.folder), source.train_split, source.val_split) == ("data/DHF1K", "train", "val")
    assert str(train.default_run_dir("recsalnet", ["dhf1k"])) == "saved_models" and str(train.default_run_dir("salema", ["diem"])) == "saved_models/salema/diem"


# Which data

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
    sources = train.choose_sources(args.dataset, args.data, args.train_split, args.val_split)
    assert [(s.dataset, str(s.folder), s.train_split, s.val_split) for s in sources] == expected


@pytest.mark.parametrize("flags, said", [("--dataset folder", "say which with --data"), ("--dataset dhf1k diem --data A", "names 2 datasets and --data 1 folders"),
                                         ("--dataset dhf1k diem --data A B C", "names 2 datasets and --data 3 folders")])
def test_names_without_folders_are_an_error(flags, said):
    args = train.arguments().parse_args(flags.split())
    with pytest.raises(ValueError, match=said):
        train.choose_sources(args.dataset, args.data, args.train_split, args.val_split)


def test_fine_tuning_on_another_dataset_starts_from_the_weights_and_their_configuration(tiny_set, ucf_set, tmp_path, finished, monkeypatch, capsys):
    network = ("--frame-size", "--width", "--embed-dim", "--depths", "--num-heads", "--drop-path", "--encoder-weights")
    monkeypatch.chdir(tmp_path)
    flags = f"--dataset ucf-sports --data {ucf_set} --weights {finished / 'RecSalNet.pth'} --epochs 1 --lr 1e-30 --workers 0 --device cpu --no-tensorboard".split()
    assert not set(flags) & set(network)
    assert train.main(train.arguments().parse_args(flags)) == 0
    out = capsys.readouterr().out
    before = torch.load(finished / "RecSalNet.pth", weights_only=True)
    assert same(torch.load(tmp_path / "saved_models" / "ucf-sports" / "RecSalNet.pth", weights_only=True), before)  # a learning rate too small to see
    described = json.loads((tmp_path / "saved_models" / "ucf-sports" / "RecSalNet.json").read_text())
    assert described["configuration"] == json.loads((finished / "RecSalNet.json").read_text())["configuration"]
    assert described["data"] == {"datasets": [{"dataset": "ucf-sports", "folder": str(ucf_set), "train_split": "training", "val_split": "testing"}]}
    assert f"{ucf_set}, training: 3 videos, 60 frames, 60 annotated" in out and "3 videos shorter than 32 frames" in out
    assert "weights are chosen by the test set" in out


def test_a_network_that_differs_from_the_weights_to_start_from_is_an_error(tiny_set, finished, tmp_path):
    flags = ["--data", str(tiny_set), "--run-dir", str(tmp_path), "--weights", str(finished / "RecSalNet.pth"), "--workers", "0", "--device", "cpu"]
    with pytest.raises(ValueError, match="do not fit RecSalNet: .*of another shape"):
        train.main(train.arguments().parse_args([*flags, "--width", "24"]))
    train.main(train.arguments().parse_args([*flags, "--num-recursions", "1", "--epochs", "1", "--val-every", "0", "--no-tensorboard"]))
    assert json.loads((tmp_path / "RecSalNet.json").read_text())["configuration"]["num_recursions"] == 1


def test_fine_tuning_resumes_without_the_weights_it_started_from(tiny_set, finished, tmp_path):
    shutil.copy(finished / "RecSalNet.pth", tmp_path / "start.pth")
    shutil.copy(finished / "RecSalNet.json", tmp_path / "start.json")
    flags = ["--data", str(tiny_set), "--run-dir", str(tmp_path / "run"), "--workers", "0", "--device", "cpu", "--no-tensorboard", "--val-every", "0"]
    train.main(train.arguments().parse_args([*flags, "--epochs", "1", "--weights", str(tmp_path / "start.pth")]))
    (tmp_path / "start.pth").unlink()
    assert train.main(train.arguments().parse_args([*flags, "--epochs", "2", "--resume"])) == 0
    assert json.loads((tmp_path / "run" / "RecSalNet.json").read_text())["recipe"]["weights"] == str(tmp_path / "start.pth")


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
    with pytest.raises(ValueError, match="--val-every 0 says not to validate"):
        run(tiny_set, tmp_path / "b", "--hold-out", "0.34", "--val-every", "0")
    with pytest.raises(ValueError, match="--hold-out 0.01 of 3 videos is 0"):
        run(tiny_set, tmp_path / "c", "--hold-out", "0.01")


def test_shots_of_a_film_are_held_out_together_and_by_the_seed():
    videos = [Video(f"actioncliptrain{film:05d}_{shot}", ()) for film in range(20) for shot in range(3)]
    own, others = train.held_out(videos, 0.25, seed=0, shots=True)
    assert len(others) == 15 and sorted(v.name for v in own + others) == sorted(v.name for v in videos)
    assert not {v.name[:-2] for v in own} & {v.name[:-2] for v in others}
    assert [train.held_out(videos, 0.25, seed, shots=True)[1] == others for seed in (0, 1)] == [True, False]
    assert len(train.held_out(videos[:3], 0.4, 0)[1]) == 1                 # anybody's clip_1, clip_2 and clip_3 are three videos


@pytest.mark.parametrize("flags, said", [(("--val-split", "train"), "0 videos are trained on more than once an epoch, 3 are trained on and choose"), ((), None)])
def test_videos_that_are_trained_on_and_validated_on_are_said(tiny_set, tmp_path, capsys, flags, said):
    run(tiny_set, tmp_path, "--epochs", "1", *flags)
    out = capsys.readouterr().out
    assert said in out if said else "mind:" not in out


def test_training_from_prepared_frames_is_the_same_training(tiny_set, tmp_path, finished, capsys):
    flags = ("--epochs", "3", "--val-every", "2", "--cache", str(tmp_path / "cache"))
    run(tiny_set, tmp_path / "run", *flags)
    assert "MB of prepared frames to write, 5 videos" in capsys.readouterr().out
    assert same(weights_of(tmp_path / "run"), weights_of(finished)) and len(list(tmp_path.glob("cache/32x64-*/*.npy"))) == 5
    run(tiny_set, tmp_path / "again", "--epochs", "1", "--workers", "1", "--cache", str(tmp_path / "cache"))
    assert "to write" not in capsys.readouterr().out


# What is refused

@pytest.mark.parametrize("flags, said", [
    (["--epochs", "0"], "must be 1 or more"), (["--lr", "0"], "must be above 0"), (["--lr", "nan"], "must be above 0"), (["--resume", "--overwrite"], "not allowed with"), (["--precision", "int8"], "invalid choice"),
    (["--hold-out", "1"], "between 0 and 1"), (["--hold-out", "0.1", "--val-split", "val"], "not allowed with"), (["--weights", "a", "--encoder-weights", "none"], "not allowed with"),
    (["--dataset", "coco"], "invalid choice"),
])
def test_senseless_flags_end_with_usage_and_exit_code_2(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        train.arguments().parse_args(flags)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_users_mistake_ends_with_one_line_and_exit_code_2(tmp_path, run_script):
    ended = run_script(TESTS.parent / "train.py", cwd=tmp_path)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.startswith("train.py: error: no dataset data/DHF1K")


def test_a_set_without_val_says_what_to_do(tiny_set, tmp_path):
    shutil.copytree(tiny_set / "train", tmp_path / "set" / "train")
    with pytest.raises(FileNotFoundError, match='no split "val".*--hold-out 0.1.*--val-every 0'):
        run(tmp_path / "set", tmp_path / "run")


def test_existing_weights_are_not_replaced_unasked(tiny_set, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "RecSalNet.pth").write_bytes(b"the authors' weights")
    with pytest.raises(FileExistsError, match=r"RecSalNet.pth would be replaced: .*--resume.*--overwrite"):
        run(tiny_set, run_dir)
    assert (run_dir / "RecSalNet.pth").read_bytes() == b"the authors' weights"
    run(tiny_set, run_dir, "--overwrite", "--epochs", "1")
    RecSalNet.from_pretrained(run_dir / "RecSalNet.pth")


def test_overwrite_starts_with_an_empty_log(tiny_set, once):
    run(tiny_set, once, "--epochs", "1", "--val-every", "0", "--overwrite")
    assert [line["epoch"] for line in log_of(once)] == [1]


def test_overwrite_that_cannot_start_leaves_the_old_run_as_it_was(tiny_set, tmp_path, once):
    with pytest.raises(FileNotFoundError):
        run(tiny_set, once, "--overwrite", "--encoder-weights", str(tmp_path / "absent.pth"))
    assert run(tiny_set, once, "--epochs", "2", "--val-every", "0", "--resume") == 0


def test_a_file_that_is_no_state_of_a_run_is_said(tiny_set, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt is no last.pt of train.py: .*got a dict with 1 entries"):
        run(tiny_set, tmp_path, "--resume")


def test_nothing_to_resume_is_said(tiny_set, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        run(tiny_set, tmp_path / "run", "--resume")


# Speed

@pytest.mark.parametrize("flags", [("--activation-checkpointing",), ("--precision", "bfloat16") if train.utils.computes_bfloat16(torch.device("cpu")) else ()])
def test_compiled_training_is_one_graph_that_is_never_compiled_again(tiny_set, tmp_path, compilations, flags):
    flags = ("--num-recursions", "1", *flags)                              # tracing takes as long as the network is deep
    assert run(tiny_set, tmp_path / "run", "--epochs", "2", "--val-every", "1", "--compile", *flags) == 0
    assert compilations.frame_count == 1 and not torch._dynamo.utils.counters["graph_break"]
    with pytest.raises(ValueError, match="compile was True, is False"):
        run(tiny_set, tmp_path / "run", "--epochs", "3", "--val-every", "1", "--resume", *flags)


def test_training_keeps_the_memory_that_tensors_free(tiny_set, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(train, "keep_freed_memory", lambda: called.append(True))
    run(tiny_set, tmp_path / "run")
    assert called == [True]


# What a run leaves behind

@pytest.fixture(scope="module")
def finished(tiny_set, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("finished")
    assert run(tiny_set, run_dir, "--epochs", "3", "--val-every", "2") == 0
    return run_dir


@pytest.fixture(scope="module")
def trained_once(tiny_set, tmp_path_factory):
    """The folder of a run of one epoch without validation; read-only for tests."""
    run_dir = tmp_path_factory.mktemp("one_epoch")
    assert run(tiny_set, run_dir, "--epochs", "1", "--val-every", "0") == 0
    return run_dir


@pytest.fixture(scope="module")
def one_epoch(trained_once):
    return weights_of(trained_once)


@pytest.fixture
def once(trained_once, tmp_path):
    """A copy of that run, for a test to change."""
    return shutil.copytree(trained_once, tmp_path / "once")


def test_a_run_writes_best_weights_their_description_and_a_log(finished):
    assert {"RecSalNet.pth", "RecSalNet.json", "last.pt", "log.jsonl"} <= {p.name for p in finished.iterdir()}
    assert not list(finished.glob(".*part"))
    model = RecSalNet.from_pretrained(finished / "RecSalNet.pth")
    described = json.loads((finished / "RecSalNet.json").read_text())
    assert described["configuration"] == json.loads(json.dumps(model.config))
    assert {"validation", "protocol", "recipe", "revision", "versions", "epoch"} <= described.keys()
    assert all(name.startswith(("backbone.", "conv", "aspp", "fusion")) for name in torch.load(finished / "RecSalNet.pth", weights_only=True))


def test_every_epoch_is_logged_with_every_term_and_validated_when_due_and_at_the_end(finished):
    log = log_of(finished)
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert ["val_cc" in line for line in log] == [False, True, True]
    for line in log:
        assert all(math.isfinite(line[name]) for name in ("loss", "kl", "cc", "nss", "sim", "l1", "seconds", "clips_per_second"))
        assert line["clips_per_second"] > 0 and 0 <= line["data_wait"] <= 1
        assert line["nss_left_out"] in (0, 1, 2, 3)


def test_the_kept_weights_are_those_of_the_best_validation(finished):
    described, log = json.loads((finished / "RecSalNet.json").read_text()), log_of(finished)
    best = max((line for line in log if "val_cc" in line), key=lambda line: line["val_cc"])
    assert described["epoch"] == best["epoch"] and described["validation"]["cc"] == best["val_cc"]


def test_without_validation_the_last_weights_are_kept(trained_once):
    assert same(torch.load(trained_once / "RecSalNet.pth", weights_only=True), weights_of(trained_once))
    assert json.loads((trained_once / "RecSalNet.json").read_text())["validation"] is None


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(tiny_set, tmp_path, finished):
    run(tiny_set, tmp_path / "again", "--epochs", "3", "--val-every", "2")
    run(tiny_set, tmp_path / "other", "--epochs", "1", "--seed", "1")
    assert same(weights_of(tmp_path / "again"), weights_of(finished))
    assert not same(weights_of(tmp_path / "other"), weights_of(finished))


def test_density_maps_alone_are_trained_on_without_nss_and_without_that_the_error_says_so(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set", ignore=lambda folder, names: [name for name in names if name == "fixation"])
    with pytest.raises(FileNotFoundError, match=r"no fixation maps for video 001: .*give --nss-weight 0 to train without"):
        run(tmp_path / "set", tmp_path / "a")
    assert run(tmp_path / "set", tmp_path / "b", "--nss-weight", "0", "--epochs", "1") == 0
    epoch, = log_of(tmp_path / "b")
    assert epoch["val_nss"] is None and math.isfinite(epoch["val_cc"]) and math.isfinite(epoch["loss"]) and epoch["nss_left_out"] == 3


def test_bfloat16_on_a_cpu_without_instructions_for_it_is_refused_unless_forced(tiny_set, tmp_path, monkeypatch):
    monkeypatch.setattr(train.utils, "computes_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match="--precision bfloat16: this CPU has no instructions for it.*--force-bfloat16"):
        run(tiny_set, tmp_path / "run", "--precision", "bfloat16")
    assert not (tmp_path / "run").exists()
    with pytest.raises(FileNotFoundError, match="nothing to resume"):        # it went on
        run(tiny_set, tmp_path / "run", "--precision", "bfloat16", "--force-bfloat16", "--resume")


# Every option has an effect

@pytest.mark.parametrize("flags", [
    ["--flip"], ["--frame-stride", "2"], ["--batch-size", "2"], ["--accumulate", "2"], ["--num-recursions", "1"], ["--patch-norm"],
    pytest.param(["--precision", "bfloat16"], marks=needs_bfloat16), ["--warmup", "3"],
    ["--kl-weight", "2"], ["--cc-weight", "2"], ["--nss-weight", "2"], ["--sim-weight", "2"], ["--l1-weight", "2"], ["--lr", "1e-2"], ["--train-split", "val"],
    ["--drop-path", "0.5"], ["--width", "24"], ["--embed-dim", "24"], ["--depths", "1", "1", "1", "1"], ["--num-heads", "2", "2", "2", "2"], ["--frame-size", "64", "64"],
], ids=lambda flags: flags[0])
def test_an_option_changes_what_is_trained(tiny_set, tmp_path, flags, one_epoch):
    run(tiny_set, tmp_path, "--epochs", "1", "--val-every", "0", *flags)
    trained = weights_of(tmp_path)
    assert trained.keys() != one_epoch.keys() or any(t.shape != one_epoch[name].shape for name, t in trained.items()) or not same(trained, one_epoch)


def test_activation_checkpointing_and_workers_change_nothing_but_time_and_memory(tiny_set, tmp_path, one_epoch):
    run(tiny_set, tmp_path, "--epochs", "1", "--val-every", "0", "--activation-checkpointing", "--workers", "2")
    for name, t in weights_of(tmp_path).items():
        torch.testing.assert_close(t, one_epoch[name], msg=name)


def test_accumulating_two_batches_equals_one_batch_of_two(tiny_set, tmp_path):
    common = ["--epochs", "1", "--val-every", "0", "--drop-path", "0"]
    for name, flags in {"batch": ["--batch-size", "2"], "accumulated": ["--accumulate", "2"]}.items():
        run(tiny_set, tmp_path / name, *common, *flags)
    a, b = weights_of(tmp_path / "batch"), weights_of(tmp_path / "accumulated")
    assert max((a[name] - b[name]).abs().max().item() for name in a if a[name].is_floating_point()) < 2e-3  # Adam turns rounding into steps of lr
    assert np.mean([(a[name] - b[name]).abs().mean().item() for name in a if a[name].is_floating_point()]) < 1e-5


def test_tensorboard_curves_are_written_where_it_is_installed(tiny_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)     # as if it were not installed
    run(tiny_set, tmp_path / "without", "--epochs", "1", "--tensorboard")
    assert "no TensorBoard curves" in capsys.readouterr().out
    monkeypatch.undo()
    pytest.importorskip("tensorboard")                                     # `make test` installs it
    run(tiny_set, tmp_path / "with", "--epochs", "1", "--tensorboard")
    assert list((tmp_path / "with" / "tensorboard").iterdir())


# Encoder weights

def test_encoder_weights_are_read_from_a_file(tiny_set, tmp_path):
    torch.manual_seed(5)
    encoder = SwinTransformer3D(embed_dim=12, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2))
    torch.save({"state_dict": {f"backbone.{name}": t for name, t in encoder.state_dict().items()} | {"cls_head.fc_cls.bias": torch.zeros(400)}}, tmp_path / "kinetics.pth")
    torch.manual_seed(0)
    model = RecSalNet(embed_dim=12, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2))
    assert "unused: cls_head.fc_cls.bias" in train.initialise(model, str(tmp_path / "kinetics.pth"))
    assert same(model.encoder.state_dict(), encoder.state_dict())


def test_only_a_start_from_random_weights_is_made_dark(tmp_path):
    torch.manual_seed(0)
    model = RecSalNet(**TINY)
    drawn = {name: t.clone() for name, t in model.state_dict().items()}
    torch.save({f"backbone.{name}": t for name, t in model.encoder.state_dict().items()}, tmp_path / "encoder.pth")
    train.initialise(model, str(tmp_path / "encoder.pth"))
    assert same(model.state_dict(), drawn)
    assert train.initialise(model, "none") == "none, random initialisation"
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, drawn[name])}
    assert changed == {"convout.0.weight", "convout.0.bias", *(f"convtsp{i}.{layer}.weight" for i in range(1, 5) for layer in (0, 3, 6))}


def test_weights_that_cannot_be_downloaded_are_said_with_what_to_do(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no route to host")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.get_weight(RecSalNet.start_download).__class__, "get_state_dict", offline)
    with pytest.raises(FileNotFoundError, match="could not be downloaded.*no route to host.*--encoder-weights none"):
        train.initialise(RecSalNet(**TINY), "auto")


# Bad files

def broken_copy(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set")
    for path in sorted((tmp_path / "set" / "train").iterdir())[0].glob("images/*.png"):
        path.write_bytes(b"half a picture")
    return tmp_path / "set"


def test_an_unreadable_frame_stops_the_run_or_is_skipped_and_counted(tiny_set, tmp_path, capsys):
    data = broken_copy(tiny_set, tmp_path)
    with pytest.raises(ValueError, match="cannot read image"):
        run(data, tmp_path / "a")
    run(data, tmp_path / "b", "--skip-bad", "--epochs", "1")
    assert log_of(tmp_path / "b")[0]["skipped"] == 1
    assert "1 clips skipped" in capsys.readouterr().out


def test_a_run_in_which_every_clip_is_skipped_stops(tiny_set, tmp_path):
    data = broken_copy(tiny_set, tmp_path)
    for path in (data / "train").glob("*/images/*.png"):
        path.write_bytes(b"half a picture")
    with pytest.raises(ValueError, match="all 3 clips of epoch 1 were skipped"):
        run(data, tmp_path / "a", "--skip-bad")


def test_a_non_finite_loss_stops_and_names_the_clip(tiny_set, tmp_path, monkeypatch):
    forward = RecSalNet.forward
    monkeypatch.setattr(RecSalNet, "forward", lambda self, clip: forward(self, clip) * math.nan)
    with pytest.raises(FloatingPointError, match=r"loss is nan on \(video, frame\) \[\('00\d', '00\d\d'\)\].*'kl'"):
        run(tiny_set, tmp_path)


# Stopping and resuming

class StopAfter(train.StopRequest):
    """As if the user pressed Ctrl-C during the n-th optimiser step."""
    step = 0

    @property
    def requested(self):
        StopAfter.step += 1
        return StopAfter.step >= StopAfter.at

    @requested.setter
    def requested(self, value):
        pass


@pytest.mark.parametrize("at", [2, 3, 7])
def test_a_stopped_run_resumes_to_bit_identical_weights(tiny_set, tmp_path, finished, monkeypatch, at):
    flags = ("--epochs", "3", "--val-every", "2")
    StopAfter.step, StopAfter.at = 0, at
    with monkeypatch.context() as patch:
        patch.setattr(train, "StopRequest", StopAfter)
        assert run(tiny_set, tmp_path, *flags) == train.STOPPED
    torch.manual_seed(99)                                                  # another process has other random numbers
    assert run(tiny_set, tmp_path, *flags, "--resume") == 0
    assert same(weights_of(tmp_path), weights_of(finished))
    assert same(torch.load(tmp_path / "RecSalNet.pth", weights_only=True), torch.load(finished / "RecSalNet.pth", weights_only=True))
    without_time = [{name: value for name, value in line.items() if name not in ("time", "seconds", "clips_per_second", "data_wait")} for line in log_of(tmp_path)]
    assert without_time == [{name: value for name, value in line.items() if name not in ("time", "seconds", "clips_per_second", "data_wait")} for line in log_of(finished)]


def test_more_epochs_can_be_added_to_a_finished_run(tiny_set, tmp_path, finished):
    run(tiny_set, tmp_path, "--epochs", "1", "--val-every", "2")
    run(tiny_set, tmp_path, "--epochs", "3", "--val-every", "2", "--resume")
    assert same(weights_of(tmp_path), weights_of(finished))


def test_resuming_with_other_options_is_refused_by_name(tiny_set, finished):
    with pytest.raises(ValueError, match="lr was 0.001, is 0.5"):
        run(tiny_set, finished, "--val-every", "2", "--resume", "--lr", "0.5")


def test_resuming_on_another_set_is_refused(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set")
    run(tmp_path / "set", tmp_path / "run", "--epochs", "1")
    shutil.rmtree(tmp_path / "set" / "train" / "002")
    with pytest.raises(ValueError, match="train was 3 videos.*is 2 videos"):
        run(tmp_path / "set", tmp_path / "run", "--resume")


def test_a_val_set_that_cannot_be_read_stops_or_is_counted(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set")
    for path in (tmp_path / "set" / "val" / "004" / "images").iterdir():
        path.write_bytes(b"half a picture")
    run(tmp_path / "set", tmp_path / "a", "--epochs", "1", "--skip-bad")
    assert log_of(tmp_path / "a")[0]["val_skipped"] == 1
    for path in (tmp_path / "set" / "val" / "005" / "images").iterdir():
        path.write_bytes(b"half a picture")
    with pytest.raises(ValueError, match="all 2 validation clips were skipped"):
        run(tmp_path / "set", tmp_path / "b", "--epochs", "1", "--skip-bad")


def test_the_validation_split_is_chosen_by_its_flag(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--epochs", "1", "--val-split", "train")
    assert log_of(tmp_path)[0]["val_clips"] == 3


def test_ctrl_c_leaves_a_resumable_state_and_exit_code_130(tiny_set, tmp_path, capsys):
    command = [sys.executable, TESTS.parent / "train.py", *flags_for(tiny_set, tmp_path, "--epochs", "1000", "--val-every", "1000", "--workers", "1")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    waited = time.time() + 120
    while not (tmp_path / "log.jsonl").exists() and time.time() < waited and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)                                  # a terminal sends it to the workers as well
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "--resume continues" in output and "Traceback" not in output
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    epochs = len(log_of(tmp_path))
    assert stored["epoch"] == epochs
    assert run(tiny_set, tmp_path, "--epochs", str(epochs + 1), "--val-every", "1000", "--workers", "1", "--resume") == 0
    assert f"finished {epochs + 1} epochs" in capsys.readouterr().out


def start(tiny_set, run_dir, *extra):
    command = [sys.executable, TESTS.parent / "train.py", *flags_for(tiny_set, run_dir, "--workers", "1", *extra)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def test_an_error_that_nobody_foresaw_ends_the_run_and_its_loader_processes(tiny_set, tmp_path):
    broken = "import sys, train; train.objective = lambda *a, **k: 1 / 0; sys.exit(train.main(train.arguments().parse_args(sys.argv[1:])))"
    ended = subprocess.run([sys.executable, "-c", broken, *flags_for(tiny_set, tmp_path, "--workers", "1")], capture_output=True, text=True, timeout=60,
                           env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    assert ended.returncode == 1 and "ZeroDivisionError" in ended.stderr


KILLED_WHILE_WRITING = """
import os, runpy, signal, sys
replace, written = os.replace, []
def replace_or_die(source, target):
    written.append(os.path.basename(target))
    if written.count("last.pt") == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace, sys.argv = replace_or_die, sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def wait_for(process, happened):
    """Waits until something has happened; fails if the run ends before."""
    waited = time.monotonic() + 120
    while not happened() and time.monotonic() < waited and process.poll() is None:
        time.sleep(0.0005)
    assert happened() and process.poll() is None, process.communicate()


def test_a_run_killed_while_it_writes_ends_as_if_nothing_had_happened(tiny_set, tmp_path):
    """When its second last.pt is written, and not yet renamed; tests/long/kill.py kills at every other moment."""
    epochs = ("--epochs", "4", "--val-every", "1")
    run(tiny_set, tmp_path / "straight", *epochs)
    killed = tmp_path / "killed"
    writing = lambda: list(killed.glob(".*.part"))
    flags = flags_for(tiny_set, killed, "--workers", "1", *epochs)
    ended = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, TESTS.parent / "train.py", *flags], capture_output=True,
                           env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    assert ended.returncode == -signal.SIGKILL and writing(), ended.stderr
    for name in ("last.pt", "RecSalNet.pth"):
        torch.load(killed / name, weights_only=True)
    json.loads((killed / "RecSalNet.json").read_text())
    run(tiny_set, killed, *epochs, "--resume")
    assert same(weights_of(killed), weights_of(tmp_path / "straight"))
    assert same(*(torch.load(folder / "RecSalNet.pth", weights_only=True) for folder in (killed, tmp_path / "straight")))
    assert [line["epoch"] for line in log_of(killed)] == list(range(1, 5)) and not writing()
    assert len(json.loads((killed / "run.json").read_text())["launches"]) == 2


def test_sigterm_as_schedulers_send_it_leaves_a_resumable_state_and_exit_code_143(tiny_set, tmp_path):
    process = start(tiny_set, tmp_path, "--epochs", "1000", "--val-every", "1000")
    wait_for(process, (tmp_path / "log.jsonl").exists)
    for _ in range(2):                                                     # to every process of the job, and again through its launcher
        os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == train.TERMINATED == 143 and "--resume continues" in output and "Traceback" not in output, output
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == len(log_of(tmp_path))


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_validation_is_interrupted_at_once_and_done_again_on_resuming(tiny_set, tmp_path, finished, monkeypatch, number, code):
    validate = train.validate
    monkeypatch.setattr(train, "validate", lambda *arguments: (signal.raise_signal(number), validate(*arguments))[1])
    assert run(tiny_set, tmp_path, "--epochs", "3", "--val-every", "2") == code
    assert [line["epoch"] for line in log_of(tmp_path)] == [1] and not (tmp_path / "RecSalNet.pth").exists()
    monkeypatch.undo()
    assert run(tiny_set, tmp_path, "--epochs", "3", "--val-every", "2", "--resume") == 0
    assert same(weights_of(tmp_path), weights_of(finished)) and [line["epoch"] for line in log_of(tmp_path)] == [1, 2, 3]


def test_a_full_disk_stops_a_run_with_the_files_name_and_keeps_what_was_there(tiny_set, once):
    resource = pytest.importorskip("resource")
    before, limits = weights_of(once), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))        # no file may be larger than this: writing ends half way
    try:
        with pytest.raises(OSError, match=r"could not be written .*what was there before is kept.*RecSalNet.pth"):
            run(tiny_set, once, "--epochs", "2", "--val-every", "0", "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(weights_of(once), before) and not list(once.glob(".*.part"))
    run(tiny_set, once, "--epochs", "2", "--val-every", "0", "--resume")


def test_a_run_folder_that_cannot_be_written_is_said_before_training(tiny_set, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run"):
        run(tiny_set, tmp_path / "file" / "run")


def test_a_log_line_cut_off_or_ahead_of_the_checkpoint_is_removed_on_resuming(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    train.trim_log(tmp_path / "log.jsonl", 2)
    assert [line["epoch"] for line in log_of(tmp_path)] == [1, 2]


def test_the_run_folder_says_what_made_it(finished):
    recorded = json.loads((finished / "run.json").read_text())
    launch, = recorded["launches"]
    assert {"command", "revision", "versions", "hardware", "date"} <= launch.keys() and launch["hardware"]["processes"] == 1 and launch["epoch"] == 0
    assert recorded["recipe"]["seed"] == 0 and recorded["recipe"]["train"].startswith("3 videos") and "crc" in recorded["recipe"]["train"]


def test_deterministic_training_asks_pytorch_for_it(tiny_set, tmp_path):
    try:
        run(tiny_set, tmp_path, "--epochs", "1", "--val-every", "0", "--deterministic")
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["deterministic"] is True


def test_a_state_of_a_run_with_a_network_that_its_weights_do_not_fit_is_refused(tiny_set, once):
    stored = torch.load(once / "last.pt", weights_only=True)
    torch.save({**stored, "configuration": {**stored["configuration"], "width": 8 * 10 ** 6}}, once / "last.pt")
    flags = ["--data", str(tiny_set), "--run-dir", str(once), "--device", "cpu", "--resume"]
    with pytest.raises(ValueError, match="last.pt do not fit RecSalNet: .*of another shape"):
        train.main(train.arguments().parse_args(flags))


@pytest.mark.parametrize("changed, said", [
    ({"optimizer": {}}, "optimiser's state in .*last.pt cannot be read"), ({"random": []}, "holds 0 random states of 1 processes"), ({"random": "a"}, "last.pt, random is damaged: expected a dict"),
    ({"configuration": [1]}, "configuration is not what"), ({"progress": "x"}, "progress is not what"), ({"progress": {"batches": 1}}, "last.pt, progress is damaged: expected a dict .*'batches': 1"),
    ({"progress": {**train.new_progress(2), "clips": [3]}}, "progress, clips is damaged: expected a int"), ({"recipe": {"lr": torch.zeros(3)}}, "recipe is not what"),
    ({"random": [{"cpu": torch.zeros(5), "cuda": []}]}, "random, cpu is damaged: expected a Tensor"), ({"amsgrad": True}, "not this run's: amsgrad of a group"),
    ({"exp_avg": torch.tensor(0.), "exp_avg_sq": torch.tensor(0.)}, "does not fit the network: 2 entries"), ({"best_cc": math.nan}, "best_cc cannot be nan"), ({"epoch": -5}, "epoch cannot be -5"),
    ({"exp_avg": torch.zeros(1).expand(5000), "step": torch.zeros(())}, "exp_avg claims more values than the file holds"), ({"step": torch.zeros(2)}, "does not fit the network: 1 entries, the first step"),
    ({"progress": {**train.new_progress(2), "batches": -1}}, "batches cannot be -1"),
    ({"betas": torch.zeros(2)}, "has no 1 groups"), ({"depths": 3}, "depths of the configuration"), ({"moments": torch.zeros(2)}, "optimiser's state in"),
    ({"recipe": None}, "recipe is not what"), ({"epoch": "3"}, "epoch is not what"),
    ({"depths": [10 ** 7, 1, 1, 1]}, "depths of the configuration"), ({"exp_avg": torch.zeros(3)}, "optimiser's state in .*last.pt does not fit the network: 1 entries, the first exp_avg"),
])
def test_a_damaged_state_of_a_run_is_refused(tiny_set, once, changed, said):
    stored = torch.load(once / "last.pt", weights_only=True)
    if "depths" in changed:
        changed = {"configuration": {**stored["configuration"], **changed}}
    if "moments" in changed:
        stored["optimizer"]["state"][0] = changed.pop("moments")
    for part, names in ((stored["optimizer"]["state"][0], {"exp_avg", "step"}), (stored["optimizer"]["param_groups"][0], {"amsgrad", "betas"})):
        if names & changed.keys():
            part.update(changed)
            changed = {}
    torch.save({**stored, **changed}, once / "last.pt")
    flags = ["--data", str(tiny_set), "--run-dir", str(once), "--workers", "0", "--device", "cpu", "--no-tensorboard", "--lr", "1e-3", "--epochs", "2", "--val-every", "0", "--resume"]
    with pytest.raises(ValueError, match=said):
        train.main(train.arguments().parse_args(flags))


def test_a_state_that_the_version_before_several_processes_wrote_resumes_with_one(tiny_set, tmp_path, finished):
    run(tiny_set, tmp_path, "--epochs", "1", "--val-every", "2")
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    older = {name: value for name, value in stored["recipe"].items() if name not in ("processes", "deterministic")}
    torch.save({**stored, "random": stored["random"][0], "recipe": older}, tmp_path / "last.pt")
    run(tiny_set, tmp_path, "--epochs", "3", "--val-every", "2", "--resume")
    assert same(weights_of(tmp_path), weights_of(finished))


@pytest.mark.parametrize("content", ["{", '{"launches": 5}', '{"launches": []}', "[]"])
def test_a_damaged_record_of_launches_does_not_stop_a_run(tiny_set, once, content):
    (once / "run.json").write_text(content)
    run(tiny_set, once, "--epochs", "2", "--val-every", "0", "--resume")
    assert len(json.loads((once / "run.json").read_text())["launches"]) == 1


def test_a_damaged_log_is_said_with_its_name(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epo\n')
    with pytest.raises(ValueError, match="log.jsonl is damaged, move it away"):
        train.trim_log(tmp_path / "log.jsonl", 1)


def test_a_run_that_another_launch_began_is_neither_resumed_nor_replaced_by_a_restart(tiny_set, once, monkeypatch):
    """Only what this very torchrun began is; a refused launch stays refused when torchrun tries again."""
    before = (once / "RecSalNet.pth").read_bytes()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ours = train.launcher()
    monkeypatch.setattr(train, "launcher", lambda: "another")
    for _ in range(2):
        with pytest.raises(FileExistsError, match="would be replaced"):
            run(tiny_set, once, "--epochs", "2", "--val-every", "0")
    assert (once / "RecSalNet.pth").read_bytes() == before
    monkeypatch.setattr(train, "launcher", lambda: ours)
    run(tiny_set, once, "--epochs", "2", "--val-every", "0")           # the same one goes on by itself
    assert [line["epoch"] for line in log_of(once)] == [1, 2]


def test_validation_is_at_the_annotations_full_resolution(tiny_set, monkeypatch):
    model, sizes = RecSalNet(frame_size=(32, 64), width=16, embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)), []
    finish = model.finish
    model.finish = lambda output, size: (sizes.append(tuple(size)), finish(output, size))[1]
    loader = clip_loader(ClipDataset(find_videos(tiny_set, "val"), model.prepare, every=32), 1, 0, shuffle=False)
    scores = train.validate(model, loader, "float32")
    assert sizes == [(45, 80)] * scores["clips"] and scores["clips"] >= 2
    assert all(math.isfinite(scores[name]) for name in ("cc", "kl", "nss", "sim")) and not model.training


# Other networks

SMALL = ((8, 8), (8, 8), (8, 8, 8), (8, 8, 8), (8, 8, 8))                  # channels of a SalGAN that is quick


@pytest.fixture
def small_salgan(monkeypatch):
    monkeypatch.setattr(salema, "STAGES", SMALL)


@pytest.fixture
def small_networks(small_salgan, monkeypatch):
    few_channels(monkeypatch)


def train_model(name, tiny_set, run_dir, *extra):
    flags = ["--model", name, "--data", tiny_set, "--run-dir", run_dir, "--encoder-weights", "none", "--workers", "0", "--device", "cpu", "--no-tensorboard",
             "--frame-size", "32", "32", "--epochs", "1", "--batch-size", "1", "--lr", "1e-3", *extra]
    return train.main(train.arguments().parse_args([str(flag) for flag in flags]))


def test_every_network_has_a_recipe_of_the_same_names():
    for model in MODELS.values():
        assert model.recipe.keys() == SaliencyModel.recipe.keys() and model.recipe["loss_weights"].keys() == train.TERMS.keys()
        assert model.recipe["optimizer"] in train.OPTIMIZERS and model.recipe["gradients"] in train.GRADIENTS and model.recipe["kl_over"] in train.KL_OVER


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if name != "recsalnet" and model.target == "density"])
def test_every_network_trains_and_its_weights_load(name, tiny_set, tmp_path, small_networks):
    flow = ["--no-keep-flow"] if MODELS[name].needs_flow else []           # the set is others' too
    assert train_model(name, tiny_set, tmp_path, "--val-every", "0", *flow) == 0
    model = MODELS[name].from_pretrained(tmp_path / f"{MODELS[name].__name__}.pth")
    assert model.is_described and model.config["frame_size"] == [32, 32]
    record, = log_of(tmp_path)
    assert math.isfinite(record["loss"])
    term = {"window": "kl", "state": "bce", "group": "euclidean"}[model.temporal]
    count = 3 if model.temporal == "window" else 114
    assert record["loss"] * count == pytest.approx(record[term] * (count - record.get(f"{term}_left_out", 0)), rel=1e-6) and record["loss"] > 0


def test_a_warm_up_raises_all_rates_linearly_to_their_full_values():
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [first], "lr": 1.0, "initial_lr": 1.0}, {"params": [second], "lr": 2.0, "initial_lr": 2.0, "scheduled": True}]
    optimizer, steps, found = torch.optim.SGD(groups, lr=1), train.Steps(None, warmup=4), []
    for number in range(6):
        train.set_rates(optimizer, 0.5, steps.warmup_factor(number))
        found.append(tuple(group["lr"] for group in optimizer.param_groups))
    assert found == [(0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1, 1), (1, 1), (1, 1)]
    assert train.Steps(None).warmup_factor(0) == 1


def test_rates_fall_at_milestones_where_they_are_scheduled():
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.001, "initial_lr": 0.001, "scheduled": False}, {"params": [second], "lr": 0.1, "initial_lr": 0.1, "scheduled": True}], lr=1)
    found = {}
    for steps in (0, 749, 750, 949, 950, 5000):
        train.set_rates(optimizer, 0.1 ** train.Steps(None, milestones=(750, 950)).decays(steps, epochs=30))
        found[steps] = [group["lr"] for group in optimizer.param_groups]
    assert {steps: rate for steps, (_, rate) in found.items()} == pytest.approx({0: 0.1, 749: 0.1, 750: 0.01, 949: 0.01, 950: 0.001, 5000: 0.001})
    assert all(rate == 0.001 for rate, _ in found.values())


def test_rates_fall_after_whole_numbers_of_epochs_where_a_recipe_says_so():
    steps = train.Steps(None, milestones=(10,), gamma=0.1, decay_epochs=20)
    assert [steps.decays(taken, epochs) for taken, epochs in ((0, 0), (9, 19), (9, 20), (10, 20), (10, 59))] == [0, 0, 1, 2, 3]


def test_optimisers_are_the_recipes():
    model = TASEDNet()
    optimizer = train.make_optimizer(model, 0.1)
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"] == 0.9
    assert [(group["lr"], group["initial_lr"], group["weight_decay"], group["scheduled"]) for group in optimizer.param_groups] == [(0.001, 0.001, 2e-7, False), (0.1, 0.1, 2e-7, True)]
    assert isinstance(train.make_optimizer(RecSalNet(**TINY), 1e-5), torch.optim.Adam)


class OneNumber(SaliencyModel):
    """A network of one parameter: every pixel of every map."""
    clip_len = 1

    def __init__(self):
        super().__init__((2, 2), prepare_frame)
        self.value = nn.Parameter(torch.tensor(0.5))

    def forward(self, clip):
        return self.value.expand(len(clip), 2, 2)


@pytest.mark.parametrize("gradients, expected", [("averaged", (2 * 3.0 + 5.0) / 3), ("summed", 3.0 + 5.0)])
def test_gradients_of_a_step_are_averaged_over_its_maps_or_summed_over_its_batches(gradients, expected):
    model = OneNumber()
    batch = lambda size, slope: {"clip": torch.zeros(size, 3, 1, 2, 2, dtype=torch.uint8), "density": torch.full((size, 2, 2), slope), "fixations": torch.zeros(size, 2, 2, dtype=torch.bool)}
    steps = train.Steps(lambda saliency, density, fixations: {"loss": (saliency * density).mean()}, gradients=gradients)
    train.backward(model, [batch(2, 3.0), batch(1, 5.0)], 3, steps, train.new_progress(1))
    assert model.value.grad.item() == pytest.approx(expected)


def test_the_state_is_carried_through_a_video_and_starts_anew_with_the_next(tiny_set):
    """The network adds up the brightness of all frames it has seen."""
    class AddsUp(OneNumber):
        temporal = "state"

        def normalise(self, clip):
            return clip.float()

        def maps(self, clip, state=None):
            sums = clip.mean((1, 3, 4)).cumsum(1) + (0 if state is None else state)          # (1, T)
            return self.value * sums[..., None, None].expand(-1, -1, 2, 2), sums[:, -1:]
    model, carried, found = train.AllMaps(AddsUp()), train.nothing_carried(), []
    for number, first, level, length in ((7, 0, 1, 3), (7, 3, 10, 2), (8, 0, 100, 2), (8, 5, 3, 1)):  # of video 8, a clip is left out
        batch = {"number": number, "first": first, "annotated": torch.tensor([True] * length)}
        found += train.carried_maps(model, torch.full((1, 3, length, 2, 2), level, dtype=torch.uint8), batch, carried)[:, 0, 0].tolist()
    assert found == [0.5, 1, 1.5, 6.5, 11.5, 50, 100, 1.5] and not carried["state"].requires_grad


def test_a_run_stopped_in_the_middle_of_a_video_goes_on_bit_for_bit(tiny_set, tmp_path, small_salgan, monkeypatch):
    flags = ("--epochs", "2", "--val-every", "0", "--flip", "--residual", "--dropout")
    train_model("salema", tiny_set, tmp_path / "straight", *flags)
    backward, made = train.backward, []
    monkeypatch.setattr(train, "backward", lambda *arguments: (made.append(1), len(made) == 3 and signal.raise_signal(signal.SIGTERM), backward(*arguments))[-1])
    assert train_model("salema", tiny_set, tmp_path / "cut", *flags) == train.TERMINATED
    stored = torch.load(tmp_path / "cut" / "last.pt", weights_only=True)
    assert stored["progress"]["batches"] == stored["progress"]["steps"] == 3 and stored["carried"][0]["state"] is not None
    monkeypatch.setattr(train, "backward", backward)
    train_model("salema", tiny_set, tmp_path / "cut", *flags, "--resume")
    assert same(weights_of(tmp_path / "cut"), weights_of(tmp_path / "straight"))


def test_thawing_trains_what_the_epoch_says(tiny_set, tmp_path, small_salgan):
    torch.manual_seed(0)
    train_model("salema", tiny_set, tmp_path, "--thaw", "--val-every", "0")
    assert MODELS["salema"].from_pretrained(tmp_path / "SalEMA.pth").alpha.item() != 0.25
    torch.manual_seed(0)
    assert torch.equal(weights_of(tmp_path)["salgan.0.weight"], MODELS["salema"]().state_dict()["salgan.0.weight"])


def test_a_video_of_one_frame_trains_too(tiny_set, tmp_path, small_salgan):
    """Alpha has no part in its map."""
    videos = sorted((tiny_set / "train").iterdir())
    for kind in ("images", "maps", "fixation"):
        for video, count in ((videos[0], 1), (videos[1], 30)):
            (tmp_path / "set" / "train" / video.name / kind).mkdir(parents=True)
            for path in sorted((video / kind).iterdir())[:count]:
                shutil.copy(path, tmp_path / "set" / "train" / video.name / kind)
    assert train_model("salema", tmp_path / "set", tmp_path / "run", "--thaw", "--val-every", "0") == 0
    assert len(log_of(tmp_path / "run")) == 1


def test_a_state_of_another_network_is_not_gone_on_with(tiny_set, tmp_path, small_salgan):
    train_model("salgan", tiny_set, tmp_path, "--val-every", "0")
    with pytest.raises(ValueError, match="model was SalGAN, is SalEMA"):
        train_model("salema", tiny_set, tmp_path, "--val-every", "0", "--alpha", "0.1", "--resume")


def test_a_network_starts_from_its_own_kind_of_file(tiny_set, tmp_path, small_salgan, capsys):
    torch.save(MODELS["salgan"]().state_dict(), tmp_path / "SalGAN.pth")
    train_model("salclstm30", tiny_set, tmp_path / "run", "--encoder-weights", tmp_path / "SalGAN.pth", "--val-every", "0")
    assert "SalGAN.pth, unused: nothing" in capsys.readouterr().out


@pytest.mark.parametrize("name, flags, said", [
    ("tased_net", ["--alpha", "0.1"], "--alpha is an argument of salema, not of tased_net"), ("salema", ["--width", "16"], "--width is an argument of recsalnet"),
    ("salema", ["--batch-size", "2"], "a batch must be 1 clip"), ("tased_net", ["--thaw"], "--thaw is for salema, salgan, salclstm30, salclstm56"),
    ("salema", ["--activation-checkpointing"], "--activation-checkpointing is for recsalnet"), ("salema", ["--compile"], "--compile is for networks of windows"),
    ("salgan", ["--encoder-weights", "auto"], "no encoder weights for SalGAN: saved_models/SalGAN.pth is not there, and torchvision has none for it"),
])
def test_what_a_network_cannot_do_is_said(name, flags, said, tiny_set, tmp_path, small_salgan, monkeypatch):
    monkeypatch.setattr(MODELS[name], "start_file", Path("saved_models/SalGAN.pth"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train_model(name, tiny_set, tmp_path, *flags)


@pytest.mark.parametrize("name, state", [("salema", torch.zeros(1, 8, 1, 2)), ("salclstm30", (torch.zeros(1, 8, 2, 1), torch.zeros(1, 8, 2, 2))), ("salclstm30", torch.zeros(1, 8, 2, 2)),
                                         ("salgan", torch.zeros(1, 8, 2, 2))])
def test_a_carried_state_of_other_shapes_than_the_networks_is_refused(name, state, tiny_set, tmp_path, small_salgan, monkeypatch):
    backward, made = train.backward, []
    with monkeypatch.context() as patch:
        patch.setattr(train, "backward", lambda *arguments: (made.append(1), len(made) == 2 and signal.raise_signal(signal.SIGTERM), backward(*arguments))[-1])
        assert train_model(name, tiny_set, tmp_path, "--val-every", "0") == train.TERMINATED
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**stored, "carried": [{**stored["carried"][0], "state": state}]}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt is damaged: it carries a state of shapes \(.*from clip to clip, Sal\w+ one of"):
        train_model(name, tiny_set, tmp_path, "--val-every", "0", "--resume")


def test_a_carried_state_that_is_damaged_is_refused(tiny_set, tmp_path, small_salgan):
    train_model("salema", tiny_set, tmp_path, "--val-every", "0")
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    for carried, said in (([], "0 carried states of 1 processes"), ([{"video": "a", "next": 0, "state": None}], "carried, video is damaged"), ([3], "carried is damaged"),
                          ([{"video": 0, "next": 0, "state": (3,)}], "state is no tensors")):
        torch.save({**stored, "carried": carried}, tmp_path / "last.pt")
        with pytest.raises(ValueError, match=said):
            train_model("salema", tiny_set, tmp_path, "--val-every", "0", "--resume")


# Frames in groups, with flow and masks

SMALL_SMCF = ("--trunk-width", "4", "--trunk-blocks", "1", "1", "1", "1", "--frame-size", "32", "64", "--batch-size", "5", "--no-keep-flow")


def train_smcf(vsod_set, run_dir, *extra):
    return train_model("smcf", vsod_set, run_dir, *SMALL_SMCF, *extra)


def test_smcf_is_trained_in_three_stages_that_find_each_others_files(vsod_set, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"no weights of the stage pretrain-rgb: .*pretrain-rgb/SMCF.pth does not exist. Train it first, with --train-type pretrain-rgb"):
        train_smcf(vsod_set, tmp_path, "--encoder-weights", "auto")
    assert train_smcf(vsod_set, tmp_path, "--train-type", "pretrain-rgb") == train_smcf(vsod_set, tmp_path, "--train-type", "pretrain-flow", "--seed", "1") == 0
    rgb, flow = (torch.load(tmp_path / stage / "SMCF.pth", weights_only=True) for stage in ("pretrain-rgb", "pretrain-flow"))
    assert "TrainSet_RGB: 1 videos, 7 frames, 7 with masks" in capsys.readouterr().out
    for kept, run in (([], "--no-keep-flow-stage"), (rgb, "--keep-flow-stage")):
        assert train_smcf(vsod_set, tmp_path, "--encoder-weights", "auto", "--lr", "1e-12", run, "--overwrite") == 0
        tuned = torch.load(tmp_path / "SMCF.pth", weights_only=True)
        name = "resnet.layer1_flow.0.conv1.weight"
        assert torch.allclose(tuned[name], (flow if kept else rgb)[name], atol=1e-6) and not torch.allclose(flow[name], rgb[name], atol=1e-3)
    assert f"{tmp_path}/pretrain-rgb/SMCF.pth, {tmp_path}/pretrain-flow/SMCF.pth; 0 entries of the flow stage" in capsys.readouterr().out
    record, = log_of(tmp_path)
    assert record["loss"] == pytest.approx(record["saliency_bce"] + record["motion_bce"], rel=1e-5) and math.isfinite(record["loss"])
    model = MODELS["smcf"].from_pretrained(tmp_path / "SMCF.pth")
    assert model.config == {"frame_size": [32, 64], "trunk_width": 4, "trunk_blocks": [1, 1, 1, 1]}
    described = json.loads((tmp_path / "SMCF.json").read_text())["recipe"]
    assert described["stage"] == "finetune" and described["flow"]["made_by"] == "dis" and described["scales"] == [0.75, 1.0, 1.25]


def test_each_stage_is_shown_its_own_pictures(monkeypatch):
    model = MODELS["smcf"](frame_size=(32, 32), trunk_width=4, trunk_blocks=(1, 1, 1, 1))
    batch = {"clip": torch.full((5, 3, 1, 32, 32), 10, dtype=torch.uint8), "flow": torch.full((5, 3, 1, 32, 32), 200, dtype=torch.uint8)}
    shown = {}
    for stage in model.stages:
        train.enter(model, stage)
        shown[stage] = [bool(x.mean() > 0) for x in train.network_inputs(model, batch, torch.device("cpu"))], model.needs_flow
    assert shown == {"pretrain-rgb": ([False, False], False), "pretrain-flow": ([True, True], True), "finetune": ([False, True], True)}


def test_a_batch_is_taken_at_every_scale_and_a_run_goes_on_between_two():
    batches = [{"clip": number, "skipped": ["bad"] * (number == 1)} for number in range(2)]
    scaled = list(train.at_scales(iter(batches), (0.75, 1.0)))
    assert [(batch["clip"], batch["scale"]) for batch in scaled] == [(0, 0.75), (0, 1.0), (1, 0.75), (1, 1.0)]
    assert [batch["skipped"] for batch in scaled] == [[], [], ["bad"], []]
    assert [(batch["clip"], batch["scale"]) for batch in train.at_scales(iter(batches[1:]), (0.75, 1.0), skip=1)] == [(1, 1.0)]


@pytest.mark.parametrize("scale, size", [(1, 352), (0.75, 256), (1.25, 448), (0.01, 32)])
def test_scales_of_352_are_the_papers_sizes(scale, size):
    corners = torch.zeros(2, 3, 352, 352)
    corners[..., 0, 0], corners[..., -1, -1] = 1, 2
    scaled = train.at_scale(corners, scale)
    assert scaled.shape == (2, 3, size, size) and scaled[0, 0, 0, 0] == 1 and scaled[0, 0, -1, -1] == 2    # corners aligned
    assert train.at_scale(corners[:, 0], scale).shape == (2, size, size)


def test_scales_make_a_step_each(vsod_set, tmp_path):
    for name, scales in (("one", ["1"]), ("three", ["0.5", "1", "1.5"])):
        assert train_smcf(vsod_set, tmp_path / name, "--train-type", "pretrain-rgb", "--scales", *scales) == 0
    one, three = (torch.load(tmp_path / name / "pretrain-rgb" / "last.pt", weights_only=True) for name in ("one", "three"))
    assert (one["steps"], three["steps"]) == (2, 6)                        # of 7 stills: 5, and 2 filled up to 5


def test_smcf_is_validated_on_groups_by_cc_and_mae_and_goes_on_to_the_same_weights(vsod_set, tmp_path, monkeypatch):
    flags = ("--encoder-weights", "none", "--val-every", "1", "--val-split", "TestSet/sample", "--epochs", "2", "--scales", "1")
    assert train_smcf(vsod_set, tmp_path / "whole", *flags) == 0
    real, steps = train.loss_share, []

    def stop_after_six(*arguments):
        steps.append(1)
        if len(steps) == 6:                                                # in the middle of the second epoch, of four steps each
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)
    monkeypatch.setattr(train, "loss_share", stop_after_six)
    assert train_smcf(vsod_set, tmp_path / "cut", *flags) == 130
    monkeypatch.setattr(train, "loss_share", real)
    assert train_smcf(vsod_set, tmp_path / "cut", *flags, "--resume") == 0
    whole, cut = (torch.load(tmp_path / name / "SMCF.pth", weights_only=True) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert {"val_cc", "val_mae"} < log_of(tmp_path / "whole")[0].keys() and "val_nss" not in log_of(tmp_path / "whole")[0]


def test_masks_and_fixations_are_not_mistaken_for_each_other(vsod_set, tiny_set, tmp_path):
    with pytest.raises(FileNotFoundError, match="mask"):
        train_smcf(tiny_set, tmp_path, "--train-split", "train", "--encoder-weights", "none")
    with pytest.raises(FileNotFoundError, match="mask"):
        train_model("recsalnet", vsod_set, tmp_path, "--train-split", "TrainSet_Video", "--val-every", "0")


@pytest.mark.parametrize("flags, said", [
    (("--model", "ssnet", "--kl-weight", "1"), "--kl-weight: for objectives that compare maps by several terms"), (("--model", "smcf", "--kl-over", "batch"), "--kl-over: for objectives"),
    (("--model", "recsalnet", "--scales", "1"), "--scales is for networks that learn from masks"), (("--model", "ssnet", "--train-type", "finetune"), "SSNet is not"),
    (("--model", "smcf", "--train-type", "pretrain-rgb", "--keep-flow-stage"), "--keep-flow-stage is for the last stage"),
    (("--model", "ssnet", "--flow", "raft", "--encoder-weights", "none"), "SSNet takes none"), (("--model", "stsmaxnet", "--flip"), "cannot be mirrored"),
])
def test_flags_of_other_networks_are_refused(flags, said, tiny_set, tmp_path, small_networks):
    with pytest.raises(ValueError, match=said):
        train.main(train.arguments().parse_args([*flags, "--data", str(tiny_set), "--run-dir", str(tmp_path), "--workers", "0", "--device", "cpu", "--encoder-weights", "none"]))


def test_a_network_of_any_size_is_trained_at_its_nominal_one(small_networks, tmp_path):
    assert train.make_model("ssnet", None, None, {}).config == {"frame_size": [240, 320]}
    torch.save(MODELS["ssnet"]().state_dict(), tmp_path / "SSNet.pth")
    assert train.make_model("ssnet", str(tmp_path / "SSNet.pth"), None, {}).config == {"frame_size": [240, 320]}
    assert train.make_model("ssnet", None, None, {"frame_size": [32, 48]}).config == {"frame_size": [32, 48]}


def test_how_flow_is_drawn_is_an_argument_of_the_network_and_kept_with_it(small_networks, tiny_set, tmp_path):
    assert train_model("tsnet", tiny_set, tmp_path, "--val-every", "0", "--no-keep-flow", "--flow-kind", "wheel") == 0
    assert MODELS["tsnet"].from_pretrained(tmp_path / "TSNet.pth").flow_picture == "wheel"


def test_a_process_without_frames_takes_part_with_a_loss_of_nothing(small_networks):
    for name, options in (("smcf", {"trunk_width": 4, "trunk_blocks": (1, 1, 1, 1), "frame_size": (32, 32)}), ("stsmaxnet", {})):
        model = MODELS[name](**options).train()
        loss = train.nothing_of(model, "float32")
        loss.backward()
        assert loss == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters()) and model.training
