"""Synchronised logs: one mapping schema and one synchroniser for every lab's way of logging."""
