"""Conversion of the original checkpoint: full-size names on the meta device, numbers on tiny networks."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import nn

from camerabooth.backbones.published import convert
from camerabooth.backbones.published.model import PublishedDiffusion, PublishedSettings
from camerabooth.backbones.published.networks import Architecture, build_networks, make_scheduler
from sap3d.errors import UserError
from sap3d.files import digest, write_json
from tests.camerabooth.backbones.published.tiny import TINY

# Of "name<tab>shape" lines, sorted: the parameters of Zero-1-to-3's checkpoints under `state_dict`, without EMA.
ORIGINAL_SHA256 = "52ab583730888f980f65279261000f70c3366c4474fa03e02cf23b26641d1535"
BUFFERS = """betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
    log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance
    posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2""".split()
TEXT_SIDE = {
    "positional_embedding": (77, 768),
    "text_projection": (768, 768),
    "logit_scale": (),
    "token_embedding.weight": (49408, 768),
    "ln_final.weight": (768,),
    "ln_final.bias": (768,),
}


def test_full_size_names_and_shapes_are_the_published_ones_both_ways(full_size):
    states = {name: module.state_dict() for name, module in full_size.items()}
    original = convert.to_original(states, full_size)
    extra = {name: torch.empty(1000, device="meta") for name in BUFFERS}
    extra |= {f"cond_stage_model.model.{name}": torch.empty(shape, device="meta") for name, shape in TEXT_SIDE.items()}
    lines = sorted(f"{name}\t{'x'.join(map(str, value.shape))}\n" for name, value in (original | extra).items())
    assert len(lines) == 1250
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == ORIGINAL_SHA256

    converted = convert.to_diffusers(original | extra, full_size)
    for component, state in states.items():
        assert {name: value.shape for name, value in converted[component].items()} == {
            name: value.shape for name, value in state.items()
        }


def test_full_size_model_speaks_in_published_shapes(full_size):
    model = PublishedDiffusion(dict(full_size), PublishedSettings(dtype="float32"))
    images, cameras = torch.empty(1, 2, 4, 256, 256, device="meta"), torch.empty(1, 2, 3, device="meta")
    assert (model.image_size, model.latent_size) == (256, 32)
    assert model.cc_projection.projection.weight.shape == (768, 772)
    assert model._posterior_mean(images).shape == (1, 2, 4, 32, 32)
    assert model._clip_embedding(images).shape == (1, 2, 768)
    condition = model.condition(model.embed_sources(images, cameras), torch.empty(1, 3, 3, device="meta"))
    assert condition.token.shape == (3, 768) and condition.latent.shape == (3, 4, 32, 32)
    scheduler = make_scheduler()
    torch.testing.assert_close(scheduler.betas, torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[[0, 1, -1]].tolist() == [981, 961, 1]


def test_round_trip_is_exact(networks, checkpoint):
    states = convert.to_diffusers(checkpoint, networks)
    again = convert.to_original(states, networks)
    assert again.keys() == checkpoint.keys()
    assert all(torch.equal(again[name], value) for name, value in checkpoint.items())
    for component, module in networks.items():
        assert all(torch.equal(states[component][name], value) for name, value in module.state_dict().items())


def test_conversion_agrees_with_that_of_diffusers():
    """Where shapes coincide, only names tell weights apart; diffusers' own tables are for four levels."""
    architecture = Architecture(unet_channels=(8,) * 4, vae_channels=(8,) * 4, norm_groups=4, heads=2, clip_layers=1)
    networks = build_networks(architecture)
    checkpoint = convert.to_original({name: module.state_dict() for name, module in networks.items()}, networks)
    checkpoint = {name: torch.rand_like(value) for name, value in checkpoint.items()}
    states = convert.to_diffusers(checkpoint, networks)
    expected = {
        "unet": convert_ldm_unet_checkpoint(dict(checkpoint), networks["unet"].config),
        "vae": convert_ldm_vae_checkpoint(dict(checkpoint), networks["vae"].config),
    }
    for component, state in expected.items():
        assert state.keys() == states[component].keys()
        assert all(torch.equal(states[component][name], value) for name, value in state.items()), component


class OpenAIBlock(nn.Module):
    """A block of OpenAI's CLIP under its names, written from the paper (arXiv 2103.00020)."""

    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, tokens):
        normal = self.ln_1(tokens)
        tokens = tokens + self.attn(normal, normal, normal, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(tokens))
        return tokens + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))


