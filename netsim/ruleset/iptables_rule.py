"""One iptables rule, taken apart: its matches, its target, and the inverse.

Knows the matches and targets that kube-proxy's rules consist of, in both spellings (as written, and as
iptables-save prints them). Anything else is an error: a reader that skips what it does not know would misjudge the
rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from netsim.model.errors import InputError

# Options of the matches, and how many values each takes. Source: iptables-extensions(8).
_OPTIONS: Mapping[str, int] = {
    "-s": 1,
    "-d": 1,
    "-p": 1,
    "-i": 1,
    "-o": 1,
    "-m": 1,
    "--comment": 1,
    "--dport": 1,
    "--sport": 1,
    "--ctstate": 1,
    "--mark": 1,
    "--dst-type": 1,
    "--src-type": 1,
    "--mode": 1,
    "--probability": 1,
    "--name": 1,
    "--rcheck": 0,
    "--set": 0,
    "--seconds": 1,
    "--reap": 0,
    "--mask": 1,
    "--rsource": 0,
    "--nfacct-name": 1,
}
_TARGET_OPTIONS: Mapping[str, Mapping[str, int]] = {
    "DNAT": {"--to-destination": 1},
    "MASQUERADE": {"--random-fully": 0},
    "MARK": {"--or-mark": 1, "--xor-mark": 1, "--set-xmark": 1},
    "REJECT": {"--reject-with": 1},
    "SNAT": {"--to-source": 1, "--random-fully": 0},
}
_LONG = {"--source": "-s", "--destination": "-d", "--protocol": "-p", "--jump": "-j", "--match": "-m"}


@dataclass(frozen=True, slots=True)
class Match:
    """One condition: ``! -s 10.0.0.0/8`` is Match("-s", "10.0.0.0/8", True). ``value`` is "" where there is none."""

    option: str
    value: str = ""
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. ``target`` is "" for a rule that only counts. ``options`` are the target's, as (option, value) pairs."""

    matches: tuple[Match, ...]
    target: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def get(self, option: str) -> str | None:
        """The value of the first match with this option, or None."""
        return next((m.value for m in self.matches if m.option == option), None)


def split_words(spec: str) -> list[str]:
    """The words of a spec; double quotes hold spaces, a backslash takes the next character as it is.

    Raises InputError for an open quote. Source: add_param_to_argv, iptables/xshared.c.
    """
    words: list[str] = []
    word: str | None = None
    quoted = escaped = False
    for char in spec:
        if escaped:
            word, escaped = (word or "") + char, False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted, word = not quoted, word or ""
        elif char in " \t" and not quoted:
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + char
    if quoted:
        raise InputError(f"open quote in rule {spec!r}")
    if word is not None:
        words.append(word)
    return words


def quote_word(word: str) -> str:
    """``word`` as iptables-save prints it: quoted when it holds anything but plain characters."""
    if word and all(c.isalnum() or c in "-_/.,:=+!*%[]()" for c in word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_rule(spec: str) -> Rule:
    """The structured form of a spec. Raises InputError for anything unknown."""
    matches: list[Match] = []
    target, options = "", []
    words = iter(split_words(spec))
    negated = False
    try:
        for word in words:
            word = _LONG.get(word, word)
            if word == "!":
                negated = True
                continue
            if word == "-j":
                target = next(words)
            elif word in _OPTIONS:
                matches.append(Match(word, next(words) if _OPTIONS[word] else "", negated))
            elif word in _TARGET_OPTIONS.get(target, {}):
                options.append((word, next(words) if _TARGET_OPTIONS[target][word] else ""))
            else:
                raise InputError(f"unknown option {word!r} in rule {spec!r}")
            negated = False
    except StopIteration:
        raise InputError(f"rule {spec!r} ends too early") from None
    return Rule(tuple(matches), target, tuple(options))


def render_rule(rule: Rule) -> str:
    """The spec of a rule; `parse_rule` of it gives the rule again."""
    words: list[str] = []
    for match in rule.matches:
        words += ["!"] if match.negated else []
        words.append(match.option)
        if _OPTIONS[match.option]:
            words.append(quote_word(match.value))
    if rule.target:
        words += ["-j", rule.target]
    for option, value in rule.options:
        words.append(option)
        if _TARGET_OPTIONS[rule.target][option]:
            words.append(quote_word(value))
    return " ".join(words)
