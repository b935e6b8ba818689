"""Stage 1: initial camera poses from unposed photos."""
