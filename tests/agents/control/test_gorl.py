"""GoRL: the worked example, decoders, the stages, what a checkpoint carries, edge cases."""

from __future__ import annotations

import warnings
from collections import defaultdict

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch.distributions import Normal

from palaestra.agents import DiffusionGoRL, GoRL
from palaestra.agents.base.nets.flow import TimeField, flow_matching_loss, follow, time_features
from palaestra.agents.base.ppo import Evaluation, ProximalAlgorithm
from palaestra.agents.control.gorl_encoder import (
    SquashedGaussianPolicy,
    TanhGaussianPPO,
    centred_and_scaled,
    encoder_scale,
    latent_penalty,
    raw_scale,
)
from palaestra.agents.control.gorl_networks import (
    DiffusionDecoder,
    FlowDecoder,
    denoised,
    fit_decoder,
    noise_levels,
)
from palaestra.agents.control.gorl_trials import difference, modes

SMALL = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
ROLLOUT = SMALL["n_steps"]
each_decoder = pytest.mark.parametrize("decoder_class", [FlowDecoder, DiffusionDecoder])


def plane():
    return gym.make("PointMaze-v0", layout="wall_goals", horizon=10)


def made(cls=GoRL, env=None, **arguments):
    chosen = {**SMALL, **(GoRL.example.kwargs if issubclass(cls, GoRL) else {}), **arguments}
    return cls("MlpPolicy", plane() if env is None else env, **chosen)


def copy_of(module):
    return {name: each.clone() for name, each in module.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


class Watch(BaseCallback):
    """Notes something at the end of every rollout, before it is learned from."""

    def __init__(self, read):
        super().__init__()
        self.read, self.seen = read, []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.seen.append(self.read(self.model, self.locals))


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_decoding():
    start = torch.tensor([[1.0, -1.0]])
    found = follow(lambda points, times: 0.5 * points + times[:, None], start, 4)
    assert found.flatten().tolist() == pytest.approx([0.103271, -1.069092], abs=1e-6)
    assert torch.equal(follow(lambda points, times: 0 * points, start, 4), start)


def test_worked_example_flow_loss():
    actions = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
    noise = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[0.5, -0.5], [0.0, 0.0]]])
    times = torch.tensor([[0.2, 0.5], [0.9, 0.0]])
    loss = flow_matching_loss(lambda points, times: points, actions[:, None], noise, times)
    assert float(loss) == pytest.approx(3.939375, abs=1e-6)


def test_worked_example_encoder_loss():
    agent = made(latent_coef=0.001, ent_coef=0.01)
    agent.clip, agent.value_clip, agent.metrics = 0.15, None, defaultdict(list)
    law = Normal(torch.tensor([[0.1, 0.0], [0.0, -0.2]]), torch.tensor([[1.0, 0.5], [0.8, 1.0]]))
    latents = torch.tensor([[0.5, 0.2], [-0.4, 0.1]])
    old = torch.tensor([-2.0, -1.5])
    batch = RolloutBufferSamples(
        torch.zeros(2, 2),
        latents,
        old_values=torch.zeros(2),
        old_log_prob=old,
        advantages=torch.tensor([1.0, -1.0]),
        returns=torch.tensor([0.5, 0.3]),
    )
    log_prob = law.log_prob(latents).sum(1)
    now = Evaluation(torch.tensor([0.2, 0.4]), log_prob, log_prob - old, law.entropy().sum(1), law)
    loss = agent.loss(now, agent.prepare(batch))
    parts = {name: float(each[0]) for name, each in agent.metrics.items()}
    assert parts["policy_gradient_loss"] == pytest.approx(-0.15, abs=1e-6)
    assert agent.vf_coef * parts["value_loss"] == pytest.approx(0.0125, abs=1e-6)
    assert parts["entropy_loss"] == pytest.approx(-2.379732, abs=1e-6)
    assert 0.001 * parts["latent_penalty"] == pytest.approx(0.000735, abs=1e-6)
    assert float(loss) == pytest.approx(-0.160562, abs=1e-6)


