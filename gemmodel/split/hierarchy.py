"""Two-level labels: the primary label of each gem, its mineral class."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gemmodel.core.errors import DataError


def read_hierarchy(path: Path) -> dict[str, str]:
    """Returns the mineral classes that a file gives, by gem.

    Args:
        path: YAML, a line a gem: its name, a colon, its mineral class.

    Raises:
        DataError: the file does not exist, is no such YAML, or names a gem twice.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))  # text as it stands: No is a name here, not False
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; split.hierarchy names one, an empty one will do") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid YAML: {error}".replace("\n", " ")) from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}: no gems with their mineral classes; a line of it is like `Ruby: Corundum`")
    found: dict[str, str] = {}
    for key, value in node.value:
        place = f"{path}:{key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode) and key.value and value.value):
            raise DataError(f"{place}: a gem needs one mineral class, as in `Ruby: Corundum`")
        if key.value in found:
            raise DataError(f"{place}: {key.value} stands there twice; remove one line")
        found[key.value] = value.value
    return found


def mineral_classes(
    gems: Iterable[str], manifest: Iterable[Mapping[str, Any]], known: Mapping[str, str]
) -> dict[str, str]:
    """Returns the mineral class of each gem.

    Args:
        gems: their names.
        manifest: lines of the crawl or of cleaning; the `mineral_class` that most of a gem's photos have comes first.
        known: classes by gem, for those without; a gem that stands nowhere is a class of its own.
    """
    told: dict[str, Counter[str]] = {}
    for line in manifest:
        if line.get("mineral_class"):
            told.setdefault(line["gem"], Counter())[line["mineral_class"]] += 1
    return {gem: told[gem].most_common(1)[0][0] if gem in told else known.get(gem, gem) for gem in gems}
