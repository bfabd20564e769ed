"""What train.py, predict.py and test.py need of any network: `SaliencyModel`, and the three ways to move through time.

A network is a `WindowModel` (one map for each window of frames), a `RecurrentModel` (a state is carried from frame to
frame) or a `GroupModel` (maps for groups of frames). The scripts contain no network's name: they ask the model.
"""
import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from loss import Recipe, to_device
from weights import check_entries, load_entries, read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIRST_FRAMES = ("repeat", "mirror")  # what fills a window before a video's first frame


@dataclass(frozen=True)
class EngineOptions:
    """How `prediction.engine.saliency_maps` goes through a video.

    Attributes:
        batch_size: clips or groups computed at once, or frames of a recurrent network. A video's last batch of clips is
            filled up, so that all have one shape.
        interpolate: an approximation: only every n-th frame, and the last one, goes through the network; maps between
            are interpolated linearly.
        every: maps of every n-th frame only, the first one included; the network still sees all frames.
        skip: the first `skip` frames only fill the window, or the state; they get no map, and `every` counts from the
            one after.
        first_frames: what fills the window before the first frame: "repeat", that frame (RecSal-Net's authors), or
            "mirror": the window is time-reversed and begins at the frame its map belongs to (TASED-Net's), unless it
            would not fit into the video: then that frame, too. None: the model's own. Recurrent networks need none.
        scene_cuts: restart, as at a video's first frame, where another scene begins.
        resize: False leaves maps at the network's size, as TASED-Net's and SalEMA's authors keep theirs.

    Raises:
        ValueError: a value means nothing, or two exclude each other.
    """
    batch_size: int = 1
    interpolate: int = 1
    every: int = 1
    skip: int = 0
    first_frames: str | None = None
    scene_cuts: bool = False
    resize: bool = True

    def __post_init__(self) -> None:
        known = (None, *FIRST_FRAMES)
        if min(self.batch_size, self.interpolate, self.every) < 1 or self.skip < 0 or self.first_frames not in known:
            raise ValueError(
                "batch_size, interpolate and every must be 1 or more, skip 0 or more, first_frames one of "
                f"{FIRST_FRAMES}; got batch_size={self.batch_size}, interpolate={self.interpolate}, "
                f"every={self.every}, skip={self.skip}, first_frames={self.first_frames!r}")
        if self.interpolate > 1 and (self.every > 1 or self.skip):
            raise ValueError(f"interpolate={self.interpolate} draws the maps that every={self.every} and "
                             f"skip={self.skip} would leave out: choose one")


class PreparedFrame(NamedTuple):
    """A frame at the network's size, (3, h, w) uint8, with its flow's picture (6, h, w); and its own size, (H, W).

    `pixels` is None where no window reaches the frame.
    """
    pixels: Tensor | None
    size: tuple[int, int] | None


NO_MAP = PreparedFrame(None, None)  # ends a step whose frames are seen, but get no map
Step = list[PreparedFrame]          # frames of which the last one gets a map


class StepOutput(NamedTuple):
    """A step, and the network's output, (h, w), for its last frame."""
    step: Step
    output: Tensor


@dataclass
class Carried:
    """What training carries from clip to clip of a video.

    Attributes:
        video: the number of the video that the last clip was of; -1 before the first.
        next: the index of the frame that must follow for the state to fit.
        state: a recurrent network's.
    """
    video: int = -1
    next: int = 0
    state: object = None


class OtherNetworkError(ValueError):
    """A weight file holds another network; `entries` are the names in it."""

    def __init__(self, message: str, entries: Collection[str]) -> None:
        super().__init__(message)
        self.entries = entries


