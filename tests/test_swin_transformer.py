import itertools

import pytest
import timm.models.swin_transformer as timm_swin
import torch
import torch.nn.functional as F
from conftest import needs_bfloat16
from parity import fill
from torch import nn
from torchvision.models.video import swin3d_s

from swin_transformer import (
    Stage,
    SwinTransformer3D,
    attention,
    attention_by_chunks,
    fit_window,
    load_encoder,
    relative_position_index,
    shift_masks,
)

SMALL = {"embed_dim": 12, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 2, 2)}


def small(**changes):
    torch.manual_seed(0)
    return SwinTransformer3D(**{**SMALL, **changes}).eval()


def redraw(module):
    """Give every parameter, biases and norms too, a value that matters."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


def stages_of_torchvision(model, clip):
    outputs = []
    x = model.patch_embed(clip)
    for i, layer in enumerate(model.features):
        x = layer(x)
        if i % 2 == 0:                                                     # stages; odd ones merge patches
            outputs.append(x.permute(0, 4, 1, 2, 3))
    return outputs


# Windows, by hand

def test_a_window_shrinks_to_a_small_map_and_does_not_shift_there():
    assert fit_window((16, 7, 20), (8, 7, 7)) == ((8, 7, 7), (4, 0, 3))
    assert fit_window((1, 2, 3), (8, 7, 7)) == ((1, 2, 3), (0, 0, 0))


def test_relative_position_index_follows_its_formula():
    index, tokens = relative_position_index((8, 7, 7)), list(itertools.product(range(8), range(7), range(7)))
    for i, j in ((0, 0), (0, 391), (391, 0), (57, 203)):
        dt, dh, dw = (a - b for a, b in zip(tokens[i], tokens[j]))
        assert index[i, j] == (dt + 7) * 169 + (dh + 6) * 13 + (dw + 6)


def test_shift_mask_parts_tokens_that_only_the_roll_brought_together():
    masks, kinds = shift_masks((1, 1, 8), (1, 1, 2), (0, 0, 1))            # four windows of two tokens, rolled by one
    assert [masks[kind].tolist() for kind in kinds] == [[[0, 0], [0, 0]]] * 3 + [[[0, -100], [-100, 0]]]


def test_windows_that_mix_sides_alike_share_a_mask():
    masks, kinds = shift_masks((16, 56, 96), (8, 7, 7), (4, 3, 3))         # the first stage at 224 x 384
    assert len(masks) == 8 and sum(not mask.any() for mask in masks) == 1
    assert kinds.bincount().sort().values.tolist() == [1, 1, 7, 7, 13, 13, 91, 91]  # of 2 x 8 x 14, the last of each axis mixed


def test_windows_of_one_mask_are_attended_to_at_once_and_return_to_their_places():
    stage = Stage(4, 1, (8, 7, 7), [0.0, 0.0], merge=False)
    (order, back), runs = stage.masks((16, 56, 96), (8, 7, 7), (4, 3, 3), torch.device("cpu"))
    assert torch.equal(order[back], torch.arange(224)) and [stop for _, stop, _ in runs][-1] == 224 and len(runs) == 8
    masks, kinds = shift_masks((16, 56, 96), (8, 7, 7), (4, 3, 3))
    assert all((masks[kinds[w]] == (0 if mask is None else mask)).all() for start, stop, mask in runs for w in order[start:stop])


# Weights from other programs

def test_torchvisions_swin3d_s_gives_the_same_stage_outputs_with_converted_weights():
    torch.manual_seed(0)
    theirs = swin3d_s(weights=None).eval()
    redraw(theirs)
    ours = SwinTransformer3D(patch_norm=True).eval()
    dropped = load_encoder(ours, theirs.state_dict(), "torchvision")
    assert dropped == ["head.weight", "head.bias"]
    clip = fill.clip((1, 3, 32, 72, 100))                                  # pads windows and odd maps
    with torch.no_grad():
        for mine, other in zip(ours(clip), stages_of_torchvision(theirs, clip)):
            assert mine.shape == other.shape
            assert (mine - other).abs().max() < 1e-5 * other.abs().max().clamp(min=1)


def test_an_inflated_swin_of_timm_sees_in_a_still_clip_what_it_saw_in_the_image():
    torch.manual_seed(0)
    theirs = timm_swin.SwinTransformer(img_size=224, embed_dim=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 2)).eval()
    redraw(theirs)
    ours, from_early_names = (small(depths=(2, 2, 2, 2), patch_norm=True) for _ in range(2))
    entries = theirs.state_dict()
    load_encoder(ours, entries, "timm")
    early_names = {name.replace(f"layers.{i}.down", f"layers.{i - 1}.down") if ".downsample." in name else name: t  # Swin's first files merge at the end of a stage
                   for name, t in entries.items() for i in [int(name.split(".")[1]) if name.startswith("layers.") else 0]}
    assert early_names.keys() != entries.keys()
    load_encoder(from_early_names, early_names, "timm")
    assert all(torch.equal(t, from_early_names.state_dict()[name]) for name, t in ours.state_dict().items())
    image = fill.clip((1, 3, 224, 224))
    with torch.no_grad():
        x, expected = theirs.patch_embed(image), []
        for layer in theirs.layers:
            x = layer.blocks(layer.downsample(x))
            expected.append(x.permute(0, 3, 1, 2))
        features = ours(image[:, :, None].expand(-1, -1, 32, -1, -1))
    for feature, stage in zip(features, expected):
        assert feature.shape[2] == 16
        assert (feature - stage[:, :, None]).abs().max() < 1e-4


def kinetics_file(encoder):
    """The authors' layout: a prefix, a classifier, and a patch norm that RecSal-Net leaves out."""
    entries = {f"backbone.{name}": t for name, t in encoder.state_dict().items()}
    return {**entries, "backbone.patch_embed.norm.weight": torch.ones(12), "backbone.patch_embed.norm.bias": torch.zeros(12),
            "cls_head.fc_cls.weight": torch.zeros(400, 96), "cls_head.fc_cls.bias": torch.zeros(400)}


