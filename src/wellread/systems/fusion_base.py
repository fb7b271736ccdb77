"""What the readers share whose decoder attends to all passages at once: all but REALM and RETRO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wellread.losses import nll
from wellread.reading.batching import by_length
from wellread.reading.decoding import Generated, generate
from wellread.reading.fusion import fuse
from wellread.reading.keeping import all_columns
from wellread.reading.pairing import Pairs, attention_mask, join
from wellread.reading.verbatim import Vocabulary, verbatim
from wellread.systems.base import Remembered, Search, System
from wellread.types import CandidateBatch, Inputs, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.encoder_decoder import EncoderDecoder

__all__ = ["FusionSystem", "take"]


class FusionSystem(System):
    """A reader whose decoder attends to all passages at once.

    The encoder is one stack; its first `cut` layers are the memory encoder, the rest the live encoder. The
    question passes `cut` layers too, of its own copy (question="separate") or of the memory encoder itself
    (question="shared"), so that both sides meet at the same height.
    """

    def __init__(
        self,
        config: Any,
        reader: EncoderDecoder,
        *,
        cut: int,
        question: str = "shared",
        train_memory: bool = True,
        train_question: bool = True,
    ) -> None:
        super().__init__()
        layers = reader.encoder.num_layers
        if not 0 <= cut <= layers:
            raise ValueError(f"cut={cut} but the encoder has {layers} layers; it must be between 0 and {layers}.")
        self.config = config
        self.reader = reader
        self.cut = cut
        self.train_memory = train_memory or cut == 0
        self.question_encoder = None
        if question == "separate" and cut > 0:
            self.question_encoder = reader.encoder.with_layers(0, cut)
            self.question_encoder.requires_grad_(train_question)
        if not self.train_memory:
            for module in self._memory_modules():
                module.requires_grad_(False)

    # -- what is frozen ------------------------------------------------------------------------------------

    def _memory_modules(self) -> list[nn.Module]:
        encoder = self.reader.encoder
        return [encoder] if self.cut == encoder.num_layers else encoder.modules_below(self.cut)

    def train(self, mode: bool = True) -> FusionSystem:
        """A frozen memory encoder stays in evaluation mode, so that training reads what memory would hold."""
        super().train(mode)
        if not self.train_memory:
            for module in self._memory_modules():
                module.eval()
        return self

    def memory_weights(self) -> Mapping[str, Tensor]:
        names = {id(weight): name for name, weight in self.reader.encoder.named_parameters()}
        weights = [weight for module in self._memory_modules() for weight in module.parameters()]
        return {names[id(weight)]: weight.detach() for weight in weights}

    def parts(self) -> dict[str, list[str]]:
        layers = self.reader.encoder.num_layers
        names = {id(module): name for name, module in self.named_modules()}
        memory = [f"{names[id(module)]}." for module in self._memory_modules()]
        live = [f"reader.encoder.layers.{index}." for index in range(self.cut, layers)]
        finals = [name for name, _ in self.reader.encoder.named_parameters(prefix="reader.encoder")]
        known = tuple(memory + live)
        live += [name for name in finals if not name.startswith(known)]
        return {
            "memory": memory,
            "live": live,
            "question": ["question_encoder."],
            "decoder": ["reader.decoder.", "reader.copy.", "reader.bridge."],
        }

    # -- remember ------------------------------------------------------------------------------------------

    @property
    def stores(self) -> frozenset[str]:
        return frozenset({"tokens", "states"}) if self.cut > 0 else frozenset({"tokens"})

    @property
    def stored_dim(self) -> int | None:
        return self.reader.encoder.dim if self.cut > 0 else None

    @property
    def memory_cut(self) -> str:
        return f"{self.cut} of {self.reader.encoder.num_layers}"

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        """States after the first `cut` layers, [passages, tokens, dim]; nothing but tokens where cut is 0."""
        if self.cut == 0:
            return Remembered()
        return Remembered(states=self._first_layers(self.reader.encoder, tokens, mask, segment=0), mask=mask)

    def _first_layers(self, encoder: nn.Module, tokens: Tensor, mask: Tensor, *, segment: int) -> Tensor:
        layers = partial(encoder.run, start=0, stop=self.cut)
        states = by_length(layers, encoder.embed(tokens, segment=segment), mask)
        return encoder.finish(states) if self.cut == self.reader.encoder.num_layers else states

    def question_states(self, inputs: Inputs) -> Tensor:
        """Questions after `cut` layers, [batch, tokens, dim]. BERT marks them with the second token type."""
        encoder = self.question_encoder if self.question_encoder is not None else self.reader.encoder
        return self._first_layers(encoder, inputs.tokens, inputs.mask, segment=1)

    def passage_states(self, candidates: CandidateBatch) -> Tensor:
        """Passages after `cut` layers, [batch, passages, tokens, dim]: from memory, else encoded now."""
        if candidates.states is not None:
            return candidates.states.to(next(self.reader.parameters()).dtype)
        tokens, mask = candidates.tokens.flatten(0, 1), candidates.mask.flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_memory):
            states = self._first_layers(self.reader.encoder, tokens, mask, segment=0)
        return states.unflatten(0, candidates.tokens.shape[:2])

    # -- read ----------------------------------------------------------------------------------------------

    def pair(self, inputs: Inputs, question: Tensor, candidates: CandidateBatch, passages: Tensor) -> Pairs:
        """[question; passage] for every candidate (LUMEN 3.1, H_i)."""
        return join(
            question,
            inputs.mask,
            inputs.tokens,
            passage_states=passages,
            passage_mask=candidates.mask,
            passage_tokens=candidates.tokens,
        )

    def live(
        self, pairs: Pairs, start: int, stop: int, *, q2mem: bool = True, mem2q: bool = True, first: int = 0
    ) -> Pairs | Tensor:
        """Layers start..stop-1 over every pair; the encoder's final norm after the last layer.

        first: when not 0, only the first `first` tokens come out of layer stop-1, as a tensor
        [batch, passages, first, dim]: what a score needs, for a fraction of the layer's cost.
        """
        encoder = self.reader.encoder
        mask = attention_mask(pairs, q2mem=q2mem, mem2q=mem2q)
        layers = partial(encoder.run, start=start, stop=stop, first=first or None)
        states = by_length(layers, pairs.flat()[0], mask)
        if stop == encoder.num_layers:
            states = encoder.finish(states)
        return states.unflatten(0, pairs.mask.shape[:2]) if first else pairs.with_states(states)

    def fuse(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        pairs: Pairs,
        *,
        kept: Tensor | None = None,
        scores: Tensor | None = None,
        question: Tensor | None = None,
    ) -> Reading:
        """Pairs of the columns `kept` (all without) -> what the decoder attends to."""
        kept = all_columns(candidates.exists) if kept is None else kept
        extra = None if question is None else (question, inputs.mask, inputs.tokens)
        return fuse(pairs, kept, exists=candidates.exists, scores=scores, question=extra)

    # -- answer --------------------------------------------------------------------------------------------

    def target_log_probs(self, reading: Reading, target: Tensor) -> Tensor:
        """log p of every target token given what was read: [batch, tokens] float32."""
        reader = self.reader
        start = target.new_full((target.shape[0], 1), reader.decoder.start_token)
        shifted = torch.cat([start, target[:, :-1]], dim=1)
        memory = reader.memory(reading.states)
        states = reader.decoder(shifted, memory, reading.mask)
        return reader.target_log_probs(states, target, **self._copying(reading))

    def _copying(self, reading: Reading) -> dict[str, Tensor | None]:
        """What the copy head needs of a reading, made once and used at every written token."""
        keys = self.reader.copy_keys(reading.states, reading.passage)
        return {"copy_states": keys, "copy_tokens": reading.tokens, "copy_mask": reading.copyable}

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
            every = all_columns(candidates.exists)
            alone = [
                self.log_likelihood(inputs, take(candidates, every[:, index : index + 1]), target, target_mask)
                for index in range(candidates.num_passages)
            ]
            return torch.stack(alone, dim=1)
        return self.likelihood_of(self.read(inputs, candidates), target, target_mask)

    def likelihood_of(self, reading: Reading, target: Tensor, target_mask: Tensor) -> Tensor:
        """log p(target) given what was read: [batch] float32."""
        return self.target_log_probs(reading, target).masked_fill(~target_mask, 0.0).sum(-1)

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
        reading = self.read(inputs, candidates) if reading is None else reading
        return self.write(reading, max_tokens=max_tokens, num_beams=num_beams, vocabulary=vocabulary)

    def write(
        self, reading: Reading, *, max_tokens: int, num_beams: int = 1, vocabulary: Vocabulary | None = None
    ) -> Generated:
        """Answers to what was read, as `generate` gives them."""
        reader, decoder = self.reader, self.reader.decoder
        memory, copying = reader.memory(reading.states), self._copying(reading)

        def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
            states = decoder(tokens, memory, reading.mask, cache=cache)
            return reader.log_probs(states[:, -1:], **copying)[:, 0], cache

        state = decoder.new_cache(memory, reading.mask, target_tokens=max_tokens * num_beams)
        special = {"start_token": decoder.start_token, "end_token": decoder.end_token, "pad_token": decoder.pad_token}
        if vocabulary is not None:
            limits = {"max_tokens": max_tokens, "end_token": decoder.end_token}
            step, state = verbatim(step, state, reading, vocabulary, **limits)
        return generate(
            step,
            state,
            **special,
            batch=reading.states.shape[0],
            max_tokens=max_tokens,
            num_beams=num_beams,
            device=reading.states.device,
        )

    def shares(self, reading: Reading, written: Generated, candidates: CandidateBatch) -> Tensor:
        """How much each candidate gave to an answer: [batch, passages], summing to 1.

        The attention of the decoder's last layer, averaged over heads and written tokens, summed over the
        tokens of each passage.
        """
        decoder, tokens = self.reader.decoder, written.tokens
        start = tokens.new_full((tokens.shape[0], 1), decoder.start_token)
        shifted = torch.cat([start, tokens[:, :-1]], dim=1)
        memory = self.reader.memory(reading.states)
        _, scores = decoder(shifted, memory, reading.mask, return_attention=True)
        order = torch.arange(tokens.shape[1], device=tokens.device)
        real = (order < written.lengths[:, None])[:, None, :, None]
        seen = scores[:, -1].float().masked_fill(~reading.mask[:, None, None], float("-inf")).softmax(-1)
        mass = seen.masked_fill(~real, 0.0).sum((1, 2))
        columns = reading.passage.clamp_min(0)
        mass = mass.masked_fill(reading.passage < 0, 0.0)
        total = mass.new_zeros(candidates.exists.shape).scatter_add(1, columns, mass)
        return total / total.sum(-1, keepdim=True).clamp_min(1e-9)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes the papers' formulas ask for."""
        reader = self.reader
        return {
            "layers": reader.encoder.num_layers,
            "dim": reader.encoder.dim,
            "decoder_layers": reader.decoder.num_layers,
        }

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        reading = self.read(batch.inputs, batch.candidates)
        return {"nll": nll(self.target_log_probs(reading, batch.target), batch.target_mask)}


def take(candidates: CandidateBatch, kept: Tensor) -> CandidateBatch:
    """The candidates in the columns kept [batch, keep] of every question, as a batch of their own."""
    rows = torch.arange(kept.shape[0], device=kept.device)[:, None]
    names = ("tokens", "mask", "exists", "scores", "states", "keys", "group", "source", "picture", "picture_mask")
    parts = {name: getattr(candidates, name) for name in names}
    parts = {name: None if part is None else part[rows, kept] for name, part in parts.items()}
    ids = [[names[column] for column in row] for names, row in zip(candidates.ids, kept.tolist())]
    return replace(candidates, **parts, ids=ids)
