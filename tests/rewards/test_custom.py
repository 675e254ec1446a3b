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

def third(images, prompts, about):
    return [each["count"] for each in about]

def named(images, prompts, scale=10.0, *, metadata=None):
    return [scale * each["count"] for each in metadata]

def default(images, prompts, scale=10.0):
    return torch.full((len(images),), scale)

def grouped(images, prompt, metadata):
    metadata["count"] += 1  # its own copy
    return [metadata["count"] + len(prompt)] * len(images)

grouped.per_group = True

class Counter:
    def __call__(self, images, prompts, metadata):
        return third(images, prompts, metadata)

counter = Counter()

def picky(images, prompts):
    if "a cat" in prompts:
        raise KeyError("no cats")
    return images.mean((1, 2, 3))

def crowded(images, prompts):
    if len(prompts) > 3:
        raise ArithmeticError
    return images.mean((1, 2, 3))

def full(images, prompts):
    if len(prompts) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return images.mean((1, 2, 3))
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


FIELDS = {"a fox": {"count": 1}, "a cat": {"count": 2}}


@pytest.mark.parametrize(
    ("reward", "expected"),
    [("third", [1, 2]), ("named", [10, 20]), ("counter", [1, 2]), ("default", [10, 10])],
)
def test_a_third_argument_gets_the_fields_of_each_images_prompt(module, reward, expected):
    loaded = load_reward(f"{module}:{reward}", fields=FIELDS)
    rewards = score(loaded, images(), ["a fox", "a cat"])
    assert rewards.tolist() == [[float(value)] * 3 for value in expected]


def test_a_group_gets_the_fields_of_its_prompt_and_a_sum_hands_them_on(module):
    grouped = load_reward(f"{module}:grouped", fields=FIELDS)
    for _ in range(2):
        assert score(grouped, images(), ["a fox", "a cat"]).tolist() == [[7.0] * 3, [8.0] * 3]
    total = load_reward(f"{module}:grouped + 0.5*{module}:third", fields=FIELDS)
    assert score(total, images(), ["a fox", "a cat"]).tolist() == [[7.5] * 3, [9.0] * 3]


@pytest.mark.parametrize(
    ("reward", "told", "source"),
    [
        ("picky", "KeyError: 'no cats' for 'a cat'", 'raise KeyError("no cats")'),
        (
            "crowded",
            "ArithmeticError for 2 prompts together, 'a cat' among them",
            "raise ArithmeticError",
        ),
        ("third", "KeyError: 'count' for 'a fox'", 'return [each["count"] for each in about]'),
    ],
)
def test_one_that_raises_is_told_in_a_line_with_the_prompt(module, reward, told, source):
    line = [text.strip() for text in MODULE.splitlines()].index(source) + 1
    with pytest.raises(UserError) as failure:
        score(load_reward(f"{module}:{reward}"), images(), ["a fox", "a cat"])
    expected = f"reward: {module}:{reward} raised {told}, in {module}.py line {line} ("
    assert str(failure.value).startswith(expected)
    assert "\n" not in str(failure.value)
    assert isinstance(failure.value.__cause__, KeyError | ArithmeticError)


def test_one_that_runs_out_of_memory_gets_halves(module):
    rewards = score(load_reward(f"{module}:full"), images(), ["a fox", "a cat"])
    torch.testing.assert_close(rewards, images().mean((2, 3, 4)))
