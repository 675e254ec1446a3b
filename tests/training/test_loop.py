import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.files.checksums import checksum
from drift.functional.shaping import intra_group_diversity
from drift.methods.parts import DiversityShaping
from drift.recipes import load_recipe, read_prompts
from drift.training.loop import draw_prompts, train
from drift.training.policy import load_policy, make_trainable
from drift.training.rollout import pool_seeds, sample_pool
from drift.training.scoring import open_reward, score
from drift.training.tracking import LIVE, read_metrics

SMALL = [
    "epochs=2",
    "checkpoint_every=1",
    "threads=1",
    "sampling.steps=3",
    "sampling.prompts_per_epoch=2",
    "sampling.pool_size=4",
    "sampling.group_size=2",
    "optimizer.updates_per_epoch=2",
    "model.lora_rank=2",
]


@pytest.fixture
def config(tiny_model, tmp_path):
    def build(method: str, name: str = "run", *overrides: str):
        own = [f"method={method}", f"model.name={tiny_model}", f"output={tmp_path / name}"]
        return load_recipe("menagerie", [*SMALL, *own, *overrides])

    return build


def assert_equal_weights(one, two, epoch=2):
    for name in ("pytorch_lora_weights.safetensors", "optimizer.safetensors"):
        a, b = (load_file(run / f"checkpoints/step-{epoch:06d}/{name}") for run in (one, two))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def timeless(run):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run)]


@pytest.mark.parametrize("method", ["ddpo", "grpo", "grpo-kl", "drift"])
def test_a_run_leaves_what_it_promises(config, method):
    run = train(config(method), progress=False)
    lines = read_metrics(run)
    assert [(line["epoch"], line["update"]) for line in lines] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert lines[-1]["images_sampled"] == 16
    assert lines[0]["first_clip_fraction"] == 0
    assert lines[0]["max_ratio_error"] < 1e-6
    assert all(torch.tensor(line["reward_mean"]).isfinite() for line in lines)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    assert yaml.safe_load((run / "config.yaml").read_text())["method_name"] == method
    assert "torch" in json.loads((run / "environment.json").read_text())["packages"]


# In a group of two both images are equally far from the other: nothing for shaping to tell apart.
THREE = ["epochs=1", "sampling.pool_size=6", "sampling.group_size=3"]


def test_metrics_tell_what_an_epoch_was_like(config):
    line, after = read_metrics(train(config("drift", "run", *THREE), progress=False))
    assert len(line["log_prob_gap"]) == len(line["prompt_signal"]) == 3  # one a step
    assert max(line["log_prob_gap"]) < 1e-6 < max(after["log_prob_gap"])
    # The nearer to pure noise, the less of the prompt is left; below tau1 nothing is lost.
    assert line["prompt_signal"] == sorted(line["prompt_signal"])
    assert line["prompt_signal"][0] < 0.95 and line["prompt_signal"][-1] == 1
    for name in ("total", "extrinsic", "intrinsic"):
        assert line["advantages"][name]["mean"] == pytest.approx(0, abs=1e-4)
        assert line["advantages"][name]["abs_max"] > 0
    assert line["first_clip_fraction"] == line["clip_fraction"] == 0
    assert {"approx_kl", "grad_norm", "reference_kl", "loss"} <= line.keys()
    assert line["diversity"] > 0
    assert 0 <= line["intrinsic_clipped"] <= 1
    assert line["unique_rewards"] == 3
    assert line["kept_std_ratio"] > 0
    assert line["kept_mean_shift"] != 0
    assert line["seconds"].keys() == {"rollout", "scoring", "preflight", "update"}


def test_a_warning_is_told_once_and_names_the_field(config, capsys):
    few = ["sampling.steps=2", "method.conditioning.scale=100"]
    train(config("drift", "run", *few), progress=False)
    told = [line for line in capsys.readouterr().out.splitlines() if "of the prompt" in line]
    assert len(told) == 1
    assert told[0].startswith("epoch 1: prompt noise leaves under 5%")
    assert "method.conditioning.tau2" in told[0]


