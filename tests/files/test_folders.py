"""Half precision is read where a folder has nothing else, and a pickle never."""

import pytest

from drift.errors import UserError
from drift.files.folders import variant_of

WHOLE, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
SHARD = "model.bf16-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        ((), None),
        ((WHOLE,), None),
        ((HALF,), "fp16"),
        ((WHOLE, HALF), None),
        (("model-00001-of-00002.safetensors", HALF), None),
        ((SHARD,), "bf16"),
        ((SHARD, HALF), "fp16"),
        ((HALF, "model.bin"), "fp16"),
        ((WHOLE, "model.bin"), None),
        (("config.json", "model.non_ema.safetensors"), None),
    ],
)
def test_half_precision_is_read_where_there_is_no_other(tmp_path, names, variant):
    for name in names:
        (tmp_path / name).touch()
    assert variant_of(tmp_path, field="x") == variant


@pytest.mark.parametrize("beside", ["config.json", "model.non_ema.safetensors"])
def test_a_folder_of_pickles_is_refused(tmp_path, beside):
    for name in (beside, "pytorch_model.bin"):
        (tmp_path / name).touch()
    told = r"^encoder: .*/pytorch_model.bin is a pickle.*safe_serialization=True"
    with pytest.raises(UserError, match=told):
        variant_of(tmp_path, field="encoder")
