"""The published backbone and the conversion of its checkpoint: full-size names on the meta device, numbers on a tiny
model of the same code."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from omegaconf import OmegaConf
from torch import nn

from camerabooth import main
from camerabooth.backbones.interface import load_model
from camerabooth.backbones.published import convert
from camerabooth.backbones.published.lora import LoRA, merged_state
from camerabooth.backbones.published.model import PublishedDiffusion, PublishedSettings, saliency
from camerabooth.backbones.published.networks import (
    COMPONENTS,
    Architecture,
    build_networks,
    make_scheduler,
    write_networks,
)
from camerabooth.backbones.weights import model_folder
from camerabooth.judge import leave_one_out
from camerabooth.main import CONFIG
from camerabooth.sampling import sample, sample_in_turn
from camerabooth.tuning import TestTimeTraining
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import PoseTable
from sap3d.errors import UserError
from sap3d.files import digest, write_json
from sap3d.runs.options import filled

TINY = Architecture(
    unet_channels=(32, 64),
    vae_channels=(32, 32),
    context=16,
    clip_width=64,
    clip_layers=2,
    clip_heads=1,
    clip_patch=8,
    clip_image_size=24,
)
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


@pytest.fixture(scope="module")
def networks():
    """Tiny networks in which nothing is zero, one or repeated, so that no exchange of weights goes unnoticed."""
    torch.manual_seed(0)
    networks = build_networks(TINY)
    for module in networks.values():
        for parameter in module.parameters():
            nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.2)
    return networks


@pytest.fixture
def checkpoint(networks):
    """The tiny networks as an original checkpoint's state dict."""
    return convert.to_original({name: module.state_dict() for name, module in networks.items()}, networks)


def make_model(architecture=TINY, **settings):
    torch.manual_seed(0)
    settings = PublishedSettings(**{"dtype": "float32", "image_size": 32, "gradient_checkpointing": False} | settings)
    return PublishedDiffusion(build_networks(architecture), settings).eval()


def trainable(model):
    model.prepare_tuning()
    return model


def write_folder(folder, networks, states):
    folder.mkdir()
    write_networks(folder, networks, states)


@pytest.fixture
def model():
    return make_model()


