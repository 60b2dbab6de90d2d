"""A stranger's first hour: the first configuration, and what clients need to start us."""
