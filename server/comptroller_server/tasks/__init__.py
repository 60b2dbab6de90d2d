"""Tasks: the built-in tools, what a task is now, how it ended, and its hand-off to a person."""
