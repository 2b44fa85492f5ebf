"""Plans for a cluster without a learner: rules that look one or two moves ahead, and beam search.

Every function takes a batch of ONE cluster, as `envs/cluster/moves.py` describes it, and the number
of moves that are left. A plan is a list of moves (VM, entry), where the entry is the machine, or
with `choices=2` an entry of the extended action space. Plans end where nothing is gained any more;
ties go to the VM and then the entry with the lowest index.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...envs.base import Arrays, take
from ...envs.cluster.moves import gains, move, staying
from ...envs.cluster.rules import FRAGMENT, fragments, on_nodes

Move = tuple[int, int]
Plan = list[Move]

SPARE = 4  # candidates per state that a beam may keep, since some lead to the same state
CELLS = 4_000_000  # entries of a table of moves that are looked at in one go
IMPOSSIBLE = -(2**50)  # gain of a move that may not be made
ONE = 2**24  # a core in the currency of a search, in which ties are small change
# Of mappings with equally many fragments a search prefers the one with the larger sum of squares:
# left-overs of 15 and 1 are nearer to a block of 16 than two of 8.
COST = np.arange(FRAGMENT) * ONE - np.arange(FRAGMENT) ** 2


def greedy_plan(
    cluster: Arrays, budget: int, choices: int = 1, cost: NDArray[np.int64] | None = None
) -> Plan:
    """Again and again the move that decreases the fragments most, while one does.

    Args:
        cluster: of one; with a budget of 1 its conflicts are not needed.
        budget: moves at most.
        choices: entries per machine.
        cost: of 0 .. 15 cores left over on a node, [16]; None: their number.
    """
    plan: Plan = []
    while len(plan) < budget:
        gain = gains(cluster, choices, cost)[0]
        best = int(gain.argmax())
        if gain.flat[best] <= 0:
            break
        vm, entry = divmod(best, gain.shape[1])
        plan.append((vm, entry))
        if len(plan) < budget:
            cluster = applied(cluster, (vm, entry), choices)
    return plan


def filter_best_fit_plan(
    cluster: Arrays, budget: int, choices: int = 1, cost: NDArray[np.int64] | None = None
) -> Plan:
    """Filtering and best fit: which VM helps most by leaving, and where it fits most tightly.

    The VM whose leaving decreases the fragments of its machine most comes first. Of its legal
    machines those remain for which the move as a whole decreases the fragments; it goes where the
    fewest free cores are left. If none remains, the next VM is tried. Arguments as in
    `greedy_plan`.
    """
    plan: Plan = []
    while len(plan) < budget:
        gain = gains(cluster, choices, cost)[0]
        possible = gain > 0
        if not possible.any():
            break
        leaving = np.where(possible.any(axis=1), leaving_gains(cluster, cost), IMPOSSIBLE)
        vm = int(leaving.argmax())
        free = np.repeat(cluster["free_cores"][0].sum(axis=1), choices)
        entry = int(np.where(possible[vm], free, -IMPOSSIBLE).argmin())
        plan.append((vm, entry))
        if len(plan) < budget:
            cluster = applied(cluster, (vm, entry), choices)
    return plan


def leaving_gains(cluster: Arrays, cost: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """By how much the fragments of its machine decrease if a VM leaves it, int [V]."""
    price = np.arange(FRAGMENT) if cost is None else cost
    free = cluster["free_cores"][0, cluster["owner"][0].clip(0)]
    after = free + on_nodes(cluster["cores"][0], cluster["node"][0])
    return np.asarray((price[free % FRAGMENT] - price[after % FRAGMENT]).sum(axis=1))


def swap_plan(cluster: Arrays, budget: int, choices: int = 1, width: int = 64) -> Plan:
    """Again and again the pair of moves that decreases the fragments most, such as a swap.

    A pair may begin with a move that gains nothing or makes things worse. A single move comes
    before a pair that is equally good.

    Args:
        cluster, budget, choices: as in `greedy_plan`.
        width: first moves that are followed up, those with the largest gain.

    Raises:
        ValueError: the width is below 1.
    """
    check_width(width)
    plan: Plan = []
    while len(plan) < budget:
        if budget - len(plan) == 1:
            return plan + greedy_plan(cluster, 1, choices)
        pair = _best_pair(cluster, choices, width)
        if not pair:
            break
        for each in pair:
            cluster = applied(cluster, each, choices)
        plan += pair
    return plan


def _best_pair(cluster: Arrays, choices: int, width: int) -> Plan:
    """One or two moves that together decrease the fragments; empty where there are none."""
    start = _Beam(_needed(cluster))
    _, flat, total = start.candidates(choices, width, None)
    vms, entries = start.states["legal"].shape[1:]
    best: Plan = []
    gained = 0
    for first, gain in zip(flat, total, strict=True):
        if round(int(gain) / ONE) > gained:
            best, gained = [_move(first, entries)], round(int(gain) / ONE)
    together = max(CELLS // (vms * entries), 1)
    for begin in range(0, len(flat), together):
        firsts = flat[begin : begin + together]
        many = take(start.states, np.zeros(len(firsts), dtype=np.int64))
        after, _ = move(many, firsts // entries, firsts % entries, choices)
        second = gains(after, choices, COST).reshape(len(firsts), -1)
        both = total[begin : begin + together] + second.max(axis=1)
        pair = int(both.argmax())
        if (cores := round(int(both[pair]) / ONE)) > gained:
            best = [_move(firsts[pair], entries), _move(second[pair].argmax(), entries)]
            gained = cores
    return best


def _needed(cluster: Arrays) -> Arrays:
    """The part of a cluster that moves read and change."""
    names = ("owner", "node", "cores", "memory", "split", "conflicts", "legal")
    return {name: np.asarray(cluster[name]) for name in (*names, "free_cores", "free_memory")}


def _move(flat: int, entries: int) -> Move:
    """VM and entry of an index into a table of moves."""
    vm, entry = divmod(int(flat), entries)
    return vm, entry


def beam_plan(
    cluster: Arrays,
    budget: int,
    choices: int = 1,
    width: int | None = 64,
    limit: int = 200_000,
    among: NDArray[np.bool_] | None = None,
) -> Plan:
    """Beam search over all plans; never worse than `greedy_plan`.

    Args:
        cluster, budget, choices: as in `greedy_plan`.
        width: different states that are kept after each move, those with the fewest fragments and,
            of equal ones, the most uneven left-overs; None: all, which finds the optimum of small
            clusters.
        limit: with `width=None`, states at most.
        among: moves that may be made, bool [V, entries]; all by default.

    Raises:
        ValueError: the width is below 1, or there are more states than `limit`.
    """
    if width is not None:
        check_width(width)
    found = _search(cluster, budget, choices, width, limit, among)
    if width is None or among is not None:
        return found
    greedy = greedy_plan(cluster, budget, choices)
    plans = [found, greedy]
    return min(plans, key=lambda plan: (fragments_after(cluster, plan, choices), len(plan)))


def applied(cluster: Arrays, step: Move, choices: int = 1) -> Arrays:
    """The cluster after a move."""
    return move(cluster, np.array([step[0]]), np.array([step[1]]), choices)[0]


def fragments_after(cluster: Arrays, plan: Plan, choices: int = 1) -> int:
    """Fragments in cores after a plan; moves that have become illegal change nothing."""
    for step in plan:
        cluster = applied(cluster, step, choices)
    return int(fragments(cluster["free_cores"])[0])


def check_width(width: int) -> None:
    """ValueError unless a width is an integer of at least 1."""
    if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
        raise ValueError(f"width={width!r} must be an integer of at least 1")


@dataclass
class _Beam:
    """States of one length of plan, with their plans and what these have gained."""

    states: Arrays
    plans: list[Plan] = field(default_factory=lambda: [[]])
    total: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    def candidates(
        self, choices: int, keep: int | None, among: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """State, flat move and total gain of the best next moves, best first."""
        vms, entries = self.states["legal"].shape[1:]
        found = []
        together = max(CELLS // (vms * entries), 1)
        for start in range(0, len(self.plans), together):
            part = take(self.states, slice(start, start + together))
            gain = gains(part, choices, COST)
            allowed = part["legal"] & ~staying(part, choices)
            if among is not None:
                allowed &= among
            gain = np.where(allowed, gain, IMPOSSIBLE).reshape(len(gain), -1)
            total = (self.total[start : start + together, None] + gain).reshape(-1)
            chosen = _best(total, keep)
            chosen = chosen[total[chosen] > IMPOSSIBLE // 2]
            found.append(
                (chosen // (vms * entries) + start, chosen % (vms * entries), total[chosen])
            )
        state, flat, total = (np.concatenate(part) for part in zip(*found, strict=True))
        order = _best(total, keep)
        return state[order], flat[order], total[order]


def _best(total: NDArray[np.int64], keep: int | None) -> NDArray[np.int64]:
    """Indices of the largest entries, of equal ones the first, in this order."""
    if keep is not None and keep < len(total):
        least = np.partition(total, len(total) - keep)[len(total) - keep]
        above, equal = np.flatnonzero(total > least), np.flatnonzero(total == least)
        index = np.sort(np.concatenate([above, equal[: keep - len(above)]]))
    else:
        index = np.arange(len(total))
    return index[np.argsort(-total[index], kind="stable")]


def _search(
    cluster: Arrays,
    budget: int,
    choices: int,
    width: int | None,
    limit: int,
    among: NDArray[np.bool_] | None,
) -> Plan:
    """Beam search: the plan with the largest gain that was met, of equal ones the shortest."""
    beam = _Beam(_needed(cluster))
    entries = beam.states["legal"].shape[2]
    best: Plan = []
    gained, seen = 0, {_key(beam.states, 0)}
    for depth in range(budget):
        keep = None if width is None else SPARE * width
        state, flat, total = beam.candidates(choices, keep, among)
        if not len(state):
            break
        if (cores := round(int(total[0]) / ONE)) > gained:
            best, gained = [*beam.plans[state[0]], _move(flat[0], entries)], cores
        if depth == budget - 1:
            break
        parts: list[Arrays] = []
        new: list[int] = []
        together = max(CELLS // beam.states["legal"][0].size, 1)
        for start in range(0, len(state), together):
            rows = slice(start, start + together)
            steps = flat[rows]
            after, _ = move(
                take(beam.states, state[rows]), steps // entries, steps % entries, choices
            )
            fresh = []
            for row in range(len(steps)):
                key = _key(after, row)
                if key not in seen and (width is None or len(new) < width):
                    seen.add(key)
                    fresh.append(row)
                    new.append(start + row)
            parts.append(take(after, fresh))
            if width is None and len(seen) > limit:
                raise ValueError(
                    f"more than {limit} states: the cluster is too large to try all plans"
                )
        if not new:
            break
        plans = [[*beam.plans[state[row]], _move(flat[row], entries)] for row in new]
        states = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        beam = _Beam(states, plans, total[new])
    return best


def _key(states: Arrays, row: int) -> bytes:
    """What tells one mapping of a cluster from another."""
    owner, node = (states[name][row].astype(np.int32) for name in ("owner", "node"))
    return bytes(owner.tobytes() + node.tobytes())
