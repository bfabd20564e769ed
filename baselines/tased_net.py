"""TASED-Net: the S3D encoder of 3-D convolutions, and a decoder that unpools to where the encoder's maxima were.

Source: Min, Corso, "TASED-Net: Temporally-Aggregating Spatial Encoder-Decoder Network for Video Saliency Detection",
ICCV 2019.
"""
import functools
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.resizing import resize_frame
from loss import Recipe
from model import check_clip, check_frame_stride
from saliency_model import WindowModel, check_frame_size, gaussian_blur, truncated_to_8_bits, without_autocast
from weights import load_pretrained_part

# Widths of the Mixed blocks: 3b and 3c, 4b to 4f, 5b and 5c of S3D. Attributes of modules are the authors' names in
# state dicts.
MIXED_BLOCKS = {
    "base2": [(64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)],
    "base3": [(192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
              (112, 144, 288, 32, 64, 64),
              (256, 160, 320, 32, 128, 128)],
    "base4": [(256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)],
}
# Where each part begins in the one sequence, `base`, of S3D's own weight file; pooling layers between the parts count.
PARTS_OF_S3D = {"base1": 0, "base2": 5, "base3": 8, "base4": 14}

# Poolings that halve height and width.
OVERLAPPING = {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)}
APART = {"kernel_size": (1, 2, 2), "stride": (1, 2, 2)}

ENCODER_RATE = 0.01              # of `lr`: the encoder knows Kinetics already; its rate stays constant
BLUR_SIGMA, BLUR_RADIUS = 7, 28  # scipy cuts its Gaussian off at 4 sigma


