"""The figures of metrics.json in words: the same ones wherever a person reads them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """What a figure is called, as within a sentence."""

    text: str
    share: bool = False  # of 1, shown in percent


# By the first part of the figure's name; the second is its judge: a reward, an encoder or a taste.
FIGURES = {
    "reward": Wording("reward"),
    "gold": Wording("gold utility"),
    "right_animal": Wording("right animal", share=True),
    "coverage": Wording("ground-truth coverage"),
    "scenes": Wording("effective scenes"),
    "styles": Wording("effective styles"),
    "diversity": Wording("diversity"),
    "recall": Wording("recall", share=True),
    "precision": Wording("precision", share=True),
    "vendi": Wording("Vendi score"),
    "vendi_all": Wording("Vendi of the set"),
}
GAINED = {"reward", "gold"}  # what training is after; the others are what it may cost


def wording(figure: str) -> Wording:
    """Of "recall/clip-tiny" that of "recall"; one that is not listed goes by its own name."""
    kind = figure.partition("/")[0]
    return FIGURES.get(kind) or Wording(kind.replace("_", " "))


def in_words(figure: str) -> str:
    """ "diversity/clip-tiny" as "diversity, clip-tiny"."""
    judge = figure.partition("/")[2]
    return wording(figure).text + (f", {judge}" if judge else "")


def title_of(figure: str) -> str:
    """ "diversity/clip-tiny" as "Diversity, clip-tiny"."""
    return capital(in_words(figure))


def capital(text: str) -> str:
    """With a great first letter, and the others as they are."""
    return text[:1].upper() + text[1:]
