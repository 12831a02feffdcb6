"""TD-MPC2's official names of weights, in both layouts, as ours.

The layers have the official names but for a leading underscore and the Q ensembles' `params`;
shapes are the same. Before November 2024 the ensembles' weights were numbered, 4 to a layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldflux.errors import CheckpointError
from worldflux.models.tdmpc2.world_model import TDMPC2

_ENSEMBLES = {"q": "_Qs.params", "target_q": "_target_Qs_params"}
_OLD = {"q": "_Qs.params", "target_q": "_target_Qs.params"}
_PARTS = ("weight", "bias", "ln.weight", "ln.bias")
DETACHED = "_detach_Qs_params"


def official_names(model: TDMPC2, old: bool = False) -> dict[str, str]:
    """Our name of every weight in an official file, by its official name. old: the first layout."""
    names = {}
    for ours in model.state_dict():
        network, _, rest = ours.partition(".")
        if network == "q_scale":
            continue  # not in the files
        if network not in _ENSEMBLES:
            names[f"_{ours}"] = ours
        elif old:
            layer, _, part = rest.partition(".")
            names[f"{_OLD[network]}.{4 * int(layer) + _PARTS.index(part)}"] = ours
        else:
            names[f"{_ENSEMBLES[network]}.{rest}"] = ours
    return names


def is_old(names: Mapping[str, object]) -> bool:
    """Whether a file has the layout of before November 2024."""
    return any(re.fullmatch(r"_Qs\.params\.\d+", name) for name in names)


def load_official(model: TDMPC2, arrays: Mapping[str, np.ndarray | Tensor]) -> None:
    """Sets every weight of the model from official arrays of either layout.

    Raises CheckpointError for an array that is missing or of another shape.
    """
    state = model.state_dict()
    for official, ours in official_names(model, is_old(arrays)).items():
        if official not in arrays:
            raise CheckpointError(f"the weight {official} is missing")
        value, target = torch.as_tensor(arrays[official]), state[ours]
        if value.shape != target.shape:
            shape, expected = list(value.shape), list(target.shape)
            raise CheckpointError(f"{official} has shape {shape}, expected {expected}")
        target.copy_(value)
