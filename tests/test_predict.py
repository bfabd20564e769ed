import argparse
import functools
import http.server
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import zipfile
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from conftest import MATRICES, TESTS, TINY, few_channels, give_matrix, grey_frames, needs_bfloat16, write_video
from long import fuzz
from PIL import Image
from torch import nn

import predict
import utils
from baselines import STSMaxNet
from dataloader import list_frames
from model import RecSalNet, SaliencyModel, prepare_frame
from predict import (
    BoundedExecutor,
    Predictor,
    Source,
    choose_precision,
    default_precision,
    find_sources,
    in_threads,
    precision_context,
    saliency_maps,
    select_device,
    to_8_bit,
    write_map,
)
from videos.decoding import orientation
from videos.images import Orientation, read_frame
from weights import save_safetensors


class NewestAndOldest(nn.Module):
    """A network whose answer is known: the newest frame's value plus a hundredth of the oldest's."""
    temporal, needs_flow, clip_len, frame_stride = "window", False, 4, 1

    def __init__(self, frame_stride=1):
        super().__init__()
        self.weight, self.frame_stride, self.prepared, self.batches = nn.Parameter(torch.zeros(())), frame_stride, 0, []

    def prepare(self, frame):
        self.prepared += 1
        return torch.full((3, 2, 2), int(frame[0, 0, 0]), dtype=torch.uint8)

    def normalise(self, clip):
        return clip.float()

    def forward(self, clip):
        assert clip.shape[1:] == (3, 4, 2, 2)
        self.batches.append(len(clip))
        return clip[:, 0, -1] + clip[:, 0, 0] / 100

    def finish(self, output, size):
        return output[:, :1, :1].expand(-1, *size)


def frames(count, size=(3, 5)):
    return (np.full((*size, 3), number, np.uint8) for number in range(1, count + 1))


@pytest.fixture
def weights_file(tmp_path, tiny_model):
    torch.save(tiny_model.state_dict(), tmp_path / "RecSalNet.pth")
    (tmp_path / "RecSalNet.json").write_text(json.dumps({"configuration": tiny_model.config}))
    return tmp_path / "RecSalNet.pth"


def shallow():
    """What traces the network, takes as long as it is deep."""
    torch.manual_seed(0)
    return RecSalNet(**{**TINY, "num_recursions": 1}).eval()


def run(*flags):
    return predict.main(predict.arguments().parse_args([str(flag) for flag in flags]))


# The engine

def test_no_frames_give_no_maps_and_one_frame_gives_one():
    assert list(saliency_maps(NewestAndOldest(), [])) == []
    assert [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(1))] == [pytest.approx(1.01)]


def test_each_map_sees_the_frames_up_to_its_own_and_the_first_one_repeated_before():
    model = NewestAndOldest()
    maps = list(saliency_maps(model, frames(6)))
    assert [m[0, 0].item() for m in maps] == pytest.approx([1.01, 2.01, 3.01, 4.01, 5.02, 6.03])
    assert all(m.shape == (3, 5) for m in maps) and model.prepared == 6    # each frame once


@pytest.mark.parametrize("batch_size", [2, 3, 4, 16])
@pytest.mark.parametrize("frame_stride", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_batches_give_the_same_maps_and_have_one_shape(count, frame_stride, batch_size):
    one, many = NewestAndOldest(frame_stride), NewestAndOldest(frame_stride)
    expected = [m[0, 0].item() for m in saliency_maps(one, frames(count))]
    assert [m[0, 0].item() for m in saliency_maps(many, frames(count), batch_size=batch_size)] == pytest.approx(expected)
    assert set(many.batches) == {batch_size} and len(many.batches) == -(-count // batch_size) and many.prepared == count


def test_frames_of_several_sizes_get_maps_of_their_own():
    pictures = [*frames(3, (4, 6)), *frames(2, (7, 5)), *frames(1, (4, 6))]
    assert [tuple(m.shape) for m in saliency_maps(NewestAndOldest(), pictures, batch_size=4)] == [(4, 6)] * 3 + [(7, 5)] * 2 + [(4, 6)]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_interpolation_predicts_every_nth_frame_and_the_last_and_draws_lines_between(batch_size):
    exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(9))]
    maps = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(9), interpolate=3, batch_size=batch_size)]
    assert maps[::3] == pytest.approx(exact[::3]) and maps[8] == pytest.approx(exact[8])  # predicted: frames 1, 4, 7 and 9
    assert maps[1:3] == pytest.approx(np.interp([1, 2], [0, 3], [exact[0], exact[3]])) and maps[7] == pytest.approx((exact[6] + exact[8]) / 2)


def test_the_engine_reads_a_bounded_number_of_frames_ahead():
    read = []
    source = (read.append(frame[0, 0, 0]) or frame for frame in frames(200))
    maps = saliency_maps(NewestAndOldest(), source, batch_size=4)
    next(maps)
    maps.close()
    assert len(read) <= 4 + 2 * 4 + 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_error_in_a_frame_comes_after_the_maps_before_it(batch_size):
    def broken():
        yield from frames(6)
        raise ValueError("frame 7 is damaged")
    maps = saliency_maps(NewestAndOldest(), broken(), batch_size=batch_size)
    assert [next(maps)[0, 0].item() for _ in range(6)] == pytest.approx([1.01, 2.01, 3.01, 4.01, 5.02, 6.03])
    with pytest.raises(ValueError, match="frame 7 is damaged"):
        next(maps)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_nth_frame_gets_the_map_it_has_among_all(batch_size):
    model = NewestAndOldest()
    exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(11))]
    maps = [m[0, 0].item() for m in saliency_maps(model, frames(11), every=3, batch_size=batch_size)]
    assert maps == pytest.approx(exact[::3]) and model.prepared == 11


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("skip", [1, 2, 5, 11, 12])
def test_skipped_frames_fill_the_window_and_get_no_map(skip, every):
    exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(11))]
    assert [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(11), skip=skip, every=every, batch_size=2)] == pytest.approx(exact[skip::every])


@pytest.mark.parametrize("count, expected", [
    (1, [1.01]), (3, [1.01, 2.01, 3.01]), (5, [1.04, 2.05, 3.01, 4.01, 5.02]), (6, [1.04, 2.05, 3.06, 4.01, 5.02, 6.03]), (9, [1.04, 2.05, 3.06, 4.01, 5.02, 6.03, 7.04, 8.05, 9.06]),
])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_mirrored_windows_begin_at_the_frame_they_belong_to_where_they_fit(count, expected, batch_size):
    maps = saliency_maps(NewestAndOldest(), frames(count), first_frames="mirror", batch_size=batch_size)
    assert [m[0, 0].item() for m in maps] == pytest.approx(expected)       # the newest, and a hundredth of the frame at the other end


@pytest.mark.parametrize("every, skip", [(2, 0), (3, 0), (3, 1), (5, 4), (100, 0)])
def test_mirrored_windows_are_the_same_where_maps_are_left_out(every, skip):
    for count in range(1, 16):
        exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(count), first_frames="mirror")]
        for batch_size in (1, 3):
            maps = saliency_maps(NewestAndOldest(), frames(count), first_frames="mirror", every=every, skip=skip, batch_size=batch_size)
            assert [m[0, 0].item() for m in maps] == pytest.approx(exact[skip::every]), count


def scenes(*counts):
    for level, count in zip((0, 100, 30, 200), counts):
        yield from (np.full((3, 5, 3), level + number, np.uint8) for number in range(count))


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"every": 2}, {"interpolate": 3}, {"first_frames": "mirror", "batch_size": 2}, {"skip": 7}, {"skip": 6, "every": 3}])
def test_at_a_scene_cut_the_window_begins_anew(options):
    whole = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), scenes(5, 7, 6), scene_cuts=True, **{k: v for k, v in options.items() if k not in ("skip", "every")})]
    parts = [m[0, 0].item() for count, level in ((5, 0), (7, 100), (6, 30)) for m in saliency_maps(
        NewestAndOldest(), (np.full((3, 5, 3), level + n, np.uint8) for n in range(count)), **{k: v for k, v in options.items() if k not in ("skip", "every")})]
    assert whole == pytest.approx(parts)
    some = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), scenes(5, 7, 6), scene_cuts=True, **options)]
    assert some == pytest.approx(whole[options.get("skip", 0)::options.get("every", 1)])


