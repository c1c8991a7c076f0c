"""Buffers between workers and trainer: lent, shared with a process, and free once no tensor looks at them."""

import gc
import os
import pickle

import torch

from vea.data.loading.buffers import Buffers, Filled


def arrive(buffers, index, shape=(2, 3)):
    """What the trainer gets of a message."""
    return pickle.loads(pickle.dumps(Filled(buffers, index, shape)))


def test_a_buffer_is_free_again_when_its_last_tensor_is_gone():
    buffers = Buffers(2, 6)
    first, second = buffers.take(), buffers.take()
    assert {first, second} == {0, 1} and buffers.take() is None, "both are lent"
    whole = arrive(buffers, first)
    row = whole[1]
    del whole
    gc.collect()
    assert buffers.take() is None, "a row still looks at it"
    del row
    assert buffers.take() == first


def test_what_another_process_writes_arrives_where_it_belongs():
    buffers = Buffers(3, 8)
    child = os.fork()
    if child == 0:
        buffers.tensor(1, (2, 3)).copy_(torch.arange(6).view(2, 3))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert arrive(buffers, 1).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not arrive(buffers, 0).any() and not arrive(buffers, 2).any(), "its neighbours are untouched"
