"""Spatio-temporal saliency networks: one for the frame, one for a picture of its optical flow, and their fusion.

Frames go through one at a time. The released weights, `stsconvnet.caffemodel`, are read here, without Caffe.

Source: Bak, Kocak, Erdem, Erdem, "Spatio-Temporal Saliency Networks for Dynamic Saliency Prediction", IEEE Transactions
on Multimedia, 2018.
"""
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import utils
from baselines.resizing import resize_frame
from loss import Recipe
from saliency_model import GroupModel, check_frame_size, gaussian_blur, truncated_to_8_bits, without_autocast
from weights import local_file, read_configuration

# Caffe's layers: channels in, channels out, side of the kernel. Their names are those of state dicts; a second stream's
# end in _b.
STREAM = {"conv1": (3, 96, 7), "conv2": (96, 256, 5), "conv3": (256, 512, 3), "conv4": (512, 512, 5),
          "conv5": (512, 512, 5)}
TAIL = {"conv6": (512, 256, 7), "conv7": (256, 128, 11), "conv8": (128, 32, 11), "conv9": (32, 1, 13)}
POOLED = ("conv1", "conv2")  # a pooling follows these

MEAN, SCALE = (100, 110, 118), 0.0078431372549  # RGB, in levels; 2 / 255
DARK = -0.95                                    # raw output, 0.02 of a density map: as dark as those are on average
LARGEST, SMALLEST = 512, 4                      # sides of frames; two poolings leave nothing of 3 pixels
FLOW_KINDS = ("components", "wheel")            # of `optical_flow.PICTURES`, which this file need not load

OLD_LAYERS, LAYER = 2, 100                                # fields of Caffe's messages: NetParameter,
LAYER_NAME, LAYER_BLOBS = 1, 7                            # LayerParameter,
LEGACY_SHAPE, BLOB_DATA, BLOB_SHAPE = (1, 2, 3, 4), 5, 7  # BlobProto,
SHAPE_DIM = 1                                             # BlobShape
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5              # protobuf's wire types; 3 and 4, groups, Caffe never wrote
MOST_DIMS = 32                                            # Caffe's own limit


