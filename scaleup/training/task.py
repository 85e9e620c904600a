"""A pipeline, prompts and a reward as the Task that methods run on.

Rows are conditioned on a prompt: cond is (rows, 1), the prompt's index. The bank holds samples of
the pretrained model, drawn once, each with its reward: methods that train on base samples draw
from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scaleup.adapter.auxiliary import flow_network
from scaleup.adapter.lora import OLD, STUDENT
from scaleup.adapter.model import ImageModel
from scaleup.adapter.prompts import Prompts
from scaleup.adapter.sampling import NonFiniteError, NonFiniteStateError, Solver, sample
from scaleup.rewards.contract.reward import Reward
from theory.common.checks import check_order
from theory.fields.mixture import VelocityModel
from theory.fields.paths import RECTIFIED_FLOW
from theory.methods import Draws, Execution, Task
from theory.methods.contract.auxiliary import Outputs

POOLED_PIXELS, AUXILIARY_WIDTH = 4, 128
ADVICE = (
    "the student's stay so with a smaller learning_rate, the base's with precision = 'no' and less "
    "guidance"
)


def _role(model: VelocityModel) -> str:
    """What a model is in a run."""
    names = {None: "the base", STUDENT: "the student", OLD: "the old copy"}
    return names.get(getattr(model, "adapter", ""), "a model")


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled: ODE steps, rows at once (`chunk`), rows of one prompt (`group`)."""

    steps: int = 20
    solver: Solver = "euler"
    chunk: int = 64
    group: int = 1


@dataclass(frozen=True)
class Bank:
    """N samples of the pretrained model: x_1 (N, *event), prompt indices (N,), rewards (N,)."""

    x1: Tensor
    prompt: Tensor
    reward: Tensor


