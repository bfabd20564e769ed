import numpy as np
import pytest
import torch
from conftest import few_channels, grey_frames, shallow
from torch import nn

from baselines import loading
from baselines.stsnet import STSMaxNet
from prediction import engine
from prediction.engine import saliency_maps
from saliency_model import (
    EngineOptions,
    GroupModel,
    PreparedFrame,
    RecurrentModel,
    SaliencyModel,
    WindowModel,
    prepare_frame,
    steps_of,
)
from videos.images import read_frame
from videos.video import list_frames


class NewestAndOldest(WindowModel):
    """A network whose answer is known: the newest frame's value plus a hundredth of the oldest's."""
    clip_len = 4

    def __init__(self, frame_stride=1):
        nn.Module.__init__(self)
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
    assert [m[0, 0].item() for m in saliency_maps(many, frames(count), options=EngineOptions(batch_size=batch_size))] == pytest.approx(expected)
    assert set(many.batches) == {batch_size} and len(many.batches) == -(-count // batch_size) and many.prepared == count


def test_frames_of_several_sizes_get_maps_of_their_own():
    pictures = [*frames(3, (4, 6)), *frames(2, (7, 5)), *frames(1, (4, 6))]
    assert [tuple(m.shape) for m in saliency_maps(NewestAndOldest(), pictures, options=EngineOptions(batch_size=4))] == [(4, 6)] * 3 + [(7, 5)] * 2 + [(4, 6)]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_interpolation_predicts_every_nth_frame_and_the_last_and_draws_lines_between(batch_size):
    exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(9))]
    maps = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(9), options=EngineOptions(interpolate=3, batch_size=batch_size))]
    assert maps[::3] == pytest.approx(exact[::3]) and maps[8] == pytest.approx(exact[8])  # predicted: frames 1, 4, 7 and 9
    assert maps[1:3] == pytest.approx(np.interp([1, 2], [0, 3], [exact[0], exact[3]])) and maps[7] == pytest.approx((exact[6] + exact[8]) / 2)


def test_the_engine_reads_a_bounded_number_of_frames_ahead():
    read = []
    source = (read.append(frame[0, 0, 0]) or frame for frame in frames(200))
    maps = saliency_maps(NewestAndOldest(), source, options=EngineOptions(batch_size=4))
    next(maps)
    maps.close()
    assert len(read) <= 4 + 2 * 4 + 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_error_in_a_frame_comes_after_the_maps_before_it(batch_size):
    def broken():
        yield from frames(6)
        raise ValueError("frame 7 is damaged")
    maps = saliency_maps(NewestAndOldest(), broken(), options=EngineOptions(batch_size=batch_size))
    assert [next(maps)[0, 0].item() for _ in range(6)] == pytest.approx([1.01, 2.01, 3.01, 4.01, 5.02, 6.03])
    with pytest.raises(ValueError, match="frame 7 is damaged"):
        next(maps)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_nth_frame_gets_the_map_it_has_among_all(batch_size):
    model = NewestAndOldest()
    exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(11))]
    maps = [m[0, 0].item() for m in saliency_maps(model, frames(11), options=EngineOptions(every=3, batch_size=batch_size))]
    assert maps == pytest.approx(exact[::3]) and model.prepared == 11


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("skip", [1, 2, 5, 11, 12])
def test_skipped_frames_fill_the_window_and_get_no_map(skip, every):
    exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(11))]
    assert [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(11), options=EngineOptions(skip=skip, every=every, batch_size=2))] == pytest.approx(exact[skip::every])


@pytest.mark.parametrize("count, expected", [
    (1, [1.01]), (3, [1.01, 2.01, 3.01]), (5, [1.04, 2.05, 3.01, 4.01, 5.02]), (6, [1.04, 2.05, 3.06, 4.01, 5.02, 6.03]), (9, [1.04, 2.05, 3.06, 4.01, 5.02, 6.03, 7.04, 8.05, 9.06]),
])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_mirrored_windows_begin_at_the_frame_they_belong_to_where_they_fit(count, expected, batch_size):
    maps = saliency_maps(NewestAndOldest(), frames(count), options=EngineOptions(first_frames="mirror", batch_size=batch_size))
    assert [m[0, 0].item() for m in maps] == pytest.approx(expected)       # the newest, and a hundredth of the frame at the other end


