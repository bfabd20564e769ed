"""RecSal-Lite, a small network of this repository's own, whose weights are included. It is not the paper's RecSal-Net.

Each frame goes through EfficientNet-lite0, RecSal-Net's recursive block in 2-D, its decoders and its readout, to which
a learnt centre prior is added. Through time it keeps moving averages, as SalEMA does.

Source: the recursive block: Woo et al., Neurocomputing 650 (2025) 130822; EfficientNet: Tan & Le, ICML 2019, in the
"lite" variant of TensorFlow's authors; the moving average: Linardos et al., BMVC 2019. What the weights were trained
on, their scores and their limits: saved_models/RECSAL_LITE.md.
"""
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss import Recipe
from saliency_model import (
    RecurrentModel,
    check_frame_size,
    check_frames,
    check_state,
    prepare_frame,
    without_autocast,
)
from weights import describe, load_entries

# EfficientNet-lite0 up to stride 32, a row a stage: blocks, kernel, stride, expansion, channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
TAPS, STRIDES = (2, 4, 5), (8, 16, 32)  # stages whose output is taken, and its strides
FROZEN = 2                              # the stem and so many stages stay as ImageNet left them,
THAWED_FROM = 6                         # the others until this epoch
PRIOR = (9, 12)                         # height and width of the centre prior
BATCH_NORM, BATCH_NORM_EPS = ("weight", "bias", "running_mean", "running_var"), 1e-3  # of EfficientNet

State = tuple[Tensor, ...] | None


