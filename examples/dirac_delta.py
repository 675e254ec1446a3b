"""The curse on a case with a known answer: diffusion on a line, fine-tuned by RL in seconds.

    python examples/dirac_delta.py [--out FILE] [--seed N]

The reference draws x from four Gaussians, so its noise prediction is a formula. The policy adds a
table of corrections, its "LoRA": all zero, it is the reference. Two peaks of the reward are exactly
equal. The measures are sums over a grid, not samples.

Known (DRIFT, Eq. 4): the maximum of E[r] - beta·KL is pi* ∝ pi_ref·exp(r / beta); as beta -> 0 it
piles up on argmax r (Eq. 5), here on both peaks. Found (TV: total variation to pi*, seeds 0 to 4):

1. GRPO without KL ends as a Dirac delta, as narrow as the last step's noise, on *one* of the two
   equal peaks: the outer one. While x is mostly noise, E[r | x] is highest there, and a mode that
   is no longer drawn sends no gradient. (Under a mirror-symmetric reward both peaks stay.)
2. With the KL in the reward, r - beta·sum_t log(pi / pi_ref), it reaches pi*: TV falls from 0.35 to
   0.05. Those 0.05 are the 20 steps: a step stays Gaussian whatever is learned, and the best such
   steps (dynamic programming, in the test) end at 0.05 too. That x_T cannot be tilted costs 0.004.
3. With each step's KL as a loss, as GRPO codes have it, the gradient misses what a step does to the
   KL of later steps. It settles at TV 0.07, with a lower E[r] - beta·KL: 0.747 against 0.753; at
   beta = 0.1 at TV 0.13 against 0.05, and 0.832 against 0.855.
4. Advantages must be r - mean. Divided by std (Eq. 3) the weight of the KL is in truth
   beta·std(r), which shrinks as training goes: TV 0.39.
5. Diversity shaping (Eq. 11-14) keeps both peaks at full reward without a KL. It does not aim at
   pi*: the lower peaks go.

Each batch is one group and is used for one update, so the ratio is exactly 1 and nothing is
clipped. A group of G scales its advantages by 1 - 1/G, and so beta by the inverse: hence a large G.
"""

import argparse
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from drift.functional.advantages import combine, group_advantages
from drift.functional.dynamics import ddim_step, gaussian_log_prob
from drift.functional.kl import gaussian_kl
from drift.functional.shaping import clip_intrinsic, intra_group_diversity
from drift.functional.surrogate import clipped_surrogate

MODES, WIDTH = torch.tensor([-3.0, -1.0, 1.0, 3.0]), 0.3  # the reference, equal weights
PEAKS, BREADTH = torch.tensor([0.3, 1.0, 0.6, 1.0]), 0.6  # the reward has a peak on each mode
T, BETA = 20, 0.3
ALPHAS = torch.linspace(1.5, 0.08, T + 1).cos() ** 2  # cosine schedule, noisiest first
KNOTS = torch.linspace(-4.5, 4.5, 41)  # where the table says what to correct
GRID = torch.linspace(-5, 5, 301)


@dataclass(frozen=True)
class Method:
    beta: float = 0.0
    kl: Literal["loss", "reward"] = "loss"
    standardise: bool = True  # divide advantages by the group's std (Eq. 3)
    diversity: float = 0.0  # lambda (Eq. 14)


METHODS = {
    "GRPO": Method(),
    "KL in the reward": Method(beta=BETA, kl="reward", standardise=False),
    "KL as a loss": Method(beta=BETA, standardise=False),
    "KL as a loss, A / std": Method(beta=BETA),
    "diversity shaping": Method(diversity=0.5),
}


