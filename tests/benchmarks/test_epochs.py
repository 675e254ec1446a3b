from benchmarks.epochs import run


def test_the_recipe_runs_on_random_weights_and_tells_what_it_took(tmp_path, capsys):
    run(tmp_path, "tiny", "cpu", ["threads=1", "epochs=1"])
    told = capsys.readouterr().out
    assert "epoch 1: seconds rollout" in told
    assert "first update's clip fraction 0.0000" in told
    assert "process: " in told
