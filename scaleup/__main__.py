"""`python -m scaleup`: not built yet; says so, and fails."""

import argparse
import sys

argparse.ArgumentParser(prog="python -m scaleup", description=__doc__).parse_known_args()
sys.exit("python -m scaleup is not built yet; docs/STATUS.md says what is and what comes next")