def reward(x: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    return (PEAKS * (-((x[:, None] - MODES) ** 2) / (2 * BREADTH**2)).exp()).amax(1)


def features(x: Float[Tensor, "N"]) -> Float[Tensor, "N D"]:
    """The encoder: soft bins, nearly orthogonal for samples of different modes."""
    return (-2 * (x[:, None] - torch.linspace(-4, 4, 17)) ** 2).exp()


def reference_noise(x: Float[Tensor, "N"], alpha: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """eps = -sqrt(1 - alpha)·d/dx log p_alpha(x); the noised p_alpha is a mixture as well."""
    variance = alpha * WIDTH**2 + 1 - alpha
    offset = x[:, None] - alpha.sqrt()[:, None] * MODES
    weight = (-(offset**2) / (2 * variance[:, None])).softmax(1)
    return (1 - alpha).sqrt() * (weight * offset).sum(1) / variance


def correction(table: Float[Tensor, "T J"], x: Float[Tensor, "N"], k: Int[Tensor, "N"]) -> Tensor:
    """What the policy adds to the noise of step k: row k of the table, linear between knots."""
    place = (x - KNOTS[0]) / (KNOTS[1] - KNOTS[0])
    j = place.long().clamp(0, len(KNOTS) - 2)
    share = (place - j).clamp(0, 1)
    return (1 - share) * table[k, j] + share * table[k, j + 1]


def step(table: Float[Tensor, "T J"], x: Float[Tensor, "N"], k: Int[Tensor, "N"]):
    """Mean and std of x_{t-1} after step k from x, and the reference's mean."""
    eps_ref = reference_noise(x, ALPHAS[k])
    eps = eps_ref + correction(table, x, k)
    mean, std = ddim_step(x[:, None], eps[:, None], ALPHAS[k], ALPHAS[k + 1], eta=1.0)
    mean_ref, _ = ddim_step(x[:, None], eps_ref[:, None], ALPHAS[k], ALPHAS[k + 1], eta=1.0)
    return mean, std, mean_ref


@torch.no_grad()
def rollout(table: Float[Tensor, "T J"], G: int, generator: Generator):
    """States x_T ... x_0 "T+1 G" and the log-probability of each step "T G"."""
    states, log_probs = [torch.randn(G, generator=generator)], []
    for k in range(T):
        mean, std, _ = step(table, states[-1], torch.full((G,), k))
        x = mean + std[:, None] * torch.randn(G, 1, generator=generator)
        states.append(x[:, 0])
        log_probs.append(gaussian_log_prob(x, mean, std))
    return torch.stack(states), torch.stack(log_probs)


def replay(table: Float[Tensor, "T J"], states: Float[Tensor, "T+1 G"]):
    """Of each stored step, "T G": log-probability, that of the reference, and the KL between."""
    G = states.shape[1]
    mean, std, mean_ref = step(table, states[:-1].flatten(), torch.arange(T).repeat_interleave(G))
    x = states[1:].reshape(-1, 1)
    log_prob, log_prob_ref = gaussian_log_prob(x, mean, std), gaussian_log_prob(x, mean_ref, std)
    return log_prob.view(T, G), log_prob_ref.view(T, G), gaussian_kl(mean, mean_ref, std).view(T, G)


def advantages(method: Method, x0: Float[Tensor, "G"], log_ratio: Float[Tensor, "G"]) -> Tensor:
    """One prompt and one group, "1 G"; log_ratio = log pi / pi_ref of the whole trajectory."""
    r = reward(x0)[None]
    if method.kl == "reward":
        r = r - method.beta * log_ratio
    A = group_advantages(r) if method.standardise else r - r.mean()
    if method.diversity:
        d = clip_intrinsic(intra_group_diversity(features(x0)[None]), upper=1.0)
        A = combine(A, group_advantages(d), weight=method.diversity)
    return A


def train(method: Method, seed: int, updates: int = 300, G: int = 256) -> Float[Tensor, "S T J"]:
    """The table before each update and after the last."""
    generator = Generator().manual_seed(seed)
    table = torch.zeros(T, len(KNOTS), requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.06, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=updates)
    tables = [table.detach().clone()]
    for _ in range(updates):
        states, old = rollout(table, G, generator)
        log_prob, log_prob_ref, kl = replay(table, states)
        A = advantages(method, states[-1], (log_prob - log_prob_ref).detach().sum(0))
        A = A.expand(T, G).flatten()
        loss = clipped_surrogate(log_prob.flatten(), old.flatten(), A, clip_range=0.2).view(T, G)
        if method.kl == "loss":
            loss = loss + method.beta * kl
        optimizer.zero_grad()
        loss.sum(0).mean().backward()
        optimizer.step()
        schedule.step()
        tables.append(table.detach().clone())
    return torch.stack(tables)


def distribution(table: Float[Tensor, "T J"]) -> Float[Tensor, "X"]:
    """Where on the grid x_0 falls: x_T ~ N(0, 1) summed through the T steps."""
    p = (-(GRID**2) / 2).softmax(0)
    for k in range(T):
        mean, std, _ = step(table, GRID, torch.full(GRID.shape, k))
        p = p @ (-((GRID - mean) ** 2) / (2 * std[:, None] ** 2)).softmax(1)
    return p


def optimum(beta: float) -> Float[Tensor, "X"]:
    """pi* ∝ pi_ref·exp(r / beta) (DRIFT, Eq. 4), pi_ref being what the T steps draw."""
    return (distribution(torch.zeros(T, len(KNOTS))).log() + reward(GRID) / beta).softmax(0)


def total_variation(p: Float[Tensor, "X"], q: Float[Tensor, "X"]) -> float:
    return 0.5 * (p - q).abs().sum().item()


def shares(p: Float[Tensor, "X"]) -> Float[Tensor, "M"]:
    """The share of x_0 nearest to each mode."""
    nearest = (GRID[:, None] - MODES).abs().argmin(1)
    return torch.zeros(len(MODES)).index_add(0, nearest, p)


def measures(p: Float[Tensor, "X"]) -> tuple[float, float, float]:
    """Mean reward, standard deviation of x_0, effective number of modes (exp of the entropy)."""
    std = (p @ (GRID - p @ GRID) ** 2).sqrt()
    return (p @ reward(GRID)).item(), std.item(), torch.special.entr(shares(p)).sum().exp().item()


def draw(runs: dict[str, tuple[Tensor, Tensor]], target: Float[Tensor, "X"], out: str) -> None:
    """Above, what each policy draws in the end; below, the way there."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    ink, scale = "#111827", 1 / (GRID[1] - GRID[0])  # from shares to densities
    colours = dict(zip(runs, ("#c2410c", "#1d4ed8", "#0891b2", "#7c3aed", "#15803d"), strict=True))
    titles = {
        "GRPO": "GRPO: one of two equal peaks",
        "KL in the reward": f"KL in the reward, β = {BETA}: π*",
        "diversity shaping": "Diversity shaping: both peaks",
    }
    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 11}
    plt.rcParams |= {"legend.frameon": False, "legend.fontsize": 10}
    fig, axes = plt.subplots(2, 4, figsize=(16, 8), layout="constrained")
    reference = scale * runs["GRPO"][1][0]
    for ax in axes[0]:
        ax.fill_between(GRID, reference, color="#cbd5e1", lw=0, label="reference")
        ax.set(xlim=(-4.2, 4.2), xlabel="x")
    axes[0, 0].plot(GRID, reward(GRID) / 2, color=ink, label="reward / 2")
    axes[0, 0].set_title("The reference and the reward")
    for (name, title), top, below in zip(titles.items(), axes[0, 1:], axes[1, 1:], strict=True):
        updates, p = runs[name]
        top.plot(GRID, scale * p[-1], color=colours[name], lw=2, label="policy")
        top.set_title(title, color=colours[name], weight="bold")
        cmap = LinearSegmentedColormap.from_list(name, ["white", colours[name], ink])
        below.pcolormesh(GRID, updates, p / p.max(), cmap=cmap, norm=PowerNorm(0.5))
        below.set(xlim=(-4.2, 4.2), xlabel="x", yscale="log", ylim=(int(updates[-1]), 1))
        below.yaxis.set_major_formatter("{x:.0f}")
    axes[0, 2].plot(GRID, scale * target, "--", color=ink, label="π* (Eq. 4)")
    axes[0, 0].set_ylabel("density")
    axes[1, 1].set_ylabel("update")
    ways = axes[1, 0]
    for name, (_, densities) in runs.items():
        rewards, _, modes = zip(*map(measures, densities), strict=True)
        ways.plot(rewards, modes, "o-", color=colours[name], lw=2, markevery=[-1], label=name)
    best = measures(target)
    ways.plot(best[0], best[2], "*", color=ink, ms=14, label="π* (Eq. 4)")
    ways.set(xlabel="mean reward", ylabel="effective modes", ylim=(0.9, 4.1))
    for ax in axes[0]:
        ax.set_ylim(0, 1.35 * ax.dataLim.y1)  # room for the legend
        ax.legend(loc="upper left")
    ways.legend()
    fig.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="dirac_delta.png", metavar="FILE", help="the picture")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()

    torch.set_num_threads(1)  # such small tensors are slower on more
    target, runs = optimum(BETA), {}

    def show(name: str, p: Tensor) -> None:
        figures = "".join(f"{v:9.3f}" for v in (*measures(p), total_variation(p, target)))
        print(f"{name:22}{figures}   " + "".join(f"{v:7.1%}" for v in shares(p)), flush=True)

    print(f"{'':22}   reward   spread    modes  TV to π*   share near -3, -1, 1, 3")
    show("reference", distribution(torch.zeros(T, len(KNOTS))))
    show(f"π* at beta = {BETA}", target)
    for name, method in METHODS.items():
        tables = train(method, args.seed)
        updates = torch.linspace(0, math.log(len(tables)), 45).exp().round().long().unique()
        runs[name] = updates, torch.stack([distribution(tables[u - 1]) for u in updates])
        show(name, runs[name][1][-1])
    try:
        draw(runs, target, args.out)
    except ModuleNotFoundError:
        raise SystemExit("no picture: pip install matplotlib, or 'drift-rft[figures]'") from None
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
