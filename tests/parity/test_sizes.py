"""Parameter counts of the presets against those of the official code, without allocating them."""

from __future__ import annotations

import pytest
import torch

from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.world_model import DreamerV3

IMAGE = {"image": {"shape": (3, 64, 64)}}
WALKER = {
    "height": {"shape": ()},
    "orientations": {"shape": (14,)},
    "velocity": {"shape": (9,)},
}
SPACES = {
    "image64_disc6": dict(observation_modalities=IMAGE, action_type="discrete"),
    "vec24_cont6": dict(observation_modalities=WALKER, action_type="continuous"),
    "image64_cont6": dict(observation_modalities=IMAGE, action_type="continuous"),
}
# Rows of the official table: spaces, size; all modules, then encoder, RSSM, decoder, reward,
# continue, actor, critic.
COUNTS = """
image64_disc6 size1m 686456 14304 376704 80595 57663 41153 49926 66111
image64_disc6 size12m 10492616 220416 5979648 1272003 721407 656129 789510 853503
image64_disc6 size25m 23487016 493824 13442304 2857635 1573503 1475713 1774086 1869951
image64_disc6 size50m 41646984 876032 23886848 5076355 2753279 2622977 3151878 3279615
image64_disc6 size100m 93463624 1966848 53721600 11413059 6095871 5900545 7087110 7278591
image64_disc6 size200m 165942536 3492864 95483904 20282115 10749183 10488833 12595206 12850431
image64_disc6 size400m 372887176 7850496 214791168 45617283 23987967 23597569 28329990 28712703
vec24_cont6 size1m 640867 10112 364416 51096 57663 41153 50316 66111
vec24_cont6 size12m 9738019 138752 5783040 794136 721407 656129 791052 853503
vec24_cont6 size25m 21782947 306432 12999936 1781016 1573503 1475713 1776396 1869951
vec24_cont6 size50m 38612003 539648 23100416 3161112 2753279 2622977 3154956 3279615
vec24_cont6 size100m 86622499 1202688 51952128 7100952 6095871 5900545 7091724 7278591
vec24_cont6 size200m 153769507 2127872 92338176 12613656 10749183 10488833 12601356 12850431
vec24_cont6 size400m 345473059 4764672 207713280 28357656 23987967 23597569 28339212 28712703
image64_cont6 size1m 686846 14304 376704 80595 57663 41153 50316 66111
image64_cont6 size12m 10494158 220416 5979648 1272003 721407 656129 791052 853503
image64_cont6 size25m 23489326 493824 13442304 2857635 1573503 1475713 1776396 1869951
image64_cont6 size50m 41650062 876032 23886848 5076355 2753279 2622977 3154956 3279615
image64_cont6 size100m 93468238 1966848 53721600 11413059 6095871 5900545 7091724 7278591
image64_cont6 size200m 165948686 3492864 95483904 20282115 10749183 10488833 12601356 12850431
image64_cont6 size400m 372896398 7850496 214791168 45617283 23987967 23597569 28339212 28712703
"""


@pytest.mark.parametrize("row", COUNTS.strip().splitlines(), ids=lambda row: row[:22])
def test_parameter_counts_are_the_official_ones(row: str) -> None:
    spaces, size, *counts = row.split()
    config = DreamerV3Config.from_size(size, actor_critic=True, action_dim=6, **SPACES[spaces])
    with torch.device("meta"):
        model = DreamerV3(config)
    modules = (model.encoder, model.rssm, model.decoder, model.reward, model.con, model.actor)
    found = [
        sum(p.numel() for p in module.parameters() if p.requires_grad)
        for module in (model, *modules, model.critic)
    ]
    assert found == [int(count) for count in counts]