def test_fast_movement_is_no_cut():
    assert predict.is_cut(46, 5) and predict.is_cut(60, 20)
    assert not predict.is_cut(20, 1) and not predict.is_cut(41, 30)


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="interpolate=2 draws the maps that every=2"):
        next(saliency_maps(NewestAndOldest(), frames(3), interpolate=2, every=2))


def test_threads_keep_the_order_and_pass_errors_on():
    assert list(in_threads(lambda x: x * x, range(50), ahead=5)) == [x * x for x in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda x: 1 / x, [1, 0]))


def test_a_map_that_cannot_be_written_is_an_error_at_the_latest_in_the_end(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), BoundedExecutor() as later:
        later(write_map, tmp_path / "file" / "0001.png", torch.rand(4, 4))


def test_an_error_elsewhere_does_not_stop_what_waits_to_be_written():
    written = []
    with pytest.raises(KeyError), BoundedExecutor(1) as later:
        for number in range(5):
            later(lambda n: (time.sleep(0.02), written.append(n)), number)
        raise KeyError
    assert written == list(range(5))


@pytest.mark.parametrize("options", [{"first_frames": "mirrror"}, {"every": 0}, {"interpolate": 0}, {"batch_size": 0}, {"skip": -1}])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match=f"got .*{next(iter(options))}="):
        next(saliency_maps(NewestAndOldest(), frames(3), **options))


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), "frame.png"])
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(ValueError, match=r"frames must be arrays \(H, W, 3\) of uint8, RGB, got"):
        next(saliency_maps(NewestAndOldest(), [frame]))


@pytest.mark.parametrize("options", [{"every": 40}, {"interpolate": 40}])
def test_of_frames_that_no_window_reaches_none_is_kept(options):
    exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(90))]
    maps = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(90), **options)]
    assert maps[::options.get("interpolate", 1)][:3] == pytest.approx(exact[::40])
    steps = predict.steps_of(iter([(torch.zeros(1), (1, 1))] * 90), 1, 40, window=4, whole=False)
    assert [sum(frame is not None for frame, _ in step) for step in steps] == [1, 4, 4, 4]


def test_frame_stride_widens_the_window():
    maps = list(saliency_maps(NewestAndOldest(frame_stride=2), frames(9)))
    assert [m[0, 0].item() for m in maps] == pytest.approx([n + 0.01 * max(1, n - 6) for n in range(1, 10)])


def test_maps_come_one_by_one_from_a_video_without_end():
    def endless():
        while True:
            yield np.zeros((3, 5, 3), np.uint8)
    maps = saliency_maps(NewestAndOldest(), endless())
    assert next(maps).shape == next(maps).shape == (3, 5)


def test_the_engine_agrees_with_the_network_on_whole_windows(tiny_model, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    pictures = [read_frame(path) for path in list_frames(video / "images")][:34]
    maps = list(saliency_maps(tiny_model, pictures))
    clip = torch.stack([tiny_model.prepare(frame) for frame in pictures[2:34]], dim=1)[None]
    with torch.no_grad():
        expected = tiny_model.finish(tiny_model(tiny_model.normalise(clip)), (45, 80))[0]
    assert len(maps) == 34 and torch.equal(maps[33], expected)


def test_a_model_that_moves_otherwise_through_time_is_refused():
    model = NewestAndOldest()
    model.temporal = "sideways"
    with pytest.raises(ValueError, match="expected one of .*got 'sideways'"):
        next(saliency_maps(model, frames(1)))


class GroupOfThree(NewestAndOldest):
    """A network of groups whose answer is known: the frame's value, a hundredth of the group's last one's, and a thousandth of the flow's."""
    temporal, needs_flow, clip_len, inputs, flow_picture = "group", True, 3, ("frame", "flow"), "components"

    def forward(self, frame, flow):
        assert len(frame) % 3 == 0 and frame.shape == flow.shape
        self.batches.append(len(frame))
        last = frame[2::3].repeat_interleave(3, 0)
        return (frame + last / 100 + flow / 1000)[:, :1], frame            # (B, 1, h, w), and something else

    def finish(self, output, size):
        return super().finish(output[:, 0], size)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_groups_follow_each_other_and_the_last_frame_fills_the_last_one(batch_size):
    model = GroupOfThree()
    maps = [m[0, 0].item() for m in saliency_maps(model, frames(5), frames(5), batch_size=batch_size)]
    assert maps == pytest.approx([1.031, 2.032, 3.033, 4.054, 5.055]) and sum(model.batches) == 6 and model.prepared == 10
    assert [m[0, 0].item() for m in saliency_maps(GroupOfThree(), frames(5), frames(5), skip=1, every=3)] == pytest.approx([2.032, 5.055])


def test_flow_is_made_where_none_is_given_and_a_still_video_has_none():
    maps = [m[0, 0].item() for m in saliency_maps(GroupOfThree(), [np.full((16, 16, 3), 7, np.uint8)] * 4)]
    assert maps == pytest.approx([7 + 0.07 + 0.128] * 4, abs=1e-4)         # the level of no movement is 128


def test_as_many_flows_as_frames_are_needed_and_none_for_a_network_without():
    with pytest.raises(ValueError, match="shorter"):
        list(saliency_maps(GroupOfThree(), frames(4), frames(3)))
    with pytest.raises(ValueError, match="takes no optical flow"):
        next(saliency_maps(NewestAndOldest(), frames(2), frames(2)))


def test_in_groups_of_one_frames_of_any_sizes_are_computed_each_for_itself():
    model = GroupOfThree()
    model.clip_len, model.inputs, model.needs_flow = 1, ("frame",), False
    model.prepare = lambda frame: torch.from_numpy(frame.copy()).permute(2, 0, 1)
    model.forward = lambda frame: (model.batches.append(tuple(frame.shape)), frame[:, :1] + frame[:, 0].mean() / 100)[1]
    mixed = [np.full((*size, 3), level, np.uint8) for level, size in ((1, (3, 5)), (2, (3, 5)), (3, (4, 4)))]
    maps = list(saliency_maps(model, mixed, batch_size=2))
    assert [tuple(m.shape) for m in maps] == [(3, 5), (3, 5), (4, 4)] and model.batches == [(2, 3, 3, 5), (1, 3, 4, 4)]


class SumSoFar(NewestAndOldest):
    """A recurrent network whose answer is known: the frame's value plus a hundredth of the sum of all before."""
    temporal = "state"

    def maps(self, clip, state=None):
        values, outputs = clip[:, 0].unbind(1), []
        state = torch.zeros_like(values[0]) if state is None else state
        self.batches.append(len(values))
        for value in values:
            outputs.append(value + state / 100)
            state = state + value
        return torch.stack(outputs, dim=1), state


SUMS = [1, 2.01, 3.03, 4.06, 5.1, 6.15, 7.21]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 20])
def test_a_state_is_carried_through_the_video_however_many_frames_are_computed_at_once(batch_size):
    model = SumSoFar()
    assert [m[0, 0].item() for m in saliency_maps(model, frames(7), batch_size=batch_size)] == pytest.approx(SUMS)
    assert model.prepared == 7 and max(model.batches) == min(7, batch_size)
    assert [m.shape for m in saliency_maps(model, frames(2), batch_size=batch_size)] == [(3, 5)] * 2


@pytest.mark.parametrize("skip, every", [(0, 3), (2, 1), (4, 2), (7, 1), (1, 5)])
def test_frames_without_a_map_go_into_the_state(skip, every):
    maps = saliency_maps(SumSoFar(), frames(7), skip=skip, every=every, batch_size=2)
    assert [m[0, 0].item() for m in maps] == pytest.approx(SUMS[skip::every])


def test_of_interpolated_steps_the_last_frame_alone_goes_into_the_state():
    maps = [m[0, 0].item() for m in saliency_maps(SumSoFar(), frames(6), interpolate=2, batch_size=2)]
    assert maps == pytest.approx([1, (1 + 3.01) / 2, 3.01, (3.01 + 5.04) / 2, 5.04, 6.09])


def test_a_state_is_not_carried_over_a_scene_cut():
    whole = [m[0, 0].item() for m in saliency_maps(SumSoFar(), scenes(3, 2), scene_cuts=True, batch_size=2)]
    assert whole == pytest.approx([0, 1, 2.01, 100, 102])


