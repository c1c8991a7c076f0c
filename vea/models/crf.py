"""A linear-chain and skip-chain conditional random field over the labels of a track, exact (EmotionIC, section 3.3).

What is felt now speaks for what comes next, in one person (``own``) and between two (``other``). With c_t the last
earlier turn of the speaker of turn t, emissions e and transitions A_own, A_other (C, C):

    score(y) = start[y_1] + sum_t e_t[y_t] + sum_{t>1} ( [c_t exists] A_own[y_{c_t}, y_t]
               + [c_t is not t-1] A_other[y_{t-1}, y_t] ) + end[y_T]

Two speakers, so the last label of each is all that the future can see: sums and maxima carry a label pair, C^2 states,
and are exact. One speaker is a linear chain. A single series whose turns are given to two speakers by turns
(``alternating``) is a chain with a skip of two: A_own joins y_{t-2} and A_other y_{t-1} to y_t.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vea.errors import VeaError


def alternating(length: int) -> list[int]:
    """Returns speakers 0, 1, 0, 1, ...: one series becomes a chain with a skip of two."""
    return [turn % 2 for turn in range(length)]


class ChainCRF(nn.Module):
    """Potentials of ``classes`` labels; every method takes one series.

    Emissions are logits (T, C), ``speakers`` T numbers 0 or 1 (default: one speaker), labels (T,) int64.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.start, self.end = nn.Parameter(torch.empty(classes)), nn.Parameter(torch.empty(classes))
        self.own, self.other = nn.Parameter(torch.empty(classes, classes)), nn.Parameter(torch.empty(classes, classes))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def score(self, emissions: Tensor, labels: Tensor, speakers: Sequence[int] | None = None) -> Tensor:
        """Returns the unnormalised log score of ``labels``, a scalar."""
        speakers = self._checked(emissions, speakers)
        total = self.start[labels[0]] + emissions.gather(1, labels[:, None]).sum() + self.end[labels[-1]]
        last: dict[int, int] = {speakers[0]: 0}
        for turn in range(1, len(speakers)):
            before = last.get(speakers[turn])
            if before is not None:
                total = total + self.own[labels[before], labels[turn]]
            if before != turn - 1:
                total = total + self.other[labels[turn - 1], labels[turn]]
            last[speakers[turn]] = turn
        return total

    def log_partition(self, emissions: Tensor, speakers: Sequence[int] | None = None) -> Tensor:
        """Returns log Z, the log of the sum of exp(score) over all labellings, a scalar."""
        pairs, final = self._sweep(emissions, self._checked(emissions, speakers), lambda x: (x.logsumexp(0), None))
        return self._ended(pairs, final).logsumexp(0)

    def loss(self, emissions: Tensor, labels: Tensor, speakers: Sequence[int] | None = None) -> Tensor:
        """Returns the negative log likelihood of ``labels`` per turn, a scalar."""
        return (self.log_partition(emissions, speakers) - self.score(emissions, labels, speakers)) / len(labels)

    def marginals(self, emissions: Tensor, speakers: Sequence[int] | None = None) -> Tensor:
        """Returns P(y_t = c) given the whole series, (T, C): the gradient of log Z by the emissions."""
        with torch.enable_grad():
            given = emissions.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.log_partition(given, speakers), given)
        return found

    @torch.no_grad()
    def viterbi(self, emissions: Tensor, speakers: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Returns (the labelling of highest score (T,) int64, its score)."""
        speakers = self._checked(emissions, speakers)
        pointers: list[Tensor] = []

        def best(x: Tensor) -> tuple[Tensor, Tensor]:
            values, indices = x.max(0)
            pointers.append(indices)
            return values, indices

        pairs, final = self._sweep(emissions, speakers, best)
        ended = self._ended(pairs, final).reshape(pairs.shape)
        own, other = divmod(int(ended.argmax()), ended.shape[1])
        labels = [own]
        for turn in range(len(speakers) - 1, 0, -1):  # pointers: the label of this speaker before the turn
            own = int(pointers[turn - 1][own, other])
            if speakers[turn] != speakers[turn - 1]:
                own, other = other, own
            labels.append(own)
        return torch.tensor(labels[::-1]), ended.max()

    def _sweep(self, emissions: Tensor, speakers: list[int], reduce) -> tuple[Tensor, int]:  # type: ignore[no-untyped-def]
        """Returns (scores (own, other) after the last turn, C + 1 labels each: the last one is "none yet"; speaker)."""
        none = self.classes
        minus = emissions.new_full((), -1e30)  # finite: logsumexp over nothing but -inf has no gradient
        own_move = nn.functional.pad(self.own, (0, 0, 0, 1))  # (C + 1, C): from "none yet" nothing is added
        pairs = torch.cat([self.start + emissions[0], minus[None]])[:, None].expand(-1, none + 1)
        seen = torch.arange(none + 1, device=emissions.device) == none  # the other speaker has said nothing
        pairs = torch.where(seen[None], pairs, minus)
        for turn in range(1, len(speakers)):
            same = speakers[turn] == speakers[turn - 1]
            if not same:
                pairs = pairs.T  # rows are the labels of who speaks now
            step = own_move[:, :, None] + pairs[:, None, :]  # (own before, own now, other)
            if not same:
                step = step + nn.functional.pad(self.other, (0, 0, 0, 1)).T[None]  # other speaks just before
            now = reduce(step)[0] + emissions[turn][:, None]
            pairs = torch.cat([now, minus.expand(1, none + 1)])
        return pairs, speakers[-1]

    def _ended(self, pairs: Tensor, speaker: int) -> Tensor:
        return (pairs + nn.functional.pad(self.end, (0, 1))[:, None]).flatten()

    def _checked(self, emissions: Tensor, speakers: Sequence[int] | None) -> list[int]:
        if emissions.ndim != 2 or emissions.shape[1] != self.classes or not len(emissions):
            raise VeaError(f"emissions are (T, {self.classes}) with T of 1 or more, not {tuple(emissions.shape)}")
        found = [0] * len(emissions) if speakers is None else [int(speaker) for speaker in speakers]
        if len(found) != len(emissions) or not set(found) <= {0, 1}:
            raise VeaError(f"speakers are {len(emissions)} numbers 0 or 1, one a turn")
        return found
