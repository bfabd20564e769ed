import argparse
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import TESTS, needs_bfloat16, shallow, write_video
from long import fuzz
from PIL import Image
from predict_runs import decoded, run

import predict
import utils
from baselines import loading
from baselines.stsnet import STSMaxNet
from predict import Predictor
from prediction import engine, outputs
from prediction.engine import saliency_maps
from utils import choose_precision
from videos.video import list_frames
from weights import save_safetensors


def test_bfloat16_is_refused_where_the_cpu_has_no_instructions_for_it_unless_forced(tmp_path, monkeypatch, recsalnet_file, tiny_set):
    cpu, said = torch.device("cpu"), "no instructions for it, and float32 is about 300 times faster here: use --precision float32"
    monkeypatch.setattr(utils, "computes_bfloat16", lambda device: device.type != "cpu")
    assert choose_precision(None, cpu) == choose_precision("float32", cpu) == "float32"
    assert choose_precision("bfloat16", cpu, force_bfloat16=True) == choose_precision("bfloat16", torch.device("cuda")) == "bfloat16"
    with pytest.raises(ValueError, match=said):
        choose_precision("bfloat16", cpu)
    with pytest.raises(ValueError, match=said):
        Predictor(recsalnet_file, "cpu", "bfloat16")
    Predictor(recsalnet_file, "cpu", "bfloat16", force_bfloat16=True)
    with pytest.raises(ValueError, match=said):
        run(tiny_set / "val" / "004", "--out", tmp_path / "maps", "--weights", recsalnet_file, "--device", "cpu", "--precision", "bfloat16")
    assert not (tmp_path / "maps").exists()
    monkeypatch.setattr(utils, "computes_bfloat16", lambda device: True)
    assert choose_precision("bfloat16", cpu) == "bfloat16"


