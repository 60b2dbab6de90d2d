"""What runs beside the calls: recovery, retention, checkpoints."""
