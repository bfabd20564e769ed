import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from conftest import TESTS, needs_bfloat16
from parity import fill
from scipy.ndimage import gaussian_filter
from torch import nn

from baselines.tased_net import APART, OVERLAPPING, TASEDNet, blur_weights, max_pool, max_unpool, name_in_s3d
from prediction.engine import saliency_maps
from saliency_model import EngineOptions, gaussian_blur, mirrored_indices
from weights import read_weights


@pytest.fixture(scope="module")
def shapes():
    """Name -> shape of every entry of the authors' state dict."""
    return json.loads((TESTS / "manifests" / "tased_net.json").read_text())


@pytest.fixture(scope="module")
def entries(shapes):
    return fill.weights(shapes, seed=1)


@pytest.fixture(scope="module")
def model(entries):
    """The network `golden/` was recorded with; read-only for tests."""
    model = TASEDNet(frame_size=(32, 64))
    model.load_state_dict(entries)
    return model.eval()


@pytest.fixture(scope="module")
def recorded():
    return np.load(TESTS / "golden" / "tased_net.npz")


@pytest.fixture(scope="module")
def clip(recorded):
    return fill.clip(tuple(recorded["shape"]), int(recorded["seed"]))


@pytest.fixture
def s3d(entries):
    """S3D's own weight file: the encoder in one sequence, with a classifier."""
    encoder = {name_in_s3d(name): t for name, t in entries.items() if name.startswith("base")}
    return {**encoder, "fc.0.weight": torch.zeros(400, 1024, 1, 1, 1), "fc.0.bias": torch.zeros(400)}


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


# Wrong input

@pytest.mark.parametrize("shape, said", [
    ((1, 3, 16, 32, 64), "T = 32 frames, got 16"), ((1, 3, 0, 32, 64), "got 0"), ((1, 3, 32, 32, 48), "divisible by 32, got 32 x 48"),
    ((1, 3, 32, 0, 64), "got 0 x 64"), ((1, 1, 32, 32, 64), r"\(B, 3, T, H, W\), got \(1, 1, 32, 32, 64\)"), ((3, 32, 32, 64), r"got \(3, 32, 32, 64\)"),
])
def test_a_clip_of_another_shape_is_a_value_error_that_says_what_came_and_what_is_needed(model, shape, said):
    with pytest.raises(ValueError, match=said):
        model(torch.zeros(shape))


@pytest.mark.parametrize("change", [{"frame_size": (48, 64)}, {"frame_size": (0, 0)}, {"frame_size": (32, 64, 96)}, {"frame_size": (32 * 10 ** 6, 32)}, {"frame_stride": 0}, {"frame_stride": 1.5}])
def test_an_impossible_configuration_is_a_value_error_that_names_the_value(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TASEDNet(**change)


# Parity

def test_the_state_dict_has_the_authors_names_and_shapes(model, shapes):
    assert {name: list(t.shape) for name, t in model.state_dict().items()} == shapes and len(shapes) == 513
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(21.3e6, rel=2e-3)


def test_output_equals_the_golden_one(model, clip, recorded):
    with torch.no_grad():
        saliency = model(clip)
    assert saliency.shape == recorded["saliency"].shape
    assert (saliency - torch.from_numpy(recorded["saliency"])).abs().max() < 1e-5


def test_every_batch_norm_is_s3ds_and_only_the_last_convolution_has_a_bias(model):
    assert {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm3d)} == {(1e-3, 1e-3)}
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))}
    assert [name for name, m in convolutions.items() if m.bias is not None] == ["convtsp4.13"]


def test_a_batch_of_two_equals_two_batches_of_one_also_at_the_smallest_size(model):
    clips = fill.clip((2, 3, 32, 32, 32), seed=3)
    with torch.no_grad():
        together, apart = model(clips), torch.cat([model(clips[:1]), model(clips[1:])])
    assert together.shape == (2, 32, 32) and (together - apart).abs().max() < 1e-6


def test_a_gradient_reaches_every_parameter_in_training():
    torch.manual_seed(0)
    model = TASEDNet().train()
    model(fill.clip((1, 3, 32, 32, 64))).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()] == []


# Unpooling

def test_maxima_return_to_their_places_and_zeros_lie_between():
    x = torch.arange(1., 17).view(1, 1, 1, 4, 4)
    maxima, where = max_pool(x, 1, APART)
    assert maxima.flatten().tolist() == [6, 8, 14, 16]
    assert max_unpool(-maxima, where).flatten().tolist() == [0, 0, 0, 0, 0, -6, 0, -8, 0, 0, 0, 0, 0, -14, 0, -16]


