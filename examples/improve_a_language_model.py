"""A language model that learns sums from right and wrong alone.

    python examples/improve_a_language_model.py                 the embedded model, in a minute
    python examples/improve_a_language_model.py --model FOLDER  a local Hugging Face model

GRPO lets the model reply eight times to each sum and makes likelier what was right more often than
the rest. The embedded model first imitates two thousand worked sums for some seconds, until it
writes right ones at all. A pretrained model is asked in English, needs the extra "llm", and a GPU
if it is large.
"""

from __future__ import annotations

import argparse

import gymnasium as gym

import palaestra


def main() -> None:
    """Read the arguments, learn, and show replies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a Hugging Face model; default: the embedded one")
    parser.add_argument("--replies", type=int, default=60_000, help="replies to learn from")
    given = parser.parse_args()
    verbose = given.model is not None
    env = gym.make("Arithmetic-v0", digits=2, reply="columns", free=verbose, verbose=verbose)
    model = {} if given.model is None else {"model": given.model, "chat": True, "max_tokens": 128}
    agent = palaestra.agents.GRPO("TextPolicy", env, seed=0, policy_kwargs=model)
    agent.learn(given.replies, progress_bar=True)
    for task in range(5):
        prompt, _ = env.reset(options={"task": task, "split": "test"})
        reply, _ = agent.predict(prompt, deterministic=True)
        _, reward, *_ = env.step(reply)
        print(f"{prompt}{reply}   {'right' if reward else 'wrong'}")
    print(f"right on 256 sums that it has not seen: {agent.accuracy(range(256)):.0%}")
    agent.save("language_model")


if __name__ == "__main__":
    main()
