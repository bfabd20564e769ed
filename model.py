"""RecSal-Net, the network of Fig. 1: encoder, lateral convolutions, recursive block, decoders, readout.

Source: Woo, Lee, Park, Kim, "RecSal-Net: Recursive Saliency Network for Video Saliency Prediction",
Neurocomputing 650 (2025) 130822.
"""
import itertools
import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loss import Recipe
from saliency_model import WindowModel, check_frame_size, gaussian_blur, prepare_frame, without_autocast
from swin_transformer import SwinTransformer3D, load_encoder

SHARPNESS = 8  # of a random start: side maps of 0, 0.5, 1 become 0.0003, 0.018, 0.5

# The readable names used here -> the authors' names in state dicts and weight files.
AUTHORS_NAMES = {"encoder.": "backbone.", "readout.": "convout."}
for i in range(4):
    AUTHORS_NAMES |= {
        f"laterals.{i}.": f"conv{i + 1}.",
        f"recursive_block.smooths.{i}.": f"convs{i + 1}.",
        f"recursive_block.aspps.{i}.branches.": f"aspp{i + 1}.aspp.",
        f"recursive_block.fusions.{i}.gate.": f"fusion{i + 1}.weight.",
        f"decoders.{i}.": f"convtsp{i + 1}.",
    }
OUR_NAMES = {theirs: ours for ours, theirs in AUTHORS_NAMES.items()}


