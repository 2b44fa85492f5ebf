"""Attention over hosts and guests: masks, equivariance, independence of padding."""

from __future__ import annotations

import pytest
import torch

from palaestra.agents.base.nets.tree_attention import (
    Attention,
    HostActor,
    TreeEncoder,
    bias,
    tree_mask,
)

HOSTS, GUESTS, ROWS = 4, 7, 3


def random_cluster(padding=0):
    """Features, owners and progress of a batch; the last `padding` guests are none."""
    torch.manual_seed(0)
    owner = torch.randint(HOSTS, (ROWS, GUESTS))
    guests = torch.randn(ROWS, GUESTS, 6)
    if padding:
        owner[:, -padding:] = -1
        guests[:, -padding:] = 0
    return torch.randn(ROWS, HOSTS, 8), guests, owner, torch.rand(ROWS, 1)


def encoder(sparse=True, blocks=2):
    torch.manual_seed(1)
    return TreeEncoder(8, 6, width=16, heads=2, blocks=blocks, feedforward=32, sparse=sparse)


def test_tree_mask_joins_a_host_with_its_guests_and_nothing_else():
    mask = tree_mask(torch.tensor([[1, 0, 1, -1, -1]]), hosts=2)[0]
    step, host, guest, critic = 0, [1, 2], [3, 4, 5, 6, 7], 8
    groups = [[step], [host[0], guest[1]], [host[1], guest[0], guest[2]], *[[g] for g in guest[3:]]]
    expected = torch.zeros(9, 9, dtype=torch.bool)
    for group in [*groups, [critic]]:
        for token in group:
            expected[token, group] = True
    assert torch.equal(mask, expected)


def test_attention_under_a_mask_is_attention_over_what_is_allowed():
    torch.manual_seed(2)
    attention = Attention(8, 2)
    queries, keys = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    allowed = torch.tensor([True, False, True, True, False])
    found = attention(queries, keys, bias(allowed[None, None]))
    torch.testing.assert_close(found, attention(queries, keys[:, allowed]))
    assert not torch.allclose(found, attention(queries, keys), atol=1e-3)


def test_attention_with_weights_is_the_same_attention():
    torch.manual_seed(3)
    attention = Attention(8, 2)
    queries, keys = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    found, weights = attention.with_weights(queries, keys)
    torch.testing.assert_close(found, attention(queries, keys))
    assert weights.shape == (2, 3, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    # Each head's scaled softmax by hand.
    query = attention.query(queries).unflatten(-1, (2, 4))
    key = attention.key_value(keys)[..., :8].unflatten(-1, (2, 4))
    scores = torch.einsum("nqhd,nkhd->nhqk", query, key) / 2
    torch.testing.assert_close(weights, scores.softmax(-1).mean(1))


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width=10 is not a multiple of heads=3"):
        Attention(10, 3)
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        encoder(blocks=0)


@pytest.mark.parametrize("sparse", [True, False])
def test_permuting_hosts_and_guests_permutes_their_embeddings(sparse):
    hosts, guests, owner, progress = random_cluster()
    network = encoder(sparse)
    plain = network(hosts, guests, owner, progress)
    host_order, guest_order = torch.tensor([2, 0, 3, 1]), torch.tensor([5, 1, 0, 6, 2, 4, 3])
    place = torch.argsort(host_order)  # where each host has gone
    mixed = network(
        hosts[:, host_order], guests[:, guest_order], place[owner[:, guest_order]], progress
    )
    torch.testing.assert_close(mixed.hosts, plain.hosts[:, host_order])
    torch.testing.assert_close(mixed.guests, plain.guests[:, guest_order])
    torch.testing.assert_close(mixed.critic, plain.critic)
    torch.testing.assert_close(mixed.weights, plain.weights[:, guest_order][..., host_order])


@pytest.mark.parametrize("sparse", [True, False])
def test_padding_changes_nothing(sparse):
    hosts, guests, owner, progress = random_cluster(padding=3)
    network = encoder(sparse)
    padded = network(hosts, guests, owner, progress)
    exact = network(hosts, guests[:, :-3], owner[:, :-3], progress)
    torch.testing.assert_close(padded.hosts, exact.hosts)
    torch.testing.assert_close(padded.guests[:, :-3], exact.guests)
    torch.testing.assert_close(padded.critic, exact.critic)
    for part in padded:
        assert part.isfinite().all()


@pytest.mark.parametrize("sparse", [True, False])
def test_who_hosts_a_guest_matters(sparse):
    hosts, guests, owner, progress = random_cluster()
    network = encoder(sparse)
    plain = network(hosts, guests, owner, progress)
    moved = owner.clone()
    moved[:, 0] = (owner[:, 0] + 1) % HOSTS
    assert not torch.allclose(
        network(hosts, guests, moved, progress).guests[:, 0], plain.guests[:, 0], atol=1e-3
    )


@pytest.mark.parametrize("sparse", [True, False])
def test_progress_shows_in_every_embedding(sparse):
    # A step token with the progress in all of its entries would be lost in the normalization.
    hosts, guests, owner, progress = random_cluster()
    network = encoder(sparse, blocks=1)
    early, late = (network(hosts, guests, owner, progress * 0 + x) for x in (0.0, 1.0))
    for first, second in zip(early, late, strict=True):
        assert ((first - second).abs().flatten(1).amax(1) > 1e-3).all()


def test_weights_leave_out_what_goes_to_the_step_token():
    weights = encoder()(*random_cluster()).weights
    assert weights.shape == (ROWS, GUESTS, HOSTS)
    assert (weights > 0).all() and (weights.sum(-1) < 1).all()


def test_gradients_reach_every_parameter():
    hosts, guests, owner, progress = random_cluster(padding=1)
    network = encoder()
    actor = HostActor(8, 6, width=16, heads=2, blocks=2, feedforward=32)
    encoded = network(hosts, guests, owner, progress)
    chosen = torch.tensor([0, 2, 1])
    guest = guests[torch.arange(ROWS), chosen]
    logits = actor(hosts, encoded, guest, chosen, progress)
    (logits.pow(2).sum() + encoded.guests.sum() + encoded.critic.pow(2).sum()).backward()
    for name, parameter in [*network.named_parameters(), *actor.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_the_host_actor_scores_hosts_wherever_they_stand():
    hosts, guests, owner, progress = random_cluster()
    network, chosen = encoder(), torch.tensor([1, 6, 3])
    actor = HostActor(8, 6, width=16, heads=2, blocks=1, feedforward=32, choices=2)
    guest = guests[torch.arange(ROWS), chosen]
    encoded = network(hosts, guests, owner, progress)
    logits = actor(hosts, encoded, guest, chosen, progress)
    assert logits.shape == (ROWS, 2 * HOSTS)
    order = torch.tensor([3, 1, 0, 2])
    mixed = encoded._replace(hosts=encoded.hosts[:, order], weights=encoded.weights[..., order])
    again = actor(hosts[:, order], mixed, guest, chosen, progress)
    torch.testing.assert_close(again, logits.unflatten(1, (HOSTS, 2))[:, order].flatten(1))
    # Another guest, other scores.
    other = actor(hosts, encoded, guests[:, 0], torch.zeros(ROWS, dtype=torch.long), progress)
    assert not torch.allclose(other, logits, atol=1e-3)
