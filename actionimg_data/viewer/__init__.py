"""A data set in the browser: a grid of its samples, each sample in step, and what models made of them."""
