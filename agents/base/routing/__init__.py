"""What agents for `envs/routing` share: problems as tensors, policies over nodes, decoding, solved
instances to imitate."""
