"""Copies of the record for other places, as it is written: what is sent, to what, and how far each has come."""
