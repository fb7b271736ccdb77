"""REALM fits the contract: the same verbs, the same values, no switch."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import get_type_hints

import pytest
import torch
from torch import Tensor, nn

from wellread.reading.decoding import Generated
from wellread.systems.base import System
from wellread.systems.realm import Realm, RealmConfig
from wellread.types import CandidateBatch, Inputs, Probe, TrainingBatch

VERBS = ("remember", "seek", "read", "generate", "shares", "log_likelihood", "losses")
PAPERS = {
    "REALM": "Retrieval-Augmented Language Model Pre-Training",
}
# The same float32 terms summed in another order or in double precision: a few units in the last place.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(params=list(PAPERS))
def name(request) -> str:
    return request.param


# -- the contract -----------------------------------------------------------------------------------------------


def signature(kind: type, verb: str) -> list:
    """Name, kind, default and type of every parameter, and the type of what comes back."""
    function = getattr(kind, verb)
    hints = get_type_hints(function, localns={"Tensor": Tensor})
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default, hints.get(each.name)) for each in parameters] + [hints["return"]]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_signature_of_the_contract(sig, name, verb):
    kind = type(sig.SYSTEMS[name]())
    assert issubclass(kind, System)
    assert signature(kind, verb) == signature(System, verb)


def test_the_comparison_of_signatures_can_fail():
    class Other(Realm):
        def seek(self, inputs: Inputs) -> Tensor:
            return inputs.tokens

        def read(self, inputs: Inputs, candidates: CandidateBatch, keep: int = 1):
            return None

    with pytest.raises(KeyError):
        signature(Other, "read")  # says nothing about what it gives
    assert signature(Other, "seek") != signature(System, "seek")


UNBUILT = [
    *(("REALM", verb) for verb in ("generate",)),
]


@pytest.mark.parametrize(("name", "verb"), UNBUILT)
def test_what_is_not_built_says_so_with_the_papers_name(sig, name, verb):
    system, inputs, found = sig.SYSTEMS[name](), sig.questions(), sig.candidates()
    written = Generated(sig.target()[0], torch.zeros(2), torch.tensor([2, 3]))
    calls = {
        "generate": lambda: system.generate(inputs, found, max_tokens=3),
        "shares": lambda: system.shares(system.read(inputs, found), written, found),
        "losses": lambda: system.losses(TrainingBatch(inputs, found, *sig.target())),
        "per passage": lambda: system.log_likelihood(inputs, found, *sig.target(), per_passage=True),
    }
    with pytest.raises(NotImplementedError, match=PAPERS[name]):
        calls[verb]()


def test_what_decides_the_memory_is_named(sig, name):
    system = sig.SYSTEMS[name]()
    weights = system.memory_weights()
    assert weights
    assert set(weights) < set(system.state_dict())
    assert "encoder" in system.bound_to
    assert system.stores <= {"tokens", "states", "keys"}


def test_nets_are_given_by_name(sig):
    with pytest.raises(ValueError, match=r"nets=\['head'\]; Realm needs question_encoder, key_encoder"):
        Realm(RealmConfig(), head=sig.Head())


def test_probes_are_what_a_retriever_gets(sig, name):
    """One [probes, dim] per question, which a Probe takes as it is."""
    counts = {"REALM": [1, 1]}
    sought = sig.SYSTEMS[name]().seek(sig.questions())
    assert [len(each) for each in sought] == counts[name]
    for vectors in sought:
        assert Probe(vectors=vectors).vectors.shape[1] == sig.DIM


def test_what_is_remembered_is_what_the_collation_takes(sig, name):
    system, (tokens, mask) = sig.SYSTEMS[name](), sig.passages()
    kept = system.remember(tokens, mask)
    shapes = {
        "REALM": (None, (5, sig.DIM)),
    }
    assert tuple(None if part is None else tuple(part.shape) for part in (kept.states, kept.keys)) == shapes[name]
    stored = {part: getattr(kept, part) for part in ("states", "keys") if part in system.stores}
    if "states" in stored:
        assert kept.mask.shape == kept.states.shape[:2]
        stored["states"] = [states[real] for states, real in zip(kept.states, kept.mask)]
    from_memory = sig.candidates(**stored)
    live = sig.candidates()
    inputs = sig.questions()
    with torch.no_grad():
        plain, stored = (system.log_likelihood(inputs, each, *sig.target()) for each in (live, from_memory))
        scores = [system.read(inputs, each).scores for each in (live, from_memory)]
    torch.testing.assert_close(stored, plain, **CLOSE)
    torch.testing.assert_close(scores[1], scores[0], **CLOSE)


def test_padding_changes_nothing(sig, name):
    system, inputs, found = sig.SYSTEMS[name](), sig.questions(), sig.candidates()
    wide = {part: nn.functional.pad(getattr(found, part), (0, 3, 0, 2)) for part in ("tokens", "mask")}
    flat = {part: nn.functional.pad(getattr(found, part), (0, 2)) for part in ("exists", "scores", "group", "source")}
    longer = Inputs(nn.functional.pad(inputs.tokens, (0, 5)), nn.functional.pad(inputs.mask, (0, 5)))
    with torch.no_grad():
        plain = system.log_likelihood(inputs, found, *sig.target())
        padded = system.log_likelihood(longer, replace(found, **wide, **flat), *sig.target())
    torch.testing.assert_close(padded, plain, **CLOSE)


def test_readings_keep_their_promises(sig, name):
    """Every state names its candidate or none; only passage tokens may be copied, and they are the candidate's."""
    found = sig.candidates()
    reading = sig.SYSTEMS[name]().read(sig.questions(), found)
    assert reading.states.shape == (*reading.mask.shape, sig.DIM)
    assert reading.tokens.shape == reading.copyable.shape == reading.passage.shape == reading.mask.shape
    assert (reading.passage[~reading.mask] == -1).all()
    assert reading.passage.max() < found.num_passages
    assert not (reading.copyable & (reading.passage < 0)).any()
    named = reading.passage.masked_fill(reading.passage < 0, 0)
    assert found.exists.gather(1, named)[reading.passage >= 0].all()
    for row, column in [(0, 0), (0, 2), (1, 1)]:
        copied = reading.tokens[row][reading.copyable[row] & (reading.passage[row] == column)]
        assert copied.tolist() == sig.PASSAGES[row][column]


