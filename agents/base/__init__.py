"""What agents share: declarations, checkpoints, the learning loop, and one base per kind of
agent."""
