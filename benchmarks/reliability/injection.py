"""Pieces of control tokens, hidden in chats as `modeling_tests/test_typed.py` hides them, over its templates and tokenizers.

Survived: the control tokens of the prompt are those of the same chat with ordinary words in their place.
"""

import random
from collections.abc import Callable

from modeling_tests import test_typed

from .attack import Attack, Outcome


class Injection(Attack):
    name = "Chats: control tokens in random pieces, over roles, names, parts, calls and results"
    full = 10_000

    def attempt(self, rng: random.Random) -> Outcome:
        _, through = test_typed.attempts(rng.getrandbits(64), 1)
        return Outcome(not through, "got through" if through else "text", str(through)[:500])


ATTACKS: list[Callable[[], Attack]] = [Injection]
