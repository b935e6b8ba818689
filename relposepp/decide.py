"""Stage 1's decision, from top to bottom.

What the network says of pairs proposes configurations of cameras (proposals.py), and voxels search on from them
(verify.py): `estimate`. The likely ones are compared by what they were not fitted to, the diffusion model's energy and
new voxels: `choose`. The chosen cameras descend (descent.py), and it is asked whether the photos show the object's far
side, too: `find_symmetry`. `decide` does all of it.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from camerabooth.backbones.interface import DiffusionModel
from camerabooth.judge import Judged, energy, judge
from relposepp.descent import descend, descend_repeatedly
from relposepp.held import Held
from relposepp.model import IMAGE_SIZE, Prediction, RelativePose
from relposepp.proposals import Poses, propose, uninformed
from relposepp.verify import Effort, verify
from sap3d.cameras.framing import centre
from sap3d.cameras.maths import anchored, centred, principal_points, with_principal_points
from sap3d.cameras.symmetry import repeated
from sap3d.field.synthesis import HELD, Fit, unexplained
from sap3d.images import to_tensor

# A configuration's log-weight: per unit of the network's log-probability (see `weigh`), and per share by which its
# synthesis loss is above the lowest; fitted to held-out toys, so that `Poses.confidence` is calibrated.
NETWORK_SHARPNESS, SYNTHESIS_SHARPNESS = 0.3, 2.0
# Of the configurations whose negative log-weights are within MOST_LIKELY of the best, the one is taken for which these
# plus the shares by which energy and what is unexplained are above the lowest, times their sharpness, are least; two
# views agree in synthesis wherever they are (docs/CHOICES.md).
MOST_LIKELY = 3.0
ENERGY_SHARPNESS, HELD_SHARPNESS = 4.0, 2.0
CARVED_SIZE = 128  # of the photos that their voxels start from: at 64 a basket's handle is carved away
# Cameras that descended from both sides must lower that loss by this share. But what the photos alone lose must not
# rise by more than this factor, as where a pan's views are turned until its handle is not in the way.
BOTH_SIDES_DROP, ALONE_RISE = 0.1, 1.5
# Where it is higher than the photos' own by so many times the bound no descent brings it below.
HOPELESS_EXCESS = 4.0
SYMMETRY = 2  # the order that is asked for


def decide(
    model: RelativePose,
    diffusion: DiffusionModel,
    photos: list[np.ndarray],
    config: DictConfig,
    seed: int,
    prediction: Prediction | None = None,
    held: Held | None = None,
) -> Poses:
    """Poses of N ≥ 1 photos of one object, uint8 RGBA [S, S, 4], on the models' device.

    Args:
        config: configs/infer.yaml.
        prediction, held: as of `estimate`.

    Returns:
        Poses whose first cameras are decided upon; the others are as they were proposed.
    """
    device = next(model.parameters()).device
    poses = estimate(model, to_tensor(photos, IMAGE_SIZE).to(device), config, seed, prediction, held)
    bound = symmetry_bound(config.symmetry, len(photos))
    total, compared = choose(diffusion, photos, poses.cameras.to(device), poses.scores, bound)
    if len(total) > 1:
        poses = poses.reordered(total)
    photos = centre(photos, principal_points(poses.cameras[0]))
    sharp = to_tensor(photos, HELD.size).to(device)
    examine = partial(judge, diffusion, photos=photos, sharp=sharp)
    judged, kept = {"chosen": examine(centred(poses.cameras[0]).to(device))}, "chosen"
    if config.descent and len(photos) > 1:
        judged["descended"] = descend_repeatedly(sharp, judged["chosen"], examine)
        kept = "descended" if judged["descended"].better_than(judged["chosen"]) else kept
    symmetry, best = find_symmetry(sharp, judged[kept], examine, bound, config.descent)
    if best is not judged[kept]:
        kept, judged["both sides"] = "both sides", best

    cameras = poses.cameras.clone()
    cameras[0] = with_principal_points(best.cameras.cpu(), cameras[0])
    considered = {"compared": compared, "judged": {name: each.summary() for name, each in judged.items()}, "kept": kept}
    return replace(poses, cameras=cameras, considered=considered, symmetry=symmetry)


def seen_by(model: RelativePose, images: Tensor, config: DictConfig, held: Held | None) -> Prediction:
    """What the model says of views; arguments as of `estimate`."""
    own = (images, None, None) if held is None else (held.views, held.elevations, held.fields_of_view)
    return model.predict(own[0], config.joint_elevations, *own[1:])


def estimate(
    model: RelativePose,
    images: Tensor,
    config: DictConfig,
    seed: int,
    prediction: Prediction | None = None,
    held: Held | None = None,
) -> Poses:
    """Poses of N ≥ 1 views of one object by network and voxels.

    Args:
        images: white-composited RGB + mask in [0, 1], [N, 4, 64, 64]; voxels are fitted where they are.
        prediction: another network's, in the place of the model's.
        held: how own photos' cameras were held; these have roll and field of view, and the object's middle may
             be beside the images' (`sap3d.cameras.framing`), as far as verification sees.
    """
    views = len(images)
    if prediction is None and config.network:
        prediction = seen_by(model, images, config, held)
    elif prediction is None:
        prediction = uninformed(views)
    estimates = torch.stack([prediction.elevation, torch.zeros(views), prediction.radius], -1)
    if views == 1:
        cameras = held.cameras(estimates) if held else estimates
        return Poses(cameras[None], [0.0], torch.ones(1), estimates, prediction)
    generator = torch.Generator().manual_seed(seed)
    hypotheses = propose(prediction, config.candidates, generator)
    network, effort = hypotheses[0], Effort(**config.effort)
    if held:
        hypotheses, estimates = held.hypotheses(hypotheses, generator), held.cameras(estimates)
        effort = effort.freed() if held.free_view else effort
    kept = hypotheses[: config.hypotheses]
    fit = Fit(torch.empty(0), kept, torch.ones(len(kept)))
    # Two photos have little that must agree: the network by itself is more exact (docs/RESULTS.md).
    verified = config.verify if config.verify is not None else views > 2 or held is not None
    if verified:
        fit = verify(images, hypotheses, estimates, effort, config.hypotheses, seed)
    cameras = anchored(fit.cameras)
    log_probabilities = prediction.log_probabilities(cameras)
    scores = -weigh(log_probabilities, fit.losses, views)
    evidence = {"network_log_probability": log_probabilities} | ({"synthesis_loss": fit.losses} if verified else {})
    first = int(scores.argmin())
    poses = Poses(cameras, scores.tolist(), torch.ones(views), network, prediction, evidence)
    return replace(poses.reordered(scores), fit=fit[[first]] if first < len(fit.grid) else None)


def weigh(
    log_probabilities: Tensor,
    losses: Tensor,
    views: int,
    network: float = NETWORK_SHARPNESS,
    synthesis: float = SYNTHESIS_SHARPNESS,
) -> Tensor:
    """Log-weights of configurations from the network's summed log-probabilities and the synthesis losses, all [K].

    The pairs are not independent: those of N views count as N − 1, the number of their relative azimuths.
    """
    return network * 2 / views * log_probabilities - synthesis * (losses / losses.min() - 1)


def choose(
    diffusion: DiffusionModel, photos: list[np.ndarray], hypotheses: Tensor, scores: list[float], bound: float | None
) -> tuple[Tensor, dict[str, list[float]]]:
    """Compare the likely ones of ranked configurations.

    Voxels explain photos that hardly overlap anywhere. If the configuration that is best from both sides leaves room
    for a symmetry, all are compared from both sides, too, where views of opposite sides overlap.

    Args:
        hypotheses: [K, N, 3] or [K, N, 7], on the model's device; scores: negative log-weights, [K].
        bound: by less the loss must rise when the far side is to look like the photos; None: do not ask.

    Returns:
        Scores with what was found, [K]; those of unlikely ones are above all others. And what was found of the likely
        ones: their scores, energies and (from three views on) what is unexplained, of the photos alone and, where they
        were compared so, from both sides.
    """
    likely = [score for score in scores if score <= scores[0] + MOST_LIKELY]
    total, evidence, several = torch.tensor(likely), {"score": likely}, len(photos) > 2
    if len(likely) > 1:
        compared = tqdm(hypotheses[: len(likely)], desc="comparing the hypotheses", leave=False, mininterval=1)
        evidence["energy"] = [seen_energy(diffusion, photos, cameras) for cameras in compared]
        total = total + ENERGY_SHARPNESS * excess(evidence["energy"])
    if len(likely) > 1 and several:
        sharp = to_tensor(photos, CARVED_SIZE).to(hypotheses.device)
        alone = evidence["unexplained"] = [unexplained(sharp, cameras) for cameras in hypotheses[: len(likely)]]
        total = total + HELD_SHARPNESS * excess(alone)
        best = int(total.argmin())
        at_best = symmetric_loss(sharp, hypotheses[best]) if bound is not None else math.inf
        if bound is not None and at_best - alone[best] < HOPELESS_EXCESS * bound:
            each = enumerate(hypotheses[: len(likely)])
            both = [at_best if k == best else symmetric_loss(sharp, cameras) for k, cameras in each]
            evidence["both sides"], least = both, both.index(min(both))
            if both[least] - alone[least] < bound:
                total = total + HELD_SHARPNESS * excess(both)
    unlikely = torch.tensor(scores[len(likely) :])
    return torch.cat([total, total.max() + unlikely - scores[0]]), evidence


def seen_energy(diffusion: DiffusionModel, photos: list[np.ndarray], cameras: Tensor) -> float:
    """`camerabooth.judge.energy` of photos that are moved to where cameras [N, 3] or [N, 7] look."""
    return energy(diffusion, centre(photos, principal_points(cameras)), centred(cameras))


def excess(values: list[float]) -> Tensor:
    """The shares by which positive values are above the lowest."""
    return torch.tensor(values) / min(values) - 1


def symmetric_loss(photos: Tensor, cameras: Tensor) -> float:
    """What remains `unexplained` when voxels are to look like the photos [N, 4, S, S] from the other side, too.

    Silhouettes that are not their own mirror images, a handle on one side, and faces of different colours that photos
    show from both directions raise it above that of the photos alone; print that no two photos contradict does not.
    """
    return unexplained(*repeated(photos, cameras, SYMMETRY))


def symmetry_bound(config: DictConfig, views: int) -> float | None:
    """Below what excess of the loss from both sides so many photos show the far side, too; None if they never do."""
    return config.excess[min(views, len(config.excess)) - 1] if views <= config.views else None


def find_symmetry(
    photos: Tensor, judged: Judged, examine: Callable[[Tensor], Judged], bound: float | None, descent: bool
) -> tuple[dict, Judged]:
    """Whether photos [N, 4, S, S] are taken to show the object's far side, too, and why; and the poses then.

    Cameras some degrees off contradict a symmetry that there is. So from three photos on it is asked after a descent
    from both sides, too, whose cameras are kept where they are clearly better or the symmetry is met there alone; but
    not where it is out of the question.
    """
    here = symmetry_at(photos, judged.cameras, judged.synthesis, bound)
    if bound is None or not descent or len(photos) < 3 or here["excess"] >= HOPELESS_EXCESS * bound:
        return here, judged
    moved = examine(descend(photos, judged.cameras, SYMMETRY))
    there = symmetry_at(photos, moved.cameras, moved.synthesis, bound)
    lost, still_lost = here["excess"] + judged.synthesis, there["excess"] + moved.synthesis
    better = still_lost < (1 - BOTH_SIDES_DROP) * lost or here["order"] == 1
    if better and there["order"] > 1 and moved.synthesis < ALONE_RISE * judged.synthesis:
        return there, moved
    return here, judged


def symmetry_at(photos: Tensor, cameras: Tensor, alone: float, bound: float | None) -> dict:
    """What poses.json says of the symmetry at cameras [N, 3] at which `alone` is unexplained of the photos alone."""
    if bound is None:
        return {"order": 1}
    above = symmetric_loss(photos, cameras) - alone
    return {"order": SYMMETRY if above < bound else 1, "excess": above}
