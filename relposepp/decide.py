"""Stage 1's decision, from top to bottom.

What the network says of pairs proposes configurations of cameras (proposals.py), and voxels search on from them
(verify.py): `estimate`. All configurations that are left are weighed by one score, of the network, the voxels and the
diffusion model: `weigh`. The best one's cameras descend (descent.py), and configurations that look like it from afar
are compared with it in detail (rivals.py): `settle`. At last it is asked whether the photos show the object's far side,
too: `symmetry_at`. `decide` does all of it.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from camerabooth.backbones.interface import DiffusionModel
from camerabooth.judge import judge, surprise
from relposepp.descent import descend_repeatedly
from relposepp.held import Held
from relposepp.model import IMAGE_SIZE, Prediction, RelativePose
from relposepp.proposals import Poses, propose, uninformed
from relposepp.rivals import DETAIL, alike, fit_in_detail
from relposepp.search import distinct
from relposepp.verify import Effort, verify
from sap3d.cameras.framing import centre
from sap3d.cameras.maths import anchored, centred, principal_points, with_principal_points
from sap3d.cameras.symmetry import repeated
from sap3d.field.synthesis import HELD, Fit, unexplained
from sap3d.images import to_tensor

# A configuration's log-weight (`weigh`): per unit of the network's log-probability, and per unit of the logarithm of
# its synthesis loss and of the diffusion model's errors; the likeliest on held-out objects (benchmarks/pose_choice.py),
# so that `Poses.confidence` is calibrated.
NETWORK_SHARPNESS, SYNTHESIS_SHARPNESS, SURPRISE_SHARPNESS = 0.5, 5.0, 2.0
DETAIL_SHARPNESS = 10.0  # likewise, of what fits in detail leave unexplained; no held-out set asks for more or less
RIVALS, NEARLY = 4, 3.0  # so many configurations are compared in detail, of log-weights so little below the best
ROUNDS = 3  # at most, of comparisons with the rivals of what has won the last one
DISTINCT = math.radians(20)  # by which a pair of their azimuths differs
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
        Poses whose first cameras are decided upon; the others are as the search or `settle` has found them.
    """
    device = next(model.parameters()).device
    poses = estimate(model, photos, config, seed, prediction, held)
    poses = compare(diffusion, photos, poses, device).first(config.hypotheses)

    photos = centre(photos, principal_points(poses.cameras[0]))
    sharp = to_tensor(photos, HELD.size).to(device)
    examine = partial(judge, diffusion, photos=photos, sharp=sharp)
    judged, kept = {"chosen": examine(centred(poses.cameras[0]).to(device))}, "chosen"
    if config.descent and len(photos) > 1:
        judged["descended"] = descend_repeatedly(sharp, judged["chosen"], examine)
        kept = "descended" if judged["descended"].better_than(judged["chosen"]) else kept
    best = judged[kept]
    detail = to_tensor(photos, DETAIL.size).to(device)
    for _ in range(ROUNDS if config.rivals and len(photos) > 2 else 0):
        poses, won = settle(detail, best.cameras, poses)
        if not won:
            break
        rival, kept = examine(centred(poses.cameras[0]).to(device)), "rival"
        descended = descend_repeatedly(sharp, rival, examine)
        best = judged[kept] = descended if descended.better_than(rival) else rival
    poses = poses.first(config.hypotheses)
    symmetry = symmetry_at(sharp, best.cameras, best.synthesis, symmetry_bound(config.symmetry, len(photos)))

    cameras = poses.cameras.clone()
    cameras[0] = with_principal_points(best.cameras.cpu(), cameras[0])
    considered = {"judged": {name: each.summary() for name, each in judged.items()}, "kept": kept}
    return replace(poses, cameras=cameras, considered=considered, symmetry=symmetry)


def seen_by(model: RelativePose, images: Tensor, config: DictConfig, held: Held | None) -> Prediction:
    """What the model says of views; arguments as of `estimate`."""
    own = (images, None, None) if held is None else (held.views, held.elevations, held.fields_of_view)
    return model.predict(own[0], config.joint_elevations, *own[1:])


def estimate(
    model: RelativePose,
    photos: list[np.ndarray],
    config: DictConfig,
    seed: int,
    prediction: Prediction | None = None,
    held: Held | None = None,
) -> Poses:
    """Poses of N ≥ 1 photos of one object by the network and voxels, on the network's device.

    Args:
        photos: as of `decide`.
        prediction: another network's, in the place of the model's.
        held: how own photos' cameras were held; these have roll and field of view, and the object's middle may
             be beside the images' (`sap3d.cameras.framing`), as far as verification sees.
    """
    views, images = len(photos), to_tensor(photos, IMAGE_SIZE).to(next(model.parameters()).device)
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
    # Two photos have little that must agree: the network by itself is more exact (docs/CHOICES.md).
    verified = config.verify if config.verify is not None else views > 2 or held is not None
    if verified:
        fit = verify(images, hypotheses, estimates, effort, seed)
    cameras = anchored(fit.cameras)
    log_probabilities = prediction.log_probabilities(cameras)
    evidence = {"network_log_probability": log_probabilities} | ({"synthesis_loss": fit.losses} if verified else {})
    scores = -weigh(evidence, views)
    first = int(scores.argmin())
    poses = Poses(cameras, scores.tolist(), torch.ones(views), network, prediction, evidence)
    return replace(poses.reordered(scores), fit=fit[[first]] if first < len(fit.grid) else None)


