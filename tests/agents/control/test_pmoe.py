"""PMOE: the worked example, which parts learn from what, one primitive, edge cases."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from palaestra.agents import PMOE
from palaestra.agents.control.pmoe import repeated, router_loss, single_arm, winner
from palaestra.agents.control.pmoe_policy import Proposals, drawn, picked

ALPHA = torch.tensor([0.2])


def make(env=None, policy="MlpPolicy", **arguments):
    if env is None:
        env = gym.make("PointMaze-v0", layout="two_goals", horizon=10)
    chosen = {**PMOE.example.kwargs, "seed": 0, "device": "cpu", **arguments}
    return PMOE(policy, env, **chosen)


def batch_of(agent, size=8):
    """Random transitions of the plane."""
    rng = np.random.default_rng(0)
    places = torch.as_tensor(rng.uniform(-1, 1, (2, size, 2)), dtype=torch.float32)
    actions = torch.as_tensor(rng.uniform(-1, 1, (size, 2)), dtype=torch.float32)
    return ReplayBufferSamples(
        places[0], actions, places[1], torch.zeros(size, 1), torch.ones(size, 1)
    )


def gradients(agent, loss):
    """Of the actor's parameters by name; None where the loss does not reach."""
    names, parameters = zip(*agent.actor.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return dict(zip(names, found, strict=True))


# -- the worked example ---------------------------------------------------------------------------

FIRST = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]])
SECOND = torch.tensor([[1.5, 1.2, 0.3], [0.7, -0.5, 0.2]])
LOG_PROB = torch.tensor([[-1.0, 0.5, 0.2], [0.3, -0.4, -2.0]])
WEIGHTS = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.5, 0.0]]).softmax(dim=1)


def example_agent():
    """An agent whose action says which primitive it is of, and whose critics are tables."""
    agent = make(n_primitives=3, target_entropy=-2.0)
    actions = torch.arange(3.0).expand(2, 3)[:, :, None]

    def values(observations, actions):
        row, primitive = observations[:, 0].long(), actions[:, 0].long()
        return FIRST[row, primitive][:, None], SECOND[row, primitive][:, None]

    found = Proposals(actions, LOG_PROB, WEIGHTS)
    agent.actor = SimpleNamespace(
        proposals=lambda _: found,
        # Of the primitives 2 and 0, as the router draws them.
        action_log_prob=lambda _: (torch.tensor([[2.0], [0.0]]), torch.tensor([0.2, 0.3])),
    )
    agent.critic = agent.critic_target = values
    return agent


def example_batch():
    states = torch.tensor([[0.0], [1.0]])
    rewards, dones = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    return ReplayBufferSamples(states, states, states, dones, rewards)


def test_worked_example_winners():
    assert winner(torch.minimum(FIRST, SECOND)).tolist() == [1, 0]
    sampled = example_agent().sample_actions(example_batch().observations)
    assert sampled.primitive.tolist() == [1, 0]
    assert sampled.log_prob.flatten().tolist() == pytest.approx([0.5, 0.3])
    assert sampled.actions.flatten().tolist() == [1, 0]


def test_worked_example_losses_of_the_actor():
    agent, batch = example_agent(), example_batch()
    agent.metrics = defaultdict(list)
    sampled = agent.sample_actions(batch.observations)
    loss = agent.actor_loss(batch, sampled, ALPHA)
    assert float(router_loss(WEIGHTS, sampled.primitive)) == pytest.approx(0.126880, abs=1e-6)
    assert float(loss) == pytest.approx(-0.770000 + 0.126880, abs=1e-6)
    assert [float(agent.metrics[f"wins_{number}"][0]) for number in range(3)] == [0.5, 0.5, 0.0]


def test_worked_example_temperature():
    agent = example_agent()
    sampled = agent.sample_actions(example_batch().observations)
    loss = agent.temperature_loss(torch.tensor([-1.0]), sampled)
    assert float(loss) == pytest.approx(-1.6, abs=1e-6)


