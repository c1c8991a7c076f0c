"""``vea enrich PASS DIR``: results beside a prepared data set, in ``DIR/sidecars/NAME``; the images stay as they are.

    vea enrich persons data/emoset --backend onnx --weights human-centernet.onnx
    vea enrich teacher-image data/emoset --teacher ViT-B-16 --pretrained clip-vit-b16.safetensors --part 3/16

Run it again after a kill and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from vea.config import PromptConfig, TeacherConfig
from vea.data.enrich import Pass, Prompts, TeacherImages, TeacherTexts, enrich
from vea.data.shards import read_index
from vea.errors import VeaError, command


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/16")
    return int(found[1]), int(found[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vea enrich", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    passes = parser.add_subparsers(dest="enrichment", required=True, metavar="PASS")
    persons = passes.add_parser("persons", help="boxes of people, for the person view (data.train[].persons: NAME)")
    persons.add_argument("--backend", choices=["torchvision", "onnx"], required=True)
    persons.add_argument(
        "--weights", type=Path, help="file of the detector (torchvision: or what torch.hub has cached)"
    )
    persons.add_argument("--model", help="torchvision: the architecture, where the file's name does not say it")
    persons.add_argument("--class", type=int, default=0, dest="person", help="onnx: number of the class person (0)")
    faces = passes.add_parser("faces", help="boxes of faces (needs the extra vea[faces])")
    for detector in (persons, faces):
        detector.add_argument("--min-score", type=float, help="boxes below it are left out")
    prompts = passes.add_parser("prompts", help="the teacher's text of every sample")
    texts = passes.add_parser("teacher-text", help="embeddings of the prompts, each distinct prompt once")
    images = passes.add_parser("teacher-image", help="embeddings of the whole images (teacher.cache: image)")
    for prompting in (prompts, texts):
        prompting.add_argument("--source", choices=["auto", "caption", "attributes"], default="auto")
        prompting.add_argument("--no-emotion", action="store_true", help="leave the label out of the text")
    for teaching in (texts, images):
        teaching.add_argument("--teacher", required=True, help="as teacher.name of a config; tiny-synthetic ships")
        teaching.add_argument("--pretrained", help="as teacher.pretrained of a config")
    for any_pass in (persons, faces, prompts, texts, images):
        any_pass.add_argument("dir", metavar="DIR", help="folder with index.json")
        any_pass.add_argument("--name", help="of the sidecar (by default that of the pass)")
        any_pass.add_argument("--splits", nargs="+", default=[], metavar="SPLIT", help="only these (all)")
        any_pass.add_argument("--part", type=_part, default=(1, 1), metavar="I/N", help="the I-th of N parts")
        any_pass.add_argument("--batch-size", type=int, help="images per call of the model")
        any_pass.add_argument("--threads", type=int, help="of the CPU (all)")
        any_pass.add_argument("--device", default="cpu", help="cpu or cuda (persons by torchvision, teachers)")
    return parser


def _make_pass(arguments: argparse.Namespace) -> Pass:
    kind = arguments.enrichment
    if kind == "prompts":
        return Prompts(PromptConfig(source=arguments.source, emotion=not arguments.no_emotion))
    if kind.startswith("teacher"):
        teacher = TeacherConfig(name=arguments.teacher, pretrained=arguments.pretrained)
        if kind == "teacher-image":
            return TeacherImages(teacher, device=arguments.device)
        prompting = PromptConfig(source=arguments.source, emotion=not arguments.no_emotion)
        return TeacherTexts(teacher, prompting, device=arguments.device)
    from vea.data.detect import Faces, OnnxPersons, TorchvisionPersons

    score = {} if arguments.min_score is None else {"min_score": arguments.min_score}
    if kind == "faces":
        return Faces(**score)
    if arguments.backend == "torchvision":
        return TorchvisionPersons(arguments.weights, model=arguments.model, device=arguments.device, **score)
    if arguments.weights is None:
        raise VeaError("--backend onnx needs --weights FILE")
    return OnnxPersons(arguments.weights, person=arguments.person, threads=arguments.threads, **score)


@command
def main(argv: list[str]) -> int:
    """Runs ``vea enrich``; undecodable images are counted and listed, and are no failure."""
    arguments = _parser().parse_args(argv)
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise VeaError("--batch-size starts at 1")
    index = read_index(arguments.dir)
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    enrichment = _make_pass(arguments)
    enrichment.batch_size = arguments.batch_size or enrichment.batch_size
    done = enrich(index, enrichment, name=arguments.name, splits=arguments.splits, part=arguments.part)
    rate = f", {done.images / done.seconds:.1f} a second" if done.images else ""
    print(f"{done.folder}: {done.made} shards made ({done.images:,} samples{rate}), {done.there_before} were there")
    if done.elsewhere:
        print(f"{done.elsewhere} shards are being made by other processes", file=sys.stderr)
    if done.skipped:
        print(f"{len(done.skipped)} images could not be decoded: {done.folder}/*.skipped.json lists them")
    return 0
