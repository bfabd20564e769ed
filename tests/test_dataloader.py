import math
import re
import shutil
import struct
import types
from fractions import Fraction

import av
import numpy as np
import pytest
import scipy.io
import torch
from conftest import grey_frames, write_video
from PIL import Image

from dataloader import (
    ClipDataset,
    EpochSampler,
    clip_loader,
    find_videos,
    imresize,
    move_fixations,
    open_video,
    read_density,
    read_fixations,
    read_frame,
    read_video,
    readable,
    resize_density,
    timed_frames,
    with_times,
)


def prepare(frame):
    return torch.from_numpy(frame).permute(2, 0, 1).float()


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_video(folder, numbers, annotated=None, name="{:04d}"):
    """Frames whose red channel is their number, 6 x 8, and annotation for some of them."""
    for number in numbers:
        frame = np.zeros((6, 8, 3), np.uint8)
        frame[..., 0] = number
        write(folder / "images" / f"{name.format(number)}.png", frame)
    for number in numbers if annotated is None else annotated:
        fixations = np.zeros((6, 8), np.uint8)
        fixations[number % 6, number % 8] = 255
        write(folder / "maps" / f"{name.format(number)}.png", np.full((6, 8), number, np.uint8))
        write(folder / "fixation" / f"{name.format(number)}.png", fixations)
    return folder


def dataset(root, split="train", **options):
    return ClipDataset(find_videos(root, split), prepare, **options)


def numbers_of(sample):
    """The numbers of a clip's frames, from its red channel."""
    return sample["clip"][0, :, 0, 0].int().tolist()


# What is wrong on disk is said

def test_no_dataset_no_split_and_an_empty_split_are_said_with_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dataset .*nowhere.*make_sample.py"):
        find_videos(tmp_path / "nowhere", "train")
    make_video(tmp_path / "train" / "0001", [1])
    with pytest.raises(FileNotFoundError, match='no split "val".*holds train'):
        find_videos(tmp_path, "val")
    (tmp_path / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="no videos in .*val"):
        find_videos(tmp_path, "val")


def test_a_folder_without_frames_is_an_error(tmp_path):
    (tmp_path / "train" / "0001" / "images").mkdir(parents=True)
    (tmp_path / "train" / "0002").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no frames in .*0001.*it holds no images"):
        open_video(tmp_path / "train" / "0001")
    (tmp_path / "train" / "0002" / "frames").mkdir()
    with pytest.raises(FileNotFoundError, match="0002: it has no folder images .it holds frames.; expected tree"):
        open_video(tmp_path / "train" / "0002")


def test_a_missing_frame_is_an_error_that_names_its_neighbours(tmp_path):
    with pytest.raises(ValueError, match=r"missing frame in .*: 0005.png follows 0003.png"):
        open_video(make_video(tmp_path / "v", [2, 3, 5]))


def test_two_frames_of_one_name_are_an_error(tmp_path):
    folder = make_video(tmp_path / "v", [1, 2])
    write(folder / "images" / "0002.jpg", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"two frames share a name"):
        open_video(folder)


def test_two_annotations_of_one_frame_are_an_error(tmp_path):
    folder = make_video(tmp_path / "v", [1])
    write(folder / "maps" / "0001.jpg", np.zeros((6, 8), np.uint8))
    with pytest.raises(ValueError, match=r"two files for one frame in .*maps: 0001.jpg and 0001.png"):
        open_video(folder)


def test_images_of_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    write(tmp_path / "a.png", np.full((4, 4), 40000, np.uint16))
    with pytest.raises(ValueError, match="expected 8 bits"):
        read_density(tmp_path / "a.png")


def test_annotation_without_frame_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"annotation without frame in video .*: 1 of them, the first 0003"):
        open_video(make_video(tmp_path / "v", [1, 2], annotated=[1, 2, 3]))


