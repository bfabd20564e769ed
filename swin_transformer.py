"""The encoder of RecSal-Net: Video Swin-S, and the translation of its pretrained weights' names.

Source: Liu et al., "Video Swin Transformer" (CVPR 2022); Woo et al. (Neurocomputing 650, 2025) use its four stages.
Tokens are kept as (B, T, H, W, C) inside; the stages come out as (B, C, T, H, W).
"""
import itertools
import math
import re

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weights import load_entries

Size3 = tuple[int, int, int]          # (T, H, W)
Order = tuple[Tensor, Tensor]         # of windows, those of one mask in a row; and back
Run = tuple[int, int, Tensor | None]  # first window of a mask, the one after its last, the mask


class SwinTransformer3D(nn.Module):
    """Video Swin: a clip in, the output of each stage out, before patch merging and without a norm.

    Args:
        embed_dim: channels of the first stage; each later stage has twice the channels of the one before.
        depths: blocks in each stage; every second one attends in shifted windows.
        num_heads: attention heads in each stage.
        window: attention window in tokens (T, H, W).
        patch_norm: LayerNorm after the patch embedding. RecSal-Net's authors have none, Kinetics weights do.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    def __init__(self, embed_dim: int = 96, depths: tuple = (2, 2, 18, 2), num_heads: tuple = (3, 6, 12, 24),
                 window: Size3 = (8, 7, 7), patch_norm: bool = False, drop_path: float = 0.2) -> None:
        super().__init__()
        self.dims = [embed_dim * 2 ** i for i in range(len(depths))]
        self.patch_embed = PatchEmbed(embed_dim, patch_norm)
        last = max(1, sum(depths) - 1)
        rates = iter(drop_path * block / last for block in range(sum(depths)))
        self.layers = nn.ModuleList(
            Stage(dim, heads, window, list(itertools.islice(rates, depth)), merge=dim != self.dims[-1])
            for dim, depth, heads in zip(self.dims, depths, num_heads)
        )
        # In the released state dict, but after the last output: it never receives a gradient, which
        # DistributedDataParallel would wait for, so it is frozen.
        self.norm = nn.LayerNorm(self.dims[-1]).requires_grad_(False)
        self.activation_checkpointing = False  # recompute blocks in the backward pass
        self.apply(initialise)

    def forward(self, clip: Tensor) -> list[Tensor]:
        """Encode a clip.

        Args:
            clip: (B, 3, T, H, W), normalised.

        Returns:
            One tensor a stage, (B, C_i, T / 2, H / 2^(i+1), W / 2^(i+1)) for i = 1 .. 4.
        """
        x = self.patch_embed(clip)  # (B, T/2, H/4, W/4, C)
        features = []
        for layer in self.layers:
            x = layer(x, self.activation_checkpointing)  # (B, T/2, H_i, W_i, C_i)
            features.append(rearrange(x, "b t h w c -> b c t h w"))
            x = layer.downsample(x)
        return features


class PatchEmbed(nn.Module):
    """Cut the clip into patches of 2 frames x 4 x 4 pixels and project each to `dim` channels."""

    def __init__(self, dim: int, patch_norm: bool) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, kernel_size=(2, 4, 4), stride=(2, 4, 4))
        self.norm = nn.LayerNorm(dim) if patch_norm else nn.Identity()

    def forward(self, clip: Tensor) -> Tensor:
        return self.norm(rearrange(self.proj(clip), "b c t h w -> b t h w c"))


class Stage(nn.Module):
    """Blocks at one resolution, and the patch merging that leads to the next (`downsample`, called by the encoder)."""

    def __init__(self, dim: int, heads: int, window: Size3, drop_paths: list[float], merge: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(Block(dim, heads, window, rate) for rate in drop_paths)
        self.downsample = PatchMerging(dim) if merge else nn.Identity()
        self._masks: dict[tuple, tuple[Order, list[Run]]] = {}  # of the last shape only

    def forward(self, x: Tensor, activation_checkpointing: bool = False) -> Tensor:
        size = tuple(x.shape[1:4])
        window, shift = fit_window(size, self.window)
        for i, block in enumerate(self.blocks):
            shifted = i % 2 == 1 and any(shift)
            args = (x, window, shift, *self.masks(size, window, shift, x.device)) if shifted else (x, window, (0, 0, 0))
            if activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *args, use_reentrant=False)
            else:
                x = block(*args)
        return x

    def masks(self, size: Size3, window: Size3, shift: Size3, device: torch.device) -> tuple[Order, list[Run]]:
        """The masks of shifted windows: they depend on no weight, so they are built once per shape."""
        key = (size, device)
        if key not in self._masks:
            with torch.inference_mode(False):  # else training could not use them afterwards
                masks, kinds = shift_masks(size, window, shift)
                order = kinds.argsort(stable=True)
                stops = kinds.bincount().cumsum(0).tolist()
                masks = [mask.to(device) if mask.any() else None for mask in masks]
                self._masks = {key: ((order.to(device), order.argsort().to(device)),
                                     list(zip([0, *stops], stops, masks)))}
        return self._masks[key]

    def _apply(self, *args, **kwargs):
        self._masks = {}  # moved to another device: let go
        return super()._apply(*args, **kwargs)


class PatchMerging(nn.Module):
    """Halve height and width, double the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w, _ = x.shape
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        # (even, even), (odd row, even) ..
        x = rearrange(x, "b t (h row) (w col) c -> b t h w (col row c)", row=2, col=2)
        return self.reduction(self.norm(x))


