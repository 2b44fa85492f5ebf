"""`TokenMDP`: texts written token by token."""

from __future__ import annotations

import copy
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO

import palaestra  # noqa: F401
from palaestra.wrappers.token_mdp import CharacterTokenizer, TokenMDP


def make(observation="ids", **arguments):
    return TokenMDP(gym.make("Arithmetic-v0", **arguments), observation=observation)


def write(env, text):
    """Steps until the text is written or the episode ends."""
    results = []
    for token in env.tokenizer.encode(text):
        results.append(env.step(token))
        if results[-1][2]:
            break
    return results


def test_a_reply_is_written_token_by_token_and_graded_when_it_stops():
    env = make()
    observation, _ = env.reset(options={"problem": "37+25"})
    assert env.tokenizer.decode(observation[env.prompt_tokens - 6 : env.prompt_tokens]) == "37+25="
    assert (observation[: env.prompt_tokens - 6] == 39).all() and (observation[-8:] == 39).all()
    results = write(env, "62$")
    assert [result[1] for result in results] == [0.0, 0.0, 1.0]
    assert [result[2] for result in results] == [False, False, True]
    assert results[-1][4]["correct"] == 1 and results[-1][4]["reply"] == "62$"
    assert env.tokenizer.decode(results[-1][0][env.prompt_tokens :][:3]) == "62$"
    with pytest.raises(ValueError, match="the episode has ended"):
        env.step(0)


def test_a_reply_without_stop_is_cut_at_the_limit():
    env = make()
    env.reset(options={"problem": "37+25"})
    results = write(env, "00000062$")
    assert len(results) == 8
    assert results[-1][4]["stopped"] == 0 and results[-1][1] == 0.0
    short = TokenMDP(gym.make("Arithmetic-v0"), max_tokens=2, prompt_tokens=3, observation="ids")
    observation, _ = short.reset(options={"problem": "37+25"})
    assert short.tokenizer.decode(observation[:3]) == "25="
    assert write(short, "62$")[-1][4]["reply"] == "62"


def test_one_hot_and_ids_say_the_same():
    one_hot, ids = make("one_hot"), make("ids")
    pairs = [(one_hot.reset(seed=3)[0], ids.reset(seed=3)[0])]
    pairs += [(one_hot.step(7)[0], ids.step(7)[0])]
    for seen, tokens in pairs:
        places = seen.reshape(len(tokens), 39)
        np.testing.assert_array_equal(places.sum(axis=1), tokens < 39)
        np.testing.assert_array_equal(places.argmax(axis=1)[tokens < 39], tokens[tokens < 39])


@pytest.mark.parametrize("observation", ["one_hot", "ids"])
def test_gymnasiums_checker_has_nothing_to_say(observation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is different from the unwrapped version")
        check_env(make(observation, reply="columns"), skip_render_check=True)


def test_masks_mark_what_a_well_formed_reply_may_hold():
    env = make(reply="columns")
    _, info = env.reset(seed=0)
    allowed = {env.tokenizer.alphabet[k] for k in np.flatnonzero(env.action_masks())}
    assert allowed == set("$0123456789-+*,=#")
    np.testing.assert_array_equal(info["action_mask"], env.action_masks())
    env.action_masks()[:] = False
    assert env.action_masks().any()
    assert env.step(env.tokenizer.encode("H")[0])[1] == 0.0  # not forbidden, only never right


@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.integers(0, 38), min_size=8, max_size=8), task=st.integers(0, 99))
def test_reward_and_verdict_are_those_of_the_text_environment(tokens, task):
    env = make()
    env.reset(options={"task": task})
    text = env.tokenizer.decode(tokens)
    *_, (_, reward, terminated, _, info) = write(env, text)
    assert terminated
    verdict = env.unwrapped.verify(task, text)
    assert reward == verdict["correct"]
    assert {name: info[name] for name in verdict if name in info} == {
        name: value for name, value in verdict.items() if value is not None
    }


