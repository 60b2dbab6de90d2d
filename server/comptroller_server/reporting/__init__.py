"""The report over many calls and tasks: reading it, judging it by a gate, and the page of it."""