def test_worked_example_target():
    targets = example_agent().target_values(example_batch(), ALPHA)
    assert targets.flatten().tolist() == pytest.approx([0.960400, 0.0], abs=1e-6)


def test_worked_example_primitive(monkeypatch):
    actor = make(n_primitives=1).actor
    for head, bias in ((actor.mu, [0.2, -0.1]), (actor.log_std, [-0.3, 0.1])):
        head.weight.data.zero_()
        head.bias.data[:] = torch.tensor(bias)
    noise = torch.tensor([[0.5, -1.0]])
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: noise)
    found = actor.proposals(torch.zeros(1, 2))
    assert found.actions.flatten().tolist() == pytest.approx([0.515660, -0.835225], abs=1e-5)
    assert float(found.log_prob.detach()) == pytest.approx(-0.757753, abs=1e-5)


# -- what learns from what ------------------------------------------------------------------------


def test_only_the_winners_heads_learn():
    agent = make(n_primitives=3)
    batch = batch_of(agent)
    agent.critic = lambda observations, actions: (
        # The second primitive's action is the second of three rows in succession.
        torch.arange(len(actions))[:, None] % 3 == 1,
        actions.sum(dim=1, keepdim=True) * 0 + 0.5,
    )
    with torch.no_grad():
        assert agent.sample_actions(batch.observations).primitive.tolist() == [1] * 8
    sampled = agent.sample_actions(batch.observations)
    found = gradients(agent, sampled.log_prob.mean())
    rows = found["mu.weight"].reshape(3, 2, -1).abs().sum(dim=(1, 2))
    assert rows[1] > 0
    assert rows[0] == rows[2] == 0
    assert found["router.weight"] is None


def test_the_router_learns_its_own_head_alone():
    agent = make(n_primitives=3)
    weights = agent.actor.proposals(batch_of(agent).observations).weights
    found = gradients(agent, router_loss(weights, torch.zeros(8, dtype=torch.int64)))
    reached = {name for name, gradient in found.items() if gradient is not None}
    assert reached == {"router.weight", "router.bias"}


def test_the_router_comes_to_the_frequencies_of_the_winners():
    agent = make(n_primitives=3)
    place, won = torch.zeros(10, 2), torch.tensor([0] * 7 + [2] * 3)
    optimizer = torch.optim.Adam(agent.actor.router.parameters(), lr=0.1)
    for _ in range(200):
        weights = agent.actor.proposals(place).weights
        optimizer.zero_grad()
        router_loss(weights, won).backward()
        optimizer.step()
    assert weights[0].tolist() == pytest.approx([0.7, 0.0, 0.3], abs=0.02)


def test_the_log_has_the_router_and_the_wins():
    agent = make().learn(60)
    logs = agent.logger.name_to_value
    shares = [logs[f"train/wins_{number}"] for number in range(4)]
    assert sum(shares) == pytest.approx(1.0)
    assert 0 <= logs["train/router_entropy"] <= np.log(4) + 1e-6
    assert 0.25 <= logs["train/largest_weight"] <= 1


# -- one primitive --------------------------------------------------------------------------------


def test_one_primitive_is_sac():
    metrics = single_arm(100, 1.0).metrics
    assert metrics == {"loss difference": 0.0, "router loss": 0.0}


# -- acting ---------------------------------------------------------------------------------------


def separated(**arguments):
    """An agent whose primitives 0 and 1 act at opposite corners, with router weights .25, .75."""
    agent = make(n_primitives=2, **arguments)
    actor = agent.actor
    for head in (actor.mu, actor.log_std, actor.router):
        head.weight.data.zero_()
    actor.mu.bias.data[:] = torch.tensor([-2.0, -2.0, 2.0, 2.0])
    actor.log_std.bias.data.fill_(-20.0)
    actor.router.bias.data[:] = torch.tensor([0.25, 0.75]).log()
    return agent


def share_of_second(actions):
    assert np.abs(actions) == pytest.approx(np.tanh(2.0), abs=1e-5)
    assert np.array_equal(actions[:, 0], actions[:, 1])
    return (actions[:, 0] > 0).mean()


