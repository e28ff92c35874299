"""parse(render(x)) == x, for edits, saved tables and single rules."""

from hypothesis import given
from hypothesis import strategies as st

from netsim.ruleset.iptables import TableEdit, parse_edits, parse_save, render_edits, render_save
from netsim.ruleset.iptables_rule import Match, Rule, parse_rule, quote_word, render_rule, split_words

NAMES = st.from_regex(r"[A-Z][A-Z0-9-]{0,20}", fullmatch=True)
TEXT = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=30)
ADDRESSES = st.ip_addresses(v=4).map(str)
MATCHES = st.one_of(
    st.builds(Match, st.sampled_from(["-s", "-d"]), ADDRESSES, st.booleans()),
    st.builds(Match, st.just("--comment"), TEXT),
    st.builds(Match, st.just("--dport"), st.integers(1, 65535).map(str), st.booleans()),
    st.builds(Match, st.sampled_from(["--reap", "--set", "--rsource"])),
)
RULES = st.one_of(
    st.builds(Rule, st.lists(MATCHES, max_size=4).map(tuple), st.one_of(st.just(""), NAMES)),
    st.builds(
        Rule,
        st.lists(MATCHES, max_size=2).map(tuple),
        st.just("DNAT"),
        ADDRESSES.map(lambda a: (("--to-destination", f"{a}:80"),)),
    ),
)
SPECS = RULES.map(render_rule).filter(bool)
CHAINS = st.dictionaries(NAMES, st.lists(SPECS, max_size=4).map(tuple), max_size=4)


@st.composite
def edits(draw: st.DrawFn) -> TableEdit:
    chains = draw(CHAINS)
    delete = [name for name in draw(st.lists(NAMES, max_size=3, unique=True)) if name not in chains]
    pairs = st.lists(st.tuples(st.sampled_from(["INPUT", "OUTPUT"]), SPECS), max_size=3).map(tuple)
    return TableEdit(draw(st.sampled_from(["filter", "nat"])), chains, draw(pairs), draw(pairs), tuple(delete))


@given(st.lists(edits(), max_size=3))
def test_edits(made: list[TableEdit]) -> None:
    wanted = [edit for edit in made if edit]
    assert parse_edits(render_edits(made)) == wanted


@given(st.dictionaries(st.sampled_from(["filter", "nat", "mangle"]), CHAINS, max_size=3))
def test_saved_tables(tables: dict[str, dict[str, tuple[str, ...]]]) -> None:
    assert parse_save(render_save(tables)) == tables


@given(RULES)
def test_rules(rule: Rule) -> None:
    assert parse_rule(render_rule(rule)) == rule


@given(st.lists(TEXT, max_size=5))
def test_words(words: list[str]) -> None:
    assert split_words(" ".join(map(quote_word, words))) == words
