"""A published model on disk: its folder, settings, and the checkpoint that it was made of."""

import pytest
import torch
from torch import nn

from camerabooth.backbones.interface import load_model
from camerabooth.backbones.published import convert
from camerabooth.backbones.published.lora import LoRA, merged_state
from camerabooth.backbones.published.model import PublishedDiffusion, PublishedSettings
from camerabooth.backbones.published.networks import COMPONENTS
from camerabooth.backbones.weights import model_folder
from sap3d.errors import UserError
from sap3d.files import write_json
from tests.camerabooth.backbones.published.tiny import make_model, predict, trainable, write_folder
from tests.tiny import smooth_images, some_cameras


def test_converted_folder_loads_and_tuned_model_is_saved_merged(tmp_path, networks, checkpoint):
    write_folder(tmp_path / "model", networks, convert.to_diffusers(checkpoint, networks))
    model = trainable(PublishedDiffusion.from_pretrained(tmp_path / "model", dtype="float32", image_size=32))
    for name, value in networks["unet"].state_dict().items():
        torch.testing.assert_close(merged_state(model.unet)[name], value, atol=1e-3, rtol=1e-3)

    for module in model.modules():
        if isinstance(module, LoRA):
            nn.init.normal_(module.lora_up.weight, std=0.1)
    images, cameras = smooth_images(2), some_cameras(2)
    before = predict(model, images, cameras)
    model.save_pretrained(tmp_path / "tuned")
    tuned = PublishedDiffusion.from_pretrained(tmp_path / "tuned")
    assert tuned.settings == model.settings  # what it was run with travels with it
    torch.testing.assert_close(predict(tuned, images, cameras), before, atol=0.02, rtol=0.02)
    for name, kind in COMPONENTS.items():  # the libraries themselves read it
        state = kind.from_pretrained(tmp_path / "model" / name).state_dict()
        assert state.keys() == networks[name].state_dict().keys()
        assert all(torch.equal(state[key].half(), value.half()) for key, value in networks[name].state_dict().items())


def test_an_original_checkpoint_is_converted_once_for_each_content(tmp_path, monkeypatch, checkpoint):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    path = tmp_path / "zero.ckpt"
    torch.save({"state_dict": checkpoint}, path)
    folder = model_folder("published", "zero.ckpt")
    model = load_model(folder, dtype="float32", trainable="full")
    assert isinstance(model, PublishedDiffusion) and model.settings.trainable == "full"
    made = (folder / "model_index.json").stat().st_mtime_ns
    assert model_folder("published", "zero.ckpt") == folder and (folder / "model_index.json").stat().st_mtime_ns == made

    torch.save({"state_dict": {name: value + 1 for name, value in checkpoint.items()}}, path)
    model_folder("published", "zero.ckpt")
    changed = load_model(folder, dtype="float32").cc_projection.projection.bias
    torch.testing.assert_close(changed, model.cc_projection.projection.bias + 1, atol=1e-3, rtol=1e-3)
    path.unlink()  # what it was converted to is enough
    assert model_folder("published", "zero.ckpt") == folder
    with pytest.raises(UserError, match="none.ckpt: no such file; put zero123-xl.ckpt"):
        model_folder("published", "none.ckpt")
    with pytest.raises(UserError, match="no backbone 'third' .there are embedded, published"):
        model_folder("third")


def test_a_folder_that_was_not_made_of_the_checkpoint_is_left_alone(tmp_path, checkpoint):
    torch.save({"state_dict": checkpoint}, tmp_path / "zero.ckpt")
    (tmp_path / "zero").mkdir()
    with pytest.raises(UserError, match="was not made of zero.ckpt"):
        convert.converted(tmp_path / "zero.ckpt")
    assert not list((tmp_path / "zero").iterdir())


def test_settings_are_read_back_and_checked(tmp_path, networks):
    states = {name: module.state_dict() for name, module in networks.items()}
    write_folder(tmp_path / "model", networks, states)
    assert load_model(tmp_path / "model").settings == PublishedSettings()
    write_json(
        tmp_path / "model/settings.json", {"dtype": "float32", "energy_timesteps": [1, 2], "sampling": {"steps": 7}}
    )
    settings = load_model(tmp_path / "model", lora_rank=3, dtype=None, sampling={"steps": None}).settings
    expected = {"dtype": "float32", "energy_timesteps": (1, 2), "sampling": {"steps": 7}, "lora_rank": 3}
    assert settings == PublishedSettings(**expected)
    changed = load_model(tmp_path / "model", sampling={"steps": 3, "eta": 0.5}).settings
    assert changed.sampling == {"steps": 3, "eta": 0.5} and changed.energy_timesteps == (1, 2)
    with pytest.raises(UserError, match="model.volume: this backbone has no such setting"):
        load_model(tmp_path / "model", volume=3)
    write_json(tmp_path / "model/settings.json", {"unheard": 1})
    with pytest.raises(UserError, match="settings.json: not settings of this backbone"):
        load_model(tmp_path / "model")


def test_options_are_checked():
    with pytest.raises(UserError, match="trainable"):
        make_model(trainable="some")
    with pytest.raises(UserError, match="dtype"):
        make_model(dtype="int8")


def test_missing_and_broken_folders_are_named_in_one_line(tmp_path, networks):
    with pytest.raises(UserError, match="published/convert.py --checkpoint"):
        PublishedDiffusion.from_pretrained(tmp_path / "nothing")
    write_folder(tmp_path / "model", networks, {name: module.state_dict() for name, module in networks.items()})
    (tmp_path / "model/vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="vae must hold one .safetensors file") as error:
        PublishedDiffusion.from_pretrained(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_cards_before_ampere_compute_in_float16(tmp_path, networks, monkeypatch):
    write_folder(tmp_path / "model", networks, {name: module.state_dict() for name, module in networks.items()})
    monkeypatch.setattr(PublishedDiffusion, "to", lambda self, *_: self)  # there is no card
    for fast, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr("camerabooth.backbones.published.model.has_fast_bf16", lambda device, fast=fast: fast)
        model = PublishedDiffusion.from_pretrained(tmp_path / "model", "cuda:0")
        assert model.dtype == expected
        assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