def test_a_video_without_annotation_is_an_error_only_where_it_is_needed(tmp_path):
    folder = make_video(tmp_path / "v", [1, 2], annotated=[])
    with pytest.raises(FileNotFoundError, match="no annotation for video .*use predict.py"):
        open_video(folder)
    assert open_video(folder, need_annotation=False).annotated() == []


def test_bad_videos_are_left_out_and_listed_where_asked_for(tmp_path):
    make_video(tmp_path / "train" / "0001", [1, 2])
    make_video(tmp_path / "train" / "0002", [1, 3])
    skipped = []
    assert [v.name for v in find_videos(tmp_path, "train", skipped=skipped)] == ["0001"]
    assert len(skipped) == 1 and "0002" in skipped[0]
    shutil.rmtree(tmp_path / "train" / "0001")
    with pytest.raises(FileNotFoundError, match="no usable video.*all 1 were skipped"):
        find_videos(tmp_path, "train", skipped=[])


def test_an_unreadable_frame_is_an_error_with_its_path_or_a_counted_skip(tmp_path):
    folder = make_video(tmp_path / "train" / "0001", range(1, 5))
    path = folder / "images" / "0002.png"
    path.write_bytes(path.read_bytes()[:40])                               # an interrupted download
    for workers in (0, 1):                                                 # a loader process must not wrap it in its traceback
        with pytest.raises(ValueError, match=r"^cannot read image .*0002.png \(40 bytes\).*--skip-bad$"):
            list(readable(clip_loader(dataset(tmp_path, clip_len=4), 1, workers, shuffle=False)))
    batch, = readable(clip_loader(dataset(tmp_path, clip_len=4, skip_bad=True), 1, 0, shuffle=False))
    assert list(batch) == ["skipped"] and "0002.png" in batch["skipped"][0]


def test_maps_of_two_sizes_are_an_error(tmp_path):
    folder = make_video(tmp_path / "train" / "0001", [1])
    write(folder / "maps" / "0001.png", np.zeros((3, 4), np.uint8))
    assert re.search("differ in size.*3 x 4.*6 x 8", dataset(tmp_path, clip_len=1)[0, 0]["skipped"])


# Finding and pairing

def test_videos_and_frames_come_in_natural_order_and_numbers_may_start_anywhere(tmp_path):
    for name in ("10", "9"):
        make_video(tmp_path / "train" / name, [9, 10, 11], name="shot_{}")
    videos = find_videos(tmp_path, "train")
    assert [v.name for v in videos] == ["9", "10"]
    assert [p.stem for p in videos[0].frames] == ["shot_9", "shot_10", "shot_11"]


def test_annotation_is_paired_by_stem(tmp_path):
    video = open_video(make_video(tmp_path / "v", [1, 2, 3, 4], annotated=[2, 4]))
    assert video.annotated() == [1, 3]
    assert video.maps["0004"].name == "0004.png"


@pytest.mark.parametrize("place", ["fixation/0001.mat", "fixation/maps/0001.mat", "fixations/0001.png"])
def test_fixations_are_found_as_png_or_mat_wherever_datasets_keep_them(tmp_path, place):
    folder = make_video(tmp_path / "v", [1])
    path = folder / "fixation" / "0001.png"
    expected = read_fixations(path)
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    if place.endswith(".mat"):
        scipy.io.savemat(target, {"I": expected.astype(np.uint8)})
        path.unlink()
    else:
        path.rename(target)
    video = open_video(folder)
    assert video.fixations["0001"] == target
    assert np.array_equal(read_fixations(target), expected)


@pytest.mark.parametrize("content, said", [({"other": np.zeros((2, 2))}, "no variable I"), ({"I": np.zeros((2, 2, 2))}, r"shape \(2, 2, 2\)"), ({"I": "text"}, "must be a fixation map")])
def test_a_mat_file_without_a_fixation_map_is_an_error(tmp_path, content, said):
    scipy.io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=said):
        read_fixations(tmp_path / "a.mat")


def test_a_damaged_mat_file_is_an_error(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(100))
    with pytest.raises(ValueError, match="cannot read fixation map"):
        read_fixations(tmp_path / "a.mat")


