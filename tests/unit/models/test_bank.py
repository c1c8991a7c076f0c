"""The bank of prototypes: its formulas in float64, dead prototypes, and what a step's cut does not change."""

import numpy as np
import torch

from vea.config import BankConfig
from vea.models.bank import PrototypeBank

B, D, K, W = 12, 10, 5, 4


def make(**changes):
    torch.manual_seed(0)
    return PrototypeBank(BankConfig(codes=K, width=W, **changes), width=D)


def batch(step):
    return torch.randn(B, D, generator=torch.Generator().manual_seed(step))


def run(bank, steps, *, cut=1):
    for step in range(steps):
        for part in torch.arange(B).chunk(cut):
            bank(batch(step)[part], step=step, slot=part, batch_size=B)
    return bank


def test_the_nearest_prototype_is_added_and_the_gradient_passes_straight_through():
    bank = run(make(), 3)
    torch.nn.init.normal_(bank.up.weight)
    x = batch(7).requires_grad_()
    out = bank(x, step=None)
    down, up, codes = (t.detach().double().numpy() for t in (bank.down.weight, bank.up.weight, bank.codes))
    z = x.detach().double().numpy() @ down.T
    k = ((z[:, None] - codes) ** 2).sum(-1).argmin(1)
    assert (out.codes.numpy() == k).all()
    assert np.allclose(out.embedding.detach(), x.detach().double().numpy() + codes[k] @ up.T, atol=1e-5)
    assert np.allclose(out.commitment.detach(), 0.25 * ((z - codes[k]) ** 2).mean(-1), atol=1e-6)
    (gradient,) = torch.autograd.grad(out.embedding.sum(), x)
    assert np.allclose(gradient, 1 + np.ones((B, D)) @ up @ down, atol=1e-4)


def test_at_first_nothing_is_added():
    x = batch(0)
    assert torch.equal(make()(x, step=0, slot=torch.arange(B), batch_size=B).embedding, x)


def test_prototypes_follow_the_average_of_those_that_chose_them():
    bank = make(decay=0.8, restart=0)
    down = bank.down.weight.detach().double().numpy()
    seen = [batch(step).double().numpy() @ down.T for step in range(4)]
    codes = seen[0][np.arange(K) * B // K]  # after the first step: embeddings of its batch
    use, sums = np.full(K, B / K), codes * B / K
    for z in seen[1:]:
        one_hot = np.eye(K)[((z[:, None] - codes) ** 2).sum(-1).argmin(1)]
        use, sums = 0.8 * use + 0.2 * one_hot.sum(0), 0.8 * sums + 0.2 * one_hot.T @ z
        codes = sums / use[:, None]
    run(bank, 5)
    assert np.allclose(bank.codes, codes, atol=1e-5) and np.allclose(bank.use, use, atol=1e-5)


def test_a_prototype_that_is_not_used_starts_again_from_an_embedding():
    bank = run(make(restart=0.5), 2)
    bank.codes[3] = 1e3
    bank.sums[3], bank.use[3] = 1e3 * 0.01, 0.01
    bank(batch(2), step=2, slot=torch.arange(B), batch_size=B)  # its first micro-batch moves by what step 1 saw
    assert torch.allclose(bank.codes[3], bank.down(batch(1))[3 * B // K].detach(), atol=1e-6)


def test_micro_batches_move_the_prototypes_as_the_whole_batch_does():
    whole, cut = run(make(), 6), run(make(), 6, cut=4)
    for name, value in whole.state_dict().items():
        assert torch.allclose(cut.state_dict()[name].float(), value.float(), atol=1e-5), name


def test_a_run_goes_on_from_its_state():
    whole, first = run(make(), 6), run(make(), 3)
    again = make()
    again.load_state_dict(first.state_dict())
    for step in range(3, 6):
        again(batch(step), step=step, slot=torch.arange(B), batch_size=B)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_validation_counts_nothing():
    bank = run(make(), 2)
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    bank(batch(5), step=None)
    assert all(torch.equal(value, before[name]) for name, value in bank.state_dict().items())
