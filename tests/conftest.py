"""Property tests of the suite: the same examples every time, and no search for a smaller failure.

`pytest --hypothesis-profile=default` draws random examples and shrinks what fails.
"""

from hypothesis import Phase, settings

settings.register_profile("suite", derandomize=True, phases=(Phase.explicit, Phase.generate))
settings.load_profile("suite")
