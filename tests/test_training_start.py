import json
import math
import shutil

import pytest
import torch
from conftest import TINY
from runs import log_of, same, train_model, train_smcf
from torchvision.models import get_weight

import train
from baselines import MODELS
from model import RecSalNet
from swin_transformer import SwinTransformer3D
from training.start import initialise_weights, make_model


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


def test_encoder_weights_are_read_from_a_file(tiny_set, tmp_path):
    torch.manual_seed(5)
    encoder = SwinTransformer3D(embed_dim=12, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2))
    torch.save({"state_dict": {f"backbone.{name}": t for name, t in encoder.state_dict().items()} | {"cls_head.fc_cls.bias": torch.zeros(400)}}, tmp_path / "kinetics.pth")
    torch.manual_seed(0)
    model = RecSalNet(embed_dim=12, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2))
    assert "unused: cls_head.fc_cls.bias" in initialise_weights(model, str(tmp_path / "kinetics.pth"))
    assert same(model.encoder.state_dict(), encoder.state_dict())


def test_only_a_start_from_random_weights_is_made_dark(tmp_path):
    torch.manual_seed(0)
    model = RecSalNet(**TINY)
    drawn = {name: t.clone() for name, t in model.state_dict().items()}
    torch.save({f"backbone.{name}": t for name, t in model.encoder.state_dict().items()}, tmp_path / "encoder.pth")
    initialise_weights(model, str(tmp_path / "encoder.pth"))
    assert same(model.state_dict(), drawn)
    assert initialise_weights(model, "none") == "none, random initialisation"
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, drawn[name])}
    assert changed == {"convout.0.weight", "convout.0.bias", *(f"convtsp{i}.{layer}.weight" for i in range(1, 5) for layer in (0, 3, 6))}


def test_weights_that_cannot_be_downloaded_are_said_with_what_to_do(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no route to host")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(get_weight(RecSalNet.start_download).__class__, "get_state_dict", offline)
    with pytest.raises(FileNotFoundError, match="could not be downloaded.*no route to host.*--encoder-weights none"):
        initialise_weights(RecSalNet(**TINY), "auto")


def test_a_network_starts_from_its_own_kind_of_file(tiny_set, tmp_path, small_salgan, capsys):
    torch.save(MODELS["salgan"]().state_dict(), tmp_path / "SalGAN.pth")
    train_model("salclstm30", tiny_set, tmp_path / "run", "--encoder-weights", tmp_path / "SalGAN.pth", "--val-every", "0")
    assert "SalGAN.pth, unused: nothing" in capsys.readouterr().out


def test_a_network_of_any_size_is_trained_at_its_nominal_one(small_networks, tmp_path):
    assert make_model("ssnet", None, None, {}).config == {"frame_size": [240, 320]}
    torch.save(MODELS["ssnet"]().state_dict(), tmp_path / "SSNet.pth")
    assert make_model("ssnet", str(tmp_path / "SSNet.pth"), None, {}).config == {"frame_size": [240, 320]}
    assert make_model("ssnet", None, None, {"frame_size": [32, 48]}).config == {"frame_size": [32, 48]}


def test_smcf_is_trained_in_three_stages_that_find_each_others_files(short_vsod_set, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"no weights of the stage pretrain-rgb: .*pretrain-rgb/SMCF.pth does not exist. Train it first, with --train-type pretrain-rgb"):
        train_smcf(short_vsod_set, tmp_path, "--encoder-weights", "auto")
    first = (short_vsod_set, tmp_path, "--scales", "1", "--train-type")
    assert train_smcf(*first, "pretrain-rgb") == train_smcf(*first, "pretrain-flow", "--seed", "1") == 0
    rgb, flow = (torch.load(tmp_path / stage / "SMCF.pth", weights_only=True) for stage in ("pretrain-rgb", "pretrain-flow"))
    assert "TrainSet_RGB: 1 videos, 7 frames, 7 with masks" in capsys.readouterr().out
    for kept, run in (([], "--no-keep-flow-stage"), (rgb, "--keep-flow-stage")):
        scales = () if kept else ("--scales", "1")                         # the last run has those of the network
        assert train_smcf(short_vsod_set, tmp_path, "--encoder-weights", "auto", "--lr", "1e-12", run, "--overwrite", *scales) == 0
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
