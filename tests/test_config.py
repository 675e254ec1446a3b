from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from drift.config import (
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    load_run_config,
    to_yaml,
    validate,
)
from drift.errors import UserError
from drift.methods import METHODS
from drift.methods.parts import (
    BalancedWeights,
    ClippedSurrogate,
    DiversityShaping,
    KeepAll,
    Method,
    NoisedPrompt,
    NoShaping,
    RandomSubset,
    ReferenceKL,
    RewardConcentrated,
    RewardContrasted,
)
from drift.recipes import load_recipe, read_prompts, recipe_names


def test_drift_is_grpo_with_three_slots_replaced():
    grpo, drift = METHODS["grpo"](), METHODS["drift"]()
    assert drift != grpo
    back = replace(
        drift, selection=grpo.selection, conditioning=grpo.conditioning, shaping=grpo.shaping
    )
    assert back == grpo


def test_the_method_changes_without_losing_what_belongs_to_the_scale():
    drift = load_recipe("menagerie", [])
    grpo = load_recipe("menagerie", ["method=grpo"])
    assert grpo.method.surrogate == drift.method.surrogate
    assert isinstance(grpo.method.shaping, NoShaping)
    assert isinstance(grpo.method.selection, RandomSubset)
    assert (grpo.method_name, grpo.output) == ("grpo", "runs/menagerie-grpo")


def test_overrides_reach_into_the_method():
    config = load_recipe(
        "menagerie", ["method.conditioning.scale=0.1", "method.selection.kind=contrasted"]
    )
    assert isinstance(config.method.conditioning, NoisedPrompt)
    assert config.method.conditioning.scale == 0.1
    assert config.method.selection == RewardContrasted()


def test_what_the_method_says_goes_before_the_scale():
    config = load_recipe("menagerie", ["method.surrogate.clip_range=1e-3"])
    assert config.method.surrogate.clip_range == 0.001


def test_a_run_reads_back_what_was_written(tmp_path):
    for name in recipe_names():
        config = load_recipe(name, [])
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        assert load_run_config(tmp_path) == config


@pytest.mark.parametrize("name", ["sd15-pickscore", "sd15-hpsv2"])
def test_the_papers_recipes_are_its_table_2(name):
    config = load_recipe(name, [])
    assert config.model == ModelConfig(
        name="stable-diffusion-v1-5/stable-diffusion-v1-5",
        lora_rank=8,
        lora_alpha=16,
        target_modules=("to_q", "to_k", "to_v", "to_out.0"),
        dtype="float16",
    )
    assert config.sampling == SamplingConfig(
        steps=50,
        eta=1.0,
        guidance_scale=5.0,
        prompts_per_epoch=16,
        pool_size=16,
        group_size=8,
        batch_size=16,
    )
    assert config.optimizer == OptimizerConfig(
        learning_rate=1e-4,
        beta1=0.9,
        beta2=0.999,
        weight_decay=1e-4,
        epsilon=1e-8,
        max_grad_norm=1.0,
        updates_per_epoch=4,
        micro_batch_size=2,
    )
    assert config.method == Method(
        conditioning=NoisedPrompt(scale=0.05, tau1=0.4, tau2=1.0, mix=1.0, train=True, test=False),
        selection=RewardConcentrated(),
        shaping=DiversityShaping(weight=0.5, upper=1.0, gamma=1.0),
        surrogate=ClippedSurrogate(clip_range=1e-4),
    )
    assert (config.seed, config.encoder, config.reward) == (42, "dreamsim", name[5:])
    judged = config.evaluation
    assert (judged.images_per_prompt, judged.steps, judged.guidance_scale) == (40, 50, 5.0)
    assert len(read_prompts(judged.prompts)) == 40
    assert len(read_prompts(config.prompts)) == 45


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sdxl-pickscore", (8, 16, None, 20, 40, 1.0, 7.5, 1e-4, 16, 8)),
        ("sd35-pickscore", (32, 64, (512, 512), 10, 40, 0.7, 4.5, 3e-4, 48, 24)),
        ("flux-pickscore", (64, 128, (512, 512), 6, 28, 0.9, 3.5, 3e-4, 48, 24)),
    ],
)
def test_the_larger_families_recipes_have_the_peers_values_and_the_papers_parts(name, expected):
    config, paper = load_recipe(name, []), load_recipe("sd15-pickscore", [])
    model, sampling, judged = config.model, config.sampling, config.evaluation
    assert expected == (
        model.lora_rank or 8,
        model.lora_alpha or 16,
        sampling.size,
        sampling.steps,
        judged.steps,
        sampling.eta,
        sampling.guidance_scale,
        config.optimizer.learning_rate,
        sampling.pool_size,
        sampling.group_size,
    )
    assert judged.guidance_scale == sampling.guidance_scale
    assert (config.method, config.reward, config.encoder) == (
        paper.method,
        paper.reward,
        paper.encoder,
    )