class DropPath(nn.Module):
    """Stochastic depth: in training, samples lose a branch with this probability; the others' is scaled up.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.probability)
        return x * kept.div_(1 - self.probability)


class Mlp(nn.Module):
    """Two linear layers, applied to each token; state dicts call them fc1 and fc2."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Window attention and MLP, each with a norm before and a skip connection around."""

    def __init__(self, dim: int, heads: int, window: Size3, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, window: Size3, shift: Size3, order: Order | None = None,
                runs: list[Run] | None = None) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x), window, shift, order, runs))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor, window: Size3, shift: Size3, order: Order | None, runs: list[Run] | None) -> Tensor:
        """Pad, roll, cut into windows, attend, and undo all that; x is (B, T, H, W, C)."""
        _, t, h, w, _ = x.shape
        pt, ph, pw = padded_size((t, h, w), window)
        if (pt, ph, pw) != (t, h, w):
            x = F.pad(x, (0, 0, 0, pw - w, 0, ph - h, 0, pt - t))
        x = roll(x, shift, -1)
        axes = {"t": pt // window[0], "h": ph // window[1], "w": pw // window[2], "wt": window[0], "wh": window[1],
                "ww": window[2]}
        windows = rearrange(x, "b (t wt) (h wh) (w ww) c -> (t h w) b (wt wh ww) c", **axes)
        windows = self.attn(windows) if order is None else self.attn(windows[order[0]], runs)[order[1]]
        x = rearrange(windows, "(t h w) b (wt wh ww) c -> b (t wt) (h wh) (w ww) c", **axes)
        return roll(x, shift, 1)[:, :t, :h, :w]


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of a window, with a learnt bias per relative position."""

    def __init__(self, dim: int, heads: int, window: Size3) -> None:
        super().__init__()
        self.heads = heads
        positions = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(positions, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self._bias: tuple | None = None  # (what it was built from, the bias)

    def forward(self, x: Tensor, runs: list[Run] | None = None) -> Tensor:
        """Attend within each window.

        Args:
            x: (windows, B, N, C), N tokens to a window.
            runs: of windows in a row that share a mask, which are attended to at once; None: no masks. No bias is ever
                repeated: one for each of the at most 8 masks, (heads, N, N), is broadcast over windows and batch. These
                sums are not kept: all of the encoder's are 0.6 GB in float32, as much as a forward pass needs.

        Returns:
            (windows, B, N, C)
        """
        windows, batch, n, _ = x.shape
        q, k, v = rearrange(self.qkv(x), "w b n (three heads d) -> three w b heads n d", three=3, heads=self.heads)
        bias, parts = self.position_bias(n, q.dtype), []  # (heads, N, N)
        for start, stop, mask in runs or [(0, windows, None)]:
            own_bias = bias if mask is None else bias + mask.to(bias)
            parts.append(attention(*(x[start:stop].flatten(0, 1) for x in (q, k, v)), own_bias))
        out = torch.cat(parts) if len(parts) > 1 else parts[0]  # (windows B, heads, N, d)
        return self.proj(rearrange(out, "(w b) heads n d -> w b n (heads d)", b=batch))

    def position_bias(self, n: int, dtype: torch.dtype) -> Tensor:
        """The bias of every pair of tokens, (heads, N, N); kept from call to call where no gradient is wanted.

        It is rebuilt after whatever changes the table: loading, moving, `train()` and `eval()`, a pass with
        gradients (fused optimisers do not count their writes), and every write that PyTorch counts.
        """
        table = self.relative_position_bias_table
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or table.is_inference():
            self._bias = None
            return self.build_position_bias(n).to(dtype)
        key = (n, dtype, table._version, table.data_ptr())
        if self._bias is None or self._bias[0] is not table or self._bias[1] != key:
            self._bias = (table, key, self.build_position_bias(n).to(dtype))
        return self._bias[2]

    def train(self, mode: bool = True):
        self._bias = None
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        self._bias = None
        return super()._apply(*args, **kwargs)

    def build_position_bias(self, n: int) -> Tensor:
        # A window that shrank to a small map takes the top left part of the index: the positions are then not the
        # true ones, but those the released weights were trained and scored with.
        index = self.relative_position_index[:n, :n]
        # Indexing would do, but its backward pass adds in whatever order threads come; a lookup's order is fixed.
        return rearrange(F.embedding(index, self.relative_position_bias_table), "n m heads -> heads n m").contiguous()


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention of (windows, heads, N, d), with a bias (heads, N, N)."""
    eager_inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and eager_inference:
        return attention_by_chunks(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])