class RecSalNet(WindowModel):
    """A clip of 32 frames in, the saliency map of its last frame out.

    The defaults are the published network: 55.2 M parameters, 944 GFLOP per map at 224 x 384. State dicts carry the
    authors' names: their `RecSalNet.pth` loads strictly here, and ours loads in their code.

    Args:
        num_recursions: K, passes through the recursive block after the first top-down sum; K = 2 in the paper.
        frame_size: (H, W) that frames are resized to, multiples of 32; the authors' is 224 x 384.
        frame_stride: frames of the video from one frame of a clip to the next.
        width: channels of the decoder.
        embed_dim, depths, num_heads, patch_norm, drop_path: of the encoder (`SwinTransformer3D`).
    """

    clip_len = 32  # fixed by the network: 16 tokens -> 8 -> 1
    known_by, authors_file = ("conv1.weight", "backbone.patch_embed.proj.weight"), "RecSalNet.pth"
    recipe = Recipe(lr=1e-5, epochs=500, val_every=3, loss_weights={"kl": 1.0, "cc": 1.0, "nss": 0.1})  # the paper's
    abilities = (*WindowModel.abilities, "activation_checkpointing")
    start_file = Path("saved_models/swin_small_patch244_window877_kinetics400_1k.pth")
    start_download = "Swin3D_S_Weights.KINETICS400_V1"

    def __init__(self, num_recursions: int = 2, frame_size: tuple[int, int] = (224, 384), frame_stride: int = 1,
                 width: int = 192, embed_dim: int = 96, depths: tuple = (2, 2, 18, 2),
                 num_heads: tuple = (3, 6, 12, 24), patch_norm: bool = False, drop_path: float = 0.2) -> None:
        check_frame_size(frame_size, 32)
        check_frame_stride(frame_stride)
        check_configuration(num_recursions, width, embed_dim, num_heads, drop_path)
        super().__init__(frame_size, prepare_frame, num_recursions=num_recursions, frame_stride=frame_stride,
                         width=width, embed_dim=embed_dim, depths=list(depths), num_heads=list(num_heads),
                         patch_norm=patch_norm, drop_path=drop_path)
        self.num_recursions, self.frame_stride = num_recursions, frame_stride
        self.encoder = SwinTransformer3D(embed_dim, depths, num_heads, patch_norm=patch_norm, drop_path=drop_path)
        self.laterals = nn.ModuleList(
            nn.Conv3d(dim, width, kernel_size=(2, 1, 1), stride=(2, 1, 1)) for dim in self.encoder.dims
        )
        self.recursive_block = RecursiveBlock(width)
        self.decoders = nn.ModuleList(decoder(width, factor) for factor in (4, 8, 16, 32))
        self.readout = nn.Sequential(nn.Conv3d(4, 1, kernel_size=(1, 3, 3), padding=(0, 1, 1)), nn.Sigmoid())
        self._register_state_dict_hook(to_authors_names)
        self._register_load_state_dict_pre_hook(to_our_names)
        self.register_load_state_dict_post_hook(report_authors_names)

    def forward(self, clip: Tensor) -> Tensor:
        """Predict the saliency map of the last frame of a clip (paper, Fig. 1a).

        Args:
            clip: (B, 3, T, H, W), RGB, ImageNet-normalised; T = 32, H and W divisible by 32.

        Returns:
            Saliency map P, (B, H, W), in (0, 1); it does not sum to one.

        Raises:
            ValueError: the clip has another shape.
        """
        check_clip(clip, self.clip_len)
        features = self.encoder(clip)                                        # 4 x (B, C_i, T/2, H_i, W_i)
        encoded = [reduce(f) for reduce, f in zip(self.laterals, features)]  # F_1 .. F_4, (B, width, T/4, H_i, W_i)
        state = self.recursive_block.top_down(encoded)                       # F_i^1
        for _ in range(self.num_recursions):
            state = self.recurse(encoded, state)                             # F_i^(4k+1), k = 1 .. K
        side_maps = [decode(f) for decode, f in zip(self.decoders, state)]   # P_1 .. P_4, (B, 1, 1, H, W)
        return self.read_out(torch.cat(side_maps, dim=1))[:, 0, 0]           # P

    @property
    def has_idle_parameters(self) -> bool:
        """Without recursions (K = 0), their block gets no gradient."""
        return self.num_recursions == 0

    def recurse(self, encoded: list[Tensor], state: list[Tensor]) -> list[Tensor]:
        """One pass through the recursive block, recomputed in the backward pass where checkpointing is on."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(self.recursive_block, encoded, state, use_reentrant=False)
        return self.recursive_block(encoded, state)

    def read_out(self, side_maps: Tensor) -> Tensor:
        """The readout in its own precision, float32, whatever came before.

        In bfloat16 its output would have 256 levels between two powers of 2, and many ties, which SIM and AUC-J notice.
        """
        with without_autocast(side_maps.device):
            return self.readout(side_maps.to(self.readout[0].weight.dtype))  # (B, 1, 1, H, W)

    @property
    def activation_checkpointing(self) -> bool:
        """Trade compute for memory in training: keep only the inputs of encoder blocks and recursive passes."""
        return self.encoder.activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, on: bool) -> None:
        self.encoder.activation_checkpointing = on

    def bfloat16(self) -> "RecSalNet":
        """Half the memory and, where the hardware has it, several times the speed; the readout stays in float32."""
        super().bfloat16()
        self.readout.float()
        return self

    def finish(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring raw output to the frame's own size, as the authors do before scoring.

        Args:
            output: (B, h, w), what `forward` returned.
            size: (H, W) of the frame.

        Returns:
            (B, H, W) float32 in (0, 1): resized bilinearly, blurred with OpenCV's default 11 x 11 Gaussian (sigma 2).

        Raises:
            ValueError: the frame is less than 6 pixels high or wide.
        """
        if min(size) < 6:
            raise ValueError(f"frames must be at least 6 pixels high and wide for the 11 x 11 blur, got {size[0]} x "
                             f"{size[1]} (H x W)")
        with without_autocast(output.device):  # or the blur would round to bfloat16
            maps = super().finish(output, size)
            weights = torch.exp(-torch.arange(-5, 6, device=maps.device, dtype=maps.dtype) ** 2 / 8)
            return gaussian_blur(maps, weights / weights.sum())

    def load_start(self, entries: dict[str, Tensor], source: str) -> list[str]:
        """Fill the encoder, as `load_encoder` does; returns the names that have no place here."""
        return load_encoder(self.encoder, entries, source)

    def init_from_scratch(self) -> None:
        """Let maps start dark, side maps count alike, and convolutions keep their input's variance (He et al., 2015).

        As PyTorch draws them, the readout's small weights of either sign hold every map near 0.5, where KL, which sees
        the ratio of bright to dark, hardly depends on its input: training stalls for hundreds of steps.
        """
        for decode in self.decoders:
            for conv in (decode[0], decode[3], decode[6]):  # those before a ReLU
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.constant_(self.readout[0].weight, SHARPNESS / self.readout[0].weight.numel())
        nn.init.constant_(self.readout[0].bias, -SHARPNESS)

    @classmethod
    def completed(cls, configuration: dict, changes: dict, entries: dict[str, Tensor], source: str) -> dict:
        """Sizes and patch_norm follow from the entries, all else from the description of the file."""
        if any(entries[name].ndim != 5 for name in cls.known_by):
            raise ValueError(f"{source} does not hold {cls.__name__}: its {cls.known_by[0]} should have 5 dimensions")
        return {**configuration, **infer_configuration(entries), **changes}

    @classmethod
    def built_for(cls, config: dict, entries: dict[str, Tensor], source: str) -> "RecSalNet":
        """As `SaliencyModel.built_for`; numbers of blocks are bounded, and the windows' indices are the usual ones."""
        depths = config.get("depths", [])
        if not isinstance(depths, (list, tuple)) or any(not isinstance(n, int) or not 0 < n <= 1000 for n in depths):
            raise ValueError(f"depths of the configuration that belongs to {source} must be numbers of blocks, got "
                             f"{depths}")
        model = super().built_for(config, entries, source)
        for name, constant in model.state_dict().items():  # others would point nowhere
            if not constant.is_floating_point() and not torch.equal(constant, entries[name]):
                raise ValueError(f"{name} of {source} is not what it is in every {cls.__name__}: the file is damaged")
        return model


