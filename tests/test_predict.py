import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import TESTS
from PIL import Image
from torch import nn

import predict
from dataloader import list_frames, read_frame
from predict import MapWriter, default_precision, in_threads, precision_context, saliency_maps, select_device, to_8_bit


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
    (1, [1.01]), (3, [1.03, 2.03, 3.03]), (9, [1.04, 2.05, 3.06, 4.01, 5.02, 6.03, 7.04, 8.05, 9.06]),
])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_mirrored_windows_begin_at_the_frame_they_belong_to(count, expected, batch_size):
    maps = saliency_maps(NewestAndOldest(), frames(count), first_frames="mirror", batch_size=batch_size)
    assert [m[0, 0].item() for m in maps] == pytest.approx(expected)       # the newest, and a hundredth of the frame at the other end


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
    with pytest.raises(OSError), MapWriter() as writer:
        writer.write(tmp_path / "file" / "0001.png", torch.rand(4, 4))


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
    model.temporal = "state"
    with pytest.raises(ValueError, match='moves through time by "state"'):
        next(saliency_maps(model, frames(1)))


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


# The command line

def test_a_folder_of_frames_gives_a_map_per_frame_under_its_own_name_and_size(tmp_path, weights_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    run(video, "--out", tmp_path / "maps", "--weights", weights_file, "--device", "cpu")
    written = sorted((tmp_path / "maps" / video.name).iterdir())
    assert [p.name for p in written] == [p.name for p in list_frames(video / "images")]
    picture = Image.open(written[-1])
    assert (picture.mode, picture.size) == ("L", (80, 45)) and np.array(picture).max() == 255


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


def test_a_folder_of_folders_is_taken_apart_and_two_inputs_of_one_name_are_refused(tmp_path, tiny_set):
    sources = predict.expand_sources([tiny_set / "val"])
    assert [p.name for p in sources] == sorted(p.name for p in (tiny_set / "val").iterdir())
    with pytest.raises(ValueError, match="several inputs are called a"):
        predict.output_folders([tmp_path / "x" / "a", tmp_path / "y" / "a"], tmp_path)


@pytest.mark.parametrize("make, said", [
    (lambda path: None, "no input .*thing: it does not exist"), (lambda path: path.mkdir(), "no frames in .*thing"), (lambda path: path.write_bytes(b"text"), "no frame could be decoded from .*thing"),
])
def test_a_wrong_input_is_an_error(tmp_path, weights_file, make, said):
    make(tmp_path / "thing")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        run(tmp_path / "thing", "--out", tmp_path / "maps", "--weights", weights_file, "--device", "cpu")


def test_a_single_image_is_refused(tmp_path, weights_file):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png is a single image"):
        run(tmp_path / "a.png", "--out", tmp_path / "maps", "--weights", weights_file, "--device", "cpu")


def test_weights_without_their_description_are_said_to_be_taken_for_the_papers(tmp_path, weights_file, capsys):
    predict.load_model(weights_file, torch.device("cpu"))
    assert "no RecSalNet.json" not in capsys.readouterr().out
    weights_file.with_suffix(".json").unlink()
    predict.load_model(weights_file, torch.device("cpu"))
    assert "no RecSalNet.json beside RecSalNet.pth" in capsys.readouterr().out


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


def test_a_users_mistake_ends_with_one_line_and_exit_code_2(tmp_path):
    ended = subprocess.run([sys.executable, TESTS.parent / "predict.py", tmp_path / "none.mp4"], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("predict.py: error: no input") and ended.stderr.count("\n") == 1


def test_the_published_networks_maps_come_out_of_the_engine_at_224_x_384(full_model):
    """One real forward of the full network through prepare and finish."""
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    saliency = next(saliency_maps(full_model, [frame]))
    assert saliency.shape == (90, 160) and 0 < saliency.min() < saliency.max() < 1


# Speed flags

def test_compiled_it_is_one_graph_for_a_whole_video_with_the_same_maps(tiny_model, tiny_set, compilations):
    pictures = [read_frame(path) for path in list_frames(sorted((tiny_set / "val").iterdir())[0] / "images")][:7]
    expected = list(saliency_maps(tiny_model, pictures, batch_size=2))
    predict.compile_network(tiny_model)
    maps = list(saliency_maps(tiny_model, pictures, batch_size=2))
    assert compilations.frame_count == 1 and not tiny_model.training       # seven frames in batches of two: the last is filled up
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
    assert seen == [{"batch_size": 1, "interpolate": 1}, {"batch_size": 5, "interpolate": 1}, {"batch_size": 1, "interpolate": 4}] and compiled == ["RecSalNet"]
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
