"""The demo's modules import one another as a Space does: from their own folder."""

import sys
from pathlib import Path


HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "demo"), str(HERE)]  # The latter for `browser`.
