from pathlib import Path

from tests.support.servers import random_server

__all__ = ["random_server"]

DATA = Path(__file__).parents[3] / "shared" / "data"

collect_ignore = [] if DATA.is_dir() else ["test_eval_field.py"]
