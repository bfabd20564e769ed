"""What a GPU must give: the numbers of the CPU, and every program's paths. Skipped where there is none; `make gpu` runs them first.

    python -m pytest tests/test_cuda.py                     # on a GPU
    python -m pytest tests/test_cuda.py --device cpu --tiny # on a CPU, with small networks and few frames: whether the tests themselves work
"""
import itertools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TESTS, TINY, TINY_FLAGS, few_channels, make_small
from parity import fill
from PIL import Image
from torchvision.models.optical_flow import raft_small

import loss
import predict
import train
import utils
from baselines import MODELS
from baselines.loading import compile_network, load_model
from benchmarks import measures as measures_benchmark
from model import RecSalNet
from prediction.engine import saliency_maps
from saliency_model import EngineOptions
from utils import default_precision, float32_is_float32, precision_context
from videos import optical_flow

pytestmark = pytest.mark.cuda

# Network -> recorded output, and the gain of its weights.
GOLDEN = {"recsalnet": ("recsalnet_64x96", 1.0), "smcf": ("smcf", 0.9), **{name: (name, 1.4) for name in (
    "tased_net", "salema", "salgan", "salclstm30", "salclstm56", "ssnet", "tsnet", "stsmaxnet", "stsconvnet")}}
QUICK = ("tased_net", "salgan", "ssnet")                                   # a network of windows, one that carries a state, one of groups
# Flags that make a network small, for --tiny.
SMALL = {"recsalnet": TINY_FLAGS[:TINY_FLAGS.index("--encoder-weights")], "tased_net": ["--frame-size", "32", "32", "--batch-size", "2"],
         "smcf": "--frame-size 32 64 --trunk-width 8 --trunk-blocks 1 1 1 1 --scales 1".split()}
ENGINE = [{}, {"batch_size": 4}, {"interpolate": 3}, {"batch_size": 4, "interpolate": 3}, {"every": 2}, {"batch_size": 4, "every": 2}, {"scene_cuts": True},
          {"batch_size": 4, "scene_cuts": True}]


@pytest.fixture(scope="module", autouse=True)
def device(request):
    """Where the tests run; TF32 is off."""
    float32_is_float32()
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="module")
def tiny(request):
    return request.config.getoption("--tiny")


@pytest.fixture
def few_layers(tiny, monkeypatch):
    """With --tiny, few channels in the networks that no argument makes small."""
    if tiny:
        make_small(monkeypatch)


