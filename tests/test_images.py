
import numpy as np
import pytest
import scipy.io
from conftest import grey_frames, write_video
from PIL import ExifTags, Image, TiffImagePlugin
from small_sets import write

from videos import images
from videos.annotation import read_density, read_fixations
from videos.decoding import read_video, timed_frames
from videos.images import is_animation, read_frame, timed_pictures

# Orientation

# An EXIF orientation -> where it shows the upper left corner of the stored picture, and whether it swaps height and width (EXIF 2.3, 4.6.4).
CORNERS = {1: (0, 0, False), 2: (0, -1, False), 3: (-1, -1, False), 4: (-1, 0, False),
           5: (0, 0, True), 6: (0, -1, True), 7: (-1, -1, True), 8: (-1, 0, True)}


def cornered():
    """48 x 64, black but for the upper left corner."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255
    return picture


def exif(orientation):
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_a_picture_is_read_as_viewers_show_it(tmp_path, orientation, suffix):
    row, column, swapped = CORNERS[orientation]
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(cornered()).save(path, exif=exif(orientation))
    for picture in (read_frame(path)[..., 0], read_density(path)):         # frames and annotation have one reader
        assert picture.shape == ((64, 48) if swapped else (48, 64))
        assert [(r, c) for r in (0, -1) for c in (0, -1) if picture[r, c] > 0.8 * picture.max()] == [(row, column)]


@pytest.mark.parametrize("tags", [b"Exif\0\0", b"Exif\0\0no TIFF header at all", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", exif(0).tobytes(), exif(9).tobytes()])
def test_a_picture_whose_exif_means_nothing_is_read_as_it_is_stored(tmp_path, tags):
    Image.fromarray(cornered()).save(tmp_path / "a.jpg", exif=tags)
    picture = read_frame(tmp_path / "a.jpg")
    assert picture.shape == (48, 64, 3) and picture[0, 0].min() > 200


# Several pictures in one file

def save_several(path, levels, durations=100, **options):
    """Grey pictures, 6 x 8, in one file."""
    first, *others = [Image.fromarray(np.full((6, 8, 3), level, np.uint8)) for level in levels]
    timed = {} if path.suffix.startswith(".tif") else {"duration": durations}
    first.save(path, save_all=True, append_images=others, **timed, **({"lossless": True} if path.suffix == ".webp" else {}), **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_animated_pictures_have_their_own_times(tmp_path, suffix):
    path = save_several(tmp_path / f"a.{suffix}", [10, 60, 120, 250], [100, 40, 500, 40])
    shown = list(timed_frames(path))
    assert [seconds for seconds, _ in shown] == pytest.approx([0, 0.1, 0.14, 0.64])
    assert [int(picture[0, 0, 0]) for _, picture in shown] == [10, 60, 120, 250] and shown[0][1].shape == (6, 8, 3)
    assert [ends for _, ends, _ in timed_pictures(path, 25)] == pytest.approx([0.1, 0.14, 0.64, 0.68])
    assert [int(picture[0, 0, 0]) for _, picture in timed_frames(path, 0.1, 0.2)] == [60, 120]
    with pytest.raises(ValueError, match="has no picture from second 3 to its end; it ends at second 0.68"):
        list(timed_frames(path, 3))


def test_pages_of_a_tiff_file_follow_each_other_at_the_given_rate(tmp_path):
    path = save_several(tmp_path / "a.tif", range(51))
    assert [seconds for seconds, _ in timed_frames(path, fps=50)] == [number / 50 for number in range(51)]
    assert [int(picture[0, 0, 0]) for _, picture in timed_frames(path, 0.5, 1, fps=50)] == list(range(25, 50))


def test_the_picture_of_an_animated_png_for_programs_that_know_no_animation_is_none_of_its_frames(tmp_path):
    path = save_several(tmp_path / "a.png", [255, 10, 60], default_image=True)
    assert [int(picture[0, 0, 0]) for _, picture in timed_frames(path)] == [10, 60]


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_where_one_picture_is_expected_a_file_of_several_is_refused(tmp_path, suffix):
    path = save_several(tmp_path / f"a.{suffix}", [10, 60, 120])
    assert is_animation(path)
    with pytest.raises(ValueError, match=rf"cannot read image .*a.{suffix} .*: it holds 3 pictures, as a video does"):
        read_frame(path)


def test_what_a_file_is_called_does_not_count(tmp_path):
    """Stickers and reactions are passed on under any suffix."""
    for name, suffix in (("webp", "gif"), ("gif", "png"), ("png", "webp"), ("webp", "sticker")):
        path = save_several(tmp_path / f"a.{name}", [0, 255]).rename(tmp_path / f"b.{suffix}")
        assert [int(picture[0, 0, 0]) for _, picture in timed_frames(path)] == [0, 255]
        path.unlink()


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_a_file_of_one_picture_is_no_video(tmp_path, suffix):
    path = save_several(tmp_path / f"a.{suffix}", [10])
    assert not is_animation(path) and read_frame(path)[0, 0].tolist() == [10] * 3


def test_smaller_copies_and_masks_in_a_tiff_file_are_no_frames(tmp_path):
    small, mask = TiffImagePlugin.ImageFileDirectory_v2(), TiffImagePlugin.ImageFileDirectory_v2()
    small[254], mask[254] = 1, 4
    pages = [Image.new("L", (8, 6), 77), Image.new("L", (4, 3), 9), Image.new("L", (8, 6), 255)]
    pages[1].encoderinfo, pages[2].encoderinfo = {"tiffinfo": small}, {"tiffinfo": mask}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / "a.tif") as stored:
        assert stored.n_frames == 3
    assert not is_animation(tmp_path / "a.tif") and read_frame(tmp_path / "a.tif")[0, 0].tolist() == [77] * 3


def test_the_second_picture_of_a_phones_jpeg_is_no_frame(tmp_path):
    first, second = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (4, 3))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert not is_animation(tmp_path / "a.jpg") and read_frame(tmp_path / "a.jpg").shape == (6, 8, 3)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_a_damaged_file_of_several_pictures_is_an_error_after_the_whole_ones(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    first, *others = map(Image.fromarray, noise)
    first.save(path, save_all=True, append_images=others, **({"lossless": True} if suffix == "webp" else {}))
    path.write_bytes(path.read_bytes()[:int(0.95 * path.stat().st_size)])
    seen = []
    with pytest.raises(ValueError, match=rf"cannot read picture \d of .*a.{suffix}"):
        seen.extend(timed_pictures(path, 25))
    assert len(seen) == {"png": 4, "webp": 0, "tif": 4}[suffix]            # libwebp looks for the end first


def test_pages_of_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    first, second = (Image.fromarray(np.full((6, 8), level, np.uint16)) for level in (100, 40000))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(ValueError, match="cannot read picture 1 of .*a.tif .*: its pixels are of mode I;16, expected 8 bits a channel"):
        list(timed_frames(tmp_path / "a.tif"))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_an_animation_of_huge_pictures_is_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(images, "MAX_PIXELS", 47)
    with pytest.raises(ValueError, match="claims 6 x 8 pixels"):
        list(timed_pictures(save_several(tmp_path / f"a.{suffix}", [1, 2]), 25))


# What is no picture

@pytest.mark.parametrize("content, said", [
    (b"", "it is empty"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "it is a Git LFS pointer"),
    (b"<html><head></head></html>", "it is a web page"), (b"nothing", "cannot identify"),
])
def test_what_was_fetched_in_the_place_of_a_picture_is_named(tmp_path, content, said):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"cannot read image .*a.png \(\d+ bytes\): {said}"):
        read_frame(tmp_path / "a.png")


def test_images_of_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    write(tmp_path / "a.png", np.full((4, 4), 40000, np.uint16))
    with pytest.raises(ValueError, match="expected 8 bits"):
        read_density(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.mat", "a.avi"])
def test_a_picture_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path, monkeypatch, name):
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 64 - 1)
    path = tmp_path / name
    if name == "a.mat":
        scipy.io.savemat(path, {"I": np.zeros((48, 64), np.uint8)})
    elif name == "a.avi":
        write_video(path, grey_frames(2), codec="mpeg4")
    else:
        write(path, np.zeros((48, 64), np.uint8))
    read = {"a.mat": read_fixations, "a.png": read_density, "a.avi": lambda path: list(read_video(path))}[name]
    with pytest.raises(ValueError, match=r"claims .* pixels .H x W., more than the 3071"):
        read(path)


def test_frames_are_rgb_and_densities_go_from_zero_to_one(tmp_path):
    write(tmp_path / "a.png", np.full((2, 3, 3), (255, 128, 0), np.uint8))
    write(tmp_path / "d.png", np.array([[0, 51, 255]], np.uint8))
    assert read_frame(tmp_path / "a.png")[0, 0].tolist() == [255, 128, 0]
    np.testing.assert_allclose(read_density(tmp_path / "d.png"), [[0, 0.2, 1]])
