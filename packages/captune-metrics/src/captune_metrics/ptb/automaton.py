"""Longest-match scanning by a deterministic automaton that grows as it meets text.

A scanner has rules in order. At a place in the text the rule with the longest match wins, and
among equally long ones the first. A rule may look ahead: what follows the token counts for the
length of the match and does not belong to the token. Python's `re` takes the first alternative
that fits, not the longest, and may take exponential time; this takes one step a character.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# states are made on demand; hostile text must not make them without end
_MOST_STATES = 50_000
# a scan that ran this far past its token remembers where it failed
_FAR = 32
# and notes only every so many characters, to keep the notes small
_MARK = 16


class Rule(NamedTuple):
    """`pattern` is the token, `ahead` what must follow it; both as `_PatternParser` reads them."""

    name: str
    pattern: str
    ahead: str | None = None


class _Graph:
    """A nondeterministic automaton: per node, edges without and with a character."""

    def __init__(self, macros: Mapping[str, str], alphabet: frozenset[str]) -> None:
        self.macros = macros
        self.alphabet = alphabet
        self.silent: list[list[int]] = []
        self.edges: list[list[tuple[frozenset[str], int]]] = []
        self.accepts: dict[int, int] = {}

    def node(self) -> int:
        self.silent.append([])
        self.edges.append([])
        return len(self.silent) - 1

    def add(self, pattern: str, source: int) -> int:
        """Read `pattern` from `source` on; returns the node behind it."""
        return _PatternParser(self, pattern).alternatives(source)


class _PatternParser:
    r"""A pattern becomes nodes of a graph.

    Blanks mean nothing; `\ ` is a blank and `\x` any other character itself; `[a-z\-]` and
    `[^...]` are sets; `( | )`, `* + ?`, `{2,4}` as usual; `{name}` puts in a macro;
    `<word word>` is any of the words, letter case ignored, `<=Word Word>` exactly as written, and
    `<^Word Word>` with the first letters as written.
    """

    def __init__(self, graph: _Graph, pattern: str) -> None:
        self.graph = graph
        self.pattern = pattern
        self.at = 0

    def alternatives(self, source: int) -> int:
        end = self.graph.node()
        while True:
            self.graph.silent[self._sequence(source)].append(end)
            if self._peek() != "|":
                return end
            self.at += 1

    def _peek(self) -> str:
        while self.pattern[self.at : self.at + 1].isspace():
            self.at += 1
        return self.pattern[self.at : self.at + 1]

    def _sequence(self, source: int) -> int:
        while self._peek() not in ("", "|", ")"):
            start = self.at
            end = self._atom(source)
            source = self._repeated(source, end, start, self.at)
        return source

    def _atom(self, source: int) -> int:
        graph = self.graph
        sign = self._peek()
        self.at += 1
        if sign == "(":
            end = self.alternatives(source)
            self.at += 1
            return end
        if sign == "<":
            close = self.pattern.index(">", self.at)
            inside = self.pattern[self.at : close]
            self.at = close + 1
            return self._words(source, inside)
        if sign == "{":
            close = self.pattern.index("}", self.at)
            macro = graph.macros[self.pattern[self.at : close]]
            self.at = close + 1
            return _PatternParser(graph, macro).alternatives(source)
        if sign == "[":
            characters = self._set()
        elif sign == "\\":
            escaped, self.at = _escaped(self.pattern, self.at)
            characters = frozenset(escaped)
        else:
            characters = frozenset(sign)
        end = graph.node()
        graph.edges[source].append((characters, end))
        return end

    def _set(self) -> frozenset[str]:
        close = self.at
        while self.pattern[close] != "]":
            close += 2 if self.pattern[close] == "\\" else 1
        inside = self.pattern[self.at : close]
        self.at = close + 1
        negated = inside.startswith("^")
        found: set[str] = set()
        signs = _unescaped(inside[negated:])
        at = 0
        while at < len(signs):
            if at + 2 < len(signs) and signs[at + 1] == ("-", False):
                low, high = signs[at][0], signs[at + 2][0]
                found.update(sign for sign in self.graph.alphabet if low <= sign <= high)
                at += 3
            else:
                found.add(signs[at][0])
                at += 1
        return frozenset(self.graph.alphabet - found if negated else found)

    def _words(self, source: int, inside: str) -> int:
        graph = self.graph
        exact, opening = inside.startswith("="), inside.startswith("^")
        end = graph.node()
        # a tree of letters keeps the automaton small
        tree: dict[tuple[int, str], int] = {}
        for word in inside.lstrip("=^").split():
            at = source
            for place, letter in enumerate(word):
                as_written = exact or (opening and not place)
                letter = letter if as_written else letter.lower()
                after = tree.get((at, letter))
                if after is None:
                    after = tree[at, letter] = graph.node()
                    cases = frozenset([letter] if as_written else [letter, letter.upper()])
                    graph.edges[at].append((cases, after))
                at = after
            graph.silent[at].append(end)
        return end

    def _repeated(self, source: int, end: int, start: int, stop: int) -> int:
        """Apply `* + ? {m,n}` to the atom that was read from `start` to `stop`."""
        graph = self.graph
        sign = self._peek()
        if sign == "{" and self.pattern[self.at + 1].isdigit():
            close = self.pattern.index("}", self.at)
            least, _, most = self.pattern[self.at + 1 : close].partition(",")
            self.at = close + 1
            low, high = int(least), int(most or least)
            ends = [source, end]
            for _ in range(high - 1):
                ends.append(self._again(ends[-1], start, stop))
            last = graph.node()
            for at in ends[low : high + 1]:
                graph.silent[at].append(last)
            return last
        if sign not in ("*", "+", "?"):
            return end
        self.at += 1
        # own nodes at both sides, so that loops of neighbours do not run into each other
        entry, last = graph.node(), graph.node()
        graph.silent[source].append(entry)
        inner = self._again(entry, start, stop)
        graph.silent[inner].append(last)
        if sign != "+":
            graph.silent[source].append(last)
        if sign != "?":
            graph.silent[inner].append(entry)
        return last

    def _again(self, source: int, start: int, stop: int) -> int:
        copy = _PatternParser(self.graph, self.pattern[start:stop])
        return copy._sequence(source)


def _escaped(pattern: str, at: int) -> tuple[str, int]:
    """The character that the letters behind a backslash stand for, and where they end."""
    sign = pattern[at]
    digits = {"x": 2, "u": 4}.get(sign, 0)
    if digits:
        return chr(int(pattern[at + 1 : at + 1 + digits], 16)), at + 1 + digits
    return {"t": "\t", "n": "\n"}.get(sign, sign), at + 1


def _unescaped(inside: str) -> list[tuple[str, bool]]:
    """The characters of a set, each with whether a backslash stood before it."""
    signs: list[tuple[str, bool]] = []
    at = 0
    while at < len(inside):
        if inside[at] == "\\":
            sign, at = _escaped(inside, at + 1)
            signs.append((sign, True))
        else:
            signs.append((inside[at], False))
            at += 1
    return signs


class _State(dict[str, "_State | None"]):
    """Where a scan may be: character -> state, filled when first asked for; None is the end."""

    __slots__ = ("goes_on", "nodes", "rule", "scanner")

    def __init__(self, scanner: Scanner, nodes: frozenset[int], rule: int | None) -> None:
        super().__init__()
        self.scanner = scanner
        self.nodes = nodes
        self.rule = rule
        self.goes_on = scanner.goes_on(nodes)

    def __missing__(self, character: str) -> _State | None:
        after = self[character] = self.scanner.step(self.nodes, character)
        return after

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


# the states, and the places in the text, from which nothing longer was found
Failures = set[tuple[_State, int]]


class Scanner:
    """Finds the next token of a text by rules.

    rules: see `Rule`; macros: name -> pattern; alphabet: every character a text may hold.
    """

    def __init__(
        self, rules: Sequence[Rule], macros: Mapping[str, str], alphabet: Iterable[str]
    ) -> None:
        self.rules = rules
        self._graph = _Graph(macros, frozenset(alphabet))
        start = self._graph.node()
        for number, rule in enumerate(rules):
            whole = rule.pattern if rule.ahead is None else f"({rule.pattern})({rule.ahead})"
            # one node of its own, so that no rule loops back into the start of another
            entry = self._graph.node()
            self._graph.silent[start].append(entry)
            self._graph.accepts[self._graph.add(whole, entry)] = number
        self._reach: dict[int, frozenset[int]] = {}
        self._start_nodes = self._closure([start])
        self._parts: dict[int, tuple[Scanner, Scanner]] = {}
        self._known: dict[frozenset[int], _State] = {}
        self._start = self._state(self._start_nodes)

    def scan(self, text: str, at: int, failed: Failures) -> tuple[int, int, int]:
        """The token that starts at `at`.

        failed: empty at first, one a text: where earlier scans ran on in vain. It keeps the whole
        text linear in its length (Reps 1998, "Maximal-munch" tokenization in linear time).
        Returns the number of its rule or -1, the end of the token (`at` if none), and how far
        the scan looked: len(text) + 1 where more text could have changed the answer.
        """
        state: _State | None = self._start
        if len(self._known) > _MOST_STATES:
            self._known.clear()
            failed.clear()
            state = self._start = self._state(self._start_nodes)
        rule, end = -1, at
        position = at
        length = len(text)
        while position < length:
            assert state is not None
            state = state[text[position]]
            if state is None:
                break
            position += 1
            if state.rule is not None:
                rule, end = state.rule, position
            elif position - end > _FAR and not position % _MARK:
                if (state, position) in failed:
                    state = None
                    break
                failed.add((state, position))
        looked = position + 1 if state is None or state.goes_on else position
        if rule >= 0 and self.rules[rule].ahead is not None:
            end = self._split(rule, text, at, end)
        return rule, end, looked

    def goes_on(self, nodes: frozenset[int]) -> bool:
        """Whether any character leads on from `nodes`."""
        return any(self._graph.edges[node] for node in nodes)

    def step(self, nodes: frozenset[int], character: str) -> _State | None:
        """The state behind `character`; None where no rule goes on."""
        edges = self._graph.edges
        found = [to for node in nodes for among, to in edges[node] if character in among]
        return self._state(self._closure(found)) if found else None

    def _state(self, nodes: frozenset[int]) -> _State:
        state = self._known.get(nodes)
        if state is None:
            accepts = self._graph.accepts
            rule = min((accepts[node] for node in nodes if node in accepts), default=None)
            state = self._known[nodes] = _State(self, nodes, rule)
        return state

    def _closure(self, nodes: Iterable[int]) -> frozenset[int]:
        return frozenset().union(*[self._reached(node) for node in nodes])

    def _reached(self, node: int) -> frozenset[int]:
        """The nodes that `node` leads to without a character, as far as they do anything."""
        reached = self._reach.get(node)
        if reached is None:
            graph = self._graph
            seen = {node}
            waiting = [node]
            while waiting:
                for after in graph.silent[waiting.pop()]:
                    if after not in seen:
                        seen.add(after)
                        waiting.append(after)
            reached = frozenset(n for n in seen if graph.edges[n] or n in graph.accepts)
            self._reach[node] = reached
        return reached

    def _split(self, rule: int, text: str, start: int, end: int) -> int:
        """The end of the longest token in text[start:end] that the rest can follow."""
        parts = self._parts.get(rule)
        if parts is None:
            name, token, ahead = self.rules[rule]
            how = self._graph.macros, self._graph.alphabet
            parts = Scanner([Rule(name, token)], *how), Scanner([Rule(name, ahead or "")], *how)
            self._parts[rule] = parts
        ends = parts[0].ends(text, start, end)
        for middle in reversed(ends):
            if parts[1].ends(text, middle, end)[-1:] == [end]:
                return middle
        raise AssertionError(f"{self.rules[rule].name}: a match without its parts")

    def ends(self, text: str, at: int, stop: int) -> list[int]:
        """Every end, up to `stop`, of a match that starts at `at`."""
        state: _State | None = self._start
        found = [at] if self._start.rule is not None else []
        for position in range(at, stop):
            assert state is not None
            state = state[text[position]]
            if state is None:
                break
            if state.rule is not None:
                found.append(position + 1)
        return found
