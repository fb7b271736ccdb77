"""The Perceiver against algorithm 1 of REVEAL's appendix, one latent, head and key at a time."""

from __future__ import annotations

import math

import torch

from wellread.nn.perceiver import Perceiver

DIM, HEADS, WIDTH = 8, 2, 4
# The same float32 terms summed in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def attended(net, asking, seen):
    """[asking, dim]: each state's mean over all that is seen, head by head, weighted by the softmax of the products."""
    rows = []
    for state in asking:
        parts = []
        for head in range(HEADS):
            some = slice(head * WIDTH, (head + 1) * WIDTH)
            query = net.query(state)[some]
            scores = [math.exp(float(query @ net.key(each)[some]) / math.sqrt(WIDTH)) for each in seen]
            parts.append(sum(score * net.value(each)[some] for score, each in zip(scores, seen)) / sum(scores))
        rows.append(net.output(torch.cat(parts)))
    return torch.stack(rows)


@torch.no_grad()
def test_it_is_algorithm_1():
    torch.manual_seed(0)
    net = Perceiver(DIM, num_latents=3, layers=2, heads=HEADS)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    states, mask = torch.randn(2, 5, DIM), torch.tensor([[True] * 5, [True, False, True, True, False]])
    found = net(states, mask)
    for row in range(2):
        seen = net.norm(states[row][mask[row]])
        latents = net.latents
        for layer in net.layers:
            between = attended(layer.cross, layer.cross_norm(latents), seen) + latents
            normed = layer.own_norm(between)
            between = attended(layer.own, normed, normed) + between
            inner = torch.nn.functional.gelu(layer.expand(layer.feed_norm(between)))
            latents = layer.contract(inner) + between
        torch.testing.assert_close(found[row], latents, **CLOSE)
