import json
import pickle
import struct
import time

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TESTS, few_channels, needs_bfloat16
from parity import fill

from baselines import stsnet
from baselines.stsnet import SSNet, STSConvNet, STSMaxNet, TSNet, read_caffemodel
from saliency_model import gaussian_blur, mirrored_indices
from videos.optical_flow import components
from weights import check_entries

CLASSES = {"ssnet": SSNet, "tsnet": TSNet, "stsmaxnet": STSMaxNet, "stsconvnet": STSConvNet}


def shapes_of(name):
    """Name -> shape of every entry of a network, layers named as in Caffe."""
    return json.loads((TESTS / "manifests" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def entries():
    """The largest network's weights; the others' are among them."""
    return fill.weights(shapes_of("stsconvnet"), seed=1)


@pytest.fixture(scope="module")
def model():
    """Read-only for tests."""
    torch.manual_seed(0)
    return SSNet(frame_size=(24, 32)).eval()


@pytest.fixture(scope="module")
def fused():
    """Read-only for tests."""
    torch.manual_seed(0)
    return STSConvNet().eval()


@pytest.fixture
def small_layers(monkeypatch):
    few_channels(monkeypatch)


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Writing what Caffe writes, by hand

def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number, content):
    """A number, or bytes with their length, as a field of a protobuf message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def shape_of(*dims, packed=True):
    return field(7, field(1, b"".join(map(varint, dims))) if packed else b"".join(field(1, n) for n in dims))


def legacy_shape(*dims):
    return b"".join(field(number, n) for number, n in enumerate(dims, start=1))


def values_of(t, packed=True):
    values = np.asarray(t, "<f4").ravel()
    return field(5, values.tobytes()) if packed else b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in values)


def blob(t, legacy=False, packed=True, between=b""):
    shape = legacy_shape(*(1,) * (4 - t.ndim), *t.shape) if legacy else shape_of(*t.shape, packed=packed)
    return field(7, between + shape + between + values_of(t, packed) + between)


def layer(name, *blobs, kind="Convolution"):
    return field(100, field(1, name.encode()) + field(2, kind.encode()) + b"".join(blobs))


def caffemodel(entries, **kind):
    """The layers of a state dict, between some that have no weights."""
    names = dict.fromkeys(name.rsplit(".", 1)[0] for name in entries)
    blobs = {name: [blob(entries[f"{name}.{leaf}"], **kind) for leaf in ("weight", "bias") if f"{name}.{leaf}" in entries] for name in names}
    layers = [layer(name, *held) + layer(f"relu_{name}", kind="ReLU") for name, held in blobs.items()]
    return field(1, b"a net") + layer("data", kind="Input") + b"".join(layers)


SOME = {"conv1.weight": torch.arange(24.).view(2, 3, 2, 2) - 7.5, "conv1.bias": torch.tensor([0.1, -2]), "deconv1.weight": torch.ones(1, 1, 2, 2)}


@pytest.fixture
def reading(tmp_path):
    """Reads bytes as a file of Caffe's."""
    def read(content):
        (tmp_path / "a.caffemodel").write_bytes(content)
        return read_caffemodel(tmp_path / "a.caffemodel")
    return read


def assert_equal(found, expected):
    assert list(found) == list(expected)
    assert all(t.dtype == torch.float32 and t.shape == expected[name].shape and torch.equal(t, expected[name]) for name, t in found.items())


# Wrong input

@pytest.mark.parametrize("shape, said", [
    ((1, 3, 3, 64), r"frame must be \(B, 3, h, w\) with h and w 4 or more, got \(1, 3, 3, 64\)"), ((1, 3, 64, 0), r"got \(1, 3, 64, 0\)"),
    ((3, 64, 64), r"got \(3, 64, 64\)"), ((1, 1, 64, 64), r"got \(1, 1, 64, 64\)"), ((1, 3, 1, 64, 64), r"got \(1, 3, 1, 64, 64\)"),
])
def test_a_frame_of_another_shape_is_a_value_error_that_says_what_came_and_what_is_needed(model, shape, said):
    with pytest.raises(ValueError, match=said):
        model(torch.zeros(shape))


@pytest.mark.parametrize("flow, said", [((2, 3, 16, 16), "frame and flow must have the same shape"), ((1, 3, 16, 24), "the same shape"), ((1, 2, 16, 16), "flow must be")])
def test_a_flow_image_that_does_not_belong_to_the_frame_is_a_value_error(fused, flow, said):
    with pytest.raises(ValueError, match=said):
        fused(torch.zeros(1, 3, 16, 16), torch.zeros(flow))


@pytest.mark.parametrize("change", [{"frame_size": (3, 64)}, {"frame_size": (0, 0)}, {"frame_size": (64, 9000)}, {"frame_size": (32.5, 64)}, {"frame_size": (64,)}, {"flow_kind": "colour"}, {"flow_kind": None}])
def test_an_impossible_configuration_is_a_value_error_that_names_the_value(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        STSConvNet(**change)


# Parity

@pytest.mark.parametrize("name, millions", [("ssnet", 25.8), ("tsnet", 25.8), ("stsmaxnet", 40.7), ("stsconvnet", 41.2)])
def test_names_and_shapes_are_caffes_and_output_equals_the_golden_one(entries, name, millions):
    model, shapes = CLASSES[name]().eval(), shapes_of(name)
    assert {name: list(t.shape) for name, t in model.state_dict().items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1e6 * millions, rel=2e-3)
    model.load_state_dict({name: entries[name] for name in shapes})
    recorded = np.load(TESTS / "golden" / f"{name}.npz")
    inputs = [fill.clip(tuple(recorded["shape"]), int(recorded[seed])) for seed in ("seed", "flow_seed")][:len(model.suffixes)]
    with torch.no_grad():
        output = model(*inputs)
    np.testing.assert_allclose(output, recorded["output"][:, 0], atol=1e-4)


def test_only_the_networks_of_a_flow_need_one_and_all_take_frames_one_by_one():
    assert [c.needs_flow for c in CLASSES.values()] == [False, True, True, True]
    assert {(c.takes_stills, c.clip_len, c.frame_stride) for c in CLASSES.values()} == {(True, 1, 1)}


@pytest.mark.parametrize("size, left", [((4, 4), (4, 4)), ((5, 7), (4, 4)), ((16, 18), (16, 16)), ((27, 48), (24, 48)), ((6, 61), (4, 60))])
def test_any_size_from_four_pixels_on_works_and_the_output_is_four_times_what_the_poolings_leave(model, size, left):
    with torch.no_grad():
        output = model(torch.zeros(2, 3, *size))
    assert output.shape == (2, *left)
    assert model.finish(output, size).shape == (2, *size)


def test_sizes_are_caffes(model):
    def pooled(n):
        return -(-(n - 3) // 2) + 1                                        # Caffe: ceil((n - 3) / 2) + 1

    for n in range(4, 600):
        assert F.max_pool2d(torch.zeros(1, n, 3), 3, stride=2, ceil_mode=True).shape[1] == pooled(n)
    assert (4 * pooled(pooled(270)), 4 * pooled(pooled(480))) == (268, 480) and (4 * pooled(pooled(240)), 4 * pooled(pooled(320))) == (240, 320)


def test_normalisation_across_channels_comes_before_the_pooling_and_divides_alpha_by_five():
    x = torch.zeros(1, 8, 1, 1)
    x[0, 3], x[0, 5], x[0, 6] = 100, 50, 9
    expected = 100 / (1 + 1e-4 / 5 * (100 ** 2 + 50 ** 2)) ** 0.75         # channel 6 is three away
    assert stsnet.across_channels(x)[0, 3].item() == pytest.approx(expected)
    assert stsnet.across_channels(x.bfloat16()).dtype == torch.bfloat16


def test_the_larger_feature_passes_where_streams_are_fused_by_their_maximum(small_layers):
    model = STSMaxNet().eval()
    frame, flow = noise(2, 1, 3, 16, 16)
    with torch.no_grad():
        a, b = model.stream(frame, ""), model.stream(flow, "_b")
        assert torch.equal(model(frame, flow), model.tail(a.maximum(b))) and not torch.equal(a, b)


def test_streams_are_concatenated_frame_first_and_fused_without_relu(small_layers):
    model = STSConvNet().eval()
    torch.nn.init.dirac_(model.conv_fuse.weight)                           # takes the first half, the frame's
    torch.nn.init.constant_(model.conv_fuse.bias, -5)
    frame, flow = noise(2, 1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model.fuse(model.stream(frame, ""), model.stream(flow, "_b")), model.stream(frame, "") - 5)


def test_the_last_layer_starts_as_bilinear_enlargement():
    enlarge, x = stsnet.quadrupling(), noise(1, 1, 6, 8)
    expected = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarge(x)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])  # at the border, zeros come in


def test_signal_goes_through_all_layers_of_a_new_network_and_its_map_is_dark(fused):
    frame, flow = 2 * noise(2, 1, 3, 48, 64) - 1
    with torch.no_grad():
        before = [fused(*pictures) for pictures in ((frame, flow), (frame.flip(3), flow), (frame, flow.flip(3)))]
    inner = before[0][..., 8:-8, 8:-8]                                     # at the border, zeros come in
    assert 0 < fused.for_objective(inner).mean() < 0.06 and fused.for_objective(inner).std() < 0.05
    assert all((other - before[0]).abs().mean() > 1e-3 for other in before[1:])
    for name, layer in fused.named_children():
        if name != "deconv1":                                              # Caffe's "xavier": a variance of 1 / inputs, no bias
            assert layer.weight.var().item() == pytest.approx(1 / layer.weight[0].numel(), rel=0.1)
            assert torch.equal(layer.bias, torch.full_like(layer.bias, -0.95 if name == "conv9" else 0))


# bfloat16

@needs_bfloat16
def test_in_bfloat16_the_output_is_float32_and_stays_near(model):
    x = 2 * noise(1, 3, 24, 32) - 1
    rounded = SSNet().eval()
    rounded.load_state_dict(model.state_dict())
    assert rounded.bfloat16() is rounded
    assert {name.split(".")[0] for name, p in rounded.named_parameters() if p.dtype == torch.float32} == {"conv9", "deconv1"}
    with torch.no_grad():
        exact, halved = model(x), rounded(x.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(x)
    for output in (halved, cast):
        assert output.dtype == torch.float32 and 0 < (output - exact).abs().max() < 0.01


# Before the network

@pytest.mark.parametrize("size, prepared", [
    ((1, 1), (4, 4)), ((3, 9), (4, 9)), ((5, 7), (5, 7)), ((512, 512), (512, 512)), ((270, 480), (270, 480)),
    ((513, 5), (512, 5)), ((720, 1280), (288, 512)), ((601, 401), (512, 342)), ((4, 2000), (4, 512)),
])
def test_small_frames_stay_and_large_ones_are_shrunk_to_fit_512(fused, size, prepared):
    frame = picture(*size)
    found = pickle.loads(pickle.dumps(fused.prepare))(frame)
    assert found.shape == (3, *prepared) and found.dtype == torch.uint8
    np.testing.assert_array_equal(found.permute(1, 2, 0), frame if size == prepared else cv2.resize(frame, prepared[::-1], interpolation=cv2.INTER_LINEAR))


def test_with_a_size_frames_are_resized_by_area_and_travel_to_loader_processes(model):
    frame = picture(45, 80)
    prepared = pickle.loads(pickle.dumps(model.prepare))(frame)
    np.testing.assert_array_equal(prepared.permute(1, 2, 0), cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(model.prepare(frame[..., ::-1]), prepared.flip(0))


@pytest.mark.parametrize("size", [None, (24, 32)])
def test_a_prepared_frame_is_not_shared(size):
    frame = np.full((24, 32, 3), 7, np.uint8)
    prepared = stsnet.prepare_frame(frame, size)
    frame[:] = 0
    assert (prepared == 7).all()


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 1, 1, 1)])
def test_pixels_are_levels_minus_the_mean_divided_by_half_of_255(model, shape):
    pixel = torch.tensor([0, 110, 255], dtype=torch.uint8).view(shape)
    found = model.normalise(pixel)
    assert found.dtype == torch.float32 and found.shape == shape
    assert found.flatten().tolist() == pytest.approx([-0.78431372549, 0, 137 * 2 / 255])
    torch.testing.assert_close(model.normalise(torch.cat([pixel, pixel])), torch.cat([found, found]))