def smooth_images(count: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.interpolate(torch.rand(count, 4, 4, 4, generator=generator), size=size, mode="bicubic").clamp(0, 1)


def some_cameras(count: int) -> torch.Tensor:
    index = torch.arange(count)
    return torch.stack([0.2 + 0.1 * index, 0.9 * index, 1.6 + 0.1 * index], -1)


# The full-size architecture.


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return build_networks()


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


# Conversion.


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


# On disk.


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
    settings = load_model(tmp_path / "model", lora_rank=3, dtype=None).settings
    expected = {"dtype": "float32", "energy_timesteps": (1, 2), "sampling": {"steps": 7}, "lora_rank": 3}
    assert settings == PublishedSettings(**expected)
    with pytest.raises(UserError, match="model.volume: this backbone has no such setting"):
        load_model(tmp_path / "model", volume=3)
    write_json(tmp_path / "model/settings.json", {"unheard": 1})
    with pytest.raises(UserError, match="settings.json: not settings of this backbone"):
        load_model(tmp_path / "model")


def test_missing_and_broken_folders_are_named_in_one_line(tmp_path, networks):
    with pytest.raises(UserError, match="published/convert.py --checkpoint"):
        PublishedDiffusion.from_pretrained(tmp_path / "nothing")
    write_folder(tmp_path / "model", networks, {name: module.state_dict() for name, module in networks.items()})
    (tmp_path / "model/vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="vae must hold one .safetensors file") as error:
        PublishedDiffusion.from_pretrained(tmp_path / "model")
    assert "\n" not in str(error.value)


# The model.


def predict(model, images, cameras, guidance_scale=1.0):
    generator = torch.Generator().manual_seed(2)
    noisy = torch.randn(1, 4, model.latent_size, model.latent_size, generator=generator)
    with torch.no_grad():
        condition = model.condition(model.embed_sources(images[1:], cameras[1:]), cameras[:1])
        return model.predict(noisy, torch.tensor([700]), condition, guidance_scale)


def test_images_and_latents(model):
    images = smooth_images(3)[None]
    with torch.no_grad():
        latents = model.encode(images)
        assert latents.shape == (1, 3, 4, 16, 16)
        posterior = model.vae.encode(images[0, :, :3] * 2 - 1).latent_dist
        torch.testing.assert_close(latents[0], 0.18215 * posterior.mean)
        torch.testing.assert_close(model.encode(images[0, 0]), latents[0, 0])
        decoded = model.decode(latents)
    assert decoded.shape == images.shape and decoded.min() >= 0 and decoded.max() <= 1
    assert torch.equal(decoded[0, :, 3:], saliency(decoded[0, :, :3]))


def test_clip_sees_the_image_corner_to_corner_and_normalised(model, monkeypatch):
    seen = []
    encoder = model.image_encoder.forward
    monkeypatch.setattr(
        model.image_encoder, "forward", lambda pixel_values: seen.append(pixel_values) or encoder(pixel_values)
    )
    images = smooth_images(1)
    model.embed_sources(images, some_cameras(1))
    corners = slice(None, None, TINY.clip_image_size - 1), slice(None, None, model.image_size - 1)
    mean, std = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    expected = (images[0, :3, corners[1], corners[1]] - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(seen[0][0, :, corners[0], corners[0]], expected, atol=2e-3, rtol=1e-3)


def test_context_is_made_of_the_embedding_and_the_relative_pose(model):
    images, cameras, target = smooth_images(1), some_cameras(1), torch.tensor([[0.5, 2.0, 1.9]])
    sources = model.embed_sources(images, cameras)
    condition = model.condition(sources, target)
    difference = torch.tensor(2.0 - 0.0)
    pose = torch.tensor([0.2 - 0.5, difference.sin(), difference.cos(), 1.9 - 1.6])
    expected = model.cc_projection.projection(torch.cat([sources.features[0, 0], pose]))
    torch.testing.assert_close(condition.token[0], expected)
    # The concatenated latent is not scaled.
    torch.testing.assert_close(condition.latent[0], model.encode(images)[0] / 0.18215)
    none = condition.dropped(torch.tensor([True]))
    assert not none.token.any() and not none.latent.any()


def test_each_target_gets_its_nearest_source(model):
    images, cameras = smooth_images(3), some_cameras(3)
    targets = cameras[[2, 0, 1, 1]] + 0.05
    joint = model.condition(model.embed_sources(images, cameras), targets)
    for row, view in enumerate([2, 0, 1, 1]):
        single = model.condition(
            model.embed_sources(images[view : view + 1], cameras[view : view + 1]), targets[row : row + 1]
        )
        torch.testing.assert_close(joint.token[row], single.token[0])
        torch.testing.assert_close(joint.latent[row], single.latent[0])


def test_gradients_reach_source_and_target_cameras(model):
    images = smooth_images(2)
    cameras = some_cameras(2).requires_grad_()
    timesteps, noise = torch.tensor([400]), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))

    def loss(cameras):
        sources = model.embed_sources(images[:1], cameras[:1])
        return model.training_loss(sources, images[None, 1:], cameras[None, 1:], timesteps, noise)[0]

    (gradient,) = torch.autograd.grad(loss(cameras), cameras)
    assert gradient.abs().min() > 0
    # T knows nothing but differences.
    difference = cameras.detach()[1, 1] - cameras.detach()[0, 1]
    pose = cam.relative_pose(cameras[0], cameras[1])
    slope = torch.autograd.grad(pose.sum(), cameras)[0]
    expected = torch.stack([torch.tensor(-1.0), difference.cos() - difference.sin(), torch.tensor(1.0)])
    torch.testing.assert_close(slope, torch.stack([-expected, expected]))
    model = model.double()
    images, noise, step = images.double(), noise.double(), 1e-4
    for view, number in [(0, 0), (1, 1), (1, 2)]:
        shift = torch.zeros(2, 3, dtype=torch.double)
        shift[view, number] = step
        with torch.no_grad():
            numeric = (loss(cameras.double() + shift) - loss(cameras.double() - shift)) / (2 * step)
        torch.testing.assert_close(gradient[view, number].double(), numeric, atol=1e-5, rtol=0.02)


def test_training_loss_is_the_noise_error_of_each_target(model):
    images, cameras = smooth_images(3), some_cameras(3)
    timesteps, noise = torch.tensor([100, 900]), torch.randn(2, 4, 16, 16)
    drop = torch.tensor([False, True])
    with torch.no_grad():
        sources = model.embed_sources(images[:1], cameras[:1])
        losses = model.training_loss(sources, images[None, 1:], cameras[None, 1:], timesteps, noise, drop)
        latents, condition = model.encode(images[1:]), model.condition(sources, cameras[1:]).dropped(drop)
        for row, timestep in enumerate([100, 900]):
            alpha = model.scheduler.alphas_cumprod[timestep]
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
            prediction = model.predict(noisy, torch.full((2,), timestep), condition)
            torch.testing.assert_close(losses[row], (prediction[row] - noise[row]).square().mean())
            clean = model.clean_estimate(noisy, torch.full((2,), timestep), noise)
            torch.testing.assert_close(clean, latents, atol=1e-4, rtol=1e-3)


def test_guidance_extrapolates_from_the_unconditional_prediction(model):
    images, cameras = smooth_images(2), some_cameras(2)
    conditional, guided = predict(model, images, cameras), predict(model, images, cameras, 3.0)
    assert not torch.allclose(conditional, guided)
    none = predict(model, images, cameras, 0.0)
    torch.testing.assert_close(guided, none + 3 * (conditional - none), atol=1e-4, rtol=1e-4)


def test_lora_starts_as_identity_and_alone_is_trained():
    full, lora = (trainable(make_model(trainable=kind, lora_rank=2)) for kind in ("full", "lora"))
    images, cameras = smooth_images(2), some_cameras(2)
    torch.testing.assert_close(predict(lora, images, cameras), predict(full, images, cameras))
    trained = {name for name, parameter in lora.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in lora.named_parameters() if ".lora_" in name}
    # In each of 2 + 3 blocks with attention and the middle, four projections, and two of the attention to one token.
    assert len(trained) == 2 * (4 + 2) * (2 + 3 + 1)
    assert {name.split(".")[0] for name, p in full.named_parameters() if p.requires_grad} == {"unet", "cc_projection"}

    before = {name: value.clone() for name, value in lora.state_dict().items()}
    optimizer = torch.optim.AdamW(lora.parameters(), lr=1e-2, weight_decay=0.1)
    timesteps, noise = torch.tensor([400]), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    losses = []
    for _ in range(4):
        sources = lora.train().embed_sources(images[:1], cameras[:1])
        losses.append(lora.training_loss(sources, images[None, 1:], cameras[None, 1:], timesteps, noise).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    changed = {name for name, value in lora.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trained


def test_half_precision_slicing_and_checkpointing_change_little():
    images, cameras = smooth_images(2), some_cameras(2)
    exact = make_model()
    frugal = trainable(make_model(dtype="bfloat16", attention_slicing=True, gradient_checkpointing=True)).train()
    assert frugal.unet.conv_in.weight.dtype == torch.bfloat16
    assert {p.dtype for p in frugal.parameters() if p.requires_grad} == {torch.float32}
    prediction = predict(frugal, images, cameras)
    assert prediction.dtype == torch.float32
    assert (prediction - predict(exact, images, cameras)).std() < 0.05 * prediction.std()
    sources = frugal.embed_sources(images[:1], cameras[:1])
    noise = torch.randn(1, 4, 16, 16)
    frugal.training_loss(sources, images[None, 1:], cameras[None, 1:], torch.tensor([400]), noise).mean().backward()
    up = [module.lora_up.weight.grad for module in frugal.modules() if isinstance(module, LoRA)]
    assert all(gradient.isfinite().all() for gradient in up) and any(gradient.any() for gradient in up)


def test_options_are_checked():
    with pytest.raises(UserError, match="trainable"):
        make_model(trainable="some")
    with pytest.raises(UserError, match="dtype"):
        make_model(dtype="int8")


def test_sds_gradient_is_its_definition(model):
    images, cameras = smooth_images(3), some_cameras(3)
    sources, rendered, level = model.embed_sources(images[:1], cameras[:1]), images[1:], torch.tensor([0.3, 1.0])
    model.requires_grad_(False)
    gradient = model.sds_gradient(rendered, cameras[1:], sources, level, 2.0, torch.Generator().manual_seed(5))
    assert gradient.shape == rendered.shape and not gradient.requires_grad and not gradient[:, 3].any()

    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    timesteps = torch.tensor([300, 999])
    alpha = model.scheduler.alphas_cumprod[timesteps][:, None, None, None]
    leaf = rendered.clone().requires_grad_()
    latents = model.encode(leaf)
    noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).detach()
    prediction = model.predict(noisy, timesteps, model.condition(sources, cameras[1:]), 2.0)
    # An average over the image of gradient · image must weigh what this average over latents does.
    ((1 - alpha) * (prediction - noise) * latents).mean().backward()
    torch.testing.assert_close(gradient / gradient.numel(), leaf.grad)


# Its callers. Without levels in the autoencoder, latents are as large as images, as the callers' embedded model has it.


@pytest.fixture
def flat_model():
    return make_model(Architecture(**{**vars(TINY), "vae_channels": (32,)}), image_size=16)


@pytest.mark.parametrize("conditioning", ["joint", "stochastic"])
def test_sampling_runs(flat_model, conditioning):
    sources = flat_model.embed_sources(smooth_images(2, 16), some_cameras(2))
    views = [
        sample(flat_model, sources, some_cameras(3), torch.Generator().manual_seed(0), 3, 2.0, 1.0, conditioning)
        for _ in range(2)
    ]
    assert views[0].shape == (3, 4, 16, 16) and views[0].isfinite().all()
    assert torch.equal(*views)


def test_energies_of_poses_can_be_had(model):
    errors = leave_one_out(model, smooth_images(3), some_cameras(3), [500, 999], draws=2)
    assert errors.shape == (4, 3) and errors.isfinite().all()
    assert errors.max() < 3 * errors.min()  # no time step decides alone
    assert leave_one_out(model, smooth_images(3), some_cameras(3)).shape == (3, 3)


def test_test_time_training_reaches_the_poses_and_the_network(flat_model):
    images, cameras = smooth_images(3, 16), some_cameras(3)
    cameras[0, 1] = 0
    poses = PoseTable(cameras)
    prior = images[None], cameras[None]
    flat_model.prepare_tuning()
    config = filled(OmegaConf.load(CONFIG).tuning, flat_model.settings.tuning)
    tuning = TestTimeTraining(flat_model, poses, images, prior, (images, cameras), config, seed=0)
    (tuning._instance_loss() + tuning._synthesised_loss() + tuning._prior_loss()).backward()
    moved = [parameter for parameter in flat_model.parameters() if parameter.grad is not None]
    assert len(moved) == sum(parameter.requires_grad for parameter in flat_model.parameters())
    assert all(parameter.grad.any() for parameter in poses.parameters())


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


# What it is tuned and sampled with.


def test_training_drops_what_the_originals_does(model):
    """Below 10 % the embedding, before the projection and with T left; from 5 to 15 % the latent."""
    images, cameras = smooth_images(1), some_cameras(1)
    targets = some_cameras(4)[None] + 0.3
    sources = model.embed_sources(images, cameras)
    with torch.no_grad():
        whole = model.condition(sources, targets)
        told = model.training_condition(sources, targets, torch.tensor([0.02, 0.07, 0.12, 0.5]))
        pose = cam.relative_pose(cameras.expand(4, 3), targets[0])
        null = model.cc_projection(torch.cat([torch.zeros(4, TINY.context), pose], -1))
    torch.testing.assert_close(told.token, torch.cat([null[:2], whole.token[2:]]))
    kept = torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None, None, None]
    torch.testing.assert_close(told.latent, whole.latent * kept)


def test_tuning_draws_dropped_conditions(flat_model, monkeypatch):
    images, cameras = smooth_images(3, 16), some_cameras(3)
    flat_model.prepare_tuning()
    config = filled(OmegaConf.load(CONFIG).tuning, flat_model.tuning)
    draws = []
    monkeypatch.setattr(
        flat_model, "training_condition", lambda s, t, draw: draws.append(draw) or flat_model.condition(s, t)
    )
    none = images[:0], cameras[:0]
    module = TestTimeTraining(flat_model, PoseTable(cameras), images, (images[None], cameras[None]), none, config, 0)
    module._instance_loss()
    assert draws[0].shape == (config.batch,) and 0 <= draws[0].min() and draws[0].max() < 1


def test_energies_do_not_let_the_last_step_decide(model):
    """Of a prediction that is wrong by the same everywhere, the energy of ε is the same at all time steps."""
    model.denoise = lambda noisy, timesteps, condition: model.wanted + 0.1
    latents, noise = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    model.wanted = noise
    energies = [model.energy(latents, None, torch.tensor([step]), noise) for step in (50, 500, 999)]
    torch.testing.assert_close(torch.cat(energies), torch.full((3,), 0.01), atol=1e-5, rtol=1e-3)


def test_sampling_begins_where_the_original_does(flat_model, monkeypatch):
    """Its loop leaves out the first of 50 time steps: 49 evaluations, from 961 on."""
    seen = []

    def predict(noisy, timesteps, condition, guidance_scale):
        seen.append(timesteps[0].item())
        return torch.zeros_like(noisy)

    monkeypatch.setattr(flat_model, "predict", predict)
    sources = flat_model.embed_sources(smooth_images(1, 16), some_cameras(1))
    sample(flat_model, sources, some_cameras(1), torch.Generator().manual_seed(0), **flat_model.sampling)
    assert len(seen) == 49 and seen[0] == 961 and seen[-1] == 1
    sample(flat_model, sources, some_cameras(1), torch.Generator(), **flat_model.sampling | {"skipped": 0})
    assert len(seen) == 99 and seen[49] == 981


def test_views_made_in_turn_see_those_made_before(flat_model):
    sources = flat_model.embed_sources(smooth_images(1, 16), some_cameras(1))
    targets = some_cameras(4).flip(0)
    options = {"steps": 2, "conditioning": "stochastic"}
    known, embed = [], flat_model.embed_sources
    flat_model.embed_sources = lambda images, cameras: known.append(cameras) or embed(images, cameras)
    views = sample_in_turn(flat_model, sources, targets, torch.Generator().manual_seed(0), at_once=2, **options)
    assert views.shape == (4, 4, 16, 16) and views.isfinite().all() and views.amax((1, 2, 3)).min() > 0
    # Nearest to the source first, and each part becomes a source of the next.
    torch.testing.assert_close(known[0], targets[[3, 2]])
    torch.testing.assert_close(known[1], targets[[1, 0]])


def test_a_white_mug_survives():
    """Its rim and handle shade into grey, its middle is as white as the background; so does its handle's hole."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    body = (x.abs() < 0.4) & (y.abs() < 0.5)
    color = torch.ones(1, 3, 64, 64)
    rim = body & ((x.abs() > 0.3) | (y.abs() > 0.4))
    color[:, :, rim] = 0.9
    alpha = saliency(color)[0, 0]
    assert alpha[body & ~rim].min() == 1, "its white middle is the object's"
    assert alpha[~body].max() == 0
    shrunk = (x.abs() < 0.35) & (y.abs() < 0.45)
    assert alpha[shrunk].min() == 1
    assert not saliency(torch.ones(1, 3, 8, 8)).any()


def test_half_floats_are_tuned_with_scaled_gradients(flat_model, tmp_path, monkeypatch):
    """A gradient of 1e-8 is zero in float16; scaled, it moves what is tuned."""
    model = make_model(Architecture(**{**vars(TINY), "vae_channels": (32,)}), image_size=16, dtype="float16")
    tuned, fitted = [], main.fit
    monkeypatch.setattr(main, "fit", lambda *a, **options: (tuned.append(options), fitted(*a, **options)))
    images, cameras = smooth_images(3, 16), some_cameras(3)
    monkeypatch.setattr(main, "regularisation_views", lambda *_, **__: (images[None], cameras[None]))
    config = filled(OmegaConf.load(CONFIG).tuning, model.tuning)
    config = OmegaConf.merge(config, {"steps": 2, "batch": 2, "prior_batch": 1, "warmup_steps": 1})
    main.tune(model, images, cameras, [0], None, config, 0, tmp_path)
    assert tuned[0]["scaled"]
    up = [module.lora_up.weight for module in model.modules() if isinstance(module, LoRA)]
    assert all(weight.isfinite().all() for weight in up) and any(weight.any() for weight in up)


def test_the_whole_unet_is_tuned_at_the_originals_rate():
    assert make_model().tuning["learning_rate"] == 1e-4
    assert make_model(trainable="full").tuning["learning_rate"] == 1e-5


def test_cards_before_ampere_compute_in_float16(tmp_path, networks, monkeypatch):
    write_folder(tmp_path / "model", networks, {name: module.state_dict() for name, module in networks.items()})
    monkeypatch.setattr(PublishedDiffusion, "to", lambda self, *_: self)  # there is no card
    for fast, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr("camerabooth.backbones.published.model.has_fast_bf16", lambda device, fast=fast: fast)
        model = PublishedDiffusion.from_pretrained(tmp_path / "model", "cuda:0")
        assert model.dtype == expected