class TASEDNet(WindowModel):
    """A clip of 32 frames in, the saliency map of its last frame out.

    The published network has 21.3 M parameters. State dicts carry the authors' names: their `TASED_updated.pt` loads
    strictly here, and ours loads in their code.

    Args:
        frame_size: (H, W) that frames are resized to, multiples of 32; the authors' is 224 x 384.
        frame_stride: frames of the video from one frame of a clip to the next.
    """

    clip_len = 32                                         # fixed by the network: 32 -> 16 -> 8 -> 4 -> 2 -> 1
    first_frames = "mirror"                               # the first 31 maps come from time-reversed windows
    known_by, authors_file = ("base1.0.conv_s.weight", "convtsp4.13.weight"), "TASED_updated.pt"
    onnx_differs = True                                   # rounding moves some maxima, and what is unpooled with them
    recipe = Recipe(                                      # the paper's
        optimizer="sgd", optimizer_options={"momentum": 0.9, "weight_decay": 2e-7},
        lr=0.1,                                           # of the decoder, which starts from nothing
        milestones=(750, 950), gamma=0.1,                 # the decoder's rate falls after so many updates
        batch_size=8, accumulate=5,                       # 40 clips an update, as many as fit at a time
        gradients="summed",                               # over the 5 batches: `lr` belongs to the sum
        epochs=67,                                        # 1000 updates of 40 clips, one of each of 600 videos
        val_every=3,                                      # ours; the authors keep the last weights
        flip=True,
        kl_over="batch",                                  # normalised over all 8 maps: busy maps weigh more
    )
    start_file = Path("saved_models/S3D_kinetics400.pt")  # torchvision's S3D has other names for its parts

    def __init__(self, frame_size: tuple[int, int] = (224, 384), frame_stride: int = 1) -> None:
        # The encoder halves five times, and the decoder doubles as often: what does not divide by 32 would come out at
        # another size.
        check_frame_size(frame_size, 32)
        check_frame_stride(frame_stride)
        prepare = functools.partial(resize_frame, interpolation=cv2.INTER_LINEAR)  # OpenCV's default
        super().__init__(frame_size, prepare, frame_stride=frame_stride)
        self.frame_stride = frame_stride
        self.base1 = nn.Sequential(
            SeparableConv(3, 64, side=7, stride=2), nn.MaxPool3d(**OVERLAPPING), PointConv(64, 64),
            SeparableConv(64, 192, side=3),
        )
        self.base2 = mixed_blocks(192, MIXED_BLOCKS["base2"])
        self.base3 = mixed_blocks(480, MIXED_BLOCKS["base3"])
        self.base4 = mixed_blocks(832, MIXED_BLOCKS["base4"])
        self.convtsp1 = nn.Sequential(*rectified(nn.Conv3d(1024, 1024, 1, bias=False)),
                                      *rectified(transposed(1024, 832)))
        self.convtsp2 = nn.Sequential(*rectified(transposed(832, 480)))
        self.convtsp3 = nn.Sequential(*rectified(transposed(480, 192)))
        self.convtsp4 = readout()

    def forward(self, clip: Tensor) -> Tensor:
        """Predict the saliency map of the last frame of a clip.

        Args:
            clip: (B, 3, T, H, W), RGB, as `normalise` returns it; T = 32, H and W divisible by 32.

        Returns:
            Saliency map, (B, H, W), in (0, 1); `finish` makes of it what the authors save and score.

        Raises:
            ValueError: the clip has another shape.
        """
        check_clip(clip, self.clip_len)
        fine = self.base1(clip)  # (B, 192, 16, H/4, W/4)
        middle = self.base2(F.max_pool3d(fine, **OVERLAPPING))  # (B, 480, 16, H/8, W/8)
        coarse = self.base3(F.max_pool3d(middle, 3, stride=2, padding=1))  # (B, 832, 8, H/16, W/16)
        coarse, where = max_pool(coarse, 2, APART)  # (B, 832, 4, H/32, W/32)
        x = self.convtsp1(self.base4(coarse))  # (B, 832, 4, H/32, W/32)
        x = self.convtsp2(max_unpool(x, where))  # (B, 480, 4, H/16, W/16)
        _, where = max_pool(middle, 4, OVERLAPPING)  # only the maxima's places: (B, 480, 4, H/16, W/16)
        x = self.convtsp3(max_unpool(x, where))  # (B, 192, 4, H/8, W/8)
        _, where = max_pool(fine, 4, OVERLAPPING)  # (B, 192, 4, H/8, W/8)
        x = self.convtsp4[:-2](max_unpool(x, where))  # (B, 4, 1, H, W)
        return self.read_out(x)[:, 0, 0]  # (B, H, W)

    def read_out(self, x: Tensor) -> Tensor:
        """The last convolution and the sigmoid, in their own precision, float32, whatever came before.

        In bfloat16 the map would have 128 levels between two powers of 2, and `finish` cuts to others than these.
        """
        last = self.convtsp4[-2:]
        with without_autocast(x.device):
            return last(x.to(last[0].weight.dtype))  # (B, 1, 1, H, W)

    def bfloat16(self) -> "TASEDNet":
        """Half the memory; the last convolution stays in float32. Maxima that rounding moves are unpooled elsewhere."""
        super().bfloat16()
        self.convtsp4[-2:].float()
        return self

    def normalise(self, clip: Tensor) -> Tensor:
        """Bring a clip of prepared frames to the network's range.

        Args:
            clip: (B, 3, T, h, w) uint8, RGB, on any device.

        Returns:
            The same as float32, in [-1, 1].
        """
        return (2 * clip.float() - 255) / 255

    def finish(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Blur raw output and stretch it to its maximum, as the authors do, and bring it to the frame's own size.

        The authors save maps at the network's size and leave resizing to whoever scores them.

        Args:
            output: (B, h, w), what `forward` returned.
            size: (H, W) of the frame.

        Returns:
            (B, H, W) float32 in [0, 1]: cut to steps of 1/255, blurred with a Gaussian of sigma 7, divided by each
            map's maximum (a map of zeros stays one), resized bilinearly.
        """
        with without_autocast(output.device):  # or the blur would round to bfloat16
            maps = (255 * output.float()).trunc() / 255
            maps = gaussian_blur(maps, blur_weights(maps), repeat_edges=True)
        peaks = maps.amax(dim=(1, 2), keepdim=True)
        maps = maps / peaks.where(peaks > 0, 1)
        return maps if maps.shape[1:] == tuple(size) else super().finish(maps, size)

    quantise = staticmethod(truncated_to_8_bits)  # as the authors' files hold maps

    def parameter_groups(self, lr: float) -> list[dict]:
        """What SGD gets: the encoder, at a hundredth of `lr`, and the decoder.

        Returns:
            Two groups of the parameters that receive a gradient. "scheduled" tells whether the group's rate falls at
            the recipe's milestones.
        """
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return [
            {"params": [p for name, p in named if name.startswith("base")], "lr": lr * ENCODER_RATE,
             "scheduled": False},
            {"params": [p for name, p in named if not name.startswith("base")], "lr": lr, "scheduled": True},
        ]

    def load_start(self, entries: dict[str, Tensor], source: str) -> list[str]:
        """Fill the encoder with S3D's weights.

        Args:
            entries: names and tensors of `S3D_kinetics400.pt`, `base.0.conv_s.weight` and so on.
            source: where they come from, for the error message.

        Returns:
            The names of the entries that have no place here: the classifier's, `fc.*`.

        Raises:
            ValueError: an entry of the encoder is missing, or of another shape; the message names it.
        """
        names = {ours: name_in_s3d(ours) for ours in self.state_dict() if ours.startswith("base")}
        return load_pretrained_part(self, names, entries, "S3D encoder", source)


class PointConv(nn.Module):
    """A convolution of 1 x 1 x 1, batch normalisation, ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, after, 1, bias=False)
        self.bn = batch_norm(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class SeparableConv(nn.Module):
    """A convolution over space and one over time, each with batch normalisation and ReLU: `side` cubed in two steps."""

    def __init__(self, before: int, after: int, side: int, stride: int = 1) -> None:
        super().__init__()
        pad = side // 2
        self.conv_s = nn.Conv3d(before, after, (1, side, side), stride=(1, stride, stride), padding=(0, pad, pad),
                                bias=False)
        self.bn_s = batch_norm(after)
        self.conv_t = nn.Conv3d(after, after, (side, 1, 1), stride=(stride, 1, 1), padding=(pad, 0, 0), bias=False)
        self.bn_t = batch_norm(after)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn_s(self.conv_s(x)), inplace=True)
        return F.relu(self.bn_t(self.conv_t(x)), inplace=True)