def test_a_flow_image_is_prepared_and_normalised_as_a_frame_is():
    model = STSConvNet(frame_size=(24, 32), flow_kind="wheel")
    assert model.flow_picture == "wheel" and model.config == {"frame_size": [24, 32], "flow_kind": "wheel"} and json.dumps(model.config)
    image = model.prepare(components(np.zeros((45, 80, 2), np.float32)))
    assert (image == 128).all() and image.shape == (3, 24, 32)
    assert model.normalise(image[None])[0, :, 0, 0].tolist() == pytest.approx([28 * 2 / 255, 18 * 2 / 255, 10 * 2 / 255])


# After the network

def test_a_map_that_ends_at_zero_stays_zeros_and_another_constant_one_becomes_ones(model):
    found = model.finish(torch.tensor([-1., -0.9, 0, 5]).view(4, 1, 1).expand(4, 24, 32), (50, 70))
    assert found.shape == (4, 50, 70) and not found[0].any()
    torch.testing.assert_close(found[1:], torch.ones(3, 50, 70))


def as_opencv_does(output, size):
    """One map, plainly: levels, resized, blurred, stretched; float64 levels from 0 to 255."""
    levels = (output * np.float32(128) + np.float32(127)).clip(0, 255)
    levels = cv2.GaussianBlur(cv2.resize(levels, size[::-1], interpolation=cv2.INTER_CUBIC), (5, 5), 0).clip(0, 255)
    return levels.astype(np.float64) / levels.max() * 255


