import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TESTS, needs_bfloat16
from runs import broken_copy, flags_for, log_of, run, same, take_step, train_model, train_smcf, weights_of
from torch import nn

import loss
import train
import utils
from baselines import MODELS
from dataloader import ClipDataset, clip_loader
from loss import SIGNS, Recipe
from model import RecSalNet
from saliency_model import Carried, RecurrentModel, WindowModel, prepare_frame
from videos.video import find_videos

# Speed

def test_compiled_training_is_one_graph_that_is_never_compiled_again(tiny_set, tmp_path, compilations):
    flags = ("--num-recursions", "1", "--activation-checkpointing")        # tracing takes as long as the network is deep
    assert run(tiny_set, tmp_path / "run", "--epochs", "2", "--val-every", "1", "--compile", *flags) == 0
    assert compilations.frame_count == 1 and not torch._dynamo.utils.counters["graph_break"]
    with pytest.raises(ValueError, match="compile was True, is False"):
        run(tiny_set, tmp_path / "run", "--epochs", "3", "--val-every", "1", "--resume", *flags)


def test_training_keeps_the_memory_that_tensors_free(tiny_set, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(train, "keep_freed_memory", lambda: called.append(True))
    run(tiny_set, tmp_path / "run", "--epochs", "1", "--val-every", "0")
    assert called == [True]


# What a run leaves behind


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(tiny_set, tmp_path, finished, one_epoch):
    run(tiny_set, tmp_path / "again", "--epochs", "3", "--val-every", "2")
    assert same(weights_of(tmp_path / "again"), weights_of(finished))
    run(tiny_set, tmp_path / "other", "--epochs", "1", "--val-every", "0", "--seed", "1")
    assert not same(weights_of(tmp_path / "other"), one_epoch)


def test_density_maps_alone_are_trained_on_without_nss_and_without_that_the_error_says_so(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set", ignore=lambda folder, names: [name for name in names if name == "fixation"])
    with pytest.raises(FileNotFoundError, match=r"no fixation maps for video 001: .*give --nss-weight 0 to train without"):
        run(tmp_path / "set", tmp_path / "a")
    assert run(tmp_path / "set", tmp_path / "b", "--nss-weight", "0", "--epochs", "1") == 0
    epoch, = log_of(tmp_path / "b")
    assert epoch["val_nss"] is None and math.isfinite(epoch["val_cc"]) and math.isfinite(epoch["loss"]) and epoch["nss_left_out"] == 3


def test_bfloat16_on_a_cpu_without_instructions_for_it_is_refused_unless_forced(tiny_set, tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "computes_bfloat16", lambda device: False)
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


@pytest.fixture(scope="module")
def one_epoch(trained_once):
    return weights_of(trained_once)


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


# Bad files


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


def test_an_error_that_nobody_foresaw_ends_the_run_and_its_loader_processes(tiny_set, tmp_path):
    broken = "import sys, loss, train; loss.OBJECTIVES['maps'] = lambda *a, **k: 1 / 0; sys.exit(train.main(train.arguments().parse_args(sys.argv[1:])))"
    ended = subprocess.run([sys.executable, "-c", broken, *flags_for(tiny_set, tmp_path, "--workers", "1")], capture_output=True, text=True, timeout=60,
                           env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    assert ended.returncode == 1 and "ZeroDivisionError" in ended.stderr


def test_deterministic_training_asks_pytorch_for_it(tiny_set, tmp_path):
    try:
        run(tiny_set, tmp_path, "--epochs", "1", "--val-every", "0", "--deterministic")
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["deterministic"] is True


def test_validation_is_at_the_annotations_full_resolution(tiny_set, monkeypatch):
    model, sizes = RecSalNet(frame_size=(32, 64), width=16, embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)), []
    finish = model.finish
    model.finish = lambda output, size: (sizes.append(tuple(size)), finish(output, size))[1]
    loader = clip_loader(ClipDataset(find_videos(tiny_set, "val"), model.prepare, every=32), 1, 0, shuffle=False)
    scores = train.validate(model, loader, "float32")
    assert sizes == [(45, 80)] * scores["clips"] and scores["clips"] >= 2
    assert all(math.isfinite(scores[name]) for name in ("cc", "kl", "nss", "sim")) and not model.training


# Other networks


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if name != "recsalnet" and model.target == "density"])
def test_every_network_trains_and_its_weights_load(name, tiny_set, tmp_path, small_networks):
    flow = ["--no-keep-flow"] if MODELS[name].needs_flow else []           # the set is others' too
    assert train_model(name, tiny_set, tmp_path, "--val-every", "0", *flow) == 0
    model = MODELS[name].from_pretrained(tmp_path / f"{MODELS[name].__name__}.pth")
    assert model.is_described and model.config["frame_size"] == [32, 32]
    record, = log_of(tmp_path)
    assert math.isfinite(record["loss"])
    weights = {name: SIGNS[name] * weight for name, weight in model.recipe.loss_weights.items() if weight} if model.recipe.loss == "maps" else {"euclidean": 1}
    count = 3 if isinstance(model, WindowModel) else 114
    terms = sum(weight * record[term] * (count - record.get(f"{term}_left_out", 0)) for term, weight in weights.items())
    assert record["loss"] * count == pytest.approx(terms, rel=1e-6) and record["loss"] > 0


