"""Evaluations of a tiny real run: same seeds for all, complete or absent, never done twice."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from drift.config import TrainConfig, load_run_config, to_yaml
from drift.errors import UserError
from drift.evaluation import chunks, jobs, stored
from drift.evaluation import evaluate as module
from drift.evaluation import targets as chosen
from drift.evaluation.chunks import parse_share
from drift.evaluation.evaluate import evaluate
from drift.evaluation.measures import measure_against, summarise
from drift.functional.diversity import mean_pairwise_distance
from drift.menagerie.probe import Probe
from drift.methods import METHODS
from drift.report.compare import compare
from drift.report.terminal import closing_table
from drift.training.checkpoint import save_checkpoint
from drift.training.policy import load_policy

PROMPTS = ["a fox", "a cat", "<script>alert(1)</script>"]
QUICK = ["images_per_prompt=4", "steps=2", "guidance_scale=2", "seed=7"]


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def pooled(images):
    return F.adaptive_avg_pool2d(images, 4).flatten(1)


@pytest.fixture
def judges(monkeypatch, tmp_path):
    """A reward, an encoder and a random probe in place of trained ones."""
    monkeypatch.setattr(module, "open_rewards", lambda names, *_: dict.fromkeys(names, brightness))
    monkeypatch.setattr(module, "load_encoder", lambda name, device, policy: pooled)
    torch.manual_seed(0)
    probe = Probe((8, 8, 8, 8))
    folder = tmp_path / "shipped" / "probe"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"widths": [8, 8, 8, 8]}')
    save_file(probe.state_dict(), folder / "model.safetensors")
    monkeypatch.setattr(chosen, "PROBE", folder)


@pytest.fixture
def run(tiny_model, tmp_path):
    """A run of two checkpoints; the first one's LoRA is untouched, the second one's is not."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    config = TrainConfig(
        prompts=str(tmp_path / "prompts.txt"),
        method=METHODS["grpo"](),
        reward="pickscore-tiny",
        encoder="dreamsim-tiny",
        model={"name": str(tiny_model)},
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(config))
    model = load_policy(config)
    model.add_adapter(8, 16, config.model.target_modules, seed=0)
    optimizer = torch.optim.AdamW(model.trainable_parameters())
    for epoch in (20, 40):
        save_checkpoint(folder, epoch, model, optimizer)
        torch.manual_seed(epoch)
        for p in model.trainable_parameters():
            p.data += 0.2 * torch.randn(p.shape)
    return folder


def figures_of(folder):
    return json.loads((folder / "metrics.json").read_text())["figures"]


def test_a_run_is_judged_against_its_base(judges, run):
    base, first, second = evaluate([run], checkpoints="all", overrides=QUICK)
    assert [f.name for f in (base, first, second)] == ["step-000000", "step-000020", "step-000040"]
    pixels = {f.name: np.load(f / "images.npz")["images"] for f in (base, first, second)}
    assert pixels["step-000000"].shape == (3, 4, 64, 64, 3)
    # An untrained LoRA is the base model; a trained one is not.
    assert np.array_equal(pixels["step-000000"], pixels["step-000020"])
    assert not np.array_equal(pixels["step-000000"], pixels["step-000040"])

    figures = figures_of(second)
    images = torch.from_numpy(pixels["step-000040"]).float() / 255
    reward = figures["reward/pickscore-tiny"]
    assert reward["mean"] == pytest.approx(images.mean().item(), abs=1e-5)
    assert reward["per_prompt"] == pytest.approx(images.mean((1, 2, 3, 4)).tolist(), abs=1e-5)
    assert reward["low"] <= reward["mean"] <= reward["high"]
    features = load_file(second / "features.safetensors")["dreamsim-tiny"]
    diversity = mean_pairwise_distance(features).mean().item()
    assert figures["diversity/dreamsim-tiny"]["mean"] == pytest.approx(diversity, rel=1e-5)
    assert figures_of(base)["recall/dreamsim-tiny"]["mean"] == 1
    assert 0 <= figures["recall/dreamsim-tiny"]["mean"] <= 1
    assert figures["vendi_all/dreamsim-tiny"]["low"] is None

    # The Menagerie's figures are of the two animals; the third prompt names none.
    assert figures["right_animal"]["per_prompt"][2] is None
    assert figures["possible/pickscore"]["per_prompt"] == [6, 18, None]
    assert "gold/hpsv2" not in figures  # nobody asked for that taste
    with Image.open(second / "sheet.webp") as sheet:
        assert sheet.height >= 3 * 64
    metrics = json.loads((second / "metrics.json").read_text())
    assert metrics["step"] == 40 and metrics["images"] == 12
    assert metrics["settings"]["prompts"] == PROMPTS and metrics["settings"]["seed"] == 7
    assert len(metrics["model"]["sha256"]) == len(metrics["adapter"]["sha256"]) == 64
    assert not list((run / "evaluations").glob(".*"))