@pytest.mark.parametrize("height, width", [(24, 32), (50, 70), (97, 33), (11, 13), (2, 3), (1, 40), (240, 320)])
def test_finished_and_quantised_maps_are_those_that_opencv_makes(model, height, width):
    output = 3 * noise(1, 24, 32) - 1.5                                    # beyond both ends
    expected = as_opencv_does(output[0].numpy(), (height, width))
    finished = model.finish(output, (height, width))[0]
    assert finished.max() == 1 and finished.min() >= 0
    np.testing.assert_allclose(255 * finished, expected, atol=1e-3)
    quantised = model.quantise(finished).numpy()
    certain = abs(expected - expected.round()) > 1e-3                      # others may fall to either side
    assert quantised.dtype == np.uint8 and quantised.max() == 255
    np.testing.assert_array_equal(quantised[certain], expected.astype(np.uint8)[certain])


def test_maps_are_stretched_each_by_its_own_maximum(model):
    output = noise(1, 24, 32)
    together = model.finish(torch.cat([output - 1, torch.full_like(output, -2), output]), (24, 32))
    assert together.amax(dim=(1, 2)).tolist() == [1, 0, 1]
    torch.testing.assert_close(together[2:], model.finish(output, (24, 32)))


@pytest.mark.parametrize("size", [(20, 30), (2, 2), (1, 1), (1, 7), (3, 2)])
def test_the_blur_is_opencvs_also_where_the_map_is_smaller_than_the_kernel(size):
    maps = noise(1, 1, *size)
    np.testing.assert_allclose(gaussian_blur(maps[:, 0], torch.tensor([1, 4, 6, 4, 1]) / 16)[0], cv2.GaussianBlur(maps[0, 0].numpy(), (5, 5), 0), atol=1e-6)


