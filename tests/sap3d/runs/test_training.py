from types import SimpleNamespace

import torch

from sap3d.runs.training import TrainedAverage, fingerprint


def test_the_average_is_of_what_is_trained_alone():
    module = torch.nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    module.device, frozen, average = torch.device("cpu"), module.bias.clone(), TrainedAverage(0.5)
    average.on_train_start(None, module)
    for step, value in ((1, 1.0), (2, 3.0)):
        module.weight.data.fill_(value)
        average.on_train_batch_end(SimpleNamespace(global_step=step), module)
    assert [kept.shape for kept in average.state_dict()["average"]] == [(1, 2)]
    average.on_train_end(None, module)
    torch.testing.assert_close(module.weight.data, torch.full((1, 2), 2.0))
    assert torch.equal(module.bias, frozen)


def test_fingerprints_tell_runs_apart(tmp_path):
    (tmp_path / "weights").write_bytes(b"one")
    parts = [torch.arange(3.0), torch.tensor(2, dtype=torch.bfloat16), {"steps": 3}, tmp_path / "weights"]
    first = fingerprint(*parts)
    assert fingerprint(*parts) == first
    (tmp_path / "weights").write_bytes(b"two")
    others = [fingerprint(*parts)]
    for index, other in enumerate((torch.arange(3.0) + 1, torch.tensor(3, dtype=torch.bfloat16), {"steps": 4})):
        others.append(fingerprint(*parts[:index], other, *parts[index + 1 :]))
    assert len({first, *others}) == 5
