import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.optical_flow import raft_small

from baselines import optical_flow as command
from baselines import stsnet
from videos import images, optical_flow
from videos.optical_flow import FlowFolder, FlowSource, components, dis_flow, flows, wheel
from videos.video import list_frames


def textured(shift=0, size=(64, 96)):
    """A smooth random picture, moved to the right by `shift` pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 14, 3), np.uint8)
    whole = np.array(Image.fromarray(noise).resize((size[1] + 16, size[0]), Image.Resampling.BICUBIC))
    return whole[:, 8 - shift:8 - shift + size[1]]


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        Image.fromarray(textured(2 * number)).save(tmp_path / f"{number + 1:04d}.png")
    return tmp_path


def test_a_single_frame_does_not_move():
    flow, = flows([textured()], dis_flow())
    assert flow.shape == (64, 96, 2) and flow.dtype == np.float32 and not flow.any()


@pytest.mark.parametrize("size", [(12, 240), (8, 160), (1, 1)])
def test_frames_too_small_for_dis_do_not_move(size):
    assert not any(flow.any() for flow in flows([textured(size=(64, 300))[:size[0], :size[1]]] * 2, dis_flow()))


def test_no_frames_have_no_flow():
    assert list(flows([], dis_flow())) == []


def test_a_picture_that_moves_to_the_right_flows_to_the_right():
    made = list(flows([textured(0), textured(3)], dis_flow()))
    assert np.median(made[0][8:-8, 12:-12, 0]) == pytest.approx(3, abs=0.1) and np.median(made[0][8:-8, 12:-12, 1]) == pytest.approx(0, abs=0.1)


def test_there_is_a_flow_for_every_frame_and_the_last_one_repeats_the_one_before():
    calls = []
    made = list(flows(map(textured, (0, 1, 3)), lambda frame, following: (calls.append(1), np.full((64, 96, 2), len(calls), np.float32))[1]))
    assert [flow[0, 0, 0] for flow in made] == [1, 2, 2] and len(calls) == 2


def test_frames_of_another_size_start_a_new_sequence():
    made = list(flows([textured(), textured(size=(32, 32)), textured(1, size=(32, 32))], lambda frame, following: np.ones((*frame.shape[:2], 2), np.float32)))
    assert [flow.shape for flow in made] == [(64, 96, 2), (32, 32, 2), (32, 32, 2)] and [flow.any() for flow in made] == [False, True, True]


def test_a_flow_as_components_is_sixteen_levels_a_pixel_around_128():
    flow = np.array([[[0, 0], [3, -4]], [[100, -100], [0.5, 0]]], np.float32)
    assert components(flow).tolist() == [[[128, 128, 128], [176, 64, 208]], [[255, 0, 255], [136, 128, 136]]]


def test_a_flow_that_is_no_number_makes_no_picture():
    with pytest.raises(ValueError, match="of 2 x 3 are not numbers"):
        components(np.full((2, 3, 2), np.nan, np.float32))


def test_a_flow_as_a_colour_wheel_tells_directions_apart_and_stillness_is_white():
    assert (wheel(np.zeros((4, 4, 2), np.float32)) == 255).all()
    flow = np.zeros((1, 2, 2), np.float32)
    flow[0, 0, 0], flow[0, 1, 0] = 5, -5
    picture = wheel(flow)
    assert picture.shape == (1, 2, 3) and picture.dtype == np.uint8 and abs(picture[0, 0].astype(int) - picture[0, 1]).max() > 100


def test_flow_is_made_once_and_read_again(folder):
    calls = []
    make = lambda frame, following: (calls.append(1), np.full((64, 96, 2), len(calls), np.float32))[1]
    assert [flow[0, 0, 0] for flow in FlowFolder(list_frames(folder), "dis", make)] == [1, 2, 3, 3]       # the last frame repeats the flow before
    assert [flow[0, 0, 0] for flow in FlowFolder(list_frames(folder), "dis", make)] == [1, 2, 3, 3] and len(calls) == 3
    assert sorted(path.name.partition("-")[0] for path in (folder / "flow_dis").iterdir()) == ["0001", "0002", "0003"]


def test_flow_of_a_frame_that_changed_is_made_again(folder):
    before = list(FlowFolder(list_frames(folder), "dis", dis_flow()))
    Image.fromarray(textured(7)).save(folder / "0002.png")
    after = list(FlowFolder(list_frames(folder), "dis", dis_flow()))
    assert [np.array_equal(a, b) for a, b in zip(before, after)] == [False, False, True, True]


def test_flow_in_a_folder_is_that_of_its_frames_to_a_hundredth_of_a_pixel(folder):
    expected = list(flows([textured(2 * number) for number in range(4)], dis_flow()))
    assert all(abs(a - b).max() < 0.01 for a, b in zip(FlowFolder(list_frames(folder), "dis", dis_flow()), expected))


def test_raft_gives_a_flow_of_the_frames_size_in_its_pixels():
    class Moves(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, frame, following):
            assert frame.shape == (1, 3, 128, 176) and frame.min() >= -1.001
            return [torch.ones(1, 2, 128, 176)]
    flow = optical_flow.estimate(Moves(), *[np.zeros((100, 178, 3), np.uint8)] * 2)
    assert flow.shape == (100, 178, 2) and flow[0, 0].tolist() == pytest.approx([178 / 176, 100 / 128])


def test_raft_reads_torchvisions_file_and_refuses_another(tmp_path):
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    flow = optical_flow.raft_flow(tmp_path / "raft.pth")(textured(), textured(1))
    assert flow.shape == (64, 96, 2) and np.isfinite(flow).all()
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth do not fit RAFT"):
        optical_flow.raft_flow(tmp_path / "other.pth")


def test_the_command_writes_arrays_and_pictures(folder, capsys):
    command.main(command.arguments().parse_args([str(folder), "--pictures", "components"]))
    assert "flow of 4 frames by dis" in capsys.readouterr().out
    picture = np.array(Image.open(folder / "flow_dis_components" / "0001.png"))
    assert np.array_equal(picture, components(next(iter(FlowFolder(list_frames(folder), "dis", dis_flow())))))


# Where the programs take flow from

def frames_in(folder, count=3):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(textured(number)).save(folder / f"{number + 1:05d}.jpg")
    return list_frames(folder)


def pictures_in(folder, names, level=7):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((64, 96, 3), level + 10 * number, np.uint8)).save(folder / f"{name}.png")


def test_flow_is_made_by_dis_where_there_is_none_and_drawn_as_the_network_wants_it(tmp_path):
    frames = frames_in(tmp_path / "a" / "Frame")
    expected = list(flows([np.array(Image.open(path)) for path in frames], dis_flow()))
    for picture, draw in (("components", components), ("wheel", wheel)):
        pictures = FlowSource(picture=picture).pictures(frames)
        assert all(np.abs(pictures[i].astype(int) - draw(flow.astype(np.float16).astype(np.float32))).max() <= 1 for i, flow in enumerate(expected))
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "a" / "Frame" / "flow_dis").iterdir()) == ["00001", "00002"]


def test_flow_that_is_not_kept_leaves_nothing_beside_the_frames(tmp_path):
    frames = frames_in(tmp_path / "a" / "Frame")
    kept, made = FlowSource(keep=True).pictures(frames)[0], FlowSource(keep=False)
    for path in (tmp_path / "a" / "Frame" / "flow_dis").iterdir():
        path.unlink()
    assert np.abs(made.pictures(frames)[0].astype(int) - kept).max() <= 1 and not any((tmp_path / "a" / "Frame" / "flow_dis").iterdir())


@pytest.mark.parametrize("place", ["a/OF_FlowNet2", "a/Flow", "a/Frame/Flow"])
def test_published_pictures_beside_the_frames_are_taken_where_colour_wheels_are_wanted(tmp_path, place):
    frames = frames_in(tmp_path / "a" / "Frame")
    pictures_in(tmp_path / place, ["00001", "00002"])
    wheels = FlowSource(picture="wheel").pictures(frames)
    assert [wheels[i][0, 0, 0] for i in range(3)] == [7, 17, 17]           # the last frame has no picture of its own
    assert not np.array_equal(FlowSource(picture="components", keep=False).pictures(frames)[0], wheels[0])
    assert not np.array_equal(FlowSource("dis", "wheel", keep=False).pictures(frames)[0], wheels[0])


@pytest.mark.parametrize("place, given", [("flow/a", "flow"), ("flow/Frame", "flow"), ("flow", "flow"), ("a/mine", "mine"), ("a/Frame/mine", "mine"), ("mine/Frame", "mine")])
def test_pictures_in_a_named_folder_are_found_beside_the_frames_or_by_the_video(tmp_path, place, given):
    frames = frames_in(tmp_path / "a" / "Frame")
    pictures_in(tmp_path / place, ["00001", "00002", "00003"], level=40)
    source = FlowSource(str(tmp_path / given) if given == "flow" else given, "components")
    assert [source.pictures(frames)[i][0, 0, 0] for i in range(3)] == [40, 50, 60]


def test_a_missing_folder_or_picture_is_named(tmp_path):
    frames = frames_in(tmp_path / "a" / "Frame")
    with pytest.raises(FileNotFoundError, match="expected a folder nowhere there, beside it"):
        FlowSource("nowhere").pictures(frames)
    pictures_in(tmp_path / "a" / "Flow", ["00001", "00003"])
    with pytest.raises(FileNotFoundError, match=r"no picture of optical flow for frame 00002 in .*Flow \(2 pictures\)"):
        FlowSource("Flow").pictures(frames)[1]


def test_kept_flow_between_frames_that_were_read_otherwise_is_not_taken(folder, monkeypatch):
    kept = FlowFolder(list_frames(folder), "dis", dis_flow())
    earlier = kept.file_of(kept.pair(0))
    monkeypatch.setattr(images, "READING", images.READING + 1)
    assert kept.file_of(kept.pair(0)) != earlier


def test_videos_that_share_a_folder_do_not_flow_into_each_other(tmp_path):
    folder = tmp_path / "Imgs"
    folder.mkdir()
    for name, shift in (("a_00000", 0), ("a_00001", 2), ("b_00000", 8), ("b_00001", 8)):
        Image.fromarray(textured(shift)).save(folder / f"{name}.png")
    first = list_frames(folder)[:2]
    made = FlowFolder(first, "dis", dis_flow())
    assert len(made) == 2 and np.array_equal(made[0], made[1])             # the last one repeats, and does not look at b_00000


def test_a_source_travels_to_loader_processes_after_it_has_made_flow(tmp_path):
    source = FlowSource("dis", "components", keep=False)
    frames = frames_in(tmp_path / "a" / "Frame", 2)
    before = source.pictures(frames)[0]
    assert np.array_equal(pickle.loads(pickle.dumps(source)).pictures(frames)[0], before)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(path.read_bytes()[:40]), lambda path: np.save(path, np.zeros((4, 4), np.float16)), lambda path: path.write_bytes(b"")])
def test_a_damaged_file_of_flow_is_named(tmp_path, spoil):
    frames = frames_in(tmp_path / "a" / "Frame", 2)
    made = FlowFolder(frames, "dis", dis_flow())
    made[0]
    spoil(next(made.place.iterdir()))
    with pytest.raises(ValueError, match=r"00001-\w+.npy .*Delete it, and it is made again"):
        made[0]


def test_flow_that_cannot_be_kept_says_how_to_do_without(tmp_path):
    frames = frames_in(tmp_path / "a" / "Frame", 2)
    (tmp_path / "a" / "Frame" / "flow_dis").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="--no-keep-flow makes it each time"):
        FlowFolder(frames, "dis", dis_flow())[0]
    assert FlowFolder(frames, "dis", dis_flow(), keep=False)[0].shape == (64, 96, 2)


def test_a_video_file_takes_no_pictures_of_a_folder():
    with pytest.raises(ValueError, match="--flow Flow names pictures for folders of frames, but a.mp4 is a video file"):
        FlowSource("Flow").maker("a.mp4")
    assert callable(FlowSource("auto").maker("a.mp4"))


def test_kept_flow_is_never_that_of_other_frames(tmp_path):
    """A still, a video's beginning, a removed frame, and frames that were replaced by older ones, each before the whole folder."""
    frames = frames_in(tmp_path / "a" / "Frame", 4)
    expected = lambda paths: [FlowFolder(paths, "dis", dis_flow(), keep=False)[i] for i in range(len(paths))]
    kept = lambda paths: [FlowFolder(paths, "dis", dis_flow())[i] for i in range(len(paths))]
    same = lambda paths: all(abs(a - b).max() < 0.01 for a, b in zip(kept(paths), expected(paths), strict=True))
    assert not kept(frames[:1])[0].any() and not (tmp_path / "a" / "Frame" / "flow_dis").exists()
    assert same(frames[:2]) and same(frames) and same([frames[0], *frames[2:]])
    Image.fromarray(textured(7)).save(frames[1])
    os.utime(frames[1], ns=(1, 1))
    assert same(frames)


