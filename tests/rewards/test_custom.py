import pytest
import torch

from drift.errors import UserError
from drift.rewards import load_reward
from drift.rewards.custom import source_file
from drift.training.scoring import score

MODULE = """
import torch

def brightness(images, prompts):
    return images.mean((1, 2, 3)) + torch.tensor([float(len(p)) for p in prompts])

def unlike(images, prompt):
    assert isinstance(prompt, str)
    return (images - images.mean(0)).square().mean((1, 2, 3))

unlike.per_group = True

class Scorer:
    def __call__(self, images, prompts):
        return images[:, 1].mean((1, 2))

scorer, number = Scorer(), 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the current directory, a new one for every test."""
    name = "own_" + tmp_path.name.replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    return name


def images(P: int = 2, C: int = 3) -> torch.Tensor:
    return torch.rand(P, C, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_function_of_images_and_prompts(module):
    rewards = score(load_reward(f"{module}:brightness"), images(), ["a fox", "a hedgehog"])
    torch.testing.assert_close(rewards, images().mean((2, 3, 4)) + torch.tensor([[5.0], [10.0]]))
    green = score(load_reward(f"{module}:scorer"), images(), ["", ""])
    torch.testing.assert_close(green, images()[:, :, 1].mean((2, 3)))


def test_a_function_of_a_group_alone_and_in_a_sum(module):
    group_means = images().mean(1, keepdim=True)
    expected = (images() - group_means).square().mean((2, 3, 4))
    alone = load_reward(f"{module}:unlike")
    torch.testing.assert_close(score(alone, images(), ["a fox", "a cat"]), expected)
    total = score(
        load_reward(f"{module}:unlike + 0.5*{module}:scorer"), images(), ["a fox", "a fox"]
    )
    torch.testing.assert_close(total, expected + 0.5 * images()[:, :, 1].mean((2, 3)))
    with pytest.raises(ValueError, match="one prompt at a time"):
        alone(images().flatten(0, 1), ["a fox"] * 3 + ["a cat"] * 3)


def test_what_cannot_be_a_reward_is_refused_in_one_line(module, tmp_path):
    (tmp_path / f"{module}_broken.py").write_text("import torch\nraise OSError('no\\ndisk')\n")
    for name, told in [
        (f"{module}:nothing", f"{module}.py has no 'nothing'"),
        (f"{module}:Scorer", "is a class: name an instance"),
        (f"{module}:number", "is not a function"),
        (f"{module}_broken:f", f"importing {module}_broken failed: OSError: no"),
        ("nowhere_at_all:f", "no 'nowhere_at_all'; known are pickscore.* no module of that name"),
        ("nowhere.at.all:f", "no 'nowhere.at.all'; known are"),
    ]:
        with pytest.raises(UserError, match=told) as refusal:
            load_reward(name)
        assert str(refusal.value).startswith("reward: ") and "\n" not in str(refusal.value)


def test_the_current_directory_shadows_nothing(module, tmp_path):
    (tmp_path / "colorsys.py").write_text("def my_reward(images, prompts): ...")
    with pytest.raises(UserError, match="colorsys.py has no 'my_reward'"):  # Python's own
        load_reward("colorsys:my_reward")


def test_the_source_file_is_found_before_and_after_the_import(module, tmp_path):
    name = f"{module}:brightness"
    assert source_file(name) == tmp_path / f"{module}.py"
    load_reward(name)
    assert source_file(name) == tmp_path / f"{module}.py"
    assert source_file("sys:exit") is source_file("not_there:f") is None  # built in; nowhere
