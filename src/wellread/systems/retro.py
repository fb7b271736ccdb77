"""RETRO: a language model that looks at the neighbours of the chunk it has just finished.

Paper: Borgeaud et al., "Improving language models by retrieving from trillions of tokens" (2022), arXiv 2112.04426.

    d(C, N) = |Bert(C) - Bert(N)|, Bert frozen                 -> Retro.seek, and the database of chunks
    E_u = Enc(Ret(C_u), H_u)                                   -> Retro.read: states
    CCA(H, E): a token attends to the E_u of the last finished chunk   -> nn.chunked_attention, nn.chunked_decoder
    L = sum of log p(x_i | x_<i, Ret(C_u')_{u' < u})           -> Retro.log_likelihood, losses
    RETRO-fitting: only Enc and CCA are trained                -> training.freeze = ["reader."]

Letters: C_u -> chunk u of the text, m -> chunk_tokens, N and its continuation F -> passage (2 m tokens), k ->
neighbours (candidates of one group), P -> cross_layers, P_enc -> encoder_cross, H -> states below the first
cross-attention, E -> Reading.states. candidates.group says which chunk a neighbour belongs to; where nobody says, the
last finished one of the question.

A text is the question and what follows it. To score a target with neighbours of its own chunks, give those of the
whole text: chunk u's neighbours are only seen from its last token on, so nothing is given away.

Differences: the decoder is of the Llama family (rotary positions, SwiGLU) and begins every text with a start token; the
logits of distance in the cross-attention are a table of T5's buckets; the encoder reads the decoder's word embeddings
and does not train them; the output of every cross-attention starts at zero. A chunk is sought by its tokens: the frozen
Bert, which has a vocabulary of its own, belongs to the database. With copy_neighbours, off as in the paper, words that
the cross-attention may read can also be copied (nn.chunk_copying).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from wellread.losses import nll
from wellread.nn.chunk_copying import NeighbourCopying
from wellread.nn.chunked_decoder import ChunkedDecoder, Near, Running, TextStates
from wellread.nn.neighbour_building import build_neighbour_nets, copy_reader
from wellread.reading.chunks import by_chunk, follow, one_candidate, row_probes
from wellread.reading.decoding import Generated, generate
from wellread.reading.keeping import all_columns
from wellread.systems.base import Paper, Remembered, Search, System
from wellread.systems.retro_base import RetroConfig
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.llama import LlamaDecoder
    from wellread.reading.verbatim import Vocabulary

__all__ = ["Retro", "RetroConfig"]


@dataclass
class _Writing:
    """Texts being written: what the nets keep, and which rows have ended, [rows] bool."""

    running: Running
    ended: Tensor

    def reorder(self, index: Tensor) -> _Writing:
        return _Writing(self.running.reorder(index), self.ended.index_select(0, index))


class Retro(System):
    """Retrieves per chunk, also while it writes."""

    paper = Paper(
        "Improving language models by retrieving from trillions of tokens", "Borgeaud et al.", 2022, "2112.04426"
    )
    Config = RetroConfig
    built_on = "decoder"
    continues = True
    stores = frozenset({"tokens"})

    def __init__(self, config: RetroConfig, reader: LlamaDecoder) -> None:
        super().__init__()
        self.reader, depth = reader, reader.num_layers
        layers = config.cross_layers or tuple(range(depth // 2, depth, 3))
        if not all(0 <= layer < depth for layer in layers):
            raise ValueError(f"cross_layers={list(layers)}, but the decoder has {depth} layers; count from 0.")
        self.config = replace(config, cross_layers=tuple(sorted(layers)))
        sizes = {name: getattr(config, name) for name in ("encoder_layers", "encoder_dim", "encoder_heads")}
        more = {"encoder_cross": config.encoder_cross, "seed": config.seed, "words": config.read_words}
        more["normed"] = not config.copy_reader
        self.neighbours, self.cross = build_neighbour_nets(reader, cross_layers=sorted(layers), **sizes, **more)
        if config.copy_reader:
            copy_reader(reader, self.neighbours, self.cross)
        self.copy = NeighbourCopying(reader.dim) if config.copy_neighbours else None

    @property
    def decoder(self) -> ChunkedDecoder:
        """The nets, wired."""
        cross = {int(layer): net for layer, net in self.cross.items()}
        copy = self.copy if self.config.use_copy_head else None
        return ChunkedDecoder(self.reader, cross, self.neighbours, self.config.chunk_tokens, copy)

    def memory_weights(self) -> Mapping[str, Tensor]:
        """None: keys come from the database's frozen encoder."""
        return {}

    def parts(self) -> dict[str, list[str]]:
        neighbours = ["neighbours.", "cross.", *(["copy."] if self.copy else [])]
        return {"reader": ["reader."], "embeddings": ["reader.embed_tokens."], "neighbours": neighbours}

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        """Nothing but tokens; the database's own encoder makes the keys."""
        return Remembered()

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        """The tokens of every finished chunk, [chunks, chunk_tokens] int64 per question."""
        size = self.config.chunk_tokens
        finished = (inputs.mask.sum(-1) // size).tolist()
        return [row[: count * size].reshape(count, size) for row, count in zip(inputs.tokens, finished, strict=True)]

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        """Neighbours of the question's finished chunks: states [batch, passages * tokens, dim].

        extras: "chunk" [batch, passages * tokens], the chunk each state belongs to; "question", the inputs.
        """
        near, columns = self._near(inputs, candidates)
        text = self.decoder.read(*self._begun(inputs), near)
        column = all_columns(candidates.exists)
        if text.found is None:
            empty = inputs.tokens.new_zeros(inputs.batch, 0)
            states, mask, tokens, passage, chunk = text.states[:, :0], empty.bool(), empty, empty, empty
        else:
            mask, chunks = text.mask, text.found.shape[1]
            near, columns = near.first(chunks), pad(columns, (0, 0, 0, chunks - columns.shape[1]), value=-1)
            chunk = torch.arange(chunks, device=mask.device)[:, None, None].expand(mask.shape).flatten(1)
            passage = columns[..., None].where(mask, -1).flatten(1)
            states, tokens, mask = text.found.flatten(1, 3), near.tokens.flatten(1), mask.flatten(1)
        return Reading(
            states=states,
            mask=mask,
            tokens=tokens,
            copyable=mask,
            passage=passage,
            scores=None,
            kept=column,
            extras={"chunk": chunk, "question": inputs},
        )

    def _near(self, inputs: Inputs, candidates: CandidateBatch) -> tuple[Near, Tensor]:
        """The candidates by chunk, and the column of each."""
        return by_chunk(candidates, inputs.mask.sum(-1) // self.config.chunk_tokens)

    def _begun(self, text: Inputs) -> tuple[Tensor, Tensor]:
        """The text after its start token: tokens and mask."""
        start = text.tokens.new_full((text.batch, 1), self.reader.start_token)
        return torch.cat((start, text.tokens), dim=1), torch.cat((torch.ones_like(start).bool(), text.mask), dim=1)

    def _written(
        self, inputs: Inputs, candidates: CandidateBatch, target: Tensor, mask: Tensor, *, scored: bool = False
    ) -> tuple[TextStates, Tensor, Tensor]:
        """The states of question and target, which of them write the target [batch, target tokens], the whole text."""
        tokens, real = self._begun(follow(inputs, target, mask))
        # The last token writes nothing that is asked for, and could be the last of a chunk.
        text = self.decoder.read(tokens[:, :-1], real[:, :-1], self._near(inputs, candidates)[0], scored=scored)
        places = inputs.mask.sum(-1, keepdim=True) + torch.arange(target.shape[1], device=target.device)
        return text, places.clamp_max(text.states.shape[1] - 1), tokens

    def token_log_probs(
        self, inputs: Inputs, candidates: CandidateBatch, target: Tensor, target_mask: Tensor
    ) -> Tensor:
        """log p of every target token after the question: [batch, target tokens] float32."""
        text, places, tokens = self._written(inputs, candidates, target, target_mask)
        return self.decoder.target_log_probs(text, tokens[:, :-1], tokens[:, 1:], places)

    def log_likelihood(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        target: Tensor,
        target_mask: Tensor,
        *,
        per_passage: bool = False,
    ) -> Tensor:
        if per_passage:
            every = range(candidates.num_passages)
            alone = [self.token_log_probs(inputs, one_candidate(candidates, at), target, target_mask) for at in every]
            return torch.stack([each.masked_fill(~target_mask, 0.0).sum(-1) for each in alone], dim=1)
        log_probs = self.token_log_probs(inputs, candidates, target, target_mask)
        return log_probs.masked_fill(~target_mask, 0.0).sum(-1)

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        said = self.token_log_probs(batch.inputs, batch.candidates, batch.target, batch.target_mask)
        loss = nll(said, batch.target_mask)
        if torch.is_grad_enabled() and not loss.requires_grad:
            # A frozen reader and texts too short for neighbours: a step that teaches nothing.
            loss = loss + 0.0 * sum(weight.sum() for weight in self.parameters() if weight.requires_grad)
        return {"nll": loss}

    def generate(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        *,
        max_tokens: int,
        num_beams: int = 1,
        reading: Reading | None = None,
        search: Search | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> Generated:
        """Continue the questions; at every border of a chunk `search` is asked for its neighbours.

        Without `search`, chunks that are written have no neighbours. `reading` saves nothing here: the neighbours'
        states are not all that is needed to go on.
        """
        if vocabulary is not None:
            raise ValueError("RETRO continues a text in words of its own; leave verbatim out.")
        decoder, end = self.decoder, self.reader.end_token
        with torch.no_grad():
            state, running = decoder.begin(*self._begun(inputs), self._near(inputs, candidates)[0])
        rows = torch.arange(inputs.batch, device=inputs.tokens.device).repeat_interleave(num_beams)

        def step(new: Tensor, writing: _Writing | None) -> tuple[Tensor, _Writing]:
            if writing is None:  # what comes first is a start token; the text starts with the question
                ended = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
                return decoder.log_probs(state[rows], running.reorder(rows)), _Writing(running, ended)
            ended = writing.ended | (new[:, 0] == end)
            states, finished = decoder.step(new, writing.running)
            if bool(finished.any()):
                self._look(writing.running, finished, finished & ~ended, search)
            states = decoder.finish_step(states, writing.running)
            return decoder.log_probs(states[:, 0], writing.running), _Writing(writing.running, ended)

        return generate(
            step,
            start_token=self.reader.start_token,
            end_token=end,
            pad_token=self.reader.pad_token,
            batch=inputs.batch,
            max_tokens=max_tokens,
            num_beams=num_beams,
            device=inputs.tokens.device,
        )

    def _look(self, running: Running, finished: Tensor, asks: Tensor, search: Search | None) -> None:
        """Search for the chunks that were just finished; rows that do not ask find nothing."""
        at, near = finished.nonzero()[:, 0], None
        if search is not None and bool(asks.any()):
            found = search(row_probes(running.chunk, asks))
            # A row has one probe, whichever number the search gave it.
            near = by_chunk(replace(found, group=None), asks.long())[0].first(1).rows(at)
        self.decoder.show(running, at, near)

    def shares(self, reading: Reading, written: Generated, candidates: CandidateBatch) -> Tensor:
        """What the written words were copied from and, as far as they were said, what their states attended to."""
        question: Inputs = reading.extras["question"]
        order = torch.arange(written.tokens.shape[1], device=written.tokens.device)
        mask = order < written.lengths[:, None]
        text, places, tokens = self._written(question, candidates, written.tokens, mask, scored=True)
        if text.weights is None:
            return torch.zeros_like(candidates.scores, dtype=torch.float32)
        given = self.decoder.contributions(text, tokens[:, :-1], tokens[:, 1:], places) * mask[..., None]
        columns = self._near(question, candidates)[1]
        columns = pad(columns, (0, 0, 0, text.mask.shape[1] - columns.shape[1]), value=-1)
        rows = torch.arange(len(places), device=places.device)[:, None]
        whose = columns[rows, (places // self.config.chunk_tokens - 1).clamp_min(0)]
        shares = torch.zeros_like(candidates.scores, dtype=torch.float32)
        shares = shares.scatter_add(1, whose.clamp_min(0).flatten(1), given.masked_fill(whose < 0, 0.0).flatten(1))
        return shares / shares.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
