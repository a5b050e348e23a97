"""Which groups of a data set are held out: a share of its images, of every character its part."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Sequence

from trainables.util.text import name_bytes, same_name


def hold_out_groups(groups: Sequence[str], share: float, characters: Sequence[str] = ()) -> set[str]:
    """Returns the groups that are held out: in the order of the hashes of their names, those that bring the number of
    held-out images nearer to `share` of all. An added image hardly changes the choice, and it is the same on every
    file system.

    Where characters are named, the next group is always of the character that lacks most of its own share. So every
    character of single images has at least one image held out where `share` of its images is one or more, and two where
    it is two or more. Of each character one group at least is trained on: one that has a single group is held out only
    where the others have too few to make up the share (what is asked for was then never learnt, but it is what there
    is).

    Neither side is left without an image if there are two groups: where every group is too large, the smallest is held
    out.

    Args:
        groups: Of each image.
        share: In (0, 1).
        characters: Whom each image shows; empty text where nobody is named, which is nobody's last group.
    """
    deal = _Deal(groups, share, characters)
    if len(deal.sizes) < 2:
        return set()
    for of_lone in (False, True):
        deal.hold_out([group for group in deal.ranked if deal.shows_lone(group) == of_lone])
    return deal.chosen or {min(deal.ranked, key=lambda group: deal.sizes[group])}


class _Deal:
    """The state of one deal, in which groups are held out one by one."""

    def __init__(self, groups: Sequence[str], share: float, characters: Sequence[str]) -> None:
        names = [same_name(group) for group in groups]
        shown = characters or ("",) * len(names)
        self.sizes = Counter(names)
        self.ranked = sorted(self.sizes, key=_hash)
        self.count = len(names)
        self.target = max(1.0, share * len(names))
        self.held = 0
        self.chosen: set[str] = set()
        self.who: dict[str, Counter[str]] = {}
        for name, character in zip(names, shown, strict=True):
            self.who.setdefault(name, Counter())[character] += 1
        #: Images of each character that are still to be held out for its share.
        self.lacking = {character: share * number for character, number in Counter(shown).items()}
        self.groups_of = Counter(character for who in self.who.values() for character in who)
        self.left = Counter(self.groups_of)  # groups of each character that are trained on

    def shows_lone(self, group: str) -> bool:
        """Whether it is the only group of a character."""
        return any(name and self.groups_of[name] == 1 for name in self.who[group])

    def hold_out(self, groups: Sequence[str]) -> None:
        """Holds out of these groups, which stand in the order of their hashes, what the share still lacks."""
        queues: dict[tuple[str, ...], deque[str]] = {}
        for group in groups:
            queues.setdefault(tuple(sorted(self.who[group])), deque()).append(group)
        heap = [self._priority(who, queue) for who, queue in queues.items()]
        heapq.heapify(heap)
        while heap:
            first = heapq.heappop(heap)
            queue = queues[first[2]]
            if (
                now := self._priority(first[2], queue)
            ) > first:  # a group that it shares a character with was held out
                heapq.heappush(heap, now)
                continue
            group = queue.popleft()
            if self._fits(group):
                self._take(group)
            if queue:
                heapq.heappush(heap, self._priority(first[2], queue))

    def _priority(self, who: tuple[str, ...], queue: Sequence[str]) -> tuple[float, str, tuple[str, ...]]:
        # Of several characters that one counts which has most already.
        return -min(self.lacking[name] for name in who), _hash(queue[0]), who

    def _fits(self, group: str) -> bool:
        with_it = self.held + self.sizes[group]
        is_last = any(name and self.left[name] == 1 < self.groups_of[name] for name in self.who[group])
        nearer = abs(with_it - self.target) < abs(self.held - self.target)
        return nearer and with_it < self.count and not is_last

    def _take(self, group: str) -> None:
        self.chosen.add(group)
        self.held += self.sizes[group]
        for name, number in self.who[group].items():
            self.lacking[name] -= number
            self.left[name] -= 1


def _hash(group: str) -> str:
    return hashlib.sha256(name_bytes(group)).hexdigest()
