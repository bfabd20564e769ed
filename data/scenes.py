"""Scenes for the generated sample: objects that move over textures, and simulated observers who look at them."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

DIAMETER = (0.12, 0.18)  # of an object, in widths of the frame, as all lengths below
SPEED = (0.001, 0.004)  # of a moving object, per frame: an eighth of the width in half a second to two
VSOD_SPEED = (0.005, 0.02)  # the same with masks: a pixel or more at 160, or optical flow would hardly show it
TURN = 0.3  # in radii: how near to the border the centre of an object comes before it turns
PAN = 0.005  # of the background, per frame, at most
NUM_MOVING = (0.6, 0.3, 0.1)  # shares of videos with one, two and three moving objects
STILL_SHARE = 0.6  # videos with an object that stands still and gets little gaze: motion has to count
CIRCLE_SHARE = 0.3  # moving objects that circle; the others bounce at the borders
LATE_SHARE = 0.3  # moving objects, but for a video's first, that enter from outside during it
STILL_INTEREST = 0.03  # of an object that stands still, where the slowest moving one has 0.1
LOOK_CENTRE, LOOK_ANYWHERE = 0.06, 0.03  # share of looks that go near the centre (centre bias), or anywhere
NEW_LOOK, NEW_LOOK_AT_ENTRY = 1 / 15, 1 / 4  # chance of a saccade per frame, ordinarily and while something enters
SAMPLES = 3  # gaze samples of one observer per frame
JITTER = 0.025  # standard deviation of samples around the gaze: people look at all of an object
LOST_SHARE = 0.02  # frames without any fixation, as in DHF1K


# What is seen

@dataclass(frozen=True)
class Thing:
    """One object: outline (n, 2) around (0, 0), diameter in pixels, BGR colour, and path (T, 2) of (x, y) in pixels."""

    outline: np.ndarray
    diameter: float
    colour: np.ndarray
    path: np.ndarray

    @property
    def speed(self) -> np.ndarray:
        """(T,) pixels per frame; that of the first frame is the second's."""
        steps = np.linalg.norm(np.diff(self.path, axis=0), axis=1)
        return np.concatenate([steps[:1], steps]) if len(steps) else np.zeros(1)

    @property
    def moves(self) -> bool:
        """Whether it is ever elsewhere than at first."""
        return bool((self.path != self.path[0]).any())

    def visible(self, size: tuple[int, int]) -> np.ndarray:
        """(T,) bool: whether its centre is within the frame."""
        return ((self.path >= 0) & (self.path < (size[1], size[0]))).all(axis=1)

    def fill(self, image: np.ndarray, t: int, scale: float, colour: tuple) -> None:
        """Fill its outline in frame t, scaled, in an image (H, W) or (H, W, 3) uint8; the border is anti-aliased."""
        corners = 16 * (self.path[t] + scale * self.diameter / 2 * self.outline)
        cv2.fillPoly(image, [np.round(corners).astype(np.int32)], colour, cv2.LINE_AA, shift=4)


@dataclass(frozen=True)
class Scene:
    """What a video shows.

    Attributes:
        things: its objects, those behind first.
        background: (H, W, 3) uint8.
        shifts: of the background, (T, 2) of (x, y) in pixels.
    """

    things: list[Thing]
    background: np.ndarray
    shifts: np.ndarray

    def frame(self, t: int) -> np.ndarray:
        """Frame t, (H, W, 3) BGR uint8."""
        return draw_frame(self.background, self.shifts[t], self.things, t)

    def mask(self, t: int) -> np.ndarray:
        """(H, W) bool: where frame t shows an object that moves."""
        return draw_mask(self.background.shape[:2], self.things, t)


