"""python -m pairwright.cli"""

from pairwright.cli import main

main()
