"""The steps of one governed call, in the order of `pipeline.py`, and what they hand to each other."""
