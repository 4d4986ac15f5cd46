"""Who is cut off, looked at with streams that only say how far they are."""

from typing import Any

from app.door.slow_clients import MAX_UNSENT_BYTES, PATIENCE, Watch


class Stream:
    def __init__(self, *, unsent: int = 0, header: bool = False) -> None:
        self._write_buffer: Any = b"x" * unsent
        self._total_write_done_index = 0
        self._read_regex = "headers" if header else None
        self._read_buffer_size = 10 if header else 0
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
        self._write_buffer = None

    def closed(self) -> bool:
        return self.is_closed


def watch_of(*streams: Stream) -> Watch:
    class Connection:
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

    class Server:
        _connections = tuple(Connection(stream) for stream in streams)

    return Watch([Server()])  # type: ignore[list-item]


def test_who_reads_nothing_is_cut_off_after_some_looks_and_who_reads_is_not() -> None:
    stuck, slow = Stream(unsent=100), Stream(unsent=100)
    watch = watch_of(stuck, slow)

    for _ in range(PATIENCE + 1):
        slow._total_write_done_index += 1
        watch.look()

    assert (stuck.is_closed, slow.is_closed) == (True, False)
    assert watch.look() == 0


def test_a_header_that_never_ends_is_cut_off_though_bytes_drop_in() -> None:
    dripping = Stream(header=True)
    watch = watch_of(dripping)

    for _ in range(PATIENCE + 1):
        dripping._read_buffer_size += 1
        watch.look()

    assert dripping.is_closed


def test_an_idle_connection_is_left_alone_and_a_huge_answer_nobody_takes_is_not() -> None:
    idle, huge = Stream(), Stream(unsent=MAX_UNSENT_BYTES + 1)
    watch = watch_of(idle, huge)

    for _ in range(PATIENCE + 2):
        watch.look()

    assert (idle.is_closed, huge.is_closed) == (False, True)
