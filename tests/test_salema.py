import functools
import json
import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from conftest import TESTS, needs_bfloat16
from parity import fill

from baselines import salema
from baselines.salema import SalCLSTM30, SalCLSTM56, SalEMA, SalGAN
from saliency_model import map_state

NETWORKS = [SalGAN, SalEMA, SalCLSTM30, SalCLSTM56]
detached = functools.partial(map_state, torch.Tensor.detach)            # as train.py carries a state from clip to clip
CONSTANT = 1 / (1 + math.exp(-0.1))                                        # sigmoid(0.1), 0.525


def manifest_of(network):
    return json.loads((TESTS / "manifests" / f"{network.__name__.lower()}.json").read_text())


@pytest.fixture(scope="module")
def drawn():
    """The entries of all state dicts as the golden outputs were recorded with; those of one name and shape are drawn once."""
    shapes = {(name, tuple(shape)) for network in NETWORKS for name, shape in manifest_of(network).items()}
    return {(name, shape): fill.weights({name: shape})[name] for name, shape in shapes}


@pytest.fixture(scope="module")
def full_sized(drawn):
    """Builds a network with those entries."""
    def build(network, **changes):
        model = network(**changes)
        model.load_state_dict({name: drawn[name, tuple(t.shape)] for name, t in model.state_dict().items()})
        return model.eval()
    return build


@pytest.fixture
def small(monkeypatch):
    """Builds a network of the same layers with few channels: what the list of stages says is all there is to say."""
    monkeypatch.setattr(salema, "STAGES", ((4, 4), (6, 6), (8, 8, 8), (10, 10, 10), (10, 10, 10)))

    def build(network, **changes):
        torch.manual_seed(0)
        model = network(**changes)
        return filled(model, gain=1.4).eval()
    return build


def filled(model, gain):
    entries = fill.weights({name: tuple(t.shape) for name, t in model.state_dict().items()}, seed=2, gain=gain)
    model.load_state_dict(entries)
    return model


def frames(count, batch=1, size=(32, 48), seed=3):
    return fill.clip((batch, 3, count, *size), seed)


# Wrong input

@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape, said", [
    ((1, 3, 2, 32, 40), "divisible by 16, got 32 x 40"), ((1, 3, 2, 8, 32), "got 8 x 32"), ((1, 3, 2, 0, 32), "got 0 x 32"),
    ((1, 1, 2, 32, 32), r"\(B, 3, T, h, w\) with T = 1 or more, got \(1, 1, 2, 32, 32\)"), ((1, 3, 0, 32, 32), r"got \(1, 3, 0, 32, 32\)"), ((3, 2, 32, 32), r"got \(3, 2, 32, 32\)"),
])
def test_a_clip_of_another_shape_is_a_value_error_that_says_what_came_and_what_is_needed(small, network, shape, said):
    model = small(network)
    for run in (model, model.maps):
        with pytest.raises(ValueError, match=f"clip must .*{said}"):
            run(torch.zeros(shape))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape, said", [((1, 3, 32, 40), "got 32 x 40"), ((1, 3, 1, 32, 32), r"got \(1, 3, 1, 32, 32\)"), ((1, 4, 32, 32), r"got \(1, 4, 1, 32, 32\)")])
def test_a_frame_of_another_shape_is_a_value_error(small, network, shape, said):
    with pytest.raises(ValueError, match=f"must .*{said}"):
        small(network).step(torch.zeros(shape), None)


@pytest.mark.parametrize("network", [SalEMA, SalCLSTM30, SalCLSTM56])
@pytest.mark.parametrize("other", [{"batch": 2}, {"size": (16, 48)}])
def test_the_state_of_other_frames_is_refused_and_not_broadcast(small, network, other):
    model = small(network)
    with torch.no_grad():
        _, state = model.maps(frames(1, **other))
        with pytest.raises(ValueError, match="belongs to frames of another number or size.*start every video with None"):
            model.maps(frames(1), state)


def test_the_state_of_another_number_of_locations_is_refused(small):
    with torch.no_grad():
        _, state = small(SalEMA).maps(frames(1))
        with pytest.raises(ValueError, match=r"one tensor for each of the layers \(7, 30\), got 1"):
            small(SalEMA, ema_loc=(7, 30)).maps(frames(1), state)


