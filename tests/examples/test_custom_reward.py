from drift.recipes import load_recipe
from drift.training.loop import train
from drift.training.tracking import read_metrics
from examples import custom_reward
from tests.training.test_loop import SMALL


def test_the_page_runs(capsys):
    custom_reward.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["warmth", "warmth", "unlike", "unlike"]
    warmth, unlike = ([float(x) for x in rows[k][-4:]] for k in (0, 2))
    assert max(warmth) == warmth[0] > 0.4  # the reddish picture
    assert max(unlike) == unlike[0]


def test_it_trains(tiny_model, tmp_path):
    name = "examples.custom_reward:warmth + 2*examples.custom_reward:unlike"
    own = [f"reward={name}", f"model.name={tiny_model}", f"output={tmp_path / 'run'}", "epochs=1"]
    run = train(load_recipe("menagerie-drift", [*SMALL, *own]), progress=False)
    assert read_metrics(run)[0]["unique_rewards"] == 2
