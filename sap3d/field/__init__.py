"""Radiance fields: dense grids, their rendering, joint fits of voxels and cameras."""