OFF = {
    "parts of other kinds": [
        "method.selection.kind=random",
        "method.conditioning.kind=clean",
        "method.shaping.kind=none",
    ],
    "parts that do nothing": [
        "method.selection.kind=random",
        "method.conditioning.train=false",
        "method.shaping.weight=0",
    ],
}


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
def test_drift_with_all_parts_off_is_grpo_bit_for_bit(config, off):
    grpo = train(config("grpo", "grpo"), progress=False)
    drift = train(config("drift", "drift", *off), progress=False)
    assert_equal_weights(grpo, drift)
    for ours, theirs in zip(read_metrics(drift), read_metrics(grpo), strict=True):
        for name in ("reward_mean", "kept_reward_mean", "diversity", "loss", "grad_norm"):
            assert ours[name] == theirs[name]


def test_every_part_of_drift_makes_a_difference(config):
    grpo = train(config("grpo", "grpo", *THREE), progress=False)
    file = "checkpoints/step-000001/pytorch_lora_weights.safetensors"
    weights = load_file(grpo / file)
    for part in ("sampling", "prompting", "shaping"):
        run = train(config(f"drift-{part}-only", part, *THREE), progress=False)
        other = load_file(run / file)
        assert any(not torch.equal(weights[key], other[key]) for key in weights)


def test_ddpo_is_grpo_where_an_epoch_has_one_prompt(config):
    one = ["sampling.prompts_per_epoch=1", "sampling.pool_size=6", "sampling.group_size=4"]
    grpo, ddpo = (train(config(m, m, *one), progress=False) for m in ("grpo", "ddpo"))
    assert_equal_weights(grpo, ddpo)
    assert timeless(grpo) == timeless(ddpo)


def test_ddpo_and_grpo_part_where_an_epoch_has_two(config):
    grpo, ddpo = (train(config(m, m, "epochs=1"), progress=False) for m in ("grpo", "ddpo"))
    one, other = read_metrics(grpo)[0]["advantages"], read_metrics(ddpo)[0]["advantages"]
    assert read_metrics(grpo)[0]["reward_mean"] == read_metrics(ddpo)[0]["reward_mean"]
    assert one != other


def test_equal_seeds_give_equal_runs_and_other_seeds_others(config):
    one = train(config("drift", "one"), progress=False)
    two = train(config("drift", "two"), progress=False)
    other = train(config("drift", "other", "seed=1"), progress=False)
    assert_equal_weights(one, two)
    assert timeless(one) == timeless(two)
    assert timeless(one) != timeless(other)


def test_a_resumed_run_is_the_uninterrupted_one(config):
    whole = train(config("drift", "whole"), progress=False)
    train(config("drift", "parts", "epochs=1"), progress=False)
    parts = train(config("drift", "parts"), resume=True, progress=False)
    assert_equal_weights(whole, parts)
    assert timeless(whole) == timeless(parts)
    before = (parts / "metrics.jsonl").read_bytes()
    train(config("drift", "parts"), resume=True, progress=False)  # finished: a no-op
    assert (parts / "metrics.jsonl").read_bytes() == before


def test_a_resumed_run_remembers_what_its_method_had_seen(config, tmp_path):
    (tmp_path / "prompts.txt").write_text("a fox\na bee\n")
    own = [f"prompts={tmp_path / 'prompts.txt'}", "epochs=3"]
    own += ["method.advantage.buffer_size=6", "method.advantage.min_count=4"]
    whole = train(config("ddpo-buffered", "whole", *own), progress=False)
    train(config("ddpo-buffered", "parts", *own, "epochs=1"), progress=False)
    parts = train(config("ddpo-buffered", "parts", *own), resume=True, progress=False)
    assert_equal_weights(whole, parts, epoch=3)
    assert timeless(whole) == timeless(parts)
    for epoch, rewards in [(1, 2), (2, 4), (3, 6)]:  # two a prompt and epoch
        state = f"checkpoints/step-{epoch:06d}/state.json"
        remembered = json.loads((parts / state).read_text())["slots"]["advantage"]
        assert {prompt: len(row) for prompt, row in remembered.items()} == {
            "a fox": rewards,
            "a bee": rewards,
        }
        assert remembered == json.loads((whole / state).read_text())["slots"]["advantage"]


