from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from palaestra.lab.cli import app
from palaestra.lab.options import key_values

KEYS = {"row", "slug", "family", "title", "state", "class", "environments", "claim"}
PPO = ["train", "PPO", "CartPole-v1", "--no-progress", "--steps", "64", "--set", "n_steps=32"]
PPO += ["--set", "batch_size=32", "--set", "device=cpu"]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(status, *arguments):
    """The one line on stderr of a command that must fail with `status`."""
    outcome = call(*arguments)
    assert outcome.exit_code == status, outcome.output
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_list_json_is_one_array_of_all_systems():
    outcome = call("list", "--json")
    assert outcome.exit_code == 0
    rows = json.loads(outcome.stdout)
    assert len(rows) == 181 and all(set(row) == KEYS for row in rows)


def test_list_filters_by_family_and_state():
    rows = json.loads(call("list", "--json", "--family", "robust").stdout)
    assert [row["family"] for row in rows] == ["robust", "robust"]
    missing = json.loads(call("list", "--json", "--state", "missing").stdout)
    assert missing and {row["state"] for row in missing} == {"missing"}


def test_list_prints_tables():
    assert "dr_rpo" in call("list", "--family", "robust").stdout
    assert "181" in call("list", "--summary").stdout.splitlines()[-2]


def test_list_refuses_an_unknown_family_or_state():
    assert "--family 'cooking' is not one of" in fails(2, "list", "--family", "cooking")
    assert "--state 'done' is not one of missing" in fails(2, "list", "--state", "done")


def test_the_summary_loads_no_heavy_library():
    code = (
        "import sys; from palaestra.lab.cli import app\n"
        "try: app(['list', '--summary'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'stable_baselines3', 'scipy', 'pandas', 'ray', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_envs_json_lists_the_registry():
    entries = json.loads(call("envs", "--json").stdout)
    assert all(set(entry) == {"id", "domain", "faces", "class"} for entry in entries)
    assert "InventoryNet-v0" in {entry["id"] for entry in entries}
    assert "InventoryNet-v0" in call("envs").stdout


def test_values_are_yaml_and_exponents_are_numbers():
    pairs = ["rate=1e-3", "size=32", "name=one", "layers=[8, 8]", "on=true", "none=null", "v=1=2"]
    assert key_values("--set", pairs) == {
        "rate": 0.001,
        "size": 32,
        "name": "one",
        "layers": [8, 8],
        "on": True,
        "none": None,
        "v": "1=2",
    }


@pytest.mark.parametrize("pair", ["rate", "=3", "a b=3", "rate=[1"])
def test_a_malformed_value_is_refused(pair):
    assert "--set" in fails(2, "train", "PPO", "CartPole-v1", "--set", pair)


def test_train_takes_an_agent_of_stable_baselines3_and_evaluates_it(tmp_path):
    outcome = call(*PPO, "--save", tmp_path / "ppo.zip", "--episodes", 2)
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "ppo.zip").exists()
    assert "mean return" in outcome.stdout and "2 episodes" in outcome.stdout


def test_training_twice_with_one_seed_prints_the_same():
    first, second = call(*PPO, "--seed", 3), call(*PPO, "--seed", 3)
    assert first.exit_code == 0 and first.stdout == second.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "Nobody", "CartPole-v1"], "no agent is called 'Nobody'"),
        (["train", "PPO", "Nowhere-v0"], "Nowhere-v0: Environment `Nowhere` doesn't exist"),
        (["train", "PPO", "CartPole-v1", "--set", "colour=red"], "unexpected keyword.*colour"),
        (["train", "PPO", "CartPole-v1", "--env", "colour=red"], "unexpected keyword.*colour"),
        (["train", "PPO", "CartPole-v1", "--resume"], "--resume needs --checkpoint"),
        (["train", "PPO", "CartPole-v1", "--checkpoint", "x"], "has no --checkpoint"),
        (["evaluate", "PPO", "CartPole-v1"], "PPO must learn first"),
        (["evaluate", "absent.zip", "CartPole-v1"], "'absent.zip' is neither a file nor an agent"),
        (["reproduce", "nothing"], "no system is called 'nothing'"),
        (["reproduce", "tspo"], "tspo is not implemented"),
        (["reproduce", "tspo", "--seeds", "x"], "--seeds.*integer"),
        (["reproduce"], "Missing argument 'slug'"),
        (["cook"], "No such command 'cook'"),
    ],
)
def test_bad_usage_ends_with_status_2(arguments, message):
    assert re.search(message, fails(2, *arguments))


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "evil.HDPO", None])
def test_a_saved_file_cannot_choose_what_is_imported(tmp_path, name):
    from palaestra.agents.base import checkpoint

    checkpoint.write(tmp_path / "bad.zip", {"class": name}, {})
    line = fails(2, "evaluate", tmp_path / "bad.zip", "CartPole-v1")
    assert f"names the class {name!r}, which is no agent of this package" in line