def test_prompt_noise_at_test_is_on_the_checkpoints_alone_and_told(judges, run):
    def drawn():
        folders = evaluate([run], checkpoints="20", overrides=QUICK)
        adapter = json.loads((folders[1] / "metrics.json").read_text())["adapter"]
        return *(np.load(f / "images.npz")["images"] for f in folders), adapter

    base, clean, adapter = drawn()  # an untrained LoRA, by GRPO
    assert np.array_equal(base, clean)
    assert "conditioning" not in adapter
    config = load_run_config(run)
    for method, told in [("drift", None), ("drift-noise-test", "noised")]:
        changed = replace(config, method=METHODS[method]())
        (run / "config.yaml").write_text(to_yaml(changed))
        again, images, adapter = drawn()
        assert np.array_equal(again, base)
        assert np.array_equal(images, clean) == (told is None)
        assert adapter.get("conditioning", {}).get("kind") == told


def test_the_same_is_not_evaluated_twice(judges, run, capsys):
    base, last = evaluate([run], overrides=QUICK)
    written = (last / "metrics.json").stat().st_mtime_ns
    assert evaluate([run], overrides=["evaluation.images_per_prompt=4", *QUICK[1:]]) == [base, last]
    assert (last / "metrics.json").stat().st_mtime_ns == written
    assert capsys.readouterr().out.count("is complete already") == 2


def settings_in(folder):
    return json.loads((folder / "metrics.json").read_text())["settings"]


def test_a_run_keeps_an_evaluation_for_each_name(judges, run, drawn, tmp_path):
    (run / "environment.json").write_text('{"command": "drift train"}')
    first = evaluate([run], checkpoints="20", overrides=QUICK)
    drawn.clear()
    one = {"name": "held-out_1.0", "options": {"prompts_count": 2}}
    base, last = evaluate([run], overrides=QUICK, share=parse_share("1/1"), **one)
    assert [str(f.relative_to(run)) for f in (base, last)] == [
        "evaluations/held-out_1.0/step-000000",
        "evaluations/held-out_1.0/step-000040",
    ]
    assert drawn == [(step, p) for step in ("00", "40") for p in range(2)]
    assert settings_in(first[0])["prompts"] == PROMPTS  # and these are left as they were
    assert stored.evaluation_names(run) == ["default", "held-out_1.0"]
    assert list(stored.list_evaluations(run)) == [0, 20]
    assert list(stored.list_evaluations(run, "held-out_1.0")) == [0, 40]
    assert closing_table([base, last], width=100)[0].split() == ["base", "model", "run"]

    page = compare([run], tmp_path / "page", name="held-out_1.0").read_text()
    assert f"drift evaluate {run} --checkpoints 40 --name held-out_1.0\n" in page
    assert f"drift compare {run} --name held-out_1.0 --out" in page
    told = json.loads((tmp_path / "page" / "comparison.json").read_text())
    assert told["evaluation"] == "held-out_1.0" and len(told["settings"]["prompts"]) == 2
    assert {row["step"] for row in told["rows"]} == {0, 40}

    shared = shutil.copytree(run, tmp_path / "other")
    shutil.rmtree(shared / "evaluations")
    drawn.clear()
    evaluate([shared], base=run, checkpoints="base", overrides=QUICK, **one)
    assert not drawn and list(stored.list_evaluations(shared, "held-out_1.0")) == [0]


