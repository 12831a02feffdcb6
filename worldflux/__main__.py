"""`python -m worldflux`: the verbs of `worldflux`."""

import sys

from worldflux.cli.verbs import main

sys.exit(main())
