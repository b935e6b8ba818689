"""Stage 1's embedded network: views in; elevations, radii and pairwise distributions of relative azimuths out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from relposepp import unwrapping
from relposepp.attitude import ELEVATIONS, UPRIGHT, AttitudeHead
from relposepp.correlation import PairHead, circular_correlation, spectra
from relposepp.lifting import CylinderNetwork, ImageEncoder, Seen, facing
from relposepp.search import configuration_scores, joint_elevations, to_bins
from sap3d.errors import UserError
from sap3d.files import atomic_file, save_tensors, write_json

WEIGHTS = Path(__file__).parent / "weights"
IMAGE_SIZE = 128
# Share of pairs of which the network knows nothing, whatever it says: its distributions are mixed with a uniform one,
# so that one pair that it gets wrong for sure does not outvote the others. Likeliest on held-out toys.
OUTLIERS = 0.05


@dataclass
class ModelConfig:
    """Sizes; saved beside the weights."""

    features: int = 16  # of a frustum's cell
    depth_bins: int = 8
    rings: int = 5
    levels: int = 8
    sectors: int = 36  # azimuth bins of a cylinder
    width: int = 80  # channels on the cylinder
    blocks: int = 3
    groups: int = 16  # separately correlated feature groups
    group_channels: int = 4
    azimuth_bins: int = 72  # bins of a pairwise distribution


@dataclass
class Prediction:
    """What the network says about N views of one object; on the CPU."""

    elevation: Tensor  # radians, [N]
    elevation_deviation: Tensor  # standard deviation, radians, [N]
    radius: Tensor  # [N]
    # Log-probabilities [i, j, k] of azimuth_j − azimuth_i = 2πk / bins, zero on the diagonal, [N, N, bins].
    azimuths: Tensor
    photometric: Tensor  # the same of the colours alone (`unwrapping.azimuth_log_probabilities`)

    def whole(self) -> Tensor:
        """Whole configurations that it proposes, best first, [K, N, 3]; this network knows pairs alone."""
        return torch.zeros(0, len(self.elevation), 3)

    def log_probabilities(self, cameras: Tensor) -> Tensor:
        """Summed over all pairs, of configurations (elevation, azimuth, …), [K, N, 3] or more: [K]."""
        return configuration_scores(self.azimuths, to_bins(cameras[..., 1], self.azimuths))


@dataclass
class Elevations:
    """Distributions of N views' elevations over evenly spaced bins."""

    bins: Tensor  # radians, [E]
    probabilities: Tensor  # [N, E]

    def mixed(self, other: "Elevations") -> "Elevations":
        """Half of each, on these bins; the other's have the same spacing."""
        place = ((other.bins - self.bins[0]) / (self.bins[1] - self.bins[0])).round().long()
        inside = (place >= 0) & (place < len(self.bins))
        moved = torch.zeros_like(self.probabilities)
        moved[:, place[inside]] = other.probabilities[:, inside]
        moved = moved / moved.sum(-1, keepdim=True).clamp(min=1e-6)
        return Elevations(self.bins, (self.probabilities + moved + 1e-6) / 2)


@dataclass
class Encoding:
    """What the image encoder makes of views; indexing takes views."""

    images: Tensor  # white-composited RGB + mask, [V, 4, 64, 64]: colours are compared at half the size
    frustum: Tensor  # features of `lifting`, [V, C, D, 16, 16]
    summary: Tensor  # [V, 128]

    def __getitem__(self, index: Tensor | slice) -> "Encoding":
        return Encoding(self.images[index], self.frustum[index], self.summary[index])


@dataclass
class Signature:
    """What a view is compared by, given its elevation and radius; indexing takes views."""

    learned: Tensor  # spectra of the cylinder's features, complex [V, groups, C, F]
    photometric: Tensor  # `unwrapping.moments`, complex [V, 9, LEVELS, F']
    summary: Tensor  # of the image alone, [V, 128]

    def __getitem__(self, index: Tensor | slice) -> "Signature":
        return Signature(self.learned[index], self.photometric[index], self.summary[index])