OWN = ["encoder=policy", "method.shaping.upper=1.5", *THREE[1:]]


def test_the_policys_own_features_shape_and_resume_bit_for_bit(config, monkeypatch):
    monkeypatch.setattr("drift.training.scoring.load_encoder", None)  # there is no other network
    whole = train(config("drift", "whole", *OWN), progress=False)
    again = train(config("drift", "again", *OWN), progress=False)
    train(config("drift", "parts", *OWN, "epochs=1"), progress=False)
    parts = train(config("drift", "parts", *OWN), resume=True, progress=False)
    for other in (again, parts):
        assert_equal_weights(whole, other)
        assert timeless(whole) == timeless(other)
    for line in read_metrics(whole):
        assert line["diversity"] > 0
        assert line["advantages"]["intrinsic"]["abs_max"] > 0


def test_the_policys_own_features_are_those_of_the_kept(config):
    asked = config("drift", "run", *OWN, "epochs=1")
    line = read_metrics(train(asked, progress=False))[0]
    model = load_policy(asked)
    make_trainable(model, asked)
    prompts = draw_prompts(read_prompts(asked.prompts), 2, asked.seed, epoch=1)
    pool = sample_pool(model, prompts, pool_seeds(asked, 1), asked)
    rewards = score(open_reward(asked, "cpu"), pool.images, prompts)
    kept = pool.keep(asked.method.selection(rewards, 3, torch.Generator()))
    assert kept.features.shape == (2, 3, 16 * 64)
    assert line["diversity"] == pytest.approx(intra_group_diversity(kept.features).mean().item())
    assert line["diversity"] != pytest.approx(intra_group_diversity(pool.features).mean().item())


def test_the_policys_own_features_teach_something_else_than_an_encoders(config):
    file = "checkpoints/step-000001/pytorch_lora_weights.safetensors"
    runs = {name: config("drift", name, *THREE, f"encoder={name}") for name in ("policy", "vae")}
    runs["only measured"] = config("grpo", "measured", *THREE, "encoder=policy")
    runs["grpo"] = config("grpo", "grpo", *THREE)
    weights = {name: load_file(train(run, progress=False) / file) for name, run in runs.items()}
    assert any(not torch.equal(w, weights["vae"][key]) for key, w in weights["policy"].items())
    assert all(torch.equal(w, weights["grpo"][key]) for key, w in weights["only measured"].items())


def test_the_batch_size_changes_the_policys_own_features_by_rounding_only(config):
    lines = [
        read_metrics(train(config("drift", f"of-{n}", *OWN, "epochs=1", n), progress=False))[0]
        for n in ("sampling.batch_size=1", "sampling.batch_size=12")
    ]
    one, many = (line["diversity"] for line in lines)
    assert one == pytest.approx(many, rel=1e-4)