class RecSalLite(RecurrentModel):
    """Frames and the state in, a saliency map for each frame and the new state out. 2.5 M parameters.

    The state holds the moving averages of the three levels of features and of the output, and whether there has been a
    frame; all zeros, or None, are the state before the first frame. Averages count frames, whatever lies between them
    in time: they are set for videos of 25 to 30 frames a second.

    Args:
        num_recursions: K, passes through the recursive block after the first top-down sum.
        frame_size: (H, W) that frames are resized to, multiples of 32.
        width: channels of the decoder, a multiple of 4.
        output_share: the new frame's share in the moving average of the output, in (0, 1]; 1: the frame alone.

    Raises:
        ValueError: the network cannot be built from such values; the message names them.
    """

    clip_len = 2        # of training, on stills that pan and zoom
    cpu_batch_size = 8  # with less, threads wait for each other
    dataset = "gaze-images"
    takes_stills = True
    known_by = ("centre_prior", "laterals.0.weight")
    abilities = ("export", "thaw")
    shipped_weights = Path(__file__).parent.parent / "saved_models" / "recsal_lite.safetensors"
    start_file = Path("saved_models/efficientnet-lite0-57934424.pth")
    recipe = Recipe(
        lr=2e-3, gamma=0.65, decay_epochs=1, warmup=50, accumulate=8, epochs=8, thaw=True,
        val_every=0,  # all training images are trained on; rates were chosen on a part of them, epochs by two videos
        flip=True, zoom=0.08, loss_weights={"kl": 1.0, "cc": 0.5},
    )

    def __init__(self, num_recursions: int = 1, frame_size: tuple[int, int] = (288, 384), width: int = 48,
                 output_share: float = 0.3) -> None:
        check_frame_size(frame_size, 32)
        if not 0 < output_share <= 1:
            raise ValueError(f"output_share must be above 0 and up to 1, got {output_share}")
        if num_recursions < 0 or num_recursions != int(num_recursions) or width < 4 or width % 4:
            raise ValueError("num_recursions must be 0 or more, and width a multiple of 4 from 4 on, got "
                             f"{num_recursions} and {width}")
        super().__init__(frame_size, prepare_frame, num_recursions=num_recursions, width=width,
                         output_share=output_share)
        self.num_recursions, self.output_share = num_recursions, output_share
        self.encoder = EfficientNetLite()
        self.thaw(THAWED_FROM)
        self.laterals = nn.ModuleList(nn.Conv2d(STAGES[tap][-1], width, 1) for tap in TAPS)
        # Its sigmoid is the new frame's share in averages of features. The first parameter, in whose precision the
        # engine computes.
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.recursive_block = RecursiveBlock(width)
        self.decoders = nn.ModuleList(decoder(width) for _ in TAPS)
        self.readout = nn.Conv2d(len(TAPS), 1, 3, padding=1)
        self.centre_prior = nn.Parameter(torch.zeros(1, 1, *PRIOR))
        nn.init.constant_(self.readout.weight, 1 / self.readout.weight.numel())
        nn.init.constant_(self.readout.bias, -2)  # maps start dark
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)  # faster on CPUs

    def maps(self, clip: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Predict the maps of all frames of a clip; what does not depend on the state is computed for all at once.

        Args:
            clip: (B, 3, T, h, w), normalised; T = 1 or more, h and w multiples of 32.
            state: of the clip before; None or zeros at a video's first frame.

        Returns:
            Saliency maps, (B, T, h / 4, w / 4), in (0, 1); they do not sum to one. And the state after the last frame:
            averages of features, 3 x (B, width, h / s, w / s) with s = 8, 16 and 32, and of logits, (B, 1, h / 4,
            w / 4); and (B,) ones.

        Raises:
            ValueError: the clip has another shape, or the state belongs to another.
        """
        check_frames(clip, 32, self.config["frame_size"])
        fresh = self.fresh_state(clip)
        state = fresh if state is None else state
        if len(state) != len(fresh):
            raise ValueError(f"the state must hold {len(fresh)} tensors, got {len(state)}: start every video with None")
        for part, needed in zip(state, fresh):
            check_state(part, needed)
        *averages, output, seen = state
        frames = clip.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (B T, 3, h, w)
        encoded = [reduce(f) for reduce, f in zip(self.laterals, self.encoder(frames))]            # F_1 .. F_3
        share = torch.sigmoid(self.alpha)
        encoded, averages = zip(*(moving_average(f, before, share, seen) for f, before in zip(encoded, averages)))
        levels = self.recursive_block.top_down(encoded)                       # F_i^1
        for _ in range(self.num_recursions):
            levels = self.recursive_block(encoded, levels)
        size = [2 * n for n in levels[0].shape[2:]]                           # (h / 4, w / 4)
        side_maps = [resize(decode(f), size) for decode, f in zip(self.decoders, levels)]
        logits = self.read_out(torch.cat(side_maps, dim=1))                   # (B T, 1, h / 4, w / 4)
        logits, output = moving_average(logits, output, logits.new_tensor(self.output_share), seen)
        maps = torch.sigmoid(logits[:, 0]).unflatten(0, (clip.shape[0], -1))  # P
        return maps, (*averages, output, torch.ones_like(seen))

    @property
    def has_idle_parameters(self) -> bool:
        """Without recursions (K = 0), the gates and the views of the levels get no gradient."""
        return self.num_recursions == 0

    @property
    def validated_every(self) -> int:
        """Frames of a video from one that training validates on to the next."""
        return 32

    @property
    def map_size(self) -> tuple[int, int]:
        """A quarter of the frame size: maps are smooth."""
        h, w = self.config["frame_size"]
        return h // 4, w // 4

    def read_out(self, side_maps: Tensor) -> Tensor:
        """The readout and the centre prior in their own precision, float32, whatever came before."""
        size, dtype = side_maps.shape[2:], self.readout.weight.dtype
        with without_autocast(side_maps.device):
            return self.readout(side_maps.to(dtype)) + resize(self.centre_prior, size)

    def fresh_state(self, clip: Tensor) -> State:
        """The state before the first frame of clips, (B, 3, T, h, w)."""
        batch, (h, w) = clip.shape[0], clip.shape[3:]
        features = [clip.new_zeros(batch, self.config["width"], h // stride, w // stride) for stride in STRIDES]
        return *features, clip.new_zeros(batch, 1, h // 4, w // 4).to(self.readout.weight.dtype), clip.new_zeros(batch)

    def bfloat16(self) -> "RecSalLite":
        """Half the memory and, where the hardware has it, more speed; the readout stays in float32."""
        super().bfloat16()
        self.readout.float()
        self.centre_prior.data = self.centre_prior.data.float()
        return self

    def normalise(self, clip: Tensor) -> Tensor:
        """Prepared frames, (B, 3, T, h, w) uint8, to EfficientNet-lite's range: float32 in [-1, 1]."""
        return (clip.float() - 127) / 128

    def parameter_groups(self, lr: float) -> list[dict]:
        """What Adam gets: the new layers at the full rate, the encoder's later stages, which thaw, at 0.4 of it."""
        encoder = list(self.encoder.stages[FROZEN:].parameters())
        others = [p for name, p in self.named_parameters() if not name.startswith("encoder.")]
        return [{"params": others, "lr": lr, "scheduled": True}, {"params": encoder, "lr": 0.4 * lr, "scheduled": True}]

    def thaw(self, epoch: int) -> None:
        """Set what of the encoder has `requires_grad` in an epoch, from 1: nothing at first, then its later stages.

        Gradients through layers that are still random would spoil it.
        """
        self.encoder.requires_grad_(False)
        self.encoder.stages[FROZEN:].requires_grad_(epoch >= THAWED_FROM)

    def init_from_scratch(self) -> None:
        """Let the encoder's convolutions keep their input's variance (He et al., 2015).

        For tests of the programs: the stages that are never trained stay random.
        """
        print(f"warning: the first {FROZEN} stages of the encoder are never trained, and stay random")
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @classmethod
    def completed(cls, configuration: dict, changes: dict, entries: dict[str, Tensor], source: str) -> dict:
        """The width follows from the entries, all else from the description of the file."""
        return {**configuration, "width": len(entries["laterals.0.weight"]), **changes}

    def load_start(self, entries: dict[str, Tensor], source: str) -> list[str]:
        """Fill the encoder from EfficientNet-lite0, its batch norms folded into the convolutions before them.

        Args:
            entries: of `efficientnet-lite0-57934424.pth`, or of timm's `tf_efficientnet_lite0`.
            source: where they come from, for messages.

        Returns:
            Names of the entries that have no place here: the last stage's and the classifier's.

        Raises:
            ValueError: an entry is missing or of another shape; the message names it, and nothing is changed.
        """
        folded, used = {}, set()
        for ours, *names in names_in_files():
            conv, norm = names[f"{names[1][0]}.weight" in entries]
            wanted = [f"{conv}.weight", *(f"{norm}.{part}" for part in BATCH_NORM)]
            missing = [name for name in wanted if name not in entries]
            if missing:
                raise ValueError(f"{source} does not hold EfficientNet-lite0: {missing[0]} is missing; it is "
                                 f"{describe(entries)}")
            kernel, scale, shift, mean, variance = (entries[name].double() for name in wanted)
            factor = scale / (variance + BATCH_NORM_EPS).sqrt()
            folded |= {f"{ours}.weight": (kernel * factor.view(-1, 1, 1, 1)).float(),
                       f"{ours}.bias": (shift - mean * factor).float()}
            used |= {*wanted, f"{norm}.num_batches_tracked"}
        load_entries(self.encoder, folded, source)
        return [name for name in entries if name not in used]


class RecursiveBlock(nn.Module):
    """RecSal-Net's (`model.RecursiveBlock`) in 2-D, of three levels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.smooths = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in TAPS)
        self.aspps = nn.ModuleList(ASPP(width) for _ in TAPS)
        self.gates = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in TAPS)

    def forward(self, encoded: list[Tensor], state: list[Tensor]) -> list[Tensor]:
        """One pass: `encoded` and `state` are 3 x (B, width, H_i, W_i), and so is the new state."""
        context = [aspp(f) for aspp, f in zip(self.aspps, state)]
        enriched = [smooth(r + c) for smooth, r, c in zip(self.smooths, encoded, context)]
        new = self.top_down(enriched)
        return [torch.lerp(f, n, torch.sigmoid(gate(n))) for gate, n, f in zip(self.gates, new, state)]

    def top_down(self, levels: list[Tensor]) -> list[Tensor]:
        """Carry coarse levels into finer ones; the coarsest also reaches the finest directly, and stays as it is."""
        x1, x2, x3 = levels
        t2 = resize(x3, x2.shape[2:]) + x2
        t1 = resize(t2, x1.shape[2:]) + x1 + resize(x3, x1.shape[2:])
        return [smooth(t) for smooth, t in zip(self.smooths, (t1, t2))] + [x3]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: four views of a level, a quarter of the channels each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([
            nn.Conv2d(width, width // 4, 1),
            nn.Conv2d(width, width // 4, 3, dilation=3, padding=3),
            nn.Conv2d(width, width // 4, 3, dilation=6, padding=6),
            nn.Conv2d(width, width // 4, 1),  # of the average over the frame
        ])

    def forward(self, x: Tensor) -> Tensor:
        point, near, far, overall = self.branches
        average = overall(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return F.relu(torch.cat([point(x), near(x), far(x), average], dim=1))


def decoder(width: int) -> nn.Sequential:
    """A head: (B, width, h, w) -> (B, 1, h, w), a side map's logits."""
    return nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, 1, 1))


