import pytest
import torch

from drift.errors import UserError
from drift.files.weights import fit_weights
from drift.rewards import aesthetic
from drift.rewards.head import Head

NAME = "sac+logos+ava1-l14-linearMSE.pth"


def test_the_published_head_fits(layouts):
    """As the image-reward package builds it: 768-1024-128-64-16-1."""
    theirs = {n: t.shape for n, t in layouts["ImageReward"].items() if n.startswith("mlp.")}
    with torch.device("meta"):
        head = Head([768, 1024, 128, 64, 16, 1])
    assert {f"mlp.{name}": t.shape for name, t in head.state_dict().items()} == theirs


def test_prompts_have_no_say(golden, golden_images):
    reward = aesthetic.load(golden / "aesthetic" / NAME, golden / "clip")
    one, other = (reward(golden_images[1], prompts) for prompts in (["a", "b"], ["c", ""]))
    assert torch.equal(one, other) and one[0] != one[1]


def test_wrong_heads_are_refused_in_one_line(golden, pickled, tmp_path):
    file = tmp_path / "head.pth"
    torch.save({"layers.0.weight": torch.zeros(4, 24), "epoch": 3}, file)
    told = r"^reward: [^\n]*head.pth is no aesthetic predictor: it lacks layers.2[^\n]*epoch[^\n]*$"
    with pytest.raises(UserError, match=told):
        aesthetic.load(file, golden / "clip")
    state = torch.load(golden / "aesthetic" / NAME, weights_only=True)
    state["scale"] = state.pop("layers.7.bias")
    torch.save(state, file)
    told = "head.pth does not fit Head; 1 missing: layers.7.bias; 1 unexpected: scale$"
    with pytest.raises(UserError, match=told):
        aesthetic.load(file, golden / "clip")
    for content in (b"", pickled, (golden / "aesthetic" / NAME).read_bytes()[:2000]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"^reward: cannot read weights from [^\n]*$"):
            aesthetic.load(file, golden / "clip")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="there is no file .*linearMSE.pth$"):
        aesthetic.load(tmp_path, golden / "clip")


def test_a_head_for_another_clip_is_refused(golden, tmp_path):
    torch.save(Head([768, 4, 3, 2, 2, 1]).state_dict(), tmp_path / "head.pth")
    with pytest.raises(UserError, match="is for features of 768 numbers, .*clip has 24$"):
        aesthetic.load(tmp_path / "head.pth", golden / "clip")


def test_fitting_turns_the_stored_halves_into_floats(golden):
    state = torch.load(golden / "aesthetic" / NAME, weights_only=True)
    assert state["layers.0.weight"].dtype == torch.float16
    head = Head([24, 32, 16, 8, 4, 1])
    fit_weights(head, state, source=golden, field="reward")
    assert head.layers[0].weight.dtype == torch.float32