def test_actions_are_of_primitives_that_the_router_draws():
    places = np.zeros((4_000, 2), np.float32)
    agent = separated()
    assert share_of_second(agent.predict(places)[0]) == pytest.approx(0.75, abs=0.03)
    assert share_of_second(agent.predict(places, deterministic=True)[0]) == 1
    drawing = separated(greedy_router=False)
    chosen, _ = drawing.predict(places, deterministic=True)
    assert share_of_second(chosen) == pytest.approx(0.75, abs=0.03)


def test_densities_are_of_the_primitive_and_not_of_the_mixture():
    agent = separated()
    agent.actor.log_std.bias.data[:] = torch.tensor([-3.0, -3.0, -1.0, -1.0])
    actions, log_prob = agent.actor.action_log_prob(torch.zeros(500, 2))
    second = actions[:, 0] > 0
    for rows, mean, log_std in ((~second, -2.0, -3.0), (second, 2.0, -1.0)):
        before = torch.atanh(actions[rows].double())
        normal = torch.distributions.Normal(mean, np.exp(log_std))
        slope = torch.log(1 - actions[rows].double() ** 2 + 1e-6)
        expected = (normal.log_prob(before) - slope).sum(dim=1)
        assert rows.sum() > 80
        assert torch.allclose(log_prob[rows].double(), expected, atol=0.02)


def test_a_policy_can_be_saved_alone(tmp_path):
    policy = make(n_primitives=3, greedy_router=False).policy
    policy.save(tmp_path / "policy.pt")
    loaded = type(policy).load(tmp_path / "policy.pt", device="cpu")
    assert (loaded.actor.n_primitives, loaded.actor.greedy_router) == (3, False)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


# -- edge cases -----------------------------------------------------------------------------------


def test_equal_values_make_the_first_win():
    assert winner(torch.ones(5, 4)).tolist() == [0] * 5


def test_a_value_that_is_not_a_number_is_an_error():
    values = torch.zeros(3, 4)
    values[1, 2] = torch.nan
    with pytest.raises(ValueError, match="primitive 2 in row 1 is NaN"):
        winner(values)


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_a_number_of_primitives_below_one_is_an_error(number):
    with pytest.raises(ValueError, match="n_primitives"):
        make(n_primitives=number)


def test_state_dependent_noise_is_an_error():
    with pytest.raises(ValueError, match="use_sde"):
        make(use_sde=True)


def test_discrete_actions_are_an_error():
    with pytest.raises(AssertionError, match="Discrete"):
        make(gym.make("Garnet-v0"))


class Named(gym.ObservationWrapper):
    """The place, in a dictionary."""

    def __init__(self):
        super().__init__(gym.make("PointMaze-v0", layout="two_goals", horizon=10))
        self.observation_space = gym.spaces.Dict({"place": self.env.observation_space})

    def observation(self, observation):
        return {"place": observation}


def test_observations_may_be_dictionaries():
    agent = make(Named(), policy="MultiInputPolicy").learn(40)
    assert agent._n_updates > 0


def test_observations_may_be_images():
    space, actions = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8), gym.spaces.Box(-1, 1, (2,))
    policy = PMOE.policy_aliases["CnnPolicy"](space, actions, lambda _: 1e-3, n_primitives=3)
    assert policy.predict(space.sample())[0].shape == (2,)
    assert policy.actor.router.out_features == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_tables_and_repeated_rows_agree(rows, primitives, seed):
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(rows, primitives, 2, generator=generator)
    weights = torch.rand(rows, primitives, generator=generator).softmax(dim=1)
    chosen = drawn(weights)
    assert torch.equal(
        picked(table, chosen), torch.stack([table[i, c] for i, c in enumerate(chosen)])
    )
    again = repeated(torch.arange(rows)[:, None], primitives).reshape(rows, primitives)
    assert torch.equal(again, torch.arange(rows)[:, None].expand(rows, primitives))
    assert 0 <= float(router_loss(weights, chosen)) <= 2 / primitives