class OneNumber(WindowModel):
    """A network of one parameter: every pixel of every map."""
    clip_len = 1

    def __init__(self):
        super().__init__((2, 2), prepare_frame)
        self.value = nn.Parameter(torch.tensor(0.5))

    def forward(self, clip):
        return self.value.expand(len(clip), 2, 2)


@pytest.mark.parametrize("gradients, expected", [("averaged", (2 * 3.0 + 5.0) / 3), ("summed", 3.0 + 5.0)])
def test_gradients_of_a_step_are_averaged_over_its_maps_or_summed_over_its_batches(gradients, expected, monkeypatch):
    monkeypatch.setitem(loss.OBJECTIVES, "slope", lambda saliency, density, fixations: {"loss": (saliency * density).mean()})
    model = OneNumber()
    batch = lambda size, slope: {"clip": torch.zeros(size, 3, 1, 2, 2, dtype=torch.uint8), "density": torch.full((size, 2, 2), slope), "fixations": torch.zeros(size, 2, 2, dtype=torch.bool)}
    take_step(model, model, [batch(2, 3.0), batch(1, 5.0)], Recipe(loss="slope", gradients=gradients, accumulate=2))
    assert model.value.grad.item() == pytest.approx(expected)


def test_the_state_is_carried_through_a_video_and_starts_anew_with_the_next(tiny_set):
    """The network adds up the brightness of all frames it has seen."""
    class AddsUp(RecurrentModel):
        def __init__(self):
            super().__init__((2, 2), prepare_frame)
            self.value = nn.Parameter(torch.tensor(0.5))

        def maps(self, clip, state=None):
            sums = clip.mean((1, 3, 4)).cumsum(1) + (0 if state is None else state)          # (1, T)
            return self.value * sums[..., None, None].expand(-1, -1, 2, 2), sums[:, -1:]
    model, carried, found = AddsUp(), Carried(), []
    module = model.training_module()
    for number, first, level, length in ((7, 0, 1, 3), (7, 3, 10, 2), (8, 0, 100, 2), (8, 5, 3, 1)):  # of video 8, a clip is left out
        batch = {"number": number, "first": first, "annotated": torch.tensor([True] * length)}
        clip = torch.full((1, 3, length, 2, 2), float(level))
        found += model.training_outputs(module, [clip], batch, carried)[:, 0, 0].tolist()
    assert found == [0.5, 1, 1.5, 6.5, 11.5, 50, 100, 1.5] and not carried.state.requires_grad


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


# Frames in groups, with flow and masks


def test_each_stage_is_shown_its_own_pictures(monkeypatch):
    model = MODELS["smcf"](frame_size=(32, 32), trunk_width=4, trunk_blocks=(1, 1, 1, 1))
    batch = {"clip": torch.full((5, 3, 1, 32, 32), 10, dtype=torch.uint8), "flow": torch.full((5, 3, 1, 32, 32), 200, dtype=torch.uint8)}
    shown = {}
    for stage in model.stages:
        model.set_stage(stage)
        shown[stage] = [bool(x.mean() > 0) for x in model.batch_inputs(batch, torch.device("cpu"))], model.needs_flow
    assert shown == {"pretrain-rgb": ([False, False], False), "pretrain-flow": ([True, True], True), "finetune": ([False, True], True)}


def test_scales_make_a_step_each(vsod_set, tmp_path):
    for name, scales in (("one", ["1"]), ("two", ["0.5", "1"])):
        assert train_smcf(vsod_set, tmp_path / name, "--train-type", "pretrain-rgb", "--scales", *scales) == 0
    one, two = (torch.load(tmp_path / name / "pretrain-rgb" / "last.pt", weights_only=True) for name in ("one", "two"))
    assert (one["steps"], two["steps"]) == (2, 4)                        # of 7 stills: 5, and 2 filled up to 5


def test_how_flow_is_drawn_is_an_argument_of_the_network_and_kept_with_it(small_networks, tiny_set, tmp_path):
    assert train_model("tsnet", tiny_set, tmp_path, "--val-every", "0", "--no-keep-flow", "--flow-kind", "wheel") == 0
    assert MODELS["tsnet"].from_pretrained(tmp_path / "TSNet.pth").flow_picture == "wheel"


def test_a_process_without_frames_takes_part_with_a_loss_of_nothing(small_networks):
    for name, options in (("smcf", {"trunk_width": 4, "trunk_blocks": (1, 1, 1, 1), "frame_size": (32, 32)}), ("stsmaxnet", {})):
        model = MODELS[name](**options).train()
        nothing = train.zero_loss(model, model, "float32")
        nothing.backward()
        assert nothing == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters()) and model.training
