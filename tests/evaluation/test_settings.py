import pytest

from drift.errors import UserError
from drift.evaluation.settings import parse_changes, settings_of
from drift.recipes import load_recipe


def test_options_are_fields_like_overrides():
    changes = parse_changes(["seed=3", "evaluation.steps=2"], {"encoders": "vae,clip-tiny"})
    assert changes == {"seed": 3, "steps": 2, "encoders": "vae,clip-tiny"}
    with pytest.raises(UserError, match=r"give --encoders or encoders=\.\.\., not both"):
        parse_changes(["encoders=[vae]"], {"encoders": "vae"})


def test_the_first_prompts_of_a_list():
    whole = settings_of(load_recipe("menagerie", []), probed=True)
    some = settings_of(load_recipe("menagerie", ["evaluation.prompts_count=2"]), probed=True)
    assert some == whole | {"prompts": whole["prompts"][:2]}
    with pytest.raises(
        UserError, match="^evaluation.prompts_count: 16, but 'menagerie-heldout' has"
    ):
        settings_of(load_recipe("menagerie", ["evaluation.prompts_count=16"]), probed=True)


def test_fields_of_prompts_are_settings_where_there_are_any(tmp_path):
    file = tmp_path / "scenes.jsonl"
    file.write_text('{"prompt": "a fox", "count": 2}\n{"prompt": "a cat"}\n')
    own = ["prompts_count=1", f"prompts={file}"]
    asked = load_recipe("smoke", [f"evaluation.{text}" for text in own])
    assert settings_of(asked, probed=True)["fields"] == {"a fox": {"count": 2}}
    file.write_text('{"prompt": "a fox"}\n{"prompt": "a cat", "count": 2}\n')
    assert "fields" not in settings_of(asked, probed=True)  # as before there were fields


@pytest.mark.parametrize(
    ("recipe", "own", "judging"),
    [
        ("menagerie", ["encoder=vae", "evaluation.encoders="], ["vae", "clip-tiny"]),
        ("smoke", [], ["dreamsim-tiny", "clip-tiny"]),
        ("smoke-grpo", [], ["dreamsim-tiny", "clip-tiny"]),  # alike, whoever was rewarded
        ("smoke", ["encoder=clip-tiny"], ["clip-tiny", "dreamsim-tiny"]),
        ("smoke-grpo", ["encoder="], ["clip-tiny"]),
        ("sd15-pickscore", ["evaluation.encoders="], ["dreamsim", "vae"]),
        ("sd15-pickscore", ["evaluation.encoders=", "encoder=vae"], ["vae", "clip"]),
        ("smoke", ["evaluation.encoders=vae,vae"], ["vae"]),
    ],
)
def test_diversity_is_judged_by_one_that_was_not_rewarded(recipe, own, judging):
    assert settings_of(load_recipe(recipe, own), probed=False)["encoders"] == judging


def test_the_rewarded_one_alone_is_refused_by_any_of_its_names():
    for recipe, alone in [
        ("smoke", "dreamsim-tiny"),
        ("menagerie", "dreamsim:menagerie/dreamsim-tiny"),
    ]:
        config = load_recipe(recipe, [f"evaluation.encoders={alone}"])
        told = "^evaluation.encoders: dreamsim-tiny was rewarded.*--encoders dreamsim-tiny,clip-t"
        with pytest.raises(UserError, match=told):
            settings_of(config, probed=False)
    for fine in (["method=grpo"], ["method.shaping.weight=0"], ["encoder=policy"]):
        config = load_recipe("smoke", [*fine, "evaluation.encoders=dreamsim-tiny"])
        assert settings_of(config, probed=False)["encoders"] == ["dreamsim-tiny"]
