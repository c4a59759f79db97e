"""Where boxes and arrows go: a layered layout from top to bottom, after Sugiyama, Tagawa and Toda (1981).

Cycles are opened, nodes put into layers, crossings reduced by barycentres, and positions found by least squares. The same
graph always gives the same layout. Knows sizes and edges only. All lengths are pixels at zoom 1.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
Edge: TypeAlias = tuple[str, str]

_BESIDE = 34.0  # between neighbours in a layer
_BESIDE_LINE = 16.0  # between two lines that pass through
_BELOW = 38.0  # between layers, at least
_MOST_BELOW = 96.0
_SWEEPS = 24
_TURNS = 12  # of placing
_LINE = 2.0  # the width that a line takes where it passes through a layer
_STRAIGHT = {0: 1.0, 1: 2.0, 2: 8.0}  # how hard a piece of an edge is pulled straight, by how many of its ends are bends


@dataclass(frozen=True, slots=True)
class Rect:
    """Where a box is: its upper left corner and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """The x of its centre."""
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is. A route is a line through its points, vertical wherever two of them have one x."""

    boxes: dict[str, Rect]
    routes: dict[Edge, tuple[Point, ...]]
    width: float
    height: float


def arrange(sizes: Mapping[str, Point], edges: Sequence[Edge]) -> Layout:
    """Place boxes of these sizes so that edges lead down where they can. Edges between unknown boxes, and to oneself, are left out."""
    known = [edge for edge in dict.fromkeys(edges) if edge[0] in sizes and edge[1] in sizes and edge[0] != edge[1]]
    reversed_ = _back_edges(list(sizes), known)
    down = [(edge[1], edge[0]) if edge in reversed_ else edge for edge in known]
    levels = _levels(list(sizes), down)
    grid = _Grid(sizes, levels, dict(zip(known, down, strict=True)))
    grid.untangle()
    grid.place()
    return grid.layout(reversed_)


def _back_edges(nodes: Sequence[str], edges: Sequence[Edge]) -> set[Edge]:
    """Return the edges that close a cycle, as a depth-first search from the sources meets them."""
    following: dict[str, list[str]] = {node: [] for node in nodes}
    entered: set[str] = set()
    for source, target in edges:
        following[source].append(target)
        entered.add(target)
    found: set[Edge] = set()
    state: dict[str, bool] = {}  # True: on the path; False: left
    for root in sorted(nodes, key=lambda node: node in entered):
        if root in state:
            continue
        state[root] = True
        path = [(root, iter(following[root]))]
        while path:
            node, rest = path[-1]
            for target in rest:
                if target not in state:
                    state[target] = True
                    path.append((target, iter(following[target])))
                    break
                if state[target]:
                    found.add((node, target))
            else:
                state[node] = False
                path.pop()
    return found


def _levels(nodes: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Return the layer of each node: as high as its predecessors allow, then drawn towards the side where it has more edges."""
    above: dict[str, list[str]] = {node: [] for node in nodes}
    below: dict[str, list[str]] = {node: [] for node in nodes}
    for source, target in edges:
        below[source].append(target)
        above[target].append(source)
    order = _topological(nodes, above, below)
    level: dict[str, int] = {}
    for node in order:
        level[node] = max((level[source] + 1 for source in above[node]), default=0)
    for node in reversed(order):
        if below[node] and len(below[node]) > len(above[node]):
            level[node] = min(level[target] for target in below[node]) - 1
    return level


