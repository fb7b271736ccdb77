"""The five steps wired for one system: build, ask, evaluate. The only place that knows all steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from wellread.bars import progress_bar
from wellread.config import to_mapping
from wellread.corpus.store import Corpus
from wellread.evaluation.confidence import Confidence
from wellread.evaluation.cost import Stopwatch
from wellread.evaluation.flops import count_flops
from wellread.evaluation.report import Report, evaluate_answers
from wellread.memorizing import memorize_corpus
from wellread.memory.fingerprint import check
from wellread.memory.store import Memory
from wellread.model import Model, load_model, model_path
from wellread.nn.precision import precision_dtype
from wellread.reading.batching import CandidateRow, batch_candidates, take_rows, to_device
from wellread.reading.spans import cite
from wellread.reading.verbatim import Vocabulary
from wellread.retrieval import INDEX_FOLDER, open_index
from wellread.retrieval.readable import readable, search_readable
from wellread.token_encoder import model_encoder
from wellread.types import Answer, Candidates, Inputs, Passage, Probe, Question

if TYPE_CHECKING:
    from wellread.retrieval.base import Retriever

__all__ = ["Pipeline", "load_model", "memorize_corpus", "open_pipeline"]

_NOTHING_TO_READ = "no memory and no corpus were given; give at least one to answer from (--memory DIR, --corpus DIR)."


@dataclass(frozen=True)
class Pipeline:
    """A model, the passages it answers from, and the retriever that finds them.

    memory: stored tokens and states; without one, passages come from `corpus` and are read from scratch.
    precision: of the reading, "fp32" or "bf16" (twice as fast where the processor knows it). confidence: how sure
    to be of an answer, where the model was calibrated. verbatim: write only what stands word for word in a passage
    that was read to the end.
    """

    model: Model
    retriever: Retriever
    memory: Memory | None = None
    corpus: Corpus | None = None
    precision: str = "fp32"
    confidence: Confidence | None = None
    verbatim: bool = False

    def __post_init__(self) -> None:
        precision_dtype(self.precision)
        if self.memory is None and self.corpus is None:
            raise ValueError(_NOTHING_TO_READ)
        if self.memory is not None:
            check(self.memory.fingerprint, self.model.fingerprint(), self.model.system.bound_to)
        if self.searches_itself and self.retriever.options.encoder_fingerprint != model_encoder(self.model).fingerprint:
            raise ValueError(
                f"the search index was built with other weights or options than this {self.model.name}; build it again "
                "with `wellread index`, or use the model it was built with."
            )
        self.model.system.eval()  # a model fresh from building or training would answer with dropout

    @property
    def searches_itself(self) -> bool:
        """Whether passages are found by the system's own vectors in its own kind of index."""
        return self.retriever.name == self.model.system.retriever

    def check_min_confidence(self, min_confidence: float | None) -> None:
        """Raise ValueError where answers cannot be withheld by this: no share, or no confidence to compare with."""
        if min_confidence is None:
            return
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence={min_confidence}; it must be between 0 and 1.")
        if self.confidence is None:
            raise ValueError(
                f"min_confidence={min_confidence}, but no confidence was fitted for this {self.model.name} model as it "
                "is set; fit one with `wellread calibrate`, or leave min_confidence out."
            )

    # -- retrieve ------------------------------------------------------------------------------------------

    def retrieve(
        self,
        questions: Sequence[str | Question],
        *,
        top_k: int,
        where: Mapping[str, Any] | None = None,
        inputs: Inputs | None = None,
    ) -> list[Candidates]:
        """The candidates of every question, sought by its words, or by the system's own vectors in its own index.

        Passages hidden from a question are left out. inputs: the questions as tensors, where they are at hand.
        """
        asked = self._asked(questions)
        vectors: Sequence[Any] = [None] * len(asked)
        if self.searches_itself:
            with torch.inference_mode():
                vectors = self.model.system.seek(self.model.inputs(asked) if inputs is None else inputs)
        probes = [Probe(item.text, own, item.picture) for item, own in zip(asked, vectors, strict=True)]
        among = partial(self.retriever.search, where=where)
        return search_readable(among, asked, probes, top_k=top_k, passages=self._passages)

    def _passages(self, ids: Sequence[str]) -> list[Passage]:
        return self.corpus.get(ids) if self.memory is None else self.memory.passages(ids)

    def _asked(self, questions: Sequence[str | Question]) -> list[Question]:
        """As questions, from which copies of their own pictures are hidden too."""
        asked = [item if isinstance(item, Question) else Question("", item) for item in questions]
        pictures = self.model.pictures
        return asked if pictures is None else [pictures.hiding_copies(item) for item in asked]

    def rows(self, found: Sequence[Candidates]) -> tuple[list[list[CandidateRow]], dict[str, Passage]]:
        """Candidates -> what the reader needs of each, and the passages by id; each passage is fetched once."""
        ids = list(dict.fromkeys(name for candidates in found for name in candidates.ids))
        wanted = self.model.system.stores
        if self.memory is not None:
            kept = self.memory.fetch(ids, states="states" in wanted)
            passages, tokens, states = kept.passages, kept.tokens, kept.states
            keys = kept.keys if "keys" in wanted else None
        else:
            passages = self.corpus.get(ids)
            tokens, states, keys = self.model.frame.passages(passages), None, None
        shown = {} if self.memory is not None else self.model.features(passages)
        at = {name: index for index, name in enumerate(ids)}

        def row(name: str, score: float, group: int) -> CandidateRow:
            place = at[name]
            return CandidateRow(
                id=name,
                tokens=tokens[place],
                score=score,
                group=group,
                source=self.model.system.source_of(passages[place]),
                states=None if states is None else states[place],
                key=None if keys is None else keys[place],
                picture=shown.get(place),
            )

        rows = [
            [row(*each) for each in zip(candidates.ids, candidates.scores, candidates.group, strict=True)]
            for candidates in found
        ]
        return rows, dict(zip(ids, passages, strict=True))

    # -- ask -----------------------------------------------------------------------------------------------

    def ask(
        self,
        questions: Sequence[str | Question],
        *,
        top_k: int | None = None,
        num_beams: int = 1,
        where: Mapping[str, Any] | None = None,
        flops: bool = True,
        candidates: Sequence[Candidates] | None = None,
        min_confidence: float | None = None,
    ) -> list[Answer]:
        """Answer a batch of questions together; milliseconds and FLOPs are shares of the batch's.

        A question without any candidate gets an empty answer. flops: count them too, which makes a small
        reader write two to three times as slowly; the milliseconds then include that.
        top_k: how many candidates are read (`Model.read_at_once`).
        candidates: what to read, where it was retrieved before; the first top_k of them.
        min_confidence: withhold answers that are less likely to be right than this, 0 to 1.
        """
        self.check_min_confidence(min_confidence)
        _check_list(questions)
        asked = self._asked(questions)
        texts = [item.text for item in asked]
        if not texts or not all(text.strip() for text in texts):
            raise ValueError("the question is empty; ask something.")
        if candidates is not None and len(candidates) != len(texts):
            raise ValueError(f"{len(candidates)} lists of candidates for {len(texts)} questions; give one for each.")
        top_k = self.model.read_at_once(top_k)
        watch = Stopwatch()
        with watch("retrieve"):
            inputs = self.model.inputs(asked)
            found = (
                self.retrieve(asked, top_k=top_k, where=where, inputs=inputs)
                if candidates is None
                else [each.top(top_k) for each in readable(asked, candidates, self._passages)]
            )
        answered = [index for index, candidates in enumerate(found) if candidates.ids]
        share = watch.milliseconds["retrieve"] / len(texts)
        answers = [Answer(text="", milliseconds={"retrieve": share, "total": share}) for _ in texts]
        if answered:
            some = take_rows(inputs, torch.tensor([bool(candidates.ids) for candidates in found]))
            chosen = self._answer(some, [found[index] for index in answered], num_beams, share, flops)
            for index, answer in zip(answered, chosen, strict=True):
                answers[index] = answer
        return answers if self.confidence is None else [self.confidence.rate(each, min_confidence) for each in answers]

    def _answer(
        self, inputs: Inputs, found: list[Candidates], num_beams: int, retrieve: float, flops: bool
    ) -> list[Answer]:
        """Answers to questions that all have candidates. retrieve: milliseconds that finding them took each."""
        frame, system, watch = self.model.frame, self.model.system, Stopwatch()
        with watch("fetch"):
            rows, passages = self.rows(found)
            candidates = to_device(batch_candidates(rows, frame.tokenizer.pad), self.model.device)
        with torch.inference_mode(), self._precision():
            with count_flops(enabled=flops) as counter:
                with watch("read"), counter("read"):
                    reading = system.read(inputs, candidates)
                with watch("generate"), counter("generate"):
                    written = system.generate(
                        inputs,
                        candidates,
                        max_tokens=frame.config.answer_tokens,
                        num_beams=num_beams,
                        reading=reading,
                        vocabulary=self._vocabulary,
                    )
            with watch("explain"):
                shares = system.shares(reading, written, candidates)
        milliseconds = {"retrieve": retrieve}
        milliseconds |= {name: value / len(found) for name, value in watch.milliseconds.items()}
        milliseconds["total"] = sum(milliseconds.values())
        said = [frame.text(row) for row in written.tokens.tolist()]
        gates = reading.extras.get("gate")
        return [
            Answer(
                text=said[index],
                passages=cite(
                    said[index],
                    found[index].ids,
                    passages,
                    scores=found[index].scores if reading.scores is None else reading.scores[index].tolist(),
                    shares=shares[index].tolist(),
                    kept=set(reading.kept[index].tolist()),
                    gates=None if gates is None else gates[index].tolist(),
                ),
                log_likelihood=float(written.scores[index]),
                num_tokens=int(written.lengths[index]),
                milliseconds=milliseconds,
                flops=counter.total // len(found),
                flops_by_stage={stage: count // len(found) for stage, count in counter.stages.items()},
            )
            for index in range(len(found))
        ]

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        """What holds answers to the words of passages; None where they need not be verbatim."""
        return Vocabulary.of(self.model.frame.tokenizer) if self.verbatim else None

    def _precision(self) -> torch.autocast:
        dtype = precision_dtype(self.precision)
        return torch.autocast(self.model.device.type, dtype=dtype, enabled=dtype is not None)

    def ask_many(
        self,
        questions: Iterable[str | Question],
        *,
        batch_size: int = 8,
        progress: bool = False,
        candidates: Sequence[Candidates] | None = None,
        **options: Any,
    ) -> Iterator[Answer]:
        """`ask` over any number of questions, in batches, answers in the order asked."""
        _check_list(questions)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; it must be at least 1.")
        questions = list(questions)
        with progress_bar(total=len(questions), desc="answer", shown=progress, unit="question") as bar:
            for start in range(0, len(questions), batch_size):
                some = slice(start, start + batch_size)
                given = None if candidates is None else candidates[some]
                yield from self.ask(questions[some], candidates=given, **options)
                bar.update(len(questions[some]))

    def evaluate(
        self,
        questions: Sequence[Question],
        *,
        top_k: int | None = None,
        num_beams: int = 1,
        batch_size: int = 8,
        timed: int = 16,
        recall_at: Sequence[int] = (1, 5, 20, 100),
        seed: int = 0,
        progress: bool = False,
        candidates: Sequence[Candidates] | None = None,
    ) -> tuple[Report, list[Answer]]:
        """Quality over all questions, answered in batches; time and FLOPs over the first `timed`, one by one.

        candidates: what was retrieved for the questions before, best first; None retrieves as deep as is measured.
        Returns the report and the answers it is about.
        """
        top_k = self.model.read_at_once(top_k)
        found = self.retrieve(questions, top_k=max((top_k, *recall_at))) if candidates is None else candidates
        answers = list(
            self.ask_many(
                questions,
                batch_size=batch_size,
                progress=progress,
                candidates=found,
                top_k=top_k,
                num_beams=num_beams,
                flops=False,
            )
        )
        singles = [self.ask_measured(question, top_k=top_k, num_beams=num_beams) for question in questions[:timed]]
        settings = {"top_k": top_k, "num_beams": num_beams, **self._costs(questions[:timed], singles, top_k)}
        report = evaluate_answers(
            questions, answers, candidates=found, timed=singles, top_k=recall_at, seed=seed, settings=settings
        )
        return report, answers

    def ask_measured(self, question: str | Question, **options: Any) -> Answer:
        """The answer to one question, asked twice: for its FLOPs, then for its time, which counting would inflate."""
        counted = self.ask([question], **options)[0]
        answer = self.ask([question], flops=False, **options)[0]
        return replace(answer, flops=counted.flops, flops_by_stage=counted.flops_by_stage)

    def _costs(self, questions: Sequence[Question], answers: Sequence[Answer], top_k: int) -> dict[str, Any]:
        """Bytes a passage takes, and FLOPs of a question by the paper's formula for these questions' sizes."""
        costs: dict[str, Any] = {}
        if self.memory is not None:
            info = self.memory.info()
            costs["bytes_per_passage"] = info["bytes"] / max(info["passages"], 1)
            costs["codec"] = info["codec"]
        frame = self.model.frame
        read = [Passage(id=item.id, text=item.text, title=item.title) for each in answers for item in each.passages]
        if not read:
            return costs
        passage = fmean(len(row) for row in frame.passages(read))
        question = fmean(frame.questions([item.text for item in questions]).mask.sum(-1).tolist())
        target = fmean(len(row) + 1 for row in frame.tokenizer.encode_batch([item.text for item in answers]))
        formula = self.model.system.formula(
            question_tokens=question, passage_tokens=passage, target_tokens=target, top_k=top_k
        )
        return costs if formula is None else costs | {"formula_flops": round(formula.flops)}


def _check_list(questions: object) -> None:
    if isinstance(questions, (str, Question)):  # a text would be asked letter by letter
        raise ValueError("questions is a single question; give a list of questions.")


def open_pipeline(
    *,
    model: str | Path | Model,
    memory: str | Path | None = None,
    corpus: str | Path | None = None,
    index: str | Path | None = None,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    pictures: str | Path | None = None,
    verbatim: bool = False,
) -> Pipeline:
    """Open what `ask` and `eval` need from folders.

    index: a search index; without one, the index inside the memory. system, options: read the same weights as
    another system or with other options. precision: of the reading, "fp32" or "bf16". The confidence beside a
    model's weights is used where it was fitted on answers of the same system with the same options. pictures: folder
    of the pictures of questions and passages, for systems that read them; without one, that of the corpus. verbatim:
    write only what stands word for word in a passage that was read.
    """
    if memory is None and corpus is None:
        raise ValueError(_NOTHING_TO_READ)
    if isinstance(model, Model) and (system or options):
        raise ValueError("system and options belong to a model folder; give them to load_model, or give a folder.")
    loaded = model if isinstance(model, Model) else load_model(model, system=system, options=options)
    store = None if memory is None else Memory.open(memory)
    texts = None if corpus is None else Corpus.open(corpus)
    if pictures is None and texts is not None and loaded.system.reads_pictures:
        pictures = texts.pictures
    loaded = loaded.with_pictures(pictures)
    if index is None:
        if memory is None:
            raise ValueError("no search index was given; build one with wellread index and pass --index DIR.")
        index = Path(memory) / INDEX_FOLDER
        if not (index / "index.json").is_file():
            keys = "" if loaded.system.retriever is None else f" --model MODEL --memory {memory}"
            raise ValueError(
                f"{memory} holds no search index; build one with `wellread index CORPUS{keys} --out DIR` and pass "
                "--index DIR, or, where `wellread memorize` was stopped, run that again."
            )
    now = {"system": loaded.name, "options": to_mapping(loaded.system.config)}
    confidence = None if isinstance(model, Model) else Confidence.load(model_path(model), **now)
    return Pipeline(
        loaded,
        open_index(index),
        memory=store,
        corpus=texts,
        precision=precision,
        confidence=confidence,
        verbatim=verbatim,
    )
