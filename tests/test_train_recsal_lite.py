"""RecSal-Lite through train.py: stills that move, an encoder that thaws, resuming."""
import math

import pytest
import torch
from runs import StopAfter, log_of, same, train_model, weights_of
from small_sets import write

import train
from baselines import recsal_lite
from training.checkpoint import up_to_date

FLAGS = ("--frame-size", "32", "64", "--width", "8", "--batch-size", "1", "--accumulate", "2", "--val-every", "0")


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    """Five stills with density maps and fixations as points, all in the split train."""
    root, generator = tmp_path_factory.mktemp("stills"), torch.Generator().manual_seed(0)
    for number in range(5):
        folder = root / "train" / f"still-{number}"
        write(folder / "images" / "1.png", torch.randint(0, 256, (40, 60, 3), generator=generator, dtype=torch.uint8).numpy())
        density = torch.zeros(40, 60, dtype=torch.uint8)
        density[10:20, 10 + 5 * number:30 + 5 * number] = 200
        write(folder / "maps" / "1.png", density.numpy())
        (folder / "fixation").mkdir()
        (folder / "fixation" / "1.csv").write_text(f"x,y\n{15.5 + 5 * number},12\n")
    return root


def trained(stills, run_dir, *extra):
    torch.manual_seed(0)
    assert train_model("recsal_lite", stills, run_dir, *FLAGS, *extra) in (0, train.STOPPED)
    return weights_of(run_dir)


@pytest.fixture(scope="module")
def plain(stills, tmp_path_factory):
    return trained(stills, tmp_path_factory.mktemp("plain"), "--no-thaw")


def test_a_still_is_a_clip_of_two_frames(stills, tmp_path):
    trained(stills, tmp_path)
    record, = log_of(tmp_path)
    assert math.isfinite(record["loss"]) and record["nss_left_out"] < 10


@pytest.mark.parametrize("flags", [("--zoom", "0"), ("--zoom", "0.5"), ("--output-share", "1"), ("--num-recursions", "0"), ("--thaw",)], ids=lambda flags: flags[0])
def test_an_option_changes_what_is_trained(stills, tmp_path, plain, flags):
    assert not same({name: t for name, t in trained(stills, tmp_path, "--no-thaw", *flags).items() if name in plain}, plain)


def test_zoom_is_for_networks_that_carry_a_state(stills, tmp_path):
    with pytest.raises(ValueError, match="--zoom is for networks that carry a state: TASEDNet does not"):
        train_model("tased_net", stills, tmp_path, "--zoom", "0.1", "--val-every", "0")


def test_the_encoder_stays_as_it_is_until_it_thaws(stills, tmp_path, monkeypatch):
    monkeypatch.setattr(recsal_lite, "THAWED_FROM", 2)
    encoders = []
    for epochs in ("1", "2"):
        weights = trained(stills, tmp_path / epochs, "--epochs", epochs)
        encoders.append({name: t for name, t in weights.items() if name.startswith("encoder.stages.5")})
    torch.manual_seed(0)
    start = recsal_lite.RecSalLite(frame_size=(32, 64), width=8)
    assert encoders[0].keys() and not same(*encoders) and all(t.shape == start.state_dict()[name].shape for name, t in encoders[0].items())
    again = trained(stills, tmp_path / "again", "--epochs", "1", "--lr", "1e-2")
    assert same(encoders[0], {name: again[name] for name in encoders[0]})    # whatever the rate


@pytest.mark.parametrize("at", [2, 5])
def test_a_stopped_run_resumes_to_the_same_bits(stills, tmp_path, monkeypatch, at):
    """Before the encoder thaws, and after it."""
    monkeypatch.setattr(recsal_lite, "THAWED_FROM", 2)
    whole = trained(stills, tmp_path / "whole", "--epochs", "2")
    StopAfter.step, StopAfter.at = 0, at
    with monkeypatch.context() as patch:
        patch.setattr(train, "StopRequest", StopAfter)
        assert not same(trained(stills, tmp_path / "parts", "--epochs", "2"), whole)
    assert same(trained(stills, tmp_path / "parts", "--epochs", "2", "--resume"), whole)


def test_a_run_from_before_there_was_zoom_had_none():
    stored = up_to_date({"random": [{}], "recipe": {"processes": 1, "objective": {}}, "progress": None})
    assert stored["recipe"]["zoom"] == 0.0 and stored["recipe"]["thaw"] is False
