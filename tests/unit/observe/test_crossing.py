"""Order and merging of what several taps saw."""

from hypothesis import given
from hypothesis import strategies as st

from netsim.observe.crossing import MERGE_WINDOW_NS, Crossing, Interface, Merger, Sorter

POD = Interface(0, "pod/default/web", "eth0", "default_web")
NODE = Interface(1, "node/node-1", "veth1", "node-1")


def at(time_ns: int, interface: Interface = POD, data: bytes = b"x", *, outgoing: bool = True) -> Crossing:
    return Crossing(time_ns, interface, outgoing, data, len(data))


times = st.lists(st.lists(st.integers(0, 100)), max_size=5)


@given(times, st.integers(0, 110))
def test_everything_comes_out_once_by_time_and_only_what_is_old_enough(batches: list[list[int]], before: int) -> None:
    sorter = Sorter()
    for batch in batches:
        sorter.add(at(time) for time in batch)
    given_times = sorted(time for batch in batches for time in batch)
    early = sorter.release(before)
    assert [one.time_ns for one in early] == [time for time in given_times if time < before]
    assert len(sorter) == len(given_times) - len(early)
    assert [one.time_ns for one in early + sorter.release()] == given_times
    assert len(sorter) == 0


def test_equal_times_keep_their_taps_order() -> None:
    sorter = Sorter()
    sorter.add([at(5, data=b"a"), at(5, data=b"b")])
    sorter.add([at(5, NODE, data=b"c"), at(4, NODE, data=b"d")])
    assert [one.data for one in sorter.release()] == [b"d", b"a", b"b", b"c"]


def test_a_frame_is_left_where_it_was_first() -> None:
    merger = Merger()
    first, second = at(1), at(2, NODE, outgoing=False)
    assert merger.first_only([first, second, at(3, NODE, data=b"other")]) == [first, at(3, NODE, data=b"other")]


def test_a_frame_that_was_sent_twice_stays_twice() -> None:
    merger = Merger()
    crossings = [at(1), at(2, NODE), at(3), at(4, NODE)]
    assert merger.first_only(crossings[:1]) + merger.first_only(crossings[1:]) == [crossings[0], crossings[2]]


def test_the_same_bytes_much_later_are_another_frame() -> None:
    late = at(2 + MERGE_WINDOW_NS, NODE)
    assert Merger().first_only([at(1), late]) == [at(1), late]


def test_a_merger_forgets() -> None:
    merger = Merger()
    for number in range(10):
        merger.first_only([at(number * MERGE_WINDOW_NS + step, data=b"%d %d" % (number, step)) for step in range(3000)])
    assert len(merger._seen) < 10_000
