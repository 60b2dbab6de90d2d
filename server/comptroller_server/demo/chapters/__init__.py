"""The chapters of the demo, a module each. `play.CHAPTERS` is their order."""
