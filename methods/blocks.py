"""Users a few thousand at a time, so that what is made of them on the way fits a cache: of a
million users at once, each temporary array costs more than the sums, since the system clears its
pages first.
"""

BLOCK = 2**13
"""Users of a block."""


def slices(users: int, size: int | None = None) -> list[slice]:
    """All of so many users, a block each: BLOCK of them, or `size`."""
    size = size or BLOCK
    return [slice(start, start + size) for start in range(0, users, size)]