def test_a_folder_of_frames_gives_a_map_per_frame_under_its_own_name_and_size(tmp_path, recsalnet_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    run(video, "--out", tmp_path / "maps", "--weights", recsalnet_file, "--device", "cpu")
    written = sorted((tmp_path / "maps" / video.name).iterdir())
    assert [p.name for p in written] == [p.name for p in list_frames(video / "images")]
    picture = Image.open(written[-1])
    assert (picture.mode, picture.size) == ("L", (80, 45)) and np.array(picture).max() == 255


@needs_bfloat16
def test_precision_changes_the_maps_a_little(tmp_path, recsalnet_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    for precision in ("float32", "bfloat16"):
        run(video, "--out", tmp_path / precision, "--weights", recsalnet_file, "--precision", precision, "--device", "cpu")
    exact, rounded = (np.array(Image.open(tmp_path / p / video.name / "0010.png")).astype(int) for p in ("float32", "bfloat16"))
    assert 0 < abs(exact - rounded).mean() < 64                            # of 255; a random network's maps have little contrast


def test_a_video_file_gives_maps_counted_from_one(tmp_path, recsalnet_file):
    writer = cv2.VideoWriter(str(tmp_path / "my clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (48, 32))
    for value in range(3):
        writer.write(np.full((32, 48, 3), 80 * value, np.uint8))
    writer.release()
    run(tmp_path / "my clip.avi", "--out", tmp_path / "maps", "--weights", recsalnet_file, "--device", "cpu")
    assert sorted(p.name for p in (tmp_path / "maps" / "my clip").iterdir()) == ["0001.png", "0002.png", "0003.png"]


def test_weights_without_their_description_are_said_to_be_taken_for_the_papers(recsalnet_file, capsys):
    loading.print_configuration(loading.load_model(recsalnet_file, torch.device("cpu")), recsalnet_file)
    assert "no configuration" not in capsys.readouterr().out
    recsalnet_file.with_suffix(".json").unlink()
    loading.print_configuration(loading.load_model(recsalnet_file, torch.device("cpu")), recsalnet_file)
    assert "no configuration in or beside" in capsys.readouterr().out


def test_the_documented_python_example_runs(tmp_path, recsalnet_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter("my_video.avi", cv2.VideoWriter_fourcc(*"MJPG"), 30, (48, 32))
    for value in range(2):
        writer.write(np.full((32, 48, 3), 80 * value, np.uint8))
    writer.release()
    example = (TESTS.parent / "docs" / "prediction.md").read_text().split("```python\n")[1].split("```")[0].replace("    ...", "    found.append(saliency)")
    found = []
    exec(example.replace("saved_models/RecSalNet.pth", str(recsalnet_file)).replace("my_video.mp4", "my_video.avi"), {"found": found})
    assert [saliency.shape for saliency in found] == [(32, 48)] * 2


def test_a_users_mistake_ends_with_one_line_and_exit_code_2(tmp_path, run_script):
    ended = run_script(TESTS.parent / "predict.py", tmp_path / "none.mp4", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("predict.py: error: no input") and ended.stderr.count("\n") == 1


def test_speed_flags_reach_the_engine(tmp_path, recsalnet_file, tiny_set, monkeypatch):
    video, seen, compiled = sorted((tiny_set / "val").iterdir())[0], [], []
    real = engine.saliency_maps
    monkeypatch.setattr(engine, "saliency_maps", lambda model, frames, flows, options: (seen.append(options), real(model, frames, flows, options))[1])
    monkeypatch.setattr(loading, "compile_network", lambda model: compiled.append(type(model).__name__))
    common = ("--weights", recsalnet_file, "--device", "cpu")
    run(video, "--out", tmp_path / "exact", *common)
    run(video, "--out", tmp_path / "batched", *common, "--batch-size", "5", "--compile")
    run(video, "--out", tmp_path / "drawn", *common, "--interpolate", "4")
    assert [(options.batch_size, options.interpolate) for options in seen] == [(1, 1), (5, 1), (1, 4)] and compiled == ["RecSalNet"]
    exact, batched, drawn = ([np.array(Image.open(p)).astype(int) for p in sorted((tmp_path / kind / video.name).iterdir())] for kind in ("exact", "batched", "drawn"))
    assert len(exact) == len(batched) == len(drawn)
    assert all(abs(a - b).max() <= 1 for a, b in zip(exact, batched))
    assert all(np.array_equal(a, b) for a, b in zip(exact[::4], drawn[::4])) and not all(map(np.array_equal, exact, drawn))


def test_another_frame_size_changes_what_the_network_sees_and_not_the_maps_size(tmp_path, recsalnet_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    for name, flags in {"trained": (), "smaller": ("--frame-size", "32", "32")}.items():
        run(video, "--out", tmp_path / name, "--weights", recsalnet_file, "--device", "cpu", *flags)
    trained, smaller = (np.array(Image.open(tmp_path / name / video.name / "0010.png")) for name in ("trained", "smaller"))
    assert trained.shape == smaller.shape == (45, 80) and not np.array_equal(trained, smaller)
    with pytest.raises(ValueError, match=r"multiples of 32, got \(32, 65\)"):
        run(video, "--out", tmp_path / "odd", "--weights", recsalnet_file, "--frame-size", "32", "65", "--device", "cpu")


def test_bad_videos_are_left_out_when_told(tmp_path, recsalnet_file, clip, capsys):
    (tmp_path / "none.mp4").write_bytes(b"no video")
    cut = write_video(tmp_path / "cut.mkv", list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)))
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size // 2])
    common = (tmp_path / "none.mp4", cut, clip, "--weights", recsalnet_file, "--device", "cpu", "--every", "9")
    with pytest.raises(ValueError, match="no frame could be decoded from .*none.mp4"):
        run(*common, "--out", tmp_path / "strict")
    assert not (tmp_path / "strict").exists()
    run(*common, "--out", tmp_path / "out", "--skip-bad")
    said = capsys.readouterr().out
    assert re.search("skipped: no frame could be decoded from .*none.mp4", said) and re.search("skipped: .*cut.mkv ends after 19 frames", said)
    assert [p.name for p in (tmp_path / "out" / clip.stem).iterdir()] == ["0001.png"] and not (tmp_path / "out" / "none.json").exists()


def test_a_run_of_which_every_input_was_skipped_is_an_error(tmp_path, recsalnet_file):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    cut = write_video(tmp_path / "b.mkv", list(np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)))
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size // 2])
    for name, said in (("a.mp4", "nothing was predicted$"), ("b.mkv", "nothing was predicted to its end")):
        with pytest.raises(ValueError, match=f"every input was skipped: {said}"):
            run(tmp_path / name, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--skip-bad")


def test_an_input_after_save_is_said_to_belong_before_it(capsys):
    with pytest.raises(SystemExit):
        predict.arguments().parse_args(["--save", "overlay", "a.mp4"])
    assert "a.mp4 is none of png, npy, npz, map-video, overlay, sheet; if it is an INPUT, put it before --save" in capsys.readouterr().err


def test_first_frames_and_scene_cuts_change_the_maps_they_should(tmp_path):
    """34 bright frames, then 32 dark ones; without a flag, the same again."""
    model = shallow()
    save_safetensors(model.state_dict(), model.config, tmp_path / "a.safetensors")
    noise = np.random.default_rng(0).integers(0, 100, (66, 48, 64, 3), np.uint8)
    noise[:34] += 150
    clip = write_video(tmp_path / "a.mp4", list(noise))
    maps = {}
    for kind, flags in {"plain": (), "again": (), "mirror": ("--first-frames", "mirror"), "cuts": ("--scene-cuts",)}.items():
        run(clip, "--out", tmp_path / kind, "--weights", tmp_path / "a.safetensors", "--device", "cpu", "--save", "npy", *flags)
        maps[kind] = [np.load(path) for path in sorted((tmp_path / kind / "a").iterdir())]
        assert len(maps[kind]) == 66
    changed = {kind: {number for number, (a, b) in enumerate(zip(maps["plain"], maps[kind])) if not np.array_equal(a, b)} for kind in maps}
    assert changed == {"plain": set(), "again": set(), "mirror": set(range(31)), "cuts": set(range(34, 65))}


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
    assert [outputs.clock(at) for at in (0, 59.996, 3601.5)] == ["0:00.00", "1:00.00", "60:01.50"]


@pytest.mark.parametrize("text", ["-1", "1:-30", "inf", "a"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        predict.seconds(text)


def test_the_predictor_gives_times_and_arrays(recsalnet_file, clip):
    found = list(Predictor(recsalnet_file, "cpu", every=4).predict_video(clip, start=0.03, end=0.45))
    assert [seconds for seconds, _ in found] == pytest.approx([0.04, 0.34], abs=2e-3)
    assert all(isinstance(saliency, np.ndarray) and saliency.dtype == np.float32 and saliency.shape == (48, 62) for _, saliency in found)


def test_the_predictor_refuses_an_unknown_option_at_once(recsalnet_file):
    with pytest.raises(TypeError, match="evry"):
        Predictor(recsalnet_file, "cpu", evry=4)


@pytest.mark.parametrize("options", [{"every": 0}, {"first_frames": "x"}, {"precision": "fp16"}, {"device": "gpu"}])
def test_the_predictor_refuses_a_wrong_option_at_once(recsalnet_file, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.* must be|first_frames one of"):
        Predictor(recsalnet_file, **{"device": "cpu", **options})


def test_the_predictor_takes_frames_from_anywhere(recsalnet_file, clip):
    predictor = Predictor(recsalnet_file, "cpu")
    from_frames = list(predictor.predict_frames(frame.to_ndarray(format="rgb24") for frame in decoded(clip)))
    assert len(from_frames) == 9 and all(np.array_equal(a, b) for a, (_, b) in zip(from_frames, predictor.predict_video(clip)))


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


def test_single_images_have_maps_from_networks_of_single_frames_and_their_flow(tmp_path, stsmaxnet_file, recsalnet_file):
    folder = pictures_of(tmp_path / "images")
    pictures_of(tmp_path / "flow", 3, start=1)
    flags = ("--model", "stsmaxnet", "--weights", stsmaxnet_file, "--device", "cpu", "--out", tmp_path / "out", "--save", "png", "sheet")
    run(folder / "0002.png", *flags, "--flow", tmp_path / "flow")
    picture, flow = (np.array(Image.open(place / "0002.png")) for place in (folder, tmp_path / "flow"))
    expected, = saliency_maps(STSMaxNet.from_pretrained(stsmaxnet_file), [picture], [flow])
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "0002" / "0002.png")), (255 * expected).to(torch.uint8).numpy())
    run(folder / "0001.png", *flags)                                       # nothing follows: its flow is zero
    assert (tmp_path / "out" / "0001" / "0001.png").is_file() and (tmp_path / "out" / "0001_sheet.png").is_file()
    with pytest.raises(ValueError, match="is a single image: give the folder .*ssnet, tsnet, stsmaxnet, stsconvnet, recsal_lite make maps"):
        run(folder / "0001.png", "--weights", recsalnet_file, "--device", "cpu", "--out", tmp_path / "other")


def test_a_network_without_flow_takes_no_flag_of_it(tmp_path, recsalnet_file):
    with pytest.raises(ValueError, match="--flow and --raft-weights are for networks of optical flow: RecSalNet takes none"):
        run(pictures_of(tmp_path / "clip"), "--weights", recsalnet_file, "--device", "cpu", "--flow", "dis", "--out", tmp_path / "out")


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


def test_folders_of_frames_are_predicted_without_pyav_and_video_files_ask_for_it(tiny_set, recsalnet_file, tmp_path):
    images = next((tiny_set / "val").iterdir()) / "images"
    flags = f"{tmp_path} {images} --weights {recsalnet_file} --end 0.08 --device cpu".split()
    ended = subprocess.run([sys.executable, "-c", WITHOUT_AV, *flags], cwd=TESTS.parent, capture_output=True, text=True)
    assert ended.returncode == 1 and len(list((tmp_path / "png" / "images").iterdir())) == 2, ended.stderr
    assert "ModuleNotFoundError: video files are read and written with PyAV, which is not installed: pip install av" in ended.stderr
