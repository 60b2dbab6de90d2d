"""Bringing an upstream's tools in: what it lists, what a person accepts, and what is written down of that."""
