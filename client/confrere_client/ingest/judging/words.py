"""Terms as whole words of a text: how what is too short for a search of bytes is found.

'Li' stands in 'listed' and '4711' in 0.34711; as a word of what somebody wrote neither does by
chance.
"""

import re
from collections.abc import Iterable, Iterator

WORD = re.compile(r"[^\W_]+")
LEAST_MARKS, LEAST_DIGITS = 2, 3
"""Letters and digits of a word that is looked for; digits of a number that is."""

RUN = re.compile(r"\d{4,}")
"""Digits that are looked for within a word, too: 'ward4711'."""

Key = tuple[str, ...]


class Words:
    """Terms that are looked for as words, whatever stands between the words of one term."""

    def __init__(self, terms: Iterable[str]) -> None:
        self._terms: dict[Key, str] = {words_of(term): term for term in terms if is_word(term)}
        self._longest = max(map(len, self._terms), default=0)

    def __len__(self) -> int:
        return len(self._terms)

    def found(self, text: str) -> set[str]:
        """Return the terms that stand in *text*.

        >>> sorted(Words(["li", "4711", "mai-ling"]).found("Li_4712, listed by Mai Ling"))
        ['li', 'mai-ling']
        """
        return {self._terms[key] for key in self._keys(words_of(text)) if key in self._terms}

    def _keys(self, words: Key) -> Iterator[Key]:
        for start, word in enumerate(words):
            for end in range(start + 1, min(start + self._longest, len(words)) + 1):
                yield words[start:end]
            yield from ((run,) for run in RUN.findall(word))


def words_of(text: str) -> Key:
    """Return the runs of letters and digits of a text, in lower case."""
    return tuple(WORD.findall(text.casefold()))


def is_word(term: str) -> bool:
    """Say whether a term is long enough to be looked for as a word.

    >>> is_word("li"), is_word("l"), is_word("471"), is_word("47"), is_word("a4")
    (True, False, True, False, True)
    """
    marks = "".join(words_of(term))
    return len(marks) >= (LEAST_DIGITS if marks.isdigit() else LEAST_MARKS)


def is_number(term: str) -> bool:
    """Say whether a term has no letter: where figures stand, it may be one of them."""
    return not any(map(str.isalpha, term))