@pytest.mark.parametrize("change", [
    *({"ema_loc": value} for value in (-1, 62, 30.0, True, "30", None, (30,), (30, 7), (7, 7), (7, 62), (7, 30, 54), ())),
    *({"alpha": value} for value in ("fixed", None, True, math.nan, math.inf)), {"alpha": 1.5, "ema_loc": (7, 30)}, {"alpha": -0.1, "ema_loc": (7, 30)},
    *({"residual": True, "ema_loc": value} for value in (0, 4, 36, 44, 60, 61, (7, 10))), {"residual": 1}, {"dropout": "yes"},
    {"frame_size": (50, 64)}, {"frame_size": (0, 0)}, {"frame_size": (16, 16, 16)},
])
def test_an_impossible_configuration_is_a_value_error_that_names_the_value(small, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SalEMA(**change)


@pytest.mark.parametrize("network, change", [(SalCLSTM30, {"residual": "no"}), (SalCLSTM30, {"frame_size": (24, 32)}), (SalCLSTM56, {"frame_size": (16, 8208)})])
def test_so_it_is_for_the_siblings(small, network, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        network(**change)


# Parity

@pytest.mark.parametrize("network", NETWORKS)
def test_the_state_dict_has_the_authors_names_and_shapes(network):
    with torch.device("meta"):
        entries = network().state_dict()
    assert {name: list(t.shape) for name, t in entries.items()} == manifest_of(network)


def test_a_constant_alpha_is_in_no_state_dict_and_no_parameter():
    with torch.device("meta"):
        model = SalEMA(alpha=0.1)
    assert model.state_dict().keys() == manifest_of(SalGAN).keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("name, network, changes", [
    ("salgan", SalGAN, {}), ("salema", SalEMA, {}), ("salema_residual", SalEMA, {"alpha": 0.1, "residual": True}), ("salclstm30", SalCLSTM30, {}), ("salclstm56", SalCLSTM56, {}),
])
def test_output_equals_the_golden_one_frame_by_frame(full_sized, name, network, changes):
    recorded = np.load(TESTS / "golden" / f"{name}.npz")
    expected = torch.from_numpy(recorded["saliency"]).reshape(-1, 1, 64, 96)
    clip, state = fill.clip(tuple(recorded["shape"]), int(recorded["seed"])), None
    model = full_sized(network, **changes)
    with torch.no_grad():
        for number, saliency in enumerate(expected):                       # of SalGAN only the first one is recorded
            output, state = model.step(clip[:, :, number], state)
            assert output.shape == saliency.shape and (output - saliency).abs().max() < 1e-5


# Time

@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("count", [1, 3])
def test_forward_gives_the_map_of_the_last_step_and_maps_gives_all(small, network, count):
    model, clip, outputs, state = small(network), frames(count, batch=2), [], None
    with torch.no_grad():
        for frame in clip.unbind(2):
            output, state = model.step(frame, state)
            outputs.append(output)
        maps, last = model.maps(clip)
        assert torch.equal(model(clip), outputs[-1]) and torch.equal(maps, torch.stack(outputs, dim=1))
    assert maps.shape == (2, count, 32, 48) and 0 < maps.min() and maps.max() < 1
    assert last is None if network is SalGAN else torch.equal(last[0], state[0])


@pytest.mark.parametrize("network, changes", [*((network, {}) for network in NETWORKS), (SalEMA, {"ema_loc": (7, 30), "residual": True}), (SalEMA, {"ema_loc": 61})])
def test_a_clip_cut_in_two_with_the_state_carried_equals_the_whole(small, network, changes):
    model, clip = small(network, **changes), frames(5)
    with torch.no_grad():
        whole, _ = model.maps(clip)
        first, state = model.maps(clip[:, :, :2])
        second, _ = model.maps(clip[:, :, 2:], detached(state))
        alone, _ = model.maps(clip[:, :, 2:])
    assert torch.equal(torch.cat([first, second], dim=1), whole)
    assert torch.equal(alone, second) == (network is SalGAN)               # all others remember the first two


@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_of_two_equals_two_batches_of_one(small, network):
    model, clip = small(network), frames(2, batch=2)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), torch.cat([model(clip[:1]), model(clip[1:])]), atol=1e-6, rtol=0)


def test_a_detached_state_keeps_its_values_and_loses_its_past(small):
    assert detached(None) is None
    for network in (SalEMA, SalCLSTM30):
        _, state = small(network).maps(frames(1))
        states, cut = ((s,) if isinstance(s, torch.Tensor) else s for s in (state, detached(state)))
        assert all(torch.equal(a, b) and a.requires_grad and not b.requires_grad for a, b in zip(states, cut))
    assert type(detached(state)) is tuple


