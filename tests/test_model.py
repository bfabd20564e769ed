import itertools
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import TESTS, TINY, needs_bfloat16
from parity import fill
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import loss
from model import RecSalNet


def golden(name):
    return np.load(TESTS / "golden" / f"{name}.npz")


def clip_of(recorded):
    return fill.clip(tuple(recorded["shape"]), int(recorded["seed"]))


# Wrong input

@pytest.mark.parametrize("shape, said", [
    ((1, 3, 16, 32, 64), "T = 32 frames, got 16"), ((1, 3, 32, 32, 50), "divisible by 32, got 32 x 50"), ((1, 3, 32, 31, 64), "got 31 x 64"),
    ((1, 1, 32, 32, 64), r"\(B, 3, T, H, W\), got \(1, 1, 32, 32, 64\)"), ((3, 32, 32, 64), "got \\(3, 32, 32, 64\\)"), ((1, 3, 32, 0, 64), "got 0 x 64"),
])
def test_a_clip_of_another_shape_is_a_value_error_that_says_what_came_and_what_is_needed(tiny_model, shape, said):
    with pytest.raises(ValueError, match=said):
        tiny_model(torch.zeros(shape))


@pytest.mark.parametrize("change", [{"num_recursions": -1}, {"frame_size": (50, 64)}, {"frame_size": (0, 0)}, {"frame_stride": 0}, {"num_heads": (5, 5, 5, 5)}, {"width": 12}, {"drop_path": 1.5}])
def test_an_impossible_configuration_is_a_value_error_that_names_the_value(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        RecSalNet(**{**TINY, **change})


# Parity

def test_the_state_dict_has_the_authors_names_and_shapes(manifest, full_model):
    assert {name: list(t.shape) for name, t in full_model.state_dict().items()} == manifest
    assert sum(p.numel() for p in full_model.parameters()) == pytest.approx(55.2e6, rel=1e-3)


@pytest.mark.parametrize("size", ["64x96", "224x384"])
def test_output_equals_the_golden_one(full_model, size):
    recorded = golden(f"recsalnet_{size}")
    with torch.no_grad():
        saliency = full_model(clip_of(recorded))
    assert saliency.shape == recorded["saliency"].shape
    assert (saliency - torch.from_numpy(recorded["saliency"])).abs().max() < 1e-5
    if size == "224x384":                                                  # also to the map of a frame of this size
        finished = full_model.finish(saliency, (90, 160))
        assert finished.shape == (1, 90, 160) and 0 < finished.min() < finished.max() < 1
        assert full_model.prepare(np.zeros((90, 160, 3), np.uint8)).shape == (3, 224, 384)


def test_every_encoder_stage_equals_the_golden_one_in_mean_and_spread(full_model):
    recorded = golden("recsalnet_64x96")
    with torch.no_grad():
        features = full_model.encoder(clip_of(recorded))
    for i, feature in enumerate(features, start=1):
        np.testing.assert_allclose(feature.mean(dim=(0, 2, 3, 4)), recorded[f"encoder_stage{i}_mean"], atol=1e-4)
        np.testing.assert_allclose(feature.transpose(0, 1).flatten(1).std(1), recorded[f"encoder_stage{i}_std"], atol=1e-4)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_measures_and_gradients_equal_the_golden_ones(full_model):
    recorded = golden("recsalnet_grad_64x96")
    full_model.zero_grad()
    density, fixations = torch.from_numpy(recorded["density"]), torch.from_numpy(recorded["fixations"]) > 0
    # Older releases of oneDNN (PyTorch 2.4) add up a bias's gradient so loosely that one scalar near cancellation is off by 6 %.
    with torch.backends.mkldnn.flags(enabled=False):
        saliency = full_model(clip_of(recorded))
        terms = loss.objective(saliency, density, fixations, {"kl": 1, "cc": 1})
        terms["loss"].backward()
    for name in ("kldiv", "cc", "nss", "similarity"):
        target = fixations if name == "nss" else density
        assert getattr(loss, name)(saliency, target).mean().item() == pytest.approx(float(recorded[name]), abs=1e-5)
    assert terms["loss"].item() == pytest.approx(float(recorded["loss"]), abs=1e-5)
    gradients = nn.Module.state_dict(full_model, keep_vars=True)
    norms = {name: p.grad.double().norm().item() for name, p in gradients.items() if p.grad is not None}
    full_model.zero_grad()
    assert sorted(norms) == sorted(recorded["param_names"])
    relative = [abs(norms[name] - norm) / norm for name, norm in zip(recorded["param_names"], recorded["grad_norms"])]
    assert max(relative) < 5e-3
    assert np.median(relative) < 1e-3


def test_a_batch_of_two_equals_two_batches_of_one(full_model):
    clip = fill.clip((2, 3, 32, 64, 96), seed=3)
    with torch.no_grad():
        together, apart = full_model(clip), torch.cat([full_model(clip[:1]), full_model(clip[1:])])
    assert (together - apart).abs().max() < 1e-6


# The recursive block

def test_no_recursion_works_and_weights_do_not_grow_with_recursions(tiny_model):
    entries, clip = tiny_model.state_dict(), fill.clip((1, 3, 32, 32, 64))
    outputs = []
    for k in (0, 1, 2, 3):
        model = RecSalNet(num_recursions=k, **TINY).eval()
        model.load_state_dict(entries)
        with torch.no_grad():
            outputs.append(model(clip))
    assert all(output.shape == (1, 32, 64) for output in outputs)
    assert all((a - b).abs().max() > 1e-6 for a, b in itertools.pairwise(outputs))


def test_activation_checkpointing_gives_the_same_gradients(tiny_model):
    clip, gradients = fill.clip((1, 3, 32, 32, 64)), []
    for on in (False, True):
        tiny_model.activation_checkpointing = on
        tiny_model.zero_grad()
        tiny_model(clip).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in tiny_model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


@needs_bfloat16
def test_bfloat16_autocast_stays_near_float32(tiny_model):
    clip = fill.clip((1, 3, 32, 32, 64))
    with torch.no_grad():
        exact = tiny_model(clip)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = tiny_model(clip)
    assert (exact - rounded.float()).abs().max() < 0.01


@needs_bfloat16
def test_the_readout_stays_float32_under_autocast(tiny_model):
    side_maps = torch.rand(1, 4, 1, 32, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        expected = tiny_model.readout(side_maps.float())
        with torch.autocast("cpu", torch.bfloat16):
            saliency, whole = tiny_model.read_out(side_maps), tiny_model(fill.clip((1, 3, 32, 32, 64)))
    assert saliency.dtype == whole.dtype == torch.float32 and torch.equal(saliency, expected)


# Weight files

def test_the_authors_file_loads_plainly_and_through_from_pretrained(tmp_path, weights):
    torch.save(weights, tmp_path / "RecSalNet.pth")
    RecSalNet().load_state_dict(torch.load(tmp_path / "RecSalNet.pth", weights_only=True))
    model = RecSalNet.from_pretrained(tmp_path / "RecSalNet.pth")
    assert not model.training
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())


def test_from_pretrained_builds_the_network_that_the_entries_and_the_json_beside_describe(tmp_path):
    model = RecSalNet(num_recursions=3, patch_norm=True, **TINY)
    torch.save({"state_dict": {f"module.{name}": t for name, t in model.state_dict().items()}}, tmp_path / "a.pth")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": model.config}))
    restored = RecSalNet.from_pretrained(tmp_path / "a.pth")
    assert json.dumps(restored.config) == json.dumps(model.config)
    smaller = RecSalNet.from_pretrained(tmp_path / "a.pth", frame_size=(32, 32))
    assert smaller.prepare(np.zeros((45, 80, 3), np.uint8)).shape == (3, 32, 32) and smaller.config["num_recursions"] == 3


@pytest.mark.parametrize("spoil, said", [
    (lambda e: e.pop("conv2.bias"), "1 missing: conv2.bias"),
    (lambda e: e.update(extra=torch.zeros(1)), "1 left over: extra"),
    (lambda e: e.update({"convout.0.bias": torch.zeros(7)}), r"of another shape: convout.0.bias \(7,\), expected \(1,\)"),
])
def test_an_entry_that_does_not_fit_is_named(tmp_path, tiny_model, spoil, said):
    entries = dict(tiny_model.state_dict())
    spoil(entries)
    torch.save(entries, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=said):
        RecSalNet.from_pretrained(tmp_path / "a.pth")


def test_a_strict_load_names_a_missing_entry_as_it_is_in_the_file(tiny_model):
    entries = dict(tiny_model.state_dict())
    del entries["backbone.norm.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "backbone.norm.bias"'):
        tiny_model.load_state_dict(entries)


def test_names_are_the_authors_inside_another_module_too(tiny_model):
    wrapped = nn.Sequential(tiny_model)
    entries = wrapped.state_dict()
    assert "0.backbone.norm.bias" in entries and not any("encoder" in name for name in entries)
    wrapped.load_state_dict(entries)


def test_a_init_from_scratch_is_dark_and_depends_on_the_clip():
    torch.manual_seed(0)
    model = RecSalNet(**TINY)
    model.init_from_scratch()
    for side, out in ((0.0, 0.00034), (0.5, 0.018), (1.0, 0.5)):             # sigmoid of 8 side - 8, away from the borders
        assert model.readout(torch.full((1, 4, 1, 5, 5), side))[0, 0, 0, 2, 2].item() == pytest.approx(out, rel=0.02)
    with torch.no_grad():
        maps = model(torch.randn(2, 3, 32, 32, 64))
    assert maps.max() < 0.1 and (maps[0] - maps[1]).std() > 0.005 * maps.mean()


def test_a_network_that_is_only_built_starts_as_pytorch_draws_it():
    torch.manual_seed(0)
    model = RecSalNet(**TINY)
    assert 0 < model.readout[0].weight.abs().max() <= 1 / 6 and model.readout[0].weight.std() > 0.05   # uniform in 1 / sqrt(36)


def test_other_weights_a_broken_file_and_no_file_are_said_to_be_so(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 half a download")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not hold RecSalNet.*fc.weight"):
        RecSalNet.from_pretrained(tmp_path / "other.pth")
    with pytest.raises(ValueError, match="cannot be read as a PyTorch weight file.*Was it interrupted"):
        RecSalNet.from_pretrained(tmp_path / "broken.pth")
    with pytest.raises(ValueError, match="holds no state dict: expected names and tensors, got a list"):
        RecSalNet.from_pretrained(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="absent.pth: it does not exist"):
        RecSalNet.from_pretrained(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        RecSalNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("configuration", [{"num_recursions": "two"}, {"frame_size": 32}, {"surprise": 1}])
def test_a_configuration_that_does_not_fit_is_said_with_its_file(tmp_path, tiny_model, configuration):
    torch.save(tiny_model.state_dict(), tmp_path / "a.pth")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": configuration}))
    with pytest.raises(ValueError, match="configuration that belongs to .*a.pth does not fit RecSalNet"):
        RecSalNet.from_pretrained(tmp_path / "a.pth")


def test_weights_load_from_safetensors_too(tmp_path, tiny_model):
    save_file(tiny_model.state_dict(), tmp_path / "a.safetensors")
    loaded = RecSalNet.from_pretrained(tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(t, loaded[name]) for name, t in tiny_model.state_dict().items())


# Before and after the network

def test_frames_are_resized_by_pils_antialiased_bilinear_filter_and_normalised(tiny_model):
    frame = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    prepared = tiny_model.normalise(tiny_model.prepare(frame)[None, :, None])[0, :, 0]
    expected = np.array(Image.fromarray(frame).resize((64, 32), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(prepared.permute(1, 2, 0), (expected - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], atol=1e-5)


def test_maps_are_resized_and_blurred_as_opencv_does(tiny_model):
    output = torch.rand(1, 32, 64, generator=torch.Generator().manual_seed(0))
    expected = cv2.GaussianBlur(cv2.resize(output[0].numpy(), (101, 70), interpolation=cv2.INTER_LINEAR), (11, 11), 0)
    np.testing.assert_allclose(tiny_model.finish(output, (70, 101))[0], expected, atol=1e-5)


@needs_bfloat16
def test_a_network_in_bfloat16_keeps_its_readout_and_its_maps_within_a_hundredth():
    torch.manual_seed(0)
    exact, rounded = RecSalNet(**TINY).eval(), RecSalNet(**TINY).eval()
    rounded.load_state_dict(exact.state_dict())
    rounded.bfloat16()
    assert rounded.encoder.patch_embed.proj.weight.dtype == torch.bfloat16 and rounded.readout[0].weight.dtype == torch.float32
    clip = torch.randn(2, 3, 32, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = rounded(clip.bfloat16())
        assert maps.dtype == torch.float32 and 0 < (maps - exact(clip)).abs().max() < 0.01


def test_maps_are_finished_in_float32_whatever_the_network_computed_in(tiny_model):
    output = torch.rand(1, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        finished = tiny_model.finish(output, (70, 101))
    assert finished.dtype == torch.float32 and torch.equal(finished, tiny_model.finish(output, (70, 101)))


def test_a_frame_too_small_to_blur_is_a_value_error(tiny_model):
    with pytest.raises(ValueError, match="at least 6 pixels.*got 4 x 50"):
        tiny_model.finish(torch.zeros(1, 32, 64), (4, 50))


def test_weights_whose_indices_point_elsewhere_are_refused(tmp_path, tiny_model):
    entries = tiny_model.state_dict()
    name = next(name for name in entries if name.endswith("relative_position_index"))
    entries[name] = entries[name] + 10 ** 6
    torch.save(entries, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"{name} of .*a.pth is not what it is in every RecSalNet"):
        RecSalNet.from_pretrained(tmp_path / "a.pth")


@pytest.mark.parametrize("changed", [{"num_recursions": 10 ** 9}, {"frame_size": [10 ** 6 * 32, 64]}, {"frame_stride": 10 ** 9}, {"num_recursions": 1.5}, {"frame_size": "large"}, {"frame_size": None}])
def test_a_configuration_beside_the_weights_that_asks_for_too_much_is_refused(tmp_path, tiny_model, changed):
    torch.save(tiny_model.state_dict(), tmp_path / "a.pth")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": {**tiny_model.config, **changed}}))
    with pytest.raises(ValueError, match=next(iter(changed))):
        RecSalNet.from_pretrained(tmp_path / "a.pth")
