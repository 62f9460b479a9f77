"""Where two byte strings part."""


def common_prefix(edge: bytes, prompt: bytes, position: int = 0) -> int:
    """Return how many bytes of `edge` stand in `prompt` at `position`."""
    if prompt.startswith(edge, position):
        return len(edge)
    low, high = 0, min(len(edge), len(prompt) - position)
    while low < high:
        middle = (low + high + 1) // 2
        if prompt.startswith(edge[low:middle], position + low):
            low = middle
        else:
            high = middle - 1
    return low
