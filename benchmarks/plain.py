"""The plain formulation that every speed here is a ratio to: RecSal-Net as one would first write it. Frozen.

Float32, one clip at a time, default memory layout, softmax attention written out, position bias and shift mask built
again in each forward pass, frames decoded by one thread, OpenCV for what follows the network, loops over fixations for
the measures. It takes a state dict with the authors' names and shares no code with `model.py`, so no change there can
make it faster.
"""
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

HEADS, DEPTHS, WINDOW = (3, 6, 12, 24), (2, 2, 18, 2), (8, 7, 7)
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


# The network

def forward(weights: dict[str, Tensor], clip: Tensor, num_recursions: int = 2) -> Tensor:
    """The saliency map, (B, H, W), of the last frame of a clip, (B, 3, 32, H, W).

    Args:
        weights: a state dict with the authors' names, of the published sizes (`HEADS`, `DEPTHS`).
    """
    conv = lambda name, x, **options: F.conv3d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), **options)
    features = encoder(weights, clip)
    reduced = [conv(f"conv{i}", f, stride=(2, 1, 1)) for i, f in enumerate(features, start=1)]
    state = top_down(conv, reduced)
    for _ in range(num_recursions):
        context = [r + aspp(conv, i, f) for i, (r, f) in enumerate(zip(reduced, state), start=1)]
        new = top_down(conv, [conv(f"convs{i}", c, padding=(0, 1, 1)) for i, c in enumerate(context, start=1)])
        state = [fuse(conv, i, n, f) for i, (n, f) in enumerate(zip(new, state), start=1)]
    maps = torch.cat([head(conv, i, f) for i, f in enumerate(state, start=1)], dim=1)
    return torch.sigmoid(conv("convout.0", maps, padding=(0, 1, 1)))[:, 0, 0]


def top_down(conv, levels: list[Tensor]) -> list[Tensor]:
    x1, x2, x3, x4 = levels
    t3 = enlarge(x4, 2) + x3
    t2 = enlarge(t3, 2) + x2 + enlarge(x4, 4)
    t1 = enlarge(t2, 2) + x1 + enlarge(x4, 8)
    return [conv(f"convs{i}", t, padding=(0, 1, 1)) for i, t in enumerate((t1, t2, t3), start=1)] + [x4]


def aspp(conv, level: int, x: Tensor) -> Tensor:
    name = f"aspp{level}.aspp"
    branches = [conv(f"{name}.0", x)] + [conv(f"{name}.{i}", x, dilation=(1, d, d), padding=(1, d, d))
                                         for i, d in ((1, 3), (2, 6))]
    average = conv(f"{name}.3", F.adaptive_avg_pool3d(x, 1))
    return torch.cat([F.relu(branch) for branch in (*branches, average.expand_as(branches[0]))], dim=1)


def fuse(conv, level: int, new: Tensor, old: Tensor) -> Tensor:
    gate = torch.sigmoid(conv(f"fusion{level}.weight", new))
    return gate * new + (1 - gate) * old


def head(conv, level: int, x: Tensor) -> Tensor:
    for index in (0, 3, 6):
        x = F.relu(conv(f"convtsp{level}.{index}", x, stride=(2, 1, 1), padding=(0, 1, 1)))
        if index < 6 or level > 1:
            x = enlarge(x, 2)
    x = conv(f"convtsp{level}.{8 if level == 1 else 9}", x, padding=(0, 1, 1))
    return torch.sigmoid(enlarge(x, {1: 1, 2: 1, 3: 2, 4: 4}[level]))


def enlarge(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=(1, factor, factor), mode="trilinear",
                                               align_corners=False)


# Its encoder

def encoder(weights: dict[str, Tensor], clip: Tensor) -> list[Tensor]:
    x = F.conv3d(clip, weights["backbone.patch_embed.proj.weight"], weights["backbone.patch_embed.proj.bias"],
                 stride=(2, 4, 4))
    x, features = x.permute(0, 2, 3, 4, 1), []
    for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS)):
        for i in range(depth):
            x = block(weights, f"backbone.layers.{stage}.blocks.{i}", x, heads, shifted=i % 2 == 1)
        features.append(x.permute(0, 4, 1, 2, 3).contiguous())
        if stage < 3:
            x = merge(weights, f"backbone.layers.{stage}.downsample", x)
    return features