@pytest.mark.parametrize("network", [SalEMA, SalCLSTM30, SalCLSTM56])
def test_the_last_frames_gradient_reaches_the_first_frame_within_a_clip(small, network):
    clip = frames(3).requires_grad_()
    small(network)(clip).sum().backward()
    assert clip.grad[:, :, 0].abs().sum() > 0


# The moving average

@pytest.mark.parametrize("residual", [False, True])
def test_a_constant_alpha_goes_through_the_sigmoid_and_the_carried_state_is_without_the_residual(small, residual):
    model, clip = small(SalEMA, alpha=0.1, residual=residual), frames(3)
    with torch.no_grad():
        (maps, state), s = model.maps(clip), None
        for number, frame in enumerate(clip.unbind(2)):
            encoded = model.salgan[:30](frame)
            new = model.salgan[30](encoded)
            s = new if s is None else CONSTANT * new + (1 - CONSTANT) * s
            expected = model.salgan[31:](s + encoded if residual else s)[:, 0]
            torch.testing.assert_close(maps[:, number], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(state, s)


def test_a_learnt_alpha_starts_at_a_quarter_and_receives_a_gradient_from_the_second_frame_on(small):
    assert SalEMA().alpha.tolist() == [0.25]
    model = small(SalEMA)
    model(frames(1)).sum().backward()
    assert model.alpha.grad is None                                        # s_1 knows no alpha
    model(frames(2)).sum().backward()
    assert model.alpha.grad.abs() > 0


@pytest.mark.parametrize("residual", [False, True])
def test_two_locations_take_alpha_as_it_is_and_carry_what_they_pass_on(small, residual):
    model, clip = small(SalEMA, alpha=0.3, ema_loc=(7, 30), residual=residual), frames(3)
    with torch.no_grad():
        (maps, state), early, late = model.maps(clip), None, None
        for number, frame in enumerate(clip.unbind(2)):
            before = model.salgan[:7](frame)
            new = model.salgan[7](before)
            early = (new if early is None else 0.3 * new + 0.7 * early) + residual * before
            before = model.salgan[8:30](early)
            new = model.salgan[30](before)
            late = (new if late is None else 0.3 * new + 0.7 * late) + residual * before
            torch.testing.assert_close(maps[:, number], model.salgan[31:](late)[:, 0], atol=1e-6, rtol=0)
    assert type(state) is tuple
    torch.testing.assert_close(state, (early, late))


def test_averaging_the_last_layer_averages_the_maps(small):
    model, clip = small(SalEMA, alpha=0.1, ema_loc=61), frames(2)
    with torch.no_grad():
        first, second = (model.salgan(frame)[:, 0] for frame in clip.unbind(2))
        torch.testing.assert_close(model(clip), CONSTANT * second + (1 - CONSTANT) * first)


def test_dropout_drops_whole_channels_of_the_layers_input_in_training_and_the_residual_is_taken_before(small):
    model, seen = small(SalEMA, dropout=True, residual=True), {}
    model.salgan[29].register_forward_hook(lambda layer, given, output: seen.update(encoded=output))
    model.salgan[30].register_forward_hook(lambda layer, given, output: seen.update(dropped=given[0], new=output))
    model.salgan[31].register_forward_hook(lambda layer, given, output: seen.update(passed=given[0]))
    model.train()
    with torch.no_grad():
        model(frames(1, batch=4))
    kept = seen["dropped"].flatten(2).any(dim=2)                           # (4, 10)
    alive = seen["encoded"].flatten(2).any(dim=2)
    assert 0 < (kept & alive).sum() < alive.sum()
    torch.testing.assert_close(seen["dropped"], 2 * seen["encoded"] * kept[..., None, None])
    torch.testing.assert_close(seen["passed"], seen["new"] + seen["encoded"])


def test_dropout_changes_nothing_at_inference_and_is_off_unless_asked_for(small):
    with_dropout, without, clip = small(SalEMA, dropout=True), small(SalEMA), frames(2)
    with torch.no_grad():
        assert torch.equal(with_dropout(clip), without(clip))
        assert torch.equal(without.train()(clip), without(clip))
        assert not torch.equal(with_dropout.train()(clip), without(clip))


# The convolutional LSTM

def test_the_convolutional_lstm_passes_on_its_cell_and_the_residual_adds_the_encoders_output(small):
    model, clip = small(SalCLSTM30, residual=True), frames(2)
    with torch.no_grad():
        maps, state = model.maps(clip)
        hidden = cell = torch.zeros(1, 10, 2, 3)
        for number, frame in enumerate(clip.unbind(2)):
            encoded = model.salgan[:30](frame)
            i, f, o, g = model.Gates(torch.cat([encoded, hidden], dim=1)).split(10, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            torch.testing.assert_close(maps[:, number], model.salgan[30:](cell + encoded)[:, 0], atol=1e-6, rtol=0)
        _, plain = small(SalCLSTM30).maps(clip)
    torch.testing.assert_close(state, (hidden, cell))
    torch.testing.assert_close(state, plain)


# From the frame to the map

def test_a_prepared_frame_equals_opencvs_area_resize_and_preparing_travels_to_other_processes():
    with torch.device("meta"):
        model = SalEMA(frame_size=(48, 64))
    frame = np.random.default_rng(0).integers(0, 256, (90, 161, 3), dtype=np.uint8)
    prepared = pickle.loads(pickle.dumps(model.prepare))(frame)
    assert prepared.dtype == torch.uint8 and prepared.shape == (3, 48, 64)
    assert np.array_equal(prepared.permute(1, 2, 0), cv2.resize(frame, (64, 48), interpolation=cv2.INTER_AREA))


def test_the_papers_frames_are_192_by_256():
    with torch.device("meta"):
        model = SalEMA()
    assert model.prepare(np.zeros((360, 640, 3), np.uint8)).shape == (3, 192, 256)


def test_normalising_turns_rgb_to_bgr_and_takes_the_mean_away(small):
    clip = torch.zeros(1, 3, 2, 1, 2, dtype=torch.uint8)
    clip[0, :, 1, 0, 1] = torch.tensor([255, 128, 1])                      # red, green, blue
    normalised = small(SalGAN).normalise(clip)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised[0, :, 1, 0, 1], torch.tensor([1 - 103.939, 128 - 116.779, 255 - 123.68]))
    torch.testing.assert_close(normalised[0, :, 0, 0, 0], torch.tensor([-103.939, -116.779, -123.68]))


def test_a_constant_map_is_finished_to_zeros_and_each_other_one_to_its_own_range(small):
    output = torch.stack([torch.full((2, 3), 0.7), torch.tensor([[0.2, 0.3, 0.4], [0.4, 0.6, 0.4]])])
    finished = small(SalGAN).finish(output, (2, 3))
    assert torch.equal(finished[0], torch.zeros(2, 3))
    torch.testing.assert_close(finished[1], torch.tensor([[0, 0.25, 0.5], [0.5, 1, 0.5]]))


def test_a_map_that_is_not_finite_stays_so(small):
    assert small(SalGAN).finish(torch.tensor([[[0.1, math.nan]]]), (1, 2)).isnan().all()


def test_a_finished_map_of_another_size_is_resized_bilinearly_after_its_range_is_stretched(small):
    output = torch.rand(1, 16, 32, generator=torch.Generator().manual_seed(0))
    stretched = ((output - output.min()) / (output.max() - output.min()))[0].numpy()
    with torch.autocast("cpu", torch.bfloat16):
        finished = small(SalGAN).finish(output, (70, 101))
    assert finished.dtype == torch.float32 and finished.shape == (1, 70, 101) and finished.min() >= 0 and finished.max() <= 1
    np.testing.assert_allclose(finished[0], cv2.resize(stretched, (101, 70), interpolation=cv2.INTER_LINEAR), atol=1e-5)


def test_a_saved_map_is_rounded_to_8_bits_and_not_stretched_again(small):
    saved = small(SalGAN).quantise(torch.tensor([[0.0, 0.1, 0.5], [0.4, 0.6, 0.9]]))
    assert saved.dtype == torch.uint8 and saved.tolist() == [[0, 26, 128], [102, 153, 230]]


@pytest.mark.parametrize("network", NETWORKS)
@needs_bfloat16
def test_the_readout_stays_float32_in_bfloat16(small, network):
    exact, rounded, clip = small(network), small(network).bfloat16(), frames(3)
    readout = (rounded.final_convs if network is SalCLSTM56 else rounded.salgan)[-2]
    assert rounded.salgan[0].weight.dtype == torch.bfloat16 and readout.weight.dtype == torch.float32
    with torch.no_grad():
        for saliency in (rounded(clip.bfloat16()), run_in_autocast(exact, clip)):
            assert saliency.dtype == torch.float32 and 0 < (saliency - exact(clip)).abs().max() < 0.02


def run_in_autocast(model, clip):
    with torch.autocast("cpu", torch.bfloat16):
        return model(clip)


# Weight files

@pytest.mark.parametrize("network, changes", [
    (SalGAN, {}), (SalEMA, {"ema_loc": (7, 30), "dropout": True}), (SalEMA, {"alpha": 0.1}), (SalCLSTM30, {"residual": True}), (SalCLSTM56, {"frame_size": (32, 48)}),
])
@pytest.mark.parametrize("wrap", [
    lambda entries: entries, lambda entries: {"epoch": 7, "state_dict": {f"module.{name}": t for name, t in entries.items()}, "optimizer": {}},
])
def test_from_pretrained_builds_the_network_that_the_json_beside_describes(tmp_path, small, network, changes, wrap):
    model = small(network, **changes)
    torch.save(wrap(model.state_dict()), tmp_path / "a.pt")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": model.config}))
    restored = network.from_pretrained(tmp_path / "a.pt")
    assert json.dumps(restored.config) == json.dumps(model.config) and restored.is_described and not restored.training
    with torch.no_grad():
        assert torch.equal(restored(frames(2)), model(frames(2)))
    resized = network.from_pretrained(tmp_path / "a.pt", frame_size=(16, 32))
    assert resized.prepare(np.zeros((45, 80, 3), np.uint8)).shape == (3, 16, 32)


def test_weights_alone_make_the_default_network_with_what_is_asked_for_changed(tmp_path, small):
    torch.save(small(SalEMA).state_dict(), tmp_path / "SalEMA30.pt")
    model = SalEMA.from_pretrained(tmp_path / "SalEMA30.pt", residual=True)
    assert model.config == {"alpha": "learnt", "ema_loc": 30, "residual": True, "dropout": False, "frame_size": [192, 256]}
    assert not model.is_described


def test_a_file_without_alpha_needs_the_constant_to_be_said(tmp_path, small):
    torch.save(small(SalGAN).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt has no alpha: it holds SalGAN .*or SalEMA with a constant alpha.*alpha=0.1"):
        SalEMA.from_pretrained(tmp_path / "a.pt")
    assert SalEMA.from_pretrained(tmp_path / "a.pt", alpha=0.1).config["alpha"] == 0.1


def test_a_constant_alpha_in_place_of_a_learnt_one_is_refused(tmp_path, small):
    torch.save(small(SalEMA).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="1 left over: alpha"):
        SalEMA.from_pretrained(tmp_path / "a.pt", alpha=0.1)


@pytest.mark.parametrize("network", NETWORKS)
def test_another_networks_file_is_refused(tmp_path, small, network):
    for other in NETWORKS:
        if other is not network:
            torch.save(small(other).state_dict(), tmp_path / f"{other.__name__}.pt")
            with pytest.raises(ValueError, match=f"{other.__name__}.pt (does not hold {network.__name__}|do not fit {network.__name__}: 1 left over: alpha|has no alpha)"):
                network.from_pretrained(tmp_path / f"{other.__name__}.pt")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"does not hold {network.__name__}: .*got 1 entries, the first .*fc.weight"):
        network.from_pretrained(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="absent.pt: it does not exist"):
        network.from_pretrained(tmp_path / "absent.pt")


@pytest.mark.parametrize("spoil, said", [
    (lambda e: e.pop("salgan.30.bias"), "1 missing: salgan.30.bias"), (lambda e: e.update(extra=torch.zeros(1)), "1 left over: extra"),
    (lambda e: e.update(alpha=torch.zeros(7)), r"of another shape: alpha \(7,\), expected \(1,\)"),
])
def test_an_entry_that_does_not_fit_is_named(tmp_path, small, spoil, said):
    entries = dict(small(SalEMA).state_dict())
    spoil(entries)
    torch.save(entries, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=said):
        SalEMA.from_pretrained(tmp_path / "a.pt")


@pytest.mark.parametrize("changed", [{"num_recursions": 2}, {"ema_loc": "late"}, {"ema_loc": 99}, {"frame_size": None}, {"frame_stride": "1"}, {"residual": 3}])
def test_a_configuration_beside_the_weights_that_does_not_fit_is_refused(tmp_path, small, changed):
    model = small(SalEMA)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": {**model.config, **changed}}))
    with pytest.raises(ValueError, match=next(iter(changed))):
        SalEMA.from_pretrained(tmp_path / "a.pt")


# Training

@pytest.mark.parametrize("network, unused", [
    (SalGAN, []), (SalEMA, []), (SalCLSTM30, []), (SalCLSTM56, [f"salgan.{i}.{leaf}" for i in (56, 58, 60) for leaf in ("weight", "bias")]),
])
def test_starting_from_salgan_fills_what_is_shared_leaves_the_rest_and_says_what_was_not_used(small, network, unused):
    model = small(network)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    entries = {name: t + 1 for name, t in small(SalGAN).state_dict().items()}
    assert model.load_start({**entries, "epoch": torch.tensor(3)}, "salgan.pt") == [*unused, "epoch"]
    for name, t in model.state_dict().items():
        assert torch.equal(t, entries[name] if name.startswith("salgan.") else before[name])


def test_starting_from_something_else_than_salgan_names_what_is_missing(small):
    entries = small(SalGAN).state_dict()
    del entries["salgan.28.bias"]
    entries["salgan.0.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"half.pt do not fit SalEMA: 1 missing: salgan.28.bias; 1 of another shape: salgan.0.bias"):
        small(SalEMA).load_start(entries, "half.pt")


def learning(model):
    """The layers of `salgan` that learn, and the names of the other parameters that do."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    return sorted({int(name.split(".")[1]) for name in names if name.startswith("salgan.")}), [n for n in names if not n.startswith("salgan.")]


@pytest.mark.parametrize("network, others, last", [
    (SalEMA, ["alpha"], 60), (SalCLSTM30, ["Gates.weight", "Gates.bias"], 60),
    (SalCLSTM56, ["Gates.weight", "Gates.bias", *(f"final_convs.{i}.{leaf}" for i in (0, 2, 4) for leaf in ("weight", "bias"))], 53),
])
def test_thawing_goes_from_the_end_to_the_front_and_is_over_in_epoch_5(small, network, others, last):
    model = small(network)
    every = learning(model)[0]
    for epoch, first in ((1, None), (2, 44), (3, 30), (4, 17), (5, 0), (6, 0), (100, 0)):
        model.thaw(epoch)
        assert learning(model) == ([i for i in every if first is not None and i >= first], others)
    assert every[0] == 0 and every[-1] == last


@pytest.mark.parametrize("network, changes", [(SalGAN, {}), (SalEMA, {"alpha": 0.1})])
def test_where_everything_is_pretrained_something_learns_in_epoch_1_too(small, network, changes):
    model = small(network, **changes)
    model.thaw(1)
    assert learning(model) == ([44, 46, 48, 51, 53, 56, 58, 60], [])


def test_there_is_no_epoch_0(small):
    with pytest.raises(ValueError, match="epochs count from 1, got 0"):
        small(SalEMA).thaw(0)


@pytest.mark.parametrize("network, changes, groups", [(SalEMA, {}, 2), (SalEMA, {"alpha": 0.1}, 1), (SalGAN, {}, 1), (SalCLSTM30, {}, 1), (SalCLSTM56, {}, 1)])
def test_every_parameter_is_in_one_group_frozen_ones_too_and_a_learnt_alpha_in_its_own(small, network, changes, groups):
    model = small(network, **changes)
    model.thaw(1)
    given = model.parameter_groups(lr=1e-7)
    assert sorted(id(p) for group in given for p in group["params"]) == sorted(id(p) for p in model.parameters())
    assert len(given) == groups and (given[0]["lr"], given[0]["weight_decay"]) == (1e-7, 1e-4)
    if groups == 2:
        assert given[1] == {"params": [model.alpha], "lr": 0.1, "weight_decay": 0.0}


def test_adam_moves_alpha_and_passes_over_what_is_frozen(small):
    model = small(SalEMA)
    model.thaw(1)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameter_groups(lr=1e-3))
    for epoch in (1, 2):
        model.thaw(epoch)
        optimizer.zero_grad()
        model(frames(2)).mean().backward()
        optimizer.step()
        moved = [name for name, t in model.state_dict().items() if not torch.equal(t, before[name])]
        assert moved[0] == "alpha" and {int(name.split(".")[1]) >= 44 for name in moved[1:]} == (set() if epoch == 1 else {True})


def test_the_recipe_is_the_papers_and_plain():
    recipe = json.loads(json.dumps(vars(SalEMA.recipe)))
    assert (recipe["lr"], recipe["optimizer"], recipe["optimizer_options"]) == (1e-7, "adam", {"weight_decay": 1e-4})
    assert {name: weight for name, weight in recipe["loss_weights"].items() if weight} == {"bce": 1.0}
    assert all((network.carries_state, network.clip_len, network.needs_flow) == (True, 10, False) for network in NETWORKS)
