"""The gems of the sample site, and the parameters of their pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

from sample_site.facts import FACTS, Facts

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Gem:
    """A gemstone: the text of its page, and the parameters of its pictures.

    Attributes:
        name: Name of the gem.
        mineral_class: The mineral that it is a variety of.
        facts: The text of its page.
        localities: Places of origin, for the pictures' file names.
        cuts: Names from `cuts.CUTS` or `cabochons.SHAPES`, one after the other; none for a gem without pictures.
        colors: Linear RGB, 0 to 1. Faceted stone: transmission over one radius; each picture mixes them, and a zoned
            stone has one at either end. Cabochon: the colours of its texture.
        index: Refractive index.
        fire: Dispersion: relative difference of the index between blue and red.
        veils: Mean number of veils and feathers (sheets of inclusions) in a stone.
        zoned: Whether the two ends of a stone differ in colour.
        texture: Name from `cabochons.TEXTURES`.
    """

    name: str
    mineral_class: str
    facts: Facts
    localities: tuple[str, ...]
    cuts: tuple[str, ...] = ()
    colors: tuple[Color, ...] = ()
    index: float = 1.6
    fire: float = 0.0
    veils: float = 0.0
    zoned: bool = False
    texture: str = ""

    @property
    def properties(self) -> Mapping[str, str]:
        """The gem's mineral data, by the names in `facts.PROPERTIES`."""
        return self.facts.properties

    @property
    def slug(self) -> str:
        """The gem's name in URLs."""
        return self.name.lower().replace("'", "").replace(" ", "_")


DOMES = ("oval cabochon", "round cabochon", "cushion cabochon", "pear cabochon", "tumbled")

