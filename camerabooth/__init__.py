"""Stage 2, CameraBooth: test-time training of poses and a view-conditioned diffusion model; novel views."""