# Reading

def test_frames_are_rgb_and_densities_go_from_zero_to_one(tmp_path):
    write(tmp_path / "a.png", np.full((2, 3, 3), (255, 128, 0), np.uint8))
    write(tmp_path / "d.png", np.array([[0, 51, 255]], np.uint8))
    assert read_frame(tmp_path / "a.png")[0, 0].tolist() == [255, 128, 0]
    np.testing.assert_allclose(read_density(tmp_path / "d.png"), [[0, 0.2, 1]])


# Video files

@pytest.mark.parametrize("codec, suffix", [("libx264", "mp4"), ("mpeg4", "avi"), ("libvpx-vp9", "webm"), ("libx265", "mkv")])
def test_a_video_file_gives_all_its_frames_in_rgb(tmp_path, codec, suffix):
    red = [np.full((48, 64, 3), (value, 0, 0), np.uint8) for value in (0, 100, 200)]
    frames = list(read_video(str(write_video(tmp_path / f"my clip ü.{suffix}", red, codec=codec))))
    assert [f.shape for f in frames] == [(48, 64, 3)] * 3
    assert abs(int(frames[2][8, 8, 0]) - 200) < 12 and frames[2][8, 8, 2] < 12


def test_every_frame_has_its_own_time_at_a_variable_rate(tmp_path):
    times = [0.0, 0.1, 0.14, 0.9, 1.3]
    path = write_video(tmp_path / "a.mp4", grey_frames(5), times)
    assert [seconds for seconds, _ in timed_frames(path)] == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize("start, end", [(0, 0.5), (0.4, 0.8), (0.41, math.inf), (1.56, math.inf), (0, math.inf)])
def test_a_part_of_a_video_holds_the_frames_between_its_times(tmp_path, start, end):
    path = write_video(tmp_path / "a.mp4", grey_frames(40, step=6))        # 25 frames a second
    part = list(timed_frames(path, start, end))
    expected = [number / 25 for number in range(40) if start <= number / 25 < end]
    assert [seconds for seconds, _ in part] == pytest.approx(expected) and part
    assert all(abs(int(frame[20, 20, 0]) - 6 * round(25 * seconds)) < 4 for seconds, frame in part)


