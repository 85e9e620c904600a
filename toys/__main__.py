"""`python -m toys`: says that this part is not built yet, and fails."""

import sys

sys.exit("python -m toys is not built yet; docs/STATUS.md says what is and what comes next")
