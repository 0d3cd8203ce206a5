"""Users a few thousand at a time, so that what is made of them on the way fits a cache: of a
million users at once, each temporary array costs more than the sums, since the system clears its
pages first.
"""

BLOCK = 2**13
"""Users of a block."""


def slices(users: int) -> list[slice]:
    """All of so many users, a block each."""
    return [slice(start, start + BLOCK) for start in range(0, users, BLOCK)]
