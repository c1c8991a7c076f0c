"""Weights in and out: the file of another project computes the same numbers here, and ours load into timm."""

import argparse
import pickle
from functools import partial

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import nn

from vea.config import PretrainConfig
from vea.errors import VeaError
from vea.models.mim import MaskedAutoencoder
from vea.models.vit import sincos_positions
from vea.models.weight_files import read_weight_file
from vea.models.weights import encoder_form, export_timm, import_weights, load_encoder, main
from vea.storage.checkpoint import load_weights, save_weights
from vea.tasks.pretrain import PretrainTask

SIDE, PATCH, WIDTH, DEPTH, HEADS, B = 32, 8, 48, 2, 3, 3
DECODER = {"width": 32, "depth": 1, "heads": 4}
N = (SIDE // PATCH) ** 2


class PublishedMae(nn.Module):
    """The names and the forward of facebookresearch/mae, after its models_mae.py."""

    def __init__(self):
        super().__init__()
        self.patch_embed = PatchEmbed(SIDE, PATCH, 3, WIDTH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, N + 1, WIDTH), requires_grad=False)
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, 4, qkv_bias=True, norm_layer=norm) for _ in range(DEPTH))
        self.norm = norm(WIDTH)
        width = DECODER["width"]
        self.decoder_embed = nn.Linear(WIDTH, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        positions = sincos_positions(width, grid=(SIDE // PATCH,) * 2)
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(width, DECODER["heads"], 4, qkv_bias=True, norm_layer=norm)
                                            for _ in range(DECODER["depth"]))  # fmt: skip
        self.decoder_norm = norm(width)
        self.decoder_pred = nn.Linear(width, PATCH**2 * 3)

    def forward(self, images, mask_ratio, noise):
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        length_keep = int(N * (1 - mask_ratio))
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        x = torch.gather(x, 1, shuffle[:, :length_keep, None].repeat(1, 1, WIDTH))
        mask = torch.ones(B, N)
        mask[:, :length_keep] = 0
        mask = torch.gather(mask, 1, restore)
        x = torch.cat(((self.cls_token + self.pos_embed[:, :1]).expand(B, -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x)
        latent = self.norm(x)
        x = self.decoder_embed(latent)
        cls_projected = x[:, 0]
        x_ = torch.cat([x[:, 1:], self.mask_token.repeat(B, N + 1 - x.shape[1], 1)], dim=1)
        x_ = torch.gather(x_, 1, restore[..., None].repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1], x_], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        prediction = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        side = SIDE // PATCH
        target = torch.einsum("nchpwq->nhwpqc", images.reshape(B, 3, side, PATCH, side, PATCH)).reshape(B, N, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        loss = (((prediction - target) ** 2).mean(-1) * mask).sum() / mask.sum()
        return loss, prediction, mask, latent, cls_projected


@pytest.fixture
def published(tmp_path):
    torch.manual_seed(0)
    model = PublishedMae()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    command_line = argparse.Namespace(norm_pix_loss=True, model="mae_vit_tiny", blr=1e-3, distributed=True)
    torch.save({"model": model.state_dict(), "args": command_line, "epoch": 3}, tmp_path / "mae.pth")
    return model, tmp_path / "mae.pth"


@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("kind", ["mae", "uniemox"])
def test_imported_weights_give_maes_numbers(published, tmp_path, kind, ratio):
    model, file = published
    main([kind, str(file), str(tmp_path / "out"), "--heads", str(HEADS), "--decoder-heads", str(DECODER["heads"])])
    mim = MaskedAutoencoder.from_pretrained(tmp_path / "out")
    images, noise = torch.randn(B, 3, SIDE, SIDE), torch.rand(B, N)
    with torch.no_grad():
        output = mim(images, mask_ratio=ratio, noise=noise)
        expected = model(images, ratio, noise)
    named = zip(("loss", "prediction", "mask", "latent", "cls_projected"), expected)
    for name, value in named:
        assert getattr(output, name).shape == value.shape
        assert torch.allclose(getattr(output, name), value, atol=1e-5), name


def test_a_pretraining_run_starts_from_imported_weights(published, tmp_path):
    import_weights("mae", published[1], tmp_path / "out", heads=HEADS, decoder_heads=DECODER["heads"])
    config = PretrainConfig.model_validate({
        "name": "test", "train": {"steps": 1}, "data": {}, "augment": {"image_size": SIDE}, "teacher": None,
        "objective": {"similarity": 0, "contrastive": 0},
        "model": {"decoder": DECODER,
                  "encoder": {"args": {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}}},
    })  # fmt: skip
    task = PretrainTask(config, teacher=None)
    loaded = task.load_pretrained(str(tmp_path / "out"))
    count = len(task.state_to_save())
    assert loaded == f"{count} of {count} weights"
    assert torch.equal(task.model.mim.decoder_pred.weight, published[0].decoder_pred.weight)


def test_a_file_may_hold_a_namespace_and_no_other_object(published, tmp_path):
    assert "cls_token" in read_weight_file(published[1])

    class Runs:
        def __reduce__(self):
            return print, ("unpickled",)

    with (tmp_path / "evil.pth").open("wb") as handle:
        pickle.dump({"model": {"cls_token": Runs()}}, handle)
    with pytest.raises(VeaError, match="cannot be read as plain weights"):
        import_weights("mae", tmp_path / "evil.pth", tmp_path / "out")


def test_a_timm_encoder_survives_the_way_in_and_out(tmp_path):
    form = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32, "init_values": 1e-5}
    torch.manual_seed(0)
    source = timm.create_model("vit_base_patch16_224", num_classes=5, **form).eval()
    torch.save(source.state_dict(), tmp_path / "timm.pth")
    import_weights("timm", tmp_path / "timm.pth", tmp_path / "ours", heads=3)
    line = export_timm(tmp_path / "ours", tmp_path / "encoder")
    loaded = eval(line, {"timm": timm}).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.forward_features(images), source.forward_features(images))


def test_metas_names_of_dinov2_become_timms(tmp_path):
    model = timm.create_model("vit_base_patch16_224", num_classes=0, patch_size=14, img_size=28, embed_dim=64, depth=1,
                              num_heads=1, init_values=1e-5, reg_tokens=4, no_embed_class=True)  # fmt: skip
    theirs = {name.replace("reg_token", "register_tokens"): value for name, value in model.state_dict().items()}
    theirs["mask_token"] = torch.zeros(1, 64)
    torch.save(theirs, tmp_path / "dinov2.pth")
    made = import_weights("dinov2", tmp_path / "dinov2.pth", tmp_path / "out")
    assert made["task"]["encoder"]["args"]["reg_tokens"] == 4 and made["task"]["image_size"] == 28
    weights, _ = load_weights(tmp_path / "out")
    assert torch.equal(weights["encoder.reg_token"], model.reg_token)
    assert "encoder.mask_token" not in weights


def test_what_cannot_be_imported_is_told_in_a_sentence(published, tmp_path):
    with pytest.raises(VeaError, match="no file"):
        import_weights("mae", tmp_path / "nothing.pth", tmp_path / "out")
    with pytest.raises(VeaError, match="5 heads do not divide the width 48"):
        import_weights("mae", published[1], tmp_path / "out", heads=5)
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(VeaError, match="not the weights of a plain Vision Transformer"):
        import_weights("timm", tmp_path / "other.pth", tmp_path / "out")
    save_weights(tmp_path / "bare", {"a": torch.zeros(1)}, {})
    with pytest.raises(VeaError, match="does not say what its encoder is"):
        MaskedAutoencoder.from_pretrained(tmp_path / "bare")


# ------------------------------------------------------------------------------------------- files as people have them

TINY = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "img_size": 32}


def vit(**args):
    torch.manual_seed(1)
    model = timm.create_model("vit_base_patch16_224", num_classes=0, **{**TINY, **args}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def features_of(folder):
    """Returns what the imported encoder computes for a fixed picture, in the form the import has read off."""
    weights, state = load_weights(folder)
    form = state["task"]["encoder"]
    size = state["task"]["image_size"]
    encoder = timm.create_model(form["name"], num_classes=0, img_size=size, **form["args"]).eval()
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in weights.items()})
    return encoder.forward_features(picture())


