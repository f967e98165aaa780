"""Data of the project's own making: a scene, and the families of recordings that the demo and the tests convert."""
