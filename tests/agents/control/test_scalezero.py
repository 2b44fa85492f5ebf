"""ScaleZero: the worked example, mixtures, adapters, the schedule, tasks that rest."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from palaestra.agents import ScaleZero
from palaestra.agents.base.nets.adapters import AdaptedLinear, adapt, adapted_linear, set_stage
from palaestra.agents.base.nets.mixture import Mixture, route
from palaestra.agents.control.scalezero import (
    Stage,
    is_solved,
    next_stage,
    share_of_interactions,
)
from palaestra.agents.control.scalezero_networks import gradient_conflict


def make(env=None, **arguments):
    if env is None:
        env = gym.make(ScaleZero.example.env, **ScaleZero.example.env_kwargs)
    chosen = {**ScaleZero.example.kwargs, "seed": 0, "device": "cpu", **arguments}
    return ScaleZero("MlpPolicy", env, **chosen)


def two_tasks():
    return [
        gym.make("GridWorld-v0", rows=1, cols=2, observation="planes", pad=3, max_steps=4),
        gym.make("GridWorld-v0", rows=3, cols=3, observation="planes", pad=3, max_steps=8),
    ]


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        assert len(x), "an expert without tokens must not be asked"
        return self.factor * x


def example_mixture(k):
    gate = nn.Linear(2, 3, bias=False)
    gate.weight.data = torch.tensor([[1, 0.5, 0], [0, 0.5, 0.25]]).T.contiguous()
    return Mixture(gate, (Times(factor) for factor in (1.0, -1.0, 2.0)), k)


X = torch.tensor([[1.0, 0.0], [0.0, 2.0]])

# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_mixture():
    torch.testing.assert_close(example_mixture(1)(X), torch.tensor([[1.0, 0], [0, -2]]))
    mixture = example_mixture(2)
    chosen, weights = route(mixture.gate(X), 2)
    full = torch.zeros(2, 3).scatter(1, chosen, weights)
    expected = torch.tensor([[0.622459, 0.377541, 0], [0, 0.622459, 0.377541]])
    torch.testing.assert_close(full, expected, atol=1e-6, rtol=0)
    outputs = torch.tensor([[0.244919, 0], [0, 0.265244]])
    torch.testing.assert_close(mixture(X), outputs, atol=1e-6, rtol=0)


def test_worked_example_adapters():
    downs = [torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]])]
    ups = [torch.tensor([[0.5], [0.0]]), torch.tensor([[0.0], [1.0]])]
    logits = [torch.tensor(0.0), torch.tensor(1.0)]
    x, eye = torch.tensor([1.0, 2.0]), torch.eye(2)
    for stage, expected in enumerate(([1.0, 2.0], [4.0, 2.0], [4.0, 6.609275])):
        found = adapted_linear(x, eye, torch.zeros(2), downs, ups, logits, stage, 2.0)
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_worked_example_schedule():
    stage, switches = Stage(), []
    limits = {"stages": 5, "min_stage0": 100, "max_stage": 50}
    calls = [(50, 3), (100, 0), (120, 1), (140, 3), (189, 4), (190, 4), (200, 6), (260, 7)]
    for iteration, solved in calls:
        following = next_stage(stage, iteration, solved, 8, **limits)
        if following != stage:
            assert following == Stage(stage.number + 1, solved, iteration)
            switches.append(iteration)
        stage = following
    assert switches == [100, 140, 190, 200]
    assert stage.number == 4


def test_worked_example_conflict_and_interactions():
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 1.0]])
    assert gradient_conflict(gradients).item() == pytest.approx(0.235702, abs=1e-6)
    assert share_of_interactions([20, 60, None], 100) == pytest.approx(0.6)


# -- edge cases -----------------------------------------------------------------------------------


def test_more_experts_than_there_are_cannot_be_chosen():
    with pytest.raises(ValueError, match="k=4 of 3 experts"):
        example_mixture(4)
    with pytest.raises(ValueError, match="k=3 of 2 experts"):
        make(top=3)


def test_one_expert_of_several_leaves_the_gate_without_a_gradient():
    mixture = example_mixture(1)
    assert not torch.autograd.grad(
        mixture(X.clone().requires_grad_()).sum(), mixture.gate.weight, allow_unused=True
    )[0].any()


def test_one_stage_never_ends_and_a_lost_task_ends_one_only_by_time():
    limits = {"min_stage0": 0, "max_stage": 10}
    assert next_stage(Stage(), 10**6, 5, 6, stages=1, **limits) == Stage()
    here = Stage(1, 3, 100)
    assert next_stage(here, 109, 2, 6, stages=4, **limits) == here
    assert next_stage(here, 110, 2, 6, stages=4, **limits) == Stage(2, 2, 110)


def test_a_task_without_a_target_is_never_solved():
    found = is_solved(np.array([9.0, 9.0, -np.inf]), [None, 1.0, 1.0])
    assert found.tolist() == [False, True, False]
    assert not is_solved(np.array([9.0]), None).any()


def test_conflict_of_one_task_and_of_a_vanishing_gradient_is_0():
    assert gradient_conflict(torch.ones(1, 3)) == 0
    assert gradient_conflict(torch.tensor([[1.0, 0], [0, 0]])) == 0


def test_rank_0_has_no_adapter_and_an_unknown_stage_is_refused():
    layer = AdaptedLinear(nn.Linear(3, 2), stages=3, rank=0)
    x = torch.randn(4, 3)
    before = layer(x)
    layer.set_stage(2)
    torch.testing.assert_close(layer(x), before)
    assert not any(p.requires_grad for p in layer.parameters())
    with pytest.raises(ValueError, match="stage=3, allowed are 0 .. 2"):
        layer.set_stage(3)


def test_only_the_adapter_of_the_stage_is_trained():
    net = adapt(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), 3, 2, learn_scale=True)
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias"]
    set_stage(net, 2)
    names = {name for name, p in net.named_parameters() if p.requires_grad}
    assert names == {"0.downs.1", "0.ups.1", "0.logits.0"}
    x = torch.randn(5, 3)
    np.testing.assert_array_equal(net(x).detach(), net[1](net[0](x)).detach())


# -- the agent ------------------------------------------------------------------------------------


def test_solved_tasks_rest_and_learning_ends_when_all_are():
    quick = {"evaluation_share": 1.0, "evaluation_episodes": 2}
    agent = make(two_tasks(), target_returns=[0.0, None], **quick)
    agent.learn(60)
    assert agent.solved_at[0] is not None
    assert agent.solved_at[1] is None
    assert agent.collected[0] == agent.solved_at[0] < agent.collected[1]
    assert agent.num_timesteps == agent.collected.sum() >= 60
    agent = make(two_tasks(), target_returns=0.0, **quick)
    agent.learn(10_000)
    assert agent.num_timesteps < 60
    assert agent.exhausted()


def test_target_returns_belong_to_tasks():
    with pytest.raises(ValueError, match="with 1 tasks they are 1 numbers"):
        make(target_returns=[0.5, 0.5]).learn(1)


def test_a_new_stage_freezes_the_transformer_and_trains_its_adapters():
    agent = make()
    agent.learn(40)
    assert agent.stage.number == int(agent.policy.stage) >= 1
    blocks = dict(agent.policy.model.blocks.named_parameters())
    before = {name: p.detach().clone() for name, p in blocks.items()}
    for _ in range(3):
        agent.train()
    changed = {name for name, p in blocks.items() if not torch.equal(p, before[name])}
    assert changed
    assert all(f"s.{agent.stage.number - 1}" in name for name in changed)


@pytest.mark.slow
def test_it_learns_the_two_easiest_grids():
    env = [
        gym.make("GridWorld-v0", rows=n, cols=n, max_steps=m, observation="planes", pad=9)
        for n, m in ((4, 20), (6, 40))
        for _ in range(8)
    ]
    from palaestra.agents.control.scalezero_trials import TUNING
    from palaestra.wrappers.tasks import TaskVecEnv

    tasks = TaskVecEnv([lambda each=each: each for each in env], [0] * 8 + [1] * 8)
    agent = ScaleZero(
        "MlpPolicy", tasks, seed=100, experts=4, stages=1, target_returns=0.8, **TUNING
    )
    agent.learn(40_000)
    assert all(at is not None for at in agent.solved_at)