def noise_frames(count, size=(45, 80)):
    """Smooth random frames, (H, W, 3) uint8; another scene from the middle on."""
    generator = np.random.default_rng(0)
    scenes = [Image.fromarray(generator.integers(0, 256, (6, 10, 3), np.uint8)).resize((2 * size[1], size[0]), Image.Resampling.BICUBIC) for _ in range(2)]
    return [np.array(scenes[2 * n // count])[:, n % size[1]:][:, :size[1]] for n in range(count)]


# The CPU's numbers

def golden_case(name, recorded, gain, device):
    """A network as its recorded output was made, and its input, on the device."""
    manifest = json.loads((TESTS / "manifests" / f"{name}.json").read_text())
    with torch.device("meta"):
        model = MODELS[name]()
    model = model.to_empty(device=device).eval()
    model.load_state_dict(fill.weights(manifest, gain=gain))
    seeds = [recorded[key] for key in ("seed", "flow_seed")][:len(model.inputs)] if "flow_seed" in recorded else [recorded["seed"]]
    return model, [fill.clip(tuple(recorded["shape"]), int(seed)).to(device) for seed in seeds]


def outputs_of(model, inputs):
    """Raw outputs as they are recorded, in a list."""
    with torch.no_grad():
        output = model.maps(*inputs)[0] if model.carries_state else model(*inputs)
    return list(output) if isinstance(output, tuple) else [output]


def map_of(model, output, size):
    """The map in (0, 1), before some networks stretch it: random ones use a narrow range, so that would multiply rounding by 3 to 8."""
    if model.carries_state:
        return output
    return torch.sigmoid(output) if model.target == "mask" else model.finish(output, size)


def recorded_outputs(recorded):
    return [torch.from_numpy(recorded[name]) for name in ("saliency", "output", "saliency_logits", "motion_logits") if name in recorded]


@pytest.mark.parametrize("name, file, gain", [*((name, *recorded) for name, recorded in GOLDEN.items()), ("recsalnet", "recsalnet_224x384", 1.0)])
def test_golden_outputs_come_out_and_bfloat16_stays_near(name, file, gain, device, tiny, record_property):
    if tiny and name not in QUICK[1:]:                                     # of windows and of groups, a call is the same
        pytest.skip("a quicker network stands for it (--tiny)")
    with np.load(TESTS / "golden" / f"{file}.npz") as recorded:
        model, inputs = golden_case(name, recorded, gain, device)
        outputs, expected = outputs_of(model, inputs), recorded_outputs(recorded)
    # Of networks that carry a state every frame's map is recorded, of SalGAN the first one's.
    outputs = [output.cpu().flatten(0, -3)[:len(like.flatten(0, -3))] for output, like in zip(outputs, expected)]
    error = max((output - like.flatten(0, -3)).abs().max().item() for output, like in zip(outputs, expected))
    record_property("largest difference from the golden output", error)
    assert error < 1e-4
    if utils.computes_bfloat16(device):
        exact = map_of(model, outputs_of(model, inputs)[0], inputs[0].shape[-2:])
        rounded = map_of(model.bfloat16(), outputs_of(model, [x.bfloat16() for x in inputs])[0], inputs[0].shape[-2:])
        error = (exact - rounded).abs().max().item()
        record_property("largest difference of bfloat16's maps from float32's", error)
        record_property("mean difference", (exact - rounded).abs().mean().item())
        assert error < 0.01


def test_gradient_norms_are_the_golden_ones(device, tiny, record_property):
    if tiny:
        pytest.skip("test_model.py does it on the CPU (--tiny)")
    with np.load(TESTS / "golden" / "recsalnet_grad_64x96.npz") as recorded:
        model, (clip,) = golden_case("recsalnet", recorded, 1.0, device)
        density, fixations = torch.from_numpy(recorded["density"]).to(device), torch.from_numpy(recorded["fixations"]) > 0
        terms = loss.objective(model(clip), density, fixations, {"kl": 1, "cc": 1})
        terms["loss"].backward()
        norms = {name: p.grad.double().norm().item() for name, p in torch.nn.Module.state_dict(model, keep_vars=True).items() if p.grad is not None}
        relative = [abs(norms[name] - norm) / norm for name, norm in zip(recorded["param_names"], recorded["grad_norms"])]
        assert terms["loss"].item() == pytest.approx(float(recorded["loss"]), abs=1e-4)
    record_property("largest relative difference of a gradient's norm", max(relative))
    assert max(relative) < 5e-3


def test_measures_are_the_cpus_and_nothing_waits_for_the_gpu(device, tiny, record_property):
    maps = measures_benchmark.make_frames((36, 64) if tiny else (360, 640), 50, 3)
    on_cpu = loss.measures(**maps)
    there = {name: x if x.dtype == torch.bool else x.to(device) for name, x in maps.items()}  # fixations stay on the CPU, as in test.py
    with measures_benchmark.no_host_synchronisation(device):
        found = loss.measures(**there)
    error = max((found[name].cpu() - on_cpu[name]).abs().max().item() for name in on_cpu)
    record_property("largest difference of a measure from the CPU's", error)
    assert error < 1e-6


@pytest.mark.parametrize("options", ENGINE, ids=lambda options: ", ".join(f"{name} {value}" for name, value in options.items()) or "plain")
def test_the_engines_maps_are_the_cpus(device, tiny, tiny_model, options, record_property):
    frames = noise_frames(6 if tiny else 12)
    expected = list(saliency_maps(tiny_model, frames, options=EngineOptions(**options)))
    found = list(saliency_maps(tiny_model.to(device), frames, options=EngineOptions(**options)))
    error = max((a - b.cpu()).abs().max().item() for a, b in zip(expected, found, strict=True))
    record_property("largest difference of a map from the CPU's", error)
    assert error < 1e-3


def test_raft_makes_the_cpus_flow_and_networks_of_flow_take_it(device, tmp_path, monkeypatch, record_property):
    few_channels(monkeypatch)
    torch.manual_seed(0)
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    model = MODELS["tsnet"](frame_size=(32, 48))
    torch.save(model.state_dict(), tmp_path / "TSNet.pth")
    (tmp_path / "TSNet.json").write_text(json.dumps({"configuration": model.config}))
    frames = noise_frames(2, (128, 128))
    (tmp_path / "video").mkdir()
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(tmp_path / "video" / f"{number:04d}.png")
    flows = [optical_flow.raft_flow(tmp_path / "raft.pth", name)(*frames) for name in ("cpu", device.type)]
    error = np.abs(flows[0] - flows[1]).max() / np.abs(flows[0]).max()
    record_property("largest difference of the flow from the CPU's, relative to its longest", float(error))
    assert error < 1e-2
    predict.main(predict.arguments().parse_args([str(tmp_path / "video"), *f"--model tsnet --weights {tmp_path}/TSNet.pth --flow raft --raft-weights "
                                                 f"{tmp_path}/raft.pth --no-keep-flow --out {tmp_path}/maps --device {device.type}".split()]))
    assert [path.name for path in sorted((tmp_path / "maps" / "video").iterdir())] == ["0001.png", "0002.png"]


# Training

def training_flags(data, run_dir, device):
    """Of train.py, without pretrained weights and validation."""
    return f"--data {data} --run-dir {run_dir} --encoder-weights none --workers 0 --val-every 0 --device {device.type} --no-tensorboard --no-keep-flow".split()


def train_on(data, run_dir, device, *flags):
    """train.py; each epoch's line of its log."""
    assert train.main(train.arguments().parse_args([*training_flags(data, run_dir, device), *flags])) == 0
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def test_a_resumed_run_goes_on_as_one_that_was_not_stopped(device, tiny_set, tmp_path, record_property):
    flags = [*SMALL["recsalnet"], "--lr", "1e-3"]
    whole = train_on(tiny_set, tmp_path / "whole", device, *flags, "--epochs", "2")
    train_on(tiny_set, tmp_path / "parts", device, *flags, "--epochs", "1")
    parts = train_on(tiny_set, tmp_path / "parts", device, *flags, "--epochs", "2", "--resume")
    assert [epoch["epoch"] for epoch in parts] == [1, 2]
    record_property("loss of the second epoch, whole and resumed", [whole[1]["loss"], parts[1]["loss"]])
    assert parts[1]["loss"] == pytest.approx(whole[1]["loss"], rel=1e-2)


def test_compiled_training_and_inference_are_one_graph_each(device, tiny, tiny_set, tmp_path, compilations, tiny_model):
    if tiny:
        pytest.skip("test_train.py and test_predict.py do it on the CPU (--tiny)")
    train_on(tiny_set, tmp_path, device, *SMALL["recsalnet"], "--epochs", "2", "--compile")
    assert compilations.frame_count == 1 and not torch._dynamo.utils.counters["graph_break"]
    model = tiny_model.to(device)
    compile_network(model)
    maps = list(saliency_maps(model, noise_frames(6), options=EngineOptions(batch_size=2)))
    assert len(maps) == 6 and compilations.frame_count == 2 and not torch._dynamo.utils.counters["graph_break"]


def test_activation_checkpointing_gives_the_same_gradients_for_less_memory(device, tiny, record_property):
    torch.manual_seed(0)
    model = RecSalNet(**{**TINY, "drop_path": 0.0}) if tiny else RecSalNet(drop_path=0.0)
    model, clip = model.to(device).train(), fill.clip((1, 3, 32, *model.config["frame_size"])).to(device)
    gradients, peaks = [], []
    for on in (False, True):
        model.activation_checkpointing = on
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with precision_context("float32", device):
            model(clip).square().sum().backward()
        peaks.append(torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    record_property("peak GB without and with it", peaks)
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[0].norm()
    assert device.type != "cuda" or peaks[1] < 0.7 * peaks[0]


# Long videos

def test_memory_stays_flat_over_a_long_video(device, tiny, tmp_path, record_property):
    torch.manual_seed(0)
    model = RecSalNet(**TINY) if tiny else RecSalNet()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": model.config}))
    model, frames = load_model(tmp_path / "a.pth", device, default_precision(device)), 12 if tiny else 300
    shown = noise_frames(10, (36, 64) if tiny else (360, 640))
    held = {}
    for number, saliency in enumerate(saliency_maps(model, (shown[n % 10] for n in range(frames)), options=EngineOptions(batch_size=4))):
        saliency.cpu()
        if number in (frames // 3, frames - 1):
            held[number] = memory_in_use(device)
    early, late = held.values()
    growth = {place: late[place] - early[place] for place in early}
    record_property("growth in MB", growth)
    assert growth["GPU"] <= 8 and growth["RAM"] <= 64


def memory_in_use(device):
    """MB that PyTorch holds of the GPU, and that this process holds of the machine's memory (0 where the system does not tell)."""
    status = Path("/proc/self/status")
    resident = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS")] if status.is_file() else [0]
    return {"GPU": torch.cuda.memory_reserved(device) / 2 ** 20 if device.type == "cuda" else 0, "RAM": resident[0] / 2 ** 10}


# Every network; last, for it takes longest

@pytest.fixture
def stop_after_two_steps(monkeypatch):
    """Ask train.py to stop, as a scheduler would, after the second step of its optimiser."""
    make = train.make_optimizer

    def make_counting(model, lr):
        optimizer, steps = make(model, lr), itertools.count(1)
        optimizer.register_step_post_hook(lambda *unused: next(steps) == 2 and signal.raise_signal(signal.SIGTERM))
        return optimizer
    monkeypatch.setattr(train, "make_optimizer", make_counting)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_two_training_steps_by_its_own_recipe(name, device, tiny, few_layers, stop_after_two_steps, tiny_set, vsod_set, tmp_path, record_property):
    if tiny and name not in (*QUICK, "smcf"):
        pytest.skip("a quicker network stands for it (--tiny)")
    small = SMALL.get(name, ["--frame-size", "32", "48"]) if tiny else []
    data = vsod_set if MODELS[name].target == "mask" else tiny_set         # SMCF: its last stage, of frames and flow
    command = [*training_flags(data, tmp_path, device), "--model", name, "--epochs", "2", *small]
    assert train.main(train.arguments().parse_args(command)) in (0, train.TERMINATED)
    stored = torch.load(tmp_path / "last.pt", weights_only=True, map_location="cpu")
    record_property("precision", stored["recipe"]["precision"])
    assert stored["recipe"]["precision"] == default_precision(device)
    assert (stored["progress"] or stored)["steps"] == 2                    # in the middle of an epoch, or after two of one step
