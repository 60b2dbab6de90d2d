"""Reversing what a call or a whole task did, by governed calls."""
