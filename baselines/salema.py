"""SalEMA and its siblings: SalGAN, a network for still pictures, given a memory that is carried from frame to frame.

Source: Linardos, Mohedano, Nieto, O'Connor, Giro-i-Nieto, McGuinness, "Simple vs complex temporal recurrences for video
saliency prediction", BMVC 2019; SalGAN: Pan et al., "SalGAN: Visual Saliency Prediction with Generative Adversarial
Networks", arXiv 1701.01081, 2017.
"""
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.resizing import resize_frame
from loss import Recipe
from saliency_model import (
    RecurrentModel,
    check_frame_size,
    check_frames,
    check_state,
    rounded_to_8_bits,
    without_autocast,
)
from weights import load_entries

State = Tensor | tuple[Tensor, ...] | None  # what is carried from frame to frame; None before the first

BGR_MEAN = (103.939, 116.779, 123.68)  # of ImageNet, in levels; no scaling follows
# VGG-16's convolutions; the decoder mirrors them.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
ENCODED, UPSAMPLED = 30, 56  # layers up to the encoder's end, and to the last upsampling
# Epoch -> the first of `salgan`'s layers that learns: none, the decoder's finer half, all of it, two encoder stages,
# all.
THAWED_FROM = {1: 62, 2: 44, 3: ENCODED, 4: 17, 5: 0}
ALPHA_RATE = 0.1  # learning rate of a learnt alpha: one number, with far to go