def test_pictures_of_other_settings_are_not_replaced_unasked(judges, run, drawn):
    evaluate([run], checkpoints="all", overrides=QUICK)
    _, last = evaluate([run], overrides=QUICK, name="b")
    drawn.clear()
    for changes, named, told in [
        (["seed=8"], "default", r"step-000000 are of other seed \(7 then, 8 now\); keep both by"),
        (["eta=0.5"], "b", r"evaluations/b/step-000000 are of other eta \(1.0 then, 0.5 now\)"),
        (["prompts_count=2"], "b", r"prompts \(\['a fox', .* then, \['a fox', 'a cat'\] now\).*"),
    ]:
        with pytest.raises(UserError, match=told):
            evaluate([run], overrides=[*QUICK, *changes], name=named)
    prompts = run / "others.txt"
    third = "a third one, longer than the two before it together"
    for lines, told in [
        ([*PROMPTS[:2], third], rf"prompts \(<script>\S+ then, {third} now\); .* --replace$"),
        ([*PROMPTS[:2], third, "a bee"], r"prompts \(3 of them then, 4 of them now\)"),
    ]:
        prompts.write_text("\n".join(lines))
        with pytest.raises(UserError, match=told):
            evaluate([run], overrides=QUICK, options={"prompts": str(prompts)}, name="b")
    assert not drawn
    evaluate([run], overrides=[*QUICK, "seed=8"], name="b", overwrite=True)
    assert settings_in(last)["seed"] == 8
    assert settings_in(run / "evaluations" / last.name)["seed"] == 7


@pytest.mark.parametrize("name", ["", "..", ".b", "-b", "a/b", "ä", "step-1", "evaluations"])
def test_a_name_is_one_of_a_folder(name, run):
    told = re.escape(f"name: '{name}' is refused: up to 60 letters, digits")
    with pytest.raises(UserError, match=told):
        evaluate([run], overrides=QUICK, name=name)
    with pytest.raises(UserError, match=told):
        compare([run], run / "page", name=name)


def test_the_batch_size_does_not_change_the_pictures(judges, run):
    (base,) = evaluate([run], checkpoints="base", overrides=QUICK)
    one = np.load(base / "images.npz")["images"].astype(int)
    (base / "metrics.json").unlink()  # incomplete: done again
    evaluate([run], checkpoints="base", overrides=[*QUICK, "batch_size=3"])
    assert np.abs(np.load(base / "images.npz")["images"] - one).max() <= 1


def test_a_base_evaluation_is_shared_if_it_is_the_same(judges, run, tiny_model, tmp_path):
    prompts = f"prompts={tmp_path / 'prompts.txt'}"
    shared = ["rewards=pickscore-tiny", "encoders=[dreamsim-tiny,vae]", prompts, *QUICK]
    alias = tmp_path / "another-name"
    alias.symlink_to(tiny_model)
    (plain,) = evaluate([alias], out=tmp_path / "plain", overrides=shared)
    base, last = evaluate([run], base=tmp_path / "plain", overrides=QUICK)
    assert (base / "metrics.json").read_bytes() == (plain / "metrics.json").read_bytes()
    assert figures_of(last)["recall/dreamsim-tiny"]["mean"] <= 1
    with pytest.raises(UserError, match=r"evaluated differently: steps \(2 and 3\)"):
        evaluate([run], base=plain, overrides=[*QUICK, "steps=3"], overwrite=True)


