"""Use a fine-tuned LoRA without DRIFT: plain diffusers, three lines.

python examples/lora_in_diffusers.py MODEL runs/my-run/checkpoints/step-000060
"""

import sys

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

model, checkpoint = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
pipe.load_lora_weights(checkpoint)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)

generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
images = pipe(
    ["a fox"] * 4, num_inference_steps=20, guidance_scale=3.0, eta=1.0, generator=generators
).images
for seed, image in enumerate(images):
    image.save(f"fox-{seed}.png")
