"""`comptroller demo`: the main job, played by real processes."""