@pytest.mark.parametrize("suffix", ["mp4", "ts", "h264", "avi", "mkv"])
@pytest.mark.parametrize("count, start", [(1, 0.0), (3, 0.04), (60, 1.0), (60, 2.3)])
def test_a_part_is_the_same_whether_a_file_has_an_index_or_not(tmp_path, suffix, count, start):
    """Of short videos, FFmpeg's threads decode everything before the first frame comes out; raw H.264 cannot be sought in at all."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / f"a.{suffix}", list(noise))
    whole = list(timed_frames(path))
    start += whole[0][0]
    part, expected = list(timed_frames(path, start)), [(seconds, frame) for seconds, frame in whole if seconds >= start]
    assert len(part) == len(expected) > 0 and all(a == b and np.array_equal(x, y) for (a, x), (b, y) in zip(part, expected))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "gif"])
@pytest.mark.parametrize("rate", [1, Fraction(1, 5)])
def test_a_slow_video_is_not_taken_for_a_truncated_one(tmp_path, suffix, rate):
    codec = {"gif": "gif", "avi": "mpeg4"}.get(suffix, "libx264")
    path = write_video(tmp_path / f"a.{suffix}", grey_frames(6, step=30), rate=rate, codec=codec)
    assert len(list(timed_frames(path))) == 6


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
@pytest.mark.parametrize("sound", [None, "aac"])
def test_a_video_that_begins_late_is_whole_and_its_times_count_from_its_beginning(tmp_path, suffix, sound):
    path = write_video(tmp_path / f"a.{suffix}", grey_frames(50, step=5), [5 + number / 25 for number in range(50)], sound=sound)
    times = [seconds for seconds, _ in timed_frames(path)]
    assert np.diff(times) == pytest.approx([0.04] * 49, abs=2e-3) and len(times) == 50


def test_names_with_colons_brackets_and_letters_of_any_language_are_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "12:30 [1] ü 日本.mp4", grey_frames(2))
    assert len(list(read_video("12:30 [1] ü 日本.mp4"))) == 2


@pytest.mark.parametrize("matrix, corner", [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1)), ((0, -1, 1, 0), (-1, 0))])
def test_a_turned_video_is_turned_upright(tmp_path, matrix, corner):
    """A phone that is held upright writes lying pictures, and a matrix into the track header (tkhd) that turns them."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255                                                # white in the upper left corner
    content = bytearray(write_video(tmp_path / "a.mp4", [picture]).read_bytes())
    a, b, c, d = (round(x * 2 ** 16) for x in matrix)
    at = content.index(b"tkhd") + 44
    content[at:at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2 ** 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    frame = next(read_video(tmp_path / "turned.mp4"))
    assert frame.shape == ((64, 48, 3) if a == 0 else (48, 64, 3)) and frame[corner].min() > 200
    assert sum(frame[row, column].min() > 200 for row in (0, -1) for column in (0, -1)) == 1


@pytest.mark.parametrize("stored, expected", [
    ([None, None, None], [0, 0.1, 0.2]), ([0.1, 0.3, 0.2, None, 0.9], [0.1, 0.3, 0.4, 0.5, 0.9]), ([0.5, 0.5, 0.6], [0.5, 0.6, 0.7]),
])
def test_times_that_are_missing_or_go_back_follow_the_constant_rate(stored, expected):
    """AVI keeps no times of pictures; those of H.264 in it come out of order."""
    frames = [types.SimpleNamespace(time=seconds) for seconds in stored]
    assert [seconds for seconds, _ in with_times(frames, types.SimpleNamespace(average_rate=10), 0.0)] == pytest.approx(expected)


def test_what_is_no_video_is_said_to_be_none(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no frame could be decoded from .*a.mp4 \(11 bytes\): .*no video that FFmpeg knows"):
        list(read_video(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match="no frame could be decoded from .*empty.mp4"):
        list(read_video(tmp_path / "empty.mp4"))
    with pytest.raises(FileNotFoundError, match="no video file .*b.mp4: it does not exist"):
        list(read_video(tmp_path / "b.mp4"))
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        list(read_video(tmp_path))


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match=r"a.wav holds no pictures \(streams: audio\)"):
        list(read_video(tmp_path / "a.wav"))


@pytest.mark.parametrize("suffix, sound", [("mp4", None), ("mp4", "aac"), ("mkv", None), ("mkv", "aac"), ("webm", None), ("avi", None)])
def test_a_truncated_video_is_an_error_after_its_whole_frames(tmp_path, suffix, sound):
    noise = list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8))
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(suffix, "libx264")
    path = write_video(tmp_path / f"a.{suffix}", noise, codec=codec, sound=sound, index_first=True)
    assert len(list(timed_frames(path))) == 40
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    frames = timed_frames(path)
    seen = []
    with pytest.raises(ValueError, match=rf"a.{suffix} (ends|is damaged) after \d+ frames"):  # depends on FFmpeg's version
        seen.extend(seconds for seconds, _ in frames)
    assert 10 < len(seen) < 30
    assert len(list(timed_frames(path, end=seen[9]))) == 9
    with pytest.raises(ValueError, match=r"(ends|is damaged) after"):      # however few frames are asked for
        list(timed_frames(path, start=seen[-1]))


def test_a_video_whose_index_is_cut_off_is_an_interrupted_download(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey_frames(20))                # its index comes last
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="an interrupted download"):
        list(read_video(path))


def test_a_part_without_frames_is_said_to_have_none(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey_frames(5))
    with pytest.raises(ValueError, match=r"a.mp4 has no frame from second 3 to second 4; the last one that was seen is at second 0.16"):
        list(timed_frames(path, 3, 4))


# Moving annotation