class SaliencyModel(nn.Module):
    """What the scripts need of every network, and most networks need not write again.

    A network derives from one of the three kinds, adds `forward` (or `maps`), and overrides what differs.

    Args:
        frame_size: (H, W) that frames are resized to; None: each stays as it is.
        prepare: how, a function of the module: (frame, size) -> (3, h, w) uint8.
        others: further arguments of the network, for its `config`, from which it can be built again.
    """

    clip_len = 32                            # frames of a window, of a group, or of a clip to train on
    frame_stride = 1                         # frames of the video from one frame of a clip to the next
    first_frames: str | None = None          # what fills a window before a video's first frame
    needs_flow = False
    flow_picture = "wheel"                   # how flow becomes a picture: `optical_flow.PICTURES`
    inputs: tuple[str, ...] = ("frame",)     # what `forward` takes of "frame" and "flow"
    target = "density"                       # what training compares maps with, or "mask"
    dataset = "dhf1k"                        # what it is trained on and scored on unless told otherwise
    stages: dict[str, tuple[str, ...]] = {}  # of training, in order: what `forward` takes in each
    nominal_size = (224, 384)                # where `frame_size` is None, but one is needed
    known_by: tuple[str, ...] = ()           # entries that its weight files have,
    unlike: tuple[str, ...] = ()             # and those that another network's have
    recipe = Recipe()
    authors_file: str | None = None          # what its authors call their weights
    shipped_weights: Path | None = None      # a file of this repository
    onnx_differs = False                     # whether its ONNX export is known to give other maps
    has_idle_parameters = False              # whether some that could learn get no gradient
    start_file: Path | None = None           # pretrained weights that training starts from,
    start_download: str | None = None        # else torchvision's of this name
    abilities: tuple[str, ...] = ()          # of "compile", "export", "thaw", "activation_checkpointing"
    carries_state = False                    # from clip to clip of a video
    takes_stills = False                     # whether a single picture gets a map
    maps_per_forward = 1                     # of `blank()`
    cpu_batch_size = 1                       # of the engine, unless told otherwise: what keeps a CPU busy
    samples = "clips"                        # what training counts, for messages

    def __init__(self, frame_size: tuple[int, int] | None, prepare: Callable[..., Tensor], **others) -> None:
        super().__init__()
        self.config = {"frame_size": frame_size and list(frame_size), **others}
        self.is_described = True                              # False: weights came without a configuration
        size = frame_size and tuple(frame_size)
        self.prepare = functools.partial(prepare, size=size)  # light: travels to loader processes

    # Before and after the network

    def normalise(self, clip: Tensor) -> Tensor:
        """Bring prepared frames to the network's range.

        Args:
            clip: (B, 3, T, h, w) or (B, 3, h, w) uint8, RGB, on any device.

        Returns:
            The same as float32, ImageNet-normalised.
        """
        shape = (3, *[1] * (clip.ndim - 2))
        mean, std = (torch.tensor(x).to(clip.device, non_blocking=True).view(shape)
                     for x in (IMAGENET_MEAN, IMAGENET_STD))
        return (clip.float() / 255 - mean) / std

    def finish(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring raw output, (B, h, w), to the frame's own size: (B, H, W) float32 in [0, 1], resized bilinearly."""
        return F.interpolate(output[:, None].float(), size=tuple(size), mode="bilinear", align_corners=False)[:, 0]

    def quantise(self, saliency: Tensor) -> Tensor:
        """A finished map, (H, W), as files hold it: uint8, min-max normalised; a constant one becomes 0."""
        return stretch(saliency)

    # Moving through time

    def raw_maps(self, frames: Iterator[PreparedFrame], first: int, options: EngineOptions) -> Iterator[StepOutput]:
        """Go through the frames of a scene.

        Args:
            frames: prepared, in order.
            first: index of the first one that gets a map.
            options: `skip` is in `first` already, and scenes are cut.

        Yields:
            Steps in order, each with the network's output, (h, w), for its last frame.
        """
        return itertools.islice(self.all_maps(frames, options), first, None, options.every)

    def all_maps(self, frames: Iterator[PreparedFrame], options: EngineOptions) -> Iterator[StepOutput]:
        """`raw_maps` of every step, for networks to which frames without a map of their own matter."""
        raise NotImplementedError(f"{type(self).__name__} must be a WindowModel, a RecurrentModel or a GroupModel")

    def frames_before(self, index: int) -> int:
        """How many frames before this one its map depends on; here all of them."""
        return index

    def lookahead(self, first_frames: str | None = None) -> int:
        """Frames that a video needs so that all time-reversed windows fit into it; 0 where none is (`first_frames`)."""
        return 0

    def blank(self) -> tuple[Tensor, ...]:
        """What `forward` takes, of zeros: a clip, or a group of frames; what matters is its shape."""
        return self.zeros(1, 3, self.clip_len)

    def zeros(self, *shape: int) -> tuple[Tensor, ...]:
        """Zeros of this shape and the network's frame size, one tensor for each of its inputs."""
        like, size = next(self.parameters()), self.config["frame_size"] or self.nominal_size
        return tuple(torch.zeros(*shape, *size, dtype=like.dtype, device=like.device) for _ in self.inputs)

    # Training

    def set_stage(self, stage: str) -> None:
        """Set the inputs of a stage of training, a key of `stages`."""
        self.inputs = self.stages[stage]
        self.needs_flow = "flow" in self.inputs

    @property
    def map_size(self) -> tuple[int, int]:
        """(h, w) of raw output, at which training compares it with its target: the frame size."""
        return tuple(self.config["frame_size"])

    @property
    def sampling(self) -> dict[str, int]:
        """How training cuts clips out of videos: arguments of `dataloader.ClipDataset`."""
        return {"clip_len": self.clip_len, "frame_stride": self.frame_stride}

    @property
    def validated_every(self) -> int:
        """Frames of a video from one that training validates on to the next."""
        return self.clip_len * self.frame_stride

    def training_module(self) -> nn.Module:
        """The module whose forward pass is trained, by several processes together; here the network itself."""
        return self

    def batch_inputs(self, batch: dict, device: torch.device) -> list[Tensor]:
        """What `forward` takes of a batch, on the device and normalised: a clip, (B, 3, T, h, w)."""
        return [self.normalise(batch["clip"].to(device, non_blocking=True))]

    def training_outputs(self, module: nn.Module, inputs: list[Tensor], batch: dict,
                         carried: Carried) -> Tensor | tuple:
        """Raw outputs for a batch's annotated frames.

        Args:
            module: what `training_module` returned, perhaps wrapped or compiled.
            inputs: of `batch_inputs`.
            batch: of a loader.
            carried: from the clip before; updated by networks that carry a state.
        """
        return module(*inputs)

    def loss_outputs(self, outputs: Tensor | tuple) -> tuple[Tensor, ...]:
        """Those of `forward`'s or `training_module`'s outputs that the loss depends on."""
        return (outputs,)

    def main_output(self, outputs: Tensor | tuple) -> Tensor:
        """What `finish` takes of what `forward` returned."""
        return outputs

    def for_objective(self, output: Tensor | tuple) -> Tensor | tuple:
        """Raw output as the objective compares it with its target: here (B, h, w) float32, as it is."""
        return output.float()

    def state_shapes(self) -> tuple | None:
        """The shapes of what is carried from clip to clip; None where nothing is."""
        return None

    def parameter_groups(self, lr: float) -> list[dict]:
        """What the optimiser gets: one group, everything that receives a gradient."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def load_start(self, entries: dict[str, Tensor], source: str) -> list[str]:
        """Fill what comes pretrained from a file's entries; returns the names that have no place here."""
        raise ValueError(f"{type(self).__name__} starts from nothing pretrained, and not from {source}: "
                         "give --encoder-weights none")

    def init_from_scratch(self) -> None:
        """Prepare newly drawn weights for training without pretrained ones; here they stay as they are."""

    # Weight files

    @classmethod
    def from_pretrained(cls, path: str | Path, frame_size: tuple[int, int] | None = None, **changes) -> "SaliencyModel":
        """Build the network that a weight file belongs to, and load it.

        What the entries cannot tell, such as the frame size, comes from the `.json` beside the file, or from within a
        `last.pt`; else it is the paper's.

        Args:
            path: the authors' file, or one written by train.py; or its https URL. `FILE#KEY` takes one of several state
                dicts in it.
            frame_size: (H, W) to resize frames to, instead of what the network was trained at.
            changes: other arguments of the network to replace; the file's entries must still fit.

        Returns:
            The network in eval mode, on the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a weight file, or another network's, its configuration does not fit, or an entry is
                missing, left over or of another shape; the message names it.
        """
        entries, configuration = cls.read_file(path)
        if not cls.is_held_by(entries):
            unlike = f", without {' and '.join(cls.unlike)}" * bool(cls.unlike)
            raise OtherNetworkError(f"{path} does not hold {cls.__name__}: expected entries such as "
                                    f"{' and '.join(cls.known_by)}{unlike}, got {len(entries)} entries, the first "
                                    f"{sorted(entries)[:3]}", entries)
        changes = {**({"frame_size": frame_size} if frame_size else {}), **changes}
        model = cls.built_for(cls.completed(configuration, changes, entries, str(path)), entries, str(path))
        load_entries(model, entries, str(path))
        model.is_described = bool(configuration)
        return model.eval()

    @classmethod
    def is_held_by(cls, entries: Collection[str]) -> bool:
        """Whether the names of a file's entries are those of this network, as far as `known_by` and `unlike` tell."""
        return all(name in entries for name in cls.known_by) and not any(name in entries for name in cls.unlike)

    @classmethod
    def read_file(cls, path: str | Path) -> tuple[dict[str, Tensor], dict]:
        """The entries of a weight file, without prefixes that wrappers add, and the configuration that came with it."""
        return read_weights(path, cls.own_names())

    @classmethod
    def own_names(cls) -> Collection[str]:
        """Names of entries by which an unwrapped file is known: `known_by`, else all that the defaults have."""
        if cls.known_by:
            return cls.known_by
        with torch.device("meta"):
            return cls().state_dict().keys()

    @classmethod
    def completed(cls, configuration: dict, changes: dict, entries: dict[str, Tensor], source: str) -> dict:
        """The configuration that came with a file, changed, and with what the file's entries tell."""
        return {**configuration, **changes}

    @classmethod
    def built_for(cls, config: dict, entries: dict[str, Tensor], source: str) -> "SaliencyModel":
        """Build the network of a configuration that came with a file, after comparing its shapes with the file's.

        Raises:
            ValueError: this is not a configuration of the network, or the file's entries do not fit it.
        """
        cls.outlined_for(config, entries, source)  # before memory is taken
        return cls(**config)

    @classmethod
    def outlined_for(cls, config: dict, entries: dict[str, Tensor], source: str) -> "SaliencyModel":
        """The network of a configuration on the meta device, which has shapes only; raises as `built_for` does."""
        try:
            with torch.device("meta"):
                model = cls(**config)
            check_entries(model, entries, source)
        except (TypeError, AttributeError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(f"the configuration that belongs to {source} does not fit {cls.__name__}: {error}; "
                             f"it is {config}") from error
        return model


class WindowModel(SaliencyModel):
    """A network that sees a window of `clip_len` frames, `frame_stride` apart, and gives the last one's map."""

    first_frames = "repeat"
    abilities = ("compile", "export")

    @property
    def past(self) -> int:
        """Frames of the video that a window reaches back from its last one."""
        return (self.clip_len - 1) * self.frame_stride

    def frames_before(self, index: int) -> int:
        return self.past

    def lookahead(self, first_frames: str | None = None) -> int:
        return 2 * self.past if (first_frames or self.first_frames) == "mirror" else 0

    def raw_maps(self, frames: Iterator[PreparedFrame], first: int, options: EngineOptions) -> Iterator[StepOutput]:
        """As `SaliencyModel.raw_maps`; each frame is normalised once, and kept as long as windows need it."""
        like, history = next(self.parameters()), None
        ahead = self.lookahead(options.first_frames)  # frames that must be there before the first map
        window = None if (options.first_frames or self.first_frames) == "mirror" else self.past + 1
        steps = steps_of(frames, first + 1, options.interpolate * options.every, window, whole=options.every > 1)
        offsets = torch.arange(-(self.clip_len - 1), 1) * self.frame_stride  # of a clip's frames from its last one
        while group := take(steps, options.batch_size, ahead if history is None else 0):
            kept = [[frame.pixels for frame in step if frame.pixels is not None] for step in group]
            new = torch.stack([pixels for step in kept for pixels in step], dim=1)
            new = self.normalise(to_device(new, like.device)[None])[0].to(like.dtype)  # (3, frames, h, w)
            starting = history is None
            before = new[:, :1].expand(-1, self.past, -1, -1) if starting else history[:, history.shape[1] - self.past:]
            history = torch.cat([before, new], dim=1)
            ends = self.past - 1 + torch.tensor([len(step) for step in kept]).cumsum(0)
            ends = ends[[step[-1] is not NO_MAP for step in group]]
            group = [step for step in group if step[-1] is not NO_MAP]
            places = ends[:, None] + offsets  # (steps, T), of each window's frames in `history`
            if starting and ahead:            # time-reversed where they fit into the video
                fits = ends[:, None] < min(2 * self.past, new.shape[1])
                places = torch.where(fits, ends[:, None] - offsets, places)
            for some in to_device(places, like.device).split(options.batch_size) if len(places) else ():
                # The last batch is filled up, so that all have one shape.
                filled = torch.cat([some, some[-1:].expand(options.batch_size - len(some), -1)])
                with torch.no_grad():
                    outputs = self(history[:, filled].transpose(0, 1))  # (B, 3, T, h, w) -> (B, h, w)
                yield from map(StepOutput, group, outputs)
                group = group[len(some):]


class RecurrentModel(SaliencyModel):
    """A network that carries a state from frame to frame: `maps` takes the state, and returns the new one."""

    carries_state = True
    samples = "frames"

    def forward(self, clip: Tensor) -> Tensor:
        """Raw output, (B, h, w), for the last frame of a normalised clip, (B, 3, T, h, w), that begins a video."""
        return self.maps(clip)[0][:, -1]

    def maps(self, clip: Tensor, state=None) -> tuple[Tensor, object]:
        """Raw outputs of all frames.

        Args:
            clip: (B, 3, T, h, w), normalised; T = 1 or more.
            state: what the call before returned, None at a video's first frame; training cuts its gradient off.

        Returns:
            (B, T, h, w), and the new state: a tensor, or a tuple of tensors.
        """
        raise NotImplementedError(f"{type(self).__name__} needs maps(clip, state)")

    def all_maps(self, frames: Iterator[PreparedFrame], options: EngineOptions) -> Iterator[StepOutput]:
        """All steps: the state needs them. Of an interpolated step the last frame alone goes into it."""
        steps = steps_of(frames, 1, options.interpolate, window=1, whole=False)
        like, state = next(self.parameters()), None
        while group := list(itertools.islice(steps, options.batch_size)):
            clip = torch.stack([step[-1].pixels for step in group], dim=1)  # (3, frames, h, w)
            with torch.no_grad():
                outputs, state = self.maps(self.normalise(to_device(clip, like.device)[None]).to(like.dtype), state)
            yield from map(StepOutput, group, outputs[0])

    def blank(self) -> tuple[Tensor, ...]:
        return self.zeros(1, 3, 1)

    def training_module(self) -> nn.Module:
        return AllMaps(self)

    def training_outputs(self, module: nn.Module, inputs: list[Tensor], batch: dict, carried: Carried) -> Tensor:
        """Maps of a clip's annotated frames, (A, h, w); the state restarts with each video and after a missing clip."""
        clip, = inputs
        if (batch["number"], batch["first"]) != (carried.video, carried.next):
            carried.state = None
        carried.video, carried.next = batch["number"], batch["first"] + clip.shape[2]
        maps, state = module(clip, map_state(lambda t: t.to(clip.device), carried.state))
        carried.state = map_state(Tensor.detach, state)  # the gradient ends where the clip begins
        return maps[0, batch["annotated"]]

    def loss_outputs(self, outputs: tuple) -> tuple[Tensor, ...]:
        return outputs[:1]  # not the state

    @torch.no_grad()
    def state_shapes(self) -> tuple | None:
        size, device = self.config["frame_size"], next(self.parameters()).device
        frame = torch.zeros(1, 3, 1, *size, dtype=torch.uint8, device=device)
        return map_state(lambda t: tuple(t.shape), self.eval().maps(self.normalise(frame))[1])


class AllMaps(nn.Module):
    """A recurrent network as it is trained: a clip and the state in, all maps and the new state out."""

    def __init__(self, network: RecurrentModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor, state=None) -> tuple[Tensor, object]:
        return self.network.maps(clip, state)


class GroupModel(SaliencyModel):
    """A network that takes groups of `clip_len` consecutive frames, their flow, or both: (B T, 3, h, w) each."""

    samples = "frames"

    @property
    def maps_per_forward(self) -> int:
        return self.clip_len

    def all_maps(self, frames: Iterator[PreparedFrame], options: EngineOptions) -> Iterator[StepOutput]:
        """All steps, in groups that follow each other; the last frame fills the last one."""
        like = next(self.parameters())
        steps = steps_of(frames, 1, options.interpolate, window=1, whole=False)
        for _, of_one_shape in itertools.groupby(steps, key=lambda step: step[-1].pixels.shape):
            while group := list(itertools.islice(of_one_shape, options.batch_size * self.clip_len)):
                pictures = [step[-1].pixels for step in group]
                pictures += pictures[-1:] * (-len(pictures) % self.clip_len)
                parts = dict(zip(("frame", "flow"), to_device(torch.stack(pictures), like.device).split(3, dim=1)))
                with torch.no_grad():
                    outputs = self(*(self.normalise(parts[name]).to(like.dtype) for name in self.inputs))
                yield from map(StepOutput, group, self.main_output(outputs))

    def blank(self) -> tuple[Tensor, ...]:
        return self.zeros(self.clip_len, 3)

    @property
    def sampling(self) -> dict[str, int]:
        """Every annotated frame alone, in groups of unrelated ones."""
        return {"clip_len": 1, "every": 1, "group": self.clip_len}

    def batch_inputs(self, batch: dict, device: torch.device) -> list[Tensor]:
        """The frames of all clips of a batch, their flow, or both, (B T, 3, h, w) each, normalised."""
        keys = {"frame": "clip", "flow": "flow"}
        pictures = {name: batch[keys[name]].to(device, non_blocking=True) for name in dict.fromkeys(self.inputs)}
        ready = {name: self.normalise(x.transpose(1, 2).flatten(0, 1)) for name, x in pictures.items()}
        return [ready[name] for name in self.inputs]


# Steps of frames

def steps_of(frames: Iterator[PreparedFrame], first: int, length: int, window: int | None,
             whole: bool) -> Iterator[Step]:
    """`first` frames, then the others in steps of `length`: the last frame of each step is the network's to predict.

    Of a step's frames only the last `window` keep their pixels. Frames that remain in the end are a step of their own;
    where steps must be `whole`, one that ends with `NO_MAP`.
    """
    lead = next_step(frames, first, window)
    if len(lead) == first:
        yield lead
    while step := next_step(frames, length, window):
        yield step if len(step) == length or not whole else [*step, NO_MAP]


def next_step(frames: Iterator[PreparedFrame], length: int, window: int | None) -> Step:
    """The next `length` frames, or as many as there are; those that no window reaches without their pixels."""
    step = []
    for frame in itertools.islice(frames, length):
        step.append(frame)
        if window is not None and len(step) > window:
            step[-window - 1] = PreparedFrame(None, step[-window - 1].size)
    return step


def take(steps: Iterator[Step], count: int, frames: int) -> list[Step]:
    """The next `count` steps, and as many more as make `frames` frames."""
    group = list(itertools.islice(steps, count))
    while sum(map(len, group)) < frames and (more := list(itertools.islice(steps, count))):
        group += more
    return group


def map_state(function: Callable[[Tensor], object], state):
    """A recurrent network's state, None, a tensor or several, with a function applied to each of its tensors."""
    if isinstance(state, (tuple, list)):
        return tuple(map_state(function, part) for part in state)
    return state if state is None else function(state)


# What several networks share

def prepare_frame(frame: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Bring a frame to the network's size.

    Args:
        frame: (H, W, 3) uint8, RGB.
        size: (h, w) to resize to, with PIL's antialiased bilinear filter.

    Returns:
        (3, h, w) uint8: a quarter of what a normalised frame takes on its way to the device.
    """
    resized = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def stretch(saliency: Tensor) -> Tensor:
    """Min-max normalise a map, (H, W), to uint8; a constant one becomes 0."""
    low, high = saliency.min(), saliency.max()
    spread = torch.where(high > low, high - low, torch.ones_like(low))
    return ((saliency - low) / spread * 255).round().to(torch.uint8)


def rounded_to_8_bits(saliency: Tensor) -> Tensor:
    """A `quantise` that does not stretch: (H, W) in [0, 1] -> (H, W) uint8, times 255 and rounded."""
    return (saliency * 255).round().to(torch.uint8)


def truncated_to_8_bits(saliency: Tensor) -> Tensor:
    """A `quantise` that does not stretch: (H, W) in [0, 1] -> (H, W) uint8, times 255 and cut off."""
    return (255 * saliency).to(torch.uint8)


def gaussian_blur(maps: Tensor, weights: Tensor, repeat_edges: bool = False) -> Tensor:
    """Blur maps axis by axis, mirrored at the borders.

    Args:
        maps: (B, H, W) float.
        weights: (2 radius + 1,), which sum to one.
        repeat_edges: whether a mirrored axis repeats its border pixel: .. 1 0 0 1 .. instead of .. 2 1 0 1 ..

    Returns:
        (B, H, W).
    """
    radius, maps = len(weights) // 2, maps[:, None]
    if not repeat_edges and min(maps.shape[2:]) > radius:
        maps = F.pad(maps, (radius,) * 4, mode="reflect")
    else:
        height, width = (mirrored_indices(n, radius, repeat_edges, maps.device) for n in maps.shape[2:])
        maps = maps[:, :, height[:, None], width]  # (B, 1, H + 2 radius, W + 2 radius)
    return F.conv2d(F.conv2d(maps, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]


def mirrored_indices(length: int, margin: int, repeat_edges: bool, device: torch.device) -> Tensor:
    """Indices that continue an axis at both ends by mirroring it, as often as needed."""
    last = 2 * length - 1 if repeat_edges else max(1, 2 * length - 2)  # one pixel is continued by itself
    index = torch.arange(-margin, length + margin, device=device) % (last + repeat_edges)
    return torch.minimum(index, last - index) if length > 1 or repeat_edges else index


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """A context without autocast; nothing where there is none, which keeps exported graphs simple."""
    enabled = device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if enabled else contextlib.nullcontext()


def check_frame_size(frame_size: tuple[int, int], multiple: int) -> None:
    """Refuse sizes that a network cannot halve as often as it must; the message names the value."""
    if len(frame_size) != 2 or any(not multiple <= n <= 8192 or n % multiple or n != int(n) for n in frame_size):
        raise ValueError(f"frame_size must be (H, W), up to 8192 and both multiples of {multiple}, "
                         f"got {tuple(frame_size)}")


def check_frames(clip: Tensor, multiple: int, usual: tuple[int, int]) -> None:
    """Refuse what is not a clip of any length, (B, 3, T, h, w), of a size that a network can halve as it must."""
    if clip.ndim != 5 or clip.shape[1] != 3 or not clip.shape[2]:
        raise ValueError(f"clip must be (B, 3, T, h, w) with T = 1 or more, got {tuple(clip.shape)}")
    h, w = clip.shape[-2:]
    if h % multiple or w % multiple or not h or not w:
        raise ValueError(f"clip must have h and w divisible by {multiple}, got {h} x {w}: {tuple(clip.shape)}; "
                         f"resize the frames, the usual size is {usual[0]} x {usual[1]}")


def check_state(old: Tensor | None, new: Tensor) -> None:
    """Refuse a state that belongs to other frames: one of another number would be broadcast without a word."""
    if old is not None and old.shape != new.shape:
        raise ValueError(f"the state, {tuple(old.shape)}, belongs to frames of another number or size: needed here is "
                         f"{tuple(new.shape)}; start every video with None")