def test_a_file_of_stable_baselines3_is_not_unpickled(tmp_path):
    import stable_baselines3

    agent = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=32, device="cpu")
    agent.save(tmp_path / "ppo.zip")
    assert "not a checkpoint" in fails(2, "evaluate", tmp_path / "ppo.zip", "CartPole-v1")


def test_reproduce_says_by_its_status_whether_the_claim_held(tree):
    tree.plant("HOLDS")
    held = call("reproduce", tree.system.slug, "--workers", 1, "--no-progress")
    assert held.exit_code == 0, held.output
    assert "reproduced, the claim holds" in held.stdout
    assert tree.result.exists()


def test_reproduce_of_a_claim_that_does_not_hold_ends_with_status_1(tree):
    tree.plant("FAILS")
    arguments = ["--workers", 1, "--no-progress", "--seeds", 3]
    failed = call("reproduce", tree.system.slug, *arguments)
    assert failed.exit_code == 1, failed.output
    assert "trial, the claim does not hold" in failed.stdout
    assert not tree.result.exists()


def test_a_failing_arm_ends_with_status_3_and_a_traceback_on_request(tree, monkeypatch):
    tree.plant("BREAKS")
    line = fails(3, "reproduce", tree.system.slug, "--workers", 1, "--no-progress")
    assert "arm 'arm', seed 3: RuntimeError: the shelf is empty" in line
    monkeypatch.setenv("PALAESTRA_DEBUG", "1")
    shown = call("reproduce", tree.system.slug, "--workers", 1, "--no-progress")
    assert "in fails_at_seed_3" in shown.stderr


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """The folder of a short run of a language-model agent, and the agent."""
    from palaestra.agents import GRPO

    folder = tmp_path_factory.mktemp("run")
    agent = GRPO("TextPolicy", GRPO.example.build(), seed=0, **GRPO.example.kwargs)
    agent.learn(64, checkpoint=folder)
    agent.save(folder / "agent")
    return folder, agent


def test_rollouts_of_a_run_are_shown(text_run):
    folder, agent = text_run
    for path in (folder, folder / "agent", folder / "agent.zip"):
        found = json.loads(call("rollouts", path, "--json").stdout)
        assert found == agent.samples
        assert [len(rows) for rows in found.values()] == [4, 4]
    lines = call("rollouts", folder).stdout
    for rows in agent.samples.values():
        assert all(prompt in lines for prompt, _, _ in rows)


def test_rollouts_that_are_not_there_are_refused(tmp_path):
    from palaestra.agents import QLearning

    assert "missing.zip: no such checkpoint" in fails(2, "rollouts", tmp_path / "missing")
    other = QLearning(QLearning.example.policy, QLearning.example.build())
    other.save(tmp_path / "table")
    assert "no rollouts are kept there" in fails(2, "rollouts", tmp_path / "table")


def test_analyse_says_how_far_one_has_to_look_ahead():
    command = ["analyse", "effective-horizon", "DoorChain-v0", "--env", "depth=3"]
    printed = call(*command, "--env", "safe=0.4").stdout
    assert "no │ 0.15 │       -" in printed and "8.64386" in printed
    assert printed.splitlines()[-1].endswith("effective horizon 4.47393, at k = 3")
    found = json.loads(call(*command, "--depth", "1", "--json").stdout)
    assert found["k"] is None and len(found["steps"]) == 1
    assert "no horizon of its own" in fails(2, "analyse", "effective-horizon", "CliffWalking-v1")
    assert "Missing command" in fails(2, "analyse")
