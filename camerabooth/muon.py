"""Muon: orthogonalised momentum for the weights of convolutions and linear layers, AdamW for all else.

After Jordan et al., Muon (kellerjordan.github.io/posts/muon, 2024), with the update's scale of Liu et al. (arXiv
2502.16982), by which learning rate and weight decay mean what they mean to AdamW.
"""

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """Near to U Vᵀ of the singular value decomposition U S Vᵀ of a matrix [M, N], by Newton-Schulz in bf16."""
    a, b, c = COEFFICIENTS
    tall = len(matrix) > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """One optimiser for all parameters of a module.

    Args:
        learning_rate: of all.
        momentum: of the matrices; the others have AdamW's betas.
    """

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float, momentum: float = 0.95):
        parameters = list(module.parameters())
        matrices = [p for p in parameters if p.dim() >= 2 and min(len(p), p[0].numel()) > 1]
        chosen = set(map(id, matrices))
        groups = [{"params": matrices, "matrices": True}]
        groups += [{"params": [p for p in parameters if id(p) not in chosen], "matrices": False}]
        super().__init__(groups, {"lr": learning_rate, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            update = self._matrix_update if group["matrices"] else self._adam_update
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update(parameter, group["momentum"]), alpha=-group["lr"])

    def _matrix_update(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["velocity"] = torch.zeros_like(parameter)
        state["velocity"].lerp_(parameter.grad, 1 - momentum)
        ahead = parameter.grad.lerp(state["velocity"], momentum)  # Nesterov's
        matrix = ahead.flatten(1)
        direction = orthogonalised(matrix).to(parameter.dtype)
        return direction.view_as(matrix).unflatten(1, parameter.shape[1:]) * (0.2 * max(matrix.shape) ** 0.5)

    def _adam_update(self, parameter: Tensor, _: float, betas: tuple[float, float] = (0.9, 0.98)) -> Tensor:
        state = self.state[parameter]
        if not state:
            state |= {"first": torch.zeros_like(parameter), "second": torch.zeros_like(parameter), "steps": 0}
        state["steps"] += 1
        state["first"].lerp_(parameter.grad, 1 - betas[0])
        state["second"].lerp_(parameter.grad.square(), 1 - betas[1])
        first = state["first"] / (1 - betas[0] ** state["steps"])
        second = state["second"] / (1 - betas[1] ** state["steps"])
        return first / (second.sqrt() + 1e-8)