class RelativePose(nn.Module):
    """Cylindrical correlation: features on a cylinder about the object, correlated over azimuth, and so its colours.

    The pairwise distributions play the part of RelPose++'s energies (arXiv 2305.04926), for cameras without roll.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.register_buffer("elevations", ELEVATIONS.clone(), persistent=False)
        self.register_buffer("radii", torch.arange(12, 26) / 10, persistent=False)
        c = config
        self.encoder = ImageEncoder(c.features, c.depth_bins)
        self.attitude_head = AttitudeHead(coarse=128, summary=128)
        self.radius_head = nn.Linear(128, len(self.radii))
        out = c.groups * c.group_channels
        self.cylinder = CylinderNetwork(c.features, c.rings, c.levels, c.sectors, c.width, c.blocks, out)
        self.pair_head = PairHead(c.groups, unwrapping.CHANNELS, context=128)

    def attitude(self, images: Tensor) -> Tensor:
        """Logits over `attitude.ELEVATIONS` and `attitude.ROLLS` of views as they are [V, 4, 128, 128]: [V, 22, 19]."""
        return self.told_attitude(self.encoder(images))

    def told_attitude(self, seen: Seen) -> Tensor:
        """`attitude` of views that are encoded already."""
        return self.attitude_head(seen.coarse, seen.known, seen.summary)

    def encode(self, images: Tensor) -> tuple[Encoding, Tensor, Tensor]:
        """Upright views [V, 4, 128, 128] → encoding, elevation logits [V, 22], radius logits [V, 14]."""
        seen = self.encoder(images)
        logits = self.told_attitude(seen)[:, :, UPRIGHT], self.radius_head(seen.summary).float()
        return Encoding(F.avg_pool2d(images, 2), self.encoder.lifted(seen), seen.summary), *logits

    def signatures(
        self, views: Encoding, elevation: Tensor, radius: Tensor, fields_of_view: Tensor | None = None
    ) -> Signature:
        """Of V views, given their elevations (radians, [V]), and radii [V] as of `plain` cameras.

        Args:
            fields_of_view: radians, [V]; by default the usual one, which the network was trained with.
        """
        cameras = facing(elevation, radius, fields_of_view)
        cells = self.cylinder(views.frustum, cameras)
        learned = spectra(cells.unflatten(1, (self.config.groups, -1)).flatten(2, 3))
        with torch.no_grad(), torch.autocast(views.images.device.type, enabled=False):
            unwrapped = unwrapping.unwrap(views.images.float(), cameras, self.config.azimuth_bins)
            photometric = unwrapping.moments(*unwrapped)
        return Signature(learned, photometric, views.summary)

    def pair_logits(self, first: Signature, second: Signature) -> Tensor:
        """Unnormalised log-probabilities of azimuth(second) − azimuth(first), [P, bins], from P signatures each."""
        bins = self.config.azimuth_bins
        correlations = circular_correlation(first.learned, second.learned, self.config.sectors, bins)
        agreement = unwrapping.compare(first.photometric, second.photometric, bins)
        return self.pair_head(correlations, agreement, (first.summary + second.summary) / 2)

    def expected_elevation(self, logits: Tensor) -> Tensor:
        """Mean of the elevation distribution, radians, [V]."""
        return (logits.softmax(-1) * self.elevations).sum(-1)

    def expected_radius(self, logits: Tensor) -> Tensor:
        """Mean of the radius distribution, [V]."""
        return (logits.softmax(-1) * self.radii).sum(-1)

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        joint: bool = True,
        elevations: Elevations | None = None,
        fields_of_view: Tensor | None = None,
    ) -> Prediction:
        """All that the network says about N upright views of one object, images [N, 4, 128, 128].

        With `joint`, the elevations are inferred from the views together (`search.joint_elevations`), else each view
        has the only word on its own.

        Args:
            elevations: another network's word on them, of which the head's own is then a half.
            fields_of_view: radians, [N]; by default the usual one.
        """
        views, elevation_logits, radius_logits = self.encode(images)
        radius, heads = self.expected_radius(radius_logits), Elevations(self.elevations, elevation_logits.softmax(-1))
        each = heads if elevations is None else elevations.mixed(heads)
        together = joint and len(images) > 1
        posterior = each.probabilities
        if together:
            evidence = self.elevation_evidence(views, radius, each.bins, fields_of_view)
            posterior = joint_elevations(posterior.clamp(min=1e-20).log(), evidence)
        elevation = posterior @ each.bins
        deviation = (posterior * (each.bins - elevation[:, None]).square()).sum(-1).sqrt()
        signature = self.signatures(views, elevation, radius, fields_of_view)
        count, bins = len(images), self.config.azimuth_bins
        rows = torch.arange(count, device=images.device)
        first, second = rows.repeat_interleave(count), rows.repeat(count)
        probabilities = self.pair_logits(signature[first], signature[second]).softmax(-1)
        agreement = unwrapping.compare(signature.photometric[first], signature.photometric[second], bins)
        azimuths = ((1 - OUTLIERS) * probabilities + OUTLIERS / bins).log()
        photometric = unwrapping.azimuth_log_probabilities(agreement)
        azimuths, photometric = (
            (pairs * (first != second)[:, None]).view(count, count, bins) for pairs in (azimuths, photometric)
        )
        return Prediction(*(part.cpu() for part in (elevation, deviation, radius, azimuths, photometric)))

    def elevation_evidence(
        self, views: Encoding, radius: Tensor, elevations: Tensor, fields_of_view: Tensor | None = None
    ) -> Tensor:
        """Log-evidence of each pair for every two of E elevations: energies summed over azimuths, [N, N, E, E]."""
        count, bins = len(radius), len(elevations)
        each = torch.arange(count, device=radius.device).repeat_interleave(bins)
        seen = None if fields_of_view is None else fields_of_view[each]
        signature = self.signatures(views[each], elevations.repeat(count), radius[each], seen)
        rows = torch.arange(bins, device=radius.device)
        first, second = rows.repeat_interleave(bins), rows.repeat(bins)
        evidence = torch.zeros(count, count, bins, bins, device=radius.device)
        for i, j in torch.combinations(torch.arange(count)).tolist():
            logits = self.pair_logits(signature[i * bins + first], signature[j * bins + second])
            evidence[i, j] = logits.logsumexp(-1).view(bins, bins)
            evidence[j, i] = evidence[i, j].T
        return evidence


def save_model(model: RelativePose, folder: Path) -> None:
    """Write model.safetensors (fp16) and config.json."""
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "model.safetensors") as partial:
        save_tensors(tensors, partial)
    write_json(folder / "config.json", asdict(model.config))


def load_model(folder: Path, device: torch.device) -> RelativePose:
    """Read what `save_model` wrote, ready for inference.

    Raises:
        UserError: missing or unreadable files.
    """
    path = folder / "model.safetensors"
    if not path.exists():
        raise UserError(f"{path}: no weights; train them with python relposepp/train.py, or restore the repository's")
    try:
        model = RelativePose(ModelConfig(**json.loads((folder / "config.json").read_text())))
        model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: not weights of this model ({str(error).splitlines()[0]})") from error
    return model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
