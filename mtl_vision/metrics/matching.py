"""Largest one-to-one matchings of two sets of pixels, one of which changes. numpy only."""

import numpy as np


def matching_sizes(
    pixels: np.ndarray, there: np.ndarray, truth: np.ndarray, radius: float
) -> np.ndarray:
    """Sizes of the largest matchings between `truth` and each of T sets of pixels.

    Each pixel is matched at most once, with one not farther than `radius`. The sets are visited
    from the last to the first and the matching is mended where two of them differ, which costs
    little where they are nearly nested.

    Args:
      pixels: integer ``[P, 2]`` (row, column), all different.
      there: bool ``[T, P]``, which pixels each set has.
      truth: integer ``[G, 2]``, all different.
      radius: in pixels, Euclidean, inclusive.

    Returns: int64 ``[T]``.
    """
    near, left, right = neighbours(pixels, truth, radius)
    matching = Matching(left, right)
    sizes, before = np.zeros(len(there), np.int64), np.zeros(len(near), bool)
    for t in range(len(there) - 1, -1, -1):
        now = there[t, near]
        for p in np.flatnonzero(before & ~now).tolist():
            matching.remove(p)
        for p in np.flatnonzero(now & ~before).tolist():
            matching.insert(p)
        sizes[t], before = matching.size, now
    return sizes


def neighbours(
    pixels: np.ndarray, truth: np.ndarray, radius: float
) -> tuple[np.ndarray, list[list[int]], list[list[int]]]:
    """Returns which `pixels` have a true pixel within `radius`, and who is near whom.

    Returns: indices ``[N]`` into `pixels`; the true pixels near each of these N; for each true
      pixel those of the N that are near it, nearest first.
    """
    reach = int(radius)
    steps = np.stack(np.mgrid[-reach : reach + 1, -reach : reach + 1], -1).reshape(-1, 2)
    distance = (steps**2).sum(1)
    steps = steps[np.argsort(distance, kind="stable")[: (distance <= radius**2).sum()]]
    low = np.minimum(pixels.min(0, initial=0), truth.min(0, initial=0)) - reach
    height, width = np.maximum(pixels.max(0, initial=0), truth.max(0, initial=0)) - low + reach + 1
    index = np.full(height * width, -1, np.int32)  # of the pixel at a place
    index[(pixels - low) @ [width, 1]] = np.arange(len(pixels))
    found = index[((truth - low) @ [width, 1])[:, None] + steps @ [width, 1]]  # [G, steps]
    g = np.repeat(np.arange(len(truth)), (found >= 0).sum(1))
    near, p = np.unique(found[found >= 0], return_inverse=True)
    order = np.argsort(p, kind="stable")
    return near, _lists(p[order], g[order], len(near)), _lists(g, p, len(truth))


def _lists(keys: np.ndarray, values: np.ndarray, count: int) -> list[list[int]]:
    """Groups `values` by their ascending `keys` in 0..count-1."""
    ends = np.searchsorted(keys, np.arange(count + 1)).tolist()
    flat = values.tolist()
    return [flat[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


class Matching:
    """A largest matching, kept largest while vertices on the left come and go.

    By augmenting paths. What keeps it fast is the set of closed vertices on the right: all of them
    are matched, and from their partners edges lead to closed vertices only. So no path from them
    ends at a free vertex and searches from the left leave them out. A search that fails closes what
    it has seen; every free vertex on the left has closed neighbours only. When a closed vertex
    loses its partner, any path that mends this runs through closed vertices, and if there is none
    those that lead to it are opened again.
    """

    def __init__(self, left: list[list[int]], right: list[list[int]]):
        """Takes the neighbours of each vertex; at first none on the left is there."""
        self.left, self.right = left, right
        self.of_left, self.of_right = [-1] * len(left), [-1] * len(right)
        self.there, self.closed = bytearray(len(left)), bytearray(len(right))
        self.size = 0

    def insert(self, new: int) -> None:
        """Adds a left vertex, with the shortest augmenting path from it if there is one."""
        self.there[new] = 1
        came_from: dict[int, int] = {}
        queue = [new]
        for p in queue:
            for g in self.left[p]:
                if self.closed[g] or g in came_from:
                    continue
                came_from[g] = p
                if self.of_right[g] < 0:
                    return self._flip_left(came_from, g)
                queue.append(self.of_right[g])
        for g in came_from:
            self.closed[g] = 1

    def remove(self, old: int) -> None:
        """Takes a left vertex away; its partner gets another one if any path leads to one."""
        self.there[old] = 0
        freed, self.of_left[old] = self.of_left[old], -1
        if freed < 0:
            return
        self.of_right[freed] = -1
        self.size -= 1
        if not self.closed[freed]:
            return
        came_from: dict[int, int] = {}
        queue = [freed]
        for g in queue:
            for p in self.right[g]:
                if not self.there[p] or p in came_from:
                    continue
                partner = self.of_left[p]
                if partner < 0:
                    came_from[p] = g
                    return self._flip_right(came_from, p)
                if self.closed[partner]:
                    came_from[p] = g
                    queue.append(partner)
        for g in queue:
            self.closed[g] = 0

    def _flip_left(self, came_from: dict[int, int], g: int) -> None:
        self.size += 1
        while g >= 0:
            p = came_from[g]
            self.of_right[g] = p
            self.of_left[p], g = g, self.of_left[p]

    def _flip_right(self, came_from: dict[int, int], p: int) -> None:
        self.size += 1
        while p >= 0:
            g = came_from[p]
            self.of_left[p] = g
            self.of_right[g], p = p, self.of_right[g]
