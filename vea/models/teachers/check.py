"""What ``vea doctor`` says about the teacher: whether its weights and tokenizer are on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vea.config import PretrainConfig, RunConfig
from vea.config.findings import Finding, collect
from vea.errors import VeaError, did_you_mean
from vea.models.teachers import load, two_tower
from vea.models.teachers.sentence import PREFIX
from vea.storage import identity

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")


Files = Iterator[tuple[str, Path | Finding]]


def check_teacher(config: RunConfig) -> Iterator[Finding]:
    """Yields whether the teacher's weights and its tokenizer's files are on this machine."""
    if not isinstance(config, PretrainConfig):
        return
    if not config.objective.needs_teacher:
        yield Finding("ok", "teacher", "the objective needs none")
    elif config.teacher is None:
        text = "the objective compares with a teacher and teacher is null"
        yield Finding("missing", "teacher", text, "name one, for instance teacher.name=tiny-synthetic")
    else:
        for what, file in teacher_files(config):
            size = file if isinstance(file, Finding) else f"{file} ({_whole(file) / 1e6:.1f} MB)"
            yield size if isinstance(size, Finding) else Finding("ok", what, size)


def teacher_files(config: PretrainConfig) -> Files:
    """Yields (``teacher`` or ``tokenizer``, the file that will be read or what is missing) of the config's teacher."""
    assert config.teacher is not None
    name, pretrained = config.teacher.name, config.teacher.pretrained
    folder = identity.TINY_SYNTHETIC if name == "tiny-synthetic" else Path(name)
    if folder.is_dir() and pretrained is not None:
        raise VeaError(f"teacher {name} brings its own weights ({pretrained} is named beside); set it to null")
    if name.startswith(PREFIX):
        yield "teacher", two_tower.text_tower_folder(name.removeprefix(PREFIX)) / two_tower.WEIGHTS_NAME
        return
    yield from _folder_teacher(folder) if folder.is_dir() else _named_teacher(name, pretrained)


def teacher_bytes(config: RunConfig) -> int:
    """Returns the bytes of the teacher's weights; 0 where there is none, or none of its files."""
    if not isinstance(config, PretrainConfig) or config.teacher is None or not config.objective.needs_teacher:
        return 0
    try:
        found = [file for what, file in teacher_files(config) if what == "teacher" and isinstance(file, Path)]
        return sum(_whole(file) for file in found)
    except (VeaError, OSError):
        return 0


def _whole(path: Path) -> int:
    """Returns the bytes of a weight file; raises ``VeaError`` when there is none or its header cannot be read."""
    if not path.is_file() or not path.stat().st_size:
        raise VeaError(f"no weights at {path}; put the file there")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise VeaError(f"{path} is broken ({error}); copy it again") from None
    return path.stat().st_size


def _folder_teacher(folder: Path) -> Files:
    if (folder / "open_clip_config.json").is_file():
        weights = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin", ".pth")]
        yield "teacher", weights[0] if weights else folder / WEIGHT_FILES[0]
        cfg = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
        yield from _tokenizer((cfg.get("model_cfg") or cfg).get("text_cfg", {}), folder=folder)
        return
    config = load.read_teacher_config(folder)
    yield "teacher", folder / two_tower.WEIGHTS_NAME
    if config["kind"] == "open_clip":
        yield "tokenizer", folder / config["vocabulary"]
        return
    image, text = config["image_tower"], config["text_tower"]
    towers = (
        two_tower.data_file(image["weights"]),
        two_tower.text_tower_folder(text["package"]) / two_tower.WEIGHTS_NAME,
    )
    for path, tower in zip(towers, (image, text)):
        yield "teacher", path
        if path.is_file() and tower.get("sha256") not in (None, identity.file_sha256(path)):
            yield "teacher", Finding("missing", "teacher", f"{path} is not the file the teacher was trained on",
                                     "put that file there, or train the teacher again")  # fmt: skip
    yield "tokenizer", next((towers[1].parent / name for name in TOKENIZER_FILES if (towers[1].parent / name).exists()),
                            towers[1].parent / TOKENIZER_FILES[0])  # fmt: skip


def _named_teacher(name: str, pretrained: str | None) -> Files:
    import open_clip

    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        yield "teacher", _cached(repository, WEIGHT_FILES, what="teacher")
        config = _cached(repository, ("open_clip_config.json",), what="teacher")
        yield "tokenizer", config if isinstance(config, Finding) else _cached(repository, TOKENIZER_FILES)
        return
    if name not in open_clip.list_models():
        near = did_you_mean(name, open_clip.list_models())
        raise VeaError(
            f"teacher.name {name!r} is neither a model of open_clip nor a folder{near if '(did' in near else ''}; "
            "name one, or tiny-synthetic for a trial"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        example = f" or a tag ({', '.join(tags[:3])} ...)" if tags else ""
        yield "teacher", Finding("missing", "teacher", f"{name} has no weights",
                                 f"set teacher.pretrained to a local file{example}")  # fmt: skip
    elif pretrained in tags and not Path(pretrained).is_file():
        source = open_clip.get_pretrained_cfg(name, pretrained)
        repository, file = os.path.split(source.get("hf_hub", ""))
        if repository:
            yield "teacher", _cached(repository, (file,) if file else WEIGHT_FILES, what="teacher")
        else:
            yield "teacher", Path("~/.cache/clip").expanduser() / os.path.basename(source.get("url", ""))
    else:
        yield "teacher", Path(pretrained)
    yield from _tokenizer((open_clip.get_model_config(name) or {}).get("text_cfg", {}), folder=None)


def _tokenizer(text_cfg: dict[str, Any], *, folder: Path | None) -> Files:
    """Yields the files of the tokenizer that open_clip would open."""
    name = text_cfg.get("hf_tokenizer_name") or text_cfg.get("hf_model_name")
    if not name:  # open_clip's own, which comes with it
        import open_clip

        yield "tokenizer", Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    elif folder and (beside := [folder / file for file in TOKENIZER_FILES if (folder / file).is_file()]):
        yield "tokenizer", beside[0]
    else:
        yield "tokenizer", _cached(name, TOKENIZER_FILES)
    if text_cfg.get("hf_model_name"):
        yield "tokenizer", _cached(text_cfg["hf_model_name"], ("config.json",))


def _cached(repository: str, names: tuple[str, ...], *, what: str = "tokenizer") -> Path | Finding:
    """Returns the first of ``names`` in the local cache of the hub, or what is missing."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    todo = "load it once with HF_HUB_OFFLINE=0 where there is a network, or name a local file or folder"
    return Finding("missing", what, f"{repository} is not in the local cache of the hub ({names[0]})", todo)


def check(config: RunConfig) -> list[Finding]:
    """Returns what there is to say about the teacher."""
    return collect({"teacher": check_teacher}, config)
