from dataclasses import fields
from pathlib import Path

import pytest
from conftest import TESTS
from runs import train_model

import train
from baselines import MODELS
from loss import GRADIENTS, KL_OVER, TERMS, Recipe
from model import RecSalNet
from training.optimizer import OPTIMIZERS
from training.options import NETWORK, chosen_recipe, default_run_dir
from training.sets import choose_sources


def test_no_argument_means_the_papers_recipe():
    args = vars(train.arguments().parse_args([]))
    given = {field.name: args[field.name] for field in fields(Recipe) if args.get(field.name) is not None}
    assert vars(chosen_recipe(MODELS[args["model"]].recipe, given)) == {
        "optimizer": "adam", "optimizer_options": {}, "lr": 1e-5, "milestones": (), "gamma": 1.0, "batch_size": 1, "accumulate": 1, "gradients": "averaged", "epochs": 500, "decay_epochs": None,
        "val_every": 3, "flip": False, "zoom": 0.0, "scales": (1.0,), "loss": "maps", "kl_over": "sample", "loss_weights": {"kl": 1.0, "cc": 1.0, "nss": 0.1, "sim": 0.0, "l1": 0.0, "bce": 0.0}, "warmup": 0, "thaw": False}
    expected = {"encoder_weights": "auto", "weights": None, "hold_out": None, "cache": None, "model": "recsalnet"}
    assert {name: args[name] for name in expected} == expected
    assert all(args[name] is None for name in NETWORK)              # so the network's own defaults hold
    assert RecSalNet().config == {"num_recursions": 2, "frame_size": [224, 384], "frame_stride": 1, "width": 192, "embed_dim": 96, "depths": [2, 2, 18, 2],
                                  "num_heads": [3, 6, 12, 24], "patch_norm": False, "drop_path": 0.2}
    assert args["run_dir"] is args["dataset"] is args["data"] is None      # DHF1K, as the message of the next-but-one test shows
    source, = choose_sources(["dhf1k"], args["data"], args["train_split"], args["val_split"])
    assert (str(source.folder), source.train_split, source.val_split) == ("data/DHF1K", "train", "val")
    assert str(default_run_dir("recsalnet", ["dhf1k"])) == "saved_models" and str(default_run_dir("salema", ["diem"])) == "saved_models/salema/diem"


def test_every_network_has_a_recipe_of_the_same_names():
    for model in MODELS.values():
        assert isinstance(model.recipe, Recipe) and model.recipe.loss_weights.keys() == TERMS.keys()
        assert model.recipe.optimizer in OPTIMIZERS and model.recipe.gradients in GRADIENTS and model.recipe.kl_over in KL_OVER


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


@pytest.mark.parametrize("name, flags, said", [
    ("tased_net", ["--alpha", "0.1"], "--alpha is an argument of salema, not of tased_net"), ("salema", ["--width", "16"], "--width is an argument of recsalnet, recsal_lite"),
    ("salema", ["--batch-size", "2"], "a batch must be 1 clip"), ("tased_net", ["--thaw"], "--thaw is for salema, salgan, salclstm30, salclstm56, recsal_lite"),
    ("salema", ["--activation-checkpointing"], "--activation-checkpointing is for recsalnet"), ("salema", ["--compile"], "--compile is for networks of windows"),
    ("salgan", ["--encoder-weights", "auto"], "no encoder weights for SalGAN: saved_models/SalGAN.pth is not there, and torchvision has none for it"),
])
def test_what_a_network_cannot_do_is_said(name, flags, said, tiny_set, tmp_path, small_salgan, monkeypatch):
    monkeypatch.setattr(MODELS[name], "start_file", Path("saved_models/SalGAN.pth"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train_model(name, tiny_set, tmp_path, *flags)


@pytest.mark.parametrize("flags, said", [
    (("--model", "ssnet", "--kl-weight", "1"), "--kl-weight: for objectives that compare maps by several terms"), (("--model", "smcf", "--kl-over", "batch"), "--kl-over: for objectives"),
    (("--model", "recsalnet", "--scales", "1"), "--scales is for networks that learn from masks"), (("--model", "ssnet", "--train-type", "finetune"), "SSNet is not"),
    (("--model", "smcf", "--train-type", "pretrain-rgb", "--keep-flow-stage"), "--keep-flow-stage is for the last stage"),
    (("--model", "ssnet", "--flow", "raft", "--encoder-weights", "none"), "SSNet takes none"), (("--model", "stsmaxnet", "--flip"), "cannot be mirrored"),
])
def test_flags_of_other_networks_are_refused(flags, said, tiny_set, tmp_path, small_networks):
    with pytest.raises(ValueError, match=said):
        train.main(train.arguments().parse_args([*flags, "--data", str(tiny_set), "--run-dir", str(tmp_path), "--workers", "0", "--device", "cpu", "--encoder-weights", "none"]))


@pytest.mark.parametrize("text, value", [("0", 0.0), ("0.0", 0.0), ("0.25", 0.25)])
def test_zoom_may_be_nothing_however_it_is_written(text, value):
    assert train.arguments().parse_args(["--zoom", text]).zoom == value