class Words:
    """A tokenizer with an end token and tokens of several characters."""

    words = ("1", "2", "62", "$", "+", "=", "37", "25", "?", "")
    eos_token_id = 9
    vocab_size = 10

    def encode(self, text):
        tokens = []
        while text:
            best = max((w for w in self.words if w and text.startswith(w)), key=len)
            tokens.append(self.words.index(best))
            text = text[len(best) :]
        return tokens

    def decode(self, tokens):
        return "".join(self.words[token] for token in tokens)


def test_any_tokenizer_will_do_and_its_end_token_stands_for_the_stop():
    env = TokenMDP(gym.make("Arithmetic-v0"), Words(), observation="ids")
    observation, _ = env.reset(options={"problem": "37+25"})
    assert observation[env.prompt_tokens - 4 : env.prompt_tokens].tolist() == [6, 4, 7, 5]
    assert env.action_masks().tolist() == [*[True] * 5, False, True, True, False, True]
    assert env.step(2)[2] is False
    _, reward, terminated, _, info = env.step(9)
    assert (reward, terminated, info["reply"]) == (1.0, True, "62$")
    env.reset(options={"problem": "37+25"})
    write(env, "62")
    assert env.step(3)[1] == 1.0  # the stop itself, as text


def test_wrong_actions_and_arguments_are_refused():
    env = make()
    env.reset(seed=0)
    for action, message in ((39, "action=39"), (-1, "action=-1"), (1.0, "float64"), ([1], "shape")):
        with pytest.raises(ValueError, match=message):
            env.step(action)
    text = gym.make("Arithmetic-v0")
    with pytest.raises(ValueError, match="is no text environment"):
        TokenMDP(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="has no method encode"):
        TokenMDP(text, object())
    with pytest.raises(ValueError, match="max_tokens=0"):
        TokenMDP(text, max_tokens=0)
    with pytest.raises(ValueError, match="observation='pixels'"):
        TokenMDP(text, observation="pixels")
    with pytest.raises(ValueError, match="none of them twice"):
        CharacterTokenizer("aa")
    with pytest.raises(ValueError, match=r"\['b'\] are not in the alphabet"):
        CharacterTokenizer("a").encode("ab")


def test_copies_go_on_alike():
    env = make("one_hot", digits=1, terms=3)
    env.reset(seed=2)
    env.step(4)
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        twin = copy.deepcopy(env)
        for token in (5, 0):
            ours, theirs = twin.step(token), other.step(token)
            np.testing.assert_array_equal(ours[0], theirs[0])
            assert ours[1:4] == theirs[1:4]
        np.testing.assert_array_equal(twin.reset()[0], other.reset()[0])


@pytest.mark.parametrize("agent", [PPO, DQN], ids=lambda agent: agent.__name__)
def test_sb3s_agents_run_on_it(agent):
    env = make("one_hot", digits=1)
    steps = {"n_steps": 64} if agent is PPO else {"learning_starts": 50, "buffer_size": 200}
    model = agent("MlpPolicy", env, seed=0, device="cpu", **steps).learn(128)
    action, _ = model.predict(env.reset(seed=1)[0])
    assert env.action_space.contains(int(action))


def test_ppo_finds_the_reply_that_earns_a_reward():
    text = gym.make("Arithmetic-v0", operations="-", digits=1, pool=1, max_reply=2)
    env = TokenMDP(text, CharacterTokenizer("$0123456789-="))
    how = {"n_steps": 256, "batch_size": 64, "learning_rate": 2e-3, "ent_coef": 0.01}
    model = PPO("MlpPolicy", env, seed=0, device="cpu", **how).learn(4_000)
    rewards = []
    for _ in range(20):
        observation, _ = env.reset(seed=0)
        done = False
        while not done:
            action, _ = model.predict(observation, deterministic=False)
            observation, reward, done, _, _ = env.step(int(action))
        rewards.append(reward)
    assert np.mean(rewards) > 0.5  # 1 / 169 by chance