def block(weights: dict[str, Tensor], name: str, x: Tensor, heads: int, shifted: bool) -> Tensor:
    linear = lambda layer, x: F.linear(x, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"])
    norm = lambda layer, x: F.layer_norm(x, x.shape[-1:], weights[f"{name}.{layer}.weight"],
                                         weights[f"{name}.{layer}.bias"])
    size = x.shape[1:4]
    window = [min(s, w) for s, w in zip(size, WINDOW)]
    shift = [w // 2 if shifted and s > w else 0 for s, w in zip(size, WINDOW)]
    padding = [-s % w for s, w in zip(size, window)]
    y = F.pad(norm("norm1", x), (0, 0, 0, padding[2], 0, padding[1], 0, padding[0]))
    padded = y.shape[1:4]
    y = torch.roll(y, [-s for s in shift], dims=(1, 2, 3))
    y = attention(weights, f"{name}.attn", linear, partition(y, window), heads,
                  shift_mask(padded, window, shift).to(y) if any(shift) else None)
    y = torch.roll(reverse(y, window, x.shape[0], padded), shift, dims=(1, 2, 3))
    x = x + y[:, :size[0], :size[1], :size[2]]
    return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))


def attention(weights: dict[str, Tensor], name: str, linear, x: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention written out; x is (B windows, N, C)."""
    count, n, channels = x.shape
    q, k, v = linear("attn.qkv", x).view(count, n, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    scores = (q * (channels // heads) ** -0.5) @ k.transpose(-2, -1)  # (B windows, heads, N, N)
    index = weights[f"{name}.relative_position_index"][:n, :n].reshape(-1)
    scores = scores + weights[f"{name}.relative_position_bias_table"][index].view(n, n, heads).permute(2, 0, 1)
    if mask is not None:
        scores = (scores.view(-1, len(mask), heads, n, n) + mask[:, None]).view(count, heads, n, n)
    return linear("attn.proj", (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, n, channels))


def partition(x: Tensor, window: list[int]) -> Tensor:
    b, t, h, w, c = x.shape
    x = x.view(b, t // window[0], window[0], h // window[1], window[1], w // window[2], window[2], c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, window[0] * window[1] * window[2], c)


def reverse(x: Tensor, window: list[int], b: int, size: tuple[int, int, int]) -> Tensor:
    counts = [s // w for s, w in zip(size, window)]
    return x.view(b, *counts, *window, -1).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, *size, -1)


def shift_mask(size: tuple[int, int, int], window: list[int], shift: list[int]) -> Tensor:
    regions = torch.zeros(1, *size, 1)
    slices = [(slice(0, -w), slice(-w, -s), slice(-s, None)) if s else (slice(None),) for w, s in zip(window, shift)]
    for number, (t, h, w) in enumerate(itertools.product(*slices)):
        regions[:, t, h, w] = number
    regions = partition(regions, window)[..., 0]
    return torch.where(regions[:, None] == regions[:, :, None], 0.0, -100.0)


def merge(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
    x = torch.cat([x[:, :, 0::2, 0::2], x[:, :, 1::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 1::2]], dim=-1)
    x = F.layer_norm(x, x.shape[-1:], weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
    return F.linear(x, weights[f"{name}.reduction.weight"])


# Before and after it

def prepare(path: Path, size: tuple[int, int]) -> Tensor:
    """Decode a frame, resize and normalise it: (3, h, w)."""
    frame = Image.open(path).convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return (torch.from_numpy(np.array(frame)).permute(2, 0, 1).float() / 255 - MEAN) / STD


def finish(saliency: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Resize a map, (h, w), to the frame's size, and blur it: (H, W) float32."""
    resized = cv2.resize(saliency.cpu().numpy(), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(resized, (11, 11), 0)


def write(path: Path, saliency: np.ndarray) -> None:
    """Stretch a map to 8 bits and save it as PNG."""
    spread = saliency.max() - saliency.min()
    Image.fromarray(np.round(255 * (saliency - saliency.min()) / (spread or 1)).astype(np.uint8)).save(path)


@torch.no_grad()
def saliency_maps(weights: dict[str, Tensor], paths: list[Path], size: tuple[int, int],
                  device: torch.device) -> Iterator[np.ndarray]:
    """One map a frame, one clip after the other: each frame is decoded once, and each clip stacked and copied again."""
    window: list[Tensor] = []
    for path in paths:
        frame = prepare(path, size)
        window = [*(window or [frame] * 31)[-31:], frame]
        with Image.open(path) as image:
            width, height = image.size
        yield finish(forward(weights, torch.stack(window, dim=1)[None].to(device))[0], (height, width))
