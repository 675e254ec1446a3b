"""Make the reference packages importable beside newer libraries; read the published layouts."""

import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

# Where a torchvision without its compiled part is installed, transformers still wants these names.
LIBRARY = torch.library.Library("torchvision", "DEF")
if not hasattr(torch.ops.torchvision, "nms"):
    LIBRARY.define("nms(Tensor a, Tensor b, float c) -> Tensor")
    LIBRARY.define("qnms(Tensor a, Tensor b, float c) -> Tensor")


def bare(package: str) -> None:
    """Let modules of `package` be imported without its __init__, which wants much more."""
    name = ""
    for part in package.split("."):
        name = f"{name}.{part}".lstrip(".")
        parent = sys.modules.get(name.rpartition(".")[0])
        folder = (
            Path(parent.__path__[0]) / part
            if parent
            else find_spec(part).submodule_search_locations[0]
        )
        sys.modules[name] = module = types.ModuleType(name)
        module.__path__ = [str(folder)]


def import_image_reward() -> types.ModuleType:
    """The package's model; names that newer libraries dropped are put back, unused ones as None."""
    import timm.layers
    import transformers.modeling_utils as modeling
    import transformers.pytorch_utils as utils

    dropped = {
        "fairscale.nn.checkpoint.checkpoint_activations": {"checkpoint_wrapper": None},
        "timm.models.hub": {"download_cached_file": None},
        "timm.models.registry": {"register_model": None},
        "timm.models.layers": vars(timm.layers),
        "timm.models.helpers": {"named_apply": None, "adapt_input_conv": None},
    }
    for name, content in dropped.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    import timm.models.vision_transformer as vit

    vit._cfg = getattr(vit, "_cfg", None)
    modeling.apply_chunking_to_forward = utils.apply_chunking_to_forward
    modeling.prune_linear_layer = modeling.find_pruneable_heads_and_indices = None
    sys.modules["clip"] = types.ModuleType("clip")
    bare("ImageReward.models.BLIP")
    import ImageReward.ImageReward as package
    from ImageReward.models.BLIP import med

    model = med.BertModel
    model.init_weights = lambda self: None  # all are drawn here
    model.get_head_mask = lambda self, mask, layers: [None] * layers
    model.invert_attention_mask = lambda self, mask: (
        (1 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    )
    return package


def floats(transform, images: torch.Tensor) -> torch.Tensor:
    """A torchvision Compose for PIL images, its own steps on floats, clamped after resizing."""
    steps = {type(step).__name__: step for step in transform.transforms if hasattr(step, "forward")}
    return steps["Normalize"](steps["CenterCrop"](steps["Resize"](images).clamp(0, 1)))


MED_CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "vocab_size": 30524,
    "encoder_width": 768,
    "add_cross_attention": True,
}


def build_image_reward(package, config: Path, vit: dict, tokenizer):
    """The package's ImageReward, whose code fixes the size of its vision tower: here another."""
    pretrain = sys.modules["ImageReward.models.BLIP.blip_pretrain"]
    tower = sys.modules["ImageReward.models.BLIP.vit"].VisionTransformer
    pretrain.create_vit = lambda *_: (tower(**vit), vit["embed_dim"])
    pretrain.init_tokenizer = lambda: tokenizer
    return package.ImageReward(med_config=str(config))


def layout(module: nn.Module) -> dict:
    """Names and shapes; of the layers' names one, "*" for the number, and how many there are."""
    found: dict[str, list] = {}
    for name, tensor in module.state_dict().items():
        words = name.split(".")
        places = [i for i, word in enumerate(words) if word.isdigit() and words[0] != "mlp"]
        pattern = ".".join("*" if i in places else word for i, word in enumerate(words))
        entry = found.setdefault(pattern, [list(tensor.shape), 0])
        assert entry[0] == list(tensor.shape), name
        entry[1] += len(places)
    return found


def full_size(package, folder: Path) -> dict[str, dict]:
    """The published models on the meta device; `folder` takes the published med_config.json."""
    import open_clip

    vit = {"img_size": 224, "patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}
    config = folder / "med_config.json"
    config.write_text(json.dumps(MED_CONFIG))
    with torch.device("meta"):
        models = {
            "ViT-H-14": open_clip.create_model("ViT-H-14", device="meta"),
            "ViT-L-14": open_clip.create_model("ViT-L-14-quickgelu", device="meta"),
            "ImageReward": build_image_reward(package, config, vit, None),
        }
    config.unlink()
    return {name: layout(model) for name, model in models.items()}
