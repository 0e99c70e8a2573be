"""The text of the sample site's pages: true mineral data, and a few lines of prose."""

from collections.abc import Mapping
from dataclasses import dataclass

PROPERTIES = (
    "ChemicalFormula",
    "Color",
    "Hardness",
    "CrystalSystem",
    "RefractiveIndex",
    "SG",
    "Transparency",
    "DoubleRefraction",
    "Luster",
    "Cleavage",
    "MineralClass",
)


@dataclass(frozen=True)
class Facts:
    """The text of a gem's page.

    Attributes:
        properties: Values by the names in PROPERTIES.
        about: A line about the gem.
        uses: A line about its uses.
        source: A line about its places of origin.
    """

    properties: Mapping[str, str]
    about: str
    uses: str
    source: str


def _facts(*values: str, about: str, uses: str, source: str) -> Facts:
    return Facts(dict(zip(PROPERTIES, values, strict=True)), about, uses, source)


FACTS = {
    "Ruby": _facts(
        *("Al2O3", "Red, deep red, pinkish-red, purplish-red", "9", "Hexagonal", "1.76 - 1.77", "3.9 - 4.1"),
        *("Transparent to opaque", "0.008", "Vitreous", "None", "Corundum"),
        about="Ruby is the red variety of corundum; traces of chromium give it its colour.",
        uses="Rings, necklaces and bracelets; synthetic rubies serve as watch bearings and in lasers.",
        source="The finest stones come from Mogok in Myanmar; Mozambique, Thailand and Sri Lanka yield many more.",
    ),
    "Sapphire": _facts(
        *("Al2O3", "Blue; any colour but red", "9", "Hexagonal", "1.76 - 1.77", "3.9 - 4.1"),
        *("Transparent to opaque", "0.008", "Vitreous", "None", "Corundum"),
        about="Sapphire is corundum of any colour but red; iron and titanium make the blue that is best known.",
        uses="Rings and pendants; colourless synthetic sapphire covers watches and camera lenses.",
        source="Kashmir, Sri Lanka, Madagascar, Myanmar and Montana are known for their sapphires.",
    ),
    "Star Sapphire": _facts(
        *("Al2O3", "Blue, gray, black", "9", "Hexagonal", "1.76 - 1.77", "3.9 - 4.1"),
        *("Translucent to opaque", "0.008", "Vitreous", "None", "Corundum"),
        about="Needles of rutile in three directions reflect light from a domed stone as a star of six rays.",
        uses="Always cut as a cabochon with the star in its middle, for rings and cufflinks.",
        source="Sri Lanka, Myanmar and Madagascar; black stars come from Thailand and Australia.",
    ),
    "Almandine": _facts(
        *("Fe3Al2Si3O12", "Dark red, brownish-red, purplish-red", "6.5 - 7.5", "Isometric", "1.77 - 1.82"),
        *("3.95 - 4.3", "Transparent to opaque", "None", "Vitreous", "None", "Garnet"),
        about="Almandine is the most common garnet; iron gives it a deep red that can be almost black.",
        uses="Faceted or domed in affordable jewellery; crushed as an abrasive.",
        source="India, Sri Lanka, Brazil, Tanzania and Idaho have large deposits.",
    ),
    "Spinel": _facts(
        *("MgAl2O4", "Red, pink, blue, purple, black", "7.5 - 8", "Isometric", "1.71 - 1.73", "3.5 - 4.1"),
        *("Transparent to opaque", "None", "Vitreous", "None", "Spinel"),
        about="Red spinel was long taken for ruby: the Black Prince's Ruby in the British crown is a spinel.",
        uses="Rings and earrings, most of all the red stones.",
        source="Mogok in Myanmar, Mahenge in Tanzania, Sri Lanka and Vietnam.",
    ),
    "Tanzanite": _facts(
        *("Ca2Al3Si3O12(OH)", "Blue, violet, purple", "6.5 - 7", "Orthorhombic", "1.69 - 1.70", "3.1 - 3.4"),
        *("Transparent", "0.006 - 0.018", "Vitreous", "Perfect in one direction", "Zoisite"),
        about="Tanzanite is blue to violet zoisite, first found in 1967; seen from another side it changes its colour.",
        uses="Rings and pendants that are worn with care, for it is soft and cleaves.",
        source="The Merelani Hills near Arusha in Tanzania are its only source.",
    ),
    "Emerald": _facts(
        *("Be3Al2Si6O18", "Green, bluish-green", "7.5 - 8", "Hexagonal", "1.57 - 1.58", "2.6 - 2.8"),
        *("Transparent to translucent", "0.005 - 0.009", "Vitreous", "Indistinct", "Beryl"),
        about="Emerald is beryl made green by chromium or vanadium; its inclusions are called its garden, jardin.",
        uses="Rings and necklaces; the emerald cut was invented to protect its corners.",
        source="Colombia is the classic source; Zambia and Brazil follow.",
    ),
    "Aquamarine": _facts(
        *("Be3Al2Si6O18", "Light blue, greenish-blue", "7.5 - 8", "Hexagonal", "1.57 - 1.58", "2.6 - 2.8"),
        *("Transparent to translucent", "0.005 - 0.009", "Vitreous", "Indistinct", "Beryl"),
        about="Aquamarine is light blue beryl, coloured by iron, and often free of inclusions.",
        uses="Cut in every shape, often large, for rings and pendants.",
        source="Minas Gerais in Brazil, Pakistan, Nigeria and Madagascar.",
    ),
    "Amethyst": _facts(
        *("SiO2", "Purple, violet", "7", "Hexagonal", "1.54 - 1.55", "2.63 - 2.65"),
        *("Transparent to translucent", "0.009", "Vitreous", "Indiscernible", "Quartz"),
        about="Amethyst is purple quartz; iron and natural radiation colour it.",
        uses="Faceted stones, beads and cut geodes.",
        source="Brazil, Uruguay and Zambia supply most of it.",
    ),
    "Citrine": _facts(
        *("SiO2", "Yellow, orange, brownish-orange", "7", "Hexagonal", "1.54 - 1.55", "2.63 - 2.65"),
        *("Transparent to translucent", "0.009", "Vitreous", "Indiscernible", "Quartz"),
        about="Citrine is yellow to orange quartz; most of what is sold is heated amethyst.",
        uses="An inexpensive stone for large rings, brooches and beads.",
        source="Brazil is the main source; Bolivia and Madagascar yield natural stones.",
    ),
    "Tiger's Eye": _facts(
        *("SiO2", "Golden-brown, reddish-brown, with bands", "7", "Hexagonal", "1.54 - 1.55", "2.64 - 2.71"),
        *("Opaque", "0.009", "Silky", "Indiscernible", "Quartz"),
        about="In tiger's eye quartz has replaced fibres of crocidolite, whose silk shimmers in moving bands.",
        uses="Cabochons, beads and carvings.",
        source="Northern Cape in South Africa and Western Australia.",
    ),
    "Peridot": _facts(
        *("(Mg,Fe)2SiO4", "Olive-green, yellow-green, lime-green", "6.5 - 7", "Orthorhombic", "1.64 - 1.70"),
        *("3.2 - 4.3", "Transparent to translucent", "0.036", "Vitreous", "Indistinct", "Olivine"),
        about="Peridot is gem olivine; iron, part of its own formula, makes it green.",
        uses="Rings, earrings and beads.",
        source="San Carlos in Arizona, Pakistan, China and Zabargad, an island in the Red Sea.",
    ),
    "Diamond": _facts(
        *("C", "Colorless, white, yellow, brown", "10", "Isometric", "2.417 - 2.419", "3.50 - 3.53"),
        *("Transparent to opaque", "None", "Adamantine", "Perfect in all directions", "Diamond"),
        about="Diamond is carbon, the hardest mineral; its strong dispersion splits light into flashes of colour.",
        uses="Engagement rings above all; small and poor stones cut, grind and drill.",
        source="Russia, Botswana, Canada, Congo and South Africa.",
    ),
    "Watermelon Tourmaline": _facts(
        *("Na(Li,Al)3Al6Si6O18(BO3)3(OH)4", "Green and pink", "7 - 7.5", "Hexagonal", "1.62 - 1.64"),
        *("2.9 - 3.3", "Transparent to translucent", "0.018", "Vitreous", "Indiscernible", "Tourmaline"),
        about="The crystal took up manganese, then iron and chromium, as it grew: one stone is pink and green.",
        uses="Cut so that both colours show, or sliced across the crystal.",
        source="Minas Gerais in Brazil, Afghanistan, Nigeria and Maine.",
    ),
    "Turquoise": _facts(
        *("CuAl6(PO4)4(OH)8·4H2O", "Sky-blue, greenish-blue, green", "5 - 6", "Triclinic", "1.61 - 1.65"),
        *("2.6 - 2.8", "Opaque", "0.04", "Waxy", "None", "Turquoise"),
        about="Turquoise is coloured by copper; the brown veins of its mother rock are called matrix.",
        uses="Cabochons, beads and inlay, in the southwest of the United States as in Iran.",
        source="Nishapur in Iran, Arizona, Nevada and Hubei in China.",
    ),
    "Malachite": _facts(
        *("Cu2CO3(OH)2", "Banded light and dark green", "3.5 - 4", "Monoclinic", "1.66 - 1.91", "3.9 - 4.0"),
        *("Opaque", "0.254", "Vitreous, silky, dull", "Perfect in one direction", "Malachite"),
        about="Malachite grows in layers of lighter and darker green; polished across, they show as bands.",
        uses="Cabochons, beads, boxes, and whole columns in Saint Petersburg.",
        source="The Congo is the main source; the old Russian mines in the Urals are spent.",
    ),
    "Lapis Lazuli": _facts(
        *("(Na,Ca)8(AlSiO4)6(SO4,S,Cl)2", "Deep blue, with gold and white", "5 - 5.5", "Isometric", "1.50"),
        *("2.4 - 2.9", "Opaque", "None", "Vitreous, greasy", "Poor", "Lazurite"),
        about="Lapis lazuli is a rock of blue lazurite with white calcite and flecks of golden pyrite.",
        uses="Cabochons, beads, inlay and carvings; once ground as the pigment ultramarine.",
        source="Badakhshan in Afghanistan has been mined for six thousand years; also Chile and Lake Baikal.",
    ),
    "Cat's Eye Chrysoberyl": _facts(
        *("BeAl2O4", "Honey-yellow, greenish-yellow, brown", "8.5", "Orthorhombic", "1.74 - 1.76"),
        *("3.5 - 3.8", "Translucent", "0.009", "Vitreous", "Distinct in one direction", "Chrysoberyl"),
        about="Fine parallel needles draw a sharp band of light over the dome, which moves as the stone is turned.",
        uses="Cabochons for rings; the best show a side the colour of honey and one the colour of milk.",
        source="Sri Lanka, Brazil and India.",
    ),
    "Painite": _facts(
        *("CaZrAl9O15(BO3)", "Brownish-red, orange-red", "8", "Hexagonal", "1.79 - 1.82", "4.0 - 4.1"),
        *("Transparent", "0.029", "Vitreous", "None", "Borates"),
        about="Painite was long the rarest of minerals: for decades only three crystals were known.",
        uses="A stone for collectors.",
        source="Mogok and Kachin State in Myanmar.",
    ),
}
