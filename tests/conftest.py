"""Property tests of the suite: the same examples every time, and no search for a smaller failure.

`pytest --hypothesis-profile=random` draws others, and prints the seed that draws them again;
`--hypothesis-profile=default` also shrinks what fails.
"""

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="worldflux-tests-")  # the key of the user

PHASES = (Phase.explicit, Phase.generate)
settings.register_profile("random", phases=PHASES, print_blob=True)
settings.register_profile("suite", phases=PHASES, derandomize=True)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that at the end no worker waits for another one. `slow(80)`: about 80 s."""

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return 0.0 if mark is None else mark.args[0] if mark.args else 5.0

    items.sort(key=seconds, reverse=True)  # equal ones stay together


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, in this process and in those that it starts, also where the suite runs in the
    background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
