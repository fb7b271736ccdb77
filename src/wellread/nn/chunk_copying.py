"""Copying words from the neighbours of the chunk that was just finished: RETRO's copy head, which the paper lacks.

    p(word) = g * p_vocabulary(word) + (1 - g) * sum of the attention on the neighbours' tokens that are the word

What may be copied is what chunked cross-attention may read: the states that write chunk u + 1 copy from the neighbours
of chunk u and what follows these; those that write the first chunk only say. A token is found by its own word and by
the one before it, a state asks with what it is about to say and with the word just written. At first a token's score
is a share of its log-probability in the vocabulary, and more where the word before it is the one just written.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellread.nn.copying import CopyHead, Copying

__all__ = ["NeighbourCopying"]

# Of a cosine: a word that follows the one just written gets some fifty times the weight of others.
SHARPNESS = 4.0
# Copying starts at some hundredths of what is said.
SAY = 4.0
# Of log-probabilities: words that the vocabulary hardly knows are raised most. A fit to counted word pairs gave 0.72.
TRUST = 0.75


class NeighbourCopying(nn.Module):
    """A copy head over words: its keys are embeddings of width `dim`, its queries finished states of the same width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = CopyHead(dim, 2 * dim, copy_dim=2 * dim)
        self.trust = nn.Parameter(torch.tensor(TRUST))
        same, nothing = torch.eye(dim), torch.zeros(dim, dim)
        with torch.no_grad():
            self.head.key.weight.copy_(torch.block_diag(same, same))
            # Words have length sqrt(dim), and the head divides by the root of its width.
            sharp = SHARPNESS * (2 * dim) ** 0.5 / dim
            self.head.query.weight.copy_(torch.block_diag(nothing, sharp * same))
            for bias in (self.head.key.bias, self.head.query.bias, self.head.gate.weight):
                bias.zero_()
            self.head.gate.bias.fill_(SAY)

    def keys(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Keys [rows, neighbours * tokens, 2 dim] of words [rows, neighbours, tokens, dim] with mask."""
        whose = torch.arange(mask.shape[1], device=mask.device)[:, None].expand(mask.shape)
        return self.head.keys(_normed(embedded).flatten(1, 2), torch.where(mask, whose, -1).flatten(1))

    def log_probs(self, asking: tuple[Tensor, Tensor], log_words: Tensor, copies: tuple[Tensor, ...]) -> Tensor:
        """Log-probabilities [rows, t, vocab] float32 of the next words.

        asking: finished states, and embeddings of the words just written, [rows, t, dim] each. log_words: [rows, t,
        vocab] float32. copies: keys, tokens and mask of what may be copied, [rows, m, 2 dim] and twice [rows, m].
        """
        return self.head.mix(self._copying(asking, log_words, copies), log_words, copies[1])

    def target_log_probs(
        self, asking: tuple[Tensor, Tensor], log_words: Tensor, copies: tuple[Tensor, ...], target: Tensor
    ) -> Tensor:
        """`log_probs` of the target words [rows, t] alone, [rows, t] float32."""
        log_target = log_words.gather(2, target[..., None])[..., 0]
        return self.head.mix_target(self._copying(asking, log_words, copies), log_target, copies[1], target)

    def copied(
        self, asking: tuple[Tensor, Tensor], log_words: Tensor, copies: tuple[Tensor, ...], target: Tensor
    ) -> Tensor:
        """The share of p(target word) [rows, t, m] that was copied from each token; the rest of 1 was said."""
        copying = self._copying(asking, log_words, copies)
        log_target = log_words.gather(2, target[..., None])[..., 0]
        total = self.head.mix_target(copying, log_target, copies[1], target)
        same = target[..., None] == copies[1][:, None]
        return copying.attention.masked_fill(~same, 0.0) * (copying.log_copy - total).exp()[..., None]

    def over_chunks(
        self,
        asking: tuple[Tensor, Tensor],
        log_words: Tensor,
        copies: tuple[Tensor, ...],
        target: Tensor,
        *,
        chunk_tokens: int,
        shares: bool = False,
    ) -> Tensor:
        """`target_log_probs` of whole texts with a first token each: all [batch, tokens, ...], gives [batch, tokens].

        copies: keys, tokens and mask of what was found for each finished chunk, [batch, chunks, m, ...]. shares: what
        `copied` gives instead, [batch, tokens, m] over what was found for the last finished chunk.
        """
        tokens, chunks = target.shape[1], copies[1].shape[1]

        def blocks(part: Tensor) -> Tensor:
            later = part[:, chunk_tokens:]
            room = [0, 0] * (part.dim() - 2) + [0, chunks * chunk_tokens - later.shape[1]]
            return functional.pad(later, room).unflatten(1, (chunks, chunk_tokens)).flatten(0, 1)

        asking = (blocks(asking[0]), blocks(asking[1]))
        how = self.copied if shares else self.target_log_probs
        found = how(asking, blocks(log_words), tuple(part.flatten(0, 1) for part in copies), blocks(target))
        later = found.unflatten(0, (-1, chunks)).flatten(1, 2)[:, : tokens - chunk_tokens]
        first = log_words[:, :chunk_tokens].gather(2, target[:, :chunk_tokens, None])[..., 0]
        if shares:
            first = later.new_zeros(*first.shape, later.shape[2])
        return torch.cat((first, later), dim=1)

    def _copying(self, asking: tuple[Tensor, Tensor], log_words: Tensor, copies: tuple[Tensor, ...]) -> Copying:
        keys, tokens, mask = copies
        states, words = asking
        prior = log_words.gather(2, tokens[:, None].expand(-1, log_words.shape[1], -1))
        return self.head(torch.cat((states, _normed(words)), dim=-1), keys, mask, prior=self.trust.float() * prior)


def _normed(words: Tensor) -> Tensor:
    return functional.rms_norm(words, words.shape[-1:])
