"""Noise schedules of diffusion models with a scheduler of diffusers, unlike rectified flow."""

import json
import warnings

import diffusers
from diffusers import SchedulerMixin

from ditf.backbones.source import Model
from ditf.errors import UserError

DEFAULT_SCHEDULER = "DDPMScheduler"


def scheduler_noise(model: Model, timestep: int) -> tuple[float, float]:
    """Return the factors of signal and noise at a timestep, sqrt(alpha_t) and sqrt(1 - alpha_t).

    Args:
        model: A model whose folder has `scheduler/scheduler_config.json`.
        timestep: Training timestep, 0 to 999.

    Raises:
        UserError: The configuration cannot be read, or its scheduler has no such timestep.
    """
    path = model.component("scheduler", ()) / "scheduler_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = getattr(diffusers, config.get("_class_name", DEFAULT_SCHEDULER))
        if not issubclass(kind, SchedulerMixin):
            raise ValueError(f"_class_name is {config['_class_name']!r}, not a scheduler")
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # about sampling, which is not used here
            alpha = float(kind.from_config(config).alphas_cumprod[timestep])
    except (OSError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
        raise UserError(f"{path}: gives no noise at t = {timestep} ({error})") from None
    return alpha**0.5, (1 - alpha) ** 0.5
