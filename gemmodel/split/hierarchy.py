"""Two-level labels: the primary label of each gem is its mineral class."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gemmodel.core import files
from gemmodel.core.errors import DataError, shortened
from gemmodel.core.image_folder import class_key, class_names

EXAMPLE = "a line of it is like `Ruby: Corundum`"


def read_hierarchy(path: Path) -> dict[str, str]:
    """Returns the mineral classes in a file, by gem.

    Args:
        path: a YAML file with one line per gem: its name, a colon, its mineral class.

    Raises:
        DataError: the file does not exist, is not such a YAML file, or names a gem twice.
    """
    try:
        node = yaml.compose(files.read_text(path))  # keeps the text: No is a name here, not False
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; split.hierarchy names one, an empty one will do") from None
    except yaml.MarkedYAMLError as error:
        line = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        problem = shortened(error.problem or error.context or "")
        raise DataError(f"{line}: not valid YAML: {problem}; {EXAMPLE}") from None
    except (yaml.YAMLError, ValueError) as error:  # such as a character that YAML does not allow
        raise DataError(f"{path}: not valid YAML: {shortened(str(error))}; {EXAMPLE}") from None
    except RecursionError:
        raise DataError(f"{path}: not valid YAML: too many levels; {EXAMPLE}") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}: no gems with their mineral classes; {EXAMPLE}")
    by_gem: dict[str, str] = {}
    listed = set()
    for key, value in node.value:
        line = f"{path}:{key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode) and key.value and value.value):
            raise DataError(f"{line}: a gem needs one mineral class, as in `Ruby: Corundum`")
        if class_key(key.value) in listed:
            raise DataError(f"{line}: {shortened(key.value)} is listed twice; remove one line")
        listed.add(class_key(key.value))
        by_gem[key.value] = value.value
    return by_gem


def mineral_classes(
    gems: Iterable[str], manifest: Iterable[Mapping[str, Any]], defaults: Mapping[str, str]
) -> dict[str, str]:
    """Returns the mineral class of each gem. Names are compared by `class_key`.

    Args:
        gems: their names.
        manifest: lines of the raw or the clean manifest. A gem gets the `mineral_class` that most of its lines have.
        defaults: mineral classes by gem, for gems without one in the manifest. A gem that is not in them either is its
            own mineral class.
    """
    counts: dict[str, Counter[str]] = {}
    for line in manifest:
        if line.get("mineral_class"):
            counts.setdefault(line["gem"], Counter())[line["mineral_class"]] += 1
    by_key = {class_key(gem): mineral for gem, mineral in defaults.items()}
    minerals = {
        gem: counts[gem].most_common(1)[0][0] if gem in counts else by_key.get(class_key(gem), gem) for gem in gems
    }
    spellings = class_names(Counter(minerals.values()))
    return {gem: spellings[mineral] for gem, mineral in minerals.items()}
