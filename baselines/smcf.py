"""SMCF: three ResNet-50 trunks (frames, optical flow, both merged), self-attention over groups of frames, two decoders.

It finds salient objects, with sharp edges, where the other networks predict where people look.
The measures for such maps are in scoring/salient_objects.py.

Source: Yang, Mu, Guo, Hu, Wang, "Video salient object detection via self-attention-guided multilayer cross-stack
fusion", 2023.
"""
import itertools
import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss import Recipe
from saliency_model import GroupModel, check_frame_size, prepare_frame, rounded_to_8_bits, without_autocast
from weights import load_entries, load_pretrained_part

# Attributes of modules are the authors' names in state dicts, which also number what is alike.
RGB, FLOW, MERGED = "_rgb", "_flow", ""  # suffixes of the trunks' parts
GROWTH = (1, 4, 8, 16, 32)  # channels of a trunk's stem and its four levels, in those of the stem
REDUCED = 32  # channels of everything behind the trunks
LEVELS = (1, 2, 3, 4)  # at 1/4, 1/8, 1/16 and 1/32 of the frame's size
UNUSED = ("resnet.conv1", "resnet.bn1", "RGBF_conv3")  # in released state dicts, but on no way to an output
FLOW_ONLY = re.compile(r"resnet\.\w+_flow\.|atten_flow_|reduce_m")  # entries of parts that see nothing but the flow


