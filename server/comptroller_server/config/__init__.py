"""What an operator wrote, read into one immutable `Config`, or all that is wrong with it at once."""
