import json

import numpy as np
import pytest
import torch
from conftest import write_video
from PIL import Image
from predict_runs import decoded, run

from predict import Predictor
from prediction import engine, outputs
from prediction.outputs import to_8_bit, write_map
from utils import BoundedExecutor


def test_a_map_that_cannot_be_written_is_an_error_at_the_latest_in_the_end(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), BoundedExecutor() as later:
        later(write_map, tmp_path / "file" / "0001.png", torch.rand(4, 4))


def test_eight_bit_maps_span_the_range_and_a_constant_one_is_black():
    assert to_8_bit(torch.tensor([[0.1, 0.2], [0.3, 0.6]])).tolist() == [[0, 51], [102, 255]]
    assert to_8_bit(torch.full((2, 2), 0.7)).tolist() == [[0, 0], [0, 0]]


def test_a_map_that_is_not_finite_is_an_error_and_never_a_black_picture():
    with pytest.raises(ValueError, match="map is not finite"):
        to_8_bit(torch.tensor([[0.1, torch.nan]]))


def test_every_kind_of_output_is_written_and_says_the_same(tmp_path, recsalnet_file, clip):
    run(clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--save", *outputs.OUTPUTS)
    out, name = tmp_path / "out", clip.stem
    assert sorted(p.name for p in out.iterdir()) == sorted([name, *(f"{name}{end}" for end in (".json", ".npz", "_map.mp4", "_overlay.mp4", "_sheet.png"))])
    maps = [saliency for _, saliency in Predictor(recsalnet_file, "cpu").predict_video(clip)]
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


def test_heat_covers_what_is_salient_and_shows_what_is_not():
    saliency, frame = torch.zeros(8, 8), np.full((8, 8, 3), 100, np.uint8)
    saliency[4:] = 1
    heat = outputs.paint_heat(engine.Prediction("0001", 0.0, frame, saliency))
    assert (heat[:4] == 100).all() and (heat[4:, :, 0] > heat[4:, :, 2] + 50).all()  # red


@pytest.mark.parametrize("count, shown", [(1, 1), (16, 16), (17, 16), (129, 16), (1000, 16)])
def test_a_contact_sheet_spreads_its_pictures_over_the_video(tmp_path, monkeypatch, count, shown):
    pages = []
    monkeypatch.setattr(outputs, "page", lambda pictures: pages.append(pictures) or Image.new("L", (1, 1)))
    with outputs.contact_sheet(tmp_path / "a.png", source=None) as write:
        for number in range(count):
            write(engine.Prediction("", float(number), np.zeros((9, 16, 3), np.uint8), torch.rand(9, 16)))
    times = [seconds for seconds, _ in pages[0]]
    assert len(times) == shown and times[0] == 0 and times == sorted(set(times)) and times[-1] >= 0.9 * (count - 1)
    assert np.diff(times).max(initial=0) <= max(2, 3 * count / shown)


def test_a_truncated_video_leaves_whole_maps_and_no_half_written_video(tmp_path, recsalnet_file):
    path = write_video(tmp_path / "a.mkv", list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)))
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(ValueError, match="ends after 19 frames, at second 0.76, although its header promises 1.60 seconds"):
        run(path, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--save", "png", "npz", "overlay", "sheet")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "a.json"] and len(list((tmp_path / "out" / "a").iterdir())) == 19