class SMCF(GroupModel):
    """Groups of 5 frames and their optical flow in, the salient object's map of each frame out.

    The published network has 206 M parameters, 19 M of them unused. State dicts carry the authors' names: their
    `SMCF-19epoch.pth` loads strictly here, and ours loads in their code.

    Args:
        frame_size: (H, W) that frames and flow are resized to, multiples of 32; the authors' is 352 x 352.
        trunk_width: channels of the trunks' stems, a multiple of 4.
        trunk_blocks: of each of the trunks' four levels; the defaults are ResNet-50.
    """

    clip_len = 5  # consecutive frames that attention spans
    needs_flow, inputs, flow_picture = True, ("frame", "flow"), "wheel"
    known_by = ("resnet.conv1_rgb.weight", "CSF1.conv_f1.0.conv_bn.0.weight")
    authors_file = "SMCF-19epoch.pth"
    target, dataset = "mask", "vsod"
    recipe = Recipe(                 # the paper's
        optimizer="sgd", optimizer_options={"momentum": 0.9, "weight_decay": 5e-4}, lr=2e-3,
        batch_size=10, epochs=20,    # frames are shuffled: a group is 5 unrelated ones
        decay_epochs=20, gamma=0.1,  # of 20 epochs in all: it never falls
        scales=(0.75, 1.0, 1.25),    # of 352, rounded to multiples of 32
        val_every=0,                 # their datasets have none to choose weights by
        loss="logits",               # of the saliency and of the motion map
    )
    # Each stage trains the whole network; the first two show it one picture twice. The last one starts from both.
    stages = {"pretrain-rgb": ("frame", "frame"), "pretrain-flow": ("flow", "flow"), "finetune": ("frame", "flow")}
    start_file, start_download = Path("saved_models/resnet50-0676ba61.pth"), "ResNet50_Weights.IMAGENET1K_V1"

    def __init__(self, frame_size: tuple[int, int] = (352, 352), trunk_width: int = 64,
                 trunk_blocks: tuple = (3, 4, 6, 3)) -> None:
        # The trunks halve five times and the decoders double from level to level: other sizes would not meet.
        check_frame_size(frame_size, 32)
        check_trunk(trunk_width, trunk_blocks)
        super().__init__(frame_size, prepare_frame, trunk_width=trunk_width, trunk_blocks=list(trunk_blocks))
        widths = [trunk_width * growth for growth in GROWTH]
        self.resnet = Trunks(trunk_width, trunk_blocks)
        for level, width in enumerate(widths):
            self.add_module(f"atten_rgb_{level}", channel_attention(width))
            self.add_module(f"atten_flow_{level}", channel_attention(width))
        for name, level in reductions():
            self.add_module(f"reduce_{name}", DimReduce(widths[level], REDUCED))
        for number in LEVELS:
            self.add_module(f"CSF{number}", CrossStackFusion(REDUCED))
        self.output_s, self.output_e = Decoder(REDUCED), Decoder(REDUCED)
        self.RGBF_conv3 = BasicConv2d(widths[4], widths[3], side=3)
        self.transformer_1, self.transformer_2 = (Transformer(width, group=self.clip_len) for width in widths[3:])
        for name in UNUSED:  # DistributedDataParallel would wait for their gradients
            self.get_submodule(name).requires_grad_(False)

    def forward(self, frame: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the maps of groups of 5 frames each; a group knows nothing of the others.

        Args:
            frame: (B, 3, h, w), RGB, ImageNet-normalised; B a multiple of 5, h and w of 32. Entries 0 to 4 are one
                group, 5 to 9 the next; at test time the frames of a group are consecutive ones of a video.
            flow: the same of the frames' optical flow, drawn in colours.

        Returns:
            saliency_logits, (B, 1, h, w): `finish` makes maps of it. motion_logits, (B, 1, h, w): the same object as
            the flow decoder sees it, for training. Both are float32 under autocast and in a bfloat16 network.

        Raises:
            ValueError: frames and flow have another shape, or another one than each other.
        """
        check_group(frame, flow, self.clip_len)
        merged, motion = self.encode(frame, flow)                   # 2 x 4 x (B, C_i, h_i, w_i), level i at 1/4 .. 1/32
        trans3 = self.reduce_trans3(self.transformer_1(merged[2]))  # (B, 32, h/16, w/16)
        trans4 = self.reduce_trans4(self.transformer_2(merged[3]))  # (B, 32, h/32, w/32)
        s = self.reduced("a", merged)                               # s_1 .. s_4, (B, 32, h_i, w_i)
        e = self.reduced("m", motion)                               # e_1 .. e_4, (B, 32, h_i, w_i)
        for fuse in (self.CSF1, self.CSF2, self.CSF3, self.CSF4):
            s, e = fuse(s, e)
        saliency_logits = self.output_s(s, trans3, trans4)  # (B, 1, h/4, w/4)
        motion_logits = self.output_e(e, trans3, trans4)    # (B, 1, h/4, w/4)
        return tuple(enlarge(logits, frame.shape[-2:]) for logits in (saliency_logits, motion_logits))

    def encode(self, frame: Tensor, flow: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of both trunks: m_1 .. m_4, merged, and y_1 .. y_4, of the flow; (B, C_i, h_i, w_i)."""
        x, y = self.resnet.stem(frame, RGB), self.resnet.stem(flow, FLOW)  # (B, 64, h/2, w/2)
        m = self.merge(0, x, y)                                            # m_0
        x, y, m = (F.max_pool2d(t, 3, stride=2, padding=1) for t in (x, y, m))
        merged, motion = [], []
        for i in LEVELS:
            x, y = self.resnet.level(i, x, RGB), self.resnet.level(i, y, FLOW)
            m = self.resnet.level(i, m, MERGED) + self.merge(i, x, y)  # m_i, (B, C_i, h_i, w_i)
            merged.append(m)
            motion.append(y)
        return merged, motion

    def merge(self, level: int, x: Tensor, y: Tensor) -> Tensor:
        """Frames' features x and flow's y, (B, C, h', w'): each weighted, by channel, by what the other one shows."""
        return x * self.get_submodule(f"atten_flow_{level}")(y) + y * self.get_submodule(f"atten_rgb_{level}")(x)

    def reduced(self, stream: str, features: list[Tensor]) -> list[Tensor]:
        """The four levels of a stream, "a" (merged) or "m" (motion), in 32 channels."""
        return [self.get_submodule(f"reduce_{stream}{level}")(f) for level, f in zip(LEVELS, features)]

    def bfloat16(self) -> "SMCF":
        """Half the memory and, where the hardware has it, more speed; the two last convolutions stay in float32."""
        super().bfloat16()
        for decoder in (self.output_s, self.output_e):
            decoder.output[-1].float()
        return self

    def loss_outputs(self, outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return outputs

    def main_output(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        return outputs[0]

    def for_objective(self, outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Both logits in float32, as the objective takes them."""
        return tuple(output.float() for output in outputs)

    def parameter_groups(self, lr: float) -> list[dict]:
        """All that gets a gradient, with a rate that falls."""
        return [{**group, "scheduled": True} for group in super().parameter_groups(lr)]

    def finish(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring saliency logits to the range and the size of the frame's map, as the authors do before scoring.

        Args:
            output: saliency_logits, the first of what `forward` returned, (B, 1, h, w) or (B, h, w).
            size: (H, W) of the frame.

        Returns:
            (B, H, W) float32 in [0, 1]: the logits' sigmoid, resized bilinearly (corners aligned), then each map
            min-max normalised; a constant one becomes zeros.
        """
        logits = output if output.ndim == 4 else output[:, None]
        maps = torch.sigmoid(logits.float())
        maps = maps - maps.amin((2, 3), keepdim=True)  # so that a constant map meets no rounding when resized
        maps = enlarge(maps, size)[:, 0]               # (B, H, W)
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return (maps - low) / torch.where(high > low, high - low, torch.ones_like(low))

    quantise = staticmethod(rounded_to_8_bits)  # as the authors' files hold maps

    def load_start(self, entries: dict[str, Tensor], source: str) -> list[str]:
        """Fill all three trunks with the same weights of ResNet-50; both pretraining stages start from there.

        Args:
            entries: names and tensors of torchvision's file, `conv1.weight`, `layer1.0.conv1.weight` and so on.
            source: where they come from, for the error message.

        Returns:
            The names of the entries that have no place here: the classifier's, `fc.*`.

        Raises:
            ValueError: an entry of the trunks is missing, or of another shape; the message names it, nothing is
                changed.
        """
        names = {ours: name_in_resnet(ours) for ours in self.resnet.state_dict()}  # three of ours share one of theirs
        return load_pretrained_part(self.resnet, names, entries, "ResNet-50", source)

    def load_stages(self, flow_entries: dict[str, Tensor], rgb_entries: dict[str, Tensor], source: str,
                    keep_flow: bool = False) -> list[str]:
        """Start finetuning from what the two stages before it have learnt.

        The authors load the flow stage's file and then the RGB stage's over it: of an entry that both hold, the RGB
        stage's stays. Each stage trains the whole network, feeding its one input to both streams. Between two whole
        files nothing of the flow stage is therefore left, the flow trunk starts from what it learnt on frames, and the
        flow file matters only where the RGB file is partial. That is the default. `keep_flow` is our variant: the parts
        that see nothing but the flow (its trunk, its channel attention, its reductions) come from the flow stage.

        Args:
            flow_entries: of the stage `pretrain_flow`, as `read_weights` gives them.
            rgb_entries: of the stage `pretrain_rgb`.
            source: where both come from, for messages.
            keep_flow: whether the flow stage's entries win in parts that see only the flow.

        Returns:
            Names of the entries that came from the flow stage: none by default, where both files are whole.

        Raises:
            ValueError: both together lack an entry, or one is left over or of another shape; the message names it.
        """
        kept = [name for name in flow_entries if name not in rgb_entries or (keep_flow and FLOW_ONLY.match(name))]
        load_entries(self, {**rgb_entries, **{name: flow_entries[name] for name in kept}}, source)
        return kept

    @classmethod
    def completed(cls, configuration: dict, changes: dict, entries: dict[str, Tensor], source: str) -> dict:
        """The trunks follow from the entries, the frame size from what came with the file."""
        return {**configuration, **infer_trunk(entries), **changes}

    @classmethod
    def built_for(cls, config: dict, entries: dict[str, Tensor], source: str) -> "SMCF":
        """As `SaliencyModel.built_for`, without drawing 206 M numbers, which takes seconds, only to replace them."""
        return cls.outlined_for(config, entries, source).to_empty(device="cpu")


class Trunks(nn.Module):
    """Three ResNets, told apart by suffixes of their parts; the merged one's stem, conv1 and bn1, is unused."""

    def __init__(self, width: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        for suffix in (RGB, FLOW, MERGED):
            self.add_module(f"conv1{suffix}", nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False))
            self.add_module(f"bn1{suffix}", nn.BatchNorm2d(width))
            for level, before, count in zip(LEVELS, GROWTH, blocks):
                self.add_module(f"layer{level}{suffix}", resnet_level(width * before, width * 2 ** (level - 1), count,
                                                                      stride=1 if level == 1 else 2))
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, images: Tensor, suffix: str) -> Tensor:
        """What a trunk begins with: (B, 3, h, w) -> (B, 64, h/2, w/2)."""
        conv, bn = self.get_submodule(f"conv1{suffix}"), self.get_submodule(f"bn1{suffix}")
        return F.relu(bn(conv(images)))

    def level(self, number: int, x: Tensor, suffix: str) -> Tensor:
        """One level of a trunk, 1 to 4; all but the first halve height and width."""
        return self.get_submodule(f"layer{number}{suffix}")(x)


def resnet_level(before: int, planes: int, count: int, stride: int) -> nn.Sequential:
    """Blocks of a ResNet: (B, before, h, w) to (B, 4 planes, h / stride, w / stride)."""
    from torchvision.models.resnet import Bottleneck  # here, for torchvision takes as long to import as all else

    width = planes * Bottleneck.expansion
    shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(Bottleneck(before, planes, stride, shortcut),
                         *(Bottleneck(width, planes) for _ in range(count - 1)))


class BasicConv2d(nn.Module):
    """A convolution that keeps height and width, and batch normalisation; only the trunks have ReLUs."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__()
        self.conv_bn = nn.Sequential(nn.Conv2d(before, after, side, padding=side // 2, bias=False),
                                     nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_bn(x)


class DimReduce(nn.Module):
    """Fewer channels: a convolution of 1 x 1 and two of 3 x 3."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(BasicConv2d(before, after, 1), BasicConv2d(after, after, 3),
                                    BasicConv2d(after, after, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(x)


class Transformer(nn.Module):
    """Self-attention over all positions of a group of frames, without positional embedding or final normalisation.

    Args:
        width: channels.
        group: frames that attend to each other, consecutive entries of the batch.
        depth: layers. heads: of attention. hidden: width of the perceptrons' middle.
    """

    def __init__(self, width: int, group: int, depth: int = 4, heads: int = 4, hidden: int = 782) -> None:
        super().__init__()
        self.group = group
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(PreNorm(width, Attention(width, heads))),
                           Residual(PreNorm(width, FeedForward(width, hidden)))])
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h', w') -> the same shape; B a multiple of the group."""
        grid = (self.group, *x.shape[2:])
        x = x.unflatten(0, (-1, self.group)).movedim(2, -1)  # (B/5, 5, h', w', C)
        tokens = x.flatten(1, 3)                             # (B/5, 5 h' w', C)
        for attend, transform in self.layers:
            tokens = transform(attend(tokens))
        return tokens.unflatten(1, grid).movedim(-1, 2).flatten(0, 1)  # (B, C, h', w')


class Residual(nn.Module):
    """What a module adds to its input."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class PreNorm(nn.Module):
    """A module behind layer normalisation."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class Attention(nn.Module):
    """Self-attention of several heads, softer than usual: scaled by the square root of all channels, not a head's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, width ** -0.5
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """(G, N, C) -> the same shape: within each of G groups, N positions attend to each other."""
        q, k, v = self.to_qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (G, heads, N, C / heads)
        x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.to_out(x.transpose(1, 2).flatten(2))                                   # (G, N, C)


class FeedForward(nn.Module):
    """A perceptron of one hidden layer, applied to each position. State dicts hold the layers' places."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, width),
                                 nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class UpConv(nn.Module):
    """Enlarge to a size, then a convolution of 1 x 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = BasicConv2d(width, width, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(enlarge(x, size))


class CrossStackFusion(nn.Module):
    """Exchange between saliency s_1 .. s_4 and motion e_1 .. e_4: a level takes in the other's, and all coarser ones.

    s_i' = s_i + F_i([s_i, e_i, up(e_j), j > i]), side by side, and e_i' = e_i + G_i(e_i s_i prod up(s_j), j > i).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        for number in range(1, 13):      # 1 to 6 carry motion to saliency, 7 to 12 back
            self.add_module(f"conv{number}", UpConv(width))
        for number in range(1, 9):       # F_1 .. F_4, G_1 .. G_4
            inputs = max(1, 6 - number)  # 5, 4, 3, 2 maps side by side; then one, a product
            self.add_module(f"conv_f{number}",
                            nn.Sequential(BasicConv2d(inputs * width, width, 3), BasicConv2d(width, width, 3)))

    def forward(self, s: list[Tensor], e: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """4 x (B, C, h_i, w_i) of each stream, finest first, and the same shapes out."""
        coarser_e, coarser_s = self.coarser(e, first=1), self.coarser(s, first=7)
        f, g = ([self.get_submodule(f"conv_f{first + i}") for i in range(4)] for first in (1, 5))
        new_s = [s[i] + f[i](torch.cat([s[i], e[i], *coarser_e[i]], dim=1)) for i in range(4)]
        new_e = [e[i] + g[i](math.prod(coarser_s[i], start=e[i] * s[i])) for i in range(4)]
        return new_s, new_e

    def coarser(self, levels: list[Tensor], first: int) -> list[list[Tensor]]:
        """For each level all coarser ones at its size; `first` is the convolution of (1, 2), then (1, 3) and so on."""
        carried = [[] for _ in levels]
        for number, (i, j) in enumerate(itertools.combinations(range(4), 2), start=first):
            carried[i].append(self.get_submodule(f"conv{number}")(levels[j], levels[i].shape[-2:]))
        return carried


class Decoder(nn.Module):
    """Four levels to one map of logits at the finest one's size; attention weighs the two coarsest."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for number in (1, 2, 3):
            self.add_module(f"conv_upsample{number}", BasicConv2d(width, width, 3))
        for level in LEVELS:
            self.add_module(f"ppm{level}", PyramidPooling(width))
        for number in (1, 2, 3):
            self.add_module(f"conv_cat{number}",
                            nn.Sequential(BasicConv2d(2 * width, 2 * width, 3), BasicConv2d(2 * width, width, 1)))
        self.output = nn.Sequential(BasicConv2d(width, width, 3), nn.Conv2d(width, 1, 1))

    def forward(self, levels: list[Tensor], trans3: Tensor, trans4: Tensor) -> Tensor:
        """4 x (B, C, h_i, w_i), finest first, and the transformers' at the two coarsest sizes -> (B, 1, h_1, w_1)."""
        x1, x2, x3, x4 = levels
        x4 = self.ppm4(x4 * trans4)                      # (B, C, h_4, w_4)
        x3 = self.ppm3(self.joined(1, x3, x4) * trans3)  # (B, C, h_3, w_3)
        x2 = self.ppm2(self.joined(2, x2, x3))           # (B, C, h_2, w_2)
        x1 = self.ppm1(self.joined(3, x1, x2))           # (B, C, h_1, w_1)
        return self.read_out(x1)                         # (B, 1, h_1, w_1)

    def joined(self, number: int, fine: Tensor, coarse: Tensor) -> Tensor:
        """A level and the next coarser one, enlarged to its size."""
        coarse = self.get_submodule(f"conv_upsample{number}")(enlarge(coarse, fine.shape[-2:]))
        return self.get_submodule(f"conv_cat{number}")(torch.cat([fine, coarse], dim=1))

    def read_out(self, x: Tensor) -> Tensor:
        """The last convolution in its own precision, float32: in bfloat16 a map would have few levels."""
        smooth, last = self.output
        x = smooth(x)
        with without_autocast(x.device):
            return last(x.to(last.weight.dtype))


class PyramidPooling(nn.Module):
    """Averages over 1, 2 x 2, 3 x 3 and 6 x 6 parts of (B, C, h', w'), put beside it: the same shape again."""

    sides = (1, 2, 3, 6)

    def __init__(self, width: int) -> None:
        super().__init__()
        for number in LEVELS:
            self.add_module(f"conv{number}", BasicConv2d(width, width // 4, 1))
        self.out = BasicConv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        convs = (self.conv1, self.conv2, self.conv3, self.conv4)
        averages = [enlarge(conv(F.adaptive_avg_pool2d(x, side)), x.shape[-2:])
                    for conv, side in zip(convs, self.sides)]
        return self.out(torch.cat([x, *averages], dim=1))


def channel_attention(width: int) -> nn.Sequential:
    """A weight in (0, 1) for each channel: (B, C, h', w') -> (B, C, 1, 1)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid())


def reductions() -> list[tuple[str, int]]:
    """Names of the reductions to 32 channels and the levels they reduce: a merged, trans attended, m motion."""
    return [(f"{stream}{level}", level) for stream, levels in (("a", LEVELS), ("trans", (3, 4)), ("m", LEVELS))
            for level in levels]


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring (B, C, h', w') to (H, W), bilinearly, corners aligned."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def name_in_resnet(name: str) -> str:
    """What torchvision's ResNet-50 calls an entry of `Trunks`: layer1_rgb.0.. is layer1.0.."""
    part, rest = name.split(".", 1)
    return f"{part.removesuffix(RGB).removesuffix(FLOW)}.{rest}"


def check_trunk(width: int, blocks: tuple[int, ...]) -> None:
    """Refuse what the trunks cannot be built from; the message names the value."""
    if not 4 <= width <= 1024 or width % 4 or width != int(width):
        raise ValueError(f"trunk_width must be a multiple of 4, up to 1024, got {width}")
    if len(blocks) != len(LEVELS) or any(not 1 <= count <= 100 or count != int(count) for count in blocks):
        raise ValueError(f"trunk_blocks must be {len(LEVELS)} numbers of blocks, up to 100, got {tuple(blocks)}")


def infer_trunk(entries: dict[str, Tensor]) -> dict:
    """The width and the blocks of the trunks that a state dict belongs to."""
    blocks = [re.match(r"resnet\.layer(\d)_rgb\.(\d+)\.conv1\.weight$", name) for name in entries]
    levels = [int(block[1]) for block in blocks if block]
    return {"trunk_width": entries["resnet.conv1_rgb.weight"].shape[0],
            "trunk_blocks": [levels.count(level) for level in LEVELS]}


def check_group(frame: Tensor, flow: Tensor, group: int) -> None:
    """Say what came and what is needed, before a convolution says it less clearly."""
    for name, images in (("frame", frame), ("flow", flow)):
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"{name} must be (B, 3, h, w), got {tuple(images.shape)}")
    if frame.shape != flow.shape:
        raise ValueError(f"frame and flow must have one shape, got {tuple(frame.shape)} and {tuple(flow.shape)}")
    b, _, h, w = frame.shape
    if not b or b % group:
        raise ValueError(f"frame must hold groups of {group}, B a multiple of {group}, got B = {b}: repeat the last "
                         "frame to fill the last group")
    if h % 32 or w % 32 or not h or not w:
        raise ValueError(f"frame must have h and w divisible by 32, got {h} x {w}; resize the frames, the paper's size "
                         "is 352 x 352")