@pytest.mark.parametrize("network", [NewestAndOldest, SumSoFar])
def test_maps_can_stay_at_the_networks_size(network):
    assert [m.shape for m in saliency_maps(network(), frames(2), resize=False)] == [(2, 2)] * 2


def test_eight_bit_maps_span_the_range_and_a_constant_one_is_black():
    assert to_8_bit(torch.tensor([[0.1, 0.2], [0.3, 0.6]])).tolist() == [[0, 51], [102, 255]]
    assert to_8_bit(torch.full((2, 2), 0.7)).tolist() == [[0, 0], [0, 0]]


def test_a_map_that_is_not_finite_is_an_error_and_never_a_black_picture():
    with pytest.raises(ValueError, match="map is not finite"):
        to_8_bit(torch.tensor([[0.1, torch.nan]]))


# Device and precision

def test_a_device_that_is_not_there_is_said_to_be_missing():
    assert select_device("cpu").type == "cpu"
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ValueError, match=f"--device {missing}: PyTorch .* sees no {missing}"):
        select_device(missing)


def test_bfloat16_is_the_default_on_cuda_only_and_float32_turns_tf32_off():
    assert default_precision(torch.device("cuda")) == "bfloat16" and default_precision(torch.device("cpu")) == "float32"
    torch.backends.cudnn.allow_tf32 = True
    with precision_context("float32", torch.device("cpu")):
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with precision_context("bfloat16", torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_bfloat16_is_refused_where_the_cpu_has_no_instructions_for_it_unless_forced(tmp_path, monkeypatch, weights_file, tiny_set):
    cpu, said = torch.device("cpu"), "no instructions for it, and float32 is about 300 times faster here: use --precision float32"
    monkeypatch.setattr(utils, "computes_bfloat16", lambda device: device.type != "cpu")
    assert choose_precision(None, cpu) == choose_precision("float32", cpu) == "float32"
    assert choose_precision("bfloat16", cpu, force_bfloat16=True) == choose_precision("bfloat16", torch.device("cuda")) == "bfloat16"
    with pytest.raises(ValueError, match=said):
        choose_precision("bfloat16", cpu)
    with pytest.raises(ValueError, match=said):
        Predictor(weights_file, "cpu", "bfloat16")
    Predictor(weights_file, "cpu", "bfloat16", force_bfloat16=True)
    with pytest.raises(ValueError, match=said):
        run(tiny_set / "val" / "004", "--out", tmp_path / "maps", "--weights", weights_file, "--device", "cpu", "--precision", "bfloat16")
    assert not (tmp_path / "maps").exists()
    monkeypatch.setattr(utils, "computes_bfloat16", lambda device: True)
    assert choose_precision("bfloat16", cpu) == "bfloat16"


# The command line

def test_a_folder_of_frames_gives_a_map_per_frame_under_its_own_name_and_size(tmp_path, weights_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    run(video, "--out", tmp_path / "maps", "--weights", weights_file, "--device", "cpu")
    written = sorted((tmp_path / "maps" / video.name).iterdir())
    assert [p.name for p in written] == [p.name for p in list_frames(video / "images")]
    picture = Image.open(written[-1])
    assert (picture.mode, picture.size) == ("L", (80, 45)) and np.array(picture).max() == 255


@needs_bfloat16
def test_precision_changes_the_maps_a_little(tmp_path, weights_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    for precision in ("float32", "bfloat16"):
        run(video, "--out", tmp_path / precision, "--weights", weights_file, "--precision", precision, "--device", "cpu")
    exact, rounded = (np.array(Image.open(tmp_path / p / video.name / "0010.png")).astype(int) for p in ("float32", "bfloat16"))
    assert 0 < abs(exact - rounded).mean() < 64                            # of 255; a random network's maps have little contrast


def test_a_video_file_gives_maps_counted_from_one(tmp_path, weights_file):
    writer = cv2.VideoWriter(str(tmp_path / "my clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (48, 32))
    for value in range(3):
        writer.write(np.full((32, 48, 3), 80 * value, np.uint8))
    writer.release()
    run(tmp_path / "my clip.avi", "--out", tmp_path / "maps", "--weights", weights_file, "--device", "cpu")
    assert sorted(p.name for p in (tmp_path / "maps" / "my clip").iterdir()) == ["0001.png", "0002.png", "0003.png"]


def test_a_folder_of_folders_is_taken_apart(tiny_set):
    sources = find_sources([str(tiny_set / "val")])
    assert [source.name for source in sources] == sorted(p.name for p in (tiny_set / "val").iterdir())


def test_a_folder_of_videos_and_a_pattern_give_a_source_each_in_natural_order(tmp_path):
    for name in ("b10.mp4", "b9.MOV", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert [s.path.name for s in find_sources([str(tmp_path)])] == ["b9.MOV", "b10.mp4"]
    assert [s.path.name for s in find_sources([f"{tmp_path}/b*", str(tmp_path / "b9.MOV")])] == ["b9.MOV", "b10.mp4"]  # each once
    assert [s.path.name for s in find_sources([f"{tmp_path}/none*.mp4"])] == ["none*.mp4"]  # then said to be missing


def test_a_folder_of_videos_is_taken_by_content_and_what_is_left_out_is_named(tmp_path, capsys):
    for name, codec in (("a.3g2", "libx264"), ("b.h264", "libx264"), ("c.mp4", "libx264")):
        write_video(tmp_path / name, grey_frames(2), codec=codec)
    assert [s.path.name for s in find_sources([str(tmp_path)])] == ["a.3g2", "b.h264", "c.mp4"] and not capsys.readouterr().out
    (tmp_path / "c.mp4").unlink()                                          # none has a known suffix
    for name in ("notes.txt", "song.mp3"):
        (tmp_path / name).write_bytes(b"no video")
    assert [s.path.name for s in find_sources([str(tmp_path)])] == ["a.3g2", "b.h264"]
    assert "left out, as no video: 2 of 4 (notes.txt, song.mp3)" in capsys.readouterr().out


def test_a_video_of_an_unlisted_suffix_among_pictures_is_not_passed_over(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "0001.png")
    (tmp_path / "notes.txt").write_text("of the frames")
    assert [s.path for s in find_sources([str(tmp_path)])] == [tmp_path]
    write_video(tmp_path / "a.3g2", grey_frames(2))
    with pytest.raises(ValueError, match="holds pictures and videos, a.3g2 for one: name the videos"):
        find_sources([str(tmp_path)])


def test_pictures_among_videos_are_not_taken_for_a_video_of_their_own(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "notes").mkdir()
    assert [s.path.name for s in find_sources([str(tmp_path)])] == ["a.mp4"]
    Image.new("L", (8, 8)).save(tmp_path / "poster.jpg")
    with pytest.raises(ValueError, match="holds pictures and videos, a.mp4 for one: name the videos"):
        find_sources([str(tmp_path)])


def test_two_inputs_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="several inputs are called a"):
        predict.check_names([Source(tmp_path / "x" / "a.mp4"), Source(tmp_path / "y" / "a.avi")])


@pytest.mark.parametrize("make, said", [
    (lambda path: None, "no input .*thing: it does not exist"), (lambda path: path.mkdir(), "no frames in .*thing"), (lambda path: path.write_bytes(b"text"), "no frame could be decoded from .*thing"),
])
def test_a_wrong_input_is_an_error(tmp_path, weights_file, make, said):
    make(tmp_path / "thing")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        run(tmp_path / "thing", "--out", tmp_path / "maps", "--weights", weights_file, "--device", "cpu")


@pytest.mark.parametrize("content, said", [(b"", "it is empty"), (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer"), (b"damaged", "cannot identify")])
def test_what_is_no_picture_is_not_called_a_single_image(tmp_path, content, said):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read image .*a.png .*: {said}"):
        Source(tmp_path / "a.png").check()


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("stills", [False, True])
def test_several_pictures_in_one_file_are_a_video_for_every_network(tmp_path, weights_file, stsmaxnet_file, suffix, stills):
    first, *others = [Image.new("RGB", (62, 48), (level, 0, 0)) for level in (0, 80, 160)]
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others, **({} if suffix == "tif" else {"duration": [100, 300, 200]}))
    network = ("--model", "stsmaxnet", "--weights", stsmaxnet_file) if stills else ("--weights", weights_file)
    run(tmp_path / f"a.{suffix}", *network, "--device", "cpu", "--out", tmp_path / "out", "--save", "png", "overlay", "--fps", "10")
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == ["0001.png", "0002.png", "0003.png"]
    times = [0, 0.1, 0.2] if suffix == "tif" else [0, 0.1, 0.4]
    assert list(json.loads((tmp_path / "out" / "a.json").read_text())["frames"].values()) == pytest.approx(times)
    assert [frame.time for frame in decoded(tmp_path / "out" / "a_overlay.mp4")] == pytest.approx(times, abs=2e-3)
    with av.open(str(tmp_path / "out" / "a_overlay.mp4")) as container:    # the last picture stands its own time
        assert float(container.duration / av.time_base) == pytest.approx(0.3 if suffix == "tif" else 0.6, abs=0.01)


def test_a_single_image_is_refused(tmp_path, weights_file):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png is a single image"):
        run(tmp_path / "a.png", "--out", tmp_path / "maps", "--weights", weights_file, "--device", "cpu")


def test_weights_without_their_description_are_said_to_be_taken_for_the_papers(weights_file, capsys):
    predict.print_configuration(predict.load_model(weights_file, torch.device("cpu")), weights_file)
    assert "no configuration" not in capsys.readouterr().out
    weights_file.with_suffix(".json").unlink()
    predict.print_configuration(predict.load_model(weights_file, torch.device("cpu")), weights_file)
    assert "no configuration in or beside" in capsys.readouterr().out


def test_the_readmes_python_example_runs(tmp_path, weights_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter("my_video.avi", cv2.VideoWriter_fourcc(*"MJPG"), 30, (48, 32))
    for value in range(2):
        writer.write(np.full((32, 48, 3), 80 * value, np.uint8))
    writer.release()
    example = (TESTS.parent / "README.md").read_text().split("```python\n")[1].split("```")[0].replace("    ...", "    found.append(saliency)")
    found = []
    exec(example.replace("saved_models/RecSalNet.pth", str(weights_file)).replace("my_video.mp4", "my_video.avi"), {"found": found})
    assert [saliency.shape for saliency in found] == [(32, 48)] * 2


def test_a_users_mistake_ends_with_one_line_and_exit_code_2(tmp_path, run_script):
    ended = run_script(TESTS.parent / "predict.py", tmp_path / "none.mp4", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("predict.py: error: no input") and ended.stderr.count("\n") == 1


# Speed flags

def test_compiled_it_is_one_graph_for_a_whole_video_with_the_same_maps(tiny_set, compilations):
    model = shallow()
    pictures = [read_frame(path) for path in list_frames(sorted((tiny_set / "val").iterdir())[0] / "images")][:7]
    expected = list(saliency_maps(model, pictures, batch_size=2))
    predict.compile_network(model)
    maps = list(saliency_maps(model, pictures, batch_size=2))
    assert compilations.frame_count == 1 and not model.training       # seven frames in batches of two: the last is filled up
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(maps, expected))


def test_speed_flags_reach_the_engine(tmp_path, weights_file, tiny_set, monkeypatch):
    video, seen, compiled = sorted((tiny_set / "val").iterdir())[0], [], []
    real = predict.saliency_maps
    monkeypatch.setattr(predict, "saliency_maps", lambda model, frames, **options: (seen.append(options), real(model, frames, **options))[1])
    monkeypatch.setattr(predict, "compile_network", lambda model: compiled.append(type(model).__name__))
    common = ("--weights", weights_file, "--device", "cpu")
    run(video, "--out", tmp_path / "exact", *common)
    run(video, "--out", tmp_path / "batched", *common, "--batch-size", "5", "--compile")
    run(video, "--out", tmp_path / "drawn", *common, "--interpolate", "4")
    assert [(options["batch_size"], options["interpolate"]) for options in seen] == [(1, 1), (5, 1), (1, 4)] and compiled == ["RecSalNet"]
    exact, batched, drawn = ([np.array(Image.open(p)).astype(int) for p in sorted((tmp_path / kind / video.name).iterdir())] for kind in ("exact", "batched", "drawn"))
    assert len(exact) == len(batched) == len(drawn)
    assert all(abs(a - b).max() <= 1 for a, b in zip(exact, batched))
    assert all(np.array_equal(a, b) for a, b in zip(exact[::4], drawn[::4])) and not all(map(np.array_equal, exact, drawn))


def test_another_frame_size_changes_what_the_network_sees_and_not_the_maps_size(tmp_path, weights_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    for name, flags in {"trained": (), "smaller": ("--frame-size", "32", "32")}.items():
        run(video, "--out", tmp_path / name, "--weights", weights_file, "--device", "cpu", *flags)
    trained, smaller = (np.array(Image.open(tmp_path / name / video.name / "0010.png")) for name in ("trained", "smaller"))
    assert trained.shape == smaller.shape == (45, 80) and not np.array_equal(trained, smaller)
    with pytest.raises(ValueError, match=r"multiples of 32, got \(32, 65\)"):
        run(video, "--out", tmp_path / "odd", "--weights", weights_file, "--frame-size", "32", "65", "--device", "cpu")


# Outputs

@pytest.fixture
def clip(tmp_path):
    """Nine frames of odd size at a variable rate, with sound."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 48, 62, 3), np.uint8)
    return write_video(tmp_path / "my clip ü.mp4", list(noise), times=[0, 0.04, 0.08, 0.12, 0.3, 0.34, 0.38, 0.42, 0.5], sound="aac")


def decoded(path, kind="video"):
    with av.open(str(path)) as container:
        return list(container.decode(getattr(container.streams, kind)[0]))


def test_every_kind_of_output_is_written_and_says_the_same(tmp_path, weights_file, clip):
    run(clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--save", *predict.OUTPUTS)
    out, name = tmp_path / "out", clip.stem
    assert sorted(p.name for p in out.iterdir()) == sorted([name, *(f"{name}{end}" for end in (".json", ".npz", "_map.mp4", "_overlay.mp4", "_sheet.png"))])
    maps = [saliency for _, saliency in Predictor(weights_file, "cpu").predict_video(clip)]
    names = [f"{number:04d}" for number in range(1, 10)]
    with np.load(out / f"{name}.npz") as archive:
        assert archive.files == names and all(np.array_equal(archive[n], np.load(out / name / f"{n}.npy")) for n in names)
        assert archive["0001"].dtype == np.float16 and all(abs(archive[n] - saliency).max() < 5e-4 for n, saliency in zip(names, maps))
    pictures = [np.array(Image.open(out / name / f"{n}.png")) for n in names]
    assert all(np.array_equal(picture, to_8_bit(torch.from_numpy(saliency))) for picture, saliency in zip(pictures, maps))
    grey = [frame.to_ndarray(format="rgb24")[..., 0].astype(int) for frame in decoded(out / f"{name}_map.mp4")]
    assert all(abs(frame - picture).mean() < 6 for frame, picture in zip(grey, pictures)) and len(grey) == 9
    record = json.loads((out / f"{name}.json").read_text())
    assert record["frames"] == pytest.approx({n: frame.time for n, frame in zip(names, decoded(clip))}, abs=1e-3)
    assert Image.open(out / f"{name}_sheet.png").size[0] == 4 * (62 + 4) + 4


def test_an_overlay_keeps_times_sound_and_shape_and_is_h264(tmp_path, weights_file, clip):
    run(clip, "--out", tmp_path, "--weights", weights_file, "--device", "cpu", "--save", "overlay")
    path = tmp_path / f"{clip.stem}_overlay.mp4"
    assert [frame.time for frame in decoded(path)] == pytest.approx([frame.time for frame in decoded(clip)], abs=2e-3)
    with av.open(str(path)) as container, av.open(str(clip)) as source:
        stream, original = container.streams.video[0], source.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == pytest.approx(float(original.duration * original.time_base), abs=2e-3)
    sounds = [np.concatenate([frame.to_ndarray()[0] for frame in decoded(p, "audio")]) for p in (path, clip)]
    assert abs(len(sounds[0]) - len(sounds[1])) <= 2048 and abs(sounds[0]).max() > 0.5


@pytest.mark.parametrize("matrix", MATRICES)
def test_outputs_have_the_orientation_and_the_pixels_of_a_player(tmp_path, weights_file, matrix):
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24, :48] = 255
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.sample_aspect_ratio = 48, 96, "yuv420p", Fraction(4, 3)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    run(give_matrix(tmp_path / "a.mp4", matrix), "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--save", "png", "overlay", "map-video")
    swapped, (row, column) = matrix[0] == 0, MATRICES[matrix]
    assert Image.open(tmp_path / "out" / "a" / "0001.png").size == ((48, 96) if swapped else (96, 48))
    for kind in ("overlay", "map"):
        frame = decoded(tmp_path / "out" / f"a_{kind}.mp4")[0]
        assert (frame.height, frame.width) == ((96, 48) if swapped else (48, 96)) and orientation(frame) == Orientation()
        with av.open(str(tmp_path / "out" / f"a_{kind}.mp4")) as container:
            assert container.streams.video[0].sample_aspect_ratio == (Fraction(3, 4) if swapped else Fraction(4, 3))
    shown = next(frame for _, _, frame in Source(tmp_path / "a.mp4").frames())
    assert [(r, c) for r in (0, -1) for c in (0, -1) if shown[r, c].min() > 200] == [(row, column)]


def test_a_part_of_a_video_takes_its_part_of_the_sound(tmp_path, weights_file):
    clip = write_video(tmp_path / "a.mp4", grey_frames(50), sound="aac")    # two seconds
    run(clip, "--out", tmp_path, "--weights", weights_file, "--device", "cpu", "--save", "overlay", "--start", "0.5", "--end", "00:01", "--every", "4")
    path = tmp_path / "a_overlay.mp4"
    assert [frame.time for frame in decoded(path)] == pytest.approx([0.02, 0.18, 0.34], abs=2e-3)  # from the frame at 0.52 on
    assert sum(frame.samples for frame in decoded(path, "audio")) / 44100 == pytest.approx(0.5, abs=0.06)
    assert list(json.loads((tmp_path / "a.json").read_text())["frames"]) == ["0001", "0005", "0009"]


def test_sound_that_browsers_do_not_play_in_mp4_is_left_out_and_said_to_be(tmp_path, weights_file, capsys):
    clip = write_video(tmp_path / "a.avi", grey_frames(5), codec="mpeg4", sound="pcm_s16le")
    run(clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--save", "overlay")
    assert "its sound (pcm_s16le) is left out" in capsys.readouterr().out
    with av.open(str(tmp_path / "out" / "a_overlay.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_longer_sound_counts_neither_for_the_bar_nor_for_how_long_the_last_picture_stands(tmp_path, weights_file):
    path = write_video(tmp_path / "a.mkv", grey_frames(10), rate=10, sound="aac", sound_lasts=5)
    assert Source(path).expected_frames() == pytest.approx(10, abs=1) and Source(path, start=0.5).expected_frames() == pytest.approx(5, abs=1)
    run(path, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--save", "overlay", "--every", "5")
    with av.open(str(tmp_path / "out" / "a_overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("flags, seconds", [(("--every", "10"), 1.6), (("--every", "10", "--end", "1.5"), 1.5), (("--every", "10", "--start", "0.4"), 1.2)])
def test_the_last_picture_stands_until_the_video_ends(tmp_path, weights_file, monkeypatch, flags, seconds):
    write_video(tmp_path / "12:30.mp4", grey_frames(40))
    monkeypatch.chdir(tmp_path)                                            # FFmpeg would take "12" for a protocol
    run("12:30.mp4", "--out", ".", "--weights", weights_file, "--device", "cpu", "--save", "map-video", *flags)
    with av.open(str(tmp_path / "12:30_map.mp4")) as container:
        assert float(container.duration / av.time_base) == pytest.approx(seconds, abs=0.01)


def test_a_folder_of_frames_makes_a_video_of_its_length(tmp_path, weights_file):
    (tmp_path / "frames").mkdir()
    for number in range(5):
        Image.new("RGB", (40, 30), (90, 90, 90)).save(tmp_path / "frames" / f"{number}.png")
    run(tmp_path / "frames", "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--save", "overlay", "--fps", "10", "--every", "2")
    with av.open(str(tmp_path / "out" / "frames_overlay.mp4")) as container:
        assert float(container.duration / av.time_base) == pytest.approx(0.5, abs=0.01)


def test_odd_sizes_and_changing_ones_fit_into_a_video(tmp_path, weights_file):
    (tmp_path / "frames").mkdir()
    for number, size in enumerate([(47, 33), (47, 33), (60, 80)]):
        Image.new("RGB", size[::-1], (90, 90, 90)).save(tmp_path / "frames" / f"{number}.png")
    run(tmp_path / "frames", "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--save", "overlay", "--fps", "10")
    frames = decoded(tmp_path / "out" / "frames_overlay.mp4")
    assert [(frame.height, frame.width) for frame in frames] == [(48, 34)] * 3 and [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2])


def test_heat_covers_what_is_salient_and_shows_what_is_not():
    saliency, frame = torch.zeros(8, 8), np.full((8, 8, 3), 100, np.uint8)
    saliency[4:] = 1
    heat = predict.paint_heat(predict.Prediction("0001", 0.0, frame, saliency))
    assert (heat[:4] == 100).all() and (heat[4:, :, 0] > heat[4:, :, 2] + 50).all()  # red


@pytest.mark.parametrize("count, shown", [(1, 1), (16, 16), (17, 16), (129, 16), (1000, 16)])
def test_a_contact_sheet_spreads_its_pictures_over_the_video(tmp_path, monkeypatch, count, shown):
    pages = []
    monkeypatch.setattr(predict, "page", lambda pictures: pages.append(pictures) or Image.new("L", (1, 1)))
    with predict.contact_sheet(tmp_path / "a.png") as write:
        for number in range(count):
            write(predict.Prediction("", float(number), np.zeros((9, 16, 3), np.uint8), torch.rand(9, 16)))
    times = [seconds for seconds, _ in pages[0]]
    assert len(times) == shown and times[0] == 0 and times == sorted(set(times)) and times[-1] >= 0.9 * (count - 1)
    assert np.diff(times).max(initial=0) <= max(2, 3 * count / shown)


def test_an_interrupted_run_goes_on_with_the_frames_that_are_missing(tmp_path, weights_file, monkeypatch):
    clip = write_video(tmp_path / "a.mp4", list(np.random.default_rng(1).integers(0, 256, (40, 48, 64, 3), np.uint8)))
    common = ("--weights", weights_file, "--device", "cpu", "--scene-cuts", "--save", "png", "npy")
    run(clip, "--out", tmp_path / "whole", *common)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    record = tmp_path / "cut" / "a.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "frames": None}))
    for number in range(37, 41):
        (tmp_path / "cut" / "a" / f"{number:04d}.png").unlink()
    with pytest.raises(FileExistsError, match="was predicted already: --skip-existing keeps what is there and goes on after it, --overwrite replaces it"):
        run(clip, "--out", tmp_path / "cut", *common)
    clips, forward = [], RecSalNet.forward
    monkeypatch.setattr(RecSalNet, "forward", lambda self, clip: (clips.append(1), forward(self, clip))[1])
    run(clip, "--out", tmp_path / "cut", *common, "--skip-existing")
    assert len(clips) == 4
    written = sorted(p.name for p in (tmp_path / "whole" / "a").iterdir())
    assert len(written) == 80 and all((tmp_path / "whole" / "a" / n).read_bytes() == (tmp_path / "cut" / "a" / n).read_bytes() for n in written)
    assert json.loads(record.read_text())["frames"] == json.loads((tmp_path / "whole" / "a.json").read_text())["frames"]
    run(clip, "--out", tmp_path / "cut", *common, "--skip-existing")       # everything is there
    assert len(clips) == 4


def test_what_was_made_otherwise_is_not_gone_on_with_and_overwriting_leaves_nothing_of_it(tmp_path, weights_file, clip):
    common = (clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu")
    run(*common, "--save", "png", "sheet")
    with pytest.raises(ValueError, match="was predicted otherwise: every was 1, is 4. Give --overwrite"):
        run(*common, "--skip-existing", "--every", "4")
    run(*common, "--overwrite", "--every", "4")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["0001.png", "0005.png", "0009.png"]


@pytest.mark.parametrize("change, said", [
    (lambda clip: write_video(clip, grey_frames(4)), "input was .*bytes.*, is"), (lambda clip: os.utime(clip, (1, 1)), "input was .*modified.*, is"),
])
def test_another_video_of_the_same_name_is_not_gone_on_with(tmp_path, weights_file, clip, change, said):
    common = (clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu")
    run(*common)
    change(clip)
    with pytest.raises(ValueError, match=said):
        run(*common, "--skip-existing")


def test_a_folder_with_another_frame_or_rate_is_not_gone_on_with(tmp_path, weights_file):
    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30)).save(tmp_path / "a" / f"{number}.png")
    common = (tmp_path / "a", "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--skip-existing")
    run(*common)
    with pytest.raises(ValueError, match="input was .*'fps': 25.0}, is .*'fps': 30.0}"):
        run(*common, "--fps", "30")
    Image.new("RGB", (40, 30)).save(tmp_path / "a" / "3.png")
    with pytest.raises(ValueError, match="input was {'frames': 3"):
        run(*common)


def test_an_input_is_never_written_over(tmp_path, weights_file, clip):
    other = shutil.copy(clip, tmp_path / f"{clip.stem}_overlay.mp4")
    with pytest.raises(ValueError, match="outputs of .*ü.mp4 would be written over or into the input .*_overlay.mp4"):
        run(clip, other, "--out", tmp_path, "--weights", weights_file, "--device", "cpu", "--save", "overlay", "--overwrite")
    assert other.read_bytes() == clip.read_bytes()


def test_a_run_that_made_nothing_leaves_nothing(tmp_path, weights_file, clip):
    with pytest.raises(ValueError, match="has no frame from second 50 to its end; the last one that was seen is at second 0.50"):
        run(clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--start", "50")
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_videos_are_left_out_when_told(tmp_path, weights_file, clip, capsys):
    (tmp_path / "none.mp4").write_bytes(b"no video")
    cut = write_video(tmp_path / "cut.mkv", list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)))
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size // 2])
    common = (tmp_path / "none.mp4", cut, clip, "--weights", weights_file, "--device", "cpu", "--every", "9")
    with pytest.raises(ValueError, match="no frame could be decoded from .*none.mp4"):
        run(*common, "--out", tmp_path / "strict")
    assert not (tmp_path / "strict").exists()
    run(*common, "--out", tmp_path / "out", "--skip-bad")
    said = capsys.readouterr().out
    assert re.search("skipped: no frame could be decoded from .*none.mp4", said) and re.search("skipped: .*cut.mkv ends after 19 frames", said)
    assert [p.name for p in (tmp_path / "out" / clip.stem).iterdir()] == ["0001.png"] and not (tmp_path / "out" / "none.json").exists()


def test_an_input_after_save_is_said_to_belong_before_it(capsys):
    with pytest.raises(SystemExit):
        predict.arguments().parse_args(["--save", "overlay", "a.mp4"])
    assert "a.mp4 is none of png, npy, npz, map-video, overlay, sheet; if it is an INPUT, put it before --save" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--overwrite", "--skip-existing"])
@pytest.mark.parametrize("content", [None, "{}", "[1]", "no JSON", '{"name": "my own"}'])
def test_files_of_others_are_never_replaced(tmp_path, weights_file, clip, flag, content):
    (tmp_path / "out" / clip.stem).mkdir(parents=True)
    (tmp_path / "out" / clip.stem / "0001.png").write_bytes(b"a frame of mine")
    if content is not None:
        (tmp_path / "out" / f"{clip.stem}.json").write_text(content)
    with pytest.raises(FileExistsError, match="is there, and .*json does not say that this program wrote it"):
        run(clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", flag)
    assert (tmp_path / "out" / clip.stem / "0001.png").read_bytes() == b"a frame of mine"


@pytest.mark.parametrize("flag", ["--overwrite", "--skip-existing"])
@pytest.mark.parametrize("place, first, second", [
    ("_sheet.png", "png", "sheet"), ("_overlay.mp4", "npy", "overlay"), ("/0001.png", "overlay", "png"), ("/0001.png", "npy", "png"),
])
def test_an_earlier_run_vouches_only_for_the_kinds_it_wrote(tmp_path, weights_file, clip, flag, place, first, second):
    common = (clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu")
    run(*common, "--save", first)
    mine = tmp_path / "out" / f"{clip.stem}{place}"
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="does not say that this program wrote it"):
        run(*common, "--save", second, flag)
    run(*common, "--save", first, flag)
    assert mine.read_bytes() == b"mine"


def test_another_kind_is_added_to_what_is_there(tmp_path, weights_file, clip):
    common = (clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--skip-existing")
    run(*common, "--save", "png")
    before = (tmp_path / "out" / clip.stem / "0001.png").stat().st_mtime_ns
    run(*common, "--save", "npz")
    assert json.loads((tmp_path / "out" / f"{clip.stem}.json").read_text())["kinds"] == ["npz", "png"]
    assert (tmp_path / "out" / clip.stem / "0001.png").stat().st_mtime_ns == before and (tmp_path / "out" / f"{clip.stem}.npz").exists()


def test_nothing_is_removed_before_everything_is_checked(tmp_path, weights_file, clip):
    run(clip, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu")
    (tmp_path / "out" / "frames").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "out" / "frames" / "1.png")
    with pytest.raises(ValueError, match="would be written over or into the input"):
        run(clip, tmp_path / "out" / "frames", "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--overwrite")
    assert len(list((tmp_path / "out" / clip.stem).iterdir())) == 9


def test_a_folder_of_videos_does_not_get_its_own_outputs(tmp_path, weights_file, clip):
    with pytest.raises(ValueError, match="is an input: its outputs would be taken for videos the next time"):
        run(tmp_path, "--out", tmp_path, "--weights", weights_file, "--device", "cpu")


def test_first_frames_and_scene_cuts_change_the_maps_they_should(tmp_path, weights_file):
    """34 bright frames, then 32 dark ones; without a flag, the same again."""
    noise = np.random.default_rng(0).integers(0, 100, (66, 48, 64, 3), np.uint8)
    noise[:34] += 150
    clip = write_video(tmp_path / "a.mp4", list(noise))
    maps = {}
    for kind, flags in {"plain": (), "again": (), "mirror": ("--first-frames", "mirror"), "cuts": ("--scene-cuts",)}.items():
        run(clip, "--out", tmp_path / kind, "--weights", weights_file, "--device", "cpu", "--save", "npy", *flags)
        maps[kind] = [np.load(path) for path in sorted((tmp_path / kind / "a").iterdir())]
        assert len(maps[kind]) == 66
    changed = {kind: {number for number, (a, b) in enumerate(zip(maps["plain"], maps[kind])) if not np.array_equal(a, b)} for kind in maps}
    assert changed == {"plain": set(), "again": set(), "mirror": set(range(31)), "cuts": set(range(34, 65))}


def test_maps_never_fall_among_the_frames(tmp_path, weights_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    with pytest.raises(ValueError, match="would be written over or into the input .*: choose another --out"):
        run(video, "--out", video.parent, "--weights", weights_file, "--device", "cpu")


def test_a_truncated_video_leaves_whole_maps_and_no_half_written_video(tmp_path, weights_file):
    path = write_video(tmp_path / "a.mkv", list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)))
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(ValueError, match="ends after 19 frames, at second 0.76, although its header promises 1.60 seconds"):
        run(path, "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--save", "png", "npz", "overlay", "sheet")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "a.json"] and len(list((tmp_path / "out" / "a").iterdir())) == 19


@pytest.mark.parametrize("flags, said", [
    ((), "nothing to do"), (("a", "--every", "2", "--interpolate", "2"), "choose one"), (("a", "--start", "3", "--end", "2"), "the start, second 3, must be 0 or more and before the end, second 2"),
    (("a", "--submission", "a.zip", "--every", "2"), "needs the maps of all frames"), (("--export", "a.pt2", "--submission", "a.zip"), "nothing to do"),
])
def test_flags_that_make_no_sense_together_are_refused(flags, said):
    with pytest.raises(ValueError, match=said):
        run(*flags)


@pytest.mark.parametrize("text, expected", [("90", 90), ("1:30", 90), ("1:00:01.5", 3601.5)])
def test_times_are_seconds_or_clock_times(text, expected):
    assert predict.seconds(text) == expected
    assert [predict.clock(at) for at in (0, 59.996, 3601.5)] == ["0:00.00", "1:00.00", "60:01.50"]


@pytest.mark.parametrize("text", ["-1", "1:-30", "inf", "a"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        predict.seconds(text)


# The benchmark's submission

@pytest.fixture
def submitted(tmp_path):
    """The maps of the whole test set, of one frame each."""
    for name in predict.TEST_SET:
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "0001.png")
        (tmp_path / f"{name}.json").write_text(json.dumps({"settings": {}, "kinds": ["png"], "frames": {"0001": 0.0}}))
    return tmp_path


def test_a_submission_holds_the_maps_of_the_test_set_by_method_video_and_frame(submitted):
    assert predict.pack_submission(submitted, predict.TEST_SET, submitted / "a.zip", "Ours") == 300
    names = zipfile.ZipFile(submitted / "a.zip").namelist()
    assert names[0] == "Ours/0701/0001.png" and names[-1] == "Ours/1000/0001.png" and len(names) == 300


@pytest.mark.parametrize("spoil, said", [
    (lambda maps: (maps / "0800" / "0001.png").unlink(), "video 0800: expected the maps 0001.png to 0001.png .* there are 0"),
    (lambda maps: Image.new("L", (4, 4)).save(maps / "0800" / "0002.png"), "video 0800: .* there are 2"),
    (lambda maps: Image.new("RGB", (4, 4)).save(maps / "0800" / "0001.png"), "0800/0001.png must be an 8-bit grey picture, its mode is RGB"),
    (lambda maps: (maps / "0800.json").unlink(), "video 0800: expected the maps 0001.png to 0000.png"),
])
def test_a_submission_with_a_wrong_map_is_refused(submitted, spoil, said):
    spoil(submitted)
    with pytest.raises(ValueError, match=said):
        predict.pack_submission(submitted, predict.TEST_SET, submitted / "a.zip", "Ours")
    assert not (submitted / "a.zip").exists()


def test_a_submission_of_part_of_the_test_set_is_refused_before_anything_is_computed(tmp_path, clip):
    with pytest.raises(ValueError, match=r"missing: 300, the first .*; not of the set: 1, the first \['my clip ü'\]"):
        run(clip, "--weights", tmp_path / "none.pth", "--submission", tmp_path / "a.zip")


def test_the_command_packs_a_submission_under_the_methods_name(tmp_path, weights_file, monkeypatch, capsys):
    monkeypatch.setattr(predict, "TEST_SET", ["0701", "0702"])
    for name in ("701", "702"):                                            # as DHF1K's own files are called
        write_video(tmp_path / f"{name}.mp4", grey_frames(2))
    common = (tmp_path / "701.mp4", tmp_path / "702.mp4", "--out", tmp_path / "out", "--weights", weights_file, "--device", "cpu", "--submission", tmp_path / "a.zip")
    run(*common, "--method", "Ours")
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == [f"Ours/070{video}/000{frame}.png" for video in (1, 2) for frame in (1, 2)]
    with pytest.raises(FileExistsError, match="a.zip would be replaced: --overwrite replaces it"):
        run(*common, "--skip-existing")


# From Python

def test_the_predictor_gives_times_and_arrays(weights_file, clip):
    found = list(Predictor(weights_file, "cpu", every=4).predict_video(clip, start=0.03, end=0.45))
    assert [seconds for seconds, _ in found] == pytest.approx([0.04, 0.34], abs=2e-3)
    assert all(isinstance(saliency, np.ndarray) and saliency.dtype == np.float32 and saliency.shape == (48, 62) for _, saliency in found)


def test_the_predictor_refuses_an_unknown_option_at_once(weights_file):
    with pytest.raises(TypeError, match="evry"):
        Predictor(weights_file, "cpu", evry=4)


@pytest.mark.parametrize("options", [{"every": 0}, {"first_frames": "x"}, {"precision": "fp16"}, {"device": "gpu"}])
def test_the_predictor_refuses_a_wrong_option_at_once(weights_file, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.* must be|first_frames one of"):
        Predictor(weights_file, **{"device": "cpu", **options})


def test_the_predictor_takes_frames_from_anywhere(weights_file, clip):
    predictor = Predictor(weights_file, "cpu")
    from_frames = list(predictor.predict_frames(frame.to_ndarray(format="rgb24") for frame in decoded(clip)))
    assert len(from_frames) == 9 and all(np.array_equal(a, b) for a, (_, b) in zip(from_frames, predictor.predict_video(clip)))


# Export

exports = pytest.mark.skipif(torch.__version__ < predict.EXPORTABLE, reason="PyTorch is too old to export")


@exports
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_an_exported_network_gives_the_same_map(tmp_path, capsys, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    model = shallow()
    save_safetensors(model.state_dict(), model.config, tmp_path / "a.safetensors")
    run("--export", tmp_path / f"a{suffix}", "--weights", tmp_path / "a.safetensors")
    assert re.search(r"clip \(3, 32, 32, 64\) -> map; differs from PyTorch's output by \S+ at most", capsys.readouterr().out)
    assert (tmp_path / f"a{suffix}").stat().st_size > 10000


def test_an_old_pytorch_is_said_to_be_too_old_to_export(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(predict, "EXPORTABLE", "99.0")
    with pytest.raises(ValueError, match=r"--export to .pt2 needs PyTorch 99.0 or newer, this is"):
        predict.export(tiny_model, tmp_path / "a.pt2")


class HalfOfTheNewest(SaliencyModel):
    """A network of windows that is traced at once."""

    def forward(self, clip):
        return clip[:, 0, -1] / 2


@exports
def test_a_network_that_exports_wrongly_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "export_pt2", lambda program, clip, path: [torch.zeros(2, 32, 64)])
    with pytest.raises(ValueError, match="differs from PyTorch's by .*, more than 1e-4"):
        predict.export(HalfOfTheNewest((32, 64), prepare_frame), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


def test_exported_safetensors_hold_weights_and_configuration(tmp_path, weights_file, tiny_model):
    run("--export", tmp_path / "a.safetensors", "--weights", weights_file)
    restored = predict.load_model(tmp_path / "a.safetensors", torch.device("cpu"))
    assert restored.config == tiny_model.config and restored.is_described
    assert all(torch.equal(a, b) for a, b in zip(restored.state_dict().values(), tiny_model.state_dict().values()))


def test_another_export_is_refused(tmp_path, tiny_model):
    with pytest.raises(ValueError, match="must end in .pt2, .onnx or .safetensors"):
        predict.export(tiny_model, tmp_path / "a.tflite")


# A browser

PAGE = """<video muted src="FILE"></video><script>
    const video = document.querySelector("video"), say = text => fetch("/said?" + encodeURIComponent(text));
    video.onerror = () => say("error " + video.error.message);
    video.onended = () => say(`played ${video.videoWidth} x ${video.videoHeight} to ${video.currentTime.toFixed(1)}`);
    video.play();
</script>"""


def test_an_overlay_plays_in_a_browser(tmp_path, weights_file, clip):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    run(clip, "--out", tmp_path, "--weights", weights_file, "--device", "cpu", "--save", "overlay")
    (tmp_path / "page.html").write_text(PAGE.replace("FILE", urllib.parse.quote(f"{clip.stem}_overlay.mp4")), encoding="utf-8")
    said = queue.Queue()

    class Pages(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/said?"):
                said.put(urllib.parse.unquote(self.path[6:]))
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ("--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync "
             "--autoplay-policy=no-user-gesture-required --remote-debugging-port=0").split()
    shown = subprocess.Popen([browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{server.server_port}/page.html"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert said.get(timeout=60) == "played 62 x 48 to 0.5"
    finally:
        shown.kill()
        shown.wait()
        server.shutdown()


# Files from strangers

def test_a_few_dozen_damaged_files_of_every_kind_are_refused_with_a_message(tmp_path):
    """tests/long/fuzz.py feeds thousands."""
    (whole := tmp_path / "whole").mkdir()
    fuzz.make_files(whole)
    outcomes = [fuzz.run_case(number, seed=1, whole=whole, folder=tmp_path) for number in range(2 * len(fuzz.KINDS))]
    assert {kind for kind, _ in outcomes} == set(fuzz.KINDS) and {outcome for _, outcome in outcomes} == {"read", "refused"}


def test_the_fuzzer_tells_what_is_wrong(tmp_path, monkeypatch):
    (whole := tmp_path / "whole").mkdir()
    fuzz.make_files(whole)

    def misbehave(*unused):
        (tmp_path / "0" / "out").mkdir()
        (tmp_path / "0" / "out" / "a.npz").touch()
        raise ValueError("refused too late")
    monkeypatch.setattr(fuzz, "run_predict", misbehave)
    assert "a.npz" in fuzz.run_case(0, 1, whole, tmp_path)[1]
    monkeypatch.setattr(fuzz, "run_predict", lambda *unused: {}["a"])
    assert fuzz.run_case(len(fuzz.KINDS), 1, whole, tmp_path)[1].startswith("KeyError")


# Optical flow, single images

@pytest.fixture
def stsmaxnet_file(tmp_path, monkeypatch):
    few_channels(monkeypatch)
    torch.manual_seed(0)
    torch.save(STSMaxNet().state_dict(), tmp_path / "STSMaxNet.pth")
    return tmp_path / "STSMaxNet.pth"


def pictures_of(folder, count=3, start=0):
    folder.mkdir(parents=True)
    noise = np.random.default_rng(start).integers(0, 256, (40, 60 + count, 3), np.uint8)
    for number in range(count):
        Image.fromarray(np.ascontiguousarray(noise[:, number:number + 60])).save(folder / f"{number + 1:04d}.png")
    return folder


def test_flow_of_a_folder_is_made_and_kept_beside_its_frames_or_not(tmp_path, stsmaxnet_file):
    common = ("--model", "stsmaxnet", "--weights", stsmaxnet_file, "--device", "cpu", "--save", "npy")
    folder = pictures_of(tmp_path / "clip")
    run(folder, *common, "--out", tmp_path / "made", "--no-keep-flow")
    assert not (folder / "flow_dis").exists()
    run(folder, *common, "--out", tmp_path / "kept")
    assert len(list((folder / "flow_dis").iterdir())) == 2                 # the last frame repeats the one before
    made, kept = (np.stack([np.load(path) for path in sorted((tmp_path / name / "clip").iterdir())]) for name in ("made", "kept"))
    assert made.shape == (3, 40, 60) and np.abs(made - kept).max() < 0.05  # float16 in files
    assert json.loads((tmp_path / "kept" / "clip.json").read_text())["settings"]["flow"] == {"source": "auto", "made_by": "dis", "picture": "components"}


def test_given_pictures_of_flow_are_used_and_change_the_maps(tmp_path, stsmaxnet_file):
    folder = pictures_of(tmp_path / "clip")
    pictures_of(tmp_path / "flow" / "clip", 2, start=1)
    common = (folder, "--model", "stsmaxnet", "--weights", stsmaxnet_file, "--device", "cpu", "--no-keep-flow")
    run(*common, "--out", tmp_path / "a")
    run(*common, "--out", tmp_path / "b", "--flow", tmp_path / "flow")
    frames, flows = ([np.array(Image.open(path)) for path in sorted(place.iterdir())] for place in (folder, tmp_path / "flow" / "clip"))
    expected = list(saliency_maps(STSMaxNet.from_pretrained(stsmaxnet_file), frames, [*flows, flows[-1]]))
    written = [np.array(Image.open(tmp_path / "b" / "clip" / f"{number:04d}.png")) for number in (1, 2, 3)]
    assert all(np.array_equal(w, (255 * e).to(torch.uint8).numpy()) for w, e in zip(written, expected))
    assert not np.array_equal(written[0], np.array(Image.open(tmp_path / "a" / "clip" / "0001.png")))


def test_a_video_file_has_its_flow_made_as_it_is_decoded(tmp_path, stsmaxnet_file):
    write_video(tmp_path / "clip.mp4", [np.roll(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8), shift, axis=1) for shift in range(4)])
    run(tmp_path / "clip.mp4", "--model", "stsmaxnet", "--weights", stsmaxnet_file, "--device", "cpu", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out" / "clip").iterdir())) == 4
    with pytest.raises(ValueError, match="clip.mp4 is a video file"):
        run(tmp_path / "clip.mp4", "--model", "stsmaxnet", "--weights", stsmaxnet_file, "--device", "cpu", "--out", tmp_path / "other", "--flow", "Flow")


def test_an_interrupted_run_with_flow_goes_on_to_the_same_maps(tmp_path, stsmaxnet_file):
    folder = pictures_of(tmp_path / "clip", 5)
    common = (folder, "--model", "stsmaxnet", "--weights", stsmaxnet_file, "--device", "cpu", "--no-keep-flow", "--out", tmp_path / "out")
    run(*common)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out" / "clip").iterdir()}
    for name in ("0004.png", "0005.png"):
        (tmp_path / "out" / "clip" / name).unlink()
    run(*common, "--skip-existing")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "clip").iterdir()} == whole


def test_single_images_have_maps_from_networks_of_single_frames_and_their_flow(tmp_path, stsmaxnet_file, weights_file):
    folder = pictures_of(tmp_path / "images")
    pictures_of(tmp_path / "flow", 3, start=1)
    flags = ("--model", "stsmaxnet", "--weights", stsmaxnet_file, "--device", "cpu", "--out", tmp_path / "out", "--save", "png", "sheet")
    run(folder / "0002.png", *flags, "--flow", tmp_path / "flow")
    picture, flow = (np.array(Image.open(place / "0002.png")) for place in (folder, tmp_path / "flow"))
    expected, = saliency_maps(STSMaxNet.from_pretrained(stsmaxnet_file), [picture], [flow])
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "0002" / "0002.png")), (255 * expected).to(torch.uint8).numpy())
    run(folder / "0001.png", *flags)                                       # nothing follows: its flow is zero
    assert (tmp_path / "out" / "0001" / "0001.png").is_file() and (tmp_path / "out" / "0001_sheet.png").is_file()
    with pytest.raises(ValueError, match="is a single image: give the folder .*ssnet, tsnet, stsmaxnet, stsconvnet make maps"):
        run(folder / "0001.png", "--weights", weights_file, "--device", "cpu", "--out", tmp_path / "other")


def test_a_network_without_flow_takes_no_flag_of_it(tmp_path, weights_file):
    with pytest.raises(ValueError, match="--flow and --raft-weights are for networks of optical flow: RecSalNet takes none"):
        run(pictures_of(tmp_path / "clip"), "--weights", weights_file, "--device", "cpu", "--flow", "dis", "--out", tmp_path / "out")


def test_pictures_of_flow_of_another_size_are_brought_to_the_frames():
    with pytest.MonkeyPatch.context() as patch:
        few_channels(patch)
        model = STSMaxNet().eval()
    frames_of_one, half = [np.full((40, 60, 3), 90, np.uint8)] * 2, [np.full((20, 30, 3), 128, np.uint8)] * 2
    whole = [np.full((40, 60, 3), 128, np.uint8)] * 2
    assert all(torch.equal(a, b) for a, b in zip(saliency_maps(model, frames_of_one, half), saliency_maps(model, frames_of_one, whole), strict=True))


def test_gradients_are_on_between_two_maps_also_where_two_videos_are_taken_in_turns(tiny_model):
    first, second = (saliency_maps(tiny_model, grey_frames(2)) for _ in range(2))
    for _ in zip(first, second, strict=True):
        assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()


# Without PyAV

WITHOUT_AV = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class WithoutAv:
    find_spec = staticmethod(lambda name, path=None, target=None: None if name.split(".")[0] == "av" else PathFinder.find_spec(name, path, target))

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, WithoutAv]
import predict
for kind in ("png", "overlay"):
    predict.main(predict.arguments().parse_args([*sys.argv[2:], "--out", f"{sys.argv[1]}/{kind}", "--save", kind]))
"""


def test_folders_of_frames_are_predicted_without_pyav_and_video_files_ask_for_it(tiny_set, weights_file, tmp_path):
    images = next((tiny_set / "val").iterdir()) / "images"
    flags = f"{tmp_path} {images} --weights {weights_file} --end 0.08 --device cpu".split()
    ended = subprocess.run([sys.executable, "-c", WITHOUT_AV, *flags], cwd=TESTS.parent, capture_output=True, text=True)
    assert ended.returncode == 1 and len(list((tmp_path / "png" / "images").iterdir())) == 2, ended.stderr
    assert "ModuleNotFoundError: video files are read and written with PyAV, which is not installed: pip install av" in ended.stderr