GEMS: tuple[Gem, ...] = (
    Gem(
        "Ruby",
        "Corundum",
        FACTS["Ruby"],
        localities=("myanmar", "mozambique", "thailand"),
        cuts=("oval", "cushion", "round", "heart", "pear", "marquise"),
        colors=((0.78, 0.05, 0.16), (0.72, 0.04, 0.25), (0.76, 0.04, 0.09), (0.84, 0.11, 0.28)),
        index=1.77,
        veils=1.2,
    ),
    Gem(
        "Sapphire",
        "Corundum",
        FACTS["Sapphire"],
        localities=("sri-lanka", "kashmir", "madagascar"),
        cuts=("oval", "cushion", "round", "emerald", "pear", "heart"),
        colors=((0.06, 0.16, 0.58), (0.1, 0.24, 0.68), (0.04, 0.09, 0.42), (0.22, 0.17, 0.65)),
        index=1.77,
        veils=0.8,
    ),
    Gem(
        "Star Sapphire",
        "Corundum",
        FACTS["Star Sapphire"],
        localities=("sri-lanka", "australia"),
        cuts=("oval cabochon", "round cabochon"),
        colors=((0.01, 0.025, 0.13), (0.06, 0.075, 0.13)),
        texture="star",
    ),
    Gem(
        "Almandine",
        "Garnet",
        FACTS["Almandine"],
        localities=("india", "brazil", "tanzania"),
        cuts=("round", "oval", "pear", "cushion", "marquise", "trillion"),
        colors=((0.54, 0.04, 0.03), (0.54, 0.03, 0.08), (0.6, 0.1, 0.035), (0.68, 0.04, 0.12)),
        index=1.79,
        veils=0.4,
    ),
    Gem(
        "Spinel",
        "Spinel",
        FACTS["Spinel"],
        localities=("myanmar", "tanzania", "vietnam"),
        cuts=("cushion", "oval", "round", "trillion", "emerald", "pear"),
        colors=((0.87, 0.14, 0.08), (0.88, 0.2, 0.19), (0.82, 0.07, 0.08), (0.84, 0.22, 0.09)),
        index=1.72,
        veils=0.2,
    ),
    Gem(
        "Tanzanite",
        "Zoisite",
        FACTS["Tanzanite"],
        localities=("tanzania", "merelani"),
        cuts=("oval", "cushion", "trillion", "pear", "emerald", "round"),
        colors=((0.15, 0.16, 0.66), (0.28, 0.17, 0.7), (0.09, 0.12, 0.55), (0.28, 0.24, 0.8)),
        index=1.69,
        veils=0.1,
    ),
    Gem(
        "Emerald",
        "Beryl",
        FACTS["Emerald"],
        localities=("colombia", "zambia", "brazil"),
        cuts=("emerald", "emerald", "oval", "pear", "round", "cushion"),
        colors=((0.05, 0.5, 0.2), (0.03, 0.4, 0.16), (0.1, 0.6, 0.32), (0.04, 0.42, 0.24)),
        index=1.58,
        veils=6.0,
    ),
    Gem(
        "Aquamarine",
        "Beryl",
        FACTS["Aquamarine"],
        localities=("brazil", "pakistan", "nigeria"),
        cuts=("emerald", "trillion", "oval", "pear", "round", "marquise"),
        colors=((0.52, 0.8, 0.86), (0.62, 0.84, 0.92), (0.45, 0.76, 0.76), (0.42, 0.72, 0.88)),
        index=1.58,
        veils=0.2,
    ),
    Gem(
        "Amethyst",
        "Quartz",
        FACTS["Amethyst"],
        localities=("brazil", "uruguay", "zambia"),
        cuts=("oval", "cushion", "round", "emerald", "trillion", "heart", "pear"),
        colors=((0.4, 0.13, 0.62), (0.52, 0.26, 0.72), (0.3, 0.07, 0.5), (0.5, 0.16, 0.6)),
        index=1.55,
        veils=0.3,
    ),
    Gem(
        "Citrine",
        "Quartz",
        FACTS["Citrine"],
        localities=("brazil", "bolivia", "madagascar"),
        cuts=("cushion", "oval", "round", "emerald", "pear", "marquise"),
        colors=((0.88, 0.62, 0.1), (0.9, 0.5, 0.06), (0.8, 0.36, 0.05), (0.92, 0.74, 0.28)),
        index=1.55,
        veils=0.2,
    ),
    Gem(
        "Tiger's Eye",
        "Quartz",
        FACTS["Tiger's Eye"],
        localities=("south-africa", "australia"),
        cuts=DOMES,
        colors=((0.07, 0.022, 0.006), (0.34, 0.15, 0.03), (0.55, 0.3, 0.08)),
        texture="tiger",
    ),
    Gem(
        "Peridot",
        "Olivine",
        FACTS["Peridot"],
        localities=("arizona", "pakistan", "zabargad"),
        cuts=("oval", "round", "cushion", "emerald", "trillion", "pear"),
        colors=((0.5, 0.68, 0.08), (0.44, 0.6, 0.05), (0.6, 0.76, 0.16), (0.4, 0.52, 0.06)),
        index=1.67,
        veils=0.3,
    ),
    Gem(
        "Diamond",
        "Diamond",
        FACTS["Diamond"],
        localities=("russia", "botswana", "south-africa"),
        cuts=("round", "round", "cushion", "pear", "marquise", "heart", "emerald"),
        colors=((0.985, 0.985, 0.98), (0.98, 0.975, 0.95), (0.97, 0.98, 0.985)),
        index=2.417,
        fire=0.02,
        veils=0.1,
    ),
    Gem(
        "Watermelon Tourmaline",
        "Tourmaline",
        FACTS["Watermelon Tourmaline"],
        localities=("brazil", "afghanistan", "maine"),
        cuts=("emerald", "emerald", "oval", "cushion", "marquise"),
        colors=((0.85, 0.2, 0.36), (0.14, 0.52, 0.2)),
        index=1.63,
        veils=1.0,
        zoned=True,
    ),
    Gem(
        "Turquoise",
        "Turquoise",
        FACTS["Turquoise"],
        localities=("iran", "arizona", "nevada"),
        cuts=DOMES,
        colors=((0.07, 0.42, 0.52), (0.1, 0.46, 0.36), (0.05, 0.03, 0.02)),
        texture="turquoise",
    ),
    Gem(
        "Malachite",
        "Malachite",
        FACTS["Malachite"],
        localities=("congo", "urals", "zambia"),
        cuts=DOMES,
        colors=((0.006, 0.09, 0.04), (0.03, 0.32, 0.14), (0.2, 0.6, 0.36)),
        texture="malachite",
    ),
    Gem(
        "Lapis Lazuli",
        "Lazurite",
        FACTS["Lapis Lazuli"],
        localities=("afghanistan", "chile"),
        cuts=DOMES,
        colors=((0.005, 0.01, 0.085), (0.012, 0.032, 0.2), (0.6, 0.4, 0.13)),
        texture="lapis",
    ),
    Gem(
        "Cat's Eye Chrysoberyl",
        "Chrysoberyl",
        FACTS["Cat's Eye Chrysoberyl"],
        localities=("sri-lanka", "brazil"),
        cuts=("oval cabochon", "round cabochon", "pear cabochon"),
        colors=((0.3, 0.17, 0.02), (0.22, 0.21, 0.045)),
        texture="catseye",
    ),
    Gem(
        "Painite",
        "Borates",
        FACTS["Painite"],
        localities=("myanmar",),
    ),
)

BY_NAME = {gem.name: gem for gem in GEMS}