def _topological(nodes: Sequence[str], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> list[str]:
    missing = {node: len(above[node]) for node in nodes}
    order = [node for node in nodes if not missing[node]]
    for node in order:  # grows while it is read
        for target in below[node]:
            missing[target] -= 1
            if not missing[target]:
                order.append(target)
    return order


class _Grid:
    """The layers, with a bend in every layer that an edge passes through."""

    def __init__(self, sizes: Mapping[str, Point], levels: Mapping[str, int], edges: Mapping[Edge, Edge]) -> None:
        self._sizes: dict[str, Point] = dict(sizes)
        self._bends: set[str] = set()
        self._layers: list[list[str]] = [[] for _ in range(max(levels.values(), default=-1) + 1)]
        for node, level in levels.items():
            self._layers[level].append(node)
        self._above: dict[str, list[str]] = {node: [] for node in sizes}
        self._below: dict[str, list[str]] = {node: [] for node in sizes}
        self._chains = {edge: self._chain(number, down, levels) for number, (edge, down) in enumerate(edges.items())}
        self._x: dict[str, float] = {}

    def _chain(self, number: int, edge: Edge, levels: Mapping[str, int]) -> list[str]:
        source, target = edge
        chain = [source]
        for level in range(levels[source] + 1, levels[target]):
            bend = f"\0{number}.{level}"  # no id has a NUL
            self._sizes[bend] = (_LINE, 0.0)
            self._bends.add(bend)
            self._layers[level].append(bend)
            self._above[bend], self._below[bend] = [], []
            chain.append(bend)
        chain.append(target)
        for upper, lower in pairwise(chain):
            self._below[upper].append(lower)
            self._above[lower].append(upper)
        return chain

    # --- order ---

    def untangle(self) -> None:
        """Order each layer by the barycentres of its neighbours, downwards and upwards in turn; keep the best order seen."""
        self._start()
        best, fewest = [list(layer) for layer in self._layers], self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            downwards = sweep % 2 == 0
            place = {node: number for layer in self._layers for number, node in enumerate(layer)}
            for layer in self._layers if downwards else reversed(self._layers):
                self._sort(layer, self._above if downwards else self._below, place)
            self._swap(place)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self._layers], crossings
        self._layers = best

    def _start(self) -> None:
        """Begin with the order of a walk along the edges: what belongs together stands together."""
        rank: dict[str, int] = {}
        todo = [node for layer in reversed(self._layers) for node in reversed(layer)]
        while todo:
            node = todo.pop()
            if node not in rank:
                rank[node] = len(rank)
                todo.extend(reversed(self._below[node]))
        for layer in self._layers:
            layer.sort(key=lambda node: rank[node])

    def _sort(self, layer: list[str], beside: Mapping[str, list[str]], place: dict[str, int]) -> None:
        weight = {node: _mean([place[other] for other in beside[node]], place[node]) for node in layer}
        layer.sort(key=lambda node: weight[node])
        place.update((node, number) for number, node in enumerate(layer))

    def _swap(self, place: dict[str, int]) -> None:
        """Exchange neighbours where that alone saves crossings."""
        for layer in self._layers:
            for at in range(len(layer) - 1):
                left, right = layer[at], layer[at + 1]
                now = self._between(left, right, place)
                if self._between(right, left, place) < now:
                    layer[at], layer[at + 1] = right, left
                    place[left], place[right] = at + 1, at

    def _between(self, left: str, right: str, place: Mapping[str, int]) -> int:
        """Count the crossings of the edges of two neighbours, if they stand in this order."""
        return sum(place[one] > place[other] for beside in (self._above, self._below) for one in beside[left] for other in beside[right])

    def _crossings(self) -> int:
        return sum(self._crossings_below(upper, lower) for upper, lower in pairwise(self._layers))

    def _crossings_below(self, upper: Sequence[str], lower: Sequence[str]) -> int:
        place = {node: number for number, node in enumerate(lower)}
        seen: list[int] = []
        crossings = 0
        for node in upper:
            ends = sorted(place[target] for target in self._below[node])
            crossings += sum(len(seen) - bisect_left(seen, end + 1) for end in ends)
            for end in ends:
                insort(seen, end)
        return crossings

    # --- positions ---

    def place(self) -> None:
        """Give every node an x near those of its neighbours, layer by layer; order and distances hold."""
        for layer in self._layers:
            self._settle(layer, dict.fromkeys(layer, (0.0, 1.0)))
        for turn in range(_TURNS):
            downwards = turn % 2 == 0
            for layer in self._layers if downwards else reversed(self._layers):
                sides = (self._above, self._below) if turn >= _TURNS - 4 else ((self._above,) if downwards else (self._below,))
                self._settle(layer, {node: self._wish(node, sides) for node in layer})
        for _ in range(2):
            self._straighten()

    def _straighten(self) -> None:
        """Put what hangs together one by one exactly under each other, as far as the neighbours leave room for it."""
        beside = {right: left for layer in self._layers for left, right in pairwise(layer)}
        after = {left: right for right, left in beside.items()}
        for chain in self._hanging():
            lowest = max((self._x[beside[node]] + self._distance(beside[node], node) for node in chain if node in beside), default=None)
            highest = min((self._x[after[node]] - self._distance(node, after[node]) for node in chain if node in after), default=None)
            if lowest is not None and highest is not None and lowest > highest:
                continue
            x = sum(self._x[node] for node in chain) / len(chain)
            x = x if lowest is None else max(x, lowest)
            x = x if highest is None else min(x, highest)
            self._x.update(dict.fromkeys(chain, x))

    def _hanging(self) -> list[list[str]]:
        """Return the longest chains in which each has only the next below it, and that only this one above it."""
        chains: list[list[str]] = []
        for node in (node for layer in self._layers for node in layer):
            if self._only_below(node) is None or any(self._only_below(upper) == node for upper in self._above[node]):
                continue
            chain, following = [node], self._only_below(node)
            while following is not None:
                chain.append(following)
                following = self._only_below(following)
            chains.append(chain)
        return chains

    def _only_below(self, node: str) -> str | None:
        """Return what hangs under a node, if that is one, which hangs under nothing else."""
        below = self._below[node]
        return below[0] if len(below) == 1 and len(self._above[below[0]]) == 1 else None

    def _wish(self, node: str, sides: Sequence[Mapping[str, list[str]]]) -> tuple[float, float]:
        """Return where a node wants to be, and how much."""
        total, weight = self._x[node] * 0.01, 0.01
        for side in sides:
            for other in side[node]:
                pull = _STRAIGHT[(node in self._bends) + (other in self._bends)]
                total, weight = total + pull * self._x[other], weight + pull
        return total / weight, weight

    def _settle(self, layer: Sequence[str], wishes: Mapping[str, tuple[float, float]]) -> None:
        """Fulfil the wishes as well as least squares can: nodes that would overlap are moved together (isotonic regression)."""
        offsets = [0.0]
        for left, right in pairwise(layer):
            offsets.append(offsets[-1] + self._distance(left, right))
        blocks: list[tuple[float, float, int]] = []  # mean, weight, count
        for node, offset in zip(layer, offsets, strict=False):
            wish, weight = wishes[node]
            block = (wish - offset, weight, 1)
            while blocks and blocks[-1][0] >= block[0]:
                mean, other, count = blocks.pop()
                total = other + block[1]
                block = ((mean * other + block[0] * block[1]) / total, total, count + block[2])
            blocks.append(block)
        at = 0
        for mean, _, count in blocks:
            for node, offset in zip(layer[at : at + count], offsets[at : at + count], strict=True):
                self._x[node] = mean + offset
            at += count

    def _distance(self, left: str, right: str) -> float:
        between = _BESIDE_LINE if left in self._bends and right in self._bends else _BESIDE
        return (self._sizes[left][0] + self._sizes[right][0]) / 2 + between

    # --- result ---

    def layout(self, reversed_: set[Edge]) -> Layout:
        """Return where everything is, moved so that the upper left corner is at (0, 0)."""
        left = min((self._x[node] - self._sizes[node][0] / 2 for node in self._x), default=0.0)
        for node in self._x:
            self._x[node] = self._x[node] - left
        tops, heights = self._rows()
        boxes: dict[str, Rect] = {}
        for layer, top, height in zip(self._layers, tops, heights, strict=True):
            for node in layer:
                if node not in self._bends:
                    width, own = self._sizes[node]
                    boxes[node] = Rect(self._x[node] - width / 2, top + (height - own) / 2, width, own)
        rows = {node: (top, top + height) for layer, top, height in zip(self._layers, tops, heights, strict=True) for node in layer}
        ports = self._ports()
        routes = {edge: self._route(number, chain, rows, boxes, ports) for number, (edge, chain) in enumerate(self._chains.items())}
        return Layout(
            boxes=boxes,
            routes={edge: route[::-1] if edge in reversed_ else route for edge, route in routes.items()},
            width=max((self._x[node] + self._sizes[node][0] / 2 for node in self._x), default=0.0),
            height=tops[-1] + heights[-1] if tops else 0.0,
        )

    def _rows(self) -> tuple[list[float], list[float]]:
        """Return top and height of each layer. Where an edge goes far to the side there is more room, so that it is not flat."""
        heights = [max((self._sizes[node][1] for node in layer), default=0.0) for layer in self._layers]
        tops: list[float] = []
        top = 0.0
        for layer, height in zip(self._layers, heights, strict=True):
            tops.append(top)
            widest = max((abs(self._x[node] - self._x[target]) for node in layer for target in self._below[node]), default=0.0)
            top += height + min(_MOST_BELOW, _BELOW + widest * 0.08)
        return tops, heights

    def _ports(self) -> dict[tuple[int, bool], float]:
        """Return where each edge leaves its upper box (True) and meets its lower one (False): spread, in the order of the far ends."""
        ends: dict[tuple[str, bool], list[tuple[float, int]]] = {}
        for number, chain in enumerate(self._chains.values()):
            ends.setdefault((chain[0], True), []).append((self._x[chain[1]], number))
            ends.setdefault((chain[-1], False), []).append((self._x[chain[-2]], number))
        ports: dict[tuple[int, bool], float] = {}
        for (node, leaves), others in ends.items():
            room = self._sizes[node][0] * 0.7
            step = min(18.0, room / max(1, len(others) - 1))
            first = self._x[node] - step * (len(others) - 1) / 2
            for at, (_, number) in enumerate(sorted(others)):
                ports[number, leaves] = first + step * at
        return ports

    def _route(
        self,
        number: int,
        chain: Sequence[str],
        rows: Mapping[str, tuple[float, float]],
        boxes: Mapping[str, Rect],
        ports: Mapping[tuple[int, bool], float],
    ) -> tuple[Point, ...]:
        upper, lower = boxes[chain[0]], boxes[chain[-1]]
        start, end = ports[number, True], ports[number, False]
        points = [(start, upper.y + upper.height), (start, rows[chain[0]][1])]
        for bend in chain[1:-1]:
            top, bottom = rows[bend]
            points += [(self._x[bend], top), (self._x[bend], bottom)]
        points += [(end, rows[chain[-1]][0]), (end, lower.y)]
        return tuple(dict.fromkeys(points))


def _mean(values: Sequence[int], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
