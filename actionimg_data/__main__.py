"""``python -m actionimg_data`` is the command ``actionimg``."""

from .cli import main

main(prog_name="actionimg")
