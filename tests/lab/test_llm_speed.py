from __future__ import annotations

import pytest
import torch

import palaestra
from palaestra.agents.base.text.policy import TextPolicy
from palaestra.lab import llm_speed, llm_steps
from palaestra.lab.llm_speed import Run


def silent(line):
    pass


@pytest.fixture
def without_trl(monkeypatch):
    monkeypatch.setattr(llm_speed, "installed", lambda *names: False)


@pytest.mark.slow
def test_trl_is_timed_in_turns_with_ours():
    pytest.importorskip("trl")
    found = {result.quantity: result for result in llm_speed.llm_speed(True, silent)}
    assert len(found) == 10 and all(result.value > 0 for result in found.values())
    ours, theirs = "ours, embedded model", "TRL, the same model of Llama's form"
    step = "{}, ms per step".format
    assert found[f"time, TRL / {ours}"].value == pytest.approx(
        found[step(theirs)].value / found[step(ours)].value
    )
    memory = "{}, peak memory in MiB".format
    assert found[f"memory, {ours} / TRL"].value == pytest.approx(
        found[memory(ours)].value / found[memory(theirs)].value
    )
    assert 50 < found[memory(ours)].value < 5_000


def test_without_trl_only_ours_is_measured(without_trl):
    results = llm_speed.llm_speed(True, silent)
    measured = [result.quantity for result in results if result.value is not None]
    assert measured == [
        "ours, embedded model, ms per step",
        "ours, embedded model, peak memory in MiB",
    ]
    assert {result.note for result in results if result.value is None} == {llm_speed.NO_TRL}


def test_the_models_have_one_size_and_no_reply_ends(tmp_path):
    transformers = pytest.importorskip("transformers")
    llm_steps.write_llama(tmp_path)
    env = llm_steps.environment(16, 8)
    for directory in (None, str(tmp_path)):
        agent = llm_steps.learner(palaestra.agents.GRPO, env, directory, prompts=8, group_size=8)
        rollouts = agent.rollout(agent.select())
        assert rollouts.batch.mask.all() and rollouts.batch.tokens.shape == (64, 16)
        assert 0.1 < float(agent.reward(rollouts).mean()) < 0.6
        prompt = rollouts.tasks[0].prompt
        assert len(agent.policy.tokenizer.prompt_ids(prompt)) == 1 + len(prompt)
    llama = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    embedded = TextPolicy(alphabet=env.alphabet, stop="$", seed=0).model
    sizes = [
        sum(p.numel() for name, p in model.named_parameters() if name != "positions")
        for model in (llama, embedded)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_what_other_steps_cost():
    results = llm_speed.llm_overhead(True, silent)
    there = [name for name in llm_speed.SYSTEMS if name in palaestra.agents.names()]
    expected = ["GRPO, ms per step", *(f"{name}, over GRPO" for name in there)]
    assert [result.quantity for result in results] == expected and there
    assert results[0].value > 0 and all(result.value > -100 for result in results[1:])


def test_a_run_on_sums_ends_above_its_aim():
    run = llm_speed.learn_sums(0, aim=-1.0, held_out=range(8), others=range(8), prompts=2)
    assert run.updates == llm_speed.LOOK and run.seconds > 0
    assert 0 <= run.before <= 1 and 0 <= run.after <= 1


def test_a_run_that_falls_short_has_no_time(monkeypatch):
    monkeypatch.setattr(llm_speed, "MOST_UPDATES", llm_speed.LOOK)
    run = llm_speed.learn_sums(0, aim=1.0, held_out=range(8), others=range(8), prompts=2)
    assert run.seconds is None and run.updates == llm_speed.LOOK


def test_the_slowest_run_counts():
    runs = [Run(0.4, 50.0, 200, 0.93), Run(0.36, 70.0, 300, 0.91)]
    start, seconds, updates, after = llm_speed.sums_results(runs)
    assert (start.value, seconds.value, updates.value, after.value) == (38.0, 70.0, 300, 91.0)
    assert seconds.verdict == "met"
    seconds = llm_speed.sums_results([*runs, Run(0.4, None, 1_000, 0.8)])[1]
    assert seconds.value is None and "1 of 3 runs" in seconds.note


def test_updates_leave_the_model_as_it_is():
    """The work of learning is done, and the replies do not change under the measurement."""
    env = llm_steps.environment(8, 4)
    agent = llm_steps.learner(palaestra.agents.GRPO, env, prompts=4, group_size=4)
    before = torch.cat([p.detach().flatten().clone() for p in agent.policy.parameters()])
    for _ in range(5):
        agent.update()
    after = torch.cat([p.detach().flatten() for p in agent.policy.parameters()])
    assert 0 < (after - before).abs().max() < 1e-4