def compare(diffusion: DiffusionModel, photos: list[np.ndarray], poses: Poses, device: torch.device) -> Poses:
    """Poses by the diffusion model's word on them, too; photos as of `decide`."""
    if len(poses.cameras) == 1:
        return poses
    surprises = []
    for cameras in tqdm(poses.cameras.to(device), desc="comparing the hypotheses", leave=False, mininterval=1):
        surprises.append(surprise(diffusion, centre(photos, principal_points(cameras)), centred(cameras)))
    poses = replace(poses, evidence=poses.evidence | {"surprise": torch.tensor(surprises)})
    return poses.reordered(-weigh(poses.evidence, len(photos)))


def settle(images: Tensor, chosen: Tensor, poses: Poses) -> tuple[Poses, bool]:
    """The configurations after those that look alike from afar have been compared in detail.

    Args:
        images: the photos with the object in the middle, [N, 4, S, S].
        chosen: cameras [N, C] that stand for poses' first.

    Returns:
        All of them, best first, those that were compared where their fits have moved them, and whether another than the
        chosen one is the best now.
    """
    turned, ratios = (each.cpu() for each in alike(images, chosen))
    asked = len(poses.scores)
    every = torch.cat([chosen[None].cpu(), centred(poses.cameras[1:]), turned])
    # What was not asked of half turns is taken to be as of the chosen configuration.
    evidence = {name: torch.cat([each, each[:1].expand(len(turned))]) for name, each in poses.evidence.items()}
    evidence["network_log_probability"] = poses.prediction.log_probabilities(every)
    if "synthesis_loss" in evidence:
        evidence["synthesis_loss"][asked:] *= ratios
    weights = weigh(evidence, len(chosen))
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + weights[1:].argsort(descending=True, stable=True)])
    order = order[distinct(every[order, :, 1], len(order), DISTINCT)]
    count = int((weights[order[:RIVALS]] > weights.max() - NEARLY).sum())
    order = torch.cat([order[:count], order[count:][order[count:] < asked]])
    every, evidence = every[order], {name: each[order] for name, each in evidence.items()}
    if count > 1:
        moved, losses = fit_in_detail(images, every[:count].to(images))
        every[1:count] = anchored(moved[1:]).cpu()
        # What is not compared keeps its distance from the chosen configuration.
        known = evidence.get("detail_loss", torch.ones(len(every)))
        evidence["detail_loss"] = torch.cat([losses.cpu(), known[count:] * losses[0].cpu() / known[0]])
    cameras = with_principal_points(every, poses.cameras[:1].expand(len(every), -1, -1))
    found = replace(poses, cameras=cameras, evidence=evidence).reordered(-weigh(evidence, len(chosen)))
    won = not torch.equal(found.cameras[0], cameras[0])
    return replace(found, fit=None if won else poses.fit), won


def weigh(
    evidence: dict[str, Tensor],
    views: int,
    network: float = NETWORK_SHARPNESS,
    synthesis: float = SYNTHESIS_SHARPNESS,
    surprised: float = SURPRISE_SHARPNESS,
    detail: float = DETAIL_SHARPNESS,
) -> Tensor:
    """Log-weights of K configurations, the likeliest by each evidence has none of it: [K].

    Args:
        evidence: "network_log_probability", summed over pairs; "synthesis_loss", "surprise" and "detail_loss", where
            there are any; [K] each.

    The pairs are not independent: those of N views count as N − 1, the number of their relative azimuths.
    """
    weights = network * 2 / views * evidence["network_log_probability"]
    if "synthesis_loss" in evidence:
        weights = weights - synthesis * evidence["synthesis_loss"].log()
    if "surprise" in evidence:
        weights = weights - surprised * evidence["surprise"]
    if "detail_loss" in evidence:
        weights = weights - detail * evidence["detail_loss"].log()
    return weights - weights.max()


def symmetric_loss(photos: Tensor, cameras: Tensor) -> float:
    """What remains `unexplained` when voxels are to look like the photos [N, 4, S, S] from the other side, too.

    Silhouettes that are not their own mirror images, a handle on one side, and faces of different colours that photos
    show from both directions raise it above that of the photos alone; print that no two photos contradict does not.
    """
    return unexplained(*repeated(photos, cameras, SYMMETRY))


def symmetry_bound(config: DictConfig, views: int) -> float | None:
    """Below what excess of the loss from both sides so many photos show the far side, too; None if they never do."""
    more = min(views - config.fewest, len(config.excess) - 1)
    return config.excess[more] if config.fewest <= views <= config.most else None


def symmetry_at(photos: Tensor, cameras: Tensor, alone: float, bound: float | None) -> dict:
    """What poses.json says of the symmetry at cameras [N, 3] at which `alone` is unexplained of the photos alone."""
    if bound is None:
        return {"order": 1}
    above = symmetric_loss(photos, cameras) - alone
    return {"order": SYMMETRY if above < bound else 1, "excess": above}
