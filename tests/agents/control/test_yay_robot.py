"""YAY Robot: the worked example, narrated data, corrections, mixed batches, edge cases."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from palaestra.agents import YAYRobot
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.control.yay_robot import (
    base_arm,
    batch_parts,
    chunk_loss,
    fine_tuned_arm,
    live_arm,
)
from palaestra.agents.control.yay_robot_data import (
    NarratedDataset,
    Segment,
    first_steps,
    history_steps,
    segment_at,
    without_mistakes,
)
from palaestra.agents.control.yay_robot_loop import SILENCE, CorrectionLoop, check_spoken
from palaestra.agents.control.yay_robot_packing import PackingUser, demonstrations
from palaestra.agents.control.yay_robot_policies import (
    CommandPolicy,
    check_embeddings,
    command_logits,
    hashed_words,
    sentence_embeddings,
    sinusoids,
)
from palaestra.envs.tabular.item_packing import ItemPacking
from palaestra.wrappers.sb3 import make_sb3

WIPING = [
    Segment(0, 100, "pick sponge"),
    Segment(100, 180, "go left", is_correction=True),
    Segment(180, 300, "wipe"),
]
COMMANDS = ("pick sponge", "go left", "wipe")
LINE = {
    "observation_space": gym.spaces.Box(0, 1_000, (1,)),
    "action_space": gym.spaces.Discrete(3),
}


def frames_of(count):
    """Observations [count, 1] that count frames."""
    return np.arange(count, dtype=np.float32)[:, None]


def line(lengths=(5, 3), **changes):
    """Episodes whose observations count the rows of the data set; the command is always 0."""
    total = sum(lengths)
    ends = np.zeros(total, dtype=bool)
    ends[np.cumsum(lengths) - 1] = True
    data = {"actions": np.zeros(total, dtype=np.int64), "terminations": ends}
    return OfflineDataset(frames_of(total), **{**data, **LINE, **changes})


def policy(**arguments):
    return CommandPolicy(
        LINE["observation_space"], LINE["action_space"], lambda _: 0.0, **arguments
    )


def packing(envs=4, seed=100, **arguments):
    """An agent that has seen 20 demonstrations of packing, not trained."""
    data = demonstrations(20, seed, make_sb3("ItemPacking-v0", num_envs=envs, seed=seed))
    names = ItemPacking().commands
    arguments = {"history": 0, "commands": names, "seed": seed, "device": "cpu", **arguments}
    return YAYRobot("MlpPolicy", data, **arguments)


def always(command):
    """Somebody who says one command at every decision."""
    return lambda observations, commands: np.full_like(commands, command)


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_of_the_logits_and_the_loss() -> None:
    outputs = torch.tensor([[1.0, 0, 1], [0, 2, 1]], dtype=torch.float64)
    logits = command_logits(outputs, torch.eye(3, dtype=torch.float64), torch.tensor(0.5))
    expected = [[1.414214, 0, 1.414214], [0, 1.788854, 0.894427]]
    assert_allclose(logits, expected, atol=1e-6)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
    assert float(loss) == pytest.approx(1.078590, abs=1e-6)


def test_worked_example_of_the_history() -> None:
    assert history_steps(np.array([400]), 3, 50).tolist() == [[250, 300, 350, 400]]


def test_worked_example_of_the_segments() -> None:
    said = {frame: segment_at(WIPING, frame).command for frame in (85, 70, 290)}
    assert said == {85: "go left", 70: "pick sponge", 290: "wipe"}
    assert [each.command for each in without_mistakes(WIPING)] == ["go left", "wipe"]


def test_worked_example_of_the_loop() -> None:
    loop, (a, b, c, x) = CorrectionLoop(1, duration=2), range(4)
    executed, stored = [], []
    for step, command in enumerate((a, a, b, b, b, c)):
        spoken = x if step == 2 else SILENCE
        found, corrected = loop.step(np.array([command]), np.array([spoken]))
        executed.append(int(found[0]))
        if corrected[0]:
            stored.append((step, int(found[0])))
    assert executed == [a, a, x, x, b, c]
    assert stored == [(2, x), (3, x)]


def test_worked_example_of_the_low_level() -> None:
    predicted = torch.tensor([[[1.0, 0], [0.5, 0.5]]], dtype=torch.float64)
    padded = torch.tensor([[False, True]])
    mean = torch.tensor([[0.2, -0.1]], dtype=torch.float64)
    log_variance = torch.tensor([[0, -0.5]], dtype=torch.float64)
    loss = chunk_loss(predicted, torch.zeros_like(predicted), padded, mean, log_variance)
    assert float(loss) == pytest.approx(6.511226, abs=1e-6)
    assert float(chunk_loss(predicted, predicted, padded, 0 * mean, 0 * mean)) == 0


# -- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, -3.0])
def test_a_temperature_that_is_not_positive_counts_as_the_least(temperature) -> None:
    outputs = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    logits = command_logits(outputs, torch.eye(2).double(), torch.tensor(temperature).double())
    assert_allclose(logits, [[0.6e8, 0.8e8]])


def test_no_candidate_and_bad_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        command_logits(torch.ones(1, 3), torch.ones(0, 3), torch.ones(()))
    for vectors, message in (
        ([[1, 0], [0, 0], [1, 1]], r"embeddings\[1\] is zero"),
        ([[1, 0], [0, 1]], "each of the 3 commands"),
        ([[1, 0], [0, np.nan], [1, 1]], "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            check_embeddings(vectors, 3)
        with pytest.raises(ValueError, match=message):
            policy(embeddings=vectors)


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        (["left", "right"], "2 commands are named, and the environment takes 3"),
        (["left", "right", " "], "no words"),
        (["left", "right", "left"], "the same"),
    ],
)
def test_names_that_do_not_fit_are_refused(commands, message) -> None:
    with pytest.raises(ValueError, match=message):
        policy(commands=commands)


def test_words_that_commands_share_bring_them_nearer() -> None:
    left, right, pick = hashed_words(["nudge left", "Nudge right", "pick 0"], width=64)
    assert_allclose([left @ left, right @ right], 1, atol=1e-6)
    assert left @ right > 0.25 > abs(left @ pick)
    assert_array_equal(hashed_words(["nudge left"], 64)[0], left)


def test_a_sentence_encoder_on_the_disk_gives_its_first_token(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "nudge", "left", "right"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    sizes = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "vocab_size": len(words)}
    model = transformers.DistilBertModel(transformers.DistilBertConfig(**sizes)).eval()
    model.save_pretrained(tmp_path)
    transformers.DistilBertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    found = sentence_embeddings(["nudge left", "right"], tmp_path)
    with torch.no_grad():
        expected = model(torch.tensor([[2, 5, 6, 3]])).last_hidden_state[0, 0]
    assert_allclose(found[0], expected, atol=1e-5)
    assert check_embeddings(found, 2).shape == (2, 8)


# -- frames of the past ---------------------------------------------------------------------------


def test_a_short_episode_repeats_its_first_frame() -> None:
    data = line()
    first = first_steps(data)
    assert first.tolist() == [0] * 5 + [5] * 3
    rows = history_steps(np.arange(8), 2, 2, first)
    assert rows[:, 0].tolist() == [0, 0, 0, 0, 0, 5, 5, 5]
    assert rows[:, 1].tolist() == [0, 0, 0, 1, 2, 5, 5, 5]
    assert rows[:, 2].tolist() == list(range(8))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.integers(1, 3), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_predict_remembers_the_frames_that_learning_sees(history, skip, lengths) -> None:
    data, each = line(lengths), policy(history=history, skip=skip)
    seen = []
    memory = None
    starts = torch.from_numpy(first_steps(data) == np.arange(len(data)))
    for row in range(len(data)):
        present = torch.from_numpy(data.observations[row : row + 1])
        frames, memory = each.remember(present, memory, starts[row : row + 1])
        seen.append(frames[0, :, 0].long().tolist())
    assert seen == history_steps(np.arange(len(data)), history, skip, first_steps(data)).tolist()


def test_predict_hands_on_what_it_remembers() -> None:
    each = policy(history=2, skip=2)
    observation, state = np.array([[3.0], [7.0]], dtype=np.float32), None
    _, state = each.predict(observation, state)
    assert state[0][:, :, 0].tolist() == [[3.0] * 4, [7.0] * 4]
    _, state = each.predict(observation + 1, state, episode_start=np.array([False, True]))
    assert state[0][:, :, 0].tolist() == [[3.0, 3.0, 3.0, 4.0], [8.0] * 4]
    assert policy(history=0).predict(observation)[1] is None


def test_positions_are_sines_and_cosines() -> None:
    found = sinusoids(3, 4)
    assert_allclose(found[0], [0, 1, 0, 1])
    assert_allclose(found[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], atol=1e-6)


def test_data_without_ends_need_a_policy_without_a_past() -> None:
    data = line(terminations=None)
    assert YAYRobot("MlpPolicy", data, history=0, seed=0).learn(2).num_timesteps == 2
    with pytest.raises(ValueError, match="where episodes end"):
        YAYRobot("MlpPolicy", data, history=1, seed=0).learn(2)


# -- narrated recordings --------------------------------------------------------------------------


def test_frames_whose_command_was_corrected_are_not_learned() -> None:
    data = NarratedDataset.from_recordings([(frames_of(300), WIPING)], COMMANDS, **LINE)
    # "pick sponge" is what to command up to frame 79, and is what had to be corrected.
    assert np.flatnonzero(data.learned).tolist() == list(range(80, 300))
    assert data.actions[[79, 80, 159, 160, 299]].tolist() == [0, 1, 1, 2, 2]
    agent = YAYRobot("MlpPolicy", data, commands=COMMANDS, history=1, skip=50, seed=0, device="cpu")
    assert agent.policy.candidates.tolist() == [False, True, True]
    agent.learn(1)
    frames = torch.cat([agent.draw()["frames"] for _ in range(20)])[..., 0]
    assert frames[:, 1].min() >= 80 > frames[:, 0].min()  # but they are seen as the past


def test_of_corrections_in_a_row_the_last_is_learned() -> None:
    spoken = [Segment(0, 2, "wipe"), Segment(2, 4, "go left", True), Segment(4, 6, "wipe", True)]
    assert without_mistakes(spoken) == spoken[2:]
    data = NarratedDataset.from_recordings([(frames_of(6), spoken)], COMMANDS, 0, **LINE)
    assert data.learned.tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([Segment(0, 4, "wipe")], "from 0 to 6"),
        ([Segment(0, 2, "wipe"), Segment(3, 6, "go left")], "must follow each other"),
        ([], "must follow each other"),
        ([Segment(0, 6, "sing")], r"commands \['sing'\]"),
    ],
)
def test_segments_that_do_not_fit_are_refused(segments, message) -> None:
    with pytest.raises(ValueError, match=message):
        NarratedDataset.from_recordings([(frames_of(6), segments)], COMMANDS, **LINE)


def test_recordings_in_which_all_was_corrected_hold_nothing() -> None:
    data = line(actions=np.zeros(8, dtype=np.int64))
    empty = NarratedDataset(**{**vars(data), "learned": np.zeros(8, dtype=bool)})
    with pytest.raises(ValueError, match="nothing to imitate"):
        YAYRobot("MlpPolicy", empty)


# -- corrections ----------------------------------------------------------------------------------


def test_a_correction_at_the_first_step_is_obeyed_and_a_later_one_replaces_it() -> None:
    loop, commands = CorrectionLoop(2, duration=3), np.array([0, 0])
    said = [(2, SILENCE), (SILENCE, 1), (1, 2), (SILENCE, SILENCE), (SILENCE, SILENCE)]
    found = [loop.step(commands, np.array(spoken))[0].tolist() for spoken in said]
    assert found == [[2, 0], [2, 1], [1, 2], [1, 2], [1, 2]]
    assert loop.step(commands, np.array([SILENCE, SILENCE]))[1].tolist() == [False, False]


def test_a_correction_without_a_duration_lasts_until_the_next() -> None:
    loop, commands = CorrectionLoop(1, duration=None), np.array([0])
    said = [SILENCE, 1, *[SILENCE] * 5, 2, SILENCE]
    found = [int(loop.step(commands, np.array([spoken]))[0][0]) for spoken in said]
    assert found == [0, 1, 1, 1, 1, 1, 1, 2, 2]


def test_corrections_are_stored_with_what_was_seen_until_the_episode_ends() -> None:
    agent = packing(envs=3)
    found = agent.collect(always(0), 3)
    # Whoever only ever picks item 0 stays, or loses it while it is stuck.
    steps = len(found.commands)
    assert found.frames.shape == (steps, 1, 13)
    assert (found.commands == 0).all() and 3 <= steps <= 3 * 14
    assert_array_equal(found.returns, np.zeros(3))
    starts = found.frames[:, 0, [0, 4, 8, 12]].sum(-1) == 4
    assert starts.sum() == 3
    assert not found.frames[:, 0].sum(-1).eq(1).any()  # nothing after the item was lost


def test_an_unknown_command_is_obeyed_and_then_a_candidate() -> None:
    agent = packing().learn(2)
    assert agent.policy.candidates.tolist() == [True] * 3 + [False] * 2
    assert 4 not in agent.predict(np.eye(13, dtype=np.float32))[0]
    found = agent.collect(always(4), 4)
    assert (found.commands == 4).all()
    assert not agent.policy.candidates[4]
    agent.learn(1, reset_num_timesteps=False)
    assert agent.policy.candidates.tolist() == [True] * 3 + [False, True]


@pytest.mark.parametrize(
    ("spoken", "message"),
    [([0, 5], "said 5, allowed are the commands 0 .. 4"), ([0.5, 0], "integer"), ([0], "integer")],
)
def test_what_is_no_command_is_refused(spoken, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_spoken(spoken, np.array([0, 0]), packing().policy)


def test_deployment_needs_an_environment_and_episodes() -> None:
    agent = YAYRobot("MlpPolicy", line(), seed=0)
    with pytest.raises(ValueError, match="no environment to deploy in"):
        agent.deploy(1)
    with pytest.raises(ValueError, match="episodes=0"):
        packing().deploy(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"correction_share": 1.5}, "correction_share=1.5"),
        ({"correction_steps": 0}, "correction_steps=0"),
        ({"history": -1}, "history=-1"),
        ({"skip": 0}, "skip=0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        YAYRobot("MlpPolicy", line(), **arguments)
    with pytest.raises(ValueError, match="commands as actions in Discrete"):
        YAYRobot("MlpPolicy", gym.make("Pendulum-v1"))


# -- mixed batches --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "share", "newest", "parts"),
    [(64, 0.1, 5, (6, 58)), (64, 0.1, 0, (0, 64)), (100, 0.29, 1, (29, 71)), (5, 0.1, 3, (0, 5))],
)
def test_the_share_of_the_newest_corrections_is_rounded_down(size, share, newest, parts) -> None:
    assert batch_parts(size, share, newest) == parts


def test_a_batch_draws_from_the_newest_and_uniformly_from_the_rest() -> None:
    data = OfflineDataset(frames_of(30), np.zeros(30, dtype=np.int64), **LINE)
    agent = YAYRobot("MlpPolicy", data, history=0, batch_size=50, seed=0, device="cpu").learn(1)
    assert (agent.draw()["actions"] == 0).all()
    # 10 earlier corrections and 5 new ones, besides 30 recorded frames.
    agent.frames = torch.arange(100.0, 115.0)[:, None, None]
    agent.corrections = torch.tensor([1] * 10 + [2] * 5)
    agent.newest = agent.corrections == 2
    batches = [agent.draw() for _ in range(200)]
    counts = torch.stack(
        [(batch["actions"][:, None] == torch.arange(3)).sum(0) for batch in batches]
    )
    assert (counts[:, 2] == 5).all()
    assert_allclose(counts.float().mean(0), [45 * 0.75, 45 * 0.25, 5], atol=0.8)
    frames, actions = batches[0]["frames"][:, 0, 0], batches[0]["actions"]
    assert_array_equal(actions, torch.bucketize(frames, torch.tensor([99.5, 109.5])))


def test_what_was_newest_is_earlier_after_the_next_round() -> None:
    agent = packing().learn(2)
    first = len(agent.collect(always(3), 4).commands)
    agent.collect(always(SILENCE), 4)
    assert len(agent.corrections) == first and not agent.newest.any()
    assert agent.draw()["frames"].shape == (64, 1, 13)
    second = len(agent.collect(always(4), 4).commands)
    assert agent.newest.tolist() == [False] * first + [True] * second


def test_corrections_are_in_a_checkpoint(tmp_path) -> None:
    agent = packing().learn(2)
    for user in (always(SILENCE), always(3)):
        agent.collect(user, 4)
        agent.save(tmp_path / "agent")
        loaded = YAYRobot.load(tmp_path / "agent", env=agent.dataset)
        for name in ("frames", "corrections", "newest"):
            assert torch.equal(getattr(loaded, name), getattr(agent, name))
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.policy.candidates.tolist() == [True] * 4 + [False]


def test_embeddings_stay_as_they_are_and_all_else_is_learned() -> None:
    agent = packing(policy_kwargs={"embeddings": np.eye(5)}, learning_rate=1e-2)
    before = [each.clone() for each in agent.policy.parameters()]
    agent.learn(20)
    assert torch.equal(agent.policy.embeddings, torch.eye(5))
    assert all(
        not torch.equal(*pair) for pair in zip(before, agent.policy.parameters(), strict=True)
    )


def test_the_paper_s_network_learns_to_look_back() -> None:
    # The command depends on the frame before, which the present one does not show.
    rng = np.random.default_rng(0)
    cues = rng.integers(2, size=200)
    observations = np.column_stack([cues, np.zeros(200, dtype=int)]).reshape(-1, 1)
    actions = np.column_stack([np.full(200, 2), cues]).ravel()
    ends = np.tile([False, True], 200)
    spaces = {**LINE, "observation_space": gym.spaces.Box(0, 1, (1,))}
    data = OfflineDataset(observations.astype(np.float32), actions, terminations=ends, **spaces)
    sizes = {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}
    agent = YAYRobot(
        *("TransformerPolicy", data),
        **{"history": 1, "learning_rate": 1e-2, "policy_kwargs": sizes, "seed": 0, "device": "cpu"},
    ).learn(150)
    cue = np.array([[0.0], [1.0]], dtype=np.float32)
    _, state = agent.predict(cue, deterministic=True)
    assert agent.predict(0 * cue, state, deterministic=True)[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="width=15 must be even"):
        YAYRobot("TransformerPolicy", data, policy_kwargs={**sizes, "width": 15})


# -- the claim ------------------------------------------------------------------------------------


def test_demonstrations_show_no_stuck_item() -> None:
    data = demonstrations(50, 100, gym.make("ItemPacking-v0"))
    conditions = data.observations[:, :-1].reshape(-1, 3, 4)
    assert len(data) == 150 and data.terminations.sum() == 50
    assert not conditions[:, :, 1:3].any()
    assert conditions[np.arange(150), data.actions, 0].all()  # what is picked is to do
    assert set(data.actions[::3]) == {0, 1, 2}


def test_the_user_knows_how_to_pack() -> None:
    features = np.eye(4, dtype=np.float32)[[[0, 0, 0], [3, 1, 0], [2, 0, 3], [3, 0, 0], [3, 0, 0]]]
    observations = np.column_stack([features.reshape(5, 12), np.ones(5, np.float32)])
    user = PackingUser(1.0, seed=100)
    assert user(observations, np.array([2, 4, 3, 1, 2])).tolist() == [SILENCE] * 5
    assert user(observations, np.array([3, 1, 4, 0, 4])).tolist() == [0, 4, 3, 1, 1]
    many, wrong = np.repeat(observations[1:2], 2_000, axis=0), np.zeros(2_000, dtype=np.int64)
    spoken = PackingUser(0.8, seed=100)(many, wrong)
    assert set(spoken) == {SILENCE, 4}
    assert (spoken == 4).mean() == pytest.approx(0.8, abs=0.03)


def test_corrections_help_at_once_and_are_learned() -> None:
    base, live = (arm(100, 0.5).metrics["success"] for arm in (base_arm, live_arm))
    assert 0.1 < base < 0.35 and live > 0.75
    found = fine_tuned_arm(100, 1.0).metrics
    assert found["success"] > 0.9 and found["20 points above base"] == 1.0
    assert 10 <= found["corrections"] <= 45
