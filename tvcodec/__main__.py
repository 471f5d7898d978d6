"""python -m tvcodec"""

from tvcodec.cli import main

main(prog_name="tvcodec")