@pytest.mark.parametrize("every, skip", [(2, 0), (3, 0), (3, 1), (5, 4), (100, 0)])
def test_mirrored_windows_are_the_same_where_maps_are_left_out(every, skip):
    for count in range(1, 16):
        exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(count), options=EngineOptions(first_frames="mirror"))]
        for batch_size in (1, 3):
            maps = saliency_maps(NewestAndOldest(), frames(count), options=EngineOptions(first_frames="mirror", every=every, skip=skip, batch_size=batch_size))
            assert [m[0, 0].item() for m in maps] == pytest.approx(exact[skip::every]), count


def scenes(*counts):
    for level, count in zip((0, 100, 30, 200), counts):
        yield from (np.full((3, 5, 3), level + number, np.uint8) for number in range(count))


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"every": 2}, {"interpolate": 3}, {"first_frames": "mirror", "batch_size": 2}, {"skip": 7}, {"skip": 6, "every": 3}])
def test_at_a_scene_cut_the_window_begins_anew(options):
    whole = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), scenes(5, 7, 6), options=EngineOptions(scene_cuts=True, **{k: v for k, v in options.items() if k not in ("skip", "every")}))]
    parts = [m[0, 0].item() for count, level in ((5, 0), (7, 100), (6, 30)) for m in saliency_maps(
        NewestAndOldest(), (np.full((3, 5, 3), level + n, np.uint8) for n in range(count)), options=EngineOptions(**{k: v for k, v in options.items() if k not in ("skip", "every")}))]
    assert whole == pytest.approx(parts)
    some = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), scenes(5, 7, 6), options=EngineOptions(scene_cuts=True, **options))]
    assert some == pytest.approx(whole[options.get("skip", 0)::options.get("every", 1)])


def test_fast_movement_is_no_cut():
    assert engine.is_cut(46, 5) and engine.is_cut(60, 20)
    assert not engine.is_cut(20, 1) and not engine.is_cut(41, 30)


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="interpolate=2 draws the maps that every=2"):
        next(saliency_maps(NewestAndOldest(), frames(3), options=EngineOptions(interpolate=2, every=2)))


@pytest.mark.parametrize("options", [{"first_frames": "mirrror"}, {"every": 0}, {"interpolate": 0}, {"batch_size": 0}, {"skip": -1}])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match=f"got .*{next(iter(options))}="):
        next(saliency_maps(NewestAndOldest(), frames(3), options=EngineOptions(**options)))


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), "frame.png"])
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(ValueError, match=r"frames must be arrays \(H, W, 3\) of uint8, RGB, got"):
        next(saliency_maps(NewestAndOldest(), [frame]))


@pytest.mark.parametrize("options", [{"every": 40}, {"interpolate": 40}])
def test_of_frames_that_no_window_reaches_none_is_kept(options):
    exact = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(90))]
    maps = [m[0, 0].item() for m in saliency_maps(NewestAndOldest(), frames(90), options=EngineOptions(**options))]
    assert maps[::options.get("interpolate", 1)][:3] == pytest.approx(exact[::40])
    steps = steps_of(iter([PreparedFrame(torch.zeros(1), (1, 1))] * 90), 1, 40, window=4, whole=False)
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
    class Sideways(SaliencyModel):
        prepare, normalise = NewestAndOldest.prepare, NewestAndOldest.normalise
    model = Sideways((2, 2), prepare_frame)
    with pytest.raises(NotImplementedError, match="Sideways must be a WindowModel, a RecurrentModel or a GroupModel"):
        next(saliency_maps(model, frames(1)))


