"""Property tests of the suite: the same examples every time, and no search for a smaller failure.

`pytest --hypothesis-profile=random` draws others, and prints the seed that draws them again;
`--hypothesis-profile=default` also shrinks what fails.
"""

import os
import tempfile

from hypothesis import Phase, settings

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="worldflux-tests-")  # the key of the user

PHASES = (Phase.explicit, Phase.generate)
settings.register_profile("random", phases=PHASES, print_blob=True)
settings.register_profile("suite", phases=PHASES, derandomize=True)
settings.load_profile("suite")