# -- functions ------------------------------------------------------------------------------------


def test_features_of_time():
    found = time_features(torch.tensor([0.3]))[0]
    angles = np.array([0.3, 0.6, 1.2, 2.4])
    assert found.numpy() == pytest.approx(np.concatenate([np.cos(angles), np.sin(angles)]))


def test_a_scale_stays_between_its_limits():
    found = encoder_scale(torch.tensor([-1000.0, 0.0, 1000.0]))
    assert found.tolist() == pytest.approx([1e-3, np.log(2) + 1e-3, 10.0])
    assert float(encoder_scale(torch.tensor(raw_scale(0.3)))) == pytest.approx(0.3, rel=1e-5)
    for scale in (1e-3, 10.0):
        with pytest.raises(ValueError, match="scale"):
            raw_scale(scale)


def test_advantages_have_the_deviation_of_a_population():
    found = centred_and_scaled(torch.tensor([1.0, 3.0]))
    assert found.tolist() == pytest.approx([-1.0, 1.0])
    assert centred_and_scaled(torch.zeros(3)).tolist() == [0, 0, 0]
    assert float(latent_penalty(torch.ones(2, 2), 2 * torch.ones(2, 2))) == 5


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_a_sampler_that_knows_the_noise_comes_to_the_data(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 5, 3, generator=generator)
    levels = noise_levels(steps)
    assert levels[0] == 1
    assert (levels[1:] < levels[:-1]).all()
    points = levels[-1].sqrt() * data + (1 - levels[-1]).sqrt() * noise
    for place in range(steps, 0, -1):
        points = denoised(points, noise, levels[place], levels[place - 1])
    assert torch.allclose(points, data, atol=1e-4)


def test_a_diffusion_decoder_fits_the_noise_at_the_levels_of_its_sampler():
    decoder = DiffusionDecoder(2, 3, [8], 4)
    actions, features = torch.randn(50, 3), torch.randn(50, 2)
    noise, times = decoder.draws(actions)
    assert set((times * 5).round().long().flatten().tolist()) == {1, 2, 3, 4}
    for parameter in decoder.parameters():
        parameter.data.zero_()
    error = decoder.error(features, actions, noise, times).item()
    assert error == pytest.approx(float(noise.square().mean()))


# -- decoders -------------------------------------------------------------------------------------