def test_the_kinetics_file_loads_without_its_classifier_and_patch_norm():
    source, target = small(), small()
    redraw(source)
    dropped = load_encoder(target, kinetics_file(source), "file")
    assert dropped == ["patch_embed.norm.weight", "patch_embed.norm.bias", "cls_head.fc_cls.weight", "cls_head.fc_cls.bias"]
    assert all(torch.equal(t, source.state_dict()[name]) for name, t in target.state_dict().items())


def test_patch_norm_is_filled_where_the_encoder_has_one():
    target = small(patch_norm=True)
    entries = kinetics_file(small()) | {"backbone.patch_embed.norm.bias": torch.full((12,), 7.0)}
    load_encoder(target, entries, "file")
    assert torch.equal(target.patch_embed.norm.bias, torch.full((12,), 7.0))


@pytest.mark.parametrize("spoil, said", [
    (lambda e: e.pop("backbone.layers.1.blocks.0.mlp.fc1.bias"), "missing: layers.1.blocks.0.mlp.fc1.bias"),
    (lambda e: e.update({"backbone.layers.9.x": torch.zeros(1)}), "left over: layers.9.x"),
    (lambda e: e.update({"backbone.norm.bias": torch.zeros(3)}), r"of another shape: norm.bias \(3,\), expected \(96,\)"),
])
def test_an_entry_that_does_not_fit_the_encoder_is_named(spoil, said):
    entries = kinetics_file(small())
    spoil(entries)
    with pytest.raises(ValueError, match=said):
        load_encoder(small(), entries, "file")


# Attention

