from examples import minimal_drift


def test_the_page_runs(monkeypatch, capsys):
    for name, value in {"POOL": 4, "GROUP": 2, "STEPS": 3, "EPOCHS": 2}.items():
        monkeypatch.setattr(minimal_drift, name, value)
    minimal_drift.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2"]
