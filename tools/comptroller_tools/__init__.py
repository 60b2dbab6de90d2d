"""What can be called and whether it did what it said: sources, validation, records and verification."""
