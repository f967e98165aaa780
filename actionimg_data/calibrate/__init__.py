"""Is the recorded camera true: check it, refine it, and find the offset in time between poses and frames."""