def test_a_policy_without_features_of_its_own_is_refused_before_anything_is_written(
    config, tmp_path, monkeypatch
):
    def headless(config):
        model = load_policy(config)
        model.pipe.unet.mid_block = None
        return model

    monkeypatch.setattr("drift.training.loop.load_policy", headless)
    with pytest.raises(UserError, match="'policy' needs a UNet with a middle block"):
        train(config("drift", "run", *OWN), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_holds_one_run(config):
    train(config("grpo", "run", "epochs=1"), progress=False)
    with pytest.raises(UserError, match="already holds a run"):
        train(config("grpo"), progress=False)
    with pytest.raises(UserError, match="other method"):
        train(config("drift"), resume=True, progress=False)


@pytest.fixture
def own_model(tiny_model, tmp_path):
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_run_records_its_weights_and_goes_on_with_no_others(config, own_model, tiny_model):
    own = [f"model.name={own_model}", "epochs=1"]
    run = train(config("grpo", "run", *own), progress=False)
    written = json.loads((run / "environment.json").read_text())["weights"]
    assert list(written) == ["model", "reward pickscore-tiny", "encoder dreamsim-tiny", "prompts"]
    assert "unet/diffusion_pytorch_model.safetensors" in written["model"][0]["sha256"]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    file = own_model / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    told = "cannot resume .*: model, vae/diffusion_pytorch_model.safetensors of .* [(]then .*, now "
    with pytest.raises(UserError, match=told) as error:
        train(config("grpo", "run", *own, "epochs=2"), resume=True, progress=False)
    assert "\n" not in str(error.value) and "unet" not in str(error.value)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    shutil.copy(tiny_model / "vae" / file.name, file)
    train(config("grpo", "run", *own, "epochs=2"), resume=True, progress=False)
    assert read_metrics(run)[-1]["epoch"] == 2


@pytest.mark.parametrize("written", [None, "{}"])
def test_a_run_from_before_weights_were_recorded_goes_on(config, written):
    run = train(config("grpo", "run", "epochs=1"), progress=False)
    (run / "environment.json").unlink()
    if written:
        (run / "environment.json").write_text(written)
    train(config("grpo"), resume=True, progress=False)
    assert read_metrics(run)[-1]["epoch"] == 2


def test_an_output_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output: cannot write"):
        train(config("grpo", "file/run"), progress=False)


def test_more_steps_than_the_model_has_times_are_refused_before_anything_is_written(
    config, tmp_path
):
    with pytest.raises(UserError, match="1000 times do not hold 1001 steps"):
        train(config("grpo", "run", "sampling.steps=1001"), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ("[to_q,to_nowhere,attn9]", "no module .* is called to_nowhere, attn9; .* to_out.0, to_q"),
        ("[norm1]", "no LoRA can be put there: Target"),
    ],
)
def test_layers_that_take_no_lora_are_refused_before_anything_is_written(
    config, tmp_path, modules, told
):
    with pytest.raises(UserError, match=f"^model.target_modules: {told}"):
        train(config("grpo", "run", f"model.target_modules={modules}"), progress=False)
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_when_a_part_is_missing(config, tmp_path):
    bad = replace(config("grpo"), reward="nonsense")
    with pytest.raises(UserError, match="nonsense"):
        train(bad, progress=False)
    assert not (tmp_path / "run").exists()


