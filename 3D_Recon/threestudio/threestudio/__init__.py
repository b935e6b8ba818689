"""Stage 3: a radiance field and a mesh from posed photos and the tuned diffusion model, in threestudio's shape."""