def test_an_axis_is_continued_without_its_edges_as_often_as_needed():
    indices = [mirrored_indices(n, 3, False, torch.device("cpu")).tolist() for n in (1, 2, 4)]
    assert indices == [[0] * 7, [1, 0, 1, 0, 1, 0, 1, 0], [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]]


def test_quantising_cuts_off(model):
    assert model.quantise(torch.tensor([[0, 0.999, 1], [0.5, 0.0039, 0.004]])).tolist() == [[0, 254, 255], [127, 0, 1]]


@pytest.mark.parametrize("size", [(24, 32), (50, 70)])
def test_maps_are_finished_in_float32_whatever_the_network_computed_in(model, size):
    output = noise(1, 24, 32)
    with torch.autocast("cpu", torch.bfloat16):
        finished = model.finish(output, size)
    assert finished.dtype == torch.float32 and torch.equal(finished, model.finish(output, size))
    assert model.finish(output.bfloat16(), size).dtype == torch.float32


# Training

@pytest.mark.parametrize("name", CLASSES)
def test_a_gradient_reaches_every_parameter_and_sgd_takes_them_once(small_layers, name):
    torch.manual_seed(0)
    model = CLASSES[name]().train()
    model(*noise(len(model.suffixes), 1, 3, 16, 16)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()] == []
    model.conv1.requires_grad_(False)
    groups = model.parameter_groups(model.recipe.lr)
    torch.optim.SGD(groups, **model.recipe.optimizer_options)
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for name, p in model.named_parameters() if not name.startswith("conv1.")}


