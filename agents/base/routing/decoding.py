"""Decoding with a policy that scores actions: greedily, by sampling, or with a beam, in a batched
core whose dynamics are deterministic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ....envs.base import ArrayCore, Arrays, take
from .node_policy import choose

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
        everything = len(rows) == len(going)  # then nothing has to be copied
        before = state if everything else take(state, rows)
        own_tape = tape if everything else take(tape, rows)
        found = scores(core.observation(before), core.action_masks(before))
        actions = choose(found, deterministic)
        after = core.transition(before, actions, own_tape)
        objective[rows] += core.reward(before, actions, after).double()
        state = after if everything else put_rows(state, rows, after)
        going[rows] = ~core.terminal(after)
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
