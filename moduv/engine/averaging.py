"""Moving averages of weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """Exponential moving average of weights and running statistics; its first steps count more."""

    def __init__(self, modules: nn.Module, decay: float) -> None:
        self.model = AveragedModel(
            modules, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
        )
        self._decay = decay

    def update(self, modules: nn.Module) -> None:
        """Move the average towards the weights of this step."""
        steps = int(self.model.n_averaged)
        self.model.multi_avg_fn = get_ema_multi_avg_fn(min(self._decay, (1 + steps) / (10 + steps)))
        self.model.update_parameters(modules)