def test_fixations_move_point_by_point():
    fixations = np.zeros((4, 8), bool)
    fixations[0, 0] = fixations[3, 7] = fixations[2, 5] = True
    halved = move_fixations(fixations, (2, 4))
    assert {tuple(p) for p in np.argwhere(halved)} == {(0, 0), (1, 3), (1, 2)}
    doubled = move_fixations(fixations, (8, 16))
    assert doubled.sum() == 3 and doubled[1, 1] and doubled[7, 15] and doubled[5, 11]
    assert np.array_equal(move_fixations(fixations, (4, 8)), fixations)


def test_no_isolated_fixation_is_lost_in_shrinking():
    fixations = np.zeros((360, 640), bool)
    fixations[::9, ::11] = True
    assert move_fixations(fixations, (224, 384)).sum() == fixations.sum()  # nearest-neighbour resizing loses most


def test_density_is_resized_bilinearly():
    np.testing.assert_allclose(resize_density(np.array([[0, 1]], np.float32), (1, 4)), [[0, 0.25, 0.75, 1]])


# Clips

def test_a_clip_ends_at_its_annotated_frame(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 21), annotated=[12])
    sample = dataset(tmp_path, clip_len=4)[0, 0]
    assert sample["frame"] == "0012" and sample["video"] == "0001"
    assert numbers_of(sample) == [9, 10, 11, 12]
    assert sample["density"].unique().tolist() == [torch.tensor(12 / 255).item()]
    assert sample["fixations"].nonzero().tolist() == [[0, 4]]
    assert (sample["clip"].shape, sample["density"].shape, sample["fixations"].dtype) == ((3, 4, 6, 8), (6, 8), torch.bool)


def test_frame_stride_leaves_frames_out_between(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 21), annotated=[12])
    assert numbers_of(dataset(tmp_path, clip_len=4, frame_stride=3)[0, 0]) == [3, 6, 9, 12]


def test_a_short_video_repeats_its_first_frame_in_front(tmp_path):
    make_video(tmp_path / "train" / "0001", [5, 6])
    assert numbers_of(dataset(tmp_path, clip_len=4)[0, 0]) == [5, 5, 5, 6]


def test_a_training_clip_decodes_its_frames_once_and_one_map_of_each_kind(tmp_path, monkeypatch):
    make_video(tmp_path / "train" / "0001", range(1, 21))
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: (opened.append(path.parent.name), real(path))[1])
    dataset(tmp_path, clip_len=8)[0, 0]
    assert sorted(opened) == ["fixation"] + ["images"] * 8 + ["maps"]


def test_validation_clips_end_at_every_nth_frame(tmp_path):
    make_video(tmp_path / "val" / "0001", range(1, 15))
    make_video(tmp_path / "val" / "0002", range(1, 3))
    clips = dataset(tmp_path, "val", clip_len=4, every=4)
    assert [clips[0, i]["frame"] for i in range(len(clips))] == ["0004", "0008", "0012", "0002"]


def test_maps_are_brought_to_the_given_size_and_kept_as_they_are_without_one(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 9))
    sample = dataset(tmp_path, clip_len=4, size=(3, 4))[0, 0]
    assert sample["density"].shape == sample["fixations"].shape == (3, 4)
    assert sample["fixations"].sum() == 1