@pytest.mark.parametrize("windows, chunk", [(1, 1), (5, 1), (5, 2 * 3 * 7 * 7), (6, 10 ** 9)])
def test_attention_by_chunks_is_attention(windows, chunk):
    q, k, v = torch.randn(3, windows, 3, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bias = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(attention_by_chunks(q, k, v, bias, chunk), attention(q, k, v, bias), atol=1e-12)


@needs_bfloat16
def test_in_bfloat16_attention_errs_less_than_twice_as_much_as_pytorchs_fused_one():
    q, k, v = torch.randn(3, 5, 3, 98, 32, generator=torch.Generator().manual_seed(0))
    bias = torch.randn(3, 98, 98, generator=torch.Generator().manual_seed(1))
    exact = attention(q, k, v, bias)
    q, k, v, bias = (x.bfloat16() for x in (q, k, v, bias))
    with torch.no_grad():
        ours, fused = ((x.float() - exact).square().mean().sqrt() for x in (attention(q, k, v, bias), F.scaled_dot_product_attention(q, k, v, bias[None])))
    assert attention(q, k, v, bias).dtype == torch.bfloat16 and ours < 2 * fused


# What is kept from call to call

CLIP = fill.clip((1, 3, 32, 64, 96))


def output(encoder):
    with torch.no_grad():
        return encoder(CLIP.to(next(encoder.parameters()).dtype))[-1]


def attentions(encoder):
    return [module for module in encoder.modules() if hasattr(module, "position_bias")]


def fresh(encoder):
    """The same weights in an encoder that has kept nothing."""
    other = small().to(next(encoder.parameters()).dtype)
    other.load_state_dict(encoder.state_dict())
    return output(other)


def test_masks_and_biases_are_built_once_per_shape_in_inference():
    encoder = small()
    output(encoder)
    kept = [a._bias[2] for a in attentions(encoder)], [list(layer._masks.values()) for layer in encoder.layers]
    assert any(kept[1])
    output(encoder)
    assert all(a._bias[2] is bias for a, bias in zip(attentions(encoder), kept[0]))
    assert all(x is y for layer, masks in zip(encoder.layers, kept[1]) for x, y in zip(layer._masks.values(), masks))


@pytest.mark.parametrize("fused", [False, True])                           # PyTorch does not count what fused optimisers write
def test_an_optimiser_step_is_seen_in_the_next_inference(fused):
    encoder = small()
    output(encoder)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.1, fused=fused)
    encoder(CLIP)[-1].square().mean().backward()
    optimizer.step()
    assert torch.equal(output(encoder), fresh(encoder))


def test_loaded_weights_are_seen_in_the_next_inference():
    encoder, other = small(), small()
    redraw(other)
    output(encoder)
    encoder.load_state_dict(other.state_dict())
    assert torch.equal(output(encoder), output(other))


def test_weights_that_replace_the_parameters_themselves_are_seen_in_the_next_inference():
    encoder, other = small(), small()
    redraw(other)
    output(encoder)
    encoder.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(output(encoder), output(other))


def test_weights_written_behind_pytorchs_back_are_seen_after_eval():
    encoder, other = small(), small()
    redraw(other)
    output(encoder)
    for p, q in zip(encoder.parameters(), other.parameters()):
        p.data.copy_(q)
    assert torch.equal(output(encoder.eval()), output(other))


def test_another_dtype_is_seen_in_the_next_inference():
    encoder = small()
    before = output(encoder)
    after = output(encoder.double())
    assert after.dtype == torch.float64 and torch.equal(after, fresh(encoder))
    assert (after - before).abs().max() < 1e-4
    assert torch.equal(output(encoder.float()), before)


def test_moving_to_another_device_lets_go_of_masks_and_biases():
    encoder = small()
    output(encoder)
    moved = encoder.to("meta")
    with torch.no_grad():
        assert moved(CLIP.to("meta"))[-1].device.type == "meta"


def test_another_shape_gets_its_own_mask():
    encoder = small()
    output(encoder)
    with torch.no_grad():
        larger = encoder(fill.clip((1, 3, 32, 96, 64)))[-1]
        assert torch.equal(larger, small()(fill.clip((1, 3, 32, 96, 64)))[-1])


def test_training_works_after_inference_mode():
    encoder = small()
    with torch.inference_mode():
        encoder(CLIP)
    encoder(CLIP)[-1].sum().backward()
    assert attentions(encoder)[1].relative_position_bias_table.grad.abs().sum() > 0


def test_the_last_norm_is_frozen_for_it_never_gets_a_gradient():
    assert [name for name, p in small().named_parameters() if not p.requires_grad] == ["norm.weight", "norm.bias"]


def test_blocks_of_a_stage_alternate_between_plain_and_shifted_windows():
    stage, shifts = Stage(12, 1, (8, 7, 7), [0.0] * 3, merge=False), []
    for block in stage.blocks:
        block.forward = lambda x, window, shift, order=None, runs=None: (shifts.append((shift, runs is None)), x)[1]
    stage(torch.zeros(1, 16, 14, 14, 12))
    assert shifts == [((0, 0, 0), True), ((4, 3, 3), False), ((0, 0, 0), True)]
    assert isinstance(stage.downsample, nn.Identity)
