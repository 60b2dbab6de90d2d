"""Deciding without acting: cases that an operator wrote, recorded calls under another configuration, two bundles compared.

Nothing here calls a source, writes a store or guesses what it does not know.
"""
