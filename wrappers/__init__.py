"""What stands between environments and agents: adapters to other libraries.

`palaestra.wrappers.sb3` turns any Gymnasium vector environment into a Stable-Baselines3 `VecEnv`;
`palaestra.wrappers.pettingzoo` gives the inventory network one agent per location;
`palaestra.wrappers.token_mdp` turns a text environment into one of tokens;
`palaestra.wrappers.physics_shift` changes the physics of MuJoCo and native control tasks, and
`palaestra.wrappers.physics_family` spans a box of such changes for robust agents and adversaries;
`palaestra.wrappers.distractors` appends numbers without meaning to observations;
`palaestra.wrappers.preference_oracle` compares episodes and hides what they pay;
`palaestra.wrappers.carl_reward` pays for driving, by progress or by a sum of terms;
`palaestra.wrappers.stock` shows what an episode has earned, for agents that mind its whole law.
"""
