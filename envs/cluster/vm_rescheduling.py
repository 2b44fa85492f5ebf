"""`VMRescheduling-v0`: move running virtual machines so that free cores are not shattered."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, device

from ..base import ArrayCore, Arrays, check_in_space
from ..faces import ArrayEnv, ArrayVectorEnv
from .churn import SPARE_SECONDS, apply_event, draw_events, event_slots
from .features import observation_space, tables
from .generator import NODE_CORES, NODE_MEMORY, check_arguments, data_centre, rows_for
from .mapping import as_mappings
from .moves import all_legal, move, staying, why_illegal
from .rules import ABSENT, fragment_rate, fragments
from .space import Moves

REWARD_SCALE = 128.0  # fragments per unit of reward


class VMRescheduling(ArrayCore):
    """Move at most `migrations` virtual machines of a data centre to gather its free cores.

    ## Description
    P machines (PMs) have two NUMA nodes each, with cores and memory. V virtual machines (VMs) lie
    on them: a small one on one node, a large one split half and half over both. Free cores count in
    blocks of 16, the size of the VMs that customers ask for; what is left over on a node is a
    fragment. Every step moves one VM to another machine while it runs. The planning problem is
    deterministic and exact, so plans can be compared before one is carried out; with `churn` it
    goes stale while it is being made.

    ## Observation
    `Dict` of flat float32 boxes (tables row by row; c are free cores, m free memory, M the largest
    memory of a machine):

    - `pms` [P * 8]: c0 / 88, c1 / 88, m0 / M, m1 / M, (c0 mod 16) / c0, (c0 mod 16) / 16,
      (c1 mod 16) / c1, (c1 mod 16) / 16; a fraction of no free core is 0.
    - `vms` [V * 6]: cores on node 0 and 1 over 88, memory on node 0 and 1 over M, (cores mod 16) /
      16 per node. Rows without a VM are zero.
    - `owner` [V]: index of the PM that hosts the VM, -1 for a row without a VM.
    - `legal` [V * P] (`extended`: [V * 2P]): 1 for a legal move, as in `info["action_mask"]`.
    - `progress` [1]: steps taken over `migrations`.

    ## Action
    `FeasiblePairs([V, P])`: the VM and the PM to which it goes, with a joint mask. Legal are the
    VM's own PM (nothing moves), and every PM where it fits on at least one NUMA node by cores and
    memory (a split VM half on each) and which hosts no VM in conflict with it. A VM on one node
    keeps its node index if it fits there, else it takes the other. With `extended`, the second
    entry is below 2P: 2p is machine p as above, 2p + 1 asks for the other node first and, on the
    VM's own machine, moves it to the other node; it is not legal for a split VM. With
    `migrations=0` only staying is legal.

    An action that is not legal raises ValueError; with `penalty_mode` it changes nothing and costs
    1; with `churn` it is skipped.

    ## Dynamics
    The cores and the memory of the VM become free where it was and are taken where it goes. With
    `churn` the tape holds events at exponential intervals, each with probability 1/2 the arrival of
    a VM of the size of a random one of the starting VMs, placed where the fewest cores are left
    over, or the departure of a random VM. A step then lets `inference_seconds` pass first and moves
    after that: a move that was legal when it was observed may be impossible by then, and is
    skipped. An arrival takes the next free row; where it fits on no machine or no row is left, it
    is refused. The last VM never leaves. `env.unwrapped.advance(seconds)` lets time pass without a
    step (at most 60 seconds in all of an episode).

    ## Reward
    With s(p) = (c0 mod 16) / 32 + (c1 mod 16) / 32, the decrease of s over the two machines
    concerned, divided by 4: the decrease of all fragments / 128. Without churn rewards sum to
    (fragments at the start - at the end) / 128. What arrivals and departures do to fragments is no
    part of it.

    ## Episode end
    Truncated after `migrations` steps (with 0, after one).

    ## Arguments
    - `pms`: machines of a drawn data centre, >= 1.
    - `vms`: rows for VMs, by default enough for nearly every draw (no draw has more VMs) or those
      of the largest mapping, and for the arrivals to be expected.
    - `migrations`: steps of an episode, >= 0 (the migration number limit).
    - `load`: share of cores in use at the start, in (0, 1].
    - `numa`: NUMA nodes of a drawn machine, 1 or 2, each with 44 cores and 128 GB.
    - `anti_affinity`: share of the pairs of VMs drawn as conflicts, in [0, 1].
    - `mappings`: instead of drawing, a fixed data set: a `Mapping`, the path of a snapshot (see
      `read_snapshot`), or a sequence of these; every reset picks one at random. `pms`, `load`,
      `numa` and `anti_affinity` then have no meaning.
    - `penalty_mode`: illegal actions cost 1 instead of raising.
    - `extended`: the larger action space.
    - `churn`: arrivals and departures per second, >= 0.
    - `inference_seconds`: that an agent thinks before each step, >= 0; needs `churn`.
    - `reset(options={"mapping": i})` starts from the i-th of `mappings`.

    `info["fragment_rate"]` is fragments / free cores (0 where nothing is free), `info["skipped"]`
    counts actions that could not be carried out. With churn, `info["seconds"]` is the
    time that has passed, `info["arrived"]`, `["departed"]` and `["refused"]` count VMs.

    ## Data files
    None needed; `mappings` reads JSON and CSV snapshots of a user's own cluster.

    ## Sources
    X. Ding et al., Towards VM Rescheduling Optimization Through Deep Reinforcement Learning,
    EuroSys 2025, arXiv 2505.17359 (dynamics, reward, features). The generator follows the sizes and
    the use that the paper reports; churn is this suite's own.

    ## Version
    v0.
    """

    def __init__(
        self,
        pms: int = 10,
        vms: int | None = None,
        migrations: int = 6,
        load: float = 0.85,
        numa: int = 2,
        anti_affinity: float = 0.0,
        mappings: Any = None,
        penalty_mode: bool = False,
        extended: bool = False,
        churn: float = 0.0,
        inference_seconds: float = 0.0,
    ) -> None:
        check_arguments(pms, load, numa, anti_affinity)
        for name, number, least in (("vms", vms, 1), ("migrations", migrations, 0)):
            if number is not None and (
                isinstance(number, bool)
                or not isinstance(number, int | np.integer)
                or number < least
            ):
                raise ValueError(f"{name}={number!r} must be an integer of at least {least}")
        for name, value in (("churn", churn), ("inference_seconds", inference_seconds)):
            if not 0 <= value < np.inf:
                raise ValueError(f"{name}={value} is outside [0, inf)")
        if inference_seconds and not churn:
            raise ValueError("inference_seconds means nothing in a cluster without churn")
        self.load, self.numa, self.anti_affinity = load, numa, anti_affinity
        self.migrations, self.horizon = int(migrations), max(int(migrations), 1)
        self.penalty_mode, self.extended = penalty_mode, extended
        self.churn, self.inference_seconds = float(churn), float(inference_seconds)
        self.tape_seconds = self.horizon * self.inference_seconds + SPARE_SECONDS
        arrivals = event_slots(self.churn, self.horizon * self.inference_seconds) // 2
        self.mappings = None if mappings is None else as_mappings(mappings)
        if self.mappings is None:
            self.pms = int(pms)
            present = rows_for(pms, load, numa)
            pairs, node, memory = 0.0, NODE_CORES, NODE_MEMORY * 2
        else:
            self.pms = max(len(mapping.capacity_cores) for mapping in self.mappings)
            present = max(len(mapping.cores) for mapping in self.mappings)
            pairs = max(len(mapping.conflicts) for mapping in self.mappings)
            node = max(int(mapping.capacity_cores.max()) for mapping in self.mappings)
            memory = max(int(m.capacity_memory.sum(axis=1).max()) for m in self.mappings)
        self.vms = present + arrivals if vms is None else int(vms)
        if self.mappings is not None and self.vms < present:
            raise ValueError(f"vms={vms} rows are too few for a mapping of {present} VMs")
        if self.mappings is None:
            pairs = round(anti_affinity * self.vms * (self.vms - 1) / 2)
        self._pairs = max(2 * int(pairs), 1)  # in both orders
        self.memory_scale = float(max(memory, 1))
        self.choices = 2 if extended else 1
        self.action_space = Moves([self.vms, self.choices * self.pms], self._always())
        self.observation_space = observation_space(self.vms, self.pms, self.choices, node)

    def _always(self) -> np.ndarray:
        """Moves that are legal at every start: VMs that stay where they are in all mappings."""
        legal = np.zeros((self.vms, self.pms * self.choices), dtype=bool)
        if self.mappings is None:
            legal[0, 0] = True  # drawn data centres list the VMs of machine 0 first
            return legal
        shortest = min(len(mapping.cores) for mapping in self.mappings)
        owners = np.stack([mapping.owner[:shortest] for mapping in self.mappings])
        fixed = np.flatnonzero((owners == owners[0]).all(axis=0))
        legal[fixed, owners[0, fixed] * self.choices] = True
        return legal

    # -- the start ---------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Dictionary[str, Any]) -> Arrays:
        """The mapping of the episode, padded, and with churn its events."""
        index = ABSENT
        if self.mappings is not None:
            index = self._pick(rng, options)
            mapping = self.mappings[index]
        elif "mapping" in options:
            raise ValueError("options['mapping'] needs the argument mappings")
        else:
            mapping = data_centre(rng, self.pms, self.load, self.numa, self.anti_affinity, self.vms)
        tape = mapping.padded(self.pms, self.vms, self._pairs)
        tape["mapping"] = np.int64(index)
        if self.churn:
            events = draw_events(rng, self.churn, self.tape_seconds, mapping, self.vms)
            rows, like = events["event_vm"], events.pop("event_like")
            arrives = rows >= 0
            for name in ("cores", "memory", "split"):
                tape[name][rows[arrives]] = tape[name][like[arrives]]
            tape |= events
        return tape

    def _pick(self, rng: np.random.Generator, options: Dictionary[str, Any]) -> int:
        assert self.mappings is not None
        drawn = int(rng.integers(len(self.mappings)))
        index = options.get("mapping", drawn)
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise ValueError(f"options['mapping']: an integer is needed, got {index!r}")
        if not 0 <= index < len(self.mappings):
            raise ValueError(
                f"options['mapping']: {index} is outside 0 .. {len(self.mappings) - 1}"
            )
        return int(index)

    def initial(self, tape: Arrays) -> Arrays:
        """The mapping as it was drawn.

        Fields: `owner`, `node`, `cores`, `memory` (of one node), `split` [n, V]; `free_cores`,
        `free_memory`, `capacity_cores`, `capacity_memory` [n, P, 2]; `conflicts` [n, K, 2]; `legal`
        bool [n, V, P or 2P]; `skipped`, number of moves that were not carried out; of the last step
        `gain` (decrease of fragments), `illegal`, `moved` (VM, source, target; -1 where nothing
        moved).
        """
        xp = array_namespace(tape["owner"])
        state = {name: value for name, value in tape.items() if not name.startswith("event_")}
        zero = 0 * tape["mapping"]
        state |= {
            "t": zero,
            "gain": zero + 0,
            "illegal": zero != 0,
            "skipped": zero + 0,
            "moved": xp.stack([zero + ABSENT] * 3, axis=-1),
        }
        if self.churn:
            state |= {name: zero + 0 for name in ("event", "arrived", "departed", "refused")}
            state["seconds"] = 0 * tape["event_seconds"][:, 0]
        state["legal"] = self._legal(state)
        return state

    # -- dynamics ----------------------------------------------------------------------------------

    def _legal(self, state: Arrays) -> Any:
        """Legal moves, bool [n, V, P or 2P]."""
        if not self.migrations:
            return staying(state, self.choices)
        return all_legal(state, self.choices)

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step; `action` int64 [n, 2]."""
        xp = array_namespace(state["owner"])
        rows = xp.arange(len(action), device=device(state["owner"]))
        vm, entry = action[:, 0], action[:, 1]
        illegal = ~state["legal"][rows, vm, entry]
        if self.inference_seconds:
            state = self.elapse(state, tape, self.inference_seconds)
        skipped = ~state["legal"][rows, vm, entry]
        after, moved = move(state, vm, entry, self.choices)
        after |= {
            "t": state["t"] + 1,
            "gain": fragments(state["free_cores"]) - fragments(after["free_cores"]),
            "illegal": illegal,
            "skipped": state["skipped"] + xp.astype(skipped, xp.int64),
            "moved": moved,
        }
        if not self.migrations:
            after["legal"] = state["legal"]
        return after

    def elapse(self, state: Arrays, tape: Arrays, seconds: float) -> Arrays:
        """The state after `seconds` without a step: arrivals and departures that are due have
        happened."""
        xp = array_namespace(state["owner"])
        rows = xp.arange(len(state["t"]), device=device(state["owner"]))
        state = {**state, "seconds": state["seconds"] + seconds}
        last, changed = tape["event_seconds"].shape[1] - 1, False
        while True:
            index = xp.where(state["event"] <= last, state["event"], 0 * state["event"] + last)
            moment = tape["event_seconds"][rows, index]
            due = (state["event"] <= last) & (moment <= state["seconds"])
            if not bool(due.any()):
                break
            state, changed = apply_event(state, tape, due), True
        return {**state, "legal": self._legal(state)} if changed else state

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Decrease of fragments by the move / 128, or -1 for an illegal action, [n]."""
        xp = array_namespace(next_state["gain"])
        gain = xp.astype(next_state["gain"], xp.float64) / REWARD_SCALE
        if not self.penalty_mode:
            return gain
        return xp.where(next_state["illegal"], 0 * gain - 1, gain)

    def truncated(self, state: Arrays) -> Any:
        """The episode is cut after `migrations` steps."""
        return state["t"] >= self.horizon

    def terminal(self, state: Arrays) -> Any:
        """Never: a cluster goes on."""
        return state["t"] < 0

    # -- what is seen ------------------------------------------------------------------------------

    def observation(self, state: Arrays) -> Any:
        """Tables of machines, VMs and legal moves, see the class."""
        return tables(state, self.memory_scale, max(self.migrations, 1))

    def info(self, state: Arrays) -> Arrays:
        """Fragment rate, how many actions were skipped and, with churn, what happened."""
        xp = array_namespace(state["owner"])
        names = ("skipped", *(("seconds", "arrived", "departed", "refused") if self.churn else ()))
        return {
            "fragment_rate": fragment_rate(state["free_cores"]),
            **{name: xp.asarray(state[name], copy=True) for name in names},
        }

    def action_masks(self, state: Arrays) -> Any:
        """Legal moves, bool [n, V, P]; with `extended` [n, V, 2P]."""
        return array_namespace(state["legal"]).asarray(state["legal"], copy=True)

    def check_action(self, action: Any, state: Arrays) -> Any:
        """As `ArrayCore.check_action`.

        Raises:
            ValueError: outside the action space, or not legal (unless `penalty_mode` or `churn`).
        """
        checked = check_in_space(self.action_space, action)
        if self.penalty_mode or self.churn:
            return checked
        rows = np.arange(len(checked))
        wrong = ~state["legal"][rows, checked[:, 0], checked[:, 1]]
        if wrong.any():
            row = int(np.argmax(wrong))
            vm, entry = checked[row].tolist()
            reason = why_illegal(state, row, vm, entry, self.choices)
            if not self.migrations:
                reason = "migrations=0 only allows VMs to stay"
            raise ValueError(
                f"action {[vm, entry]} of sub-environment {row} is infeasible: {reason}"
            )
        return checked

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """Machines as stacked bars per NUMA node, the last move as an arrow."""
        from .render import draw_cluster

        cluster = {name: np.asarray(value[index]) for name, value in state.items()}
        names = None
        if self.mappings is not None:
            names = self.mappings[int(cluster["mapping"])].machine_names
        title = f"step {int(cluster['t'])} of {self.horizon}"
        return draw_cluster(cluster, title, names)


class _Cluster:
    """What both faces of `VMRescheduling` add."""

    core: VMRescheduling
    tape: Arrays
    state: Arrays

    def _let_pass(self, seconds: float) -> None:
        if not self.core.churn:
            raise ValueError("advance: nothing happens in a cluster without churn")
        passed = self.state["seconds"] - self.state["t"] * self.core.inference_seconds
        if not 0 <= seconds <= SPARE_SECONDS - float(passed.max()):
            raise ValueError(
                f"advance: seconds={seconds} is outside [0, "
                f"{SPARE_SECONDS - float(passed.max()):g}]; an episode has {SPARE_SECONDS:g} in all"
            )
        self.state = self.core.elapse(self.state, self.tape, seconds)


class VMReschedulingEnv(_Cluster, ArrayEnv):
    """Face 1 of `VMRescheduling`: `gymnasium.make("VMRescheduling-v0", pms=20)`."""

    core: VMRescheduling
    core_class: ClassVar[type[VMRescheduling]] = VMRescheduling

    def advance(self, seconds: float) -> tuple[Any, dict[str, Any]]:
        """Let time pass without a step; returns observation and info.

        Raises:
            ValueError: there is no churn, or more time than an episode has.
        """
        self._let_pass(seconds)
        return self._observe(), self._info()


class VMReschedulingVectorEnv(_Cluster, ArrayVectorEnv):
    """Face 2 of `VMRescheduling`: `gymnasium.make_vec("VMRescheduling-v0", num_envs=64)`."""

    core: VMRescheduling
    core_class: ClassVar[type[VMRescheduling]] = VMRescheduling

    def advance(self, seconds: float) -> tuple[Any, dict[str, Any]]:
        """Let time pass in all sub-environments; results and errors as in the single face."""
        self._let_pass(seconds)
        return self.core.observation(self.state), self._infos(np.arange(self.num_envs))
