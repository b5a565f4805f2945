# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Sudoku grids and their solutions by randomised search.

Pure-Python mode of Cython: compiled where there is a compiler, run as it is where there is none,
with the same numbers either way. ``box`` is the side of a box: 2 for 4x4 grids, 3 for 9x9. Cells
hold 0 (blank) or 1..box*box, row by row.
"""

import array

import cython

SIDE_MAX = 16
WORD = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFF)  # a literal of this size would be a Python object


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _next(state: cython.ulonglong) -> cython.ulonglong:
    """One step of xorshift64."""
    state ^= (state << 13) & WORD
    state ^= state >> 7
    state ^= (state << 17) & WORD
    return state


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _ones(bits: cython.int) -> cython.int:
    """How many of 16 bits are set."""
    bits = bits - (bits >> 1 & 0x5555)
    bits = (bits & 0x3333) + (bits >> 2 & 0x3333)
    bits = (bits + (bits >> 4)) & 0x0F0F
    return (bits + (bits >> 8)) & 0x1F


@cython.cclass
class Search:
    """Depth-first search over the cell with the fewest candidates, ties and digits in random order."""

    box: cython.int
    side: cython.int
    random: cython.ulonglong
    found: cython.int
    limit: cython.int
    cells: cython.int[256]
    solution: cython.int[256]
    row_of: cython.int[256]
    column_of: cython.int[256]
    box_of: cython.int[256]
    rows: cython.int[16]
    columns: cython.int[16]
    boxes: cython.int[16]

    def __init__(self, box: cython.int, seed: cython.ulonglong) -> None:
        self.box, self.side = box, box * box
        state: cython.ulonglong = (seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        self.random = (state ^ (state >> 31)) | 1
        if not cython.compiled:
            self.cells, self.solution = [0] * 256, [0] * 256
            self.row_of, self.column_of, self.box_of = [0] * 256, [0] * 256, [0] * 256
            self.rows, self.columns, self.boxes = [0] * 16, [0] * 16, [0] * 16
        i: cython.int
        for i in range(self.side * self.side):
            self.row_of[i], self.column_of[i] = i // self.side, i % self.side
            self.box_of[i] = i // self.side // box * box + i % self.side // box

    def place(self, clues: list) -> bool:
        """Set the clues; False if two of them clash."""
        i: cython.int
        bit: cython.int
        for i in range(self.side):
            self.rows[i] = self.columns[i] = self.boxes[i] = 0
        for i in range(self.side * self.side):
            self.cells[i] = 0
        for i in range(self.side * self.side):
            if clues[i]:
                bit = 1 << (clues[i] - 1)
                if self._used(i) & bit:
                    return False
                self._set(i, clues[i], bit)
        return True

    def solve(self, limit: cython.int) -> cython.int:
        """Search until ``limit`` solutions are found; return how many were."""
        self.found, self.limit = 0, limit
        self._search()
        return self.found

    def answer(self) -> list:
        """The last solution found."""
        return [self.solution[i] for i in range(self.side * self.side)]

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _used(self, i: cython.int) -> cython.int:
        return self.rows[self.row_of[i]] | self.columns[self.column_of[i]] | self.boxes[self.box_of[i]]

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _set(self, i: cython.int, digit: cython.int, bit: cython.int) -> cython.void:
        self.cells[i] = digit
        self.rows[self.row_of[i]] ^= bit
        self.columns[self.column_of[i]] ^= bit
        self.boxes[self.box_of[i]] ^= bit

    @cython.cfunc
    @cython.exceptval(check=False)
    def _search(self) -> cython.void:
        i: cython.int
        n: cython.int
        free: cython.int
        best: cython.int = -1
        fewest: cython.int = SIDE_MAX + 1
        ties: cython.int = 0
        full: cython.int = (1 << self.side) - 1
        bits: cython.int
        for i in range(self.side * self.side):
            if self.cells[i]:
                continue
            free = full & ~self._used(i)
            n = _ones(free)
            if n == 0:
                return
            if n < fewest:
                best, fewest, ties = i, n, 1
            elif n == fewest:
                ties += 1
                self.random = _next(self.random)
                if (self.random >> 33) % ties == 0:
                    best = i
        if best < 0:
            self.found += 1
            for i in range(self.side * self.side):
                self.solution[i] = self.cells[i]
            return
        bits = full & ~self._used(best)
        while bits and self.found < self.limit:
            self.random = _next(self.random)
            n = (self.random >> 33) % fewest
            free = bits
            for i in range(n):  # noqa: B007  (typed, so that the loop is C)
                free &= free - 1
            free &= -free
            bits ^= free
            fewest -= 1
            i = 0
            while (1 << i) != free:
                i += 1
            self._set(best, i + 1, free)
            self._search()
            self._set(best, 0, free)


def grids(box: int, first: int, count: int, seed: int) -> array.array:
    """Full grids number ``first`` to ``first + count - 1`` of the stream ``seed``, as one array of bytes."""
    out = array.array("b")
    blank = [0] * box**4
    for index in range(first, first + count):
        search = Search(box, (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF)
        search.place(blank)
        search.solve(1)
        out.extend(search.answer())
    return out


def count_solutions(box: int, clues: list, limit: int) -> int:
    """How many solutions a puzzle has, counted up to ``limit``; 0 where clues clash."""
    search = Search(box, 1)
    return search.solve(limit) if search.place(clues) else 0
