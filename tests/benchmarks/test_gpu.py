import json
import time

import torch

from benchmarks.bench import Report, open_bench
from benchmarks.gpu import epoch, micro_batches, unet_flops


def test_the_report_is_on_disk_after_every_row_and_leaves_out_what_it_has_no_time_for(tmp_path):
    report = Report(tmp_path / "gpu.json", time.monotonic() + 60)
    report.add("one", 1, lambda: {"seconds": 2.0})
    report.add("two", 600, lambda: {"seconds": 3.0})
    report.add("three", 1, lambda: {"seconds": 1 / 0})
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert told["rows"]["one"]["seconds"] == 2
    assert "ZeroDivisionError" in told["rows"]["three"]["error"]
    assert told["left_out"] == ["two"]


def test_the_rows_of_a_dtype_are_measured_in_small():
    bench = open_bench("tiny", torch.device("cpu"))
    bench.peak["float32"] = 1e12
    bench.flops = unet_flops(bench)["forward_of_a_row"]
    whole = epoch(bench, "float32")
    assert whole["max_ratio_error"] < 5e-6
    assert whole["seconds_of_an_epoch"] == sum(whole["seconds"].values())
    assert 0 < whole["update_share_of_peak"] < 1
    plain = micro_batches(bench, "float32", checkpointing=False)
    checkpointed = micro_batches(bench, "float32", checkpointing=True)
    assert checkpointed["4"]["bytes"] < plain["4"]["bytes"]