def moving_average(x: Tensor, before: Tensor, share: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Average each frame with those before it: s_t = a x_t + (1 - a) s_{t-1}, and s_1 = x_1.

    Args:
        x: (B T, ..), the frames of B clips.
        before: (B, ..), the average after the frame before them.
        share: a, a scalar.
        seen: (B,), 1 where there was a frame before, else 0.

    Returns:
        The averages, (B T, ..), and the last one of each clip, (B, ..).
    """
    averages = []
    for new in x.unflatten(0, (before.shape[0], -1)).unbind(1):
        a = share if averages else torch.where(seen > 0, share, torch.ones_like(share)).view(-1, 1, 1, 1)
        before = before + a * (new - before)
        averages.append(before)
    return torch.stack(averages, dim=1).flatten(0, 1), before


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to (H, W), bilinearly."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


# The encoder

class EfficientNetLite(nn.Module):
    """EfficientNet-lite0 without its last stage and classifier, and with its batch norms folded: 2.34 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, stages, before = SameConv2d(3, 32, 3, stride=2), [], 32
        for blocks, kernel, stride, expansion, after in STAGES:
            first = InvertedResidual(before, after, kernel, stride, expansion)
            others = (InvertedResidual(after, after, kernel, 1, expansion) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *others))
            before = after
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, h, w) -> 3 x (B, C_i, h / s, w / s), s = 8, 16 and 32."""
        x, taken = F.relu6(self.stem(x)), []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in TAPS:
                taken.append(x)
        return taken


def names_in_files() -> Iterator[tuple[str, tuple[str, str], tuple[str, str]]]:
    """Of each convolution of the encoder our name, and what PyPI's file and timm call it and its batch norm."""
    yield "stem", ("_conv_stem", "_bn0"), ("conv_stem", "bn1")
    number = 0
    for stage, (count, _, _, expansion, _) in enumerate(STAGES):
        parts = ("expand", "depthwise", "project")[expansion == 1:]  # the first stage does not expand
        convs = ("conv_pw", "conv_dw", "conv_pwl") if expansion > 1 else ("conv_dw", "conv_pw")
        for block in range(count):
            for place, (part, conv) in enumerate(zip(parts, convs)):
                pypi, timm = f"_blocks.{number}", f"blocks.{stage}.{block}"
                yield (f"stages.{stage}.{block}.{part}",
                       (f"{pypi}._{part}_conv", f"{pypi}._bn{place + (expansion == 1)}"),
                       (f"{timm}.{conv}", f"{timm}.bn{place + 1}"))
            number += 1


class InvertedResidual(nn.Module):
    """A block: expand the channels, filter them (depthwise), project them; added to its input if both are alike."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = before * expansion
        self.expand = nn.Conv2d(before, middle, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(middle, middle, kernel, stride, groups=middle)
        self.project = nn.Conv2d(middle, after, 1)
        self.is_residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        middle = x if self.expand is None else F.relu6(self.expand(x))
        projected = self.project(F.relu6(self.depthwise(middle)))
        return x + projected if self.is_residual else projected


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": at stride 2, one pixel more below and right than above and left."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:
            margin = self.kernel_size[0] // 2
            x = F.pad(x, (margin - 1, margin) * 2)
        return super().forward(x)