def test_an_unknown_reward_is_refused_before_the_model_is_looked_for(config, tmp_path):
    bad = config("grpo", "run", "reward=pickscore-tiny + 0.1*nonsense", "model.name=./nowhere")
    with pytest.raises(UserError, match="^reward: there is no 'nonsense'; known are pickscore, "):
        train(bad, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_reward_in_a_worker_teaches_the_same(config):
    name = "reward=pickscore-tiny + 0.1*jpeg-compressibility"
    here = train(config("drift", "here", name), progress=False)
    train(config("drift", "apart", name, "reward_worker.timeout=300", "epochs=1"), progress=False)
    # Where the reward runs may change on the way.
    apart = train(config("drift", "apart", name), resume=True, progress=False)
    assert_equal_weights(here, apart)
    assert timeless(here) == timeless(apart)


REWARDS = """
def counted(images, prompts, metadata):
    return [each["count"] + float(image.mean()) for image, each in zip(images, metadata)]

def fails(images, prompts):
    if len(images) > 2:  # more than the planner asks about
        raise KeyError("too many")
    return images.mean((1, 2, 3))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a module with rewards in the current directory, and of a file of two prompts."""
    name = "taught_" + tmp_path.name.replace("-", "_")
    (tmp_path / f"{name}.py").write_text(REWARDS)
    lines = ['{"prompt": "a fox", "count": 10}', '{"prompt": "a cat", "count": 20}']
    (tmp_path / "counts.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return name


def test_a_reward_is_taught_with_the_fields_of_each_prompt(config, own):
    asked = [f"reward={own}:counted", "prompts=counts.jsonl", "evaluation.prompts="]
    run = train(config("grpo", "run", *asked, "live.every=2"), progress=False)
    assert all(15 < line["reward_mean"] < 16 for line in read_metrics(run))
    looks = read_metrics(run, LIVE)
    assert all(15 < look["reward"] < 16 for look in looks)
    assert looks[0]["settings"]["fields"] == {"a fox": {"count": 10}, "a cat": {"count": 20}}


def test_a_reward_that_raises_ends_the_run_in_a_line_and_leaves_its_traceback(config, own):
    asked = config("grpo", "run", f"reward={own}:fails")
    told = f"^reward: {own}:fails raised KeyError: 'too many' for '.*, in {own}.py line 7 "
    with pytest.raises(UserError, match=told):
        train(asked, progress=False)
    kept = Path(asked.output, "error.txt").read_text()
    assert 'raise KeyError("too many")' in kept
    assert kept.startswith("Traceback")

    Path(f"{own}.py").write_text(REWARDS.replace("> 2", "> 99"))
    sys.modules.pop(own)
    (Path(asked.output) / "environment.json").write_text("{}")  # it knows the source as it was
    train(asked, resume=True, progress=False)
    assert not Path(asked.output, "error.txt").exists()


def test_prompts_that_the_text_encoder_cuts_are_told_at_the_start(config, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("a fox\n" + "a cat " * 30)
    train(config("grpo", "run", f"prompts={tmp_path / 'long.txt'}", "epochs=1"), progress=False)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("prompts: ")]
    assert len(told) == 1
    assert "cuts 1 of 2 at 24 tokens" in told[0]


def test_every_prompt_is_drawn_before_any_repeats():
    prompts = [f"prompt {k}" for k in range(6)]
    drawn = [draw_prompts(prompts, 4, seed=0, epoch=e) for e in (1, 2, 3)]
    flat = [p for row in drawn for p in row]
    assert sorted(flat[:6]) == sorted(flat[6:]) == prompts
    assert flat[:6] != flat[6:]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_run_in_half_precision_trains_and_resumes_bit_for_bit(config, dtype):
    own = [f"model.dtype={dtype}", "epochs=2"]
    whole = train(config("grpo", "whole", *own), progress=False)
    train(config("grpo", "parts", *own, "epochs=1"), progress=False)
    parts = train(config("grpo", "parts", *own), resume=True, progress=False)
    assert_equal_weights(whole, parts, epoch=2)
    assert timeless(whole) == timeless(parts)
    assert any(not line["skipped"] for line in timeless(whole))
    scaler = json.loads((whole / "checkpoints/step-000002/state.json").read_text())["scaler"]
    assert bool(scaler) == (dtype == "float16")


# --- pictures of another size, and a negative prompt ---

OTHERWISE = ["sampling.height=48", "sampling.width=96", "sampling.negative_prompt=a bee"]


def test_another_size_and_a_negative_prompt_are_the_same_in_the_replay(config, capsys):
    run = train(config("drift", "run", *OTHERWISE), progress=False)
    assert all(line["max_ratio_error"] < 1e-6 for line in read_metrics(run) if line["update"] == 1)
    plain = train(config("drift", "plain", *OTHERWISE[:2]), progress=False)
    rewards = [read_metrics(one)[0]["reward_mean"] for one in (run, plain)]
    assert rewards[0] != rewards[1]  # the negative prompt is seen


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (["sampling.height=50", "sampling.width=96"], "height: 50 is refused: a multiple of 8"),
        (["sampling.height=48"], r"height \(48\) and width \(0\): set both, or none"),
    ],
)
def test_a_size_that_is_none_is_refused(config, sizes, message):
    with pytest.raises(UserError, match=message):
        config("grpo", "run", *sizes)


# --- what the steps of a trajectory are ---