class GroupOfThree(GroupModel):
    """A network of groups whose answer is known: the frame's value, a hundredth of the group's last one's, and a thousandth of the flow's."""
    needs_flow, clip_len, inputs, flow_picture = True, 3, ("frame", "flow"), "components"
    __init__, prepare, normalise = NewestAndOldest.__init__, NewestAndOldest.prepare, NewestAndOldest.normalise

    def forward(self, frame, flow):
        assert len(frame) % 3 == 0 and frame.shape == flow.shape
        self.batches.append(len(frame))
        last = frame[2::3].repeat_interleave(3, 0)
        return (frame + last / 100 + flow / 1000)[:, :1], frame            # (B, 1, h, w), and something else

    def main_output(self, outputs):
        return outputs[0]

    def finish(self, output, size):
        return NewestAndOldest.finish(self, output[:, 0], size)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_groups_follow_each_other_and_the_last_frame_fills_the_last_one(batch_size):
    model = GroupOfThree()
    maps = [m[0, 0].item() for m in saliency_maps(model, frames(5), frames(5), options=EngineOptions(batch_size=batch_size))]
    assert maps == pytest.approx([1.031, 2.032, 3.033, 4.054, 5.055]) and sum(model.batches) == 6 and model.prepared == 10
    assert [m[0, 0].item() for m in saliency_maps(GroupOfThree(), frames(5), frames(5), options=EngineOptions(skip=1, every=3))] == pytest.approx([2.032, 5.055])


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
    model.main_output = lambda output: output
    model.forward = lambda frame: (model.batches.append(tuple(frame.shape)), frame[:, :1] + frame[:, 0].mean() / 100)[1]
    mixed = [np.full((*size, 3), level, np.uint8) for level, size in ((1, (3, 5)), (2, (3, 5)), (3, (4, 4)))]
    maps = list(saliency_maps(model, mixed, options=EngineOptions(batch_size=2)))
    assert [tuple(m.shape) for m in maps] == [(3, 5), (3, 5), (4, 4)] and model.batches == [(2, 3, 3, 5), (1, 3, 4, 4)]


class SumSoFar(RecurrentModel):
    """A recurrent network whose answer is known: the frame's value plus a hundredth of the sum of all before."""
    __init__, prepare, normalise, finish = (getattr(NewestAndOldest, name) for name in ("__init__", "prepare", "normalise", "finish"))

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
    assert [m[0, 0].item() for m in saliency_maps(model, frames(7), options=EngineOptions(batch_size=batch_size))] == pytest.approx(SUMS)
    assert model.prepared == 7 and max(model.batches) == min(7, batch_size)
    assert [m.shape for m in saliency_maps(model, frames(2), options=EngineOptions(batch_size=batch_size))] == [(3, 5)] * 2


@pytest.mark.parametrize("skip, every", [(0, 3), (2, 1), (4, 2), (7, 1), (1, 5)])
def test_frames_without_a_map_go_into_the_state(skip, every):
    maps = saliency_maps(SumSoFar(), frames(7), options=EngineOptions(skip=skip, every=every, batch_size=2))
    assert [m[0, 0].item() for m in maps] == pytest.approx(SUMS[skip::every])


def test_of_interpolated_steps_the_last_frame_alone_goes_into_the_state():
    maps = [m[0, 0].item() for m in saliency_maps(SumSoFar(), frames(6), options=EngineOptions(interpolate=2, batch_size=2))]
    assert maps == pytest.approx([1, (1 + 3.01) / 2, 3.01, (3.01 + 5.04) / 2, 5.04, 6.09])


def test_a_state_is_not_carried_over_a_scene_cut():
    whole = [m[0, 0].item() for m in saliency_maps(SumSoFar(), scenes(3, 2), options=EngineOptions(scene_cuts=True, batch_size=2))]
    assert whole == pytest.approx([0, 1, 2.01, 100, 102])


@pytest.mark.parametrize("network", [NewestAndOldest, SumSoFar])
def test_maps_can_stay_at_the_networks_size(network):
    assert [m.shape for m in saliency_maps(network(), frames(2), options=EngineOptions(resize=False))] == [(2, 2)] * 2


def test_compiled_it_is_one_graph_for_a_whole_video_with_the_same_maps(tiny_set, compilations):
    model = shallow()
    pictures = [read_frame(path) for path in list_frames(sorted((tiny_set / "val").iterdir())[0] / "images")][:7]
    expected = list(saliency_maps(model, pictures, options=EngineOptions(batch_size=2)))
    loading.compile_network(model)
    maps = list(saliency_maps(model, pictures, options=EngineOptions(batch_size=2)))
    assert compilations.frame_count == 1 and not model.training       # seven frames in batches of two: the last is filled up
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(maps, expected))


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
