import copy
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TESTS, needs_bfloat16
from parity import fill
from PIL import Image

from baselines.smcf import SMCF, UNUSED, Attention, CrossStackFusion, Transformer, name_in_resnet


@pytest.fixture(scope="module")
def shapes():
    """Name -> shape of every entry of the authors' state dict."""
    return json.loads((TESTS / "manifests" / "smcf.json").read_text())


RESNET_50 = {"trunk_width": 64, "trunk_blocks": [3, 4, 6, 3]}


@pytest.fixture(scope="module")
def entries(shapes):
    return fill.weights(shapes, seed=1, gain=0.9)


@pytest.fixture(scope="module")
def model(entries):
    """The network `golden/` was recorded with; read-only for tests."""
    model = blank()
    model.load_state_dict(entries)
    return model.eval()


@pytest.fixture(scope="module")
def released(tmp_path_factory, entries):
    """A weight file as the authors' code names its entries, at half the size."""
    path = tmp_path_factory.mktemp("smcf") / "SMCF-19epoch.pth"
    torch.save({f"module.{name}": t.bfloat16() if t.is_floating_point() else t for name, t in entries.items()}, path)
    yield path
    path.unlink()                                                          # pytest keeps the folders of three runs


def blank():
    """The network with undefined weights: random ones take seconds."""
    with torch.device("meta"):
        model = SMCF()
    return model.to_empty(device="cpu")


@pytest.fixture(scope="module")
def scratch():
    """A network for tests that fill it, each with all that it looks at."""
    return blank()


def constants(shapes, value):
    """Entries of one value, which take no memory."""
    return {name: torch.tensor(float(value)).expand(shape) for name, shape in shapes.items()}


def inputs(shape, seed=3):
    """Frames and flow, normalised."""
    return fill.clip(shape, seed), fill.clip(shape, seed + 100)


def is_unused(name):
    return name.rsplit(".", 1)[0] in UNUSED or name.startswith("RGBF_conv3.")


# Wrong input

@pytest.mark.parametrize("frame, flow, said", [
    ((7, 3, 32, 32), (7, 3, 32, 32), "a multiple of 5, got B = 7: repeat the last frame"), ((0, 3, 32, 32), (0, 3, 32, 32), "got B = 0"),
    ((5, 3, 32, 48), (5, 3, 32, 48), "divisible by 32, got 32 x 48"), ((5, 3, 0, 32), (5, 3, 0, 32), "got 0 x 32"),
    ((5, 3, 32, 32), (5, 3, 32, 64), r"one shape, got \(5, 3, 32, 32\) and \(5, 3, 32, 64\)"), ((5, 3, 32, 32), (5, 2, 32, 32), r"flow must be \(B, 3, h, w\), got \(5, 2, 32, 32\)"),
    ((3, 32, 32), (5, 3, 32, 32), r"frame must be \(B, 3, h, w\), got \(3, 32, 32\)"),
])
def test_input_of_another_shape_is_a_value_error_that_says_what_came_and_what_is_needed(model, frame, flow, said):
    with pytest.raises(ValueError, match=said):
        model(torch.zeros(frame), torch.zeros(flow))


@pytest.mark.parametrize("size", [(48, 64), (0, 0), (32, 64, 96), (32 * 10 ** 6, 32)])
def test_an_impossible_frame_size_is_a_value_error(size):
    with pytest.raises(ValueError, match="frame_size must be"):
        SMCF(frame_size=size)


# Parity

def test_the_state_dict_has_the_authors_names_and_shapes_in_their_order(model, shapes):
    assert [(name, list(t.shape)) for name, t in model.state_dict().items()] == list(shapes.items()) and len(shapes) == 2284
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(206e6, rel=2e-3)


@pytest.mark.parametrize("name", ["smcf", "smcf_batch10"])
def test_output_equals_the_golden_one(model, name):
    recorded = np.load(TESTS / "golden" / f"{name}.npz")
    assert recorded["gain"] == 0.9                                         # of the weights in `entries`
    frame, flow = (fill.clip(tuple(recorded["shape"]), int(recorded[seed])) for seed in ("seed", "flow_seed"))
    with torch.no_grad():
        saliency_logits, motion_logits = model(frame, flow)
    assert saliency_logits.shape == motion_logits.shape == (len(frame), 1, *frame.shape[2:])
    assert (saliency_logits - torch.from_numpy(recorded["saliency_logits"])).abs().max() < 1e-5
    assert (motion_logits - torch.from_numpy(recorded["motion_logits"])).abs().max() < 1e-5


