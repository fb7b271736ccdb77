"""A copy (pointer) head: the next word is either said from the vocabulary or copied from a passage.

After See et al. 2017 (Get To The Point), with one change: the key of a passage token is made of its own state
and its predecessor's, so that a decoder that has just copied a token finds the one that follows it.

    p(word) = g * p_vocabulary(word) + (1 - g) * sum of the attention on the passage tokens that are the word

The gate g and the attention are functions of the decoder's state. Where `prior` says what the vocabulary gives the
passage tokens, both ways of writing share one softmax instead (Gu et al. 2016, CopyNet): g then falls where much fits,
and what fits little is hardly copied. All probabilities are computed in float32, under autocast too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CopyHead", "Copying"]

# Below any float32 probability that matters; its logarithm (-87) is finite, and so are its gradients.
TINY = torch.finfo(torch.float32).tiny


class Copying(NamedTuple):
    """What the copy head decides for every target token; float32.

    attention: [rows, t, m], sums to 1 over copyable tokens; all zeros where nothing can be copied.
    log_say, log_copy: [rows, t], log g and log (1 - g); 0 and log TINY where nothing can be copied.
    """

    attention: Tensor
    log_say: Tensor
    log_copy: Tensor


class CopyHead(nn.Module):
    """Attention from decoder states over passage tokens, and the gate between saying and copying.

    dim: width of the encoder's states. decoder_dim: width of the decoder's. copy_dim: width of the keys.
    """

    def __init__(self, dim: int, decoder_dim: int, *, copy_dim: int) -> None:
        super().__init__()
        self.dim, self.copy_dim = dim, copy_dim
        self.key = nn.Linear(2 * dim, copy_dim)
        self.query = nn.Linear(decoder_dim, copy_dim)
        self.gate = nn.Linear(decoder_dim, 1)

    def keys(self, states: Tensor, passage: Tensor) -> Tensor:
        """Keys [batch, m, copy_dim] float32 of fused encoder states [batch, m, dim]; once per read.

        passage: [batch, m] int64, which passage each state belongs to, -1 for none. The predecessor of a
        token is the state before it in the same passage; the first token of a passage has zeros.
        """
        if states.shape[-1] != self.dim:
            raise ValueError(
                f"states are {states.shape[-1]} wide, the copy head reads states of {self.dim}; "
                "give the encoder's fused states, before the bridge."
            )
        own, before = self.key.weight.split(self.dim, dim=1)
        follows = (passage[:, 1:] == passage[:, :-1]) & (passage[:, 1:] >= 0)
        # Projecting first and shifting after saves a copy of the states twice as wide.
        previous = functional.linear(states[:, :-1], before)
        previous = previous.masked_fill(~follows.unsqueeze(-1), 0.0)
        keys = functional.linear(states, own, self.key.bias)
        return (keys + functional.pad(previous, (0, 0, 1, 0))).float()

    def forward(self, decoder_states: Tensor, keys: Tensor, copyable: Tensor, prior: Tensor | None = None) -> Copying:
        """Where to copy from and whether to.

        decoder_states: [rows, t, decoder_dim]; rows is a multiple of batch, the rows (beams) of one question
        adjacent. keys: [batch, m, copy_dim] from `keys`. copyable: [batch, m] bool. prior: [batch, rows / batch * t, m]
        float32, added to the scores, whose sum (of exponentials) the gate is then against.
        """
        rows, tokens, _ = decoder_states.shape
        query = self.query(decoder_states)
        with torch.autocast(decoder_states.device.type, enabled=False):
            query = query.float().view(keys.shape[0], -1, self.copy_dim)
            scores = query @ keys.float().transpose(1, 2) * self.copy_dim**-0.5
            scores = scores if prior is None else scores + prior
            allowed = copyable.unsqueeze(1)
            # Finite, so that a question with nothing to copy gives numbers; its attention is zeroed after.
            scores = scores.masked_fill(~allowed, torch.finfo(torch.float32).min)
            attention = scores.softmax(dim=-1).masked_fill(~allowed, 0.0)
            states, weight = decoder_states.float(), self.gate.weight.float()
            gate = functional.linear(states, weight, self.gate.bias.float()).squeeze(-1)
            gate = gate if prior is None else gate - scores.logsumexp(-1).view_as(gate)
            empty = ~copyable.any(dim=1).repeat_interleave(rows // keys.shape[0]).unsqueeze(1)
            log_say = functional.logsigmoid(gate).masked_fill(empty, 0.0)
            log_copy = functional.logsigmoid(-gate).masked_fill(empty, torch.tensor(TINY).log().item())
        return Copying(attention.view(rows, tokens, -1), log_say, log_copy)

    def mix(self, copying: Copying, log_words: Tensor, copy_tokens: Tensor) -> Tensor:
        """Log-probabilities [rows, t, vocab] float32 of saying and copying together.

        log_words: [rows, t, vocab] float32, log-probabilities of the vocabulary alone. copy_tokens: [batch, m].
        """
        rows, tokens, _ = copying.attention.shape
        index = copy_tokens.repeat_interleave(rows // copy_tokens.shape[0], dim=0)
        index = index.unsqueeze(1).expand(-1, tokens, -1)
        copied = torch.zeros_like(log_words).scatter_add(2, index, copying.attention)
        return _join(copying, log_words, copied, unsqueeze=True)

    def mix_target(self, copying: Copying, log_target: Tensor, copy_tokens: Tensor, target: Tensor) -> Tensor:
        """`mix` for the target tokens alone, [rows, t] float32; nothing of the vocabulary's size is made.

        log_target: [rows, t] float32, the target's log-probability in the vocabulary. target: [rows, t] int64.
        """
        rows = copying.attention.shape[0]
        index = copy_tokens.repeat_interleave(rows // copy_tokens.shape[0], dim=0)
        same = target.unsqueeze(2) == index.unsqueeze(1)
        copied = copying.attention.masked_fill(~same, 0.0).sum(dim=-1)
        return _join(copying, log_target, copied, unsqueeze=False)


def _join(copying: Copying, log_words: Tensor, copied: Tensor, *, unsqueeze: bool) -> Tensor:
    log_say, log_copy = copying.log_say, copying.log_copy
    if unsqueeze:
        log_say, log_copy = log_say.unsqueeze(-1), log_copy.unsqueeze(-1)
    return torch.logaddexp(log_say + log_words, log_copy + copied.clamp_min(TINY).log())
