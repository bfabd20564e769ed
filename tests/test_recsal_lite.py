import json

import numpy as np
import pytest
import torch
from conftest import TESTS
from parity import fill
from PIL import Image
from predict_runs import run
from safetensors import safe_open

from baselines import recsal_lite
from baselines.loading import default_weights
from baselines.recsal_lite import FROZEN, STAGES, THAWED_FROM, RecSalLite, moving_average, names_in_files
from predict import Predictor
from videos.decoding import read_video

SIZE = (64, 96)


def network(**changes):
    """A small one with entries far from where they start."""
    model = RecSalLite(**{"frame_size": SIZE, "width": 8, **changes})
    model.load_state_dict(fill.weights({name: tuple(t.shape) for name, t in model.state_dict().items()}, seed=2, gain=1.2))
    return model.eval()


def frames(count, batch=1, seed=3):
    return fill.clip((batch, 3, count, *SIZE), seed)


# Wrong input

@pytest.mark.parametrize("changes, said", [
    ({"frame_size": (64, 90)}, "both multiples of 32, got"), ({"output_share": 0}, "output_share must be above 0 and up to 1, got 0"), ({"output_share": 1.5}, "got 1.5"),
    ({"width": 6}, "width a multiple of 4 from 4 on, got 1 and 6"), ({"width": 0}, "got 1 and 0"), ({"num_recursions": -1}, "got -1 and 48"), ({"num_recursions": 1.5}, "got 1.5 and 48"),
])
def test_what_no_network_can_be_built_from_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        RecSalLite(**changes)


@pytest.mark.parametrize("shape, said", [((1, 3, 2, 64, 80), "divisible by 32, got 64 x 80"), ((1, 3, 0, 64, 96), "T = 1 or more"), ((3, 2, 64, 96), r"got \(3, 2, 64, 96\)")])
def test_a_clip_of_another_shape_is_a_value_error(shape, said):
    with pytest.raises(ValueError, match=f"clip must .*{said}"):
        network().maps(torch.zeros(shape))


@torch.no_grad()
def test_a_state_of_other_frames_is_a_value_error():
    model = network()
    state = model.maps(frames(1))[1]
    with pytest.raises(ValueError, match="belongs to frames of another number or size"):
        model.maps(frames(1, batch=2), state)
    for part in (state[:-1], ()):
        with pytest.raises(ValueError, match=f"the state must hold 5 tensors, got {len(part)}"):
            model.maps(frames(1), part)


# The network

@torch.no_grad()
def test_maps_are_a_quarter_of_the_frames_size_and_those_of_one_frame_do_not_depend_on_others_in_the_batch():
    model, clip = network(), frames(3, batch=2)
    maps, state = model.maps(clip)
    assert maps.shape == (2, 3, 16, 24) and model.map_size == (16, 24) and 0 < maps.min() < maps.max() < 1
    assert [tuple(t.shape) for t in state] == [(2, 8, 8, 12), (2, 8, 4, 6), (2, 8, 2, 3), (2, 1, 16, 24), (2,)] == [(2, *shape[1:]) for shape in model.state_shapes()]
    torch.testing.assert_close(model.maps(clip[1:])[0], maps[1:], atol=1e-5, rtol=0)


def test_the_size_and_number_of_parameters():
    model = RecSalLite()
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 3e6 and model.config["frame_size"] == [288, 384]


