"""SmolVLM and Qwen-VL with LoRA: tiny random models of the real classes, with a processor made here; no network."""

import json

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from vea.config import ExplainConfig, ExplainModelConfig, GenerateConfig, HfModelConfig
from vea.errors import VeaError
from vea.losses.language import answer_costs
from vea.models.language.chat import QUESTION, ChatExplainer
from vea.models.language.tokens import HubTokens, make_sentences
from vea.tasks.explain import ExplainTask
from vea.taxonomy.fields import LabelField

EMOTIONS = ["awe", "fear"]
SPECIAL = ["<pad>", "<end>", "<image>", "<fake_token_around_image>", "<global-img>", "<|vision_start|>",
           "<|image_pad|>", "<|vision_end|>", "<|video_pad|>", "<unk>", "<end_of_utterance>"]  # fmt: skip
WORDS = [*f"{QUESTION} the emotion is because awe fear dark sky a dog".replace(",", " ,").replace("?", " ?").split()]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
TEMPLATE = "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}IMAGE {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}"  # noqa: E501


def words_tokenizer():
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    return fast, vocabulary


def smolvlm(folder):
    """Idefics3, the class of SmolVLM-256M and 500M."""
    tokenizer, known = words_tokenizer()
    form = transformers.Idefics3Config(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **SIZES},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 8},
        image_token_id=known["<image>"], pad_token_id=known["<end>"], scale_factor=2,
    )  # fmt: skip
    transformers.Idefics3ForConditionalGeneration(form).save_pretrained(folder)
    images = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    template = TEMPLATE.replace("IMAGE", "<image>")
    transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template).save_pretrained(folder)


def qwen_vl(folder):
    tokenizer, known = words_tokenizer()
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": known[f"<|{word}|>"] for name, word in names.items()}
    form = transformers.Qwen2VLConfig(
        text_config={"vocab_size": len(tokenizer), "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
                     "bos_token_id": 1, "eos_token_id": 1, **SIZES},
        vision_config={"embed_dim": 32, "hidden_size": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8},
        **ids,
    )  # fmt: skip
    transformers.Qwen2VLForConditionalGeneration(form).save_pretrained(folder)
    images = transformers.Qwen2VLImageProcessor(patch_size=8, merge_size=2, min_pixels=256, max_pixels=1024)
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    video = transformers.Qwen2VLVideoProcessor(patch_size=8, merge_size=2)
    transformers.Qwen2VLProcessor(images, tokenizer, video, chat_template=template).save_pretrained(folder)