class Mixed(nn.Module):
    """Four views of (B, before, T, H, W), put side by side: (B, a + c + e + f, T, H, W)."""

    def __init__(self, before: int, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        super().__init__()
        self.width = a + c + e + f
        self.branch0 = nn.Sequential(PointConv(before, a))
        self.branch1 = nn.Sequential(PointConv(before, b), SeparableConv(b, c, side=3))
        self.branch2 = nn.Sequential(PointConv(before, d), SeparableConv(d, e, side=3))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), PointConv(before, f))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], dim=1)


def mixed_blocks(before: int, table: list[tuple]) -> nn.Sequential:
    """Mixed blocks one after the other, each taking in what the last gave out."""
    blocks = []
    for widths in table:
        blocks.append(Mixed(before, *widths))
        before = blocks[-1].width
    return nn.Sequential(*blocks)


def batch_norm(width: int) -> nn.BatchNorm3d:
    """As S3D has it: its running averages reach back some thousand batches, for batches are small."""
    return nn.BatchNorm3d(width, eps=1e-3, momentum=1e-3)


def rectified(conv: nn.Module) -> list[nn.Module]:
    """A convolution with batch normalisation and ReLU behind it."""
    return [conv, batch_norm(conv.out_channels), nn.ReLU(inplace=True)]


def transposed(before: int, after: int, stride: int = 1) -> nn.ConvTranspose3d:
    """A transposed convolution over space, which makes height and width `stride` times as large, 1 or 2."""
    side = stride + 2  # what keeps sizes whole at padding 1
    return nn.ConvTranspose3d(before, after, (1, side, side), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)


def over_time(width: int) -> nn.Conv3d:
    """A convolution that makes one frame of two."""
    return nn.Conv3d(width, width, (2, 1, 1), stride=(2, 1, 1), bias=False)


def readout() -> nn.Sequential:
    """(B, 192, 4, H/4, W/4) to one map, (B, 1, 1, H, W) in (0, 1): time 4 -> 2 -> 1, height and width times 2 twice."""
    return nn.Sequential(
        *rectified(transposed(192, 64, stride=2)), *rectified(over_time(64)),
        *rectified(nn.ConvTranspose3d(64, 4, 1, bias=False)), *rectified(over_time(4)),
        transposed(4, 4, stride=2), nn.Conv3d(4, 1, 1), nn.Sigmoid(),
    )


def max_pool(x: Tensor, frames: int, pooling: dict) -> tuple[Tensor, Tensor]:
    """Maxima of (B, C, T, H, W) over every `frames` frames, then over space, and where they were, for `max_unpool`."""
    x = F.max_pool3d(x, (frames, 1, 1))
    return F.max_pool3d(x, **pooling, return_indices=True)


def max_unpool(x: Tensor, where: Tensor) -> Tensor:
    """Put (B, C, T, H, W) where the maxima were in a map twice as high and wide, zeros elsewhere.

    Overlapping windows can share a maximum: there the last one stays. PyTorch's own unpooling, which the authors use,
    leaves it to chance which one does, on GPUs and on CPUs of several threads, and hands a gradient to all of them.
    """
    frames, height, width = x.shape[2:]
    where, numbers = where.flatten(2), torch.arange(frames * height * width, device=x.device).expand(*x.shape[:2], -1)
    last = numbers.new_full((*x.shape[:2], 4 * numbers.shape[2]), -1).scatter_reduce(2, where, numbers, "amax")
    placed = x.flatten(2).gather(2, last.clamp(min=0)).masked_fill(last < 0, 0)
    return placed.unflatten(2, (frames, 2 * height, 2 * width))


def blur_weights(like: Tensor) -> Tensor:
    """The weights of `scipy.ndimage.gaussian_filter` with sigma 7, (57,), of the type and on the device of maps."""
    places = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=like.device, dtype=like.dtype)
    weights = torch.exp(-places ** 2 / (2 * BLUR_SIGMA ** 2))
    return weights / weights.sum()


def name_in_s3d(name: str) -> str:
    """What S3D's own file calls an entry of the encoder: base2.1.branch0.. is base.6.branch0.."""
    part, position, rest = name.split(".", 2)
    return f"base.{PARTS_OF_S3D[part] + int(position)}.{rest}"
