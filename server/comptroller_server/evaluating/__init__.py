"""Scenarios played end to end against sources in a sandbox: what an agent would propose, and what must come of it."""
