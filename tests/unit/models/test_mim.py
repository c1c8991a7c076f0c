"""The masked autoencoder: masks follow the noise, and the lean computation is MAE's."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from vea.config import DecoderConfig, EncoderConfig
from vea.errors import VeaError
from vea.models.mim import MaskedAutoencoder
from vea.models.vit import build_encoder, sincos_positions
from vea.models.weight_files import read_weight_file
from vea.models.weights import import_mae, load_encoder

ENCODER = EncoderConfig(
    name="vit_base_patch16_224", args={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
)
DECODER = DecoderConfig(width=24, depth=2, heads=3)
B, N, SIDE = 3, 16, 32


def build(**changes):
    torch.manual_seed(0)
    return MaskedAutoencoder(**{"encoder": ENCODER, "decoder": DECODER, "image_size": SIDE, **changes})


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, 3, SIDE, SIDE, generator=generator), torch.rand(B, N, generator=generator)


def reference_forward(mim, images, noise):
    """MAE as the paper and its code have it: embed all patches, mask, restore the order, predict every patch."""
    encoder = mim.encoder
    x = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
    shuffle = noise.argsort(1)
    restore = shuffle.argsort(1)
    kept = shuffle[:, : mim.num_kept]
    x = torch.stack([x[i, kept[i]] for i in range(len(x))])
    x = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
    latent = encoder.norm(nn.Sequential(*encoder.blocks)(x))
    y = mim.decoder_embed(latent)
    cls_projected = y[:, 0]
    full = torch.cat([y[:, 1:], mim.mask_token.expand(len(y), N - mim.num_kept, -1)], 1)
    full = torch.stack([full[i, restore[i]] for i in range(len(y))])
    y = torch.cat([y[:, :1], full], 1) + mim.decoder_pos_embed
    for block in mim.decoder_blocks:
        y = block(y)
    prediction = mim.decoder_pred(mim.decoder_norm(y))[:, 1:]
    target = torch.einsum("nchpwq->nhwpqc", images.reshape(B, 3, 4, 8, 4, 8)).reshape(B, N, -1)
    mask = (restore >= mim.num_kept).float()
    loss = ((prediction - target).square().mean(-1) * mask).sum() / mask.sum()
    return loss, prediction, mask, cls_projected


def test_the_lean_forward_and_its_gradients_are_maes(inputs):
    mim = build()
    output = mim(inputs[0], noise=inputs[1])
    loss, prediction, mask, cls_projected = reference_forward(mim, *inputs)
    assert torch.equal(output.mask, mask)
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.allclose(output.prediction, prediction, atol=1e-5)
    assert torch.allclose(output.cls_projected, cls_projected, atol=1e-5)
    parameters = [parameter for parameter in mim.parameters() if parameter.requires_grad]
    for own, expected in zip(torch.autograd.grad(output.loss, parameters), torch.autograd.grad(loss, parameters)):
        assert torch.allclose(own, expected, atol=1e-6)


@pytest.mark.parametrize("class_token_only", [False, True])
def test_the_last_block_makes_what_is_asked_for_and_the_same_as_timms(inputs, class_token_only):
    mim = build(class_token_only=class_token_only).double()
    images, noise = (part.double() for part in inputs)
    encoded = mim.encode(images, noise)
    removed = mim.decode(mim.project(encoded.latent), encoded.order)
    tokens = torch.randn(B, 1 + N, 24, dtype=torch.float64)
    *_, last = mim.decoder_blocks
    whole = Block.forward(last, tokens)
    for wanted in (slice(1), slice(1 + mim.num_kept, None)):
        assert torch.allclose(last(tokens, wanted), whole[:, wanted], atol=1e-12)
    assert removed.shape == (B, N - mim.num_kept, 192)
    everything = mim.decode(mim.project(encoded.latent), encoded.order, visible_too=True)
    assert torch.allclose(removed, everything[:, mim.num_kept :], atol=1e-12)
    assert (removed == removed[:, :1]).all() == class_token_only


@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.9])
def test_the_patches_with_the_lowest_noise_stay(inputs, ratio):
    images, noise = inputs
    mask = build(mask_ratio=ratio)(images, noise=noise).mask
    assert ((mask == 0).sum(1) == int(N * (1 - ratio))).all()
    for row in range(B):
        assert noise[row][mask[row] == 0].max() < noise[row][mask[row] == 1].min()


def test_removed_pixels_do_not_reach_the_encoder(inputs):
    images, noise = inputs
    mim = build()
    removed = mim.unpatchify(mim.mask(noise.argsort(1))[..., None].expand(-1, -1, 192))
    changed = torch.where(removed > 0, torch.full_like(images, 9.0), images)
    assert torch.equal(mim.encode(images, noise).latent, mim.encode(changed, noise).latent)


def test_unpatchify_undoes_patchify(inputs):
    mim = build()
    assert torch.equal(mim.unpatchify(mim.patchify(inputs[0])), inputs[0])


@pytest.mark.parametrize("norm_pix", [False, True])
def test_reconstruct_keeps_visible_pixels_and_blanks_removed_ones(inputs, norm_pix):
    images, noise = inputs
    mim = build(norm_pix=norm_pix).eval()
    masked, filled = mim.reconstruct(images, noise=noise)
    removed = mim.unpatchify(mim.mask(noise.argsort(1))[..., None].expand(-1, -1, 192)) > 0
    assert torch.equal(masked[~removed], images[~removed]) and masked[removed].abs().max() == 0
    assert torch.equal(filled[~removed], images[~removed])
    assert filled[removed].std() > 0


def test_checkpointing_changes_no_gradient(inputs):
    gradients = []
    for checkpointing in (False, True):
        mim = build(checkpointing=checkpointing)
        mim(inputs[0], noise=inputs[1]).loss.backward()
        gradients.append([parameter.grad for parameter in mim.parameters() if parameter.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_positions_are_fixed_and_those_of_mae():
    mim = build()
    assert not mim.encoder.pos_embed.requires_grad
    table = sincos_positions(8, grid=(2, 3))[0]
    assert table.shape == (7, 8) and table[0].abs().max() == 0
    row, column = 1, 2  # the last patch
    wave = [torch.tensor([coordinate * 10000 ** (-i / 2) for i in range(2)]) for coordinate in (column, row)]
    expected = torch.cat([wave[0].sin(), wave[0].cos(), wave[1].sin(), wave[1].cos()])
    assert torch.allclose(table[-1], expected, atol=1e-6)
    with pytest.raises(VeaError, match="multiple of 4"):
        sincos_positions(10, grid=(2, 2))


def test_weights_start_as_in_mae():
    mim = MaskedAutoencoder(
        EncoderConfig(args={"patch_size": 8, "embed_dim": 192, "depth": 1, "num_heads": 3}),
        decoder=DecoderConfig(width=96, depth=1, heads=3),
        image_size=64,
    )
    xavier = (2 / (192 + 192)) ** 0.5  # the deviation of xavier's uniform distribution; a patch has 192 pixels
    assert mim.encoder.patch_embed.proj.weight.std().item() == pytest.approx(xavier, rel=0.03)
    assert mim.encoder.cls_token.std().item() == pytest.approx(0.02, rel=0.25)
    assert mim.mask_token.std().item() == pytest.approx(0.02, rel=0.35)
    assert mim.encoder.blocks[0].mlp.fc1.bias.abs().max() == 0


def test_weights_of_facebooks_mae_fit_under_their_own_names(tmp_path, inputs):
    source = build()
    theirs = {name.removeprefix("encoder."): value for name, value in source.state_dict().items()}
    theirs["decoder_pos_embed"] = source.decoder_pos_embed
    torch.save({"model": theirs}, tmp_path / "mae.pth")
    assert import_mae(theirs).keys() == source.state_dict().keys()
    torch.manual_seed(9)
    loaded = MaskedAutoencoder(
        ENCODER.model_copy(update={"pretrained": str(tmp_path / "mae.pth")}), decoder=DECODER, image_size=SIDE
    )
    assert torch.equal(loaded(inputs[0], noise=inputs[1]).loss, source(inputs[0], noise=inputs[1]).loss)


def test_an_encoder_alone_is_loaded_and_its_positions_are_resampled(tmp_path):
    source = build_encoder(ENCODER, image_size=SIDE)
    torch.save(source.state_dict(), tmp_path / "encoder.pth")
    config = ENCODER.model_copy(update={"pretrained": str(tmp_path / "encoder.pth")})
    larger = build_encoder(config, image_size=48)
    assert torch.equal(larger.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    assert larger.pos_embed.shape[1] == 37
    assert torch.equal(larger.pos_embed[:, 0], source.pos_embed[:, 0])


def test_files_that_do_not_fit_are_told_in_a_sentence(tmp_path):
    with pytest.raises(VeaError, match="no file"):
        read_weight_file(tmp_path / "nothing.pth")
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    with pytest.raises(VeaError, match="cannot be read"):
        read_weight_file(tmp_path / "broken.pth")
    encoder = build_encoder(ENCODER, image_size=SIDE)
    weights = encoder.state_dict()
    with pytest.raises(VeaError, match=r"x\.pth does not fit.*norm\.weight is not among them"):
        load_encoder(encoder, {k: v for k, v in weights.items() if k != "norm.weight"}, where="x.pth")
    with pytest.raises(VeaError, match=r"x\.pth does not fit: its norm\.weight has shape \(3,\)"):
        load_encoder(encoder, {**weights, "norm.weight": torch.zeros(3)}, where="x.pth")


@pytest.mark.parametrize(
    ("name", "args", "size", "sentence"),
    [
        ("vit_bse_patch16_224", {}, 32, r"did you mean 'vit_base_patch\d+_\d+"),
        ("resnet18", {}, 32, "timm"),
        ("vit_base_patch16_224", {"depht": 2}, 32, "depht"),
        ("vit_base_patch16_224", {"embed_dim": 30, "num_heads": 4}, 32, "timm cannot build"),
        ("vit_base_patch16_224", {"patch_size": 8, "embed_dim": 32, "num_heads": 2}, 36, "multiple of the encoder's"),
    ],
)
def test_an_encoder_that_cannot_be_built_is_told_in_a_sentence(name, args, size, sentence):
    with pytest.raises(VeaError, match=sentence):
        build_encoder(EncoderConfig(name=name, args=args), image_size=size)


def test_sizes_that_cannot_be_masked_are_told_in_a_sentence():
    with pytest.raises(VeaError, match="keeps 0 of 16"):
        build(mask_ratio=0.97)
    with pytest.raises(VeaError, match="multiple of its heads"):
        build(decoder=DecoderConfig(width=32, depth=1, heads=3))
    with pytest.raises(VeaError, match="class token"):
        build(encoder=EncoderConfig(args={**ENCODER.args, "class_token": False, "global_pool": "avg"}))


# ---------------------------------------------------------------------------------------------------- cheaper variants


def tiny(**changes):
    torch.manual_seed(0)
    form = EncoderConfig(args={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2})
    return MaskedAutoencoder(form, decoder=DecoderConfig(width=24, depth=2, heads=2), image_size=32, **changes)


def test_a_share_of_the_removed_patches_is_predicted_the_same_for_the_loss_and_its_target():
    images, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    third, whole = tiny(predicted=0.34), tiny()
    encoded = third.encode(images, noise)
    prediction = third.decode(third.project(encoded.latent), encoded.order)
    assert prediction.shape[1] == round(0.34 * 12)
    target = third.patchify(images).gather(
        1, noise.argsort(dim=1, stable=True)[:, 4 : 4 + prediction.shape[1], None].expand(-1, -1, 192)
    )
    expected = (prediction.double() - target.double()).square().mean((1, 2))
    assert torch.allclose(third.sample_losses(encoded, prediction).double(), expected, rtol=1e-5)
    assert third.reconstruct(images, noise=noise)[1].shape == images.shape
    assert torch.equal(tiny(predicted=1.0)(images, noise=noise).loss, whole(images, noise=noise).loss)


def test_frozen_blocks_do_not_learn_and_the_others_do():
    model = tiny(frozen_blocks=1)
    model(torch.randn(2, 3, 32, 32), noise=torch.rand(2, 16)).loss.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert not any(name.startswith(("encoder.patch_embed", "encoder.blocks.0.", "encoder.cls")) for name in learned)
    assert any(name.startswith("encoder.blocks.1.") for name in learned)


def test_a_smaller_view_has_the_positions_of_the_whole_one_scaled_down():
    model = tiny().eval()
    small = torch.randn(2, 3, 16, 16)
    encoded = model.encode(small, torch.rand(2, 4))
    assert encoded.latent.shape == (2, 1 + 1, 32), "a quarter of four patches stays"
    grid = model.encoder.pos_embed[0, 1:].reshape(2, 2, 2, 2, 32).mean((1, 3)).reshape(4, 32)
    tokens = model.encoder.patch_embed.proj(small).flatten(2).transpose(1, 2) + grid
    tokens = torch.cat([(model.encoder.cls_token + model.encoder.pos_embed[:, :1]).expand(2, -1, -1), tokens], 1)
    whole = model.encoder.norm(model.encoder.blocks(tokens))
    assert torch.allclose(model.encode(small, torch.rand(2, 4), num_kept=4).latent[:, 0], whole[:, 0], atol=1e-5)