@pytest.fixture(scope="module", params=[smolvlm, qwen_vl], ids=["smolvlm", "qwen-vl"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp(request.param.__name__)
    request.param(place)
    return place


@pytest.fixture(scope="module")
def tokens(folder):
    return HubTokens(str(folder))


def build(folder, **settings):
    torch.manual_seed(1)
    return ChatExplainer(HfModelConfig(path=str(folder), dropout=0.0, **settings)).eval()


def pictures(count, seed=0):
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_the_loss_is_of_the_answer_and_no_image_token_is_cut(folder, tokens):
    model = build(folder)
    long = make_sentences([("fear", "a dark sky " * 400)], tokens, max_tokens=20)
    assert long.ids.shape[1] == 20
    inputs, length = model.inputs(pictures(1), long.ids[:, 1:])
    image = tokens.tokenizer.convert_tokens_to_ids(model.processor.image_token)
    alone, _ = model.inputs(pictures(1), long.ids[:, 1:2])
    assert (inputs["input_ids"] == image).sum() == (alone["input_ids"] == image).sum() == 4
    assert inputs["input_ids"].shape[1] == length + 19

    made = make_sentences([("fear", "a dark sky"), ("awe", "a dog")], tokens, max_tokens=20)
    logits, hidden = model(pictures(2), made)
    assert logits.shape[:2] == made.ids.shape == hidden.shape[:2]
    # the reference: transformers' own loss over labels that are -100 everywhere but in the answer
    given, length = model.inputs(pictures(2), made.ids[:, 1:])
    given["attention_mask"][:, length:] = made.mask[:, 1:]
    labels = torch.full_like(given["input_ids"], -100)
    labels[:, length:][made.answer[:, 1:]] = made.ids[:, 1:][made.answer[:, 1:]]
    theirs = model.model(**given, labels=labels).loss
    costs, counts = answer_costs(logits, made.ids, made.answer)
    assert torch.allclose(costs.sum() / counts.sum(), theirs, atol=1e-5)


def test_pictures_matter_and_batches_do_not(folder, tokens):
    model = build(folder)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4)  # random weights of the usual size say the same of every picture
    made = make_sentences([("fear", "a dark sky")], tokens, max_tokens=20)
    one, other = model(pictures(1, seed=1), made)[0], model(pictures(1, seed=2), made)[0]
    assert not torch.allclose(one, other, atol=1e-4)
    options = {"tokens": tokens, "settings": GenerateConfig(max_new_tokens=6), "emotions": EMOTIONS}
    together = model.write(pictures(4), **options)
    alone = [model.write(picture[None], **options)[0] for picture in pictures(4)]
    assert [tokens.text(row) for row in together] == [tokens.text(row) for row in alone]
    assert all(tokens.text(row).split()[0] in EMOTIONS for row in together), "the first word is an emotion"
    assert all(
        tokens.text(row).startswith("fear because") for row in model.write(pictures(2), emotion="fear", **options)
    )
    beams = GenerateConfig(max_new_tokens=4, method="beam", beams=3)
    assert len(model.write(pictures(2), **{**options, "settings": beams}, count=3)) == 6


def test_only_adapters_learn_and_are_saved(folder, tokens):
    config = ExplainConfig.model_validate({
        "name": "x", "model": {"kind": "hf", "hf": {"path": str(folder), "dropout": 0.0}, "max_tokens": 20},
        "objective": {"vad": 0, "contrastive": 0}, "augment": {"image_size": 32},
        "train": {"steps": 1},
        "data": {"train": [{"path": "a", "split": "train"}], "val": [{"path": "a", "split": "val"}]},
    })  # fmt: skip
    fields = {"emotion": LabelField(kind="class", classes=tuple(EMOTIONS))}
    torch.manual_seed(0)
    task = ExplainTask(config, fields=fields)
    batch = {"image": pictures(2), "texts": [["a dark sky"], ["a dog"]], "keys": ["a", "b"],
             "labels": {"emotion": torch.tensor([1, 0])}}  # fmt: skip
    learning = [p for p in task.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in learning) < 0.2 * sum(p.numel() for p in task.parameters())
    optimizer = torch.optim.AdamW(learning, lr=2e-2)
    losses = []
    for step in range(12):
        loss = task(batch, step=step)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    saved, described = task.state_to_save(), json.loads(json.dumps(task.metadata()))
    assert saved and all("lora_" in name for name in saved)
    again = ExplainTask(config, fields={}, described=described)
    again.load_state_dict(saved, strict=False)
    with torch.no_grad():
        assert torch.equal(task.eval()(batch, step=0)["loss"], again.eval()(batch, step=0)["loss"])
        assert torch.equal(task.predict(batch)["written"], again.predict(batch)["written"])


def test_what_does_not_serve_is_one_sentence(folder, tmp_path):
    with pytest.raises(VeaError, match=r"model.hf.path: no folder"):
        HubTokens(str(tmp_path / "none"), setting="model.hf.path")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(VeaError, match=r"model.hf.path: .* cannot be used"):
        ChatExplainer(HfModelConfig(path=str(tmp_path)))
    with pytest.raises(VeaError, match=r"model.hf.target_modules"):
        build(folder, target_modules=".*nothing.*")
    with pytest.raises(ValueError, match=r"hf.path"):
        ExplainModelConfig(kind="hf")
    with pytest.raises(ValueError, match="own image encoder"):
        ExplainModelConfig(kind="hf", hf={"path": "x"}, blind=True)
