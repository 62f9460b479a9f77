from tests.support.servers import random_server

__all__ = ["random_server"]
