"""One file a schema version, newest last."""