def test_a_model_that_starts_without_any_signal_trains(config, tiny_model, tmp_path):
    folder = tmp_path / "zero-snr"
    shutil.copytree(tiny_model, folder)
    DDIMScheduler.from_pretrained(
        folder, subfolder="scheduler", rescale_betas_zero_snr=True
    ).save_pretrained(folder / "scheduler")
    run = train(config("drift", "run", f"model.name={folder}"), progress=False)
    lines = read_metrics(run)
    assert lines[0]["max_ratio_error"] < 1e-6
    assert all(line["grad_norm"] > 0 for line in lines)
    schedule = load_policy(config("drift", "run", f"model.name={folder}")).schedule(3)
    assert schedule.alphas[0] == 0


def test_steps_outside_the_window_may_be_taken_without_noise(config):
    window = ["method.timesteps.kind=window", "method.timesteps.size=1"]
    asked = config("grpo", "run", *window, "method.timesteps.ode_elsewhere=true")
    model = load_policy(asked)
    pool = sample_pool(model, ["a fox", "a bee"], pool_seeds(asked, 1), asked)
    assert pool.plan.train.tolist() == [[True, False, False]] * 2
    assert pool.plan.noise_level.tolist() == [[1, 0, 0]] * 2
    assert (pool.log_probs[:, :, 0] != 0).all()
    assert (pool.log_probs[:, :, 1:] == 0).all()
    schedule = model.schedule(3)
    with torch.no_grad():  # the second step is DDIM's deterministic one
        x, t = pool.latents[0, :, 1], schedule.timesteps[1].expand(4)
        predicted = model.predict(x, t, pool.conditioned[[0] * 4], asked.sampling.guidance_scale)
    mean, _ = schedule.step(x, predicted, 1, 0.0)
    torch.testing.assert_close(pool.latents[0, :, 2], mean, rtol=1e-4, atol=1e-4)
    lines = read_metrics(train(asked, progress=False))
    assert lines[0]["max_ratio_error"] < 1e-6
    assert lines[0]["log_prob_gap"][1:] == [None, None]


@dataclass(frozen=True)
class Growing(DiversityShaping):
    """Its weight is the number of epochs it has seen, other for every sample."""

    def __call__(self, group, state):
        shaped, _ = super().__call__(group, state)
        seen = state.get("seen", 0) + 1
        return replace(shaped, weight=torch.full_like(group.rewards, seen)), {"seen": seen}


def test_shaping_may_change_from_epoch_to_epoch_and_resumes_bit_for_bit(config):
    def grown(name, *overrides):
        built = config("drift", name, *wide, *overrides)
        return replace(built, method=replace(built.method, shaping=Growing(upper=4.0)))

    wide = ["epochs=3", "sampling.group_size=4", "method.shaping.upper=4"]

    whole = train(grown("whole"), progress=False)
    train(grown("parts", "epochs=1"), progress=False)
    parts = train(grown("parts"), resume=True, progress=False)
    assert_equal_weights(whole, parts, epoch=3)
    state = json.loads((parts / "checkpoints/step-000003/state.json").read_text())
    assert state["slots"]["shaping"] == {"seen": 3}
    fixed = train(config("drift", "fixed", *wide, "method.shaping.weight=1"), progress=False)
    rows = [[line["grad_norm"] for line in read_metrics(run)] for run in (whole, fixed)]
    assert rows[0][:2] == pytest.approx(rows[1][:2], rel=1e-5)  # in epoch 1 it is 1
    assert rows[0][2] != pytest.approx(rows[1][2], rel=1e-3)


def test_a_checkpoint_from_before_slots_had_states_resumes(config):
    run = train(config("ddpo-buffered", "run", "epochs=1"), progress=False)
    path = run / "checkpoints/step-000001/state.json"
    state = json.loads(path.read_text())
    state["method"] = state.pop("slots")["advantage"]
    path.write_text(json.dumps(state))
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"]["state.json"] = checksum(path)
    old = {key: manifest[key] for key in ("epoch", "files")}
    (path.parent / "manifest.json").write_text(json.dumps(old, indent=1))
    straight = train(config("ddpo-buffered", "straight"), progress=False)
    assert_equal_weights(straight, train(config("ddpo-buffered"), resume=True, progress=False))
