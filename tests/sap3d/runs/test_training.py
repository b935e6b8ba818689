import torch

from sap3d.runs.training import fingerprint


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
