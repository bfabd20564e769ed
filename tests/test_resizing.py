
import numpy as np
import pytest
import torch
from PIL import Image

from videos.resizing import imresize, move_fixations, resize_density


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
