"""Novel views by DDIM, conditioned on all sources jointly or on one drawn anew at each step."""

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from camerabooth.backbones.interface import Condition, DiffusionModel, Sources
from sap3d.cameras import maths as cam

NEARNESS = 0.35  # temperature of the draw: sources whose line of sight is closer to the target's are likelier


@torch.no_grad()
def sample(
    model: DiffusionModel,
    sources: Sources,
    targets: Tensor,
    generator: torch.Generator,
    steps: int = 25,
    guidance_scale: float = 1.0,
    eta: float = 0.0,
    conditioning: str = "joint",
    temperature: float = 1.0,
    batch: int | None = None,
    skipped: int = 0,
    size: int | None = None,
) -> Tensor:
    """DDIM samples (arXiv 2010.02502) of one object at target cameras [M, 3].

    Args:
        sources: one object's embedded views.
        steps: of DDIM; 0 gives the conditional mean, of all sources.
        generator: CPU generator; it decides the noise and the draw of sources.
        eta: 0 is deterministic, 1 is ancestral.
        conditioning: "joint" (all sources at once), "stochastic" (SAP3D, arXiv 2404.03652, §3.3, after 3DiM: one
            source for each target and step, nearer ones likelier), or "nearest" (each target's nearest source alone).
        temperature: scale of the initial noise; below 1, samples stay nearer to the conditional mean.
        batch: targets that go through the network at once; by default all.
        size: side of a conditional mean; by default the model's, as that of samples.
        skipped: so many of the first steps are left out, and noise is taken for what they would lead to.

    Returns:
        Colour on white and alpha in [0, 1], [M, 4, S, S].
    """
    views, batch = sources.cameras.shape[1], batch or len(targets)
    parts = [slice(start, start + batch) for start in range(0, len(targets), batch)]
    if steps == 0:
        bar = tqdm(parts, desc="novel views", leave=False, mininterval=1)
        return torch.cat([model.conditional_mean(sources, targets[part], generator, size) for part in bar])
    if conditioning == "joint" or views == 1:
        choices = [sources]
        probabilities = torch.ones(len(targets), 1)
    else:
        choices = [sources.select(torch.tensor([view])) for view in range(views)]
        probabilities = source_probabilities(sources.cameras[0], targets).cpu()
        if conditioning == "nearest":
            probabilities = F.one_hot(probabilities.argmax(1), views).float()
    conditions = [[model.condition(choice, targets[part]) for choice in choices] for part in parts]
    model.scheduler.set_timesteps(steps)
    shape = (len(targets), 4, model.latent_size, model.latent_size)
    latents = temperature * torch.randn(shape, generator=generator).to(targets.device)
    timesteps = model.scheduler.timesteps[min(skipped, steps - 1) :]
    for timestep in tqdm(timesteps, desc="novel views", leave=False, mininterval=1):
        chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        predictions = []
        for part, known in zip(parts, conditions):
            noisy, condition = latents[part], Condition.gathered(known, chosen[part])
            times = timestep.to(noisy.device).expand(len(noisy))
            predictions.append(model.predict(noisy, times, condition, guidance_scale))
        prediction = torch.cat(predictions)
        noise = torch.randn(shape, generator=generator).to(latents.device) if eta > 0 else None
        latents = model.scheduler.step(prediction, timestep, latents, eta=eta, variance_noise=noise).prev_sample
    return torch.cat([model.decode(latents[part]) for part in parts])


def sample_in_turn(
    model: DiffusionModel,
    sources: Sources,
    targets: Tensor,
    generator: torch.Generator,
    at_once: int = 4,
    **options: float | str,
) -> Tensor:
    """`sample` of targets [M, 3] a few at a time, those nearest to known views first, each seeing what was made before.

    Samples by themselves contradict each other where the sources leave something open; stochastic conditioning over
    the inputs and the views made so far (3DiM, arXiv 2210.04628) lets later ones follow earlier ones.
    """
    left, views = list(range(len(targets))), targets.new_zeros(len(targets), 4, model.image_size, model.image_size)
    while left:
        nearness = cam.sight_cosines(targets[left], sources.cameras[0]).amax(1)
        part = [left[index] for index in nearness.argsort(descending=True)[:at_once].tolist()]
        views[part] = sample(model, sources, targets[part], generator, **options)
        sources = sources.joined(model.embed_sources(views[part], targets[part]))
        left = [index for index in left if index not in part]
    return views


def source_probabilities(sources: Tensor, targets: Tensor) -> Tensor:
    """Probability of drawing each source for each target, [M, N], from cameras [N, 3] and [M, 3]."""
    return (cam.sight_cosines(targets, sources) / NEARNESS).softmax(-1)