class RecursiveBlock(nn.Module):
    """One block, passed K times with the same weights (paper, Fig. 1b).

    Fig. 1b draws the encoder inside the block. In the released network the encoder runs once: what each pass takes
    in is the encoder's reduced output F_i, joined by what ASPP gathers from the previous state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.smooths = nn.ModuleList(
            nn.Conv3d(width, width, kernel_size=(1, 3, 3), padding=(0, 1, 1), bias=False) for _ in range(4)
        )
        self.aspps = nn.ModuleList(ASPP(width) for _ in range(4))
        self.fusions = nn.ModuleList(GatedFusion(width) for _ in range(4))

    def forward(self, encoded: list[Tensor], state: list[Tensor]) -> list[Tensor]:
        """One pass: `encoded` and `state` are 4 x (B, width, T, H_i, W_i), and so is the new state."""
        context = [aspp(f) for aspp, f in zip(self.aspps, state)]
        enriched = [smooth(r + c) for smooth, r, c in zip(self.smooths, encoded, context)]
        new = self.top_down(enriched)
        return [fuse(n, f) for fuse, n, f in zip(self.fusions, new, state)]

    def top_down(self, levels: list[Tensor]) -> list[Tensor]:
        """Carry coarse levels into finer ones; the coarsest also reaches the finest directly, and stays as it is."""
        x1, x2, x3, x4 = levels
        t3 = upsample(x4, 2) + x3
        t2 = upsample(t3, 2) + x2 + upsample(x4, 4)
        t1 = upsample(t2, 2) + x1 + upsample(x4, 8)
        return [smooth(t) for smooth, t in zip(self.smooths, (t1, t2, t3))] + [x4]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: four views of a level, a quarter of the channels each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([
            nn.Conv3d(width, width // 4, kernel_size=1),
            nn.Conv3d(width, width // 4, kernel_size=3, dilation=(1, 3, 3), padding=(1, 3, 3)),
            nn.Conv3d(width, width // 4, kernel_size=3, dilation=(1, 6, 6), padding=(1, 6, 6)),
            nn.Conv3d(width, width // 4, kernel_size=1),  # of the global average
        ])
        for conv in self.branches:
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (math.prod(conv.kernel_size) * conv.out_channels)))
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        point, near, far, overall = self.branches
        average = overall(x.mean(dim=(2, 3, 4), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return F.relu(torch.cat([point(x), near(x), far(x), average], dim=1))


class GatedFusion(nn.Module):
    """Mix the new state into the old by one learnt gate per position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Conv3d(width, 1, kernel_size=1)

    def forward(self, new: Tensor, old: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(new))  # (B, 1, T, H, W)
        return torch.lerp(old, new, g)     # g new + (1 - g) old


