import os
import shutil
import types

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import cut, make_video, resized, shrink, write

import dataloader
from dataloader import ClipDataset
from videos import images, prepared
from videos.images import read_frame
from videos.prepared import FrameCache
from videos.video import find_videos


def clip_of(video, indices, prepare=shrink):
    return dataloader.decoded_clip(video, indices, lambda path: prepare(read_frame(path)))


def noise_set(root):
    generator = np.random.default_rng(0)
    for name, length in (("a", 9), ("b", 3)):
        folder = make_video(root / "train" / name, range(1, length + 1))
        for path in (folder / "images").iterdir():
            write(path, generator.integers(0, 256, (6, 8, 3), np.uint8))
    return find_videos(root, "train")


def build(root, videos, prepare=shrink, **options):
    cache = FrameCache(root, prepare)
    cache.build(videos, **options)
    return cache


def decodes(monkeypatch):
    """Counts the frames that are decoded."""
    decoded, real = [], read_frame
    for module in (dataloader, prepared):
        monkeypatch.setattr(module, "read_frame", lambda path: (decoded.append(path), real(path))[1])
    return decoded


@pytest.mark.parametrize("stride, clip_len", [(1, 4), (2, 4), (3, 12)])
def test_clips_from_prepared_frames_are_the_same_tensors_and_decode_nothing(tmp_path, monkeypatch, stride, clip_len):
    videos = noise_set(tmp_path)
    cache = build(tmp_path / "cache", videos)
    options = {"clip_len": clip_len, "frame_stride": stride, "flip": True, "size": (3, 4)}
    plain, cached = (ClipDataset(videos, shrink, cache=c, **options) for c in (None, cache))
    expected = [plain[epoch, index] for epoch in range(5) for index in range(2)]
    decoded = decodes(monkeypatch)
    for sample, same in zip(expected, (cached[epoch, index] for epoch in range(5) for index in range(2))):
        assert sample.keys() == same.keys()
        for name, value in sample.items():
            assert torch.equal(value, same[name]) and value.is_contiguous() == same[name].is_contiguous() if isinstance(value, torch.Tensor) else value == same[name]
    assert not decoded


def test_prepared_frames_are_one_file_a_video_and_made_once(tmp_path, monkeypatch):
    videos = noise_set(tmp_path)
    build(tmp_path / "cache", videos)
    assert sorted(path.name.split("-")[0] for path in tmp_path.glob("cache/*/*.npy")) == ["a", "b"]
    decoded = decodes(monkeypatch)
    build(tmp_path / "cache", videos)
    assert not decoded


@pytest.mark.parametrize("change", ["content", "renamed", "longer"])
def test_prepared_frames_are_made_again_where_the_source_has_changed(tmp_path, monkeypatch, change):
    videos = noise_set(tmp_path)
    build(tmp_path / "cache", videos)
    path = videos[1].frames[2]
    if change == "content":
        before = path.stat()
        write(path, np.random.default_rng(7).integers(0, 256, (6, 8, 3), np.uint8))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "renamed":
        path.rename(path.with_stem("0000"))
        shutil.rmtree(path.parents[1] / "maps")
        shutil.rmtree(path.parents[1] / "fixation")
    else:
        write(path.with_stem("0004"), np.zeros((6, 8, 3), np.uint8))
    videos = find_videos(tmp_path, "train", need_annotation=False)
    decoded = decodes(monkeypatch)
    cache = build(tmp_path / "cache", videos)
    assert {path.parents[1].name for path in decoded} == {"b"}
    indices = list(range(len(videos[1].frames)))
    assert torch.equal(cache.clip(videos[1], indices), clip_of(videos[1], indices))
    assert len(list(tmp_path.glob("cache/*/*.npy"))) == 2                  # what is no longer true is gone


def test_prepared_frames_that_were_read_otherwise_are_not_taken(tmp_path, monkeypatch):
    videos = noise_set(tmp_path)
    earlier = set(build(tmp_path, videos).files.values())
    monkeypatch.setattr(images, "READING", images.READING + 1)
    assert not earlier & set(build(tmp_path, videos).files.values()) and not any(path.exists() for path in earlier)


def test_prepared_frames_of_another_network_or_place_are_not_taken(tmp_path):
    videos = noise_set(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copy2)
    write(tmp_path / "two" / "train" / "a" / "images" / "0001.png", np.zeros((6, 8, 3), np.uint8))
    others = find_videos(tmp_path / "two", "train")
    halves = lambda frame: shrink(frame) // 2                              # the same size, another content
    caches = [build(tmp_path / "cache", videos), build(tmp_path / "cache", others), build(tmp_path / "cache", videos, halves)]
    for cache, shown, prepare in zip(caches, (videos, others, videos), (shrink, shrink, halves)):
        assert torch.equal(cache.clip(shown[0], [0, 1]), clip_of(shown[0], [0, 1], prepare))