# -- REALM ------------------------------------------------------------------------------------------------------


def brute_force_marginal(sig, system: Realm, row: int) -> tuple[float, list[float]]:
    """log sum_z p(y | z, x) p(z | x) in plain Python: (the sum over passages and null, log p(y | z, x) of each)."""
    inputs, (wanted, wanted_mask) = sig.questions(), sig.target()
    question = inputs.tokens[row][inputs.mask[row]]
    columns = [torch.tensor(tokens) for tokens in [*sig.PASSAGES[row], list(system.config.null_passage)]]
    answer = wanted[row][wanted_mask[row]]

    def real(tokens: Tensor) -> Tensor:
        return torch.ones(1, len(tokens), dtype=torch.bool)

    query = system.question_encoder(question[None], real(question))[0]
    relevance, given = [], []
    for passage in columns:
        relevance.append(float(query.double() @ system.key_encoder(passage[None], real(passage))[0].double()))
        pair = torch.cat([question, passage])
        states = system.reader(pair[None], real(pair))
        given.append(float(system.head(states, real(pair), answer[None]).double().sum()))
    total = sum(math.exp(each) for each in relevance)
    marginal = math.log(sum(math.exp(r) / total * math.exp(g) for r, g in zip(relevance, given)))
    return marginal, given


def test_realm_sums_over_passages_and_null(sig):
    system = sig.realm()
    with torch.no_grad():
        marginal = system.log_likelihood(sig.questions(), sig.candidates(), *sig.target())
        alone = system.log_likelihood(sig.questions(), sig.candidates(), *sig.target(), per_passage=True)
        expected = [brute_force_marginal(sig, system, row) for row in range(2)]
    torch.testing.assert_close(marginal, torch.tensor([total for total, _ in expected]), **CLOSE)
    for row, (_, given) in enumerate(expected):
        count = len(sig.PASSAGES[row])
        torch.testing.assert_close(alone[row, :count], torch.tensor(given[:count]), **CLOSE)


def test_realm_gives_the_probability_of_every_passage(sig):
    reading = sig.realm().read(sig.questions(), sig.candidates())
    every = torch.cat([reading.scores, reading.extras["null"]], dim=1)
    assert every.shape == (2, 4)
    assert reading.scores[1, 2] == -torch.inf
    torch.testing.assert_close(every.logsumexp(1), torch.zeros(2), **CLOSE)


def test_realm_with_one_certain_passage_is_its_reader(sig):
    system = sig.realm(null=())
    found = sig.candidates(keys=system.remember(*sig.passages()).keys.detach())
    certain = replace(found, exists=torch.tensor([[True, False, False]] * 2))
    with torch.no_grad():
        marginal = system.log_likelihood(sig.questions(), certain, *sig.target())
        alone = system.log_likelihood(sig.questions(), certain, *sig.target(), per_passage=True)
    torch.testing.assert_close(marginal, alone[:, 0], **CLOSE)


def test_realm_shares_are_the_posterior(sig):
    system, found = sig.realm(), sig.candidates()
    written = Generated(sig.target()[0], torch.zeros(2), torch.tensor([2, 3]))
    reading = system.read(sig.questions(), found)
    with torch.no_grad():
        shares = system.shares(reading, written, found)
        joint = system.log_likelihood(sig.questions(), found, *sig.target(), per_passage=True) + reading.scores
        marginal = system.log_likelihood(sig.questions(), found, *sig.target())
    torch.testing.assert_close(shares, (joint - marginal[:, None]).exp(), **CLOSE)
    assert (shares.sum(1) < 1).all()  # the null passage holds the rest
    assert shares[1, 2] == 0


def test_realm_trains_both_encoders(sig):
    system = sig.realm()
    losses = system.losses(TrainingBatch(sig.questions(), sig.candidates(), *sig.target()))
    losses["nll"].backward()
    for net in (system.question_encoder, system.key_encoder, system.reader):
        assert torch.isfinite(net.table.weight.grad).all()
        assert net.table.weight.grad.abs().sum() > 0
