"""Decoding with a policy that scores actions: greedily, by sampling, or with a beam, in a batched
core whose dynamics are deterministic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ....envs.base import ArrayCore, Arrays, take
from .node_policy import choose
from .problems import Situation

# (observation [b, ...], feasible bool [b, A]) -> scores [b, A], -inf where infeasible.
Scores = Callable[[Any, Any], torch.Tensor]


class Decoded(NamedTuple):
    """Finished episodes.

    Attributes:
        state: last state of each of the m episodes.
        objective: sum of the rewards, float64 [m].
    """

    state: Arrays
    objective: torch.Tensor


def follow(
    core: ArrayCore, tape: Arrays, state: Arrays, scores: Scores, deterministic: bool = True
) -> Decoded:
    """Act until every episode has ended.

    Args:
        core: face 3 (`ArrayCore.torch()`).
        tape, state: of m episodes, as tensors.
        scores: the policy.
        deterministic: the action of the highest score, else one drawn by the softmax.
    """
    objective = torch.zeros(len(state["t"]), dtype=torch.float64, device=state["t"].device)
    going = torch.as_tensor(~core.terminal(state))
    while going.any():
        rows = going.nonzero()[:, 0]
        before = rows_of(state, rows)
        found = scores(core.observation(before), core.action_masks(before))
        state, rewards = step_rows(core, tape, state, rows, choose(found, deterministic))
        objective[rows] += rewards
        going[rows] = torch.as_tensor(~core.terminal(rows_of(state, rows)))
    return Decoded(state, objective)


def rows_of(arrays: Arrays, rows: torch.Tensor) -> Arrays:
    """The chosen rows; where they are all rows in order, nothing is copied."""
    return arrays if len(rows) == len(arrays["t"]) else take(arrays, rows)


def step_rows(
    core: ArrayCore, tape: Arrays, state: Arrays, rows: torch.Tensor, actions: torch.Tensor
) -> tuple[Arrays, torch.Tensor]:
    """One step of some of the episodes: all states afterwards, and the rewards float64 [rows]."""
    everything = len(rows) == len(state["t"])
    before, own_tape = (state, tape) if everything else (take(state, rows), take(tape, rows))
    after = core.transition(before, actions, own_tape)
    rewards = core.reward(before, actions, after).double()
    return after if everything else put_rows(state, rows, after), rewards


def from_both_ends(
    core: ArrayCore,
    tape: Arrays,
    state: Arrays,
    situation: Situation,
    scores: Callable[[Situation], torch.Tensor],
) -> Decoded:
    """Grow each path from whichever of its ends is surer of its next node, greedily.

    Read backwards, a path that is left is an instance of the same kind, so that the policy can be
    asked at both ends, and what is hard to say at one of them waits until more is known. The
    paths are then walked in the core.

    Args:
        core, tape, state: as in `follow`; distances are symmetric.
        situation: what the policy sees of the states; actions are its nodes.
        scores: [b, n] of a situation, -inf where infeasible.
    """
    number = situation.remaining.sum(dim=1)
    nodes = number.new_zeros(len(number), int(number.max()))  # in the order of the path
    first, last = torch.zeros_like(number), number - 1
    assert situation.origin is not None and situation.destination is not None
    data, remaining = situation.data, situation.remaining.clone()
    origin, destination = situation.origin.clone(), situation.destination.clone()
    while len(rows := (first <= last).nonzero()[:, 0]):
        twice = Situation(
            data[rows].repeat(2, 1, 1),
            remaining[rows].repeat(2, 1),
            torch.cat([origin[rows], destination[rows]]),
            torch.cat([destination[rows], origin[rows]]),
        )
        sure, found = scores(twice).softmax(dim=1).max(dim=1)
        ahead = sure[: len(rows)] >= sure[len(rows) :]
        chosen = torch.where(ahead, found[: len(rows)], found[len(rows) :])
        nodes[rows, torch.where(ahead, first[rows], last[rows])] = chosen
        remaining[rows, chosen] = False
        origin[rows] = torch.where(ahead, chosen, origin[rows])
        destination[rows] = torch.where(ahead, destination[rows], chosen)
        first[rows] += ahead.long()
        last[rows] -= (~ahead).long()
    objective = torch.zeros(len(number), dtype=torch.float64, device=number.device)
    for place in range(nodes.shape[1]):
        rows = (number > place).nonzero()[:, 0]
        state, rewards = step_rows(core, tape, state, rows, nodes[rows, place])
        objective[rows] += rewards
    return Decoded(state, objective)


def best_of(decoded: Decoded, copies: int) -> Decoded:
    """The best of each `copies` consecutive episodes."""
    best = decoded.objective.view(-1, copies).argmax(dim=1)
    rows = torch.arange(len(best), device=best.device) * copies + best
    return Decoded(take(decoded.state, rows), decoded.objective[rows])


def repeat_rows(arrays: Arrays, copies: int) -> Arrays:
    """Every row `copies` times, one after the other."""
    return {name: value.repeat_interleave(copies, dim=0) for name, value in arrays.items()}


def put_rows(arrays: Arrays, rows: torch.Tensor, values: Arrays) -> Arrays:
    """A copy of `arrays` in which the chosen rows are replaced."""
    return {name: value.index_copy(0, rows, values[name]) for name, value in arrays.items()}


def beam_search(
    core: ArrayCore, tape: Arrays, state: Arrays, scores: Scores, width: int
) -> Decoded:
    """Keep the `width` most probable prefixes of every episode; the best final objective wins.

    Args:
        core, tape, state, scores: as in `follow`.
        width: at least 1; where there are fewer prefixes, all of them are kept.
    """
    episodes, device = len(state["t"]), state["t"].device
    own = 1  # prefixes per episode at present; unused places have probability zero
    log_probs = torch.zeros(episodes, dtype=torch.float64, device=device)
    objective = torch.zeros(episodes, dtype=torch.float64, device=device)
    while not (ended := core.terminal(state)).all():
        rows = (~ended).nonzero()[:, 0]
        live = take(state, rows)
        found = scores(core.observation(live), core.action_masks(live))
        table = torch.full((len(ended), found.shape[1]), -torch.inf, device=device).double()
        table[:, 0] = 0.0  # an ended episode stays as it is
        table[rows] = torch.log_softmax(found.double(), dim=1)
        table = (log_probs[:, None] + table).view(episodes, -1)
        kept, places = table.topk(min(width, table.shape[1]), dim=1)
        own_before, own = own, int(kept.isfinite().sum(dim=1).max())
        # A place that no prefix needs repeats the best one, with probability zero.
        kept, places = kept[:, :own], places[:, :own]
        places = torch.where(kept.isfinite(), places, places[:, :1])
        actions = (places % found.shape[1]).flatten()
        parents = places // found.shape[1]
        first = torch.arange(episodes, device=device)[:, None] * own_before
        parents = (first + parents).flatten()
        state, tape, objective = take(state, parents), take(tape, parents), objective[parents]
        log_probs, going = kept.flatten(), (~ended[parents]).nonzero()[:, 0]
        before, actions = take(state, going), actions[going]
        after = core.transition(before, actions, take(tape, going))
        objective[going] += core.reward(before, actions, after).double()
        state = put_rows(state, going, after)
    return best_of(Decoded(state, objective), own)
