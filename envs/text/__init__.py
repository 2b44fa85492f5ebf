"""Text environments: a task is a prompt, an action is a reply, and a verifier grades it."""
