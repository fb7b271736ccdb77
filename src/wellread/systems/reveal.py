"""REVEAL: entries of several sources, with pictures, kept as a key and a few value tokens; a gate says where to look.

Paper: Hu et al., "REVEAL: Retrieval-Augmented Visual-Language Pre-Training with Multi-Source Multimodal Knowledge
Memory" (2023), arXiv 2212.05221.

    b(x): lower text layers and patches, side by side          -> Reveal._see
    Emb_Key(z) = phi_Key(b(z)), psi(b(z))                      -> Reveal.remember (appendix E.1, algorithm 1)
    Gate_M(x) Emb_Query(x), Emb_Query(x) = phi_Query(b(x))     -> Reveal.seek: one vector per source
    p(z | x) = softmax of Gate_M(z)(x) Rel(x, z) / tau         -> Reveal._scores (appendix F, equations 1 to 3)
    F([b(x), psi(b(z_1)), ... psi(b(z_K))], Mask_att)          -> Reveal.read (equation 4, algorithm 2)
    L_contra, L_decor, L_align                                 -> Reveal.joint_losses, Reveal.represent

Letters: x -> inputs, z -> passage, M -> source, b -> _see, psi -> compress, phi -> query_head and key_head,
c -> num_latents, K -> top_k, tau -> temperature, F -> the encoder's layers above `cut`, under weights.
Stored: tokens, one key and num_latents values. Sought: one vector per source; an entry is compared with its source's.

Differences. A small reader cannot write names from values alone: the text of the `reencoded` best entries is encoded
again and stands in F beside the values, weighted as they are, so that it can be copied. In training the `renewed` best
get keys and values made anew, with gradients; those of the others come from memory. p(z | x) multiplies what the
decoder attends to as well. Glances (a linear map of the whole picture, a sum over rare words; one each for questions
and entries) are added to what both heads give: pictures that look alike, and texts of the same words, are near each
other before anything was learnt. Vectors are means over tokens. BERT's states are normed where they come out of a
layer; there the weights multiply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from wellread.losses import alignment, contrastive, decorrelation, log_softmax_over, nll
from wellread.nn.multimodal import Multimodal, Seen
from wellread.reading.attentive import Weighed, side_by_side
from wellread.reading.keeping import all_columns, keep_best
from wellread.systems.base import Paper, Remembered, Represented
from wellread.systems.fusion_base import FusionSystem, take
from wellread.systems.reveal_base import Entries, RevealConfig, judged
from wellread.systems.step_base import gathered, numbers
from wellread.types import CandidateBatch, Inputs, Passage, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.nn.encoder_decoder import EncoderDecoder
    from wellread.reading.decoding import Generated

__all__ = ["Reveal", "RevealConfig"]

ENTRIES_AT = 1000  # where entries stand for encoders that go by distances: too far from the question to matter
# Of the nets that are added to the reader: their sizes in the config, and those that decide what is stored.
SIZES = ("head_layers", "key_dim", "num_latents", "compress", "perceiver_layers", "picture_dim", "picture_colours")
SIZES += ("patches", "patch_width", "words")
MADE_BY = tuple(f"nets.{name}." for name in ("key_head", "compress", "patches", "glance", "words"))


class Reveal(FusionSystem):
    """Reads pictures and text, of entries too, through a few value tokens per entry."""

    paper = Paper(
        "REVEAL: Retrieval-Augmented Visual-Language Pre-Training with Multi-Source Multimodal Knowledge Memory",
        "Hu et al.",
        2023,
        "2212.05221",
    )
    Config = RevealConfig
    config: RevealConfig
    reads_as_trained = True  # p(z|x) is shared out among all that is read
    retriever: ClassVar[str | None] = "reveal"
    per_source: ClassVar[frozenset[str]] = frozenset({"gate.weight", "gate.bias"})
    stores = frozenset({"tokens", "states", "keys"})

    def __init__(self, config: RevealConfig, reader: EncoderDecoder) -> None:
        encoder = reader.encoder
        cut = encoder.num_layers // 2 if config.lower_layers is None else config.lower_layers
        super().__init__(config, reader, cut=cut, train_memory=config.train_encoder)
        if cut + config.head_layers > encoder.num_layers:
            raise ValueError(
                f"head_layers={config.head_layers} above lower_layers={cut}, but the encoder has {encoder.num_layers} "
                "layers; use fewer."
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # always the same beginning
            self.nets = Multimodal(encoder, cut, **{name: getattr(config, name) for name in SIZES})
        self.gate = nn.Linear(config.key_dim, len(config.sources))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    # -- what is stored ------------------------------------------------------------------------------------

    @property
    def memory_cut(self) -> str:
        made = f"{self.config.num_latents} values ({self.config.compress})"
        return ", ".join(filter(None, (super().memory_cut, made, self.config.picture_encoder)))

    def memory_weights(self) -> Mapping[str, Tensor]:
        weights = (*self.named_parameters(), *self.named_buffers())
        named = {name: weight.detach() for name, weight in weights if name.startswith(MADE_BY)}
        return {**super().memory_weights(), **named}

    def parts(self) -> dict[str, list[str]]:
        parts = super().parts()
        return {**parts, "memory": [*parts["memory"], *MADE_BY], "question": ["nets.query_head.", "gate."]}

    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        """One key [passages, key_dim] and values [passages, num_latents, dim]."""
        seen = self._see(tokens, mask, picture, picture_mask, segment=0)
        values, real = self.nets.values(seen)
        return Remembered(states=values, mask=real, keys=self.nets.key(seen))

    def _see(
        self, tokens: Tensor, mask: Tensor, picture: Tensor | None, picture_mask: Tensor | None, *, segment: int
    ) -> Seen:
        text = self._first_layers(self.reader.encoder, tokens, mask, segment=segment)
        return self.nets.see(tokens, text, mask, picture, picture_mask)

    # -- retrieve ------------------------------------------------------------------------------------------

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        """Gate_M(x) Emb_Query(x) of every source, [sources, key_dim] per question."""
        return list(self._probes(self._question(inputs))[0])

    @property
    def reads_pictures(self) -> bool:
        return self.config.picture_dim > 0

    @property
    def picture_encoder(self) -> str:
        return self.config.picture_encoder

    def sees(self, image_encoder: str, *, patches: int, groups: Sequence[int]) -> None:
        self.config = self.config.with_features(image_encoder, patches=patches, groups=groups)

    @property
    def sources(self) -> Sequence[str]:
        return self.config.sources

    def source_of(self, passage: Passage) -> int:
        """ValueError for a source the gate does not know."""
        if passage.source not in self.sources:
            known = ", ".join(self.sources)
            raise ValueError(
                f"passage {passage.id!r} has source {passage.source!r}, the model's gate knows {known}; "
                "name it so (--source NAME=...), or train a model whose system.sources names all of the memory's."
            )
        return self.sources.index(passage.source)

    def _question(self, inputs: Inputs) -> Seen:
        return self._see(inputs.tokens, inputs.mask, inputs.picture, inputs.picture_mask, segment=1)

    def _probes(self, question: Seen) -> tuple[Tensor, Tensor]:
        """Gated queries [batch, sources, key_dim], and the gates [batch, sources], which sum to 1."""
        query = self.nets.query(question)
        entries = query * self.config.key_dim**0.5  # those of a vector of length 1 are too small to learn from
        gates = self.gate(entries.to(self.gate.weight.dtype)).float().softmax(-1)
        gates = gates if self.config.gated else torch.ones_like(gates)
        return gates[..., None] * query[:, None], gates

    def _sources(self, candidates: CandidateBatch) -> Tensor:
        return candidates.exists.long() * 0 if candidates.source is None else candidates.source

    def _scores(self, probes: Tensor, keys: Tensor, candidates: CandidateBatch) -> Tensor:
        """Gated relevance over temperature, [batch, passages] float32; -inf where there is no passage."""
        with torch.autocast(probes.device.type, enabled=False):  # bfloat16 would make ties of near entries
            every = torch.einsum("bsd,bpd->bps", probes, keys.float())
        own = every.gather(2, self._sources(candidates)[..., None])[..., 0]
        return (own / self.config.temperature).masked_fill(~candidates.exists, -torch.inf)

    # -- read ----------------------------------------------------------------------------------------------

    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        """[batch, tokens, dim]: question, values and text of the best entries, fused. [batch, passages]: scores, gated
        relevance over temperature; extras: chance, p(z | x), and gate, of the source."""
        question = self._question(inputs)
        probes, gates = self._probes(question)
        reading = self._fuse(candidates, question, probes, self._entries(candidates, probes))
        return reading.with_extras(gate=gates.gather(1, self._sources(candidates)))

    def _entries(self, candidates: CandidateBatch, probes: Tensor, positive: Tensor | None = None) -> Entries:
        """Keys and values of all candidates, from memory or made now, and the text of the best.

        In training the best are made anew whatever memory holds. positive: candidates that come before all others.
        """
        stored = candidates.states is not None and candidates.keys is not None
        made = None if stored else self._make(candidates)
        keys = candidates.keys.float() if stored else made.keys
        scores = self._scores(probes.detach(), keys.detach(), candidates)
        if positive is not None:
            scores = scores.masked_fill(positive, torch.finfo(torch.float32).max)
        order = keep_best(scores, candidates.exists, candidates.num_passages)
        best = order[:, : self.config.reencoded]
        if not stored:
            return replace(made, best=best, text=made.text.take_along_dim(best[..., None, None], 1))
        values = candidates.states.to(self.gate.weight.dtype)
        real = values.ne(0).any(-1)  # a memory's values are padded with zeros
        tokens = replace(candidates, states=None, keys=None)
        if not self.training:
            return Entries(keys, values, real, best, self.passage_states(take(tokens, best)))
        anew = order[:, : max(self.config.renewed, self.config.reencoded)]
        made = self._make(take(tokens, anew))
        keys = keys.scatter(1, anew[..., None].expand_as(made.keys), made.keys)
        values = values.scatter(1, anew[..., None, None].expand_as(made.values), made.values)
        return Entries(keys, values, real, best, made.text[:, : best.shape[1]])

    def _make(self, candidates: CandidateBatch) -> Entries:
        """All entries as `remember` makes them, [batch, passages, ...], and their text states."""
        parts = (candidates.tokens, candidates.mask, candidates.picture, candidates.picture_mask)
        seen = self._see(*(None if part is None else part.flatten(0, 1) for part in parts), segment=0)
        made = (self.nets.key(seen), *self.nets.values(seen), seen.text)
        keys, values, real, text = (part.unflatten(0, candidates.exists.shape) for part in made)
        return Entries(keys, values, real, all_columns(candidates.exists), text)

    def _fuse(self, candidates: CandidateBatch, question: Seen, probes: Tensor, entries: Entries) -> Reading:
        exists, every, best = candidates.exists, all_columns(candidates.exists), entries.best
        scores = self._scores(probes, entries.keys, candidates)
        chance = log_softmax_over(scores, exists).exp().masked_fill(~exists, 0.0)
        exists = torch.zeros_like(exists) if self.config.fusion == "none" else exists
        weights = chance if self.config.fusion == "attentive" else exists.to(chance.dtype)
        rows = torch.arange(len(best), device=best.device)[:, None]
        read = candidates.mask[rows, best] & exists[rows, best][..., None]
        real = entries.real & exists[..., None]
        weigh = partial(Weighed.of_entries, chance=weights, at=ENTRIES_AT)
        whole = side_by_side(
            [
                weigh(entries.text, read, columns=best, tokens=candidates.tokens[rows, best]),
                Weighed.of_question(question.states, question.mask, question.places),
                weigh(entries.values, real, columns=every),
            ]
        )
        encoder, weights = self.reader.encoder, whole.weights.to(whole.states.dtype)
        bias = encoder.bias_between(whole.places, whole.places)
        states = encoder.run(whole.states, whole.mask, start=self.cut, bias=bias, weights=weights)
        return Reading(
            states=encoder.finish(states) * weights[..., None],
            mask=whole.mask,
            tokens=whole.tokens,
            copyable=whole.copyable,
            passage=whole.passage,
            scores=scores,
            kept=every,
            extras={"chance": chance},
        )

    def shares(self, reading: Reading, written: Generated, candidates: CandidateBatch) -> Tensor:
        """What a state draws of the attention, times what it was multiplied by: next to nothing gives nothing."""
        given = super().shares(reading, written, candidates)
        given = given * reading.extras["chance"] if self.config.fusion == "attentive" else given
        return given / given.sum(-1, keepdim=True).clamp_min(1e-9)

    # -- learn ---------------------------------------------------------------------------------------------

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        part = self.represent(batch)
        return part.losses | (self.joint_losses([part]) if self.compares_questions else {})

    @property
    def compares_questions(self) -> bool:
        return self.config.contrastive_weight > 0

    def represent(self, batch: TrainingBatch, *, with_losses: bool = True) -> Represented:
        """Gated queries and keys, and which entries hold the answer."""
        candidates, exists = batch.candidates, batch.candidates.exists
        question = self._question(batch.inputs)
        probes, _ = self._probes(question)
        entries = self._entries(candidates, probes, batch.positive)
        positive = torch.zeros_like(exists) if batch.positive is None else batch.positive & exists
        names = {"ids": candidates.ids, "about": batch.about, "known": batch.known, "hidden": batch.hidden}
        facts = {"source": self._sources(candidates), "exists": exists, "positive": positive}
        facts |= {name: numbers(each, exists) for name, each in names.items()}
        losses = {}
        if with_losses:
            losses = self._value_losses(question, entries.values[exists])
            if self.config.generation_weight > 0:
                reading = self._fuse(candidates, question, probes, entries)
                found = nll(self.target_log_probs(reading, batch.target), batch.target_mask)
                losses["nll"] = self.config.generation_weight * found
        return Represented({"probe": probes, "key": entries.keys}, facts, losses)

    def _value_losses(self, question: Seen, values: Tensor) -> dict[str, Tensor]:
        length = question.states.detach().float().norm(dim=-1)[question.mask].mean()
        return {
            "decorrelation": self.config.decorrelation_weight * decorrelation(values),
            "alignment": self.config.alignment_weight * alignment(values, length),
        }

    def joint_losses(self, parts: Sequence[Represented]) -> dict[str, Tensor]:
        """L_contra over all entries of a step, "contrastive": a mean over questions that have a right one."""
        probe, key = (gathered(parts, "vectors", name) for name in ("probe", "key"))
        facts = {name: gathered(parts, "facts", name) for name in parts[0].facts}
        source, (right, compared) = facts["source"].flatten(), judged(facts)
        with torch.autocast(probe.device.type, enabled=False):
            every = torch.einsum("bsd,nd->bns", probe.float(), key.flatten(0, 1).float())
        scores = every.gather(2, source[None, :, None].expand(len(every), -1, -1))[..., 0] / self.config.temperature
        return {"contrastive": self.config.contrastive_weight * contrastive(scores, right, exists=compared)}