def test_of_windows_that_share_a_maximum_the_last_one_stays():
    x = torch.zeros(1, 1, 1, 4, 4)
    x[..., 1, 1] = 1                                                       # lies in all four windows
    maxima, where = max_pool(x, 1, OVERLAPPING)
    assert where.flatten().tolist() == [5, 5, 5, 5]
    assert max_unpool(torch.tensor([1., 2, 3, 4]).view(maxima.shape), where)[0, 0, 0, 1, 1] == 4


def test_places_are_those_of_the_maxima_over_several_frames():
    x = torch.zeros(1, 1, 4, 2, 2)
    x[0, 0, 3, 1, 0], x[0, 0, 1, 0, 1] = 2, 1
    maxima, where = max_pool(x, 4, APART)
    assert maxima.shape == (1, 1, 1, 1, 1) and maxima.item() == 2 and where.item() == 2


# bfloat16

@needs_bfloat16
def test_bfloat16_autocast_stays_near_float32_and_the_map_is_float32(model, clip):
    with torch.no_grad():
        exact = model(clip)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(clip)
    assert rounded.dtype == torch.float32
    # Single pixels differ more: where another one becomes a window's maximum, values are unpooled elsewhere.
    assert 0 < (exact - rounded).abs().mean() < 0.03
    assert (model.finish(exact, (64, 96)) - model.finish(rounded, (64, 96))).abs().max() < 0.01


@needs_bfloat16
def test_a_network_in_bfloat16_keeps_its_last_convolution_and_its_maps_stay_near(model, entries, clip):
    rounded = TASEDNet().eval()
    rounded.load_state_dict(entries)
    assert rounded.bfloat16() is rounded
    assert {p.dtype for name, p in rounded.named_parameters() if not name.startswith("convtsp4.13")} == {torch.bfloat16}
    with torch.no_grad():
        exact, maps = model(clip), rounded(clip.bfloat16())
    assert maps.dtype == torch.float32 and len(maps.unique()) > 0.9 * maps.numel()
    assert 0 < (exact - maps).abs().mean() < 0.03
    assert (model.finish(exact, (64, 96)) - rounded.finish(maps, (64, 96))).abs().max() < 0.01


# Before the network

def test_frames_are_resized_as_opencv_does_and_travel_to_loader_processes(model):
    frame = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    prepared = pickle.loads(pickle.dumps(model.prepare))(frame)
    assert prepared.shape == (3, 32, 64) and prepared.dtype == torch.uint8
    np.testing.assert_array_equal(prepared.permute(1, 2, 0), cv2.resize(frame, (64, 32)))
    np.testing.assert_array_equal(model.prepare(frame[..., ::-1]), prepared.flip(0))


def test_a_frame_of_the_networks_size_stays_as_it_is_and_is_not_shared(model):
    frame = np.full((32, 64, 3), 7, np.uint8)
    prepared = model.prepare(frame)
    frame[:] = 0
    assert (prepared == 7).all()


def test_black_is_minus_one_and_white_is_one(model):
    clip = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    assert model.normalise(clip).flatten().tolist() == pytest.approx([-1, -0.6, 1])
    assert model.normalise(clip).dtype == torch.float32


# After the network

def test_a_map_of_zeros_stays_one_and_so_does_one_below_the_first_step(model):
    assert not model.finish(torch.zeros(2, 32, 64), (32, 64)).any()
    assert not model.finish(torch.full((1, 32, 64), 0.0039), (50, 70)).any()  # 1 / 255 is 0.00392


def test_a_constant_map_becomes_ones(model):
    torch.testing.assert_close(model.finish(torch.full((1, 32, 64), 0.3), (32, 64)), torch.ones(1, 32, 64))


def test_one_bright_pixel_becomes_a_gaussian_of_height_one_cut_off_at_28_pixels(model):
    output = torch.zeros(1, 96, 96)
    output[0, 40, 50] = 0.5
    finished = model.finish(output, (96, 96))[0]
    assert finished.max() == finished[40, 50] == 1
    assert finished[47, 50].item() == pytest.approx(np.exp(-0.5), abs=1e-5)
    assert finished[68, 50] > 0 and finished[69, 50] == 0 and finished[40, 22] > 0 and finished[40, 21] == 0


def test_maps_are_stretched_each_by_its_own_maximum(model):
    output = noise(1, 32, 64)
    together = model.finish(torch.cat([output, torch.zeros_like(output), output / 4]), (32, 64))
    assert together.amax(dim=(1, 2)).tolist() == [1, 0, 1]
    torch.testing.assert_close(together[:1], model.finish(output, (32, 64)))


@pytest.mark.parametrize("size", [(64, 96), (20, 30), (224, 384), (3, 200), (1, 1)])
def test_the_blur_is_scipys_also_where_the_map_is_smaller_than_the_kernel(size):
    maps = noise(2, *size)
    expected = np.stack([gaussian_filter(m.double().numpy(), 7) for m in maps])
    np.testing.assert_allclose(gaussian_blur(maps, blur_weights(maps), repeat_edges=True), expected, atol=1e-5)


