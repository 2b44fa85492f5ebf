from __future__ import annotations

import json
import os
from dataclasses import replace

import numeric_arms as arms
import pytest

from palaestra.agents.base.declare import Claim, Exact, NotInferior
from palaestra.lab.runner import ArmError, run, run_claim, source_hash, store


def measured(result):
    """What must not depend on where the runs took place."""
    return {
        "criteria": result["criteria"],
        "arms": {
            name: {"metrics": arm["metrics"], "curves": arm["curves"]}
            for name, arm in result["arms"].items()
        },
    }


def test_parallel_runs_give_the_numbers_of_serial_ones_and_of_plain_calls():
    serial = run(arms.HOLDS, workers=1, progress=False)
    parallel = run(arms.HOLDS, workers=2, progress=False)
    assert measured(serial) == measured(parallel)
    plain = [arms.better(seed, 1.0).metrics["return"] for seed in range(5)]
    assert serial["arms"]["better"]["metrics"]["return"] == plain
    assert serial["arms"]["better"]["curves"][4]["return"] == [[0.0, 10.0], [0.0, plain[4] - 1.0]]
    of_one_seed = {"before": [["1+1=", "<0>", 0.0]], "after": [["1+2=", "3", 1.0]]}
    assert serial["arms"]["steady"]["samples"] == of_one_seed
    assert serial["arms"]["better"]["samples"] == {}


def test_a_result_says_what_was_run_and_whether_it_held():
    result = run(arms.HOLDS, workers=2, progress=False)
    assert result["state"] == "reproduced" and result["holds"] and not result["trial"]
    (criterion,) = result["criteria"]
    assert criterion["kind"] == "Superior" and criterion["baseline"] == "steady"
    assert (criterion["estimate"], criterion["low"]) == pytest.approx((1.0, 1.0))
    assert result["seeds"] == [0, 1, 2, 3, 4] and result["scale"] == 1.0
    assert len(result["arms"]["steady"]["seconds"]) == 5
    assert {"python", "palaestra", "torch", "numpy", "gymnasium", "stable_baselines3"} == set(
        result["versions"]
    )
    assert all(result["versions"].values())
    assert result["platform"]["cpu_count"] == os.cpu_count()
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_claim_that_does_not_hold_is_shown_as_it_is():
    result = run(arms.FAILS, workers=1, progress=False)
    assert result["state"] == "not reproduced" and not result["holds"]


def test_every_criterion_must_hold():
    one_fails = Claim(
        "two criteria",
        arms.PAIR,
        (
            NotInferior("return", "steady", "better", margin=1.5),
            Exact("budget", "steady", value=100.0, tolerance=0.0),
            Exact("budget", "better", value=101.0, tolerance=0.5),
        ),
    )
    result = run(one_fails, workers=1, progress=False)
    assert [criterion["holds"] for criterion in result["criteria"]] == [True, True, False]
    assert result["state"] == "not reproduced"


def test_less_than_the_full_budget_is_a_trial():
    smaller = run(arms.HOLDS, scale=0.5, workers=1, progress=False)
    assert smaller["state"] == "trial" and smaller["holds"]
    assert smaller["arms"]["steady"]["metrics"]["budget"] == [50.0] * 5
    assert run(arms.HOLDS, seeds=3, workers=1, progress=False)["state"] == "trial"
    assert run(arms.HOLDS, seeds=6, workers=1, progress=False)["state"] == "trial"


def test_workers_use_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    result = run(arms.alone(arms.threads, "threads"), workers=1, progress=False)
    assert result["arms"]["arm"]["metrics"]["threads"] == [1.0] * 5
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_failing_arm_is_named_in_one_line_and_its_traceback_kept():
    with pytest.raises(ArmError) as caught:
        run(arms.alone(arms.fails_at_seed_3), workers=2, progress=False)
    assert str(caught.value) == "arm 'arm', seed 3: RuntimeError: the shelf is empty"
    assert "in fails_at_seed_3" in caught.value.traceback


