"""Quantiles of the demand over the coming periods: of a law its own, of recorded sales learned from
the past.

For recorded sales a small network reads the past demands of a store, divided by their own mean, and
the time of year, and tells all quantiles over all horizons at once. It is trained on the train
weeks with the pinball loss

    rho_tau(u) = max(tau u, (tau - 1) u),   u = demand - forecast

whose minimum is the quantile tau (Koenker and Bassett, 1978). Its outputs are increments, so that a
higher quantile is never below a lower one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ...envs.inventory.inventory_net import InventoryNet
from ..base.nets.mlp import mlp
from .order_up_to import (
    LOWEST_LEVEL,
    critical_fractile,
    follows_sales,
    inverse_softplus,
    relative_quantiles,
)

KNOTS = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 0.92, 0.96, 0.99)
LEAST_INCREMENT = 1e-4


def pinball_loss(
    forecast: torch.Tensor, demand: torch.Tensor, levels: torch.Tensor
) -> torch.Tensor:
    """max(tau u, (tau - 1) u) with u = demand - forecast; elementwise over shapes that
    broadcast."""
    error = demand - forecast
    return torch.maximum(levels * error, (levels - 1) * error)


class QuantileForecast(nn.Module):
    """Quantiles of the demand of each store over several horizons, in units of its demand level.

    Args:
        core: the environment.
        horizons: numbers of periods, ascending, int [H].
        recorded: whether it learns from recorded sales; else the quantiles are those of the law.
        hidden: layers of the network.
    """

    levels: torch.Tensor
    table: torch.Tensor
    fitted: torch.Tensor

    def __init__(
        self,
        core: InventoryNet,
        horizons: NDArray[np.int64],
        recorded: bool,
        hidden: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__()
        self.horizons = horizons
        # The fractiles of the stores are knots as well, so that at them the quantiles of a law are
        # exact.
        fractiles = critical_fractile(core)
        knots = np.unique(np.concatenate([KNOTS, fractiles if core.stores <= 16 else []]).round(12))
        self.register_buffer("levels", torch.as_tensor(knots).float())
        self.register_buffer("table", torch.zeros(core.stores, len(horizons), len(knots)))
        self.register_buffer("fitted", torch.tensor(False))
        self.net: nn.Module | None = None
        if recorded:
            features = core.past + 1 + 2 * ("season" in core.observe) + core.calendar.shape[1]
            self.net = mlp(features, hidden, len(horizons) * len(knots))
            # At first the past changes nothing: the forecast is that of `table`.
            for values in self.net[-1].parameters():
                nn.init.zeros_(values)

    def start(self, core: InventoryNet) -> None:
        """The quantiles of the law, or those of all train weeks together."""
        levels = self.levels.double().numpy()
        found = [relative_quantiles(core, levels, int(horizon)) for horizon in self.horizons]
        self.table.copy_(torch.as_tensor(np.stack(found, axis=1)).float())

    def forward(self, features: torch.Tensor | None) -> torch.Tensor:
        """Quantiles [n or 1, K, H, Q] in units of the demand level, from features [n, K, F] (None:
        a law)."""
        if self.net is None or features is None:
            return self.table[None]
        shape = (*features.shape[:-1], *self.table.shape[1:])
        steps = self.table.diff(dim=-1, prepend=torch.zeros_like(self.table[..., :1]))
        base = inverse_softplus(steps.clamp(min=LEAST_INCREMENT))
        return functional.softplus(base + self.net(features).reshape(shape)).cumsum(dim=-1)

    def at(
        self,
        quantiles: torch.Tensor,
        store: torch.Tensor,
        horizon: torch.Tensor,
        levels: torch.Tensor,
    ) -> torch.Tensor:
        """Chosen quantiles, linear in log-odds between the knots (and beyond the outer ones).

        Args:
            quantiles: what `forward` returned, [n, K, H, Q].
            store, horizon: indices, int [P].
            levels: in (0, 1), [P].

        Returns:
            [n, P], differentiable in `levels`.
        """
        knots, odds = torch.logit(self.levels), torch.logit(levels)
        upper = torch.searchsorted(knots, odds.detach().contiguous()).clamp(1, len(knots) - 1)
        weight = (odds - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
        column = (store * len(self.horizons) + horizon) * len(knots) + upper
        flat = quantiles.flatten(1)
        below, above = flat[:, column - 1], flat[:, column]
        return below + weight * (above - below)


def forecast_features(
    past: torch.Tensor, level: torch.Tensor, mean: torch.Tensor, *time_of_year: torch.Tensor
) -> torch.Tensor:
    """Inputs of the network, [n, K, past + 1 + ...].

    Args:
        past: demands, oldest first, [n, K, past].
        level: demand level, [n, K].
        mean: mean demand of each store, [n or 1, K].
        time_of_year: season and calendar, [n, ...] each.
    """
    size = torch.log(level / mean.clamp(min=1e-9))
    shared = [part[:, None].expand(-1, past.shape[1], -1) for part in time_of_year]
    return torch.cat([past / level.clamp(min=1e-9)[..., None], size[..., None], *shared], dim=-1)


class Sales:
    """Recorded demand as examples to learn from.

    Args:
        core: an environment with a trace whose past demands are observed.
        horizons: int [H].
        split: of the trace.
    """

    def __init__(
        self, core: InventoryNet, horizons: NDArray[np.int64], split: str, device: Any
    ) -> None:
        assert follows_sales(core)
        demand: Any = core.demand
        first, stop = demand.window(split)
        self.core, self.device, self.horizons = core, device, torch.as_tensor(horizons)
        self.weeks = np.arange(first + core.past, stop - int(horizons.max()) + 1)
        if not len(self.weeks):
            raise ValueError(
                f"{demand.origin}: split {split!r} has {stop - first} weeks, too few for "
                f"{core.past} past weeks and a reach of {horizons.max()}"
            )
        self.values = torch.as_tensor(np.array(demand.values)).float().to(device)
        self.sums = functional.pad(self.values, (0, 0, 1, 0)).double().cumsum(dim=1)
        self.mean = torch.as_tensor(demand.mean.copy()).float().to(device)

    def draw(self, count: int, generator: np.random.Generator) -> tuple[torch.Tensor, ...]:
        """Features [count, K, F], demands over the horizons in units of the level [count, K, H],
        and the level [count, K], of random weeks of random series."""
        series = torch.as_tensor(
            generator.integers(len(self.values), size=count), device=self.device
        )
        week = torch.as_tensor(generator.choice(self.weeks, size=count), device=self.device)
        back = torch.arange(-self.core.past, 0, device=self.device)
        past = self.values[series[:, None], week[:, None] + back].transpose(1, 2)
        ends = week[:, None] + self.horizons.to(self.device)
        future = self.sums[series[:, None], ends] - self.sums[series, week][:, None]
        level = past.mean(dim=-1) + LOWEST_LEVEL * self.mean
        features = forecast_features(past, level, self.mean[None], *self._time_of_year(week))
        return features, future.float().transpose(1, 2) / level[..., None], level

    def _time_of_year(self, week: torch.Tensor) -> list[torch.Tensor]:
        found = []
        if "season" in self.core.observe:
            phase = week * (2 * np.pi / self.core.season)
            found.append(torch.stack([torch.sin(phase), torch.cos(phase)], dim=1).float())
        if self.core.calendar.shape[1]:
            calendar = torch.as_tensor(self.core.calendar.copy(), device=self.device).float()
            found.append(calendar[week])
        return found


def fit_forecast(
    forecast: QuantileForecast,
    core: InventoryNet,
    seed: int,
    steps: int = 800,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
) -> list[float]:
    """Train the network on the train weeks; the weights that do best on the validation weeks are
    kept.

    Args:
        forecast: the network, of recorded sales.
        core: the environment.
        seed: of the examples.
        steps: gradient steps; batch_size: weeks of all stores in each.
        learning_rate: of Adam, falling to 0 along a cosine.

    Returns:
        Validation losses, every 100 steps: mean pinball loss in units of the mean demand.
    """
    assert forecast.net is not None
    device = forecast.table.device
    train = Sales(core, forecast.horizons, "train", device)
    held_out = Sales(core, forecast.horizons, "validation", device)
    generator = np.random.default_rng(seed)
    checks = held_out.draw(1024, np.random.default_rng(seed + 1))
    optimizer = torch.optim.Adam(forecast.net.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scale = float(train.mean.mean())

    def loss(examples: tuple[torch.Tensor, ...]) -> torch.Tensor:
        features, demand, level = examples
        errors = pinball_loss(forecast(features), demand[..., None], forecast.levels)
        return (errors.mean(dim=(2, 3)) * level).mean() / scale

    losses: list[float] = []
    best: dict[str, torch.Tensor] = {}
    for step in range(steps + 1):
        if step % 100 == 0 or step == steps:
            with torch.no_grad():
                losses.append(float(loss(checks)))
            if losses[-1] <= min(losses):
                best = {name: value.clone() for name, value in forecast.net.state_dict().items()}
        if step < steps:
            optimizer.zero_grad()
            loss(train.draw(batch_size, generator)).backward()
            optimizer.step()
            schedule.step()
    forecast.net.load_state_dict(best)
    forecast.fitted.fill_(True)
    return losses
