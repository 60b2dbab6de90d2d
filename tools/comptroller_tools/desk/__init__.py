"""The embedded support desk: a real system of record in one SQLite file, and the tools that work it."""