def test_two_groups_in_a_batch_equal_each_alone_also_at_the_smallest_size(model):
    frame, flow = inputs((10, 3, 32, 32))
    with torch.no_grad():
        together = model(frame, flow)
        apart = [model(frame[group], flow[group]) for group in (slice(0, 5), slice(5, 10))]
    for output, halves in zip(together, zip(*apart)):
        assert output.shape == (10, 1, 32, 32) and (output - torch.cat(halves)).abs().max() < 1e-5


def test_frames_of_a_group_see_each_other_and_their_order_does_not_matter(model):
    frame, flow = inputs((5, 3, 32, 32))
    changed, order = frame.clone(), [3, 1, 4, 0, 2]
    changed[4] = 0
    with torch.no_grad():
        before, after, shuffled = (model(x, y)[0] for x, y in ((frame, flow), (changed, flow), (frame[order], flow[order])))
    assert (before - after)[0].abs().max() > 1e-6
    assert (before[order] - shuffled).abs().max() < 1e-5


def test_frames_of_another_shape_than_the_configured_one_keep_theirs(model):
    with torch.no_grad():
        assert model(*inputs((5, 3, 32, 64)))[1].shape == (5, 1, 32, 64)


# Attention and fusion

def test_attention_of_one_position_is_its_value_and_the_scale_is_that_of_all_channels():
    torch.manual_seed(0)
    attention = Attention(8, heads=2)
    x = torch.randn(1, 1, 8)
    torch.testing.assert_close(attention(x), attention.to_out(attention.to_qkv(x)[..., 16:]))
    x = torch.randn(2, 6, 8)
    q, k, v = attention.to_qkv(x).chunk(3, dim=-1)
    heads = [(q[..., h] @ k[..., h].mT / 8 ** 0.5).softmax(-1) @ v[..., h] for h in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(attention(x), attention.to_out(torch.cat(heads, dim=-1)))


def test_a_transformer_keeps_places_and_never_looks_across_groups():
    torch.manual_seed(0)
    transformer, x = Transformer(8, group=5, depth=1, hidden=6), torch.randn(10, 8, 2, 3)
    changed = x.clone()
    changed[2, :, 1, 2] = 0
    differs = (transformer(x) - transformer(changed)).abs().amax(1)        # (10, 2, 3)
    assert (differs[:5] > 0).all() and not differs[5:].any() and differs.argmax() == 2 * 6 + 5
    for layers in transformer.layers[0]:
        layers.fn = torch.nn.Identity()
    torch.testing.assert_close(transformer(x), 4 * x)


def test_fusion_adds_to_each_level_what_the_other_stream_has_there_and_coarser_of_its_own_input():
    fusion, added = CrossStackFusion(1).eval(), {}
    for number in range(1, 13):
        fusion.get_submodule(f"conv{number}").forward = lambda x, size, number=number: F.interpolate(x, size=size) + number
    for number in range(1, 9):
        fusion.get_submodule(f"conv_f{number}").forward = lambda x, number=number: added.setdefault(number, x).sum(1, keepdim=True)
    s, e = ([torch.full((1, 1, 2 ** (4 - i), 2 ** (4 - i)), float(first + i)) for i in range(4)] for first in (1, 5))
    new_s, new_e = fusion(s, e)                                            # s = 1, 2, 3, 4 and e = 5, 6, 7, 8
    assert [added[number][0, :, 0, 0].tolist() for number in (1, 2, 3, 4)] == [[1, 5, 7, 9, 11], [2, 6, 11, 13], [3, 7, 14], [4, 8]]
    assert [added[number].flatten()[0].item() for number in (5, 6, 7, 8)] == [5 * 9 * 11 * 13, 12 * 13 * 15, 21 * 16, 32]
    assert [t.flatten()[0].item() for t in new_s] == [34, 34, 27, 16] and [t.shape[-1] for t in new_e] == [16, 8, 4, 2]
    assert [t.flatten()[0].item() for t in new_e] == [5 + 6435, 6 + 2340, 7 + 336, 8 + 32]


# bfloat16

@needs_bfloat16
def test_bfloat16_autocast_stays_near_float32_and_the_logits_are_float32(model):
    frame, flow = inputs((5, 3, 64, 64))
    with torch.no_grad():
        exact = model(frame, flow)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(frame, flow)
    for precise, near in zip(exact, rounded):
        assert near.dtype == torch.float32 and 0 < (precise - near).abs().mean() < 0.02


@needs_bfloat16
def test_a_network_in_bfloat16_keeps_its_last_convolutions_and_its_logits_stay_near(model):
    frame, flow = inputs((5, 3, 64, 64))
    small = copy.deepcopy(model)
    assert small.bfloat16() is small
    last = ("output_s.output.1.", "output_e.output.1.")
    assert {p.dtype for name, p in small.named_parameters() if not name.startswith(last)} == {torch.bfloat16}
    with torch.no_grad():
        exact, rounded = model(frame, flow), small(frame.bfloat16(), flow.bfloat16())
    for precise, near in zip(exact, rounded):
        assert near.dtype == torch.float32 and len(near.unique()) > 0.9 * near.numel()
        assert 0 < (precise - near).abs().mean() < 0.04


# Before the network

def test_frames_are_resized_as_pil_does_and_travel_to_loader_processes():
    frame = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    with torch.device("meta"):
        prepare = SMCF(frame_size=(32, 64)).prepare
    prepared = pickle.loads(pickle.dumps(prepare))(frame)
    assert prepared.shape == (3, 32, 64) and prepared.dtype == torch.uint8
    np.testing.assert_array_equal(prepared.permute(1, 2, 0), np.array(Image.fromarray(frame).resize((64, 32), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (1, 3, 5, 4, 6)])
def test_images_and_clips_are_normalised_by_imagenets_mean_and_deviation(model, shape):
    images = torch.full(shape, 255, dtype=torch.uint8)
    normalised = model.normalise(images)
    assert normalised.shape == shape and normalised.dtype == torch.float32
    assert normalised.movedim(1, 0).flatten(1)[:, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert model.normalise(images * 0).amax().item() == pytest.approx(-0.406 / 0.225)


# After the network

@pytest.mark.parametrize("value", [0.0, 0.3, 40.0, -200.0])
@pytest.mark.parametrize("size", [(8, 12), (45, 80), (1, 1)])
def test_a_constant_map_becomes_zeros_whatever_its_size(model, value, size):
    assert torch.equal(model.finish(torch.full((2, 1, 8, 12), value), size), torch.zeros(2, *size))


def test_logits_go_through_the_sigmoid_are_resized_with_corners_aligned_and_stretched(model):
    logits = torch.logit(torch.tensor([[[0.2, 0.4], [0.6, 0.8]]]))
    finished = model.finish(logits, (3, 3))
    torch.testing.assert_close(finished, torch.tensor([[[0, 1, 2], [2, 3, 4], [4, 5, 6]]]) / 6)
    torch.testing.assert_close(model.finish(logits[:, None], (3, 3)), finished)


def test_maps_are_stretched_each_by_itself_after_the_resize(model):
    logits = fill.clip((1, 1, 32, 32))
    finished = model.finish(torch.cat([logits, logits * 0, logits * 0.1 - 3]), (20, 45))
    assert finished.shape == (3, 20, 45) and finished.amin((1, 2)).tolist() == [0, 0, 0] and finished.amax((1, 2)).tolist() == [1, 0, 1]


def test_maps_are_finished_in_float32_whatever_the_network_computed_in(model):
    logits = fill.clip((1, 1, 32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.finish(logits, (45, 80)), model.finish(logits.clone(), (45, 80)))
    assert model.finish(logits.bfloat16(), (45, 80)).dtype == torch.float32


def test_quantising_rounds(model):
    quantised = model.quantise(torch.tensor([[0, 0.0019, 0.002], [0.999, 0.997, 1]]))
    assert quantised.dtype == torch.uint8 and quantised.tolist() == [[0, 0, 1], [255, 254, 255]]


# Training

def test_in_training_everything_but_the_unused_parts_gets_a_finite_gradient(model):
    trained = copy.deepcopy(model).train()
    saliency_logits, motion_logits = trained(*inputs((5, 3, 32, 32)))
    (saliency_logits.square().mean() + motion_logits.square().mean()).backward()
    without = [name for name, p in trained.named_parameters() if p.grad is None]
    assert without and all(is_unused(name) for name in without)
    assert [name for name, p in trained.named_parameters() if p.requires_grad == (name in without)] == []
    assert [name for name, p in trained.named_parameters() if p.grad is not None and not (p.grad.isfinite().all() and p.grad.any())] == []


def test_parameter_groups_hold_what_learns_once_and_sgd_takes_them(model):
    group, = model.parameter_groups(0.002)
    held = {id(p) for p in group["params"]}
    assert len(held) == len(group["params"]) and held == {id(p) for name, p in model.named_parameters() if not is_unused(name)}
    assert group["lr"] == 0.002
    torch.optim.SGD([group], **model.recipe.optimizer_options)


# Weight files

def test_the_authors_file_loads_with_its_prefix_and_in_another_precision(released, entries):
    model = SMCF.from_pretrained(released)
    assert not model.training and not model.is_described and model.config == {"frame_size": [352, 352], **RESNET_50}
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.RGBF_conv3.conv_bn[0].weight.requires_grad
    assert all(torch.equal(t, entries[name].to(torch.bfloat16).to(t.dtype)) for name, t in model.state_dict().items())


def test_the_configuration_that_came_with_a_file_is_used_and_can_be_replaced(shapes, monkeypatch):
    monkeypatch.setattr(SMCF, "read_file", lambda path: (constants(shapes, 1), {"frame_size": [64, 96]}))
    monkeypatch.setattr("saliency_model.load_entries", lambda model, entries, source: None)
    model = SMCF.from_pretrained("a.pth")
    assert model.is_described and model.config == {"frame_size": [64, 96], **RESNET_50}
    assert model.prepare(np.zeros((45, 80, 3), np.uint8)).shape == (3, 64, 96)
    assert SMCF.from_pretrained("a.pth", frame_size=(32, 64)).prepare(np.zeros((45, 80, 3), np.uint8)).shape == (3, 32, 64)


@pytest.mark.parametrize("configuration", [{"num_recursions": 2}, {"frame_size": 32}, {"frame_size": "large"}, {"frame_size": [33, 64]}])
def test_a_configuration_that_does_not_fit_is_a_value_error(monkeypatch, shapes, configuration):
    monkeypatch.setattr(SMCF, "read_file", lambda path: (constants(shapes, 1), configuration))
    with pytest.raises(ValueError, match=r"a.pth does not fit SMCF|frame_size must be"):
        SMCF.from_pretrained("a.pth")


def test_another_networks_file_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, tmp_path / "resnet50.pth")
    torch.save({"backbone.norm.bias": torch.zeros(768), "convtsp1.0.weight": torch.zeros(96, 192, 2, 3, 3)}, tmp_path / "RecSalNet.pth")
    for name in ("resnet50.pth", "RecSalNet.pth"):
        with pytest.raises(ValueError, match=f"{name} does not hold SMCF: expected entries such as resnet.conv1_rgb.weight"):
            SMCF.from_pretrained(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent.pth: it does not exist"):
        SMCF.from_pretrained(tmp_path / "absent.pth")


@pytest.mark.parametrize("spoil, said", [
    (lambda e: e.pop("CSF2.conv7.conv.conv_bn.0.weight"), "1 missing: CSF2.conv7.conv.conv_bn.0.weight"),
    (lambda e: e.update(extra=torch.zeros(1)), "1 left over: extra"),
    (lambda e: e.update({"output_s.output.1.bias": torch.zeros(7)}), r"of another shape: output_s.output.1.bias \(7,\), expected \(1,\)"),
])
def test_an_entry_that_does_not_fit_is_named(monkeypatch, shapes, spoil, said):
    spoiled = constants(shapes, 1)
    spoil(spoiled)
    monkeypatch.setattr(SMCF, "read_file", lambda path: (spoiled, {}))
    with pytest.raises(ValueError, match=f"weights of a.pth do not fit SMCF: .*{said}"):
        SMCF.from_pretrained("a.pth")


# ResNet-50's file

@pytest.fixture
def imagenet(shapes):
    """torchvision's file, each entry filled with a number of its own, and the classifier."""
    names = [name.removeprefix("resnet.") for name in shapes if name.startswith("resnet.") and "_rgb" not in name and "_flow" not in name]
    trunk = {name: torch.tensor(float(number)).expand(shapes[f"resnet.{name}"]) for number, name in enumerate(names)}
    return {**trunk, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("ours, theirs", [
    ("conv1_rgb.weight", "conv1.weight"), ("bn1_flow.running_var", "bn1.running_var"), ("conv1.weight", "conv1.weight"),
    ("layer1_rgb.0.downsample.1.bias", "layer1.0.downsample.1.bias"), ("layer4_flow.2.bn3.bias", "layer4.2.bn3.bias"), ("layer3.5.conv2.weight", "layer3.5.conv2.weight"),
])
def test_names_in_the_trunks_are_resnets_without_the_streams(ours, theirs):
    assert name_in_resnet(ours) == theirs


def test_resnet_fills_all_three_trunks_leaves_the_rest_and_tells_what_it_has_no_place_for(scratch, shapes, imagenet):
    scratch.load_state_dict(constants(shapes, -1))
    assert scratch.load_start(imagenet, "resnet50.pth") == ["fc.weight", "fc.bias"]
    for name, t in scratch.state_dict().items():
        expected = imagenet[name_in_resnet(name.removeprefix("resnet."))] if name.startswith("resnet.") else torch.tensor(-1)
        assert (t == expected).all(), name


@pytest.mark.parametrize("missing", ["conv1.weight", "layer4.2.bn3.running_var"])
def test_a_resnet_file_without_an_entry_is_refused_by_its_name_there_and_changes_nothing(scratch, shapes, imagenet, missing):
    del imagenet[missing]
    scratch.resnet.layer1[0].conv1.weight.data.fill_(-1)
    with pytest.raises(ValueError, match=f"resnet50.pth does not hold the whole ResNet-50: 1 of 318 entries are missing, the first {missing}"):
        scratch.load_start(imagenet, "resnet50.pth")
    assert (scratch.resnet.layer1[0].conv1.weight == -1).all()


def test_a_resnet_file_with_an_entry_of_another_shape_is_refused_by_name(scratch, imagenet):
    imagenet["bn1.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"weights of resnet50.pth .* of another shape: bn1_rgb.bias \(3,\), expected \(64,\)"):
        scratch.load_start(imagenet, "resnet50.pth")


def test_a_resnet_file_older_than_batch_norms_counters_loads(scratch, imagenet):
    old = {name: t for name, t in imagenet.items() if not name.endswith("num_batches_tracked")}
    assert scratch.load_start(old, "resnet50.pth") == ["fc.weight", "fc.bias"]


# The stages of training

def test_of_two_whole_files_the_rgb_stages_wins_everywhere(scratch, shapes):
    assert scratch.load_stages(constants(shapes, 1), constants(shapes, 2), "flow.pth and rgb.pth") == []
    assert {t.float().mean().item() for t in scratch.state_dict().values()} == {2}


def test_what_a_partial_rgb_file_lacks_comes_from_the_flow_stage(scratch, shapes):
    rgb = constants(shapes, 2)
    del rgb["output_e.output.1.bias"]
    assert scratch.load_stages(constants(shapes, 1), rgb, "flow.pth and rgb.pth") == ["output_e.output.1.bias"]
    assert scratch.output_e.output[1].bias.item() == 1 and scratch.output_s.output[1].bias.item() == 2


def test_on_request_the_parts_that_see_only_the_flow_come_from_the_flow_stage(scratch, shapes):
    kept = scratch.load_stages(constants(shapes, 1), constants(shapes, 2), "flow.pth and rgb.pth", keep_flow=True)
    flows = [name for name in shapes if name.split(".")[1].endswith("_flow") or name.startswith(("atten_flow_", "reduce_m"))]
    assert kept == flows and len(kept) == 318 + 10 + 4 * 18
    assert all((t == (1 if name in flows else 2)).all() for name, t in scratch.state_dict().items())


def test_stages_that_lack_an_entry_both_are_refused(scratch, shapes):
    both = constants(shapes, 1)
    del both["CSF1.conv1.conv.conv_bn.0.weight"]
    with pytest.raises(ValueError, match=r"weights of flow.pth and rgb.pth do not fit SMCF: 1 missing: CSF1.conv1"):
        scratch.load_stages(both, both, "flow.pth and rgb.pth")
