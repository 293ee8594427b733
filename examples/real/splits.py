"""Splits that do not leak: items with similar names stay on one side."""

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from rapidfuzz import fuzz, process


SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
ALIKE = 90  # of 100: a name whose words are all in another's has 100
_ARTICLES = re.compile(r"^(a pair of|a|an|the|some|one|two) ")


def normalised(text: str) -> str:
    """A caption without case, punctuation and its leading article: "A badger." and "Badger" are the same."""
    return _ARTICLES.sub("", " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split()))


def clusters(names: Sequence[str], groups: Sequence[Hashable], same: Sequence[Sequence[Hashable]] = ()) -> list[int]:
    """The cluster number of each item.

    Two items are joined if they have the same name; if they have the same group, and rapidfuzz's token-set ratio of their
    names is at least `ALIKE` ("bison", "american bison"); or if they share a key other than None in a column of `same` (the
    hash of a file). Items that are connected through others are joined, too.
    """
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for column in (names, *same):
        first: dict[Hashable, int] = {}
        for i, key in enumerate(column):
            if key is not None:
                parent[root(i)] = root(first.setdefault(key, i))
    members = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    for places in members.values():
        words = [names[i] for i in places]
        ratios = process.cdist(words, words, scorer=fuzz.token_set_ratio, dtype=np.uint8, score_cutoff=ALIKE)
        for a, b in zip(*np.nonzero(np.triu(ratios, 1)), strict=True):
            parent[root(places[b])] = root(places[a])
    return [root(i) for i in range(len(names))]


def assign(cluster: Sequence[int], seed: int = 0) -> list[str]:
    """The split of each item. Clusters are assigned in a shuffled order, larger ones first, each to the split that is
    furthest below its share; so a cluster larger than a tenth of everything is for training."""
    sizes = defaultdict(int)
    for one in cluster:
        sizes[one] += 1
    order = np.random.default_rng(seed).permutation(sorted(sizes)).tolist()
    order.sort(key=lambda one: -sizes[one])
    counts, split = dict.fromkeys(SHARES, 0), {}
    for one in order:
        name = max(SHARES, key=lambda name: SHARES[name] * len(cluster) - counts[name])
        split[one] = name
        counts[name] += sizes[one]
    return [split[one] for one in cluster]