def two_modes(size=1_000):
    """Observations, of which one number says how many modes there are, and actions around them."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(2, (size, 2), generator=generator).float()
    sides = torch.randint(2, (size,), generator=generator) * 2 - 1
    sides[features[:, 0] == 1] = 1
    features[:, 1] = 3.0  # never changes
    return features, 2 * sides[:, None] + 0.2 * torch.randn(size, 1, generator=generator)


@each_decoder
def test_a_decoder_takes_noise_to_the_modes_of_the_actions(decoder_class):
    torch.manual_seed(0)
    features, actions = two_modes()
    decoder = decoder_class(2, 1, [64, 64], 10)
    fit_decoder(decoder, features, actions, rate=1e-2, epochs=30, batch_size=128)
    with torch.no_grad():
        found = decoder(features, torch.randn(len(features), 1)).flatten()
    both, one = (found[features[:, 0] == which] for which in (0, 1))
    assert (both.abs() < 1).float().mean() < 0.15
    assert 0.35 < (both > 0).float().mean() < 0.65
    assert (one > 1).float().mean() > 0.9


@each_decoder
def test_a_decoder_that_was_not_fitted_is_the_identity(decoder_class):
    latents = torch.randn(5, 2)
    assert torch.equal(decoder_class(3, 2, [8], 5)(torch.randn(5, 3), latents), latents)


def test_a_flow_without_weights_is_the_identity():
    decoder, latents = FlowDecoder(3, 2, [8], 5), torch.randn(5, 2)
    decoder.fitted.fill_(True)
    assert not torch.equal(decoder(torch.randn(5, 3), latents), latents)
    for parameter in decoder.parameters():
        parameter.data.zero_()
    assert torch.equal(decoder(torch.randn(5, 3), latents), latents)


def test_a_decoder_uses_the_statistics_of_what_it_was_fitted_to():
    decoder = FlowDecoder(2, 1, [8], 5)
    features, actions = two_modes(100)
    shifted = 10 + 5 * features
    fit_decoder(decoder, shifted, actions, rate=1e-3, epochs=1, batch_size=32)
    known = decoder.normalized(shifted)
    assert known[:, 0].mean() == pytest.approx(0, abs=0.1)
    assert known[:, 0].std() == pytest.approx(1, abs=0.1)
    assert known[:, 1].abs().max() < 1e-4  # not a number that rounding makes large


def test_a_fit_keeps_the_epoch_that_does_best_on_the_rest():
    decoder, seen = FlowDecoder(2, 1, [8], 5), []
    error_of, validations = decoder.error, iter([3.0, 1.0] + 40 * [2.0])

    def told(*given):
        if torch.is_grad_enabled():
            return error_of(*given)
        seen.append((len(given[1]), copy_of(decoder)))
        return torch.tensor(next(validations))

    decoder.error = told
    features, actions = two_modes(100)
    least = fit_decoder(decoder, features, actions, rate=1e-3, epochs=60, batch_size=64)
    assert least == 1.0
    assert same(copy_of(decoder), seen[1][1])
    assert len(seen) == 2 + 20  # epochs that were no better
    assert {size for size, _ in seen} == {10}  # a tenth


def test_few_samples_make_one_batch_and_too_few_are_an_error():
    features, actions = two_modes(32)
    decoder = FlowDecoder(2, 1, [8], 5)
    assert np.isfinite(
        fit_decoder(decoder, features, actions, rate=1e-3, epochs=1, batch_size=8192)
    )
    with pytest.raises(ValueError, match="31 samples .* at least 32"):
        fit_decoder(decoder, features[:31], actions[:31], rate=1e-3, epochs=1, batch_size=8)


def test_latents_of_another_dimension_are_an_error():
    with pytest.raises(ValueError, match="latents have dimension 3 and actions 2"):
        FlowDecoder(4, 2, [8], 5)(torch.zeros(1, 4), torch.zeros(1, 3))


def test_a_field_broadcasts_its_condition():
    field = TimeField(3, 2, [8])
    conditions, points, times = torch.randn(4, 1, 3), torch.randn(4, 5, 2), torch.rand(4, 5)
    found = field(conditions, points, times)
    assert found.shape == (4, 5, 2)
    one = field(conditions[2, 0], points[2, 3], times[2, 3])
    assert torch.allclose(found[2, 3], one, atol=1e-6)


# -- acting ---------------------------------------------------------------------------------------


class Odd(gym.Env):
    """A number is seen; actions are a table with bounds of all kinds."""

    observation_space = spaces.Discrete(4)
    action_space = spaces.Box(np.float32([[0, -3], [1, 5]]), np.float32([[2, -1], [4, 6]]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 1, {}

    def step(self, action):
        assert self.action_space.contains(action)
        return (
            int(self.np_random.integers(4)),
            float(-action.sum()),
            bool(action[0, 0] > 1),
            False,
            {},
        )


@pytest.mark.parametrize("cls", [GoRL, DiffusionGoRL, TanhGaussianPPO])
def test_actions_of_any_shape_and_bounds(cls):
    agent = made(cls, Odd(), **({"stage_steps": (32, 32)} if issubclass(cls, GoRL) else {}))
    agent.learn(5 * ROLLOUT)
    actions, _ = agent.predict(np.arange(4), deterministic=False)
    assert actions.shape == (4, 2, 2)
    assert all(agent.action_space.contains(each) for each in actions)


@pytest.mark.parametrize("cls", [GoRL, DiffusionGoRL])
def test_rollouts_hold_latents_and_the_environment_gets_what_they_are_decoded_to(cls):
    agent = made(cls, stage_steps=(32, 32), refit_samples=32).learn(3 * ROLLOUT)
    assert agent.stage == 1
    checked = []

    class Check(BaseCallback):
        def _on_step(self):
            seen, latents = self.locals["obs_tensor"], torch.as_tensor(self.locals["actions"])
            policy = agent.policy
            with torch.no_grad():
                expected = policy.decode(policy.features(seen), latents).tanh().numpy()
                law = policy.get_distribution(seen)
                log_prob = law.log_prob(latents)
            checked.append(
                np.abs(expected - self.locals["clipped_actions"]).max()
                + float((log_prob - self.locals["log_probs"]).abs().max())
                + float(np.abs(latents.tanh().numpy() - expected).max() < 1e-6)
            )
            return True

    agent.learn(ROLLOUT, Check(), reset_num_timesteps=False)
    assert len(checked) == ROLLOUT
    assert max(checked) < 1e-5


def test_deterministic_actions_are_those_of_the_mean():
    agent = made(stage_steps=(32, 32), refit_samples=32).learn(4 * ROLLOUT)
    places = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32)
    policy, seen = agent.policy, torch.as_tensor(places)
    with torch.no_grad():
        mean = policy.get_distribution(seen).distribution.mean
        expected = policy.decode(policy.features(seen), mean).tanh()
    assert agent.predict(places, deterministic=True)[0] == pytest.approx(expected.numpy(), abs=1e-6)


# -- one stage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [GoRL, DiffusionGoRL])
def test_one_stage_is_ppo_with_a_squashed_gaussian(cls):
    staged = made(cls, stage_steps=(32,)).learn(5 * ROLLOUT)
    plain = made(TanhGaussianPPO).learn(5 * ROLLOUT)
    assert difference(staged, plain) == 0
    assert staged.stage == 0
    assert not staged.policy.decoder.fitted


def test_without_its_penalty_it_is_ppo():
    ours = made(TanhGaussianPPO, latent_coef=0.0, normalize_advantage=False)
    ours.learn(5 * ROLLOUT)
    theirs = ProximalAlgorithm(
        SquashedGaussianPolicy,
        plane(),
        **{**SMALL, "clip_range": 0.15, "vf_coef": 0.25, "normalize_advantage": False},
    )
    theirs.learn(5 * ROLLOUT)
    assert difference(ours, theirs) == 0


def test_the_penalty_draws_latents_to_zero():
    scales = []
    for weight in (0.0, 10.0):
        agent = made(TanhGaussianPPO, latent_coef=weight, learning_rate=1e-2).learn(8 * ROLLOUT)
        scales.append(agent.logger.name_to_value["train/scale"])
    assert scales[1] < 0.8 * scales[0]


# -- the stages -----------------------------------------------------------------------------------


def test_stages_follow_each_other():
    agent = made(stage_steps=(64, 32, 32), refit_samples=64)
    watch = Watch(lambda agent, _: (agent.stage, agent.gathering))
    agent.learn(12 * ROLLOUT, watch)
    first = [(0, False)] * 2 + [(0, True)] * 2
    assert watch.seen == [*first, (1, False), (1, True), (1, True), *[(2, False)] * 5]
    assert agent.num_timesteps == 12 * ROLLOUT


def test_stages_go_on_over_several_calls():
    pieces = made()
    for _ in range(8):
        pieces.learn(ROLLOUT, reset_num_timesteps=False)
    assert (pieces.stage, pieces.gathering, pieces.steps_in_stage) == (1, False, 4 * ROLLOUT)
    pieces.learn(ROLLOUT)  # counts timesteps from zero, and is in the last stage still
    assert (pieces.stage, pieces.num_timesteps) == (1, ROLLOUT)


def test_nothing_learns_while_samples_are_gathered_and_the_best_encoder_acts():
    agent = made()
    seen = []

    def read(agent, _):
        seen.append((agent.gathering, copy_of(agent.policy), dict(agent.best), agent.stage))

    agent.learn(4 * ROLLOUT, Watch(read))
    gathering = [entry for entry in seen if entry[0]]
    assert len(gathering) == 2
    for _, acting, best, _ in gathering:
        assert same(acting, best)
    acted = [entry[1] for entry in seen if not entry[0]]
    assert any(same(gathering[0][1], each) for each in acted)


def test_the_best_encoder_is_that_of_the_best_episodes():
    agent = made()
    weight = agent.policy.action_net.weight
    for number, returns in enumerate([[1.0, 3.0], [], [2.5], [1.0]]):
        weight.data.fill_(number)
        agent.returns = returns
        agent.compare()
    assert agent.best_return == 2.5
    assert float(agent.best["action_net.weight"].unique()) == 2


def test_a_stage_without_an_episode_keeps_its_last_encoder():
    env = gym.make("PointMaze-v0", layout="wall_goals", horizon=1_000)
    agent = made(env=env).learn(2 * ROLLOUT)
    assert agent.gathering
    assert agent.best == {}
    assert agent.learn(3 * ROLLOUT, reset_num_timesteps=False).stage == 1


def test_a_fit_gets_the_actions_before_the_tanh(monkeypatch):
    given = {}

    def note(decoder, features, actions, **named):
        given.update(features=features, actions=actions, **named)
        return 1.0

    monkeypatch.setattr("palaestra.agents.control.gorl.fit_decoder", note)
    watch = Watch(
        lambda agent, _: (agent.rollout_buffer.observations, agent.rollout_buffer.actions)
    )
    agent = made(refit_samples=50, decoder_rate=0.1, decoder_epochs=7, decoder_batch_size=11)
    agent.learn(4 * ROLLOUT, watch)
    observations, latents = (
        np.concatenate([entry[part] for entry in watch.seen[2:]])[:50, 0] for part in (0, 1)
    )
    assert np.array_equal(given["features"].numpy(), observations)
    assert np.array_equal(given["actions"].numpy(), latents)  # of stage 0
    assert (given["rate"], given["epochs"], given["batch_size"]) == (0.1, 7, 11)


def test_a_new_encoder_starts_from_the_prior_and_the_decoder_is_not_trained_by_ppo():
    agent = made().learn(4 * ROLLOUT)
    assert agent.stage == 1
    assert not agent.policy.optimizer.state
    assert agent.policy.decoder.fitted
    places = torch.rand(100, 2)
    with torch.no_grad():
        law = agent.policy.get_distribution(places).distribution
    assert law.mean.abs().max() < 0.1
    assert torch.allclose(law.stddev, torch.ones(100, 2), atol=0.1)
    before = copy_of(agent.policy.decoder)
    agent.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert same(before, copy_of(agent.policy.decoder))
    assert agent.policy.optimizer.state


def test_later_stages_have_their_own_settings(monkeypatch):
    agent = made(
        **{"latent_coef": 0.1, "later_latent_coef": 0.2, "clip_range": 0.11},
        **{"later_clip_range": 0.22, "max_grad_norm": 0.5, "later_max_grad_norm": 1.5},
    )
    seen, norms = [], []
    watch = Watch(lambda agent, _: None)
    monkeypatch.setattr(
        "palaestra.agents.control.gorl.gradient_step",
        lambda _optimizer, _loss, largest: norms.append(largest),
    )
    for _ in range(6):
        agent.learn(ROLLOUT, watch, reset_num_timesteps=False)
        seen.append((agent.stage, agent.clip, agent.penalty_weight))
    assert seen[0] == (0, 0.11, 0.1)
    assert seen[-1] == (1, 0.22, 0.2)
    assert (norms[0], norms[-1]) == (0.5, 1.5)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_fit_that_fails_leaves_the_decoder_as_it_was(monkeypatch, broken):
    agent = made(stage_steps=(32, 32, 32), refit_samples=32).learn(3 * ROLLOUT)
    before = copy_of(agent.policy.decoder)
    assert agent.stage == 1
    assert before["fitted"]
    monkeypatch.setattr(
        FlowDecoder, "error", lambda self, *_: self.field.layers[0].bias[0] + broken
    )
    with pytest.warns(UserWarning, match=f"the error {broken}: the previous one is kept"):
        agent.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert agent.stage == 2
    assert same(before, copy_of(agent.policy.decoder))


def test_the_log_has_the_stage_and_the_fit():
    agent = made().learn(4 * ROLLOUT)
    logged = agent.logger.name_to_value
    assert logged["gorl/stage"] == 0
    assert 0 < logged["gorl/decoder_error"] < 10


# -- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rollouts", [1, 3, 5])
def test_a_loaded_agent_is_in_the_same_place_and_acts_alike(tmp_path, rollouts):
    agent = made(stage_steps=(64, 64)).learn(rollouts * ROLLOUT)
    agent.save(tmp_path / "agent")
    loaded = GoRL.load(tmp_path / "agent", env=plane(), device="cpu")
    for name in ("stage", "gathering", "steps_in_stage"):
        assert getattr(loaded, name) == getattr(agent, name)
    assert difference(agent, loaded) == 0
    loaded.learn(6 * ROLLOUT, reset_num_timesteps=False)
    assert loaded.stage == 1


@pytest.mark.parametrize("rollouts", [1, 3])
def test_what_is_resumed_ends_like_what_never_stopped(tmp_path, rollouts):
    whole = made(stage_steps=(64, 64), refit_samples=50).learn(6 * ROLLOUT)
    stopped = made(stage_steps=(64, 64), refit_samples=50)
    stopped.learn(rollouts * ROLLOUT, checkpoint=tmp_path)
    again = made(stage_steps=(64, 64), refit_samples=50)
    again.learn(6 * ROLLOUT, checkpoint=tmp_path, resume=True)
    assert (again.stage, again.steps_in_stage) == (whole.stage, whole.steps_in_stage) == (1, 64)
    assert difference(whole, again) == 0


def test_a_policy_can_be_saved_alone(tmp_path):
    policy = made().learn(5 * ROLLOUT).policy
    policy.save(tmp_path / "policy.pt")
    loaded = type(policy).load(tmp_path / "policy.pt", device="cpu")
    assert same(copy_of(policy), copy_of(loaded))
    assert loaded.decoder_arch == [8]


# -- edge cases -----------------------------------------------------------------------------------


def test_discrete_actions_are_an_error():
    with pytest.raises(ValueError, match="actions in a Box, got Discrete"):
        made(env=gym.make("Garnet-v0"))


def test_observations_in_a_dictionary_are_an_error():
    class Named(Odd):
        observation_space = spaces.Dict({"number": spaces.Discrete(4)})

    with pytest.raises(ValueError, match="dict observation"):
        made(env=Named())


def test_state_dependent_noise_is_an_error():
    with pytest.raises(ValueError, match="use_sde"):
        made(use_sde=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stage_steps", ()),
        ("stage_steps", (0,)),
        ("refit_samples", 31),
        ("latent_coef", -1.0),
        ("later_latent_coef", -1.0),
        ("later_clip_range", -0.1),
        ("later_max_grad_norm", -1.0),
        ("decoder_arch", (0,)),
        ("decoder_steps", 0),
        ("decoder_epochs", 0),
        ("decoder_batch_size", 0),
        ("decoder_rate", -1e-3),
    ],
)
def test_arguments_out_of_range_are_an_error(name, value):
    with pytest.raises(ValueError, match=name):
        made(**{name: value})


def test_scales_that_are_all_at_their_limit_are_warned_of():
    agent = made()
    agent.policy.action_net.bias.data[2:] = 100.0
    with pytest.warns(UserWarning, match="scale at its limit"):
        agent.learn(ROLLOUT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made().learn(ROLLOUT)


# -- the trials -----------------------------------------------------------------------------------


def test_two_modes_are_two_outer_thirds_without_much_between():
    rng = np.random.default_rng(0)
    apart = rng.choice([-0.8, 0.8], 1_000) + 0.1 * rng.standard_normal(1_000)
    assert modes(apart)["two modes"] == 1
    assert modes(np.abs(apart))["two modes"] == 0  # one side alone
    assert modes(rng.uniform(-1, 1, 1_000))["two modes"] == 0  # a third between
    assert modes(apart)["rarer side"] == pytest.approx(0.5, abs=0.05)