class Streams(GroupModel):
    """What the four networks share: streams of the same layers, their fusion, the tail; before and after the network.

    A network adds `forward` and, where it has two streams, `fuse`. What it starts from is our choice, for the release
    tells nothing of it: weights of Caffe's filler "xavier", biases of 0, but the last one such that the first map is
    dark, and bilinear enlargement.

    Args:
        frame_size: (H, W) that frames are resized to, any from 4 x 4, nominally 240 x 320; None: frames stay
            as they are, and only those with a side above 512 are shrunk to fit 512 x 512.
        others: further arguments of the network, for its `config`.
    """

    clip_len, takes_stills = 1, True  # each map needs its frame, and its flow, alone
    known_by, unlike = ("deconv1.weight",), ("conv5_b.weight", "conv_fuse.weight")
    recipe = Recipe(                  # loss and optimiser are the paper's, numbers ours
        optimizer="sgd", optimizer_options={"momentum": 0.9, "weight_decay": 5e-4},
        lr=4e-7,                      # for 240 x 320: the loss is a sum over pixels
        batch_size=2, loss="euclidean",
        flip=False,                   # a mirrored picture of flow is one of another flow
    )
    nominal_size = (240, 320)         # and that of training, where frames of a batch need one size
    validated_every = 32              # frames, as the others' clips of 32
    suffixes = ("",)                  # of the layers of each stream

    def __init__(self, frame_size: tuple[int, int] | None = None, **others) -> None:
        check_size(frame_size)
        super().__init__(frame_size, prepare_frame, **others)  # flow images are prepared like frames
        for suffix in self.suffixes:
            for name, shape in STREAM.items():
                self.add_module(name + suffix, convolution(*shape))
        for name, shape in TAIL.items():
            self.add_module(name, convolution(*shape))
        nn.init.constant_(self.conv9.bias, DARK)
        self.deconv1 = quadrupling()

    def run(self, **pictures: Tensor) -> Tensor:
        """Raw output, (B, H', W'), of one picture for each stream, (B, 3, h, w)."""
        check_pictures(**pictures)
        features = [self.stream(x, suffix) for x, suffix in zip(pictures.values(), self.suffixes)]
        return self.tail(self.fuse(*features))

    def stream(self, x: Tensor, suffix: str) -> Tensor:
        """conv1 to conv5 of one stream: (B, 3, h, w) to (B, 512, h', w'), with h' and w' about a quarter."""
        for name in STREAM:
            x = F.relu(self.get_submodule(name + suffix)(x), inplace=True)
            if name == "conv1":
                x = across_channels(x)
            if name in POOLED:
                # Without padding, PyTorch's ceil mode is Caffe's: ceil((n - 3) / 2) + 1 windows, the last one cut at
                # the border.
                x = F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True)
        return x

    def fuse(self, features: Tensor) -> Tensor:
        """One feature map of those of all streams; of one stream, its own."""
        return features

    def tail(self, x: Tensor) -> Tensor:
        """conv6 to deconv1: (B, 512, h', w') to (B, 4 h', 4 w'); the last two layers in float32, whatever came before.

        In bfloat16 the map would have few levels and many ties, which measures notice.
        """
        for name in list(TAIL)[:-1]:
            x = F.relu(self.get_submodule(name)(x), inplace=True)
        with without_autocast(x.device):
            return self.deconv1(self.conv9(x.to(self.conv9.weight.dtype)))[:, 0]

    def bfloat16(self) -> "Streams":
        """Half the memory and, where the hardware has it, more speed; the last two layers stay in float32."""
        super().bfloat16()
        self.conv9.float()
        self.deconv1.float()
        return self

    def normalise(self, frame: Tensor) -> Tensor:
        """Bring prepared frames, or flow images, to the network's range.

        Args:
            frame: (B, 3, h, w) or (B, 3, T, h, w) uint8, RGB, on any device.

        Returns:
            The same as float32, minus a mean colour, from about -0.93 to 1.22.
        """
        mean = torch.tensor(MEAN, dtype=torch.float32).to(frame.device, non_blocking=True)
        return (frame.float() - mean.view(3, *[1] * (frame.ndim - 2))) * SCALE

    def for_objective(self, output: Tensor) -> Tensor:
        """Raw output in the range of a density map, for the loss: not cut, resized or blurred."""
        return (128 * output.float() + 127) / 255

    def finish(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring raw output to levels and the frame's size, blur it, divide it by its maximum, as the authors do.

        Args:
            output: (B, h, w), what `forward` returned.
            size: (H, W) of the frame.

        Returns:
            (B, H, W) float32 in [0, 1]: times 128 plus 127, cut to 0 .. 255, resized as with OpenCV's INTER_CUBIC,
            blurred with its default 5 x 5 Gaussian, divided by each map's maximum (a map of zeros stays one).
        """
        with without_autocast(output.device):  # or the blur would round to bfloat16
            maps = (128 * output.float() + 127).clamp(0, 255)[:, None]
            if maps.shape[2:] != tuple(size):
                # Both take a = -0.75 and edge pixels.
                maps = F.interpolate(maps, size=tuple(size), mode="bicubic", align_corners=False)
            weights = torch.tensor([1, 4, 6, 4, 1], device=maps.device, dtype=maps.dtype) / 16
            maps = gaussian_blur(maps[:, 0], weights).clamp(0, 255)  # a cubic overshoots
        peaks = maps.amax(dim=(1, 2), keepdim=True)
        return maps / peaks.where(peaks > 0, 1)

    @classmethod
    def read_file(cls, path: str | Path) -> tuple[dict[str, Tensor], dict]:
        """As `SaliencyModel.read_file`, also of a `.caffemodel`."""
        file = local_file(path)
        if file.suffix != ".caffemodel":
            return super().read_file(path)
        if not file.is_file():
            raise FileNotFoundError(f"no weight file {file}: it {'is a folder' if file.is_dir() else 'does not exist'}")
        if mistaken := utils.mistaken_for(file):
            raise ValueError(f"{file} cannot be read as a weight file: it {mistaken}")
        return read_caffemodel(file), read_configuration(file.with_suffix(".json"))

    quantise = staticmethod(truncated_to_8_bits)  # as the authors' files hold maps


class FlowStreams(Streams):
    """A network that sees optical flow, as a picture.

    Args:
        frame_size: as in `Streams`; frames and flow images alike.
        flow_kind: how flow becomes a picture, which the authors' release leaves open: "components" or "wheel", the
            colour wheel (`optical_flow.PICTURES`). It changes nothing here: it tells whoever makes the pictures.
    """

    needs_flow = True

    def __init__(self, frame_size: tuple[int, int] | None = None, flow_kind: str = "components") -> None:
        if flow_kind not in FLOW_KINDS:
            raise ValueError(f"flow_kind must be one of {FLOW_KINDS}, got {flow_kind!r}")
        super().__init__(frame_size, flow_kind=flow_kind)
        self.flow_picture = flow_kind

    @classmethod
    def completed(cls, configuration: dict, changes: dict, entries: dict[str, Tensor], source: str) -> dict:
        """A described SSNet has TSNet's entries, and no kind of flow."""
        if configuration and "flow_kind" not in {**configuration, **changes}:
            raise ValueError(f"the configuration that belongs to {source} does not fit {cls.__name__}: it has no "
                             f"flow_kind, one of {FLOW_KINDS}, and is SSNet's where it was written by train.py; it is "
                             f"{configuration}")
        return super().completed(configuration, changes, entries, source)


class SSNet(Streams):
    """The spatial stream alone: a frame in, its saliency map out. 25.8 M parameters.

    Args:
        frame_size: as in `Streams`.
    """

    def __init__(self, frame_size: tuple[int, int] | None = None) -> None:
        super().__init__(frame_size)

    def forward(self, frame: Tensor) -> Tensor:
        """Predict the saliency map of a frame.

        Args:
            frame: (B, 3, h, w), as `normalise` returns it; h and w 4 or more.

        Returns:
            Raw output, (B, H', W'), not cut to a range, four times what two poolings leave: 240 x 320 stay, of 270 x
            480 come 268 x 480; `finish` makes a map of it.

        Raises:
            ValueError: the frame has another shape.
        """
        return self.run(frame=frame)


class TSNet(FlowStreams):
    """The temporal stream alone: the picture of a flow in, the saliency map of its frame out. 25.8 M parameters."""

    inputs = ("flow",)

    def forward(self, flow: Tensor) -> Tensor:
        """As `SSNet.forward`, of a flow image, (B, 3, h, w)."""
        return self.run(flow=flow)


class STSMaxNet(FlowStreams):
    """Two streams, fused by the larger of both at each place of each channel. 40.7 M parameters."""

    suffixes = ("", "_b")
    known_by, unlike = ("deconv1.weight", "conv5_b.weight"), ("conv_fuse.weight",)
    inputs = ("frame", "flow")

    def forward(self, frame: Tensor, flow: Tensor) -> Tensor:
        """Predict the saliency map of a frame.

        Args:
            frame: (B, 3, h, w), as `normalise` returns it; h and w 4 or more.
            flow: flow image, of the frame's shape, normalised alike.

        Returns:
            Raw output, (B, H', W'), as of `SSNet.forward`.

        Raises:
            ValueError: one of the two has another shape.
        """
        return self.run(frame=frame, flow=flow)

    def fuse(self, frame: Tensor, flow: Tensor) -> Tensor:
        """The larger of both, (B, 512, h', w')."""
        return torch.maximum(frame, flow)


class STSConvNet(STSMaxNet):
    """Two streams, fused by a learnt 1 x 1 convolution; the network whose weights were released. 41.2 M parameters."""

    known_by, unlike = ("deconv1.weight", "conv5_b.weight", "conv_fuse.weight"), ()
    authors_file = "stsconvnet.caffemodel"

    def __init__(self, frame_size: tuple[int, int] | None = None, flow_kind: str = "components") -> None:
        super().__init__(frame_size, flow_kind)
        channels = STREAM["conv5"][1]
        self.conv_fuse = convolution(2 * channels, channels, side=1)

    def fuse(self, frame: Tensor, flow: Tensor) -> Tensor:
        """A mixture of both without ReLU, (B, 512, h', w')."""
        return self.conv_fuse(torch.cat([frame, flow], dim=1))


def convolution(before: int, after: int, side: int) -> nn.Conv2d:
    """A convolution that keeps height and width and starts as Caffe's "xavier": within sqrt(3 / n inputs), biases 0.

    PyTorch's own weights are a third of that in variance: behind nine layers nothing is left of the picture, and hardly
    anything is learnt. He's are twice that: the loss would be so steep that only a hundredth of the rate were safe.
    """
    layer = nn.Conv2d(before, after, side, padding=side // 2)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
    nn.init.zeros_(layer.bias)
    return layer


def quadrupling() -> nn.ConvTranspose2d:
    """One channel made four times as high and wide by a learnt kernel, which starts as a bilinear one (our choice)."""
    layer = nn.ConvTranspose2d(1, 1, kernel_size=8, stride=4, padding=2, bias=False)
    slope = 1 - (torch.arange(8) - 3.5).abs() / 4  # 1/8 3/8 5/8 7/8 7/8 5/8 3/8 1/8
    with torch.no_grad():
        layer.weight.copy_(slope[:, None] * slope)
    return layer


def across_channels(x: Tensor) -> Tensor:
    """Local response normalisation across 5 channels; in float32, for bfloat16 would round almost every divisor to 1.

    PyTorch, like Caffe, divides alpha by the 5 channels, and counts those that the first and last ones lack as zeros.
    """
    return F.local_response_norm(x.float(), size=5, alpha=1e-4, beta=0.75, k=1.0).to(x.dtype)


# Before the network

def prepare_frame(frame: np.ndarray, size: tuple[int, int] | None) -> Tensor:
    """Bring a frame, or a flow image, to the network's size.

    Args:
        frame: (H, W, 3) uint8, RGB.
        size: (h, w) to resize to, with OpenCV's INTER_AREA; None: as `fitted` says, bilinearly.

    Returns:
        (3, h, w) uint8.
    """
    if size is None:
        return resize_frame(frame, fitted(*frame.shape[:2]), cv2.INTER_LINEAR)
    return resize_frame(frame, size)


def fitted(height: int, width: int) -> tuple[int, int]:
    """A frame's (H, W), scaled to a larger side of 512 where it is above, rounded; no side falls below 4."""
    scale = min(1, LARGEST / max(height, width))
    return max(SMALLEST, round(scale * height)), max(SMALLEST, round(scale * width))


def check_size(frame_size: tuple[int, int] | None) -> None:
    """Refuse sizes of which two poolings leave nothing; the message names the value."""
    if frame_size is None:
        return
    check_frame_size(frame_size, 1)
    if min(frame_size) < SMALLEST:
        raise ValueError(f"frame_size must be (H, W), both {SMALLEST} or more, got {tuple(frame_size)}")


def check_pictures(**pictures: Tensor) -> None:
    """Say what came and what is needed, before a convolution says it less clearly."""
    for name, x in pictures.items():
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < SMALLEST:
            raise ValueError(f"{name} must be (B, 3, h, w) with h and w {SMALLEST} or more, got {tuple(x.shape)}")
    shapes = {name: tuple(x.shape) for name, x in pictures.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"frame and flow must have the same shape, got {shapes}")


# Weight files

def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read the weights of a Caffe model: a protobuf message, of which only names, shapes and values are taken.

    Args:
        path: a file of Caffe 1 in its current format.

    Returns:
        Names ("conv1.weight", "conv1.bias") and tensors, float32; layers without weights are left out.

    Raises:
        ValueError: the file is damaged, of the older format, or something else; the message says where.
    """
    data = memoryview(path.read_bytes())
    entries = {}
    try:
        for number, wire, value, at in fields(data):
            if number == OLD_LAYERS and wire == BYTES:
                raise ValueError(f"what begins at byte {at} is a layer of the V1 format (`layers`): bring the file up "
                                 "to date with Caffe's upgrade_net_proto_binary")
            if number == LAYER and wire == BYTES:
                add_layer(entries, value, at)
        if not entries:
            raise ValueError("no layer with weights is in it")
    except ValueError as error:
        raise ValueError(f"{path} ({len(data)} bytes) cannot be read as a Caffe model: {error}. Was it interrupted "
                         "while it was written or downloaded, or is it another kind of file?") from error
    return entries


def add_layer(entries: dict[str, Tensor], data: memoryview, start: int) -> None:
    """Put a LayerParameter's weight and bias among the entries."""
    name, blobs = "", []
    for number, wire, value, at in fields(data, start):
        if (number, wire) == (LAYER_NAME, BYTES):
            name = bytes(value[:200]).decode(errors="replace")
        if (number, wire) == (LAYER_BLOBS, BYTES):
            blobs.append((value, at))
            if len(blobs) > 2:
                raise ValueError(f"layer {name!r} at byte {start} has more than a weight and a bias")
    for leaf, (blob, at) in zip(("weight", "bias"), blobs):
        if f"{name}.{leaf}" in entries:
            raise ValueError(f"layer {name!r} at byte {start} is not the first of this name")
        entries[f"{name}.{leaf}"] = read_blob(blob, at, f"{name}.{leaf}")


def read_blob(data: memoryview, start: int, name: str) -> Tensor:
    """The values of a BlobProto in its shape; an old bias, (1, 1, 1, N), as (N,)."""
    dims, legacy, values = None, {}, bytearray()
    for number, wire, value, at in fields(data, start):
        if (number, wire) == (BLOB_SHAPE, BYTES):
            dims = read_dims(value, at, dims or [])
        elif number in LEGACY_SHAPE and wire == VARINT:
            legacy[number] = value
        elif number == BLOB_DATA and wire in (BYTES, FIXED32):  # packed, or each value on its own
            values += value
    shape = [legacy.get(number, 0) for number in LEGACY_SHAPE] if dims is None else dims
    if 4 * math.prod(shape) != len(values) or 0 in shape:  # so no side exceeds what the file holds
        raise ValueError(f"{name} at byte {start} has shape {tuple(shape)} and {len(values)} bytes of values, expected "
                         "4 for each")
    if dims is None and name.endswith(".bias") and shape[:3] == [1, 1, 1]:
        shape = shape[3:]
    return torch.from_numpy(np.frombuffer(values, "<f4").astype(np.float32, copy=False).reshape(shape))


def read_dims(data: memoryview, start: int, dims: list[int]) -> list[int]:
    """The dimensions of a BlobShape, behind those before it."""
    dims = list(dims)
    for number, wire, value, at in fields(data, start):
        if (number, wire) == (SHAPE_DIM, VARINT):
            dims.append(value)
        elif (number, wire) == (SHAPE_DIM, BYTES):
            position = 0
            while position < len(value) and len(dims) <= MOST_DIMS:
                dim, position = varint(value, position, at)
                dims.append(dim)
        if len(dims) > MOST_DIMS:
            raise ValueError(f"the shape at byte {start} has more than {MOST_DIMS} dimensions")
    return dims


def fields(data: memoryview, start: int = 0) -> Iterator[tuple[int, int, int | memoryview, int]]:
    """The fields of a protobuf message, one after the other, whatever they mean; nothing is read beyond the message.

    Args:
        data: the message.
        start: where in the file it begins, for error messages.

    Yields:
        The field's number, its wire type, its value (a number, or bytes) and where in the file that begins.

    Raises:
        ValueError: this is not such a message, or it is cut off.
    """
    position = 0
    while position < len(data):
        at = start + position
        key, position = varint(data, position, start)
        number, wire = key >> 3, key & 7
        if not 0 < number < 2 ** 29 or wire not in (VARINT, FIXED64, BYTES, FIXED32):
            raise ValueError(f"at byte {at} is no field that Caffe writes, but number {number} of wire type {wire}")
        if wire == VARINT:
            value, position = varint(data, position, start)
            yield number, wire, value, at
            continue
        length, position = varint(data, position, start) if wire == BYTES else (8 if wire == FIXED64 else 4, position)
        if length > len(data) - position:
            raise ValueError(f"the field at byte {at} should have {length} bytes, but {len(data) - position} are left")
        yield number, wire, data[position:position + length], start + position
        position += length


def varint(data: memoryview, position: int, start: int) -> tuple[int, int]:
    """A number of 7 bits a byte, least significant first, in 10 bytes at most; and the position behind it."""
    number = 0
    for index, byte in enumerate(data[position:position + 10]):
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, position + index + 1
    left = len(data) - position
    raise ValueError(f"the number at byte {start + position} "
                     + ("has more than 10 bytes" if left >= 10 else f"is cut off after {left} bytes"))