# Weight files

@pytest.mark.parametrize("name", CLASSES)
def test_a_state_dict_loads_with_the_configuration_beside_it(small_layers, tmp_path, name):
    saved = CLASSES[name](frame_size=(24, 32))
    torch.save({"module." + n: t for n, t in saved.state_dict().items()}, tmp_path / "a.pth")
    plain = CLASSES[name].from_pretrained(tmp_path / "a.pth")
    assert not plain.is_described and not plain.training and plain.config["frame_size"] is None
    assert_equal(dict(plain.state_dict()), dict(saved.state_dict()))
    (tmp_path / "a.json").write_text(json.dumps({"configuration": saved.config}))
    described = CLASSES[name].from_pretrained(tmp_path / "a.pth")
    assert described.is_described and described.config == saved.config
    changes = {"flow_kind": "wheel"} if described.needs_flow else {}
    assert CLASSES[name].from_pretrained(tmp_path / "a.pth", frame_size=(8, 9), **changes).config == {"frame_size": [8, 9], **changes}


def test_the_released_kind_of_file_loads(tmp_path, entries):
    (tmp_path / "stsconvnet.caffemodel").write_bytes(caffemodel(entries))
    model = STSConvNet.from_pretrained(tmp_path / "stsconvnet.caffemodel", frame_size=(24, 32))
    assert not model.training and not model.is_described and model.config["frame_size"] == [24, 32]
    assert all(torch.equal(t, entries[name]) for name, t in model.state_dict().items())
    with pytest.raises(ValueError, match="stsconvnet.caffemodel does not hold STSMaxNet: expected entries such as deconv1.weight and conv5_b.weight, without conv_fuse.weight"):
        STSMaxNet.from_pretrained(tmp_path / "stsconvnet.caffemodel")


@pytest.mark.parametrize("held, asked", [(held, asked) for held in ("ssnet", "stsmaxnet", "stsconvnet") for asked in CLASSES if asked != held and {held, asked} != {"ssnet", "tsnet"}])
def test_another_of_the_four_networks_files_is_refused(tmp_path, held, asked):
    torch.save({name: torch.zeros(1) for name in shapes_of(held)}, tmp_path / f"{held}.pth")
    with pytest.raises(ValueError, match=f"{held}.pth does not hold {CLASSES[asked].__name__}: expected entries such as deconv1.weight"):
        CLASSES[asked].from_pretrained(tmp_path / f"{held}.pth")


def test_ssnet_and_tsnet_are_told_apart_by_their_configurations(small_layers, tmp_path):
    torch.save(SSNet().state_dict(), tmp_path / "a.pth")
    for asked, other in ((SSNet, TSNet), (TSNet, SSNet)):
        (tmp_path / "a.json").write_text(json.dumps({"configuration": other().config}))
        with pytest.raises(ValueError, match=f"a.pth does not fit {asked.__name__}: .*flow_kind"):
            asked.from_pretrained(tmp_path / "a.pth")


@pytest.mark.parametrize("configuration", [{"frame_size": 32, "flow_kind": "wheel"}, {"frame_size": [1, 1], "flow_kind": "wheel"}, {"flow_kind": ["wheel"]}, {"flow_kind": "wheel", "clip_len": 3}])
def test_a_configuration_that_does_not_fit_is_a_value_error(small_layers, tmp_path, configuration):
    torch.save(TSNet().state_dict(), tmp_path / "a.pth")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": configuration}))
    with pytest.raises(ValueError, match=r"a.pth does not fit TSNet|frame_size must be|flow_kind must be"):
        TSNet.from_pretrained(tmp_path / "a.pth")


