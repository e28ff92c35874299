"""Selectors: what is rendered reads back, and matches what the words say."""

from hypothesis import given
from hypothesis import strategies as st

from netsim.model.errors import ApiError
from netsim.model.selectors import (
    EXISTS,
    GREATER,
    IN,
    LESS,
    NOT_EXISTS,
    NOT_IN,
    FieldSelector,
    FieldTerm,
    LabelSelector,
    Requirement,
    label_selector_from_object,
    parse_field_selector,
    parse_label_selector,
)

keys = st.sampled_from(["app", "tier", "example.com/role", "x-1.y_z"])
values = st.sampled_from(["", "web", "db", "v1.2", "a_b", "7"])
several = st.sets(values, min_size=1, max_size=3).map(lambda found: tuple(sorted(found)))
numbers = st.integers(0, 50).map(lambda number: (str(number),))
requirements = st.one_of(
    st.builds(Requirement, keys, st.sampled_from([IN, NOT_IN]), several),
    st.builds(Requirement, keys, st.sampled_from([EXISTS, NOT_EXISTS])),
    st.builds(Requirement, keys, st.sampled_from([GREATER, LESS]), numbers),
)
labels = st.dictionaries(keys, values, max_size=3)


def ordered(found: list[Requirement]) -> tuple[Requirement, ...]:
    return tuple(sorted(found, key=lambda requirement: requirement.key))


@given(st.lists(requirements, max_size=4))
def test_a_label_selector_reads_back(found: list[Requirement]) -> None:
    selector = LabelSelector(ordered(found))
    assert parse_label_selector(str(selector)) == selector


@given(st.lists(requirements, max_size=4), labels)
def test_a_selector_is_the_conjunction_of_its_requirements(found: list[Requirement], on: dict[str, str]) -> None:
    assert LabelSelector(ordered(found)).matches(on) == all(requirement.matches(on) for requirement in found)


@given(keys, several, labels)
def test_not_in_is_the_opposite_of_in(key: str, wanted: tuple[str, ...], on: dict[str, str]) -> None:
    assert Requirement(key, IN, wanted).matches(on) != Requirement(key, NOT_IN, wanted).matches(on)


@given(st.dictionaries(keys, values, max_size=3), labels)
def test_the_object_form_matches_as_the_string_form(wanted: dict[str, str], on: dict[str, str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in wanted.items())
    by_object = label_selector_from_object({"matchLabels": wanted})
    assert by_object.matches(on) == parse_label_selector(text).matches(on) == (wanted.items() <= on.items())


@given(st.text(alphabet="ab=!,()<> in.-", max_size=20))
def test_any_text_is_read_or_refused_with_400(text: str) -> None:
    refused = None
    try:
        selector = parse_label_selector(text)
    except ApiError as error:
        refused = error.code
    else:
        assert parse_label_selector(str(selector)) == selector
    assert refused in (None, 400)


paths = st.sampled_from(["metadata.name", "spec.nodeName", "status.phase"])
terms = st.builds(FieldTerm, paths, st.text(alphabet="ab\\,=-", max_size=6), st.booleans())


@given(st.lists(terms, max_size=3))
def test_a_field_selector_reads_back(found: list[FieldTerm]) -> None:
    selector = FieldSelector(tuple(found))
    assert parse_field_selector(str(selector)) == selector
