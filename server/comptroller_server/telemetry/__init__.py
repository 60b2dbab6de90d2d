"""What others may watch: spans of calls, metrics, and never a word of what was said in them."""
