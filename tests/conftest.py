"""For all tests, and for the programs that they start."""

import os

# Masks by GrabCut: the network's weights are a download of 165 MB. tests/sap3d/photos/test_network.py has the network.
os.environ["MASKS"] = "grabcut"
