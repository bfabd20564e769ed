"""Tensors that stay on the CPU while their network is on a GPU, found without one: fake tensors have a shape and a device, and no values."""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines import MODELS
from swin_transformer import Stage, fit_window

SMALL = {"recsal_lite": {"frame_size": (32, 64), "width": 8}, "recsalnet": {"frame_size": (64, 96), "depths": (2, 2, 1, 1), "width": 16}, "tased_net": {"frame_size": (32, 64)},
         "smcf": {"frame_size": (64, 96), "trunk_width": 16, "trunk_blocks": (1, 1, 1, 1)}}
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def shift_masks(size):
    """What each stage keeps of its shifted windows at a frame size, on the CPU: how many kinds of masks there are depends on values."""
    tokens = [(16, size[0] // 4 // 2 ** i, size[1] // 4 // 2 ** i) for i in range(4)]
    stage = Stage(4, 1, (8, 7, 7), [], merge=False)
    return [(shape, stage.masks(shape, *fit_window(shape, stage.window), CPU)) for shape in tokens]


def place_masks(model, kept, fake):
    """Give a RecSal-Net on the GPU its masks."""
    for stage, (shape, (order, runs)) in zip(model.encoder.layers, kept):
        moved = [(start, stop, mask if mask is None else fake(mask)) for start, stop, mask in runs]
        stage._masks = {(shape, GPU): (tuple(map(fake, order)), moved)}


def raw_output(model):
    """What a network gives for black frames on the GPU, (B, h, w) or with a channel, as the engine asks for it."""
    blank = [torch.zeros(x.shape, dtype=torch.uint8, device=GPU) for x in model.blank()]
    ready = [model.normalise(x) for x in blank]
    if model.carries_state:
        _, state = model.maps(*ready)
        return model.maps(*ready, state)[0][:, -1]
    return model.main_output(model(*ready))


@pytest.mark.parametrize("name", MODELS)
def test_a_network_on_a_gpu_leaves_no_tensor_on_the_cpu(name):
    config = SMALL.get(name, {"frame_size": (32, 48)})
    kept = shift_masks(config["frame_size"]) if name == "recsalnet" else []
    with FakeTensorMode() as mode:                                         # with gradients: kept position biases are told apart by addresses
        with torch.device(GPU):
            model = MODELS[name](**config).eval()
        if kept:
            place_masks(model, kept, lambda t: mode.from_tensor(t).to(GPU))
        output = raw_output(model)
        finished = model.finish(output, (45, 80))
        assert {t.device for t in (*model.state_dict().values(), output, finished)} == {GPU}
        assert finished.shape == (len(output), 45, 80) and finished.dtype == torch.float32


def test_a_tensor_that_stays_on_the_cpu_would_be_found():
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, device=GPU) + torch.zeros(2)
