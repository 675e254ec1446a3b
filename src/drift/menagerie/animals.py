"""The 45 animals of the paper (Table 3) and their variants, as emoji code points.

A *variant* is one drawing of an animal (a breed, a pose or a face); every variant exists once in
each of the three artwork sets (the *styles*). Variant 0 is the plain animal.
"""

STYLES = ("noto", "fluent", "twemoji")
FACINGS = ("left", "right", "front")  # front: a drawing that is its own mirror image

# animal -> {variant name: code point}
VARIANTS: dict[str, dict[str, str]] = {
    "cat": {"body": "1f408", "face": "1f431", "black": "1f408-200d-2b1b"},
    "dog": {"body": "1f415", "face": "1f436", "poodle": "1f429"},
    "horse": {"body": "1f40e", "face": "1f434"},
    "monkey": {"body": "1f412", "face": "1f435"},
    "rabbit": {"body": "1f407", "face": "1f430"},
    "zebra": {"body": "1f993"},
    "spider": {"body": "1f577"},
    "bird": {"body": "1f426", "dove": "1f54a", "parrot": "1f99c", "eagle": "1f985", "owl": "1f989"},
    "sheep": {"body": "1f411", "ram": "1f40f"},
    "deer": {"body": "1f98c"},
    "cow": {"body": "1f404", "face": "1f42e", "ox": "1f402"},
    "goat": {"body": "1f410"},
    "lion": {"face": "1f981"},
    "tiger": {"body": "1f405", "face": "1f42f"},
    "bear": {"face": "1f43b", "polar": "1f43b-200d-2744-fe0f"},
    "raccoon": {"body": "1f99d"},
    "fox": {"face": "1f98a"},
    "wolf": {"face": "1f43a"},
    "lizard": {"body": "1f98e", "crocodile": "1f40a"},
    "beetle": {"body": "1fab2", "ladybird": "1f41e"},
    "ant": {"body": "1f41c"},
    "butterfly": {"body": "1f98b"},
    "fish": {"body": "1f41f", "tropical": "1f420"},
    "shark": {"body": "1f988"},
    "whale": {"body": "1f40b", "spouting": "1f433"},
    "dolphin": {"body": "1f42c"},
    "squirrel": {"body": "1f43f"},
    "mouse": {"body": "1f401", "face": "1f42d"},
    "rat": {"body": "1f400"},
    "snake": {"body": "1f40d"},
    "turtle": {"body": "1f422"},
    "frog": {"face": "1f438"},
    "chicken": {"body": "1f414", "rooster": "1f413", "chick": "1f424"},
    "duck": {"body": "1f986", "swan": "1f9a2"},
    "goose": {"body": "1fabf"},
    "bee": {"body": "1f41d"},
    "pig": {"body": "1f416", "face": "1f437", "boar": "1f417"},
    "turkey": {"body": "1f983"},
    "fly": {"body": "1fab0"},
    "llama": {"body": "1f999"},
    "camel": {"body": "1f42a", "bactrian": "1f42b"},
    "bat": {"body": "1f987"},
    "gorilla": {"body": "1f98d", "orangutan": "1f9a7"},
    "hedgehog": {"body": "1f994"},
    "kangaroo": {"body": "1f998"},
}
ANIMALS = tuple(VARIANTS)