def test_a_sample_depends_on_seed_epoch_and_index_only(tiny_set):
    def drawn(seed, epoch):
        clips = dataset(tiny_set, flip=True, clip_len=4, seed=seed)
        return [(clips[epoch, i]["frame"], clips[epoch, i]["clip"].sum().item()) for i in reversed(range(len(clips)))]
    assert drawn(0, 0) == drawn(0, 0)
    assert len({str(drawn(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3


def test_flip_mirrors_clip_and_annotation_together_and_is_off_by_default(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 5), annotated=[4])
    plain, flipping = dataset(tmp_path, clip_len=4), dataset(tmp_path, clip_len=4, flip=True)
    assert all(plain[epoch, 0]["fixations"][4, 4] for epoch in range(8))
    columns = [flipping[epoch, 0]["fixations"][4].nonzero().item() for epoch in range(40)]
    assert set(columns) == {4, 3} and 8 < columns.count(3) < 32


# Order and batches

def test_the_sampler_shuffles_by_epoch_and_can_start_in_the_middle():
    sampler = EpochSampler(10, shuffle=True, seed=3)
    first = list(sampler)
    assert sorted(index for _, index in first) == list(range(10))
    sampler.start = 4
    assert list(sampler) == first[4:] and len(sampler) == 6
    sampler.epoch, sampler.start = 1, 0
    assert [index for _, index in sampler] != [index for _, index in first]
    assert list(EpochSampler(3, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]


def test_worker_processes_give_the_same_batches_as_none(tiny_set):
    def batches(workers):
        return [(b["video"], b["frame"], b["clip"].sum().item()) for b in clip_loader(dataset(tiny_set, clip_len=4), 2, workers, shuffle=True)]
    assert batches(0) == batches(1)


def test_a_loader_draws_nothing_from_trainings_random_numbers(tiny_set):
    loader = clip_loader(dataset(tiny_set, clip_len=2), 1, 0, shuffle=True)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


# Resizing as MATLAB does

@pytest.mark.parametrize("before, after", [((24, 30), (41, 57)), ((60, 50), (17, 31)), ((33, 20), (20, 33)), ((9, 9), (9, 9)), ((3, 4), (40, 2))])
def test_imresize_is_antialiased_bicubic_with_mirrored_borders(before, after):
    """Pillow's bicubic has the same kernel; given the mirrored surroundings, it has the same borders."""
    image = np.random.default_rng(0).random(before)
    surroundings = Image.fromarray(np.pad(image, 80, mode="symmetric").astype(np.float32))
    expected = surroundings.resize(after[::-1], Image.Resampling.BICUBIC, box=(80, 80, 80 + before[1], 80 + before[0]))
    assert imresize(torch.from_numpy(image), after).numpy() == pytest.approx(np.array(expected), abs=1e-6)


def test_imresize_of_a_step_known_by_hand():
    """Twice as long: pixels take -9, 111, 29 and -3 of 128 from those at 1.25, 0.25, 0.75 and 1.75, or the mirror image of it."""
    resized = imresize(torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]), (1, 12))[0] * 128
    assert resized.tolist() == pytest.approx([0, 0, 0, -3, -9, 29 - 3, 128 - 26, 128 + 9, 128 + 3, 128, 128, 128])


def test_imresize_of_8_bits_shrinks_the_axis_that_shrinks_most_first():
    """Rounding in between makes the order visible: here only the columns shrink."""
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (6, 12), np.uint8))
    assert torch.equal(imresize(image, (11, 5)), imresize(imresize(image, (6, 5)), (11, 5)))
    assert not torch.equal(imresize(image, (11, 5)), imresize(imresize(image, (11, 12)), (11, 5)))
    assert torch.equal(imresize(image, (3, 24)), imresize(imresize(image, (3, 12)), (3, 24)))


def test_imresize_rounds_and_limits_8_bits_after_either_pass_and_keeps_a_constant():
    assert (imresize(torch.full((7, 5), 200, dtype=torch.uint8), (13, 4)) == 200).all()
    step = torch.tensor([[0, 0, 0, 255, 255, 255]], dtype=torch.uint8)
    assert imresize(step, (1, 12))[0, 3:9].tolist() == [0, 0, 52, 203, 255, 255]  # over- and undershoot cut off; 26 / 128 of 255 is 51.8
    half = torch.tensor([[0, 1]], dtype=torch.uint8)
    assert imresize(half, (1, 1)).item() == 1                              # 0.5 rounds up, as in MATLAB
    assert imresize(torch.tensor([[0, 1], [0, 0]], dtype=torch.uint8), (1, 1)).item() == 1  # rows: 0, 0.5 -> 1; then 0.5 -> 1; at once: 0.25 -> 0
