"""A look around before converting: what a source holds, and a mapping file drafted for it."""