@pytest.mark.parametrize("name", ["sd15-pickscore", "sd15-hpsv2"])
def test_the_papers_batches_follow_from_its_geometry(name):
    config = load_recipe(name, [])
    assert config.images_sampled == 256  # 16 prompts x 16 candidates
    assert config.images_kept == 128  # 16 prompts x 8
    assert config.images_kept / config.optimizer.micro_batch_size == 64  # training steps
    assert config.samples_per_update == 32 == 2 * 16  # train batch x accumulation
    assert config.images_kept / config.samples_per_update == 4  # updates


def test_the_papers_baselines_differ_in_the_method_alone():
    drift = load_recipe("sd15-pickscore", [])
    for method in METHODS:
        config = load_recipe(f"sd15-pickscore-{method}", [])
        assert (
            replace(config, method=drift.method, method_name="drift", output=drift.output) == drift
        )
        assert config.method == METHODS[method]()
    assert load_recipe("sd15-hpsv2-grpo-kl", []).method.regulariser == ReferenceKL(weight=0.001)


def scaled(method, recipe):
    """What belongs to the scale is the recipe's, all else the method's."""
    if recipe == "smoke":
        return replace(method, surrogate=ClippedSurrogate(clip_range=1e-3))
    changes = {"surrogate": ClippedSurrogate(clip_range=2e-3), "weighting": BalancedWeights()}
    if isinstance(method.conditioning, NoisedPrompt):
        changes["conditioning"] = replace(method.conditioning, tau2=1.02)
    if isinstance(method.shaping, DiversityShaping):
        changes["shaping"] = replace(method.shaping, upper=1.2, weight=0.25)
    return replace(method, **changes)


@pytest.mark.parametrize("base", ["menagerie", "smoke"])
@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_has_every_method_and_ablation_by_name(base, method):
    config = load_recipe(f"{base}-{method}", [])
    assert config == load_recipe(base, [f"method={method}"])
    assert (config.method_name, config.output) == (method, f"runs/{base}-{method}")
    assert config.method == scaled(METHODS[method](), base)


def test_a_name_may_be_changed_by_overrides_like_any_other():
    config = load_recipe("menagerie-grpo", ["method.selection.kind=none", "sampling.pool_size=16"])
    assert config.method.selection == KeepAll()
    assert (config.images_sampled, config.images_kept, config.samples_per_update) == (64, 64, 64)
    assert load_recipe("menagerie-grpo", ["method=ddpo"]).method_name == "ddpo"


