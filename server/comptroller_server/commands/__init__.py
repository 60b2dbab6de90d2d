"""The commands of `comptroller`, one module a group. `cli.py` loads each when it is used."""
