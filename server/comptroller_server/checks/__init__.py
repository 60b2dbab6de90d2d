"""The operator's own checks and the narrow judge. They can only refuse."""