def picture():
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


WRAPPED = {
    "plain": lambda s: s,
    "ddp": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "ddp of compiled": lambda s: {"model": prefixed(s, "module._orig_mod.")},
    "compiled inside": lambda s: prefixed(s, "backbone._orig_mod."),
    "backbone": lambda s: {"state_dict": prefixed(s, "backbone.")},
    "lightning": lambda s: {"state_dict": prefixed(s, "model.encoder."), "epoch": 3, "global_step": 9},
    "lightning with a head": lambda s: {"state_dict": {**prefixed(s, "net."), "head.weight": torch.zeros(2, 64)}},
    "dino": lambda s: {"student": prefixed(prefixed(zeros(s), "backbone."), "module."),
                       "teacher": {**prefixed(s, "backbone."), "head.mlp.0.weight": torch.zeros(4, 64)}, "epoch": 1},
    "student and teacher in one": lambda s: prefixed(zeros(s), "student.net.") | prefixed(s, "teacher.net."),
    "nested": lambda s: {"model": {"state_dict": s}},
    "ema": lambda s: {"model_ema": prefixed(s, "module."), "epoch": 2},
    "model and its average": lambda s: {**prefixed(zeros(s), "model."), **prefixed(s, "model_ema.")},
    "timm": lambda s: {"state_dict": {**s, "head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}},
}  # fmt: skip


def zeros(state):
    return {name: torch.zeros_like(value) for name, value in state.items()}


@pytest.mark.parametrize("kind", ["timm", "dinov2", "mae"])
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_weights_compute_the_same(tmp_path, name, kind):
    model = vit()
    torch.save(WRAPPED[name](model.state_dict()), tmp_path / "file.pth")
    import_weights(kind, tmp_path / "file.pth", tmp_path / "out")
    assert torch.allclose(features_of(tmp_path / "out"), model.forward_features(picture()), atol=1e-6)


@pytest.mark.parametrize(
    "args",
    [
        {"reg_tokens": 4, "no_embed_class": True}, {"reg_tokens": 4}, {"no_embed_class": True}, {"qk_norm": True},
        {"pre_norm": True}, {"init_values": 1e-5}, {"qkv_bias": False}, {"qkv_bias": False, "qk_norm": True},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"class_token": False, "global_pool": "map"}, {"class_token": False, "global_pool": "avg", "fc_norm": False,
                                                       "reg_tokens": 4, "no_embed_class": True},
    ],
    ids=str,
)  # fmt: skip
def test_forms_of_a_vit_are_read_off_the_weights(tmp_path, args):
    model = vit(**args)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    made = import_weights("timm", tmp_path / "file.pth", tmp_path / "out")
    assert torch.allclose(features_of(tmp_path / "out"), model.forward_features(picture()), atol=1e-6)
    assert [name for name in made["imported"]["left_out"] if not name.startswith("attn_pool.")] == []


def test_metas_registers_have_the_class_tokens_position_in_it(tmp_path):
    model = vit(reg_tokens=4, no_embed_class=True)
    theirs = model.state_dict()
    place = torch.randn(1, 1, 64)
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["cls_token"] = theirs["cls_token"] - place
    theirs["pos_embed"] = torch.cat([place, theirs["pos_embed"]], dim=1)
    torch.save({"teacher": prefixed(theirs, "backbone.")}, tmp_path / "meta.pth")
    import_weights("dinov2", tmp_path / "meta.pth", tmp_path / "out")
    assert torch.allclose(features_of(tmp_path / "out"), model.forward_features(picture()), atol=1e-5)


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ({"blocks.0.mlp.w12.weight": (8, 64)}, r"has weights that it does not: blocks\.0\.mlp\.w12\.weight"),
        ({"blocks.0.gamma_1": (64,)}, r"blocks\.0\.gamma_1"),
        ({"rel_pos_bias.table": (4, 4)}, r"rel_pos_bias\.table"),
        ({"norm.weight": None}, r"lacks: norm\.weight"),
        ({"blocks.1.attn.proj.bias": None}, r"lacks: blocks\.1\.attn\.proj\.bias"),
        ({"blocks.1.mlp.fc1.weight": (8, 64)}, r"in other shapes: blocks\.1\.mlp\.fc1\.weight"),
        ({"pos_embed": (1, 14, 64)}, r"no square of patches"),
        ({"patch_embed.proj.weight": None, "visual.conv1.weight": (64, 3, 8, 8)}, r"teacher\.pretrained"),
    ],
)
def test_what_cannot_be_represented_is_refused_at_import(tmp_path, extra, wanted):
    state = vit().state_dict()
    for name, shape in extra.items():
        state.pop(name, None)
        if shape:
            state[name] = torch.zeros(shape)
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(VeaError, match=wanted) as told:
        import_weights("timm", tmp_path / "file.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists() and "\n" not in str(told.value)


def test_a_torchscript_archive_is_named_as_such(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "ViT-B-32.pt")
    with pytest.raises(VeaError, match="is a TorchScript archive, which is a program"):
        import_weights("timm", tmp_path / "ViT-B-32.pt", tmp_path / "out")


def test_weights_that_nobody_took_are_said_and_refused_where_they_are_most(tmp_path, capsys):
    state = {**prefixed(vit().state_dict(), "visual.trunk."), **{f"text.{i}": torch.zeros(1) for i in range(5)}}
    torch.save(state, tmp_path / "few.pth")
    main(["timm", str(tmp_path / "few.pth"), str(tmp_path / "few")])
    assert "left out of few.pth: 5 weights (text.0, text.1, text.2 and 2 more)" in capsys.readouterr().out
    torch.save({**state, **{f"text.{i}": torch.zeros(1) for i in range(90)}}, tmp_path / "most.pth")
    with pytest.raises(VeaError, match=r"90 of its \d+ weights would be left out"):
        import_weights("timm", tmp_path / "most.pth", tmp_path / "most")


@pytest.mark.parametrize(
    ("theirs", "wanted"),
    [
        ({"init_values": 1e-5}, r"no place for 4 of its weights.*init_values: 1e-5"),
        ({"qk_norm": True}, r"no place for 8 of its weights.*qk_norm: true"),
        ({"pre_norm": True}, r"does not fit"),
        ({"depth": 3}, r"no place for 12 of its weights"),
    ],
)
def test_an_encoder_that_would_leave_weights_lying_is_refused(tmp_path, theirs, wanted):
    with pytest.raises(VeaError, match=wanted):
        load_encoder(vit(), vit(**theirs).state_dict(), where="file.pth")


def test_heads_and_decoders_beside_an_encoder_are_no_fault():
    state = {**vit().state_dict(), "head.weight": torch.zeros(2, 64), "decoder_embed.weight": torch.zeros(2, 64)}
    assert load_encoder(vit(), state, where="file.pth").startswith("30 of 30")


@pytest.mark.parametrize(
    "beside", ["head.weight", "fc_norm.weight", "decoder_embed.weight", "mask_token", "attn_pool.q"]
)
def test_a_form_is_read_off_beside_heads_and_decoders(beside):
    form, size = encoder_form({**vit().state_dict(), beside: torch.zeros(2, 64)}, where="file.pth")
    assert size == 32 and form["args"]["depth"] == 2
