"""The field's data sets lie beside the checkout, or there is nothing to test with them."""

from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data"

collect_ignore = [] if DATA.is_dir() else ["test_suites.py"]