def test_flow_by_other_weights_is_another_flow(tmp_path):
    frames = frames_in(tmp_path / "a" / "Frame", 2)
    make = lambda value: lambda frame, following: np.full((64, 96, 2), value, np.float32)
    assert [FlowFolder(frames, "raft", make(value), key=str(value))[0][0, 0, 0] for value in (1, 2, 1)] == [1, 2, 1]
    assert len(list((tmp_path / "a" / "Frame" / "flow_raft").iterdir())) == 2


def test_raft_by_a_file_of_weights_makes_the_pictures_and_is_told_by_its_checksum(tmp_path):
    frames = frames_in(tmp_path / "a" / "Frame", 2)
    torch.manual_seed(0)
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    source = FlowSource("raft", "components", raft_weights=str(tmp_path / "raft.pth"))
    assert source.pictures(frames)[0].shape == (64, 96, 3) and source.used == {"raft"}
    assert len(source.describe()["raft_weights_sha256"]) == 64 and len(list((tmp_path / "a" / "Frame" / "flow_raft").iterdir())) == 1
    (tmp_path / "raft.pth").unlink()                                       # all flow is there: nothing is set up
    assert source.pictures(frames)[1].shape == (64, 96, 3)


def test_published_pictures_of_another_video_in_the_working_folder_are_not_taken(tmp_path, monkeypatch):
    frames = frames_in(tmp_path / "b" / "Frame")
    pictures_in(tmp_path / "a" / "OF_FlowNet2", ["00001", "00002", "00003"])
    monkeypatch.chdir(tmp_path / "a")
    source = FlowSource(keep=False)
    source.pictures(frames)
    assert source.used == {"dis"}


def test_one_folder_of_pictures_belongs_to_one_video(tmp_path):
    first, second = frames_in(tmp_path / "a"), frames_in(tmp_path / "b")
    pictures_in(tmp_path / "flow", ["00001", "00002", "00003"])
    source = FlowSource(str(tmp_path / "flow"), "components")
    assert source.pictures(first)[0].any() and source.pictures(first) and source.describe() == {"source": str(tmp_path / "flow"), "made_by": None, "picture": None}
    with pytest.raises(ValueError, match="cannot belong to both .*put each video's into a folder"):
        source.pictures(second)


def test_the_two_stream_networks_know_the_kinds_of_pictures():
    assert stsnet.FLOW_KINDS == tuple(optical_flow.PICTURES)