def test_an_axis_is_continued_with_its_edges_repeated_as_often_as_needed():
    assert mirrored_indices(3, 2, True, torch.device("cpu")).tolist() == [1, 0, 0, 1, 2, 2, 1]
    assert mirrored_indices(2, 5, True, torch.device("cpu")).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]


def test_finished_and_quantised_maps_are_the_authors_files(model):
    output = noise(1, 20, 30)
    blurred = gaussian_filter((output[0].numpy() * 255).astype(int) / 255, 7)
    expected = blurred / blurred.max() * 255
    finished = model.finish(output, (20, 30))[0]
    np.testing.assert_allclose(255 * finished, expected, atol=1e-3)
    quantised = model.quantise(finished).numpy()
    assert quantised.dtype == np.uint8 and quantised.max() == 255
    certain = abs(expected - expected.round()) > 1e-3                      # others may fall to either side
    np.testing.assert_array_equal(quantised[certain], expected.astype(np.uint8)[certain])


def test_quantising_cuts_off(model):
    assert model.quantise(torch.tensor([[0, 0.999, 1], [0.5, 0.0039, 0.004]])).tolist() == [[0, 254, 255], [127, 0, 1]]


def test_maps_are_brought_to_the_frames_size_bilinearly_after_the_blur(model):
    output = noise(1, 32, 64)
    finished = model.finish(output, (32, 64))[0].numpy()
    resized = model.finish(output, (70, 101))
    np.testing.assert_allclose(resized[0], cv2.resize(finished, (101, 70), interpolation=cv2.INTER_LINEAR), atol=1e-5)
    assert resized.shape == (1, 70, 101) and resized.min() >= 0 and resized.max() <= 1