def test_an_interruption_leaves_whole_files_only_and_the_next_call_goes_on(tmp_path, monkeypatch):
    videos, real = noise_set(tmp_path), read_frame

    def interrupted(path):
        if path == videos[1].frames[1]:
            raise KeyboardInterrupt
        return real(path)
    monkeypatch.setattr(prepared, "read_frame", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", videos)
    monkeypatch.undo()
    assert [path.name.split("-")[0] for path in tmp_path.glob("cache/*/*")] == ["a"]
    decoded = decodes(monkeypatch)
    build(tmp_path / "cache", videos)
    assert len(decoded) == 3


def test_a_killed_programs_half_file_is_removed_and_a_running_ones_is_not(tmp_path):
    videos = noise_set(tmp_path)
    folder = build(tmp_path / "cache", videos).folder
    old, new = folder / ".a.npy.1.part", folder / ".a.npy.2.part"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    build(tmp_path / "cache", videos)
    assert new.exists() and not old.exists()


@pytest.mark.parametrize("damage", ["shortened", "overwritten"])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    videos = noise_set(tmp_path)
    cache = build(tmp_path / "cache", videos)
    file = cache.files[videos[0].frames[0]]
    content = file.read_bytes()
    file.write_bytes(content[:-1] if damage == "shortened" else b"other" + content[5:])
    cache = build(tmp_path / "cache", videos)
    assert torch.equal(cache.clip(videos[0], [8]), clip_of(videos[0], [8]))


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    videos = noise_set(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"MB are needed for prepared frames, 0 MB are free.*cache"):
        build(tmp_path / "cache", videos)
    assert not list(tmp_path.glob("cache/*/*"))


def test_a_frame_that_vanished_stops_or_leaves_its_video_out(tmp_path):
    videos = noise_set(tmp_path)
    videos[1].frames[1].unlink()
    with pytest.raises(ValueError, match="0002.png.*--skip-bad"):
        build(tmp_path / "cache", videos)
    cache = build(tmp_path / "cache", videos, skip_bad=True)
    assert cache.holds(videos[0]) and not cache.holds(videos[1])


def test_names_may_be_long_and_hold_signs_of_patterns(tmp_path):
    (name := tmp_path / "train" / ("眼" * 60 + "[1] *")).parent.mkdir()
    make_video(name, [1, 2])
    videos = find_videos(tmp_path, "train")
    for _ in range(2):
        cache = build(tmp_path / "cache", videos)
        assert torch.equal(cache.clip(videos[0], [1]), clip_of(videos[0], [1]))
        write(videos[0].frames[0], np.zeros((6, 8, 3), np.uint8))
    assert len(list(tmp_path.glob("cache/*/*.npy"))) == 1                  # the older one was found, and is gone


def test_a_folder_that_cannot_be_made_is_said_with_its_flag(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="prepared frames .--cache. cannot be made: Not a directory"):
        build(tmp_path / "file", noise_set(tmp_path))


def test_a_video_with_an_unreadable_frame_stops_or_is_decoded_where_bad_clips_are_skipped(tmp_path, capsys):
    videos = noise_set(tmp_path)
    cut(videos[1].frames[1])
    with pytest.raises(ValueError, match=r"cannot read image .*b/images/0002.png.*--skip-bad"):
        build(tmp_path / "cache", videos)
    cache = build(tmp_path / "cache", videos, skip_bad=True)
    assert "not prepared, its clips will be decoded: video b: " in capsys.readouterr().out
    assert cache.holds(videos[0]) and not cache.holds(videos[1])
    sample = ClipDataset(videos, shrink, clip_len=3, skip_bad=True, cache=cache)[0, 1]
    assert "0002.png" in sample["skipped"]


def test_prepared_frames_of_videos_that_share_a_folder_are_each_their_own(vsod_set, tmp_path):
    videos = find_videos(vsod_set, "TrainSet_Video", annotation="mask")
    cache = FrameCache(tmp_path, lambda frame: torch.from_numpy(frame[:40:4, :64:4].copy()).permute(2, 0, 1))
    cache.build(videos)
    assert videos[0].frames[0].parent == videos[1].frames[0].parent
    for video in videos:
        assert torch.equal(cache.clip(video, [2]), resized(np.array(Image.open(video.frames[2])))[:, None])