def attention_by_chunks(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, chunk: int = 2 ** 21) -> Tensor:
    """The same written out, `chunk` scores at a time, which stay in the cache.

    On CPUs with AVX512-BF16 twice as fast as PyTorch's fused attention (2.15), which is no faster there than in
    float32. It rounds the scores to bfloat16 too, which the network's output does not notice.
    """
    step = max(1, chunk // bias.numel())
    k = (k * k.shape[-1] ** -0.5).transpose(-1, -2)
    parts = [(q[i:i + step] @ k[i:i + step]).add_(bias).softmax(-1) @ v[i:i + step] for i in range(0, len(q), step)]
    return torch.cat(parts)


def initialise(module: nn.Module) -> None:
    """Swin's initialisation: truncated normal of std 0.02 for linear layers and bias tables, zero biases."""
    if isinstance(module, nn.Linear):
        truncated_normal(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        truncated_normal(module.relative_position_bias_table)


@torch.no_grad()
def truncated_normal(tensor: Tensor) -> None:
    """Draw from a normal distribution of std 0.02, by its inverse: a seed gives the same numbers in every PyTorch."""
    tensor.uniform_(-1, 1).erfinv_().mul_(0.02 * math.sqrt(2)).clamp_(-2, 2)


def fit_window(size: Size3, window: Size3) -> tuple[Size3, Size3]:
    """The window and its shift on a map of this size: along an axis no larger than the window, it shrinks and stays."""
    fitted = tuple(min(s, w) for s, w in zip(size, window))
    shift = tuple(w // 2 if s > w else 0 for s, w in zip(size, window))
    return fitted, shift


def padded_size(size: Size3, window: Size3) -> Size3:
    """The size rounded up to whole windows."""
    return tuple(-(-s // w) * w for s, w in zip(size, window))


def roll(x: Tensor, shift: Size3, sign: int) -> Tensor:
    """Roll (B, T, H, W, C) along time, height and width."""
    return torch.roll(x, [sign * s for s in shift], dims=(1, 2, 3)) if any(shift) else x


def shift_masks(size: Size3, window: Size3, shift: Size3) -> tuple[Tensor, Tensor]:
    """What the roll brought together from different sides of the map must not attend to each other.

    Most windows hold one side only, and those at the end of an axis mix sides in the same way: at most 8 kinds.

    Returns:
        (kinds, N, N), -100 between tokens of different sides, else 0; and each window's kind, (windows,) int64.
    """
    side = torch.zeros(padded_size(size, window), dtype=torch.long)
    slices = [(slice(0, -w), slice(-w, -s), slice(-s, None)) if s else (slice(None),) for w, s in zip(window, shift)]
    for number, (t, h, w) in enumerate(itertools.product(*slices)):
        side[t, h, w] = number
    wt, wh, ww = window
    side = rearrange(side, "(t wt) (h wh) (w ww) -> (t h w) (wt wh ww)", wt=wt, wh=wh, ww=ww)
    # Named after the side's first token, windows that mix sides alike look alike.
    first = (side[:, :, None] == side[:, None, :]).byte().argmax(2)  # (windows, N)
    first, kinds = first.unique(dim=0, return_inverse=True)
    return -100.0 * (first[:, :, None] != first[:, None, :]), kinds


def relative_position_index(window: Size3) -> Tensor:
    """Row of the bias table for each pair of tokens of a full window, (N, N) int64; tokens count in (t, h, w) order."""
    axes = torch.meshgrid(*(torch.arange(n) for n in window), indexing="ij")
    position = torch.stack(axes).flatten(1)               # (3, N)
    offset = position[:, :, None] - position[:, None, :]  # (3, N, N), from -(n - 1) to n - 1
    dt, dh, dw = (offset[i] + window[i] - 1 for i in range(3))
    return (dt * (2 * window[1] - 1) + dh) * (2 * window[2] - 1) + dw


# Pretrained weights. Entries that a file may hold and the encoder has no place for: the classifier, 2-D leftovers.
CLASSIFIER = ("cls_head.", "head.")
REBUILT = ("relative_position_index", "attn_mask")


def load_encoder(encoder: SwinTransformer3D, entries: dict[str, Tensor], source: str) -> list[str]:
    """Load pretrained weights, whichever of three programs they come from.

    Args:
        encoder: the encoder to fill.
        entries: names and tensors of (a) the authors' Kinetics file (`backbone.*`, `cls_head.*`), (b) torchvision's
            `swin3d_s`, or (c) a 2-D Swin of timm, inflated over time.
        source: where they come from, for the error message.

    Returns:
        The names of the entries that were left out on purpose: classifier, and the patch norm where the encoder has
        none.

    Raises:
        ValueError: an entry is missing, left over or of another shape; the message names it.
    """
    entries, dropped = split_expected(translate(entries, encoder), has_patch_norm(encoder))
    own = {name: t for name, t in encoder.state_dict().items() if name.rsplit(".", 1)[-1] in REBUILT}
    load_entries(encoder, {**own, **entries}, source)
    return dropped


def split_expected(entries: dict[str, Tensor], patch_norm: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Take out the entries that this encoder may leave unused; returns the others and the names taken out."""
    unused = CLASSIFIER if patch_norm else (*CLASSIFIER, "patch_embed.norm.")
    dropped = [name for name in entries if name.startswith(unused)]
    return {name: t for name, t in entries.items() if name not in dropped}, dropped


def has_patch_norm(encoder: SwinTransformer3D) -> bool:
    return isinstance(encoder.patch_embed.norm, nn.LayerNorm)


def translate(entries: dict[str, Tensor], encoder: SwinTransformer3D) -> dict[str, Tensor]:
    """Bring the entries of any of the three kinds of file to this encoder's names and shapes."""
    if any(name.startswith("backbone.") for name in entries):
        return {name.removeprefix("backbone."): t for name, t in entries.items()}
    if any(name.startswith("features.") for name in entries):
        return {rename_torchvision(name): t for name, t in without_rebuilt(entries).items()}
    patch = entries.get("patch_embed.proj.weight")
    if patch is not None and patch.ndim == 4:
        return inflate(rename_timm(without_rebuilt(entries)), encoder)
    return entries


def without_rebuilt(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the indices and masks that follow from the window and are laid out differently elsewhere."""
    return {name: t for name, t in entries.items() if name.rsplit(".", 1)[-1] not in REBUILT}


def rename_torchvision(name: str) -> str:
    """`features.4.1.mlp.3.bias` -> `layers.2.blocks.1.mlp.fc2.bias`; odd `features` are patch mergings."""
    name = re.sub(r"^features\.(\d)\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.", name)
    name = re.sub(r"^features\.(\d)\.", lambda m: f"layers.{int(m[1]) // 2}.downsample.", name)
    return name.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")


def rename_timm(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm merges patches at the start of stages 2 to 4, Video Swin (and Swin's first files) at the end of 1 to 3."""
    if any(name.startswith("layers.0.downsample.") for name in entries):
        return entries
    at_end = {name: re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name)
              for name in entries}
    return {at_end[name]: t for name, t in entries.items()}


def inflate(entries: dict[str, Tensor], encoder: SwinTransformer3D) -> dict[str, Tensor]:
    """Spread 2-D weights over time so that a still clip gives what the still image gave.

    Source: Video Swin Transformer, section 3.4: the patch kernel is repeated and divided by its length in time, the
    bias table repeated for every distance in time.
    """
    inflated = dict(entries)
    length = encoder.patch_embed.proj.kernel_size[0]
    kernel = entries["patch_embed.proj.weight"]  # (C, 3, 4, 4)
    inflated["patch_embed.proj.weight"] = kernel[:, :, None].repeat(1, 1, length, 1, 1) / length
    distances = 2 * encoder.layers[0].window[0] - 1
    for name in entries:
        if name.endswith("relative_position_bias_table"):
            inflated[name] = entries[name].repeat(distances, 1)
    return inflated