@pytest.mark.parametrize("spoil, said", [
    (lambda e: e.pop("conv4.bias"), "1 missing: conv4.bias"),
    (lambda e: e.update({"ip.weight": torch.zeros(1)}), "1 left over: ip.weight"),
    (lambda e: e.update({"conv7.weight": torch.zeros(7, 8, 3, 3)}), r"of another shape: conv7.weight \(7, 8, 3, 3\), expected \(8, 8, 3, 3\)"),
])
@pytest.mark.parametrize("ending", ["pth", "caffemodel"])
def test_an_entry_that_does_not_fit_is_named_with_both_shapes(small_layers, tmp_path, spoil, said, ending):
    spoiled, path = dict(SSNet().state_dict()), tmp_path / f"a.{ending}"
    spoil(spoiled)
    path.write_bytes(caffemodel(spoiled)) if ending == "caffemodel" else torch.save(spoiled, path)
    with pytest.raises(ValueError, match=said):
        SSNet.from_pretrained(path)


def test_other_networks_files_and_absent_ones_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    (tmp_path / "folder.caffemodel").mkdir()
    with pytest.raises(ValueError, match="other.pth does not hold SSNet"):
        SSNet.from_pretrained(tmp_path / "other.pth")
    for name, said in (("absent.caffemodel", "does not exist"), ("absent.pth", "does not exist"), ("folder.caffemodel", "is a folder")):
        with pytest.raises(FileNotFoundError, match=f"{name}: it {said}"):
            SSNet.from_pretrained(tmp_path / name)


# Caffe's files

UNKNOWN = field(99, 300) + field(8, b"12345678") + varint(1000 << 3 | 1) + bytes(8) + varint(77 << 3 | 5) + bytes(4) + field(6, b"")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("between", [b"", UNKNOWN])
def test_every_form_of_a_blob_is_read_and_unknown_fields_are_passed_over(reading, legacy, packed, between):
    assert_equal(reading(between + caffemodel(SOME, legacy=legacy, packed=packed, between=between) + between), SOME)


def test_values_may_come_in_pieces_and_a_shape_goes_before_an_old_one(reading):
    pieces = values_of([1, 2]) + values_of([3], packed=False) + shape_of(2, 1, 1, 2) + legacy_shape(9, 9, 9, 9) + values_of([4])
    assert_equal(reading(layer("a", field(7, pieces))), {"a.weight": torch.tensor([1., 2, 3, 4]).view(2, 1, 1, 2)})


def test_fields_of_another_wire_type_than_theirs_are_unknown_ones(reading):
    odd = field(1, 7) + field(7, 7) + varint(1 << 3 | 5) + bytes(4)
    assert_equal(reading(field(2, 1) + field(100, 7) + field(100, odd + field(1, b"a") + blob(torch.ones(1)))), {"a.weight": torch.ones(1)})


def test_what_was_read_can_be_written_to(reading):
    found = reading(caffemodel(SOME))["conv1.weight"]
    found += 1
    assert torch.equal(found, SOME["conv1.weight"] + 1)


@pytest.mark.parametrize("kind", [{}, {"legacy": True, "packed": False}])
def test_a_file_cut_off_anywhere_is_a_value_error_or_lacks_whole_layers(reading, kind):
    content = caffemodel({"a.weight": torch.ones(1, 1, 1, 2), "a.bias": torch.ones(1), "b.weight": torch.ones(1, 1, 1, 1)}, **kind)
    whole = 0
    for length in range(len(content)):
        try:
            assert list(reading(content[:length])) in (["a.weight", "a.bias"], ["a.weight", "a.bias", "b.weight"])
            whole += 1
        except ValueError as error:
            assert "a.caffemodel" in str(error)
    assert whole == 3                                                      # behind a, behind its ReLU, behind b


