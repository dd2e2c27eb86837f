"""AdamW optimizer over an adapter whose small tensors share one buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from finch_hub.specs.training import TrainingConfig

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class FlatAdamW:
    """AdamW (arXiv 1711.05101) with clipping and LoRA+'s two learning rates (arXiv 2402.12354).

    An adapter has hundreds of small matrices, and an operation for each would cost more time than it computes. Here
    they become views of two float32 buffers, one for each learning rate, and so do their gradients. A step is a few
    operations. ``lora_A`` learns at the base rate, the other parameters at `loraplus_ratio` times that.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> None:
        self._config = config
        self._parameters = dict(parameters)
        first = {name: p for name, p in self._parameters.items() if "lora_A" in name}
        second = {name: p for name, p in self._parameters.items() if "lora_A" not in name}
        self._groups = [
            (_flatten(group), ratio) for group, ratio in ((first, 1.0), (second, config.loraplus_ratio)) if group
        ]
        self._adamw = torch.optim.AdamW(
            [{"params": [flat], "lr": 0.0} for flat, _ in self._groups], weight_decay=config.weight_decay, fused=True
        )

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        for flat, _ in self._groups:
            _gradient(flat).zero_()

    def gradient_norm(self) -> Tensor:
        """Return the norm over all gradients (0-dim, on the device)."""
        norms = [torch.linalg.vector_norm(_gradient(flat)) for flat, _ in self._groups]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm

    def step(self, learning_rate: float) -> Tensor:
        """Clip the gradients, update the parameters, and return the norm before clipping (0-dim, on the device).

        On a CPU, a norm that is not finite leaves the parameters unchanged. On CUDA this check would wait for the
        device in every step, so the caller checks the norm when it next reports.
        """
        norm = self.gradient_norm()
        if norm.device.type == "cpu" and not torch.isfinite(norm):
            return norm
        if self._config.max_grad_norm > 0:
            scale = (self._config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            for flat, _ in self._groups:
                _gradient(flat).mul_(scale)
        for group, (_, ratio) in zip(self._adamw.param_groups, self._groups, strict=True):
            group["lr"] = learning_rate * ratio
        self._adamw.step()
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the parameters, their moments and step counts."""
        state: dict[str, Tensor] = {}
        for number, (flat, _) in enumerate(self._groups):
            state[f"parameters.{number}"] = flat.detach().clone()
            for name, value in self._adamw.state.get(flat, {}).items():
                state[f"{name}.{number}"] = value.detach().clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the values that :meth:`state_dict` returned.

        Raises:
            ValueError: these are not all of them, or others, as another version may have written. Nothing is changed.
        """
        for number, (flat, _) in enumerate(self._groups):
            names = {name.rpartition(".")[0] for name in state if name.endswith(f".{number}")}
            if names not in ({"parameters"}, {"parameters", *_MOMENTS}):
                raise ValueError(f"part {number} has {', '.join(sorted(names)) or 'no values'}")
            if state[f"parameters.{number}"].shape != flat.shape:
                raise ValueError(f"part {number} has the shape {tuple(state[f'parameters.{number}'].shape)}")
        for number, (flat, _) in enumerate(self._groups):
            flat.data.copy_(state[f"parameters.{number}"])
            moments = {
                key.removesuffix(f".{number}"): value.to(flat.device if "step" not in key else "cpu")
                for key, value in state.items()
                if key.endswith(f".{number}") and not key.startswith("parameters.")
            }
            if moments:
                self._adamw.state[flat] = {name: value.clone() for name, value in moments.items()}

    def copy_parameters(self) -> tuple[Tensor, ...]:
        """Return a copy of the parameters' buffers."""
        return tuple(flat.detach().clone() for flat, _ in self._groups)

    def set_parameters(self, buffers: Sequence[Tensor]) -> None:
        """Set the parameters to buffers that :meth:`copy_parameters` returned."""
        for (flat, _), values in zip(self._groups, buffers, strict=True):
            flat.data.copy_(values)

    def release(self) -> None:
        """Give every parameter memory of its own again, and delete the gradients."""
        for parameter in self._parameters.values():
            parameter.data = parameter.data.clone()
            parameter.grad = None


def _flatten(parameters: Mapping[str, nn.Parameter]) -> nn.Parameter:
    """Move parameters into one buffer, and gradients of zero into another, and make them views."""
    first = next(iter(parameters.values()))
    flat = nn.Parameter(torch.empty(sum(p.numel() for p in parameters.values()), device=first.device))
    flat.grad = torch.zeros_like(flat)
    begin = 0
    for parameter in parameters.values():
        if parameter.dtype != torch.float32:
            raise ValueError(f"the adapter has dtype {parameter.dtype}: training needs float32")
        place = slice(begin, begin + parameter.numel())
        flat.data[place] = parameter.data.flatten()
        parameter.data = flat.data[place].view_as(parameter)
        parameter.grad = flat.grad[place].view_as(parameter)
        begin = place.stop
    return flat


def _gradient(flat: nn.Parameter) -> Tensor:
    if flat.grad is None:
        raise RuntimeError("the gradient buffer was deleted: gradients must be set to zero instead")
    return flat.grad