class Upsample(nn.Module):
    """`upsample` as a layer of a Sequential."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.factor)


def upsample(x: Tensor, factor: int) -> Tensor:
    """Enlarge height and width of (B, C, T, H, W) by `factor`, bilinearly; time stays."""
    x, frames = x.flatten(1, 2), x.shape[2]  # bilinear on C T channels takes 4 values, trilinear 8
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False).unflatten(1, (-1, frames))


def decoder(width: int, factor: int) -> nn.Sequential:
    """A head: time 8 -> 4 -> 2 -> 1, height and width times `factor`, one map out, (B, 1, 1, H, W) in (0, 1).

    The layers' positions are part of the released state dict: the last convolution is number 8 at factor 4, else 9.
    """
    widths = [width, width // 2, width // 4, width // 8]
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv3d(before, after, (2, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1), bias=False), nn.ReLU(),
                   Upsample(2)]
    if factor == 4:
        layers.pop()  # two doublings are enough
    layers.append(nn.Conv3d(widths[-1], 1, (1, 3, 3), padding=(0, 1, 1), bias=False))
    if factor > 8:
        layers.append(Upsample(factor // 8))
    return nn.Sequential(*layers, nn.Sigmoid())


def check_frame_stride(frame_stride: int) -> None:
    """Refuse what is not a number of frames."""
    if not 1 <= frame_stride <= 1000 or frame_stride != int(frame_stride):
        raise ValueError(f"frame_stride must be a whole number from 1 to 1000, got {frame_stride}")


def check_configuration(num_recursions: int, width: int, embed_dim: int, num_heads: tuple, drop_path: float) -> None:
    """Refuse what the network cannot be built from; the message names the value."""
    if width < 8 or width % 8:
        raise ValueError(f"width must be a multiple of 8, for the decoders halve it three times, got {width}")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path must be a probability, 0 or more and below 1, got {drop_path}")
    if not 0 <= num_recursions <= 100 or num_recursions != int(num_recursions):
        raise ValueError(f"num_recursions must be a whole number from 0 to 100, got {num_recursions}")
    if any(embed_dim * 2 ** i % heads for i, heads in enumerate(num_heads)):
        raise ValueError(f"every stage's channels, embed_dim {embed_dim} times 1, 2, 4, 8, must divide by its "
                         f"num_heads {tuple(num_heads)}")


def check_clip(clip: Tensor, clip_len: int) -> None:
    """Say what came and what is needed, before a convolution says it less clearly."""
    if clip.ndim != 5 or clip.shape[1] != 3:
        raise ValueError(f"clip must be (B, 3, T, H, W), got {tuple(clip.shape)}")
    _, _, t, h, w = clip.shape
    if t != clip_len:
        raise ValueError(f"clip must have T = {clip_len} frames, got {t}: {tuple(clip.shape)}; repeat the first frame "
                         "of a shorter video in front")
    if h % 32 or w % 32 or not h or not w:
        raise ValueError(f"clip must have H and W divisible by 32, got {h} x {w}: {tuple(clip.shape)}; "
                         "resize the frames, the paper's size is 224 x 384")


def infer_configuration(entries: dict[str, Tensor]) -> dict:
    """The sizes of the network a state dict (authors' names) belongs to."""
    blocks = [re.match(r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table$", name)
              for name in entries]
    blocks = sorted((int(m[1]), int(m[2])) for m in blocks if m)
    stages = sorted({stage for stage, _ in blocks})
    return {
        "width": entries["conv1.weight"].shape[0],
        "embed_dim": entries["backbone.patch_embed.proj.weight"].shape[0],
        "depths": tuple(sum(stage == s for s, _ in blocks) for stage in stages),
        "num_heads": tuple(entries[f"backbone.layers.{s}.blocks.0.attn.relative_position_bias_table"].shape[1]
                           for s in stages),
        "patch_norm": "backbone.patch_embed.norm.weight" in entries,
    }


def rename(name: str, table: dict[str, str]) -> str:
    """Replace the beginning of a name by the one the table has for it."""
    for old, new in table.items():
        if name.startswith(old):
            return new + name[len(old):]
    return name


def rename_entries(entries: dict, prefix: str, table: dict[str, str]) -> None:
    """Rename, in place and in order, the entries below `prefix`."""
    for name in list(entries):
        if name.startswith(prefix):
            entries[prefix + rename(name.removeprefix(prefix), table)] = entries.pop(name)


# Hooks of nn.Module, called with what PyTorch passes them.

def to_authors_names(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    rename_entries(state_dict, prefix, AUTHORS_NAMES)


def to_our_names(state_dict: dict, prefix: str, *unused) -> None:
    rename_entries(state_dict, prefix, OUR_NAMES)


def report_authors_names(module: nn.Module, incompatible_keys) -> None:
    for names in incompatible_keys:  # missing and unexpected; load_state_dict prints them
        names[:] = [rename(name, AUTHORS_NAMES) for name in names]