class FrameByFrame(RecurrentModel):
    """What the four networks share: frames and the state in, a saliency map for each frame and the new state out.

    A network adds `run`, `self.salgan` and, where it has any, layers of its own that do not come from SalGAN.

    Args:
        frame_size: (H, W) that frames are resized to, multiples of 16; the authors' is 192 x 256.
        others: further arguments of the network, for its `config`.
    """

    clip_len = 10  # in training: the state's past is cut off there
    known_by, unlike = ("salgan.0.weight",), ("Gates.weight", "final_convs.0.weight")
    abilities = ("thaw",)
    recipe = Recipe(  # the paper's; a step for every clip
        optimizer_options={"weight_decay": 1e-4}, lr=1e-7,
        epochs=10,    # ours. Thawed in epoch 5, then as many again
        loss_weights={"bce": 1.0},
    )
    start_file = Path("saved_models/SalGAN.pth")  # the paper's was trained on SALICON

    def __init__(self, frame_size: tuple[int, int], **others) -> None:
        check_frame_size(frame_size, 16)
        super().__init__(frame_size, resize_frame, **others)

    def run(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """`maps` with time in front: frames (T, B, 3, h, w) -> saliency maps (T, B, h, w), and the new state."""
        raise NotImplementedError

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Predict the saliency map of one frame.

        Args:
            frame: (B, 3, h, w), normalised; h and w multiples of 16.
            state: what the step before returned; None at the first frame of a video.

        Returns:
            Saliency map, (B, h, w), in (0, 1), it does not sum to one; and the new state.

        Raises:
            ValueError: the frame has another shape, or the state belongs to frames of another size or number.
        """
        if frame.ndim != 4:
            raise ValueError(f"frame must be (B, 3, h, w), got {tuple(frame.shape)}")
        maps, state = self.maps(frame.unsqueeze(2), state)
        return maps[:, 0], state  # (B, h, w)

    def maps(self, clip: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Predict the maps of all frames of a clip; what does not depend on the state is computed for all at once.

        Args:
            clip: (B, 3, T, h, w), normalised; T = 1 or more, h and w multiples of 16.
            state: of the clip before; in training without its past, so that the gradient stays within a clip.

        Returns:
            Saliency maps, (B, T, h, w), in (0, 1); and the state after the last frame.

        Raises:
            ValueError: the clip has another shape, or the state belongs to another.
        """
        check_frames(clip, 16, (192, 256))
        maps, state = self.run(clip.movedim(2, 0), state)  # (T, B, h, w)
        return maps.transpose(0, 1), state                 # (B, T, h, w)

    def bfloat16(self) -> "FrameByFrame":
        """Half the memory and, where the hardware has it, more speed; the last convolution stays in float32."""
        super().bfloat16()
        for module in self.modules():
            if isinstance(module, Readout):
                module.float()
        return self

    def normalise(self, clip: Tensor) -> Tensor:
        """Bring a clip of prepared frames to the network's range and order of colours.

        Args:
            clip: (B, 3, T, h, w) uint8, RGB, on any device.

        Returns:
            The same as float32, BGR, minus VGG's mean; in levels, from about -124 to 151.
        """
        mean = torch.tensor(BGR_MEAN).to(clip.device, non_blocking=True).view(3, 1, 1, 1)
        return clip.flip(1).float() - mean

    def finish(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring raw output to the range and the size of the frame's map.

        The authors stop before the resize and keep maps at the network's size: give that as `size` for theirs.

        Args:
            output: (B, h, w), what `forward` returned.
            size: (H, W) of the frame.

        Returns:
            (B, H, W) float32 in [0, 1]: each map min-max normalised (a constant one: zeros), then resized bilinearly.
        """
        output = output.float()
        low, high = output.amin((1, 2), keepdim=True), output.amax((1, 2), keepdim=True)
        spread = torch.where(high == low, torch.ones_like(low), high - low)
        maps = (output - low) / spread  # (B, h, w)
        return maps if maps.shape[1:] == tuple(size) else super().finish(maps, size)

    quantise = staticmethod(rounded_to_8_bits)  # as the authors' files hold maps

    def parameter_groups(self, lr: float) -> list[dict]:
        """What Adam gets: all parameters with weight decay; a learnt alpha with a rate of its own and no decay.

        Parameters that `thaw` holds frozen are among them: Adam passes over what has no gradient, and they may thaw.

        Args:
            lr: learning rate of all but alpha.
        """
        named = dict(self.named_parameters())
        alpha = named.pop("alpha", None)
        groups = [{"params": list(named.values()), "lr": lr,
                   "weight_decay": self.recipe.optimizer_options["weight_decay"]}]
        return groups if alpha is None else [*groups, {"params": [alpha], "lr": ALPHA_RATE, "weight_decay": 0.0}]

    def thaw(self, epoch: int) -> None:
        """Set which layers learn in an epoch, for training that thaws what came from SalGAN gradually (optional).

        The paper's schedule: all of it frozen in epoch 1, then from the end towards the front, everything from epoch 5.
        How much in between is our choice: from epoch 2 the decoder's last three stages, from 3 the whole decoder, from
        4 the encoder's last two stages. A network with nothing else that could learn (SalGAN, a constant alpha) starts
        with epoch 2's share.

        Args:
            epoch: counted from 1.

        Raises:
            ValueError: there is no such epoch.
        """
        if epoch < 1:
            raise ValueError(f"epochs count from 1, got {epoch}")
        has_others = any(not name.startswith("salgan.") for name, _ in self.named_parameters())
        first = THAWED_FROM[min(max(epoch, 1 if has_others else 2), max(THAWED_FROM))]
        for index, layer in enumerate(self.salgan):
            layer.requires_grad_(index >= first)

    def load_start(self, entries: dict[str, Tensor], source: str) -> list[str]:
        """Start from SalGAN, which was trained on still pictures; layers that it does not have stay as they are.

        Args:
            entries: of a SalGAN state dict, as `read_weights` gives them.
            source: where they come from, for messages.

        Returns:
            Names of the entries that this network has no use for.

        Raises:
            ValueError: an entry of a shared layer is missing or of another shape; the message names it.
        """
        own = self.state_dict()
        shared = [name for name in own if name.startswith("salgan.")]
        others = {name: t for name, t in own.items() if name not in shared}
        load_entries(self, {**others, **{name: entries[name] for name in shared if name in entries}}, source)
        return [name for name in entries if name not in shared]


class SalGAN(FrameByFrame):
    """One frame in, its saliency map out: no memory, its state is None. 31.8 M parameters.

    Args:
        frame_size: (H, W) that frames are resized to, multiples of 16.

    Source: Pan et al. 2017; here the start of the others.
    """

    def __init__(self, frame_size: tuple[int, int] = (192, 256)) -> None:
        super().__init__(frame_size)
        self.salgan = nn.Sequential(*salgan_layers())

    def run(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
        """As in `FrameByFrame.run`; the state is None, whatever it was."""
        return of_each(self.salgan, frames)[:, :, 0], None  # (T, B, h, w)


class SalEMA(FrameByFrame):
    """SalGAN with an exponential moving average over time of one layer's output. 31.8 M parameters.

    s_t = a layer(x_t) + (1 - a) s_{t-1}, with a = sigmoid(alpha), and s_1 = layer(x_1).

    Args:
        alpha: "learnt" (a parameter that starts at 0.25), or a number, a constant that no state dict holds; both go
            through the sigmoid: 0.1 gives a = 0.525.
        ema_loc: the layer that is averaged, 0 to 61, 30 being the first of the decoder. Or a pair of them, rising: the
            variant with two, which takes alpha itself for a (a constant one must lie in [0, 1]) and carries what it
            passes on.
        residual: add the averaged layer's input to what it passes on; the layer must keep its input's shape.
        dropout: in training, zero half of the channels of the averaged layer's input, after the residual is taken.
        frame_size: (H, W) that frames are resized to, multiples of 16; the authors' is 192 x 256.

    Raises:
        ValueError: the network cannot be built from such values; the message names them.

    Source: Linardos et al. 2019.
    """

    authors_file = "SalEMA30.pt"

    def __init__(self, alpha: float | str = "learnt", ema_loc: int | tuple[int, int] = 30, residual: bool = False,
                 dropout: bool = False, frame_size: tuple[int, int] = (192, 256)) -> None:
        described = list(ema_loc) if isinstance(ema_loc, tuple) else ema_loc
        super().__init__(frame_size, alpha=alpha, ema_loc=described, residual=residual, dropout=dropout)
        check_switches(residual=residual, dropout=dropout)
        self.residual, self.dropout = residual, dropout
        layers = salgan_layers()
        self.locations = checked_locations(ema_loc, len(layers))
        check_alpha(alpha, plain=len(self.locations) == 2)
        for location in self.locations if residual else ():
            check_residual(layers[location], location)
        if alpha == "learnt":
            self.alpha = nn.Parameter(torch.tensor([0.25]))
        else:  # moves with the network, but is in no state dict
            self.register_buffer("alpha", torch.tensor([float(alpha)]), persistent=False)
        self.salgan = nn.Sequential(*layers)

    def run(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """As in `FrameByFrame.run`; the state is the averaged layer's, of its output's shape, or a tuple of two."""
        carried = dict(zip(self.locations, self.unpacked(state)))
        x = frames
        for index, layer in enumerate(self.salgan):
            if index in carried:
                x, carried[index] = self.average(layer, x, carried[index])
            else:
                x = of_each(layer, x)
        return x[:, :, 0], self.packed(tuple(carried.values()))  # (T, B, h, w)

    def average(self, layer: nn.Module, inputs: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """A layer and its moving average: what goes on, (T, B, C, h', w'), and what is carried, (B, C, h', w')."""
        training = self.training and self.dropout
        outputs = of_each(lambda x: layer(F.dropout2d(x, p=0.5, training=training)), inputs)
        check_state(carried, outputs[0])
        a, passed = self.weight_of_the_new, []
        for x, new in zip(inputs, outputs):
            s = new if carried is None else a * new + (1 - a) * carried  # s_t
            if carried is None and self.training:
                s = s + 0 * a  # a video of one frame has a gradient for alpha too
            passed.append(s + x if self.residual else s)
            carried = s if len(self.locations) == 1 else passed[-1]
        return torch.stack(passed), carried

    @property
    def weight_of_the_new(self) -> Tensor:
        """a, (1,): sigmoid(alpha), or alpha itself in the variant with two locations."""
        return torch.sigmoid(self.alpha) if len(self.locations) == 1 else self.alpha

    def unpacked(self, state: State) -> tuple:
        """The state of each location."""
        if state is None:
            return (None,) * len(self.locations)
        states = (state,) if isinstance(state, Tensor) else tuple(state)
        if len(states) != len(self.locations):
            raise ValueError(f"the state must hold one tensor for each of the layers {self.locations}, got "
                             f"{len(states)}")
        return states

    def packed(self, states: tuple[Tensor, ...]) -> State:
        """The state as it is carried: a tensor, or a tuple of two."""
        return states[0] if len(states) == 1 else states

    @classmethod
    def completed(cls, configuration: dict, changes: dict, entries: dict[str, Tensor], source: str) -> dict:
        """The entries tell alpha where it was learnt. Without one they are those of SalGAN: a default would make
        plausible maps of the wrong network.

        Raises:
            ValueError: neither they nor the configuration tell.
        """
        config = {**configuration, **changes}
        if "alpha" in entries:
            return {"alpha": "learnt", **config}
        if config.get("alpha", "learnt") == "learnt":
            remedy = ('put {"configuration": {"alpha": 0.1}} into the .json beside the file, or call '
                      "SalEMA.from_pretrained(path, alpha=0.1)")
            raise ValueError(f"{source} has no alpha: it holds SalGAN (--model salgan), or SalEMA with a constant "
                             f"alpha, whose number is needed: {remedy}")
        return config


class SalCLSTM30(FrameByFrame):
    """SalGAN with a convolutional LSTM between its encoder and its decoder. 50.7 M parameters.

    Args:
        residual: add the encoder's output to the cell that goes on.
        frame_size: (H, W) that frames are resized to, multiples of 16; the authors' is 192 x 256.

    Source: Linardos et al. 2019.
    """

    known_by, unlike = ("salgan.0.weight", "Gates.weight"), ("final_convs.0.weight",)

    def __init__(self, residual: bool = False, frame_size: tuple[int, int] = (192, 256)) -> None:
        super().__init__(frame_size, residual=residual)
        check_switches(residual=residual)
        self.residual = residual
        self.salgan = nn.Sequential(*salgan_layers())
        self.Gates = gates(STAGES[-1][-1])

    def run(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """As in `FrameByFrame.run`; the state is (hidden, cell), both (B, 512, h / 16, w / 16)."""
        encoded = of_each(self.salgan[:ENCODED], frames)  # (T, B, 512, h/16, w/16)
        cells, state = conv_lstm(self.Gates, encoded, state)
        decoded = of_each(self.salgan[ENCODED:], cells + encoded if self.residual else cells)
        return decoded[:, :, 0], state  # (T, B, h, w)


class SalCLSTM56(FrameByFrame):
    """SalGAN with a convolutional LSTM after its last upsampling. 33.0 M parameters.

    Args:
        frame_size: (H, W) that frames are resized to, multiples of 16; the authors' is 192 x 256.

    Source: Linardos et al. 2019.
    """

    known_by, unlike = ("salgan.0.weight", "Gates.weight", "final_convs.0.weight"), ()

    def __init__(self, frame_size: tuple[int, int] = (192, 256)) -> None:
        super().__init__(frame_size)
        layers = salgan_layers()
        self.salgan = nn.Sequential(*layers[:UPSAMPLED])
        self.Gates = gates(STAGES[1][-1])
        self.final_convs = nn.Sequential(*layers[UPSAMPLED:])  # SalGAN's shapes, but not its weights

    def run(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """As in `FrameByFrame.run`; the state is (hidden, cell), both (B, 128, h, w)."""
        features = of_each(self.salgan, frames)                  # (T, B, 128, h, w)
        cells, state = conv_lstm(self.Gates, features, state)
        return of_each(self.final_convs, cells)[:, :, 0], state  # (T, B, h, w)


class Readout(nn.Conv2d):
    """The last convolution, always in float32: in bfloat16 a map would have few levels and many ties."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):
            return super().forward(x.to(self.weight.dtype))


def salgan_layers() -> list[nn.Module]:
    """SalGAN's 62 layers: VGG-16 without its last pool, its mirror, the readout. State dicts hold their positions."""
    encoder = convolutions(STAGES, 3, lambda: nn.MaxPool2d(2))
    with torch.no_grad():
        encoder[0].weight /= 64  # whose input is levels, not numbers around 1
    decoder = convolutions(reversed(STAGES), STAGES[-1][-1], lambda: nn.Upsample(scale_factor=2, mode="nearest"))
    return [*encoder, *decoder, Readout(STAGES[0][-1], 1, kernel_size=1), nn.Sigmoid()]


def convolutions(stages: Iterable[tuple[int, ...]], channels: int, between: Callable[[], nn.Module]) -> list[nn.Module]:
    """Stages of 3 x 3 convolutions, each with a ReLU, and a layer between one stage and the next."""
    layers = []
    for stage in stages:
        for width in stage:
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU()]
            # Our choice: PyTorch's own fades out over 26 layers.
            nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
            channels = width
        layers.append(between())
    return layers[:-1]


def gates(channels: int) -> nn.Conv2d:
    """The convolution of a ConvLSTM: from input and hidden state to in, forget, out and cell."""
    return nn.Conv2d(2 * channels, 4 * channels, kernel_size=3, padding=1)


def of_each(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a layer of pictures makes of (T, B, C, h, w), all of them at once."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def conv_lstm(gates: nn.Conv2d, inputs: Tensor,
              state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A convolutional LSTM over (T, B, C, h', w'): the cells, of the same shape, and the last (hidden, cell)."""
    hidden, cell = (torch.zeros_like(inputs[0]), torch.zeros_like(inputs[0])) if state is None else state
    check_state(cell, inputs[0])
    cells = []
    for x in inputs:
        into, forget, out, candidate = gates(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(candidate)
        hidden = torch.sigmoid(out) * torch.tanh(cell)
        cells.append(cell)
    return torch.stack(cells), (hidden, cell)


def check_switches(**switches) -> None:
    """Refuse what is neither True nor False; the message names it."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")


def checked_locations(ema_loc: int | tuple[int, int], count: int) -> tuple[int, ...]:
    """The layers that are averaged, one or two; a ValueError where there are no such layers."""
    pair = isinstance(ema_loc, (list, tuple))
    locations = tuple(ema_loc) if pair else (ema_loc,)
    present = all(type(n) is int and 0 <= n < count for n in locations)  # True and False are not layers
    if not present or (pair and (len(locations) != 2 or locations[0] >= locations[1])):
        raise ValueError(f"ema_loc must be a layer's number, 0 to {count - 1}, or two of them, rising, got {ema_loc}")
    return locations


def check_alpha(alpha: float | str, plain: bool) -> None:
    """Refuse an alpha that is not a number or, taken as it is, not a weight; the message names it."""
    if alpha == "learnt":
        return
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ValueError(f"alpha must be \"learnt\" or a number, got {alpha!r}")
    if plain and not 0 <= alpha <= 1:
        raise ValueError("alpha must lie in [0, 1] where two layers are averaged, for it is not put through a sigmoid "
                         f"there, got {alpha}")


def check_residual(layer: nn.Module, location: int) -> None:
    """Refuse a residual around a layer whose output has another shape than its input, or has to stay in (0, 1)."""
    if not isinstance(layer, nn.ReLU) and not (isinstance(layer, nn.Conv2d)
                                               and layer.in_channels == layer.out_channels):
        raise ValueError(f"residual needs a layer whose output its input can be added to, and layer {location} of "
                         f"ema_loc is {layer}")
