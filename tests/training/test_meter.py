"""Running means, and the first loss that is not finite."""

import pytest
import torch

from worldflux.errors import TrainingError
from worldflux.training.meter import Meter


def test_means_over_the_interval_are_exact_and_cleared():
    meter = Meter()
    for step, value in enumerate([1.0, 2.0, 6.0], 1):
        meter.add({"loss/total": torch.tensor(value), "x": torch.tensor([value * 10])}, step)
    assert meter.means() == {"loss/total": 3.0, "x": 30.0}
    meter.clear()
    assert meter.means() == {}
    meter.add({"loss/total": torch.tensor(0.5)}, 4)
    assert meter.means() == {"loss/total": 0.5}
    assert float(meter.best_loss) == 0.5


def test_a_metric_that_appears_only_sometimes_is_averaged_over_its_own_updates():
    meter = Meter()
    meter.add({"a": torch.tensor(1.0)}, 1)
    meter.add({"a": torch.tensor(3.0), "b": torch.tensor(8.0)}, 2)
    assert meter.means() == {"a": 2.0, "b": 8.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_update(bad):
    meter = Meter()
    meter.add({"loss/dyn": torch.tensor(1.0), "loss/rew": torch.tensor(1.0)}, 41)
    with pytest.raises(TrainingError, match="loss/rew is not finite at update 42"):
        meter.add({"loss/dyn": torch.tensor(1.0), "loss/rew": torch.tensor(bad)}, 42)


def test_on_an_accelerator_the_first_bad_update_is_remembered_until_asked():
    # What CUDA does without a synchronisation, on the meta of the same code path: the flag.
    meter = Meter()
    meter.add({"loss/dyn": torch.tensor(1.0)}, 1)
    names = ("loss/dyn",)
    meter._first_bad[names] = torch.tensor([7])
    with pytest.raises(TrainingError, match="loss/dyn is not finite at update 7"):
        meter.check()


def test_other_metrics_may_be_infinite_and_gradients_only_under_loss_scaling():
    metrics = {"ratio": torch.tensor(float("inf")), "opt/grad_norm": torch.tensor(float("nan"))}
    Meter(check_gradients=False).add(metrics, 1)
    with pytest.raises(TrainingError, match="opt/grad_norm is not finite at update 1"):
        Meter().add(metrics, 1)


def test_half_an_interval_survives_a_checkpoint_exactly():
    values = torch.rand(9)
    whole, first = Meter(), Meter()
    for step, value in enumerate(values):
        whole.add({"loss/total": value}, step)
    for step, value in enumerate(values[:4]):
        first.add({"loss/total": value}, step)
    second = Meter()
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    for step, value in enumerate(values[4:], 4):
        second.add({"loss/total": value}, step)
    assert second.means() == whole.means()
    assert float(second.best_loss) == float(values.min())
