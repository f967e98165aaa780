"""Cameras from files of every kind, and what is done to their pictures."""