@pytest.mark.parametrize("content, said", [
    (b"", "no layer with weights"),
    (layer("data"), "no layer with weights"),
    (b"name: \"net\"\nlayer {\n  name: \"conv1\"\n}\n", "at byte"),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), "at byte"),
    (b"PK\x03\x04" + bytes(50), "at byte"),
    (b"\xff" * 40, "number at byte 0 has more than 10 bytes"),
    (b"\x08" + b"\x80" * 10 ** 6, "number at byte 1 has more than 10 bytes"),
    (b"\x08" + b"\x80" * 5, "number at byte 1 is cut off after 5 bytes"),
    (b"\x00\x00", "at byte 0 is no field"),
    (b"\x0b" * 10 ** 6, "at byte 0 is no field that Caffe writes, but number 1 of wire type 3"),
    (b"\x0c", "wire type 4"), (b"\x0e", "wire type 6"), (b"\x0f", "wire type 7"),
    (varint(2 ** 40 << 3) + b"\x00", "at byte 0 is no field"),
    (varint(100 << 3 | 2) + varint(2 ** 63), "at byte 0 should have 9223372036854775808 bytes, but 0 are left"),
    (b"\x0a\x05abcd", "at byte 0 should have 5 bytes, but 4 are left"),
    (b"\x09abcd", "should have 8 bytes"), (b"\x0dabc", "should have 4 bytes"),
    (field(1, b"net") + field(2, layer("conv1")), "at byte 7 is a layer of the V1 format.*upgrade_net_proto_binary"),
    (layer("a", field(7, shape_of(2, 3) + values_of([1] * 5))), r"a.weight at byte \d+ has shape \(2, 3\) and 20 bytes of values"),
    (layer("a", field(7, shape_of(1) + field(5, b"abc"))), "3 bytes of values"),
    (layer("a", field(7, shape_of(2 ** 40, 2 ** 40) + values_of([1]))), "has shape"),
    (layer("a", field(7, shape_of(2 ** 64 - 1) + values_of([1]))), "has shape"),
    (layer("a", field(7, shape_of(0, 2 ** 63))), "and 0 bytes"),
    (layer("a", field(7, values_of([1]) + legacy_shape(1, 1, 1))), r"shape \(1, 1, 1, 0\)"),
    (layer("a", field(7, values_of([1]))), r"shape \(0, 0, 0, 0\)"),
    (layer("a", field(7, legacy_shape(1, 1, 1, 2 ** 62))), "has shape"),
    (layer("a", field(7, shape_of(*[1] * 40) + values_of([1]))), "more than 32 dimensions"),
    (layer("a", field(7, shape_of(*[2 ** 62] * 10 ** 5, packed=False) + values_of([1]))), "more than 32 dimensions"),
    (layer("a", field(7, field(7, field(1, b"\x80")))), "is cut off after 1 bytes"),
    (layer("a", field(7, field(7, field(1, b"\x01" + b"\x80" * 20)))), "has more than 10 bytes"),
    (layer("a", *[blob(torch.ones(1))] * 3), "layer 'a' .* more than a weight and a bias"),
    (layer("a", *[b"\x3a\x00"] * 10 ** 5), "more than a weight and a bias"),
    (layer("a", blob(torch.ones(1))) * 2, "not the first of this name"),
    (b"\x0a" * 10 ** 5, "at byte"),
])
def test_what_is_no_whole_file_of_caffes_is_a_value_error_that_says_what_is_wrong_and_where_and_quickly(reading, content, said):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=rf"a.caffemodel \({len(content)} bytes\) cannot be read as a Caffe model: .*{said}"):
        reading(content)
    assert time.perf_counter() - start < 1


def test_random_changes_of_a_file_end_in_a_value_error_or_other_entries(reading):
    content, rng = caffemodel(SOME, between=UNKNOWN), np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(content)
        for position in rng.integers(0, len(changed), 3):
            changed[position] = rng.integers(0, 256)
        try:
            assert all(t.numel() <= len(content) for t in reading(bytes(changed)).values())
        except ValueError as error:
            assert "cannot be read as a Caffe model" in str(error)


def test_places_in_messages_count_from_the_files_beginning(reading):
    start = layer("first", blob(torch.ones(3)))
    bad = layer("a", field(7, shape_of(2) + values_of([1])))
    with pytest.raises(ValueError) as raised:
        reading(start + bad)
    named = int(str(raised.value).split("a.weight at byte ")[1].split()[0])
    assert (start + bad)[named:] == shape_of(2) + values_of([1])


def test_a_configuration_beside_a_caffemodel_is_used(small_layers, tmp_path):
    (tmp_path / "a.caffemodel").write_bytes(caffemodel(TSNet().state_dict()))
    (tmp_path / "a.json").write_text(json.dumps({"configuration": {"frame_size": [240, 320], "flow_kind": "wheel"}}))
    model = TSNet.from_pretrained(tmp_path / "a.caffemodel")
    assert model.is_described and model.config == {"frame_size": [240, 320], "flow_kind": "wheel"}
    check_entries(model, read_caffemodel(tmp_path / "a.caffemodel"), "a.caffemodel")
