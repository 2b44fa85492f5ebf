"""What stands between environments and agents: adapters to other libraries.

`palaestra.wrappers.sb3` turns any Gymnasium vector environment into a Stable-Baselines3 `VecEnv`;
`palaestra.wrappers.pettingzoo` gives the inventory network one agent per location;
`palaestra.wrappers.token_mdp` turns a text environment into one of tokens.
"""
