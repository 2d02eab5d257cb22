"""Which images survive several PGD attacks at once, in shared passes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tamnas.attacks.ascent import Loss, ascend, cross_entropy_sum, margin_sum, right, under_attack, uniform_start
from tamnas.attacks.listed import EvalPgd


@dataclass(frozen=True)
class Attempt:
    """One PGD attack: its radius and step size in [0, 1], after how many steps to look, which iterates count.

    With `success="any"` a sample falls with the first iterate (random start included) that fools the network and is not
    attacked further, nor is one whose iterates begin to repeat; with `"last"` only the final iterate counts.
    """

    eps: float
    step_size: float
    steps: tuple[int, ...]
    success: str = "any"
    generator: torch.Generator | None = None  # of the random start


def survivors(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attempts: Sequence[Attempt],
    starts: Sequence[Tensor] | None = None,
    objective: Loss = cross_entropy_sum,
) -> list[Tensor]:
    """Which samples each attack leaves correctly classified: (len(attempt.steps), N) bool per attempt.

    All attacks share passes: several times as many images in each, which a small network needs to
    be busy. One run of max(steps) steps passes through the states of the shorter ones. So each
    row is what it is when computed alone, up to how passes of other sizes round. `starts`: what
    `uniform_start` gave for each attempt; drawn here if it is not given.
    """
    n, device = len(x), x.device
    if starts is None:
        starts = [uniform_start(x, attempt.eps, attempt.generator) for attempt in attempts]
    standing = [torch.zeros(len(attempt.steps), n, dtype=torch.bool, device=device) for attempt in attempts]

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=x.dtype, device=device).repeat_interleave(n)[:, None, None, None]

    state = {
        "x": torch.cat([x] * len(attempts)),
        "target": y.repeat(len(attempts)),
        "eta": torch.cat(list(starts)),
        "eps": column([attempt.eps for attempt in attempts]),
        "step_size": column([attempt.step_size for attempt in attempts]),
    }
    attempt_index = torch.arange(len(attempts), device=device).repeat_interleave(n)
    image = torch.arange(n, device=device).repeat(len(attempts))
    longest = [max(attempt.steps) for attempt in attempts]
    last = torch.tensor(longest, device=device)
    falls = torch.tensor([attempt.success == "any" for attempt in attempts], device=device)
    settled = torch.zeros(len(attempts), n, dtype=torch.bool, device=device)
    kept = state["eta"]  # after the last number of steps that was a power of two: Brent's search for cycles
    with under_attack(model):
        for step in range(max(longest) + 1):
            if step == max(longest):
                with torch.no_grad():
                    logits = model(state["x"] + state["eta"])
            else:
                state["eta"], logits = ascend(model, objective, **state)
            correct = right(logits, state["target"])
            for index, attempt in enumerate(attempts):
                if step in attempt.steps:
                    mine = attempt_index == index
                    standing[index][attempt.steps.index(step), image[mine]] = correct[mine]
            # An iterate depends on the one before alone: where one comes back, all that follow were seen, and failed.
            repeats = correct & falls[attempt_index] & (state["eta"] == kept).flatten(1).all(1)
            settled[attempt_index, image] = repeats
            if step & (step + 1) == 0:
                kept = state["eta"]
            going_on = (last[attempt_index] > step) & (correct | ~falls[attempt_index]) & ~repeats
            left = going_on.nonzero().squeeze(1)  # once: on a GPU each look for them waits for it
            if len(left) < len(image):
                state = {name: tensor[left] for name, tensor in state.items()}
                attempt_index, image, kept = attempt_index[left], image[left], kept[left]
            if len(image) == 0:
                break
    return [mask | stays for mask, stays in zip(standing, settled, strict=True)]


OBJECTIVES = {"pgd": cross_entropy_sum, "pgd_cw": margin_sum}


def pgd_survivors(attack: EvalPgd, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """`EvalAttack.survivors` of PGD on either loss."""
    attempt = Attempt(
        float(attack.eps), float(attack.step_size or attack.eps / 4), (attack.steps,), generator=generator
    )
    ((standing,),) = survivors(model, x, y, [attempt], objective=OBJECTIVES[attack.kind])
    return standing
