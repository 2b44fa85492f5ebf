"""VM2RL: its distributions and losses against numbers, plans, any size, and learning."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.base.pair_policy import (
    Choice,
    FlatPolicy,
    entropy_of,
    first_best,
    masked,
    pruned,
)
from palaestra.agents.base.trial_plans import try_plans
from palaestra.agents.combinatorial.vm2rl import (
    VM2RL,
    TwoStagePolicy,
    pair_entropy,
    pair_log_prob,
)
from palaestra.envs.base import to_torch
from palaestra.envs.cluster.mapping import Mapping
from palaestra.envs.cluster.vm_rescheduling import VMRescheduling
from palaestra.wrappers.sb3 import make_sb3

SMALL = {"pms": 3, "numa": 1, "migrations": 4}
QUICK = {
    **{"n_steps": 16, "batch_size": 16, "n_epochs": 2, "evaluate_every": 0, "device": "cpu"},
    **{"policy_kwargs": {"width": 8}, "seed": 0},
}


def make(**arguments):
    return gym.make("VMRescheduling-v0", **{**SMALL, **arguments})


def agent_for(env=None, policy="MultiInputPolicy", **arguments):
    return VM2RL(policy, env or make(), **{**QUICK, **arguments})


def observations(core, count=6, seed=0):
    """Batched first observations as tensors, with core, state and tape."""
    tape = core.tapes(count, seed)
    state = core.initial(tape)
    return to_torch(core.observation(state)), core, state, tape


def policy_for(core, cls=TwoStagePolicy, **arguments):
    torch.manual_seed(0)
    policy = cls(core.observation_space, core.action_space, lambda _: 1e-3, **arguments)
    for parameter in policy.parameters():  # far from the small start, so that logits differ
        parameter.data += 0.3 * torch.randn_like(parameter)
    return policy.eval()


def two_machines():
    """Two machines of one node: free 24 and 8 cores; two moves gather all of it, no single one."""
    return Mapping(
        capacity_cores=[[32, 0], [32, 0]],
        capacity_memory=[[64, 0], [64, 0]],
        cores=[4, 4, 12, 12],
        memory=[8, 8, 24, 24],
        owner=[0, 0, 1, 1],
        node=[0, 0, 0, 0],
    )


# -- pure functions --------------------------------------------------------------------------------


def test_worked_example_log_prob_of_a_pair():
    vm_logits = masked(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[True, True, False]]))
    found = pair_log_prob(
        vm_logits, torch.tensor([[0.0, 1.0]]), torch.tensor([0]), torch.tensor([1])
    )
    assert float(found) == pytest.approx(-0.626523, abs=1e-6)


def test_worked_example_pruning():
    found = pruned(torch.tensor([[0.5, 0.3, 0.15, 0.05]]), 0.5)
    torch.testing.assert_close(found, torch.tensor([[0.625, 0.375, 0.0, 0.0]]))


def test_pruning_keeps_all_where_all_are_equal_and_one_at_the_highest_quantile():
    equal = torch.full((1, 7), 1 / 7)
    torch.testing.assert_close(pruned(equal, 0.995), equal)
    row = torch.tensor([[0.2, 0.5, 0.3]])
    torch.testing.assert_close(pruned(row, 1.0), torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(pruned(row, 0.0), row)


@given(
    st.lists(st.floats(-8, 8), min_size=1, max_size=12),
    st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_pruning_drops_only_what_is_less_likely_than_all_it_keeps(logits, quantile):
    before = torch.tensor([logits]).softmax(-1)
    after = pruned(before, quantile)
    assert float(after.sum()) == pytest.approx(1.0, abs=1e-5)
    kept = after > 0
    assert kept[0, before.argmax()]
    if (~kept).any():
        assert before[~kept].max() < before[kept].min()
    ratios = (after / before)[kept]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-4, atol=1e-5)


def test_masked_choices_have_no_probability_and_no_entropy():
    logits = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    allowed = torch.tensor([[True, False, True, False]])
    probabilities = masked(logits, allowed).softmax(-1)
    assert (probabilities[~allowed] == 0).all()
    torch.testing.assert_close(entropy_of(masked(logits, allowed)), entropy_of(logits[:, [0, 2]]))
    found = pair_entropy(torch.zeros(1, 4), masked(torch.zeros(1, 4), allowed))
    assert float(found) == pytest.approx(np.log(4) + np.log(2), abs=1e-6)


def test_of_equal_logits_the_first_is_best():
    logits = torch.tensor([[0.0, 2.0, 2.0 + 1e-6, 1.9]])
    assert first_best(logits).tolist() == [1]


def test_samples_follow_the_probabilities_and_greedy_rows_take_the_best():
    logits = torch.tensor([[0.0, np.log(3.0), -1e8]]).expand(4000, 3)
    greedy = torch.arange(4000) < 1000
    chosen = Choice(greedy, generator=torch.Generator().manual_seed(0))(logits, 0)
    assert (chosen[:1000] == 1).all()
    assert float((chosen[1000:] == 1).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert not (chosen == 2).any()
    only = Choice(quantiles=(0.9, 0.0))(logits, 0)
    assert (only == 1).all()


# -- policies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True])
def test_actions_are_legal_and_evaluated_with_the_masks_they_were_drawn_with(extended):
    obs, core, state, _ = observations(VMRescheduling(**SMALL, extended=extended), 16)
    policy = policy_for(core)
    with torch.no_grad():
        for deterministic in (False, True):
            actions, values, log_prob = policy(obs, deterministic)
            assert state["legal"][np.arange(16), actions[:, 0], actions[:, 1]].all()
            again = policy.evaluate_actions(obs, actions.float())  # as SB3's buffer gives them
            torch.testing.assert_close(again[0], values)
            torch.testing.assert_close(again[1], log_prob)
            assert (again[2] > 0).all()


def test_probabilities_of_all_legal_pairs_add_up_to_one():
    obs, core, state, _ = observations(VMRescheduling(**SMALL), 1)
    vms, pms = core.action_space.nvec
    pairs = torch.cartesian_prod(torch.arange(vms), torch.arange(pms))
    many = {key: value.expand(len(pairs), -1) for key, value in obs.items()}
    legal = torch.as_tensor(state["legal"][0]).flatten()
    with torch.no_grad():
        _, log_prob, _ = policy_for(core).evaluate_actions(many, pairs)
        flat = policy_for(core, FlatPolicy)
        _, flat_log_prob, entropy = flat.evaluate_actions(many, pairs)
    assert float(log_prob[legal].exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(log_prob[~legal].exp().sum()) == 0
    present = torch.as_tensor(state["owner"][0] >= 0)[pairs[:, 0]]
    assert float(flat_log_prob[present].exp().sum()) == pytest.approx(1.0, abs=1e-5)
    expected = -(flat_log_prob.exp() * flat_log_prob)[present].sum()
    torch.testing.assert_close(entropy[0], expected)
    # The baseline does spend probability on what is illegal.
    assert float(flat_log_prob[present & ~legal].exp().sum()) > 0.1


@pytest.mark.parametrize("cls", [TwoStagePolicy, FlatPolicy])
def test_policies_do_not_depend_on_the_order_of_vms_and_pms(cls):
    obs, core, state, _ = observations(VMRescheduling(**SMALL), 1)
    vms, pms = (int(n) for n in core.action_space.nvec)
    policy = policy_for(core, cls)
    vm_order, pm_order = torch.randperm(vms), torch.randperm(pms)
    owner = obs["owner"].long()
    place = torch.cat([torch.argsort(pm_order), torch.tensor([-1])])
    mixed = {
        "pms": obs["pms"].reshape(1, pms, 8)[:, pm_order].flatten(1),
        "vms": obs["vms"].reshape(1, vms, 6)[:, vm_order].flatten(1),
        "owner": place[owner][:, vm_order].float(),
        "legal": obs["legal"].reshape(1, vms, pms)[:, vm_order][..., pm_order].flatten(1),
        "progress": obs["progress"],
    }
    legal = torch.as_tensor(state["legal"][0])
    actions = legal.nonzero()
    same = torch.stack([torch.argsort(vm_order)[actions[:, 0]], place[actions[:, 1]]], 1)
    with torch.no_grad():
        plain = policy.evaluate_actions(
            {k: v.expand(len(actions), -1) for k, v in obs.items()}, actions
        )
        again = policy.evaluate_actions(
            {k: v.expand(len(actions), -1) for k, v in mixed.items()}, same
        )
    torch.testing.assert_close(again[0], plain[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again[1], plain[1], rtol=1e-4, atol=1e-5)


def test_without_tree_attention_there_are_other_networks():
    obs, core, *_ = observations(VMRescheduling(**SMALL))
    dense = policy_for(core, sparse=False)
    assert not any(name.startswith("encoder.blocks.0.tree") for name, _ in dense.named_parameters())
    assert dense.encoder.guest_input.in_features == 6 + 8
    assert dense(obs)[0].shape == (6, 2)


def test_nothing_is_to_come_after_the_last_move():
    obs, core, *_ = observations(VMRescheduling(**SMALL))
    policy = policy_for(core)
    assert (policy.predict_values(obs).abs() > 1e-4).all()
    some = {**obs, "progress": obs["progress"].clone()}
    some["progress"][:2] = 1
    values = policy.predict_values(some)
    assert (values[:2] == 0).all()
    assert (values[2:] == policy.predict_values(obs)[2:]).all()
    all_over = {**obs, "progress": torch.ones_like(obs["progress"])}
    assert (policy.predict_values(all_over) == 0).all()


def test_other_spaces_are_refused():
    with pytest.raises(ValueError, match="TwoStagePolicy takes observations Dict"):
        VM2RL("MultiInputPolicy", gym.make("CartPole-v1"), **{**QUICK, "policy_kwargs": {}})
    agent = agent_for()
    with pytest.raises(ValueError, match="use_sde=True"):
        TwoStagePolicy(agent.observation_space, agent.action_space, lambda _: 1e-3, use_sde=True)


# -- any size --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"pms": 8}, {"pms": 2, "load": 0.5}, {"vms": 60}])
def test_predict_takes_clusters_of_other_sizes_one_or_a_batch(changes):
    agent, other = agent_for(), make(**changes)
    assert other.observation_space != agent.observation_space
    rows = [other.reset(seed=seed) for seed in range(3)]
    batch = {key: np.stack([row[key] for row, _ in rows]) for key in rows[0][0]}
    together, _ = agent.predict(batch, deterministic=True)
    assert together.shape == (3, 2)
    for index, (observation, info) in enumerate(rows):
        action, state = agent.predict(observation, deterministic=True)
        assert state is None and info["action_mask"][tuple(action)]
        np.testing.assert_array_equal(action, together[index])
        assert info["action_mask"][tuple(agent.predict(observation)[0])]


def test_padding_does_not_change_what_is_chosen():
    mapping = two_machines()
    agent = agent_for(make(mappings=mapping))
    agent.policy.load_state_dict(policy_for(agent.env.envs[0].unwrapped.core, width=8).state_dict())
    for seed in range(3):
        exact = make(mappings=mapping, vms=4).reset(seed=seed)[0]
        padded = make(mappings=mapping, vms=9).reset(seed=seed)[0]
        np.testing.assert_array_equal(
            *(agent.predict(o, deterministic=True)[0] for o in (exact, padded))
        )
        assert all(agent.predict(padded)[0][0] < 4 for _ in range(20))


def test_malformed_observations_are_refused():
    agent, (observation, _) = agent_for(), make().reset(seed=0)
    with pytest.raises(ValueError, match="an observation has the entries"):
        agent.predict({key: value for key, value in observation.items() if key != "owner"})
    with pytest.raises(ValueError, match="an observation of these sizes has"):
        agent.predict({**observation, "vms": observation["vms"][:-6]})


def test_action_masks_replace_the_legality_of_the_observation():
    agent, env = agent_for(), make()
    observation, info = env.reset(seed=0)
    mask = np.zeros_like(info["action_mask"])
    vm, pm = np.argwhere(info["action_mask"])[-1]
    mask[vm, pm] = True
    for deterministic in (False, True):
        action, _ = agent.predict(observation, deterministic=deterministic, action_masks=mask)
        assert action.tolist() == [vm, pm]


# -- plans -----------------------------------------------------------------------------------------


def test_a_plan_reaches_the_fragment_rate_that_was_promised_and_leaves_the_env_alone():
    env, agent = make(pms=5), agent_for()
    env.reset(seed=3)
    face = env.unwrapped
    before = {name: value.copy() for name, value in face.state.items()}
    moves = agent.plan(env, k=16)
    for name, value in face.state.items():
        np.testing.assert_array_equal(value, before[name])
    promised = agent.trials(face.core, face.state, face.tape, 16).fragment_rates.min()
    rate = float(face.core.info(face.state)["fragment_rate"][0])
    assert 0 < len(moves) <= 4
    for vm, pm in moves:
        assert face.state["owner"][0, vm] != pm  # what moves nothing is not in the plan
        *_, info = env.step((vm, pm))
    assert float(info["fragment_rate"]) == promised < rate


def test_worked_example_two_moves_that_no_single_reward_leads_to():
    env, agent = (
        make(mappings=two_machines(), migrations=2),
        agent_for(make(mappings=two_machines())),
    )
    env.reset(seed=0)
    moves = agent.plan(env, k=64)
    rewards = [env.step(move)[1] for move in moves]
    # The two small VMs go, or the two large ones come.
    assert sorted(moves) in ([(0, 1), (1, 1)], [(2, 0), (3, 0)])
    assert rewards == pytest.approx([0.0, 0.125])
    assert env.unwrapped.core.info(env.unwrapped.state)["fragment_rate"] == 0


def test_the_first_plan_is_what_predict_does_and_more_plans_are_never_worse():
    _, core, state, tape = observations(VMRescheduling(**SMALL), 8)
    policy = policy_for(core, width=16)
    agent = agent_for(policy_kwargs={"width": 16})
    agent.policy.load_state_dict(policy.state_dict())
    rates = {k: agent.trials(core, state, tape, k).fragment_rates for k in (1, 2, 8)}
    ended = state
    while not core.truncated(ended).all():
        action, _ = agent.predict(core.observation(ended), deterministic=True)
        ended = core.transition(ended, core.check_action(action, ended), tape)
    np.testing.assert_array_equal(rates[1][:, 0], core.info(ended)["fragment_rate"])
    for k in (2, 8):
        np.testing.assert_array_equal(rates[k][:, 0], rates[1][:, 0])
        assert (rates[k].min(1) <= rates[1][:, 0]).all()
    assert rates[8].min(1).mean() < rates[1].mean()


def test_plans_are_the_same_for_the_same_seed_and_do_not_touch_the_global_generator():
    _, core, state, tape = observations(VMRescheduling(**SMALL), 4)
    agent = agent_for()
    torch.manual_seed(5)
    first = agent.trials(core, state, tape, 8, seed=1)
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    again = agent.trials(core, state, tape, 8, seed=1)
    np.testing.assert_array_equal(first.actions, again.actions)
    torch.testing.assert_close(torch.rand(3), drawn)
    other = agent.trials(core, state, tape, 8, seed=2)
    assert (first.actions != other.actions).any()
    np.testing.assert_array_equal(first.actions[:, 0], other.actions[:, 0])  # the greedy plan


def test_a_state_within_an_episode_has_the_moves_that_are_left():
    _, core, state, tape = observations(VMRescheduling(**SMALL), 3)
    policy = policy_for(core)
    stay = np.stack([np.zeros(3, dtype=int), state["owner"][:, 0]], 1)
    later = core.transition(state, stay, tape)
    mixed = {name: np.concatenate([state[name][:1], later[name][1:]]) for name in state}
    found = try_plans(policy, core, mixed, tape, 2)
    assert found.actions.shape == (3, 2, 4, 2)
    assert (found.actions[1:, :, 3] == -1).all()  # one move fewer is left to them
    for _ in range(3):
        later = core.transition(later, np.stack([stay[:, 0], later["owner"][:, 0]], 1), tape)
    done = try_plans(policy, core, later, tape, 2)
    assert done.actions.shape == (3, 2, 0, 2) and done.moves(0) == []


def test_plans_do_not_know_what_churn_will_bring():
    arguments = {**SMALL, "load": 0.6, "vms": 30}
    calm = VMRescheduling(**arguments)
    churning = VMRescheduling(**arguments, churn=3.0, inference_seconds=1.0)
    policy = policy_for(calm)
    tapes = [core.tapes(2, 0) for core in (calm, churning)]
    found = [
        try_plans(
            *(policy, core, core.initial(tape), tape, 4),
            generator=torch.Generator().manual_seed(0),
        )
        for core, tape in zip((calm, churning), tapes, strict=True)
    ]
    np.testing.assert_array_equal(found[0].actions, found[1].actions)
    np.testing.assert_array_equal(found[0].fragment_rates, found[1].fragment_rates)


def test_pruned_plans_stay_with_the_likely():
    _, core, state, tape = observations(VMRescheduling(**SMALL), 4)
    policy = policy_for(core)
    found = try_plans(policy, core, state, tape, 5, (1.0, 1.0))
    for plan in range(1, 5):
        np.testing.assert_array_equal(found.actions[:, plan], found.actions[:, 0])
    assert (try_plans(policy, core, state, tape, 5).actions[:, 1:] != found.actions[:, 1:]).any()


def test_the_flat_baseline_plans_where_illegal_moves_are_allowed_only():
    _, core, state, tape = observations(VMRescheduling(**SMALL, penalty_mode=True), 4)
    policy = policy_for(core, FlatPolicy)
    found = try_plans(policy, core, state, tape, 6)
    assert ((found.actions >= 0) | (found.actions == -1)).all()
    assert (found.actions == -1).any()  # illegal ones are not part of a plan
    strict = VMRescheduling(**SMALL)
    with pytest.raises(ValueError, match="infeasible"):
        try_plans(policy, strict, state, tape, 6)


def test_bad_requests_for_plans_are_refused():
    agent, env = agent_for(), make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="at least 1 plan must be tried, got 0"):
        agent.plan(env, k=0)
    with pytest.raises(ValueError, match="VMRescheduling environment"):
        agent.plan(gym.make("CartPole-v1"))
    for name, value in (("plans", 0), ("vm_quantile", 1.5)):
        with pytest.raises(ValueError, match=name):
            agent_for(**{name: value})


def test_memory_bound_passes_give_the_same_plans(monkeypatch):
    _, core, state, tape = observations(VMRescheduling(**SMALL), 3)
    policy = policy_for(core)
    seen = []
    choose = policy.choose
    monkeypatch.setattr(
        policy,
        "choose",
        lambda obs, choice: (seen.append(len(obs["owner"])), choose(obs, choice))[1],
    )
    whole = try_plans(policy, core, state, tape, 1)
    assert seen == [3] * 4
    monkeypatch.setattr("palaestra.agents.base.trial_plans.PAIRS", 1)
    pieces = try_plans(policy, core, state, tape, 1)
    assert seen[4:] == [1] * 12
    np.testing.assert_array_equal(whole.actions, pieces.actions)


# -- learning --------------------------------------------------------------------------------------


def test_the_best_parameters_of_the_evaluations_are_kept():
    agent = agent_for(evaluate_every=1, validation_episodes=8, plans=2, learning_rate=0.05)
    agent.learn(96)
    steps, rates = zip(*agent.curve, strict=True)
    assert steps == (16, 32, 48, 64, 80, 96, 96)
    assert agent.best_fragment_rate == min(rates) < max(rates)
    core, tape = agent._validation
    again = agent.trials(core, core.initial(tape), tape).fragment_rates.min(1).mean()
    assert float(again) == agent.best_fragment_rate


def test_validation_can_have_mappings_of_its_own():
    core = VMRescheduling(mappings=two_machines(), migrations=2)
    agent = agent_for(evaluate_every=1, validation_episodes=3, plans=64).learn(16, validation=core)
    assert [rate for _, rate in agent.curve] == [0.0, 0.0]
    with pytest.raises(ValueError, match="VMRescheduling environment"):
        agent.learn(16, validation=gym.make("FiniteMDP-v0").unwrapped.core)


def test_it_learns_to_gather_what_greedy_moves_cannot():
    """On the worked example the return is 0.125 for the two moves and 0 for greedy play."""
    env = make_sb3("VMRescheduling-v0", 16, seed=0, mappings=two_machines(), migrations=2)
    agent = VM2RL(
        "MultiInputPolicy",
        env,
        n_steps=8,
        batch_size=64,
        n_epochs=4,
        learning_rate=5e-3,
        evaluate_every=0,
        seed=0,
        device="cpu",
        policy_kwargs={"width": 16},
    )
    start = env.vector.unwrapped
    before = agent.trials(start.core, *fresh(start.core), 100).fragment_rates[:, 1:].mean()
    agent.learn(2560)
    after = agent.trials(start.core, *fresh(start.core), 100).fragment_rates
    assert after[0, 0] == 0
    assert after[:, 1:].mean() < before - 0.2


def fresh(core):
    tape = core.tapes(1, 0)
    return core.initial(tape), tape