def _statistics(raw: Tensor, prompt: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """(mean over all rows of each prompt in `of`, standard deviation over all), both (len(of),)."""
    most = int(prompt.max()) + 1
    total = raw.new_zeros(most).index_add(0, prompt, raw)
    count = raw.new_zeros(most).index_add(0, prompt, torch.ones_like(raw))
    return (total / count)[of], raw.std(correction=0).expand(len(of))


class PromptedTask(Task):
    """A Task without exact answers: samples of `velocity` under prompts, scored as pictures.

    prompts: index 0 is the empty prompt, which no row is drawn for.
    reward: held to its bounds (`scaleup.rewards.contract.checked`).
    execution: by default activations of a whole rollout, or of a chunk's decoding, are not held for
        a gradient but made again in the backward pass.
    guided: the pretrained velocity under guidance, for methods that anchor to it.
    draw_bank: makes the bank, when the first base sample is asked for.
    """

    path = RECTIFIED_FLOW
    condition_numbers = 1
    rewards_checked = True

    def __init__(
        self,
        model: ImageModel,
        velocity: VelocityModel,
        prompts: Prompts,
        reward: Reward,
        sampling: Sampling,
        *,
        execution: Execution = Execution(recompute=True),  # noqa: B008  (frozen)
        guided: VelocityModel | None = None,
        draw_bank: Callable[[], Bank] | None = None,
    ) -> None:
        if len(prompts) < 2:
            raise ValueError("prompts must hold at least one beside the empty prompt")
        check_order("group", sampling.group, 1)
        self.model, self.velocity, self.prompts = model, velocity, prompts
        self.scorer, self.sampling = reward, sampling
        self.event_shape, self.times = model.event_shape, model.times
        self.first_time, self.start_std = model.span[0], model.start_std
        self.sampling_steps = sampling.steps
        self.execution, self._guided, self._draw_bank = execution, guided, draw_bank

    @cached_property
    def bank(self) -> Bank:
        """Base samples, drawn at the first call.

        Raises:
            RuntimeError: nobody said how.
        """
        if self._draw_bank is None:
            raise RuntimeError("task.bank is empty: set it, or give the task draw_bank")
        return self._draw_bank()

    # --- rewards

    def texts(self, prompt: Tensor) -> list[str]:
        """The prompts of indices (rows,)."""
        return [self.prompts.texts[i] for i in prompt.tolist()]

    def reward(self, x1: Tensor, cond: Any = None) -> Tensor:
        """r of the decoded pictures, in x_1's dtype."""
        assert cond is not None
        texts = self.texts(cond[:, 0])
        differentiable = torch.is_grad_enabled() and x1.requires_grad and self.scorer.differentiable
        again, values = differentiable and self.execution.recompute, []
        with torch.set_grad_enabled(differentiable):
            for start in range(0, len(x1), self.sampling.chunk):
                rows = slice(start, start + self.sampling.chunk)
                images = self.pictures(x1[rows], texts[rows], again)
                values.append(self.scorer(images, texts[rows]))
        return torch.cat(values).to(x1)

    def pictures(self, x1: Tensor, texts: Sequence[str], again: bool = False) -> Tensor:
        """Pictures of x_1 (n, *event), decoded; again: once more in the backward pass.

        Raises:
            NonFiniteError: a picture is not finite; names its prompt (one synchronisation).
        """
        decode = partial(checkpoint, self.model.decode, use_reentrant=False)
        images: Tensor = (decode if again else self.model.decode)(x1)
        bad = ~torch.isfinite(images.detach()).flatten(1).all(1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            what = "the decoded picture" if bool(torch.isfinite(x1[row]).all()) else "x_1"
            raise NonFiniteError(
                f"{self.model.source}: {what} must be finite, and is not of prompt {texts[row]!r}; "
                f"{ADVICE}"
            )
        return images

    def reward_statistics(self, raw: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """(mean over a row's prompt, std over all), over the rows of all processes."""
        rows = self.execution.gather(torch.stack([raw.double(), cond[:, 0].double()], 1))
        if self.sampling.group == 1:
            self.check_alone(len(rows), "group, batch or pool of the method")
        mean, std = _statistics(rows[:, 0], rows[:, 1].long(), cond[:, 0])
        return mean.to(raw), std.to(raw)

    def base_statistics(self, raw: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """The same over the whole bank."""
        self.check_alone(len(self.bank.prompt), "bank")
        mean, std = _statistics(self.bank.reward, self.bank.prompt, cond[:, 0])
        return mean.to(raw), std.to(raw)

    def check_alone(self, samples: int, what: str) -> None:
        """A reward less its prompt's mean is nothing where the prompt has one sample.

        Raises:
            ValueError: fewer than two samples a prompt.
        """
        prompts = len(self.prompts) - 1
        if samples < 2 * prompts:
            raise ValueError(
                f"{samples} samples of {prompts} prompts, and rewards are compared in a prompt: "
                "one that is alone is its own mean, and nothing is learned from it; need a larger "
                f"{what}, or fewer prompts"
            )

    # --- samples

    def conditions(self, n: int, draws: Draws) -> Tensor:
        """Prompts drawn uniformly, `group` rows in a row of each; (n, 1)."""
        group = self.sampling.group
        if n % group:
            raise ValueError(
                "rows (a process's share of the batch, or of a method's pool) must be a multiple "
                f"of group = {group}, got {n}"
            )
        u = draws.uniform(n).reshape(-1, group)[:, :1].expand(-1, group).reshape(-1)
        most = len(self.prompts) - 1
        return (1 + (u * most).long().clamp_max(most - 1))[:, None]

    def base_samples(self, n: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """n rows of the bank, uniformly."""
        bank = self.bank
        row = draws.among(n, len(bank.x1))
        x1 = bank.x1[row]
        return x1, bank.prompt[row, None], bank.reward[row].to(x1)

    def sampled(
        self, model: VelocityModel, noise: Tensor, cond: Tensor, steps: int | None = None
    ) -> Tensor:
        """x_1 from noise N(0, I), chunk by chunk.

        Raises:
            NonFiniteError: a state of the ODE is not finite; names model, prompt and step.
        """
        steps, size = steps or self.sampling.steps, self.sampling.chunk
        parts = []
        for i in range(0, len(noise), size):
            rows = slice(i, i + size)
            try:
                parts.append(
                    sample(model, noise[rows], self.model, steps, cond[rows], self.sampling.solver)
                )
            except NonFiniteStateError as error:
                (text,) = self.texts(cond[i + error.row])
                raise NonFiniteError(
                    f"{self.model.source}: samples must be finite, and one of {_role(model)} for "
                    f"prompt {text!r} is not, first {error.where}; {ADVICE}"
                ) from error
        return torch.cat(parts)

    def guided_velocity(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if self._guided is None:
            return super().guided_velocity(x, t, cond)
        return self._guided(x, t, cond)

    def auxiliary(self, outputs: Outputs, draws: Draws, near_zero: bool = False) -> nn.Module:
        """A flow network (`scaleup.adapter.auxiliary`) for "event" and where it is to start at 0;
        else an `AuxiliaryNetwork`.

        Raises:
            ValueError: the pipeline's network is none that a flow network can be made of.
        """
        if outputs == "event" or near_zero:
            (generator,) = draws.generators
            return flow_network(self.model, self.prompts, outputs, generator, near_zero)
        return AuxiliaryNetwork(self.event_shape, self.prompts, outputs, draws)


class AuxiliaryNetwork(nn.Module):
    """(x, t, prompt) -> (rows, outputs): pooled pixels, time and the prompt's mean embedding
    through two hidden layers of SiLU; the last layer starts at zero."""

    def __init__(
        self, event_shape: Sequence[int], prompts: Prompts, outputs: int, draws: Draws
    ) -> None:
        super().__init__()
        self.prompts = prompts  # no module: embeddings are no weights
        empty = self._texts(torch.zeros(1, dtype=torch.long))
        device, inputs = empty.device, event_shape[0] * POOLED_PIXELS**2 + 1 + empty.shape[1]
        self.layers = nn.ModuleList()
        for fan_in, fan_out in ((inputs, AUXILIARY_WIDTH), (AUXILIARY_WIDTH, AUXILIARY_WIDTH)):
            layer = nn.Linear(fan_in, fan_out, device="meta").to_empty(device=device)
            with torch.no_grad():
                (generator,) = draws.generators
                weight = 2 * torch.rand(fan_out, fan_in, generator=generator) - 1
                layer.weight.copy_(weight / fan_in**0.5)
                layer.bias.zero_()
            self.layers.append(layer)
        last = nn.Linear(AUXILIARY_WIDTH, outputs, device="meta").to_empty(device=device)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers.append(last)

    def _texts(self, index: Tensor) -> Tensor:
        """Mean embeddings of prompts (rows,), (rows, D)."""
        return next(iter(self.prompts.rows(index).values())).float().mean(1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """x (rows, C, H, W), t (rows,), cond (rows, 1)."""
        pooled = nn.functional.adaptive_avg_pool2d(x.float(), POOLED_PIXELS).flatten(1)
        h = torch.cat([pooled, t.float()[:, None], self._texts(cond[:, 0])], 1)
        for layer in list(self.layers)[:-1]:
            h = nn.functional.silu(layer(h))
        return self.layers[-1](h)