def test_the_moving_average_by_hand():
    x = torch.tensor([1.0, 3.0, 5.0, 10.0]).view(4, 1, 1, 1)                 # two clips of two frames
    averages, last = moving_average(x, torch.tensor([100.0, 1.0]).view(2, 1, 1, 1), torch.tensor(0.25), seen=torch.tensor([0.0, 1.0]))
    assert averages.flatten().tolist() == [1.0, 1.5, 2.0, 4.0] and last.flatten().tolist() == [1.5, 4.0]
    assert torch.equal(moving_average(x, torch.zeros(2, 1, 1, 1), torch.tensor(1.0), torch.ones(2))[0], x)


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 2, 4])
def test_a_video_in_two_parts_gives_the_same_maps(cut):
    model, clip = network(output_share=0.3), frames(5, batch=2)
    whole, end = model.maps(clip)
    first, state = model.maps(clip[:, :, :cut])
    second, last = model.maps(clip[:, :, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-5, rtol=0)
    for a, b in zip(last, end):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_state_of_zeros_is_the_one_before_the_first_frame():
    model, clip = network(output_share=0.3), frames(2)
    zeros = tuple(torch.zeros_like(t) for t in model.maps(clip)[1])
    assert torch.equal(model.maps(clip, zeros)[0], model.maps(clip)[0])


@torch.no_grad()
def test_features_and_output_are_averaged():
    clip = frames(2)
    alone = network().maps(clip[:, :, 1:])[0]
    for changes, alpha in (({"output_share": 1.0}, 0.0), ({"output_share": 0.3}, 50.0)):
        model = network(**changes)
        model.alpha.fill_(alpha)
        assert (model.maps(clip)[0][:, 1] - alone).abs().max() > 1e-3
    model = network(output_share=1.0)
    model.alpha.fill_(50.0)                                                  # a share of 1: every frame for itself
    torch.testing.assert_close(model.maps(clip)[0][:, 1:], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_centre_prior_is_added_to_every_map():
    model, clip = network(), frames(1)
    before = torch.logit(model.maps(clip)[0].double())
    model.centre_prior += 1
    torch.testing.assert_close(torch.logit(model.maps(clip)[0].double()), before + 1, atol=1e-3, rtol=0)


@torch.no_grad()
def test_in_bfloat16_the_readout_stays_in_float32():
    model, clip = network(), frames(1)
    expected = model.maps(clip)[0]
    maps = model.bfloat16().maps(clip.bfloat16())[0]
    assert maps.dtype == torch.float32 and (maps - expected).abs().max() < 0.05


def test_frames_are_scaled_as_efficientnet_lite_has_them():
    assert network().normalise(torch.tensor([0, 127, 255], dtype=torch.uint8)).tolist() == [-127 / 128, 0.0, 1.0]


# Training

def test_every_parameter_that_learns_gets_a_gradient_and_what_comes_first_stays_as_it_is():
    model = network(output_share=0.5).train()
    model.maps(frames(2))[0].sum().backward()
    still = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert still and all(name.startswith(("encoder.stem", *(f"encoder.stages.{stage}." for stage in range(FROZEN)))) for name in still)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    grouped = [p for group in model.parameter_groups(1.0) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad} and len(grouped) == len(set(map(id, grouped)))


def test_the_encoder_is_frozen_at_first_and_its_later_stages_thaw():
    model = network()
    for epoch, learns in ((1, set()), (THAWED_FROM - 1, set()), (THAWED_FROM, set(range(FROZEN, len(STAGES)))), (THAWED_FROM + 9, set(range(FROZEN, len(STAGES))))):
        model.thaw(epoch)
        assert {number for number, stage in enumerate(model.encoder.stages) if any(p.requires_grad for p in stage.parameters())} == learns
        assert all(p.requires_grad for name, p in model.named_parameters() if not name.startswith("encoder.")) and not model.encoder.stem.weight.requires_grad


# EfficientNet-lite0

def unfolded(spelling):
    """Entries of EfficientNet-lite0's file, drawn, in the names of PyPI's file (1) or timm's (2)."""
    model, entries, generator = RecSalLite(), {}, torch.Generator().manual_seed(0)
    shapes = {name: tuple(t.shape) for name, t in model.encoder.state_dict().items()}
    for names in names_in_files():
        conv, norm = names[spelling]
        kernel = torch.randn(shapes[f"{names[0]}.weight"], generator=generator)
        scale, shift, mean, variance = torch.rand(4, len(kernel), generator=generator) + 0.5
        entries |= {f"{conv}.weight": kernel, f"{norm}.weight": scale, f"{norm}.bias": shift, f"{norm}.running_mean": mean, f"{norm}.running_var": variance,
                    f"{norm}.num_batches_tracked": torch.tensor(7)}
    return {**entries, "_fc.bias": torch.zeros(1000)}


def test_the_encoder_equals_timms_network():
    timm = pytest.importorskip("timm")
    theirs, ours = timm.create_model("tf_efficientnet_lite0").eval(), RecSalLite().eval()
    for name, t in theirs.state_dict().items():
        if "running_var" in name:
            t.uniform_(0.5, 2)
        elif "bn" in name and t.is_floating_point():
            t.add_(torch.randn_like(t) / 10)
    left = ours.load_start(theirs.state_dict(), "timm's")
    assert all(name.startswith(("blocks.6.", "conv_head", "bn2.", "classifier")) for name in left) and len(left) == 26
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, y = [], theirs.bn1(theirs.conv_stem(x))
        for block in theirs.blocks:
            y = block(y)
            features.append(y)
        found = ours.encoder(x)
    for mine, stage in zip(found, recsal_lite.TAPS):
        torch.testing.assert_close(mine, features[stage], atol=1e-4 * features[stage].abs().max().item(), rtol=0)


def test_both_spellings_of_efficientnets_names_give_the_same_encoder():
    one, other = RecSalLite(), RecSalLite()
    assert one.load_start(unfolded(1), "a") == other.load_start(unfolded(2), "b") == ["_fc.bias"]
    assert all(torch.equal(a, b) for a, b in zip(one.encoder.state_dict().values(), other.encoder.state_dict().values()))
    assert sum(count for count, *_ in STAGES) == 15


def test_a_file_that_lacks_an_entry_or_has_another_shape_changes_nothing():
    model, entries = RecSalLite(), unfolded(1)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    lacking = {name: t for name, t in entries.items() if name != "_blocks.3._bn1.bias"}
    with pytest.raises(ValueError, match=r"a.pth does not hold EfficientNet-lite0: _blocks.3._bn1.bias is missing"):
        model.load_start(lacking, "a.pth")
    with pytest.raises(ValueError, match="stem.weight"):
        model.load_start({**entries, "_conv_stem.weight": torch.zeros(32, 3, 5, 5)}, "a.pth")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


# The programs

def test_on_a_cpu_eight_frames_go_through_at_once_with_the_same_maps(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    pictures = list(np.random.default_rng(0).integers(0, 256, (11, 40, 60, 3), np.uint8))
    predictors = [Predictor(tmp_path / "a.pth", "cpu", model="recsal_lite", frame_size=SIZE, **options) for options in ({}, {"batch_size": 1}, {"precision": "bfloat16", "force_bfloat16": True})]
    assert [predictor.options.batch_size for predictor in predictors] == [8, 1, 8]
    eight, one, halved = (list(predictor.predict_frames(pictures)) for predictor in predictors)
    for a, b, c in zip(eight, one, halved, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(a, c, atol=0.05)


def test_a_single_picture_gets_a_map(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    torch.save(network().state_dict(), tmp_path / "a.pth")
    run(tmp_path / "a.png", "--model", "recsal_lite", "--weights", tmp_path / "a.pth", "--out", tmp_path / "out", "--frame-size", "64", "96")
    assert Image.open(tmp_path / "out" / "a" / "a.png").size == (60, 40)


# The weights that come with the repository

SHIPPED = RecSalLite.shipped_weights
CLIP = TESTS.parent / "examples" / "big_buck_bunny.mp4"


def test_the_file_is_small_and_says_what_it_is():
    assert SHIPPED.stat().st_size < 6e6 and CLIP.stat().st_size < 300e3
    with safe_open(SHIPPED, framework="pt") as file:
        about = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}
    assert json.loads(about["configuration"]) == RecSalLite().config and "MIT" in about["licence"]
    training, scores = json.loads(about["training"]), json.loads(about["scores"])
    assert training["recipe"]["zoom"] == RecSalLite.recipe.zoom and training["epoch"] == RecSalLite.recipe.epochs and training["revision"]
    assert {split: about["frames"] for split, about in scores.items()} == {"osie-test": 140, "eyecrowd-test": 100, "sun500-test": 100}


def test_without_weights_predictor_takes_those_of_the_repository_in_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_weights("recsal_lite") == SHIPPED
    frames = list(read_video(CLIP))[40:48]
    maps = list(Predictor(model="recsal_lite", device="cpu").predict_frames(frames))
    inside = maps[-1][40:340, 200:400]                                      # the rabbit
    assert inside.mean() > 3 * (maps[-1].sum() - inside.sum()) / (maps[-1].size - inside.size)
    own = tmp_path / "saved_models" / "recsal_lite" / "RecSalLite.pth"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"of a run")
    assert default_weights("recsal_lite") == own.relative_to(tmp_path)       # what train.py wrote comes first


def test_without_recsal_nets_weights_the_error_names_this_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weight file saved_models/RecSalNet.pth: .*--model recsal_lite makes maps right away. It is not RecSalNet but"):
        run(CLIP)


def test_its_file_under_another_networks_name_says_whose_it_is():
    with pytest.raises(ValueError, match="does not hold RecSalNet: .*It is a file of recsal_lite: give --model recsal_lite"):
        Predictor(SHIPPED, "cpu")
    with pytest.raises(ValueError, match=r"model must be one of \['recsalnet', .*got 'recsal_light'"):
        Predictor(model="recsal_light")


def test_a_file_that_is_no_network_of_ours_is_refused_without_a_guess(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth does not hold RecSalLite: .*the first \['fc.weight'\]$"):
        Predictor(tmp_path / "a.pth", "cpu", model="recsal_lite")
    torch.save({"conv1.weight": torch.zeros(2, 2), "backbone.patch_embed.proj.weight": torch.zeros(2, 2)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="does not hold RecSalNet: its conv1.weight should have 5 dimensions$"):
        Predictor(tmp_path / "b.pth", "cpu")