def make_scene(rng: np.random.Generator, frames: int, size: tuple[int, int],
               speed: tuple[float, float] = SPEED) -> Scene:
    """A random scene; its number of frames is up to a sixth off the one asked for."""
    num_frames = int(frames + rng.integers(-(frames // 6), frames // 6 + 1))
    things, background = make_things(rng, num_frames, size, speed), make_background(rng, size)
    return Scene(things, background, np.round(np.outer(np.arange(num_frames), rng.uniform(-PAN, PAN, 2) * size[1])))


def make_things(rng: np.random.Generator, num_frames: int, size: tuple[int, int],
                speed: tuple[float, float] = SPEED) -> list[Thing]:
    """One to three moving objects, the first of which is there from the start, and perhaps a still one.

    `speed` is in widths of the frame per frame.
    """
    kinds = []
    for _ in range(rng.choice([1, 2, 3], p=NUM_MOVING)):
        enters = bool(kinds) and rng.random() < LATE_SHARE
        kinds.append(enter_path if enters else circle_path if rng.random() < CIRCLE_SHARE else bounce_path)
    if rng.random() < STILL_SHARE:
        kinds.append(still_path)
    things = [make_thing(rng, kind, num_frames, size, speed) for kind in kinds]
    return [things[i] for i in rng.permutation(len(things))]  # any of them may cover the others


def make_thing(rng: np.random.Generator, kind: Callable, num_frames: int, size: tuple[int, int],
               speed: tuple[float, float]) -> Thing:
    """An object of random looks on a path of the given kind, at a random speed between two, in widths per frame."""
    diameter = rng.uniform(*DIAMETER) * size[1]
    hsv = np.uint8([[[rng.integers(180), rng.integers(20, 110), rng.integers(240, 256)]]])  # any hue, but bright
    colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64)
    path = kind(rng, num_frames, size, diameter / 2, rng.uniform(*speed) * size[1])
    return Thing(make_outline(rng), diameter, colour, path)


def make_outline(rng: np.random.Generator) -> np.ndarray:
    """A disc, triangle, square, hexagon or star of radius about 1, turned at random."""
    corners, inner = [(40, 1.0), (3, 1.0), (4, 1.0), (6, 1.0), (10, 0.5)][rng.integers(5)]
    angles = 2 * np.pi * (np.arange(corners) / corners + rng.random())
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def bounce_path(rng: np.random.Generator, num_frames: int, size: tuple[int, int], radius: float,
                speed: float) -> np.ndarray:
    """A straight path, (T, 2) of (x, y) in pixels, that starts within the frame and bounces at its borders."""
    angle = rng.uniform(0, 2 * np.pi)
    velocity = speed * np.array([np.cos(angle), np.sin(angle)])
    return bounce(place(rng, size, TURN * radius), velocity, num_frames, size, radius)


def enter_path(rng: np.random.Generator, num_frames: int, size: tuple[int, int], radius: float,
               speed: float) -> np.ndarray:
    """A path (T, 2) that waits outside the left or right border, enters, and bounces from then on."""
    waits = int(rng.uniform(0.15, 0.4) * num_frames)
    from_left, angle = rng.random() < 0.5, rng.uniform(-np.pi / 4, np.pi / 4)
    start = np.array([-radius if from_left else size[1] + radius, place(rng, size, radius)[1]])
    velocity = speed * np.array([np.cos(angle) if from_left else -np.cos(angle), np.sin(angle)])
    path = bounce(start, velocity, num_frames - waits, size, radius)
    return np.concatenate([np.repeat(path[:1], waits, axis=0), path])


def bounce(position: np.ndarray, velocity: np.ndarray, num_frames: int, size: tuple[int, int],
           radius: float) -> np.ndarray:
    """The path (T, 2) from a position; beyond a border only outward movement is reversed, so that objects can enter."""
    frame, path = np.array([size[1], size[0]]), np.empty((num_frames, 2))
    for t in range(num_frames):
        path[t] = position
        outward = ((position < TURN * radius) & (velocity < 0)) | ((position > frame - TURN * radius) & (velocity > 0))
        velocity = np.where(outward, -velocity, velocity)
        position = position + velocity
    return path


def circle_path(rng: np.random.Generator, num_frames: int, size: tuple[int, int], radius: float,
                speed: float) -> np.ndarray:
    """A path (T, 2) on a circle within the frame, in either direction."""
    orbit = rng.uniform(0.15, 0.32) * size[0]
    angles = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * speed / orbit * np.arange(num_frames)
    return place(rng, size, orbit + radius) + orbit * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def still_path(rng: np.random.Generator, num_frames: int, size: tuple[int, int], radius: float,
               speed: float) -> np.ndarray:
    """The same place (T, 2) all the time."""
    return np.repeat(place(rng, size, radius)[None], num_frames, axis=0)


def place(rng: np.random.Generator, size: tuple[int, int], margin: float) -> np.ndarray:
    """A random position (x, y) in the frame, outside a margin; both in pixels."""
    frame = np.array([size[1], size[0]])
    room = np.maximum(frame - 2 * margin, 0)  # an object larger than the frame stays in its middle
    return (frame - room) / 2 + room * rng.random(2)


def make_background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A greyish (H, W, 3) uint8 texture that continues over its borders; few levels, so that PNG files stay small."""
    noise = np.zeros(size)
    for scale, weight in ((0.15, 1.0), (0.06, 0.6), (0.025, 0.35)):
        layer = gaussian_filter(rng.standard_normal(size), scale * size[1], mode="wrap")
        noise += weight * (layer - layer.mean()) / layer.std()
    levels = np.round(4 * np.clip(noise / noise.std(), -2.5, 2.5)) / 4
    base, tint = rng.uniform(95, 120) + rng.uniform(-10, 10, 3), rng.uniform(6, 16, 3)
    return np.clip(base + levels[..., None] * tint, 0, 255).astype(np.uint8)


def draw_frame(background: np.ndarray, shift: np.ndarray, things: list[Thing], t: int) -> np.ndarray:
    """Frame t, (H, W, 3) BGR uint8: the background shifted by whole pixels (x, y), and the objects on it."""
    image = np.roll(background, (int(shift[1]), int(shift[0])), axis=(0, 1))
    for thing in things:
        for scale, shade in ((1.0, 0.55), (0.82, 1.0)):  # a dark rim, then the body
            thing.fill(image, t, scale, tuple(shade * thing.colour))
    return image


def draw_mask(size: tuple[int, int], things: list[Thing], t: int) -> np.ndarray:
    """(H, W) bool: pixels at least half covered by moving objects in frame t, where no still object hides them."""
    cover = np.zeros(size, dtype=np.uint8)
    for thing in things:
        thing.fill(cover, t, 1.0, (255 if thing.moves else 0,))
    return cover >= 128


# Who looks at it

def find_interest(things: list[Thing], background: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Contrast x speed where an object is visible, else 0, (T, number of things); about 0.3 for a moving one."""
    contrast = [np.linalg.norm(thing.colour - background.mean(axis=(0, 1))) / 200 for thing in things]
    return np.stack([c * thing.visible(size) * np.maximum(thing.speed / (0.01 * size[1]), STILL_INTEREST)
                     for c, thing in zip(contrast, things)], axis=1)


def watch(rng: np.random.Generator, things: list[Thing], interest: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where one observer looks, (T, 2) of (x, y) in pixels; NaN during saccades. Pursuit lags 2 to 4 frames behind."""
    num_frames, gaze = len(interest), np.full((len(interest), 2), np.nan)
    entering = entries(interest)
    lag, lands = rng.integers(2, 5), 0
    for t in range(num_frames):
        if t == 0 or rng.random() < (NEW_LOOK_AT_ENTRY if entering[t] else NEW_LOOK):
            path = choose_look(rng, things, interest[t], size)
            lands = t + (t > 0) * int(rng.integers(1, 3))
        if t >= lands:
            gaze[t] = path[max(t - lag, 0)]
    return gaze


def entries(interest: np.ndarray) -> np.ndarray:
    """(T,) bool: whether an object has become visible 3 to 8 frames ago, the time it takes to react."""
    appeared = np.zeros(len(interest), dtype=bool)
    appeared[1:] = ((interest[1:] > 0) & (interest[:-1] == 0)).any(axis=1)
    return np.array([appeared[max(t - 8, 0):max(t - 2, 0)].any() for t in range(len(appeared))])


def choose_look(rng: np.random.Generator, things: list[Thing], interest: np.ndarray,
                size: tuple[int, int]) -> np.ndarray:
    """What to look at next, as a path (T, 2): a point of an object, near the centre, or anywhere."""
    frame, dice = np.array([size[1], size[0]], dtype=np.float64), rng.random()
    num_frames = len(things[0].path)
    if dice < LOOK_ANYWHERE:
        return np.tile(rng.uniform(0, frame), (num_frames, 1))
    if dice < LOOK_ANYWHERE + LOOK_CENTRE or not interest.any():
        return np.tile(rng.normal(frame / 2, frame / 8), (num_frames, 1))
    thing = things[rng.choice(len(things), p=interest / interest.sum())]
    return thing.path + rng.normal(0, 0.18 * thing.diameter, 2)


def fixation_maps(gaze: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """One (H, W) bool map per frame from gaze (T, samples, 2) of (x, y); NaN and samples off the frame do not count."""
    for samples in gaze:
        x, y = np.round(samples[~np.isnan(samples).any(axis=1)]).astype(np.int64).T
        inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
        fixations = np.zeros(size, dtype=bool)
        fixations[y[inside], x[inside]] = True
        yield fixations


def simulate_gaze(rng: np.random.Generator, things: list[Thing], background: np.ndarray, observers: int) -> np.ndarray:
    """Gaze samples of all observers, (T, observers * SAMPLES, 2) of (x, y) in pixels; NaN where there is none."""
    size = background.shape[:2]
    interest = find_interest(things, background, size)
    num_frames = len(interest)
    gaze = np.stack([watch(rng, things, interest, size) for _ in range(observers)], axis=1)  # (T, observers, 2)
    gaze = np.repeat(gaze, SAMPLES, axis=1)
    gaze = gaze + rng.normal(0, JITTER * size[1], gaze.shape)
    lost = round(LOST_SHARE * num_frames)
    first = rng.integers(0, num_frames - lost + 1)
    gaze[first:first + lost] = np.nan  # all of them blink
    return gaze