def test_a_worker_that_dies_is_an_error_not_a_wait():
    with pytest.raises(ArmError, match="a worker process died"):
        run(arms.alone(arms.dies), workers=1, progress=False)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (arms.not_a_number, "arm 'arm', seed 2: metric 'return' is nan"),
        (arms.other_metric, r"metrics \['return'\] for seed 1 and \['reward'\] for seed 0"),
        (lambda seed, scale: None, "arm 'arm' must be a function at module level"),
    ],
)
def test_a_bad_arm_is_refused(arm, message):
    with pytest.raises(ValueError, match=message):
        run(arms.alone(arm), workers=1, progress=False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"seeds": 1}, "seeds must be at least 2.*got 1"),
        ({"scale": 0.0}, "scale must be above 0.*got 0.0"),
        ({"scale": 2.0}, "scale must be above 0 and at most 1, got 2.0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(argument, message):
    with pytest.raises(ValueError, match=message):
        run(arms.alone(arms.dies), **argument)


def test_a_full_run_of_a_system_is_stored_with_the_hash_of_its_source(tree):
    tree.plant("HOLDS")
    result = run_claim(tree.system.slug, workers=1, progress=False)
    assert json.loads(tree.result.read_text()) == result
    assert list(tree.result.parent.iterdir()) == [tree.result]
    row = tree.row()
    assert (row.state, row.stale) == ("reproduced", False)
    assert row.evidence == f"lab/results/{tree.system.slug}.json"
    assert row.claim == "better earns 1 more than steady"
    tree.file.write_text(tree.file.read_text() + "\n# changed since\n")
    assert tree.row().stale


def test_a_claim_that_did_not_hold_is_stored_too(tree):
    tree.plant("FAILS")
    run_claim(tree.system.slug, workers=1, progress=False)
    assert tree.row().state == "not reproduced"


@pytest.mark.parametrize("trial", [{"scale": 0.5}, {"seeds": 3}, {"seeds": 6}, {"store": False}])
def test_nothing_but_a_full_run_is_stored(tree, trial):
    tree.plant("HOLDS")
    run_claim(tree.system.slug, workers=1, progress=False, **trial)
    assert not tree.result.exists()
    assert tree.row().state == "implemented"


def test_store_refuses_a_trial(tmp_path):
    with pytest.raises(ValueError, match="hdpo: a trial run is not evidence"):
        store({"slug": "hdpo", "trial": True}, tmp_path)


def test_a_system_without_a_class_or_an_unknown_one_is_refused(tree):
    with pytest.raises(ValueError, match=f"{tree.system.slug} is not implemented"):
        run_claim(tree.system.slug)
    with pytest.raises(ValueError, match="no system is called 'nothing'"):
        run_claim("nothing")


def test_source_hash_follows_the_class_and_is_otherwise_stable(tree):
    from palaestra.lab import catalog

    tree.plant()
    cls = catalog.find_class(tree.system.slug)
    before = source_hash(cls)
    assert before == source_hash(cls) and len(before) == 64
    tree.file.write_text(tree.file.read_text() + " ")
    assert source_hash(cls) != before


def test_source_hash_follows_what_the_claim_names_beside():
    from palaestra.agents.robust.iwocs import IWOCS

    named, claim = source_hash(IWOCS), IWOCS.claim
    try:
        IWOCS.claim = replace(claim, modules=())
        assert source_hash(IWOCS) != named
    finally:
        IWOCS.claim = claim


@pytest.mark.slow
def test_a_local_ray_cluster_gives_the_numbers_of_processes():
    pytest.importorskip("ray", reason="the extra palaestra[ray] is not installed")
    on_ray = run(arms.HOLDS, workers=2, ray_address="local", progress=False)
    on_processes = run(arms.HOLDS, workers=2, progress=False)
    assert measured(on_ray) == measured(on_processes)
    assert (on_ray["engine"], on_processes["engine"]) == ("ray", "processes")


@pytest.mark.slow
def test_on_ray_a_failing_arm_is_named_and_one_thread_is_used():
    pytest.importorskip("ray", reason="the extra palaestra[ray] is not installed")
    with pytest.raises(ArmError, match="arm 'arm', seed 3: RuntimeError: the shelf is empty"):
        run(arms.alone(arms.fails_at_seed_3), workers=2, ray_address="local", progress=False)
    result = run(
        arms.alone(arms.threads, "threads"), workers=2, ray_address="local", progress=False
    )
    assert result["state"] == "reproduced"