@pytest.mark.parametrize("size", [(32, 64), (70, 101)])
def test_maps_are_finished_in_float32_whatever_the_network_computed_in(model, size):
    output = noise(1, 32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        finished = model.finish(output, size)
    assert finished.dtype == torch.float32 and torch.equal(finished, model.finish(output, size))
    assert model.finish(output.bfloat16(), size).dtype == torch.float32


def test_the_sliding_window_runs_it_and_turns_the_first_window_around(model):
    frames = np.random.default_rng(0).integers(0, 256, (34, 32, 64, 3), dtype=np.uint8)
    maps = torch.stack(list(saliency_maps(model, list(frames), options=EngineOptions(every=33, first_frames=model.first_frames))))
    window = model.normalise(torch.from_numpy(frames).permute(3, 0, 1, 2)[None])
    with torch.no_grad():
        expected = model(torch.cat([window[:, :, :32].flip(2), window[:, :, 2:]]))
    torch.testing.assert_close(maps, model.finish(expected, (32, 64)))


# Training

def test_parameter_groups_hold_every_parameter_once_and_the_encoder_is_slower(model):
    encoder, decoder = model.parameter_groups(0.1)
    held = [id(p) for group in (encoder, decoder) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in encoder["params"]} == {id(p) for part in (model.base1, model.base2, model.base3, model.base4) for p in part.parameters()}
    assert (encoder["lr"], decoder["lr"]) == pytest.approx((0.001, 0.1)) and not encoder["scheduled"] and decoder["scheduled"]


def test_what_is_frozen_is_in_no_group_and_sgd_takes_them():
    model = TASEDNet()
    for part in (model.base1, model.base2, model.base3, model.base4):
        part.requires_grad_(False)
    encoder, decoder = model.parameter_groups(model.recipe.lr)
    assert encoder["params"] == [] and len(decoder["params"]) == sum(name.startswith("convtsp") for name, _ in model.named_parameters())
    torch.optim.SGD([encoder, decoder], **model.recipe.optimizer_options)


# Weight files

@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_authors_file_loads_with_and_without_its_prefix(tmp_path, entries, prefix):
    torch.save({prefix + name: t for name, t in entries.items()}, tmp_path / "TASED_updated.pt")
    model = TASEDNet.from_pretrained(tmp_path / "TASED_updated.pt")
    assert not model.training and not model.is_described and model.config == {"frame_size": [224, 384], "frame_stride": 1}
    assert all(torch.equal(t, entries[name]) for name, t in model.state_dict().items())


def test_the_configuration_beside_a_file_is_used_and_can_be_replaced(tmp_path, entries):
    torch.save(entries, tmp_path / "a.pth")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": TASEDNet(frame_size=(64, 96), frame_stride=2).config}))
    model = TASEDNet.from_pretrained(tmp_path / "a.pth")
    assert model.is_described and model.config == {"frame_size": [64, 96], "frame_stride": 2} and model.frame_stride == 2
    changed = TASEDNet.from_pretrained(tmp_path / "a.pth", frame_size=(32, 32), frame_stride=3)
    assert changed.prepare(np.zeros((45, 80, 3), np.uint8)).shape == (3, 32, 32) and changed.frame_stride == 3


@pytest.mark.parametrize("configuration", [{"num_recursions": 2}, {"frame_size": 32}, {"frame_size": "large"}, {"frame_size": [33, 64]}, {"frame_stride": None}])
def test_a_configuration_that_does_not_fit_is_a_value_error(tmp_path, entries, configuration):
    torch.save(entries, tmp_path / "a.pth")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": configuration}))
    with pytest.raises(ValueError, match=r"a.pth does not fit TASEDNet|frame_size must be"):
        TASEDNet.from_pretrained(tmp_path / "a.pth")


def test_another_networks_file_is_refused(tmp_path, s3d):
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    torch.save({"backbone.norm.bias": torch.zeros(768), "convtsp1.0.weight": torch.zeros(96, 192, 2, 3, 3)}, tmp_path / "RecSalNet.pth")
    torch.save(s3d, tmp_path / "S3D_kinetics400.pt")
    for name in ("other.pth", "RecSalNet.pth", "S3D_kinetics400.pt"):
        with pytest.raises(ValueError, match=f"{name} does not hold TASEDNet: expected entries such as base1.0.conv_s.weight"):
            TASEDNet.from_pretrained(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent.pt: it does not exist"):
        TASEDNet.from_pretrained(tmp_path / "absent.pt")


@pytest.mark.parametrize("spoil, said", [
    (lambda e: e.pop("base3.1.branch0.0.conv.weight"), "1 missing: base3.1.branch0.0.conv.weight"),
    (lambda e: e.update(extra=torch.zeros(1)), "1 left over: extra"),
    (lambda e: e.update({"convtsp4.13.bias": torch.zeros(7)}), r"of another shape: convtsp4.13.bias \(7,\), expected \(1,\)"),
])
def test_an_entry_that_does_not_fit_is_named(tmp_path, entries, spoil, said):
    spoiled = dict(entries)
    spoil(spoiled)
    torch.save(spoiled, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=said):
        TASEDNet.from_pretrained(tmp_path / "a.pth")


# S3D's file

@pytest.mark.parametrize("ours, theirs", [
    ("base1.0.conv_s.weight", "base.0.conv_s.weight"), ("base1.3.bn_t.bias", "base.3.bn_t.bias"), ("base2.0.branch0.0.bn.bias", "base.5.branch0.0.bn.bias"),
    ("base2.1.branch3.1.bn.bias", "base.6.branch3.1.bn.bias"), ("base3.0.branch0.0.bn.bias", "base.8.branch0.0.bn.bias"),
    ("base3.4.branch0.0.bn.bias", "base.12.branch0.0.bn.bias"), ("base4.1.branch0.0.bn.bias", "base.15.branch0.0.bn.bias"),
])
def test_encoder_names_are_s3ds_renumbered(ours, theirs):
    assert name_in_s3d(ours) == theirs


@pytest.mark.parametrize("prefix", ["", "module."])
def test_s3d_fills_the_whole_encoder_leaves_the_decoder_and_tells_what_it_has_no_place_for(tmp_path, entries, s3d, prefix):
    torch.save({prefix + name: t for name, t in s3d.items()}, tmp_path / "S3D_kinetics400.pt")
    model = TASEDNet()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert model.load_start(read_weights(tmp_path / "S3D_kinetics400.pt")[0], "S3D_kinetics400.pt") == ["fc.0.weight", "fc.0.bias"]
    for name, t in model.state_dict().items():
        assert torch.equal(t, entries[name] if name.startswith("base") else before[name])


@pytest.mark.parametrize("missing", ["base.0.conv_s.weight", "base.15.branch3.1.bn.running_var"])
def test_an_encoder_file_without_an_entry_is_refused_by_its_name_there_and_changes_nothing(s3d, missing):
    del s3d[missing]
    model = TASEDNet()
    before = model.base1[0].conv_t.weight.clone()
    with pytest.raises(ValueError, match=f"S3D.pt does not hold the whole S3D encoder: 1 of 462 entries are missing, the first {missing}"):
        model.load_start(s3d, "S3D.pt")
    assert torch.equal(model.base1[0].conv_t.weight, before)


def test_an_encoder_file_with_an_entry_of_another_shape_is_refused_by_name(s3d):
    s3d["base.2.bn.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"weights of S3D.pt .* of another shape: base1.2.bn.bias \(3,\), expected \(64,\)"):
        TASEDNet().load_start(s3d, "S3D.pt")


def test_an_encoder_file_older_than_batch_norms_counters_loads(s3d):
    old = {name: t for name, t in s3d.items() if not name.endswith("num_batches_tracked")}
    assert TASEDNet().load_start(old, "S3D.pt") == ["fc.0.weight", "fc.0.bias"]
