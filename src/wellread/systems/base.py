"""The contract of a system.

Five verbs: `remember` (what is stored per passage), `seek` (what a retriever is given), `read` (what the
decoder attends to), `generate` and `log_likelihood` (text and its probability), `losses` (named scalars). No
verb keeps state between calls; what others may want is returned by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from wellread.evaluation.flops import FlopFormula
from wellread.reading.decoding import Generated
from wellread.types import CandidateBatch, Inputs, Passage, Reading, TrainingBatch

if TYPE_CHECKING:
    from torch import Tensor

    from wellread.reading.verbatim import Vocabulary

__all__ = ["Paper", "Remembered", "Represented", "Search", "System"]

Search = Callable[[Sequence["Tensor"]], CandidateBatch]
"""Vectors, one [probes, dim] per row being written -> candidates, for systems that retrieve as they write.

Rows are questions, or questions times beams with the beams of a question adjacent. A row that asks nothing
gives [0, dim] and gets candidates of which none exists. `group` names the probe within this call.
"""


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a system comes from."""

    title: str
    authors: str
    year: int
    arxiv: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is stored per passage; every part is optional.

    states: [passages, stored, dim]. mask: [passages, stored] bool, which of the stored vectors are real.
    keys: what search goes by: [passages, dim], one per passage, or [passages, stored, dim], one per stored
        vector (late interaction). A memory keeps of all this what `System.stores` names.
    """

    states: Tensor | None = None
    mask: Tensor | None = None
    keys: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Represented:
    """Some of a step's questions, as a loss over all of its questions needs them.

    vectors: by name, what such a loss is differentiated by, [questions, ...] each. facts: by name, what it needs
    besides, without gradient. losses: of these questions by themselves.
    """

    vectors: Mapping[str, Tensor]
    facts: Mapping[str, Tensor]
    losses: dict[str, Tensor]


class System(nn.Module, ABC):
    """A retrieval-augmented model: the five verbs over tensors."""

    paper: ClassVar[Paper]
    Config: ClassVar[type]
    config: Any
    ordered: ClassVar[bool] = False
    """Whether the order of the candidates is allowed to change the answer."""
    built_on: ClassVar[str] = "encoder_decoder"
    """The kind of nets (nn.building.NETS) that the constructor gets after the config, kept as `reader`."""
    joins_tokens: ClassVar[bool] = False
    """Whether the encoder gets a question and a passage as one row of tokens, in which positions run on."""
    continues: ClassVar[bool] = False
    """Whether it is a language model: questions are texts to continue, and it is trained on texts too."""
    per_source: ClassVar[frozenset[str]] = frozenset()
    """The weights that have a row for every one of `sources`."""
    reads_as_trained: ClassVar[bool] = False
    """Whether it reads worse where it gets more candidates than it was trained with."""
    retriever: ClassVar[str | None] = None
    """The search, by its name in the table of retrievers, that goes by this system's own probes and keys."""

    @property
    def reads_passages(self) -> bool:
        """Whether what is retrieved makes any difference."""
        return True

    @property
    @abstractmethod
    def stores(self) -> frozenset[str]:
        """What a memory of this system holds per passage: of "tokens", "states", "keys"."""

    @property
    def bound_to(self) -> frozenset[str]:
        """The parts of a memory's fingerprint this system must agree with."""
        if self.stores == {"tokens"}:
            return frozenset({"tokenizer", "template"})
        return frozenset({"tokenizer", "template", "encoder", "cut"})

    @property
    def stored_dim(self) -> int | None:
        """Width of the states that are stored; None where none are."""
        return None

    @property
    def memory_cut(self) -> str:
        """What a memory's fingerprint says of how much of the encoder its states have passed."""
        return ""

    @abstractmethod
    def memory_weights(self) -> Mapping[str, Tensor]:
        """The weights that decide what is stored; their hash binds a memory to this model."""

    @abstractmethod
    def remember(
        self, tokens: Tensor, mask: Tensor, *, picture: Tensor | None = None, picture_mask: Tensor | None = None
    ) -> Remembered:
        """Passages [passages, tokens] -> what is stored of each.

        picture: [passages, patches, dim] for systems that see; picture_mask: [passages, patches] bool, or None
        where every patch is real.
        """

    @property
    def search_doubt(self) -> str | None:
        """Why what this system finds by itself may be of no use; None for no reason."""
        return None

    def settle(self) -> None:
        """Decide what search needs decided. Called in training, before this system's own search first finds what is
        read next."""

    def seek(self, inputs: Inputs) -> Sequence[Tensor] | None:
        """Questions -> one [probes, dim] per question; None where the words of the question are the probe.

        Not padded: questions may have different numbers of probes (tokens, chunks), even none.
        """
        return None

    @property
    def reads_pictures(self) -> bool:
        """Whether pictures of questions and passages change anything."""
        return False

    @property
    def picture_encoder(self) -> str:
        """The fingerprint of the image encoder it was trained with; "" where it has seen no picture."""
        return ""

    def sees(self, image_encoder: str, *, patches: int, groups: Sequence[int]) -> None:
        """Take note of what makes the features of pictures it is given, by its fingerprint. ValueError where it reads
        no pictures, and where it was trained with those of another or reads others.

        patches: of a picture; groups: how many of a patch's features are of one kind, kind by kind.
        """
        raise ValueError(f"{type(self).__name__} reads no pictures; use a system that does, such as reveal.")

    @property
    def sources(self) -> Sequence[str]:
        """The sources that `seek` gives a probe each for; none where one probe serves all."""
        return ()

    def source_of(self, passage: Passage) -> int:
        """The number of the source a passage comes from, for systems that tell sources apart."""
        return 0

    def searched(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Which tokens [..., tokens] of a text `retriever` goes by; of every text at least one."""
        return mask

    def search_keys(self, states: Tensor) -> Tensor:
        """What `retriever` searches: [..., tokens, key dim] of stored states [..., tokens, dim]."""
        raise NotImplementedError(f"{type(self).__name__} has no search of its own.")

    def search_weights(self) -> Mapping[str, Tensor]:
        """The weights that decide what `seek` and `search_keys` give; their hash binds an index to this model."""
        raise NotImplementedError(f"{type(self).__name__} has no search of its own.")

    @abstractmethod
    def read(self, inputs: Inputs, candidates: CandidateBatch) -> Reading:
        """What the decoder attends to, with scores per candidate where the system has its own."""

    @abstractmethod
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
        """Answers. `reading` saves a second `read`; `search` is for systems that retrieve as they write.

        vocabulary: what tokens are to words; where given, only what stands word for word in a passage that was read
        is written.
        """

    @abstractmethod
    def shares(self, reading: Reading, written: Generated, candidates: CandidateBatch) -> Tensor:
        """How much each candidate gave to an answer: [batch, passages].

        Sums to 1, less what came from no candidate (REALM's null passage; all of an answer without tokens).
        """

    @abstractmethod
    def log_likelihood(
        self,
        inputs: Inputs,
        candidates: CandidateBatch,
        target: Tensor,
        target_mask: Tensor,
        *,
        per_passage: bool = False,
    ) -> Tensor:
        """log p(target): [batch], or [batch, passages] with each passage read alone."""

    def token_log_probs(
        self, inputs: Inputs, candidates: CandidateBatch, target: Tensor, target_mask: Tensor
    ) -> Tensor:
        """log p of every target token given the question and those before it, [batch, target tokens] float32; of
        systems that continue texts. What stands for padding means nothing."""
        raise NotImplementedError(f"{type(self).__name__} does not continue texts.")

    def formula(
        self, *, question_tokens: float, passage_tokens: float, target_tokens: float, top_k: int
    ) -> FlopFormula | None:
        """What a question of these sizes costs by the paper's own formula; None where the paper gives none."""
        return None

    @abstractmethod
    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Named scalars; the training loop sums them."""

    def facts(self) -> dict[str, float]:
        """Named numbers of the weights that the log of a training tells beside the losses."""
        return {}

    def units(self, batch: TrainingBatch) -> dict[str, int]:
        """What losses are means over, in a part of a step: target tokens, questions, questions with something to rank.

        A system that may be asked what it cannot say adds "asked" and "answerable", of which the log tells the share.
        """
        ranked = int((batch.candidates.exists.sum(-1) > 1).sum())
        return {"tokens": int(batch.target_mask.sum()), "questions": batch.inputs.batch, "ranked": ranked}

    @property
    def compares_questions(self) -> bool:
        """Whether there is a loss over all questions of a step; `represent` and `joint_losses` then give it."""
        return False

    def represent(self, batch: TrainingBatch, *, with_losses: bool = True) -> Represented:
        """What the loss over all questions of a step needs of some of them, and their other losses.

        `losses` of a whole step is the mean of the others and `joint_losses` of all its parts. with_losses=False
        leaves the others out.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss over all questions of a step.")

    def joint_losses(self, parts: Sequence[Represented]) -> dict[str, Tensor]:
        """Named scalars over all questions of a step, given in parts by `represent`."""
        raise NotImplementedError(f"{type(self).__name__} has no loss over all questions of a step.")

    def parts(self) -> dict[str, list[str]]:
        """Named groups of weights (state dict prefixes) that transfer between runs."""
        return {}