class OpenAIVisual(nn.Module):
    """CLIP's image tower under the original's names."""

    def __init__(self, size):
        super().__init__()
        width, side = size.clip_width, size.clip_image_size // size.clip_patch
        self.conv1 = nn.Conv2d(3, width, size.clip_patch, stride=size.clip_patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(side**2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(
            *(OpenAIBlock(width, size.clip_heads) for _ in range(size.clip_layers))
        )
        self.proj = nn.Parameter(torch.empty(width, size.context))

    def forward(self, pixels):
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], 1)
        tokens = self.transformer.resblocks(self.ln_pre(tokens + self.positional_embedding))
        return self.ln_post(tokens[:, 0]) @ self.proj


def test_converted_image_encoder_computes_what_the_original_does(networks, checkpoint):
    prefix = "cond_stage_model.model.visual."
    original = OpenAIVisual(TINY)
    original.load_state_dict({k.removeprefix(prefix): v for k, v in checkpoint.items() if k.startswith(prefix)})
    pixels = torch.randn(2, 3, TINY.clip_image_size, TINY.clip_image_size)
    with torch.no_grad():
        torch.testing.assert_close(
            networks["image_encoder"].eval()(pixel_values=pixels).image_embeds, original(pixels), atol=1e-4, rtol=1e-4
        )


def test_averaged_weights_are_preferred(networks, checkpoint):
    unet = [name for name in checkpoint if name.startswith("model.diffusion_model.")]
    # As LitEma names them: the wrapper's parameter name without its dots.
    averages = {"model_ema.diffusion_model" + n.split(".", 2)[2].replace(".", ""): checkpoint[n] + 1 for n in unet}
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    plain = convert.to_diffusers(checkpoint, networks)
    both = convert.to_diffusers(checkpoint | averages | counters, networks)
    assert all(torch.equal(both["unet"][name], value + 1) for name, value in plain["unet"].items())
    assert all(torch.equal(both["vae"][name], value) for name, value in plain["vae"].items())

    lost = averages.popitem()[0]
    with pytest.raises(UserError, match=f"{lost} is missing"):
        convert.to_diffusers(checkpoint | averages | counters, networks)


def test_a_wrong_checkpoint_is_named_in_one_line(networks, checkpoint):
    name = "model.diffusion_model.middle_block.1.proj_in.bias"
    value = checkpoint.pop(name)
    cases = {
        f"{name} is missing": {},
        "unheard.of is not known": {name: value, "unheard.of": value},
        f"{name} has shape": {name: value[1:]},
    }
    for message, change in cases.items():
        with pytest.raises(UserError, match=message) as error:
            convert.to_diffusers(checkpoint | change, networks)
        assert "\n" not in str(error.value)


def test_a_lightning_checkpoint_is_read_and_anything_else_refused(tmp_path, checkpoint):
    from pytorch_lightning.callbacks.model_checkpoint import ModelCheckpoint

    path = tmp_path / "zero123.ckpt"
    torch.save({"state_dict": checkpoint, "callbacks": {ModelCheckpoint: {"best": 0.1}}, "epoch": 3}, path)
    assert convert.read_checkpoint(path).keys() == checkpoint.keys()
    torch.save({"state_dict": checkpoint | {"betas": torch.linspace(1e-4, 2e-2, 1000)}}, path)
    with pytest.raises(UserError, match="noise schedule"):
        convert.read_checkpoint(path)
    torch.save({"state_dict": checkpoint, "code": make_scheduler}, path)
    with pytest.raises(UserError, match="not weights alone .GLOBAL .*networks.make_scheduler"):
        convert.read_checkpoint(path)


def test_program_refuses_what_is_missing_and_overwrites_nothing(tmp_path, monkeypatch):
    for output, message in [("new", "no.ckpt: no such file"), ("", "exists already")]:
        arguments = ["--checkpoint", str(tmp_path / "no.ckpt"), "--output", str(tmp_path / output)]
        monkeypatch.setattr("sys.argv", ["convert.py", *arguments])
        with pytest.raises(UserError, match=message):
            convert.main()
    assert not list(tmp_path.iterdir())


def test_of_two_runs_one_converts_the_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "zero.ckpt").write_text("weights")
    made = []

    def slow(path, folder):
        made.append(path)
        time.sleep(0.3)
        folder.mkdir()
        write_json(folder / convert.SOURCE, {"sha256": digest(path)})

    monkeypatch.setattr(convert, "convert", slow)
    with ThreadPoolExecutor() as pool:
        folders = [pool.submit(convert.converted, tmp_path / "zero.ckpt") for _ in range(2)]
    assert [folder.result() for folder in folders] == [tmp_path / "zero"] * 2 and made == [tmp_path / "zero.ckpt"]