def test_every_slot_can_be_switched_by_its_kind():
    switched = load_recipe(
        "menagerie",
        [
            "method.selection.kind=random",
            "method.conditioning.kind=clean",
            "method.shaping.kind=none",
        ],
    )
    assert switched.method == load_recipe("menagerie-grpo", []).method
    assert load_recipe("menagerie", ["method.timesteps.kind=window"]).method.timesteps.size == 4
    assert load_recipe("menagerie", ["method.advantage.coupled=true"]).method.advantage.coupled
    assert (
        load_recipe("menagerie", ["method.regulariser.kind=kl"]).method.regulariser.weight == 0.001
    )


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            ["method=grpo-kl", "method.regulariser.weight=-0.1"],
            "method.regulariser.kl.weight: -0.1 is refused: at least 0",
        ),
        (["method=ddpo", "sampling.eta=0"], "sampling.eta: 0 is refused: at least 1e-06"),
        (
            ["method.conditioning.tau1=0.9", "method.conditioning.tau2=0.4"],
            "method.conditioning.noised: tau1 (0.9) must be below tau2 (0.4)",
        ),
        (
            ["method.conditioning.tau1=1.02"],
            "method.conditioning.noised: tau1 (1.02) must be below tau2 (1.02)",
        ),
        (
            ["sampling.pool_size=8"],
            "sampling: group_size (16) is larger than pool_size (8)",
        ),
        (
            ["method.selection.kind=none"],
            "method.selection 'none' keeps the whole pool: pool_size (20) must be group_size (16)",
        ),
        (["encoder="], "method.shaping.weight is 0.25, but encoder is empty"),
        (
            ["method=drift-coupled", "encoder="],
            "method.shaping.weight is 0.25, but encoder is empty",
        ),
        (
            ["method.shaping.weight=-1"],
            "method.shaping.diversity.weight: -1 is refused: at least 0",
        ),
        (
            ["method.shaping.upper=0"],
            "method.shaping.diversity.upper: 0 is refused: at least 1e-12",
        ),
        (
            ["optimizer.updates_per_epoch=3"],
            "the 64 kept samples of an epoch do not divide into updates_per_epoch (3)",
        ),
        (
            ["encoder=policy", "evaluation.encoders=[]"],
            "evaluation.encoders is empty, and encoder 'policy' cannot judge; name others there: "
            "vae (nothing to fetch), clip, dreamsim, or a -tiny one",
        ),
        (
            ["evaluation.encoders=[clip-tiny, policy]"],
            "evaluation: encoders: 'policy' would judge each model by itself; name others there: "
            "vae (nothing to fetch), clip, dreamsim, or a -tiny one",
        ),
        (
            ["live.every=5", "live.encoder=policy"],
            "live: encoder: 'policy' would judge each model by itself; name others there: "
            "vae (nothing to fetch), clip, dreamsim, or a -tiny one",
        ),
        (["live.keep=pareto"], "live: keep 'pareto' needs looks, but every is 0"),
        (["live.on_alarm=stop"], "live: on_alarm 'stop' needs looks, but every is 0"),
        (
            ["method=ddpo-buffered", "method.advantage.buffer_size=4"],
            "method.advantage.buffered: min_count (16) must lie in [2, buffer_size (4)]",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_fields_and_their_values(overrides, named):
    with pytest.raises(UserError) as refused:
        load_recipe("menagerie", overrides)
    assert str(refused.value) == f"menagerie: {named}"


def test_an_encoder_is_needed_for_shaping_only():
    assert load_recipe("menagerie-grpo", ["encoder="]).encoder == ""
    assert load_recipe("menagerie", ["encoder=", "method.shaping.weight=0"]).encoder == ""


def test_the_policys_own_features_shape_where_others_judge():
    config = load_recipe("menagerie", ["encoder=policy"])
    assert config.evaluation.encoders == ("dreamsim-tiny", "clip-tiny")
    assert load_recipe("smoke", ["encoder=policy", "evaluation.encoders=[vae]"]).encoder == "policy"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("bogus=1", "bogus"),
        ("sampling.bogus=1", "sampling.bogus"),
        ("epochs=many", "epochs"),
        ("epochs=0", "epochs"),
        ("sampling=3", "sampling"),
        ("sampling.group_size=30", "group_size (30) is larger than pool_size (20)"),
        ("sampling.group_size=1", "sampling.group_size: 1 is refused: at least 2"),
        ("sampling.eta=0", "sampling.eta: 0 is refused: at least"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate: -1 is refused: at least"),
        ("optimizer.updates_per_epoch=7", "updates_per_epoch (7)"),
        ("method=foo", "there is no 'foo'; known are ddpo,"),
        ("method.conditioning.tau1=2", "tau1 (2.0) must be below tau2"),
        ("method.shaping.typo=1", "method.shaping.diversity.typo"),
        ("method.selection.kind=best", "'concentrated'"),
        ("live.every=-1", "live.every: -1 is refused: at least 0"),
        ("live.alarm_share=1", "live.alarm_share: 1 is refused: less than 1"),
        ("live.images_per_prompt=1", "live.images_per_prompt: 1 is refused: at least 2"),
        ("live.prompts_count=0", "live.prompts_count: 0 is refused: at least 1"),
        ("live.on_alarm=scream", "live.on_alarm: Input should be 'warn' or 'stop'"),
        ("live.keep=best", "live.keep: Input should be 'all' or 'pareto'"),
        ("live.typo=1", "live.typo"),
        ("evaluation.eta=1.5", "evaluation.eta: 1.5 is refused: at most 1"),
        ("parts.typo={}", "there is no part 'typo'"),
        ("epochs", "is not an override"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_it(override, named):
    with pytest.raises(UserError) as refused:
        load_recipe("menagerie", [override])
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_recipe_lists_those_there_are():
    for name in ("nope", "menagerie-nope", "nope-grpo"):
        with pytest.raises(UserError, match=f"no recipe '{name}'; shipped are .*menagerie"):
            load_recipe(name, [])


def test_equal_rewards_are_stored_under_one_name():
    sums = ["reward=0.1*hpsv2-tiny+pickscore-tiny", "evaluation.rewards=[b + a, 2*a]"]
    config = load_recipe("menagerie", sums)
    assert config.reward == "pickscore-tiny + 0.1*hpsv2-tiny"
    assert config.evaluation.rewards == ("a + b", "2*a")
    assert validate(yaml.safe_load(to_yaml(config)), source="") == config
    assert load_recipe("menagerie", ["reward=http://h:80/p?q=1"]).reward == "http://h:80/p?q=1"


def test_a_workers_limits_are_seconds():
    assert load_recipe("menagerie", []).reward_worker.timeout == 0
    assert load_recipe("menagerie", ["reward_worker.timeout=30"]).reward_worker.timeout == 30
    for bad in ("timeout=-1", "timeout=.inf", "timeout=.nan", "loading=0", "threads=-1"):
        with pytest.raises(UserError, match=f"reward_worker.{bad.partition('=')[0]}: "):
            load_recipe("menagerie", [f"reward_worker.{bad}"])


def test_names_may_be_written_with_commas_between_them():
    asked = ["evaluation.encoders=vae,clip-tiny", "evaluation.rewards=hpsv2-tiny"]
    config = load_recipe("smoke", [*asked, "model.target_modules=to_q,to_v"])
    assert config.evaluation.encoders == ("vae", "clip-tiny")
    assert config.evaluation.rewards == ("hpsv2-tiny",)
    assert config.model.target_modules == ("to_q", "to_v")
    assert load_recipe("smoke", ["evaluation.encoders="]).evaluation.encoders == ()


def test_a_run_from_before_there_were_looks_and_trackers_reads_back(tmp_path):
    config = load_recipe("menagerie", [])
    before = yaml.safe_load(to_yaml(config))
    del before["live"], before["trackers"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(before))
    assert load_run_config(tmp_path) == config


def test_a_recipe_may_extend_another(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: sd15-pickscore\nsampling: {steps: 20}\n")
    ours, base = (load_recipe(name, []) for name in (str(mine), "sd15-pickscore"))
    assert ours.sampling == replace(base.sampling, steps=20)
    assert ours == replace(base, sampling=ours.sampling, output=ours.output)
    assert Path(ours.output).name == "mine-drift"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: nonsense", "there is no recipe 'nonsense'"),
        ("extends: menagerie-grpo", "or a method, not a recipe"),
        ("extends: loop.yaml", "extends itself"),
    ],
)
def test_a_recipe_that_extends_no_recipe_is_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("loop.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe("loop.yaml", [])