def test_bad_input_is_one_clear_line(judges, run, tiny_model, tmp_path):
    for arguments, message in [
        ({"checkpoints": "30"}, "has none of epoch 30; it has 20, 40"),
        ({"checkpoints": "newest"}, "'newest' is not all, last, base"),
        ({"overrides": ["images=3"]}, "evaluation.images"),
        ({"overrides": ["seed"]}, "'seed' is not an override"),
        ({"overrides": ["images_per_prompt=1"]}, "images_per_prompt: 1 is refused"),
        ({"overrides": ["eta=1.5"]}, "eta: 1.5 is refused"),
        ({"overrides": ["steps=0"]}, "steps: 0 is refused"),
        ({"base": tmp_path}, "holds no evaluation"),
        ({"options": {"prompts_count": 4}}, r"evaluation.prompts_count: 4, but '.*txt' has 3$"),
        ({"options": {"prompts_count": -1}}, "prompts_count: -1 is refused: at least 0"),
        ({"options": {"encoders": "nonsense"}}, "there is no 'nonsense'"),
        (
            {"options": {"images_per_prompt": 4}, "overrides": ["evaluation.images_per_prompt=4"]},
            "evaluation.images_per_prompt: give --images-per-prompt or images_per_prompt=...,",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            evaluate([run], **arguments)
    assert not (run / "evaluations").exists()
    with pytest.raises(UserError, match="at least one run or model"):
        evaluate([])
    with pytest.raises(UserError, match="two of these would be evaluated in"):
        evaluate([run, run / ".." / run.name])
    with pytest.raises(UserError, match="is neither a run folder, .* nor a diffusers model"):
        evaluate([tmp_path], overrides=[f"prompts={tmp_path / 'prompts.txt'}"])
    with pytest.raises(UserError, match="prompts=FILE"):
        evaluate([tiny_model], overrides=["rewards=pickscore-tiny"])


def test_what_was_shaped_by_the_policys_own_features_is_judged_by_others(run):
    raw = yaml.safe_load((run / "config.yaml").read_text())
    raw |= {"encoder": "policy", "evaluation": raw["evaluation"] | {"encoders": ["vae"]}}
    (run / "config.yaml").write_text(yaml.safe_dump(raw))
    for own, told in [
        ("encoders=", "evaluation.encoders is empty, and encoder 'policy' cannot judge"),
        ("encoders=policy", "encoders: 'policy' would judge each model by itself"),
    ]:
        with pytest.raises(UserError, match=told):
            evaluate([run], overrides=[*QUICK, own])
    assert not (run / "evaluations").exists()
    (run / "environment.json").write_text('{"command": "drift train"}')
    _, last = evaluate([run], overrides=QUICK)
    assert figures_of(last)["diversity/vae"]["mean"] > 0
    page = compare([run], run / "page").read_text()
    assert "Diversity as vae sees it, rewarded in no run" in page


def test_a_sum_is_reported_with_its_components(run):
    name = "pickscore-tiny + -0.5*jpeg-incompressibility"
    config = replace(load_run_config(run), reward="-.5*jpeg-incompressibility+pickscore-tiny")
    (run / "config.yaml").write_text(to_yaml(config))
    (run / "environment.json").write_text('{"command": "drift train"}')
    _, last = evaluate([run], overrides=QUICK)
    found = json.loads((last / "metrics.json").read_text())
    assert found["settings"]["rewards"] == [name, "pickscore-tiny", "jpeg-incompressibility"]
    total, pick, jpeg = (found["figures"][f"reward/{n}"] for n in found["settings"]["rewards"])
    assert total["mean"] == pytest.approx(pick["mean"] - 0.5 * jpeg["mean"], abs=1e-4)
    assert jpeg["mean"] > 0
    assert found["figures"]["gold/pickscore"]["mean"] is not None
    page = compare([run], run / "page").read_text()
    assert f"Reward, {name}" in page and "trained for by run" in page
    assert "Gold utility, pickscore" in page


def test_what_was_rewarded_may_not_judge_alone(run):
    config = replace(load_run_config(run), method=METHODS["drift"]())
    (run / "config.yaml").write_text(to_yaml(config))
    told = "evaluation.encoders: dreamsim-tiny was rewarded .*, as in --encoders dreamsim-tiny,vae$"
    for alone in ("dreamsim-tiny", "dreamsim:menagerie/dreamsim-tiny"):
        with pytest.raises(UserError, match=told):
            evaluate([run], options={"encoders": alone})
    assert not (run / "evaluations").exists()
    _, last = evaluate([run], overrides=QUICK, options={"prompts_count": 1})
    found = json.loads((last / "metrics.json").read_text())
    assert found["settings"]["encoders"] == ["dreamsim-tiny", "vae"]
    assert found["settings"]["prompts"] == PROMPTS[:1]


@pytest.fixture
def drawn(monkeypatch):
    """Chunks of one prompt each, and the list of those that are drawn, by job and first prompt."""
    monkeypatch.setattr(chunks, "IMAGES", 4)
    done, draw = [], jobs.draw

    def counted(job, chunk, model):
        done.append((job.folder.name[-2:], chunk.start))
        return draw(job, chunk, model)

    monkeypatch.setattr(jobs, "draw", counted)
    return done


def files_of(folder):
    """The pictures, features and figures of an evaluation."""
    pixels = np.load(folder / "images.npz")["images"]
    return pixels.tobytes(), (folder / "features.safetensors").read_bytes(), figures_of(folder)


def test_an_interrupted_evaluation_goes_on_where_it_stopped(judges, run, drawn, monkeypatch):
    whole = [files_of(f) for f in evaluate([run], overrides=QUICK)]
    assert drawn == [(step, p) for step in ("00", "40") for p in range(3)]
    shutil.rmtree(run / "evaluations")

    def interrupt_after(count):
        def draw(*arguments):
            if len(drawn) == count:
                raise KeyboardInterrupt
            return counted(*arguments)

        counted = jobs.draw
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "draw", draw)
            with pytest.raises(KeyboardInterrupt):
                evaluate([run], overrides=QUICK)

    drawn.clear()
    interrupt_after(2)
    assert not (run / "evaluations/step-000000").exists()
    others = run / "evaluations" / ".step-000000.0123456789ab.partial"  # of other settings
    others.mkdir()
    (others / "prompts-00002.npy").write_bytes(b"no picture of ours")
    interrupt_after(2 + 2)
    assert drawn[2:] == [("00", 2), ("40", 0)]
    again = evaluate([run], overrides=QUICK)
    assert drawn[2 + 2 :] == [("40", 1), ("40", 2)]
    assert [files_of(f) for f in again] == whole
    assert not list((run / "evaluations").glob(".*"))


def test_processes_that_share_the_work_draw_the_same(judges, run, drawn, monkeypatch, capsys):
    whole = [files_of(f) for f in evaluate([run], overrides=QUICK)]
    shutil.rmtree(run / "evaluations")
    drawn.clear()

    def other_share(_):
        """What happens meanwhile, while the first one waits."""
        assert drawn == [("00", 0), ("00", 2), ("40", 0), ("40", 2)]
        evaluate([run], overrides=QUICK, share=parse_share("2/2"))
        assert not (run / "evaluations/step-000000").exists()  # the first one judges

    monkeypatch.setattr(module.time, "sleep", other_share)
    shared = evaluate([run], overrides=QUICK, share=parse_share("1/2"))
    assert drawn[4:] == [("00", 1), ("40", 1)]
    assert [files_of(f) for f in shared] == whole
    out = capsys.readouterr().out
    assert "step-000000: waiting for the other shares" in out
    assert "share 2/2 is drawn; share 1/2 judges it" in out
    for wrong in ("3/2", "0/2", "2", "a/b", "1/"):
        with pytest.raises(UserError, match=f"share: '{wrong}' is not R/N"):
            parse_share(wrong)


def test_other_judges_need_no_new_pictures(judges, run, drawn, monkeypatch):
    first = evaluate([run], overrides=QUICK, options={"encoders": "dreamsim-tiny"})
    assert len(drawn) == 2 * 3
    before = [files_of(f) for f in first]
    asked = {"encoders": "clip-tiny,dreamsim-tiny", "rewards": "jpeg-compressibility"}
    again = evaluate([run], overrides=QUICK, options=asked)
    assert len(drawn) == 2 * 3
    for folder, (pixels, _, figures) in zip(again, before, strict=True):
        assert files_of(folder)[0] == pixels
        found = figures_of(folder)
        assert found["diversity/clip-tiny"] == found["diversity/dreamsim-tiny"]  # one stand-in
        assert found["diversity/dreamsim-tiny"] == figures["diversity/dreamsim-tiny"]
        assert "reward/jpeg-compressibility" in found and "reward/pickscore-tiny" not in found


def test_an_evaluation_that_was_damaged_is_left_out_by_name_and_done_again(
    judges, run, drawn, tmp_path, capsys
):
    (run / "environment.json").write_text('{"command": "drift train"}')
    _, first, last = evaluate([run], checkpoints="all", overrides=QUICK)
    whole = files_of(last)
    for name in ("metrics.json", "features.safetensors", "images.npz", "manifest.json"):
        content = (last / name).read_bytes()
        middle = len(content) // 2
        for damaged in (
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            content[:middle],
        ):
            (last / name).write_bytes(damaged)
            told: list[str] = []
            assert list(stored.list_evaluations(run, tell=told.append)) == [0, 20]
            assert len(told) == 1 and told[0].startswith(f"left out {last}: ")
            assert name in told[0] or name == "manifest.json"
        (last / name).write_bytes(content)
    (last / "features.safetensors").unlink()
    drawn.clear()
    capsys.readouterr()
    compare([run], tmp_path / "page")
    assert capsys.readouterr().out.startswith(f"left out {last}: is incomplete (FileNotFound")
    evaluate([run], checkpoints="all", overrides=QUICK)
    assert drawn == [("40", p) for p in range(3)] and files_of(last) == whole

    (first / "manifest.json").unlink()
    told = stored.examine_evaluation(first)
    assert isinstance(told, str) and told.startswith("is incomplete") and "manifest.json" in told
    old = json.loads((first / "metrics.json").read_text())
    del old["sealed"]  # one of before there were any
    (first / "metrics.json").write_text(json.dumps(old))
    assert evaluate([run], checkpoints="20", overrides=QUICK)[1] == first and len(drawn) == 3


def test_other_weights_of_a_judge_are_another_judge(judges, run, drawn, tmp_path, monkeypatch):
    name = "own_" + tmp_path.name.replace("-", "_")
    monkeypatch.chdir(tmp_path)
    source = tmp_path / f"{name}.py"
    source.write_text("def bright(images, prompts):\n    return images.mean((1, 2, 3))\n")
    asked = {"rewards": f"{name}:bright", "encoders": "clip-tiny"}
    _, last = evaluate([run], overrides=QUICK, options=asked)
    second = shutil.copytree(run, tmp_path / "second")
    before = json.loads(last.joinpath("metrics.json").read_text())["settings"]["weights"]
    assert set(before) == {f"reward {name}:bright", "encoder clip-tiny", "ground truth"}

    source.write_text(source.read_text().replace("return", "return 2 *"))
    chosen.PROBE.joinpath("config.json").write_text('{"widths": [8, 8, 8, 8] }')
    evaluate([run], overrides=QUICK, options=asked)
    assert len(drawn) == 2 * 3  # and not drawn again
    after = json.loads(last.joinpath("metrics.json").read_text())["settings"]["weights"]
    changed = {role for role in after if after[role] != before[role]}
    assert changed == {f"reward {name}:bright", "ground truth"}
    with pytest.raises(UserError, match=rf"weights: reward {name}:bright \([0-9a-f]+"):
        compare([run, second], out=tmp_path / "out")


def test_several_runs_share_one_base_and_are_judged_alike(judges, run, drawn, tmp_path):
    second = shutil.copytree(run, tmp_path / "second")
    config = replace(load_run_config(run), seed=1, output="second")
    (second / "config.yaml").write_text(to_yaml(config))
    folders = evaluate([run, second], overrides=QUICK)
    assert [(f.parents[1].name, f.name[-2:]) for f in folders] == [
        *(("run", "00"), ("run", "40")),
        *(("second", "00"), ("second", "40")),
    ]
    assert len(drawn) == 3 * 3
    contents = [(f / "metrics.json").read_bytes() for f in folders]
    assert contents[0] == contents[2]
    assert files_of(folders[1]) == files_of(folders[3])  # the weights are the same

    lines = closing_table(folders, width=100)
    assert lines[0].split() == ["base", "model", "mean,", "2", "seeds", "run"]
    assert lines[1].split() == ["epoch", "40", "epoch", "40"]

    shutil.rmtree(run / "evaluations")
    evaluate([run, second], overrides=QUICK)  # now the second run's is the one that is there
    assert drawn[9:] == [("40", 0), ("40", 1), ("40", 2)]
    assert (folders[0] / "metrics.json").read_bytes() == contents[2]

    changed = replace(config, reward="hpsv2-tiny")
    (second / "config.yaml").write_text(to_yaml(changed))
    told = r"would not be judged alike: rewards \(\['pickscore-tiny'\] and \['hpsv2-tiny'\]\); give"
    with pytest.raises(UserError, match=told):
        evaluate([run, second], overrides=QUICK)


def test_a_judge_that_fails_is_named_with_the_prompt(judges, run, monkeypatch):
    def spoil(value):
        def encoder(images):
            calls.append(len(images))
            return pooled(images) * (value if len(calls) == 2 else 1)

        calls = []
        monkeypatch.setattr(module, "load_encoder", lambda name, device, policy: encoder)

    one = {"encoders": "clip-tiny"}
    for value, told in [(torch.nan, "are not finite"), (0, "are all zero")]:
        spoil(value)
        with pytest.raises(UserError, match=f"evaluation.encoders: clip-tiny: .*'a cat' {told}"):
            evaluate([run], overrides=QUICK, options=one)

    def nan(images, prompts):
        return images.mean((1, 2, 3)) * torch.nan

    monkeypatch.setattr(module, "open_rewards", lambda names, *_: dict.fromkeys(names, nan))
    told = "evaluation.rewards: pickscore-tiny: the reward of an image for 'a fox' is nan"
    with pytest.raises(UserError, match=told):
        evaluate([run], overrides=QUICK, options=one)
    assert not (run / "evaluations/step-000000").exists()


RELATIVE = """
def brighter(images, prompts, metadata):
    return [float(x.mean()) - each.get("than", 0) for x, each in zip(images, metadata)]

def needs(images, prompts, metadata):
    return [each["than"] for each in metadata]
"""


def test_rewards_get_the_fields_of_the_prompts_and_other_fields_are_judged_anew(
    run, drawn, tmp_path, monkeypatch, capsys
):
    name, file = "relative_" + tmp_path.name.replace("-", "_"), tmp_path / "prompts.jsonl"
    (tmp_path / f"{name}.py").write_text(RELATIVE)
    monkeypatch.chdir(tmp_path)
    long = "a bee " * 30
    own = {"prompts": str(file), "rewards": f"{name}:brighter", "encoders": "vae"}

    def judged(than: float, **others: str) -> dict:
        lines = [{"prompt": "a fox", "than": than}, {"prompt": long}]
        file.write_text("\n".join(map(json.dumps, lines)))
        (base,) = evaluate([run], checkpoints="base", overrides=QUICK, options=own | others)
        return json.loads((base / "metrics.json").read_text())

    before, after = judged(0.0), judged(10.0)
    assert "prompts: the text encoder cuts 1 of 2 at 24 tokens" in capsys.readouterr().out
    assert after["settings"]["fields"] == {"a fox": {"than": 10.0}}
    one, two = (m["figures"][f"reward/{name}:brighter"]["per_prompt"] for m in (before, after))
    assert two == pytest.approx([one[0] - 10, one[1]], abs=1e-5)
    assert drawn == [("00", 0), ("00", 1)]  # the same pictures serve

    named = f"evaluation.rewards: {name}:needs: reward: {name}:needs raised KeyError: 'than' for"
    with pytest.raises(UserError, match=named):
        judged(0.0, rewards=f"{name}:needs")


def test_an_unknown_reward_leaves_nothing(run):
    for own in ("nonsense", "[pickscore-tiny, 2*nonsense]"):
        with pytest.raises(UserError, match="^reward: there is no 'nonsense'; known are"):
            evaluate([run], overrides=[*QUICK, f"rewards={own}"])
    with pytest.raises(UserError, match="evaluation.rewards.0: .* neither NAME nor NUMBER"):
        evaluate([run], overrides=[*QUICK, "rewards=pickscore-tiny +"])
    assert not (run / "evaluations").exists()


def test_intervals_leave_out_prompts_without_a_figure():
    summary = summarise(torch.tensor([1.0, torch.nan, 3.0]))
    assert summary["mean"] == 2 and summary["stderr"] == pytest.approx(1)
    assert summary["per_prompt"] == [1, None, 3]
    assert (summary["low"], summary["high"]) == (1, 3)
    assert summarise(torch.tensor([2.0]))["low"] is None
    assert summarise(torch.tensor([torch.nan]))["mean"] is None


def test_recall_needs_more_pictures_than_neighbours():
    features = {"e": torch.rand(2, 5, 3)}
    assert measure_against(features, features) == {}
    features = {"e": torch.rand(2, 6, 3)}
    assert measure_against(features, features)["recall/e"]["per_prompt"] == [1, 1]
