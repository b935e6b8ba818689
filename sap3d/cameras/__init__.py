"""Cameras: their maths, pose files, framing, an object's symmetry, the placement of results."""
