"""The demo's modules import one another as a Space does: from their own folder."""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))
